//! The most that this CPU multiplies and adds with one instruction: what benches hold kernels against.
//!
//! A loop takes factors from registers and adds to twelve sums that do not wait for one another: as many as hide the
//! latency of two instructions a cycle, and as 16 vector registers leave room for. A kernel also loads and stores, so
//! it stays below.
//!
//! Every factor is one, so what the sums come to is the number of products: the count is computed, not assumed.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::Kernels;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// Bytes, summed in an `i32`.
    Bytes,
    /// 16-bit words, summed in an `i32`.
    Words,
    /// `f32`, fused.
    Floats,
}

/// A loop of one instruction, which this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    // Invariant: detected on this CPU.
    instruction: Instruction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    #[cfg(target_arch = "x86_64")]
    Dpbusd,
    #[cfg(target_arch = "x86_64")]
    Dpwssd,
    #[cfg(target_arch = "x86_64")]
    Madd512,
    #[cfg(target_arch = "x86_64")]
    Madd256,
    #[cfg(target_arch = "x86_64")]
    Fma512,
    #[cfg(target_arch = "x86_64")]
    Fma256,
}

impl Kernels {
    /// Returns the loop of the instruction that bounds exact products with these kernels, or `None` for
    /// [`Isa::Portable`](crate::Isa::Portable), whose instructions the compiler chooses.
    ///
    /// Without VNNI, bytes are multiplied as words and need another instruction for the sum: no instruction for bytes
    /// is exact for all of them. Where AVX2's is (NUMERICS.md E3), a kernel may be faster than this loop.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn peak(self, of: Products) -> Option<Peak> {
        let instruction = match (self.isa(), of) {
            (Isa::Portable, _) => return None,
            (Isa::Vnni, Products::Bytes) => Instruction::Dpbusd,
            (Isa::Vnni, Products::Words) => Instruction::Dpwssd,
            (Isa::Avx512, Products::Bytes | Products::Words) => Instruction::Madd512,
            (Isa::Avx2, Products::Bytes | Products::Words) => Instruction::Madd256,
            (Isa::Vnni | Isa::Avx512, Products::Floats) => Instruction::Fma512,
            (Isa::Avx2, Products::Floats) => Instruction::Fma256,
        };
        Some(Peak { instruction })
    }

    /// Returns `None`: no instruction of this target has a loop.
    #[cfg(not(target_arch = "x86_64"))]
    #[must_use]
    pub fn peak(self, _of: Products) -> Option<Peak> {
        None
    }
}

impl Peak {
    /// Most rounds of a call: every sum is exact.
    pub const MAX_ROUNDS: u32 = 1 << 24;

