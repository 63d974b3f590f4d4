//! Runs one body with the instructions of a chosen set. The only `unsafe` of the workspace.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "a function compiled for an instruction set may run only on a CPU that has it"
    )
)]

use crate::isa::{Isa, Kernels};

/// Work whose body is compiled once per instruction set.
pub(crate) trait Job {
    /// Does the work with register tiles of `P` pixels by `N` output channels.
    ///
    /// An implementation, and all that it calls in its loops, is `#[inline(always)]`: only so it is compiled with the
    /// instructions of the caller.
    fn run<const P: usize, const N: usize>(self);
}

/// Does `job` with the instructions that `kernels` stands for.
///
/// The tile sizes fill the registers: accumulators, the weights of one step and one activation.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch<J: Job>(kernels: Kernels, job: J) {
    match kernels.isa() {
        Isa::Portable => job.run::<4, 8>(),
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2(job) },
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX-512 F, BW, DQ, VL and FMA.
        Isa::Avx512 => unsafe { avx512(job) },
    }
}

/// Does `job`; only [`Isa::Portable`] exists on this target.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<J: Job>(kernels: Kernels, job: J) {
    match kernels.isa() {
        Isa::Portable | Isa::Avx2 | Isa::Avx512 => job.run::<4, 8>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<J: Job>(job: J) {
    job.run::<6, 16>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn avx512<J: Job>(job: J) {
    job.run::<12, 32>();
}
