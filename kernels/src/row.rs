//! Accumulators of neighbouring columns, which take the steps of their chains together.
//!
//! The integer rows are arrays, which the compiler turns into vectors. The f32 rows of AVX2 and AVX-512 name their
//! vectors, so that their speed does not depend on what the optimiser makes of the surrounding loops.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

use crate::chain::{Chain, Fused};
#[cfg(target_arch = "x86_64")]
use crate::dispatch::{Avx2, Avx512};
use crate::dispatch::{InstructionSet, Portable};
use crate::ending::ColumnEnding;
#[cfg(target_arch = "x86_64")]
use crate::ending::MAGNITUDE;

/// The accumulators of `N` columns.
pub(crate) trait Row<S: InstructionSet, C: Chain, const N: usize>: Copy {
    /// Returns the start of every chain.
    fn zero(set: S) -> Self;

    /// Takes the step of one activation with each column's weight.
    fn step(&mut self, x: C::X, w: &[C::W; N]);

    /// Takes the step of each column's activation with its weight.
    fn step_each(&mut self, x: &[C::X; N], w: &[C::W; N]);

    /// Returns the accumulators.
    fn values(&self) -> [C::A; N];
}

impl<S: InstructionSet, C: Chain, const N: usize> Row<S, C, N> for [C::A; N] {
    #[inline(always)]
    fn zero(_: S) -> Self {
        [C::ZERO; N]
    }

    #[inline(always)]
    fn step(&mut self, x: C::X, w: &[C::W; N]) {
        for n in 0..N {
            self[n] = C::step(x, w[n], self[n]);
        }
    }

    #[inline(always)]
    fn step_each(&mut self, x: &[C::X; N], w: &[C::W; N]) {
        for n in 0..N {
            self[n] = C::step(x[n], w[n], self[n]);
        }
    }

    #[inline(always)]
    fn values(&self) -> [C::A; N] {
        *self
    }
}

/// f32 accumulators of `N` columns.
pub(crate) trait FloatRow<S: InstructionSet, const N: usize>: Row<S, Fused, N> {
    /// Ends the chains of the pixels `rows`, and writes those of pixel `p` into `out` from `places[p]` on.
    fn end<const P: usize>(
        rows: &[Self; P],
        ending: ColumnEnding<'_, N>,
        places: &[usize; P],
        out: &mut [f32],
    );
}

impl<S: InstructionSet, const N: usize> FloatRow<S, N> for [f32; N] {
    #[inline(always)]
    fn end<const P: usize>(
        rows: &[Self; P],
        mut ending: ColumnEnding<'_, N>,
        places: &[usize; P],
        out: &mut [f32],
    ) {
        for (row, place) in rows.iter().zip(places) {
            let out = &mut out[*place..][..N];
            for n in 0..N {
                out[n] = ending.end(row[n], n);
            }
        }
    }
}

/// The f32 rows of an instruction set.
pub(crate) trait FloatRows: Sized {
    /// A row of `N` columns.
    type Row<const N: usize>: FloatRow<Self, N>
    where
        Self: InstructionSet;
}

impl FloatRows for Portable {
    type Row<const N: usize> = [f32; N];
}

