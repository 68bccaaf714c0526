//! Golden files: what a pure builder gives is compared with what was recorded and reviewed.

/// Compares with `tests/golden/<name>`; `REWRITE=1` records instead.
pub(crate) fn check(name: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, found).expect("the golden file is written");
    }
    let recorded = std::fs::read_to_string(&path).expect("the golden file is there; REWRITE=1 records it");
    assert!(recorded == found, "{name} differs; REWRITE=1 records the new one:\n{found}");
}