    /// Returns the name of the instruction.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.instruction {
            #[cfg(target_arch = "x86_64")]
            Instruction::Dpbusd => "vpdpbusd zmm",
            #[cfg(target_arch = "x86_64")]
            Instruction::Dpwssd => "vpdpwssd zmm",
            #[cfg(target_arch = "x86_64")]
            Instruction::Madd512 => "vpmaddwd+vpaddd zmm",
            #[cfg(target_arch = "x86_64")]
            Instruction::Madd256 => "vpmaddwd+vpaddd ymm",
            #[cfg(target_arch = "x86_64")]
            Instruction::Fma512 => "vfmadd zmm",
            #[cfg(target_arch = "x86_64")]
            Instruction::Fma256 => "vfmadd ymm",
        }
    }

    /// Runs the loop and returns the number of products that it added up.
    ///
    /// # Panics
    ///
    /// Panics if `rounds` is above [`MAX_ROUNDS`](Self::MAX_ROUNDS).
    #[must_use]
    pub fn run(self, rounds: u32) -> u64 {
        assert!(
            rounds <= Self::MAX_ROUNDS,
            "{rounds} rounds leave the exact sums"
        );
        match self.instruction {
            // SAFETY: a `Peak` exists only for an instruction of a set that was detected on this CPU: here AVX-512
            // with VNNI.
            #[cfg(target_arch = "x86_64")]
            Instruction::Dpbusd => unsafe { x86_64::dpbusd(rounds) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instruction::Dpwssd => unsafe { x86_64::dpwssd(rounds) },
            // SAFETY: as above, AVX-512 BW.
            #[cfg(target_arch = "x86_64")]
            Instruction::Madd512 => unsafe { x86_64::madd512(rounds) },
            // SAFETY: as above, AVX2.
            #[cfg(target_arch = "x86_64")]
            Instruction::Madd256 => unsafe { x86_64::madd256(rounds) },
            // SAFETY: as above, AVX-512 F.
            #[cfg(target_arch = "x86_64")]
            Instruction::Fma512 => unsafe { x86_64::fma512(rounds) },
            // SAFETY: as above, AVX2, FMA and POPCNT.
            #[cfg(target_arch = "x86_64")]
            Instruction::Fma256 => unsafe { x86_64::fma256(rounds) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_set1_epi16, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps, _mm256_storeu_si256,
        _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
        _mm512_madd_epi16, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
    };

    /// Sums of a loop, each of which takes one instruction a round.
    const SUMS: usize = 12;

    /// Defines a loop: `$one` is a vector of ones, `$step` adds products to a sum, `$store` writes a sum as `$lanes`.
    macro_rules! peak_loop {
        ($name:ident, $features:literal, $register:ident, $zero:expr, $one:expr, $step:expr, $store:expr, $lanes:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: u32) -> u64 {
                let weights = $one;
                let mut factors = $one;
                let mut sums = [$zero; SUMS];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        // SAFETY: no instruction at all. The compiler takes the factors for new ones, so that it
                        // neither moves a product out of the loop nor makes one for several sums.
                        unsafe {
                            asm!("/* {0} */", inout($register) factors, options(nomem, nostack, preserves_flags));
                        }
                        *sum = $step(*sum, factors, weights);
                    }
                }
                let mut total = 0;
                for sum in sums {
                    let mut lanes = $lanes;
                    // SAFETY: `lanes` is as long as a vector, and needs no alignment.
                    unsafe { $store(lanes.as_mut_ptr().cast(), sum) };
                    total += lanes.iter().map(|lane| count(*lane)).sum::<u64>();
                }
                total
            }
        };
    }

    /// A lane of a sum of ones.
    trait Lane {
        fn count(self) -> u64;
    }

    impl Lane for i32 {
        fn count(self) -> u64 {
            u64::from(self.cast_unsigned())
        }
    }

    impl Lane for f32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number of at most 2^24"
        )]
        fn count(self) -> u64 {
            self as u64
        }
    }

    fn count(lane: impl Lane) -> u64 {
        lane.count()
    }

    peak_loop!(
        dpbusd,
        "avx512f,avx512vnni",
        zmm_reg,
        _mm512_setzero_si512(),
        _mm512_set1_epi8(1),
        _mm512_dpbusd_epi32,
        _mm512_storeu_si512,
        [0_i32; 16]
    );
    peak_loop!(
        dpwssd,
        "avx512f,avx512bw,avx512vnni",
        zmm_reg,
        _mm512_setzero_si512(),
        _mm512_set1_epi16(1),
        _mm512_dpwssd_epi32,
        _mm512_storeu_si512,
        [0_i32; 16]
    );
    peak_loop!(
        madd512,
        "avx512f,avx512bw",
        zmm_reg,
        _mm512_setzero_si512(),
        _mm512_set1_epi16(1),
        |sum, x, w| _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)),
        _mm512_storeu_si512,
        [0_i32; 16]
    );
    peak_loop!(
        madd256,
        "avx2",
        ymm_reg,
        _mm256_setzero_si256(),
        _mm256_set1_epi16(1),
        |sum, x, w| _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)),
        _mm256_storeu_si256,
        [0_i32; 8]
    );
    peak_loop!(
        fma512,
        "avx512f",
        zmm_reg,
        _mm512_setzero_ps(),
        _mm512_set1_ps(1.0),
        |sum, x, w| _mm512_fmadd_ps(x, w, sum),
        _mm512_storeu_ps,
        [0.0_f32; 16]
    );
    peak_loop!(
        fma256,
        "avx2,fma,popcnt",
        ymm_reg,
        _mm256_setzero_ps(),
        _mm256_set1_ps(1.0),
        |sum, x, w| _mm256_fmadd_ps(x, w, sum),
        _mm256_storeu_ps,
        [0.0_f32; 8]
    );
}

#[cfg(test)]
mod tests {
    use super::{Kernels, Peak, Products};
    use crate::isa::Isa;

    #[test]
    fn a_loop_makes_the_products_of_its_vectors() {
        for kernels in Kernels::available() {
            let expected = match kernels.isa() {
                Isa::Portable => [None; 3],
                Isa::Avx2 => [Some(16), Some(16), Some(8)],
                Isa::Avx512 => [Some(32), Some(32), Some(16)],
                Isa::Vnni => [Some(64), Some(32), Some(16)],
            };
            let rounds = 1_000_003;
            let all = [Products::Bytes, Products::Words, Products::Floats];
            for (of, expected) in all.into_iter().zip(expected) {
                let products = kernels.peak(of).map(|peak| peak.run(rounds));
                assert_eq!(
                    products,
                    expected.map(|n: u64| n * 12 * u64::from(rounds)),
                    "{kernels:?} {of:?}"
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "leave the exact sums")]
    fn more_rounds_than_a_sum_counts_are_refused() {
        let Some(peak) = Kernels::active().peak(Products::Floats) else {
            panic!("no loop here: more rounds than any would leave the exact sums");
        };
        let _ = peak.run(Peak::MAX_ROUNDS + 1);
    }
}
