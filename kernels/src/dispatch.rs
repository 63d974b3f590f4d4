//! Runs one body with the instructions of a chosen set.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "a function compiled for an instruction set may run only on a CPU that has it"
    )
)]

use crate::isa::{Isa, Kernels};
use crate::row::FloatRows;

/// A token of an instruction set: a value proves that the running function is compiled for it, and the CPU has it.
pub(crate) trait InstructionSet: Copy + FloatRows {}

/// The target's baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// AVX2, FMA and POPCNT.
// Invariant: made in a function compiled for the set only.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

/// AVX-512 F, BW, DQ and VL, with AVX2, FMA and POPCNT.
// Invariant: made in a function compiled for the set only.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl InstructionSet for Portable {}
#[cfg(target_arch = "x86_64")]
impl InstructionSet for Avx2 {}
#[cfg(target_arch = "x86_64")]
impl InstructionSet for Avx512 {}

/// Work whose body is compiled once per instruction set.
pub(crate) trait Job {
    /// Returns the columns of the output, which the body computes side by side in vector lanes.
    fn n_columns(&self) -> usize;

    /// Does the work with register tiles of `P` pixels by `N` columns.
    ///
    /// An implementation, and all that it calls in its loops, is `#[inline(always)]`: only so is it compiled with the
    /// instructions of the caller.
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, set: S);
}

/// Columns of a tile for AVX-512. The compiler makes no good AVX-512 code of integer tiles of 16 or 32 columns (it
/// unrolls their loops before it sees vectors in them), so narrower operations take the AVX2 tiles.
#[cfg(target_arch = "x86_64")]
const AVX512_COLUMNS: usize = 64;

/// Does `job` with the instructions that `kernels` stands for.
///
/// Tiles fill the registers with accumulators and leave room for the weights and activations of one step.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch<J: Job>(kernels: Kernels, job: J) {
    match kernels.isa() {
        Isa::Portable => job.run::<_, 4, 8>(Portable),
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX-512 F, BW, DQ, VL with
        // AVX2, FMA and POPCNT.
        Isa::Avx512 | Isa::Vnni if job.n_columns() >= AVX512_COLUMNS => unsafe {
            avx512::<_, 6, AVX512_COLUMNS>(job);
        },
        // SAFETY: as above; all three sets include AVX2, FMA and POPCNT.
        Isa::Avx2 | Isa::Avx512 | Isa::Vnni => unsafe { avx2::<_, 6, 16>(job) },
    }
}

/// Does a `job` that AVX2 alone is to do, in tiles of its own width.
///
/// # Panics
///
/// Panics if `kernels` lack the instruction set.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch_avx2<J: Job>(kernels: Kernels, job: J) {
    assert!(kernels.isa() >= Isa::Avx2, "{kernels:?} lack AVX2");
    // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here one that includes AVX2, FMA and POPCNT.
    unsafe { avx2::<_, 6, 16>(job) };
}

/// Does a `job` that AVX-512 alone is to do, in tiles of its own width.
///
/// # Panics
///
/// Panics if `kernels` lack the instruction set.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch_avx512<J: Job>(kernels: Kernels, job: J) {
    assert!(kernels.isa() >= Isa::Avx512, "{kernels:?} lack AVX-512");
    // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here one that includes AVX-512 F, BW,
    // DQ, VL with AVX2, FMA and POPCNT.
    unsafe { avx512::<_, 6, AVX512_COLUMNS>(job) };
}

/// Does an f32 `job`, like [`dispatch`], with the tiles that a product which mixes channels wants.
///
/// The rows of f32 name their vectors, so tiles of one and two AVX-512 vectors are as good as wide ones. They take more
/// pixels, so that there are as many chains as hide the latency of a step.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch_f32<J: Job>(kernels: Kernels, job: J) {
    let n_columns = job.n_columns();
    match kernels.isa() {
        Isa::Portable => job.run::<_, 4, 8>(Portable),
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX-512 F, BW, DQ, VL with
        // AVX2, FMA and POPCNT.
        Isa::Avx512 | Isa::Vnni if n_columns >= 64 => unsafe { avx512::<_, 6, 64>(job) },
        // SAFETY: as above.
        Isa::Avx512 | Isa::Vnni if n_columns >= 32 => unsafe { avx512::<_, 8, 32>(job) },
        // SAFETY: as above.
        Isa::Avx512 | Isa::Vnni if n_columns >= 16 => unsafe { avx512::<_, 12, 16>(job) },
        // SAFETY: as above; all three sets include AVX2, FMA and POPCNT.
        Isa::Avx2 | Isa::Avx512 | Isa::Vnni => unsafe { avx2::<_, 6, 16>(job) },
    }
}

/// Does an f32 `job`, like [`dispatch`], with the tiles that a product per channel wants: one vector wide, and room for
/// the activations and weights of a kernel row.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch_f32_per_channel<J: Job>(kernels: Kernels, job: J) {
    match kernels.isa() {
        Isa::Portable => job.run::<_, 4, 8>(Portable),
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX-512 F, BW, DQ, VL with
        // AVX2, FMA and POPCNT.
        Isa::Avx512 | Isa::Vnni if job.n_columns() >= 16 => unsafe { avx512::<_, 6, 16>(job) },
        // SAFETY: as above; all three sets include AVX2, FMA and POPCNT.
        Isa::Avx2 | Isa::Avx512 | Isa::Vnni => unsafe { avx2::<_, 4, 8>(job) },
    }
}

/// Does `job`; only [`Isa::Portable`] exists on this target.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<J: Job>(kernels: Kernels, job: J) {
    match kernels.isa() {
        Isa::Portable | Isa::Avx2 | Isa::Avx512 | Isa::Vnni => job.run::<_, 4, 8>(Portable),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use {
    dispatch as dispatch_avx2, dispatch as dispatch_avx512, dispatch as dispatch_f32,
    dispatch as dispatch_f32_per_channel,
};

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn avx2<J: Job, const P: usize, const N: usize>(job: J) {
    job.run::<_, P, N>(Avx2(()));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt")]
fn avx512<J: Job, const P: usize, const N: usize>(job: J) {
    job.run::<_, P, N>(Avx512(()));
}
