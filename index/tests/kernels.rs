//! Does a limit on the kernels hold for every index of the process? One test, because the limit is
//! the process's.

use heddle_index::{
    Codes, IndexParams, KERNELS_AUTO, KernelsError, Metric, VectorWriter, check_kernels,
    kernel_names, limit_kernels,
};

#[test]
fn a_limit_holds_for_floats_and_codes_and_cannot_be_changed() {
    let names = kernel_names();
    let unknown = limit_kernels("best").unwrap_err();
    assert!(matches!(unknown, KernelsError::Unknown { .. }), "{unknown}");
    // A refusal decides nothing.
    limit_kernels("portable").unwrap();
    for codes in [Codes::None, Codes::FourBit] {
        let params = IndexParams { codes, ..IndexParams::new(128, Metric::L2Squared) };
        let writer = VectorWriter::new(params).unwrap();
        assert_eq!(writer.view().stats().kernel, "portable", "{codes:?}");
    }
    limit_kernels("portable").unwrap();
    for name in [KERNELS_AUTO, names[0]] {
        check_kernels(name).unwrap();
        if name != "portable" {
            let late = limit_kernels(name).unwrap_err();
            assert!(matches!(late, KernelsError::Decided { chosen: "portable", .. }), "{late}");
        }
    }
}
