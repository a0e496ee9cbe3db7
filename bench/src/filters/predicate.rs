//! The filters of a data set, by the names under which its `filters.json` lists them.
//!
//! A name is one or more clauses joined by `&`: `key=text`, `key=number`, `key<number`,
//! `key<=number`, `key>number`, `key>=number`, or `key_low_high` for a range with both ends in it.
//! A row without the key does not pass.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use heddle_index::SlotBitmap;
use serde_json::{Map, Value};

use crate::index::Failure;

/// What must hold for a row to pass.
#[derive(Debug, PartialEq)]
pub(super) struct Predicate {
    clauses: Vec<Clause>,
}

#[derive(Debug, PartialEq)]
struct Clause {
    key: String,
    test: Test,
}

#[derive(Debug, PartialEq)]
enum Test {
    Text(String),
    /// From the first number to the second, both included.
    Range(f64, f64),
}

impl Predicate {
    /// Reads a name.
    pub(super) fn parse(name: &str) -> Result<Self, Failure> {
        let clauses: Option<Vec<Clause>> = name.split('&').map(Clause::parse).collect();
        let clauses = clauses.ok_or_else(|| format!("`{name}` is no filter that can be read"))?;
        Ok(Self { clauses })
    }

    fn passes(&self, row: &Map<String, Value>) -> bool {
        self.clauses.iter().all(|clause| clause.passes(row))
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        for operator in [">=", "<=", "=", "<", ">"] {
            let Some((key, value)) = text.split_once(operator) else { continue };
            let number = value.parse::<f64>();
            let test = match (operator, number) {
                ("=", Err(_)) => Test::Text(value.to_owned()),
                (_, Err(_)) => return None,
                ("=", Ok(number)) => Test::Range(number, number),
                ("<", Ok(number)) => Test::Range(f64::NEG_INFINITY, number.next_down()),
                (">", Ok(number)) => Test::Range(number.next_up(), f64::INFINITY),
                ("<=", Ok(number)) => Test::Range(f64::NEG_INFINITY, number),
                (_, Ok(number)) => Test::Range(number, f64::INFINITY),
            };
            return Some(Self { key: key.to_owned(), test });
        }
        let (rest, high) = text.rsplit_once('_')?;
        let (key, low) = rest.rsplit_once('_')?;
        let test = Test::Range(low.parse().ok()?, high.parse().ok()?);
        Some(Self { key: key.to_owned(), test })
    }

    fn passes(&self, row: &Map<String, Value>) -> bool {
        match (row.get(&self.key), &self.test) {
            (Some(Value::String(found)), Test::Text(wanted)) => found == wanted,
            (Some(Value::Number(found)), Test::Range(low, high)) => {
                found.as_f64().is_some_and(|found| (*low..=*high).contains(&found))
            }
            _ => false,
        }
    }
}

/// Evaluates predicates over a file of rows, one JSON object a line, packed when its name ends in
/// `.gz`. Row `n` is slot `n`.
pub(super) fn evaluate(
    rows: &Path,
    predicates: &[Predicate],
    limit: usize,
) -> Result<Vec<SlotBitmap>, Failure> {
    let file = File::open(rows).map_err(|error| format!("{}: {error}", rows.display()))?;
    let packed = rows.extension().is_some_and(|extension| extension == "gz");
    let lines: Box<dyn BufRead> = if packed {
        Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file))))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut sets = vec![SlotBitmap::new(); predicates.len()];
    for (slot, line) in (0u32..).zip(lines.lines()).take(limit) {
        let row: Map<String, Value> = serde_json::from_str(&line?)?;
        for (set, predicate) in sets.iter_mut().zip(predicates) {
            if predicate.passes(&row) {
                set.insert(slot);
            }
        }
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_form_of_a_name_passes_what_it_says() {
        let rows = [
            row(r#"{"source": "commit", "year": 2022, "rnd": 9}"#),
            row(r#"{"source": "pep", "year": 2010, "rnd": 10}"#),
            row(r#"{"source": "commit", "rnd": 500}"#),
        ];
        let cases: [(&str, [bool; 3]); 8] = [
            ("source=commit", [true, false, true]),
            ("rnd<10", [true, false, false]),
            ("rnd<=10", [true, true, false]),
            ("rnd>10", [false, false, true]),
            ("year>=2020", [true, false, false]),
            ("year_2010_2014", [false, true, false]),
            ("year=2022", [true, false, false]),
            ("source=commit&year>=2022", [true, false, false]),
        ];
        for (name, expected) in cases {
            let predicate = Predicate::parse(name).unwrap();
            let found: Vec<bool> = rows.iter().map(|row| predicate.passes(row)).collect();
            assert_eq!(found, expected, "{name}");
        }
        for bad in ["", "source", "rnd<ten", "year_2010"] {
            assert!(Predicate::parse(bad).is_err(), "{bad}");
        }
    }
}
