//! Does the runtime that openraft gets keep openraft's rules, in virtual time?

use heddle_meta::raft::LocalRuntime;
use heddle_sim::SimHost;
use openraft::testing::runtime::Suite;

#[test]
fn the_runtime_passes_openrafts_suite_in_virtual_time() {
    Suite::<LocalRuntime<SimHost>>::test_all();
}
