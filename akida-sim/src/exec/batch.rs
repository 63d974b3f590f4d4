//! How images enter a model.

use std::ops::Range;

use float_model::Dtype;
use kernels::{Activation, Kernels};
use ndarray::{ArrayD, ArrayViewD, Axis, Slice};

use super::room::Room;
use super::tensor::{Int, Storage, Tensor, Values, has_extents, with_storage};
use crate::ModelError;
use crate::model::{InputKind, QuantizedNode};

/// A batch of inputs of a model, `[batch, ...]`, in the type in which they lie in memory.
///
/// Each type enters each model: a model of integers takes floats that are whole numbers, a model of floats takes bytes,
/// and both refuse a value that their input's type cannot hold. Bytes that meet an input of their type are only copied.
///
/// ```
/// use akida_sim::Batch;
/// use ndarray::Array4;
///
/// let images = Array4::<u8>::zeros((16, 96, 96, 3)).into_dyn();
/// assert_eq!(Batch::from(&images).n_items(), 16);
/// ```
#[derive(Clone, Debug)]
pub enum Batch<'a> {
    /// Floats.
    F32(ArrayViewD<'a, f32>),
    /// Unsigned bytes.
    U8(ArrayViewD<'a, u8>),
    /// Signed bytes.
    I8(ArrayViewD<'a, i8>),
}

/// Runs an expression for the array of a [`Batch`], whatever its type.
macro_rules! with_array {
    ($batch:expr, $x:ident => $body:expr) => {
        match $batch {
            Batch::F32($x) => $body,
            Batch::U8($x) => $body,
            Batch::I8($x) => $body,
        }
    };
}

macro_rules! from_array {
    ($t:ident, $variant:ident) => {
        impl<'a> From<&'a ArrayD<$t>> for Batch<'a> {
            fn from(x: &'a ArrayD<$t>) -> Self {
                Self::$variant(x.view())
            }
        }

        impl<'a> From<ArrayViewD<'a, $t>> for Batch<'a> {
            fn from(x: ArrayViewD<'a, $t>) -> Self {
                Self::$variant(x)
            }
        }
    };
}
from_array!(f32, F32);
from_array!(u8, U8);
from_array!(i8, I8);

impl Batch<'_> {
    /// Returns the number of items.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }

    /// Returns the extents, the batch first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        with_array!(self, x => x.shape())
    }

    /// Returns some of the items; the batch has a first axis.
    pub(super) fn items(&self, range: Range<usize>) -> Batch<'_> {
        with_array!(self, x => x.slice_axis(Axis(0), Slice::from(range)).into())
    }
}

/// Returns what an input of a model makes of a batch.
pub(super) fn enter_model(
    node: &QuantizedNode,
    kind: &InputKind,
    x: &Batch<'_>,
    (storage, room): (Storage, &mut Room),
) -> Result<Tensor, ModelError> {
    check_extents(node, x.shape())?;
    let invalid = |message: String| ModelError::invalid(&node.name, message);
    match kind {
        InputKind::Float(_) => float_input(x).map_err(invalid),
        InputKind::Raw { dtype, .. } => {
            let place = (storage, room);
            let values = match x {
                Batch::F32(x) => whole_numbers(*dtype, x, place),
                Batch::U8(x) => integers(*dtype, x, (u8::MIN.into(), u8::MAX.into()), place),
                Batch::I8(x) => integers(*dtype, x, (i8::MIN.into(), i8::MAX.into()), place),
            };
            Ok(Tensor {
                shape: x.shape().to_vec(),
                values: values.map_err(invalid)?,
            })
        }
    }
}

fn check_extents(node: &QuantizedNode, shape: &[usize]) -> Result<(), ModelError> {
    if has_extents(shape, &node.shape) {
        return Ok(());
    }
    let want = node.shape.iter();
    let want: Vec<String> = want
        .map(|n| n.map_or_else(|| "any".to_owned(), |n| n.to_string()))
        .collect();
    let message = format!("expects [batch, {}], got {shape:?}", want.join(", "));
    Err(ModelError::invalid(&node.name, message))
}

/// Returns the floats of an input, or what is wrong with them.
fn float_input(x: &Batch<'_>) -> Result<Tensor, String> {
    let floats = match x {
        Batch::F32(x) => match x.iter().position(|v| !v.is_finite()) {
            Some(position) => return Err(format!("value {position} of the input is not finite")),
            None => x.to_owned(),
        },
        Batch::U8(x) => x.mapv(f32::from),
        Batch::I8(x) => x.mapv(f32::from),
    };
    Ok(Tensor::from_floats(floats))
}

/// Returns the integers of an input of type `dtype`, or which value is none.
fn whole_numbers(
    dtype: Dtype,
    x: &ArrayViewD<'_, f32>,
    (storage, room): (Storage, &mut Room),
) -> Result<Values, String> {
    let range = range_of(dtype);
    let x = x.as_standard_layout();
    let values = with_storage!(storage, T => {
        let mut values = room.take::<T>(x.len());
        let fits = x.as_slice().is_some_and(|x| {
            Kernels::active().whole_numbers(x, range, &mut values)
        });
        fits.then(|| T::values(values))
    });
    values.ok_or_else(|| {
        let is_one = |v: f32| whole(v).is_some_and(|v| (range.0..=range.1).contains(&v));
        let wrong = x.iter().find(|v| !is_one(**v)).copied();
        no_integer(wrong.unwrap_or_default(), dtype)
    })
}

/// Returns the integers of an input of type `dtype`, or which value is none; `own` is the range of their own type.
fn integers<X: Int>(
    dtype: Dtype,
    x: &ArrayViewD<'_, X>,
    own: (i32, i32),
    (storage, room): (Storage, &mut Room),
) -> Result<Values, String> {
    let (lo, hi) = range_of(dtype);
    let x = x.as_standard_layout();
    let x = x.as_slice().unwrap_or_default();
    if own.0 < lo || own.1 > hi {
        let range = i64::from(lo)..=i64::from(hi);
        let wrong = x.iter().map(|v| v.wide()).find(|v| !range.contains(v));
        if let Some(wrong) = wrong {
            return Err(no_integer(wrong, dtype));
        }
    }
    Ok(with_storage!(storage, T => {
        let mut values = room.take::<T>(x.len());
        for (value, x) in values.iter_mut().zip(x) {
            *value = T::low_bits(x.wide());
        }
        T::values(values)
    }))
}

fn no_integer(v: impl std::fmt::Display, dtype: Dtype) -> String {
    format!("input value {v} is no {}", dtype.name())
}

const fn range_of(dtype: Dtype) -> (i32, i32) {
    match dtype {
        Dtype::UInt8 => (0, 255),
        Dtype::Int8 => (-128, 127),
        Dtype::UInt16 => (0, 65_535),
        Dtype::Int16 => (-32_768, 32_767),
        Dtype::Int32 | Dtype::Float32 => (i32::MIN, i32::MAX),
    }
}

/// Returns a whole number as an integer, `None` for any other.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "a number that comes back unchanged was whole"
)]
fn whole(v: f32) -> Option<i32> {
    let integer = v as i32;
    // The largest `i32` is no f32: 2^31 would come back too.
    (integer as f32 == v && v < -(i32::MIN as f32)).then_some(integer)
}
