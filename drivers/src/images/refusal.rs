//! Why bytes are not taken in as an image.

/// A reason for programs (`code`) and one for people (`why`), which names the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub why: String,
}

impl Refusal {
    pub fn new(code: &'static str, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    /// A qcow2 header that cannot be right.
    pub fn header(what: impl std::fmt::Display) -> Self {
        Self::new(
            "image_header_invalid",
            format!("the file says it is qcow2, but {what}; try `qemu-img check FILE`, or download it again"),
        )
    }
}
