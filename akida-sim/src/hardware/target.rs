//! What a model is checked for.

use std::fmt;

/// Which generation of Akida a model is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Akida 1.0.
    V1,
    /// Akida 2.0.
    V2,
}

impl Generation {
    /// Returns the name that rules have for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// What a model is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Conversion to Akida 1.0 layers, whatever the device.
    ConversionV1,
    /// Conversion to Akida 2.0 layers, whatever the device.
    ConversionV2,
    /// The first chip, of generation 1.0.
    Akd1000,
    /// The co-processor of generation 1.0.
    Akd1500,
    /// IP of generation 2.0: the generic limits.
    Akida2,
    /// IP of generation 2.0 with two nodes, on an FPGA.
    Akida2TwoNodes,
    /// IP of generation 2.0 with six nodes, on an FPGA.
    Akida2SixNodes,
}

impl Target {
    /// Every target, conversions first.
    pub const ALL: [Self; 7] = [
        Self::ConversionV1,
        Self::ConversionV2,
        Self::Akd1000,
        Self::Akd1500,
        Self::Akida2,
        Self::Akida2TwoNodes,
        Self::Akida2SixNodes,
    ];

    /// Returns the name, such as `akd1000`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConversionV1 => "conversion-v1",
            Self::ConversionV2 => "conversion-v2",
            Self::Akd1000 => "akd1000",
            Self::Akd1500 => "akd1500",
            Self::Akida2 => "akida2",
            Self::Akida2TwoNodes => "akida2-2n",
            Self::Akida2SixNodes => "akida2-6n",
        }
    }

    /// Returns the generation.
    #[must_use]
    pub const fn generation(self) -> Generation {
        match self {
            Self::ConversionV1 | Self::Akd1000 | Self::Akd1500 => Generation::V1,
            Self::ConversionV2 | Self::Akida2 | Self::Akida2TwoNodes | Self::Akida2SixNodes => {
                Generation::V2
            }
        }
    }

    /// Returns the neural processors, where their number is known.
    pub(super) const fn processors(self) -> Option<i64> {
        match self {
            Self::Akd1000 => Some(80),
            Self::Akd1500 => Some(32),
            Self::Akida2TwoNodes => Some(8),
            Self::Akida2SixNodes => Some(24),
            Self::ConversionV1 | Self::ConversionV2 | Self::Akida2 => None,
        }
    }

    /// Returns whether rules for `named` concern this target.
    pub(super) fn is_meant_by(self, named: &str) -> bool {
        let is_device = !matches!(self, Self::ConversionV1 | Self::ConversionV2);
        let generation = self.generation();
        match named {
            "conversion" => true,
            "akida1" => is_device && generation == Generation::V1,
            "akida2" => is_device && generation == Generation::V2,
            // What only such files need is said where conversion itself is asked for.
            "legacy" => self == Self::ConversionV1,
            "onnx" => self == Self::ConversionV2,
            named => named == generation.name() || named == self.name(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
