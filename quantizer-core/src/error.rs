//! What can be wrong with a quantity or a layer.

use std::fmt;

/// A quantity that has no meaning, or a layer that cannot be quantized with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NumericsError {
    /// A bit width outside 1..=32, or a signed one of 1.
    BitWidth {
        /// The refused width.
        bits: u8,
    },
    /// A number of value bits outside 1..=48.
    ValueBits {
        /// The refused number.
        bits: u8,
    },
    /// A promotion to fewer bits than the tensor has.
    Promote {
        /// Value bits of the tensor.
        from: u8,
        /// Value bits asked for.
        to: u8,
    },
    /// A left shift as large as the target width: nothing of the value could be left.
    Shift {
        /// The shift in bits.
        shift: i32,
        /// Value bits of the target.
        value_bits: u8,
    },
    /// An output quantizer that is not narrower than what it receives.
    Pointless {
        /// Value bits of its input.
        from: u8,
        /// Value bits of its output.
        to: u8,
    },
    /// A range, weight or scale that is NaN, infinite, or negative where it cannot be.
    NotFinite {
        /// What it is, with its value.
        what: String,
    },
    /// Operands that cannot meet: formats, shapes or numbers of channels.
    Invalid(String),
    /// Meaningful, but not implemented here.
    Unsupported(String),
}

impl fmt::Display for NumericsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BitWidth { bits } => {
                write!(
                    f,
                    "a bit width of {bits}; widths are 1 to 32, signed ones from 2"
                )
            }
            Self::ValueBits { bits } => write!(f, "{bits} value bits; legal are 1 to 48"),
            Self::Promote { from, to } => {
                write!(
                    f,
                    "its input has {from} value bits, more than the {to} of its buffer"
                )
            }
            Self::Shift { shift, value_bits } => {
                write!(
                    f,
                    "a left shift by {shift} leaves nothing of {value_bits} value bits"
                )
            }
            Self::Pointless { from, to } => write!(
                f,
                "an output quantizer to {to} value bits is pointless after {from} value bits"
            ),
            Self::NotFinite { what } => write!(f, "{what} is not a finite number in range"),
            Self::Invalid(message) => f.write_str(message),
            Self::Unsupported(message) => write!(f, "not supported: {message}"),
        }
    }
}

impl std::error::Error for NumericsError {}
