//! QuantizationParams: the values that hold for the whole model.

use std::fmt;
use std::ops::RangeInclusive;

/// Type of quantized inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputDtype {
    /// Unsigned 8-bit integers.
    #[default]
    UInt8,
    /// Signed 8-bit integers.
    Int8,
    /// Signed 16-bit integers.
    Int16,
}

impl InputDtype {
    /// Returns the type of a NumPy name, `None` if it is not one of the three.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::UInt8, Self::Int8, Self::Int16]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    /// Returns the NumPy name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UInt8 => "uint8",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
        }
    }

    /// Returns the width in bits, the sign included.
    #[must_use]
    pub const fn bitwidth(self) -> u8 {
        match self {
            Self::UInt8 | Self::Int8 => 8,
            Self::Int16 => 16,
        }
    }

    /// Returns whether the type has a sign.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Int8 | Self::Int16)
    }
}

/// The fields of [`QuantizationParams`], not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamValues {
    /// Bits of the output quantizers of activations, 1 to 16.
    pub activation_bits: u8,
    /// Whether every output quantizer has one range for its tensor.
    pub per_tensor_activations: bool,
    /// Bits of weights, 2 to 16.
    pub weight_bits: u8,
    /// Bits of the other output quantizers, 2 to 16.
    pub output_bits: u8,
    /// Bits of the weights of the first layer, 2 to 16.
    pub input_weight_bits: u8,
    /// Type of quantized inputs.
    pub input_dtype: InputDtype,
    /// Bits of the buffers, 12 to 32 and more than every other width.
    pub buffer_bits: u8,
    /// Bits of the model's outputs, 2 to 16; `None` leaves them as they are.
    pub last_output_bits: Option<u8>,
}

impl Default for ParamValues {
    fn default() -> Self {
        Self {
            activation_bits: 8,
            per_tensor_activations: false,
            weight_bits: 8,
            output_bits: 8,
            input_weight_bits: 8,
            input_dtype: InputDtype::UInt8,
            buffer_bits: 32,
            last_output_bits: None,
        }
    }
}

/// Quantization of a whole model; every value is in its legal range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantizationParams(ParamValues); // Invariant: checked by `TryFrom<ParamValues>`.

impl QuantizationParams {
    /// Returns the values.
    #[must_use]
    pub const fn values(&self) -> &ParamValues {
        &self.0
    }
}

impl TryFrom<ParamValues> for QuantizationParams {
    type Error = ParamsError;

    fn try_from(values: ParamValues) -> Result<Self, ParamsError> {
        let last = values
            .last_output_bits
            .map(|bits| ("last_output_bits", bits, 2..=16));
        let fields: Vec<(&'static str, u8, RangeInclusive<u8>)> = [
            ("activation_bits", values.activation_bits, 1..=16),
            ("weight_bits", values.weight_bits, 2..=16),
            ("output_bits", values.output_bits, 2..=16),
            ("input_weight_bits", values.input_weight_bits, 2..=16),
            ("buffer_bits", values.buffer_bits, 12..=32),
        ]
        .into_iter()
        .chain(last)
        .collect();
        let mut issues: Vec<String> = fields
            .iter()
            .filter(|(_, value, legal)| !legal.contains(value))
            .map(|(name, value, legal)| {
                format!(
                    "{name} is {value}; legal are {} to {}",
                    legal.start(),
                    legal.end()
                )
            })
            .collect();
        for (name, value, _) in fields.iter().filter(|(name, ..)| *name != "buffer_bits") {
            if *value >= values.buffer_bits {
                let buffer = values.buffer_bits;
                issues.push(format!(
                    "{name} is {value}, not below the buffer_bits of {buffer}"
                ));
            }
        }
        if issues.is_empty() {
            Ok(Self(values))
        } else {
            Err(ParamsError { issues })
        }
    }
}

/// Parameters outside their legal ranges: all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamsError {
    /// One message each: field, value, legal range.
    pub issues: Vec<String>,
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.issues.join("\n"))
    }
}

impl std::error::Error for ParamsError {}
