//! Does the runtime that openraft gets keep its rules on glommio?

use heddle_net::raft_host::GlommioRuntime;
use openraft::testing::runtime;

#[test]
fn the_runtime_passes_openrafts_suite_on_a_core() {
    runtime::Suite::<GlommioRuntime>::test_all();
}
