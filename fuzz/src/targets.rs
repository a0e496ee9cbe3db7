//! The decoders that are attacked, one file each.

pub mod filter;
pub mod json;
pub mod row;

/// A decoder with inputs to start from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Decodes the bytes and checks what can be checked of the result; panics on a fault.
    pub run: fn(&[u8]),
    /// Valid encodings, one per shape that a mutation would hardly reach by itself.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const ALL: [Target; 3] = [
    Target { name: "row", run: row::run, seeds: row::seeds },
    Target { name: "filter", run: filter::run, seeds: filter::seeds },
    Target { name: "json", run: json::run, seeds: json::seeds },
];

#[cfg(test)]
mod tests {
    use crate::session::Session;

    use super::*;

    #[test]
    fn every_target_survives_its_seeds_and_a_thousand_mutations() {
        for target in &ALL {
            let mut session = Session::new(target, 1, Vec::new());
            for _ in 0..1_000 {
                session.advance();
                assert_eq!(session.execute(|| 0), Ok(()), "{}", target.name);
            }
        }
    }

    #[test]
    fn every_target_has_seeds_and_a_name_of_its_own() {
        for (index, target) in ALL.iter().enumerate() {
            assert!(!(target.seeds)().is_empty(), "{}", target.name);
            assert!(ALL[..index].iter().all(|other| other.name != target.name));
        }
    }
}