/// Defines the f32 row of one instruction set.
///
/// A row of whole vectors uses as many of `vectors` as it has columns for; a narrower one uses `lanes`. The compiler
/// drops the other field.
#[cfg(target_arch = "x86_64")]
macro_rules! float_row {
    ($row:ident, $set:ident, $vector:ident, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $fma:ident, $store:ident,
     $add:ident, $min:ident, $max:ident, $bits:ident, $splat_bits:ident, $and:ident, $max_bits:ident, $load_bits:ident,
     $store_bits:ident) => {
        /// f32 accumulators in vectors.
        // Invariant: made by `zero` only, whose token proves that the CPU has the instruction set.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $row<const N: usize> {
            vectors: [std::arch::x86_64::$vector; 4],
            lanes: [f32; N],
        }

        impl<const N: usize> $row<N> {
            /// Whole vectors in the row, 0 for a row that uses `lanes`.
            const VECTORS: usize = {
                assert!(N <= 4 * $lanes, "a row has at most four vectors");
                if N.is_multiple_of($lanes) {
                    N.div_ceil($lanes)
                } else {
                    0
                }
            };
        }

        impl FloatRows for $set {
            type Row<const N: usize> = $row<N>;
        }

        impl<const N: usize> Row<$set, Fused, N> for $row<N> {
            #[inline(always)]
            fn zero(_: $set) -> Self {
                // SAFETY: the token proves that the CPU has the instruction set.
                let vectors = unsafe { [std::arch::x86_64::$zero(); 4] };
                Self {
                    vectors,
                    lanes: [0.0; N],
                }
            }

            #[inline(always)]
            fn step(&mut self, x: f32, w: &[f32; N]) {
                use std::arch::x86_64::{$fma, $load, $splat};
                if Self::VECTORS == 0 {
                    return Row::<Portable, Fused, N>::step(&mut self.lanes, x, w);
                }
                // SAFETY: a row exists only where the CPU has the instruction set.
                let x = unsafe { $splat(x) };
                for idx in 0..Self::VECTORS {
                    let w = w[idx * $lanes..][..$lanes].as_ptr();
                    // SAFETY: as above; `w` points to as many f32 as a vector has, and needs no alignment.
                    self.vectors[idx] = unsafe { $fma(x, $load(w), self.vectors[idx]) };
                }
            }

            #[inline(always)]
            fn step_each(&mut self, x: &[f32; N], w: &[f32; N]) {
                use std::arch::x86_64::{$fma, $load};
                if Self::VECTORS == 0 {
                    return Row::<Portable, Fused, N>::step_each(&mut self.lanes, x, w);
                }
                for idx in 0..Self::VECTORS {
                    let x = x[idx * $lanes..][..$lanes].as_ptr();
                    let w = w[idx * $lanes..][..$lanes].as_ptr();
                    // SAFETY: a row exists only where the CPU has the instruction set; `x` and `w` point to as many
                    // f32 as a vector has, and need no alignment.
                    self.vectors[idx] = unsafe { $fma($load(x), $load(w), self.vectors[idx]) };
                }
            }

            #[inline(always)]
            fn values(&self) -> [f32; N] {
                let mut values = self.lanes;
                for idx in 0..Self::VECTORS {
                    let values = values[idx * $lanes..][..$lanes].as_mut_ptr();
                    // SAFETY: a row exists only where the CPU has the instruction set; `values` points to as many f32
                    // as a vector has, and needs no alignment.
                    unsafe { std::arch::x86_64::$store(values, self.vectors[idx]) };
                }
                values
            }
        }

        impl<const N: usize> FloatRow<$set, N> for $row<N> {
            #[inline(always)]
            fn end<const P: usize>(
                rows: &[Self; P],
                ending: ColumnEnding<'_, N>,
                places: &[usize; P],
                out: &mut [f32],
            ) {
                if Self::VECTORS == 0 {
                    let lanes: [[f32; N]; P] = std::array::from_fn(|p| rows[p].lanes);
                    return FloatRow::<Portable, N>::end(&lanes, ending, places, out);
                }
                use std::arch::x86_64::{
                    $add, $and, $bits, $load, $load_bits, $max, $max_bits, $min, $splat,
                    $splat_bits, $store, $store_bits,
                };
                let ColumnEnding {
                    bias,
                    least,
                    most,
                    largest,
                } = ending;
                let mut unwatched = [0; N];
                let is_watched = largest.is_some();
                let largest = largest.unwrap_or(&mut unwatched);
                // SAFETY: a row exists only where the CPU has the instruction set.
                let (least, most) = unsafe { ($splat(least), $splat(most)) };
                // Minus zero changes no sum.
                // SAFETY: as above.
                let mut biases = unsafe { [$splat(-0.0); 4] };
                // SAFETY: as above.
                let mut greatest = unsafe { [$splat_bits(0); 4] };
                // SAFETY: as above.
                let magnitude = unsafe { $splat_bits(MAGNITUDE.cast_signed()) };
                for idx in 0..Self::VECTORS {
                    if let Some(bias) = bias {
                        let bias = bias[idx * $lanes..][..$lanes].as_ptr();
                        // SAFETY: as above; `bias` points to as many f32 as a vector has, and needs no alignment.
                        biases[idx] = unsafe { $load(bias) };
                    }
                    if is_watched {
                        let largest = largest[idx * $lanes..][..$lanes].as_ptr();
                        // SAFETY: as above; `largest` points to as many u32 as a vector has, and needs no alignment.
                        greatest[idx] = unsafe { $load_bits(largest.cast()) };
                    }
                }
                for (row, place) in rows.iter().zip(places) {
                    let out = &mut out[*place..][..N];
                    for idx in 0..Self::VECTORS {
                        let out = out[idx * $lanes..][..$lanes].as_mut_ptr();
                        // Both pick the second operand if one is NaN, or if they are equal.
                        // SAFETY: as above; `out` points to as many f32 as a vector has, and needs no alignment.
                        unsafe {
                            let y = $add(row.vectors[idx], biases[idx]);
                            let y = $min(most, $max(least, y));
                            $store(out, y);
                            greatest[idx] = $max_bits(greatest[idx], $and($bits(y), magnitude));
                        }
                    }
                }
                if is_watched {
                    for idx in 0..Self::VECTORS {
                        let largest = largest[idx * $lanes..][..$lanes].as_mut_ptr();
                        // SAFETY: as above; `largest` points to as many u32 as a vector has, and needs no alignment.
                        unsafe { $store_bits(largest.cast(), greatest[idx]) };
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
float_row!(
    Avx2Row,
    Avx2,
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_min_ps,
    _mm256_max_ps,
    _mm256_castps_si256,
    _mm256_set1_epi32,
    _mm256_and_si256,
    _mm256_max_epu32,
    _mm256_loadu_si256,
    _mm256_storeu_si256
);
#[cfg(target_arch = "x86_64")]
float_row!(
    Avx512Row,
    Avx512,
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_min_ps,
    _mm512_max_ps,
    _mm512_castps_si512,
    _mm512_set1_epi32,
    _mm512_and_si512,
    _mm512_max_epu32,
    _mm512_loadu_si512,
    _mm512_storeu_si512
);
