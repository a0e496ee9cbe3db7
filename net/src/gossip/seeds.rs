//! The names that gossip reaches out to, and the addresses they have now.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use heddle_runtime::timeout;

use super::changes::Changes;
use crate::resolve::resolve;

/// Pause between two look-ups of all names.
const PERIOD: Duration = Duration::from_secs(30);
/// And while there are no members: names of nodes that start together appear one by one.
const PERIOD_ALONE: Duration = Duration::from_secs(2);
/// Addresses that are kept in all, in the order of names and resolvers.
const ADDRESSES_MAX: usize = 256;

/// Names with their last known addresses.
pub(super) struct Seeds {
    join: Vec<String>,
    known: RefCell<Vec<String>>,
    /// Addresses of another family than this one cannot be sent to.
    local: SocketAddr,
    /// None for a name that had no address when it was last looked up.
    found: RefCell<BTreeMap<String, Option<Vec<SocketAddr>>>>,
    changes: Changes,
}

impl Seeds {
    pub(super) fn new(join: Vec<String>, local: SocketAddr) -> Self {
        Self {
            join,
            known: RefCell::default(),
            local,
            found: RefCell::default(),
            changes: Changes::default(),
        }
    }

    /// Grows when names were added.
    pub(super) fn version(&self) -> u64 {
        self.changes.version()
    }

    pub(super) fn set_known(&self, names: Vec<String>) {
        if *self.known.borrow() != names {
            *self.known.borrow_mut() = names;
            self.changes.note();
        }
    }

    fn names(&self) -> BTreeSet<String> {
        self.join.iter().cloned().chain(self.known.borrow().iter().cloned()).collect()
    }

    /// Looks every name up. One that cannot be looked up keeps what it had: a name service that is
    /// down must not make the node forget where the others are.
    ///
    /// Dropping the future keeps what was found by then.
    pub(super) async fn refresh(&self) {
        let names = self.names();
        self.found.borrow_mut().retain(|name, _| names.contains(name));
        for name in names {
            let outcome = resolve(&name).await;
            let mut found = self.found.borrow_mut();
            match outcome {
                Ok(mut addresses) => {
                    addresses.retain(|address| address.is_ipv6() == self.local.is_ipv6());
                    if found.get(&name).is_some_and(Option::is_none) {
                        tracing::info!(name, ?addresses, "a name to join has addresses now");
                    }
                    found.insert(name, Some(addresses));
                }
                Err(error) => {
                    found.entry(name).or_insert_with(|| {
                        tracing::warn!(%error, "a name to join has no address: looked up again");
                        None
                    });
                }
            }
        }
    }

    /// The addresses found last.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let found = self.found.borrow();
        let addresses = found.values().flatten().flatten().copied();
        let distinct: BTreeSet<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
        distinct.into_iter().collect()
    }

    /// Waits until the names are to be looked up again, given the version before the last time.
    pub(super) async fn until_due(&self, seen: u64, is_alone: bool) {
        let period = if is_alone { PERIOD_ALONE } else { PERIOD };
        let _ = timeout(period, self.changes.after(seen)).await;
    }
}

#[cfg(test)]
mod tests {
    use heddle_runtime::run_single;

    use super::*;

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    #[test]
    fn every_address_of_the_family_is_found_once_and_known_ones_are_replaced() {
        run_single(async {
            let join = ["127.0.0.2:7", "127.0.0.3:7", "127.0.0.2:7", "[::1]:7"];
            let seeds = Seeds::new(join.map(str::to_owned).to_vec(), local());
            seeds.refresh().await;
            let show = || seeds.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>();
            assert_eq!(show(), ["127.0.0.2:7", "127.0.0.3:7"]);
            let seen = seeds.version();
            seeds.set_known(vec!["127.0.0.4:8".to_owned()]);
            seeds.until_due(seen, false).await;
            seeds.refresh().await;
            assert_eq!(show(), ["127.0.0.2:7", "127.0.0.3:7", "127.0.0.4:8"]);
            seeds.set_known(Vec::new());
            seeds.refresh().await;
            assert_eq!(show(), ["127.0.0.2:7", "127.0.0.3:7"]);
        })
        .unwrap();
    }

    #[test]
    fn a_name_that_is_not_found_harms_no_other_and_keeps_what_it_had() {
        run_single(async {
            let join = ["no-such-host.invalid:7", "127.0.0.3:7"];
            let seeds = Seeds::new(join.map(str::to_owned).to_vec(), local());
            seeds.refresh().await;
            assert_eq!(seeds.addresses().len(), 1);
            let before = vec![SocketAddr::from(([127, 0, 0, 9], 7))];
            seeds.found.borrow_mut().insert(join[0].to_owned(), Some(before.clone()));
            seeds.refresh().await;
            assert!(seeds.addresses().contains(&before[0]));
        })
        .unwrap();
    }
}
