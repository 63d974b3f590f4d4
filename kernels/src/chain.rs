//! The element types, and the one step of every chain: `acc + x * w`.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::{Add, Mul};

use crate::dispatch::InstructionSet;
use crate::row::Row;

mod sealed {
    #[expect(
        unnameable_types,
        reason = "so no other crate implements the element traits"
    )]
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for i8 {}
    impl Sealed for i16 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
}

/// An integer type of activations: `u8`, `i8`, `i16`, `i32` or `i64`.
pub trait Activation: Copy + Ord + Debug + Send + Sync + sealed::Sealed + 'static {
    /// The least value, the maximum of an empty window.
    const MIN: Self;

    /// Returns the value as an `i64`.
    fn wide(self) -> i64;

    /// Returns the low bits of `v`: `v` itself, if it fits.
    fn low_bits(v: i64) -> Self;
}

/// An integer type of weights: `i8`, `i16` or `i32`.
pub trait Weight: Copy + Debug + Send + Sync + sealed::Sealed + 'static {}

/// An integer type of accumulators: `i32` or `i64`.
///
/// An operation takes the accumulators that hold every value of its operands: `A: From<X> + From<W>`.
pub trait Accumulator:
    Copy + Debug + Send + Sync + Add<Output = Self> + Mul<Output = Self> + sealed::Sealed + 'static
{
    /// Zero, where every sum starts.
    const ZERO: Self;
}

macro_rules! activation {
    ($t:ty $(, #[$lint:meta])*) => {
        impl Activation for $t {
            const MIN: Self = <$t>::MIN;

            #[inline(always)]
            fn wide(self) -> i64 {
                i64::from(self)
            }

            $(#[$lint])*
            #[expect(clippy::cast_possible_truncation, reason = "the low bits are asked for")]
            #[inline(always)]
            fn low_bits(v: i64) -> Self {
                v as Self
            }
        }
    };
}
activation!(u8, #[expect(clippy::cast_sign_loss, reason = "the low bits are asked for")]);
activation!(i8);
activation!(i16);
activation!(i32);

impl Activation for i64 {
    const MIN: Self = Self::MIN;

    #[inline(always)]
    fn wide(self) -> i64 {
        self
    }

    #[inline(always)]
    fn low_bits(v: i64) -> Self {
        v
    }
}

impl Weight for i8 {}
impl Weight for i16 {}
impl Weight for i32 {}

impl Accumulator for i32 {
    const ZERO: Self = 0;
}
impl Accumulator for i64 {
    const ZERO: Self = 0;
}

/// One step of the chain that makes an output element, and the bias that ends it.
pub(crate) trait Chain: Copy + Debug {
    type X: Copy + Debug;
    type W: Copy + Debug;
    type A: Copy + Debug;
    /// Accumulators of `N` columns, for an instruction set.
    type Row<S: InstructionSet, const N: usize>: Row<S, Self, N>;
    const ZERO: Self::A;

    /// Returns `acc + x * w`.
    fn step(x: Self::X, w: Self::W, acc: Self::A) -> Self::A;

    /// Returns `acc + bias`.
    fn add_bias(acc: Self::A, bias: Self::A) -> Self::A;
}

/// f32 with one rounding per step (NUMERICS.md F1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fused;

impl Chain for Fused {
    type X = f32;
    type W = f32;
    type A = f32;
    type Row<S: InstructionSet, const N: usize> = S::Row<N>;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    #[expect(
        clippy::disallowed_methods,
        reason = "every instruction set fuses, in hardware or by an exact software routine"
    )]
    fn step(x: f32, w: f32, acc: f32) -> f32 {
        x.mul_add(w, acc)
    }

    #[inline(always)]
    fn add_bias(acc: f32, bias: f32) -> f32 {
        acc + bias
    }
}

/// Integers, exact as long as no accumulator overflows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact<X, W, A>(PhantomData<(X, W, A)>);

impl<X: Activation, W: Weight, A: Accumulator + From<X> + From<W>> Chain for Exact<X, W, A> {
    type X = X;
    type W = W;
    type A = A;
    type Row<S: InstructionSet, const N: usize> = [A; N];
    const ZERO: A = A::ZERO;

    #[inline(always)]
    fn step(x: X, w: W, acc: A) -> A {
        acc + A::from(x) * A::from(w)
    }

    #[inline(always)]
    fn add_bias(acc: A, bias: A) -> A {
        acc + bias
    }
}
