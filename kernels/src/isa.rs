//! The instruction sets of the kernels, and the value that proves that the CPU has one.

use std::sync::OnceLock;

/// Name of the environment variable that chooses the instruction set: `portable`, `avx2`, `avx512` or
/// `vnni`.
///
/// Read once, at the first use. An unknown name, or a set that this CPU lacks, is ignored:
/// [`Isa::check_variable`] finds it.
pub const ISA_VARIABLE: &str = "BITPROOF_ISA";

/// An instruction set that the kernels are compiled for. Results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The target's baseline; runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and POPCNT.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX-512 as above and VNNI.
    Vnni,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Vnni];

    /// Returns the instruction sets of this CPU, slowest first. [`Isa::Portable`] is always the first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.detected())
    }

    /// Returns the instruction set in use: the one that [`ISA_VARIABLE`] names if this CPU has it, else the fastest.
    #[must_use]
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let forced = std::env::var(ISA_VARIABLE).ok();
            choose(forced.as_deref(), Self::available())
        })
    }

    /// Checks that [`ISA_VARIABLE`], if it is set, names an instruction set of this CPU.
    ///
    /// # Errors
    ///
    /// It does not; the error is a message with the names that it can take.
    pub fn check_variable() -> Result<(), String> {
        let value = std::env::var_os(ISA_VARIABLE).unwrap_or_default();
        let names: Vec<&str> = Self::available().map(Self::name).collect();
        if value.is_empty() || names.iter().any(|name| value == *name) {
            return Ok(());
        }
        Err(format!(
            "{ISA_VARIABLE}={}: this CPU has {}",
            value.display(),
            names.join(", ")
        ))
    }

    /// Returns the name that [`ISA_VARIABLE`] takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detected(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("popcnt")
            }
            Self::Avx512 => {
                Self::Avx2.detected()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Vnni => Self::Avx512.detected() && is_x86_feature_detected!("avx512vnni"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detected(self) -> bool {
        self == Self::Portable
    }
}

fn choose(forced: Option<&str>, available: impl Iterator<Item = Isa>) -> Isa {
    let mut best = Isa::Portable;
    for isa in available {
        if Some(isa.name()) == forced {
            return isa;
        }
        best = best.max(isa);
    }
    best
}

/// The kernels of one instruction set, which this CPU has.
///
/// Results do not depend on the instruction set; choose one other than [`Kernels::active`] in tests only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    // Invariant: detected on this CPU.
    isa: Isa,
}

impl Kernels {
    /// Returns the kernels of `isa`, or `None` if this CPU lacks it.
    #[must_use]
    pub fn new(isa: Isa) -> Option<Self> {
        isa.detected().then_some(Self { isa })
    }

    /// Returns the kernels of [`Isa::active`].
    #[must_use]
    pub fn active() -> Self {
        Self { isa: Isa::active() }
    }

    /// Returns the kernels of each instruction set of this CPU, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Isa::available().map(|isa| Self { isa })
    }

    /// Returns the instruction set.
    #[must_use]
    pub const fn isa(self) -> Isa {
        self.isa
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_set_is_chosen_if_present_and_else_ignored() {
        let two = [Isa::Portable, Isa::Avx2];
        let cases = [
            (None, Isa::Avx2),
            (Some("portable"), Isa::Portable),
            (Some("avx2"), Isa::Avx2),
            (Some("avx512"), Isa::Avx2),
            (Some("AVX2"), Isa::Avx2),
            (Some(""), Isa::Avx2),
        ];
        for (forced, expected) in cases {
            assert_eq!(
                choose(forced, two.into_iter()),
                expected,
                "forced {forced:?}"
            );
        }
    }

    #[test]
    fn only_detected_sets_have_kernels() {
        for isa in Isa::ALL {
            assert_eq!(
                Kernels::new(isa).is_some(),
                Isa::available().any(|a| a == isa),
                "{isa:?}"
            );
        }
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
    }
}
