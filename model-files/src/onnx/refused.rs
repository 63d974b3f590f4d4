//! Why a node or a tensor cannot be read.

/// Why a node or a tensor cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It can never be right.
    Invalid(String),
    /// It is meaningful, but not supported.
    Unsupported(String),
    /// It depends on a node that is refused already.
    Silent,
}

impl Refused {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(message.into())
    }
}
