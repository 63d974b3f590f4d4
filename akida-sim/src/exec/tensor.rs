//! What flows between layers: integers in the narrowest type, or floats.

use super::buffer::Buffer;
use super::room::Spare;
use crate::ModelError;
use float_model::Shape;
use kernels::Activation;
use ndarray::{ArrayD, IxDyn};
use quantizer_core::tensor::int_to_f32;

/// The values of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Integers in `[0, 2^8 - 1]`.
    U8(Buffer<u8>),
    /// Integers in `[-2^7, 2^7 - 1]`.
    I8(Buffer<i8>),
    /// Integers in `[-2^15, 2^15 - 1]`.
    I16(Buffer<i16>),
    /// Integers in `[-2^31, 2^31 - 1]`.
    I32(Buffer<i32>),
    /// Wider integers.
    I64(Buffer<i64>),
    /// Floats.
    F32(Vec<f32>),
}

/// An integer type of [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    U8,
    I8,
    I16,
    I32,
    I64,
}

impl Storage {
    /// Returns the narrowest type that holds `[lo, hi]`, an unsigned one if it can: byte products take one.
    pub(crate) fn of(lo: i64, hi: i64) -> Self {
        let fits = |min: i64, max: i64| min <= lo && hi <= max;
        if fits(0, u8::MAX.into()) {
            Self::U8
        } else if fits(i8::MIN.into(), i8::MAX.into()) {
            Self::I8
        } else if fits(i16::MIN.into(), i16::MAX.into()) {
            Self::I16
        } else if fits(i32::MIN.into(), i32::MAX.into()) {
            Self::I32
        } else {
            Self::I64
        }
    }
}

/// An integer type that a [`Values`] can hold.
pub(crate) trait Int: kernels::Activation + Default {
    /// Returns `v` in this type; the caller knows that it fits.
    fn narrow(v: i64) -> Self;
    fn values(v: Buffer<Self>) -> Values;
    /// Returns the spare buffers of this type.
    fn spare(spare: &mut Spare) -> &mut Vec<Buffer<Self>>;
}

macro_rules! int {
    ($t:ident, $variant:ident) => {
        impl Int for $t {
            fn narrow(v: i64) -> Self {
                debug_assert!(
                    Self::try_from(v).is_ok(),
                    "{v} is outside its static bounds"
                );
                <Self as kernels::Activation>::low_bits(v)
            }
            fn values(v: Buffer<Self>) -> Values {
                Values::$variant(v)
            }
            fn spare(spare: &mut Spare) -> &mut Vec<Buffer<Self>> {
                &mut spare.$t
            }
        }
    };
}
int!(u8, U8);
int!(i8, I8);
int!(i16, I16);
int!(i32, I32);

impl Int for i64 {
    fn narrow(v: i64) -> Self {
        v
    }
    fn values(v: Buffer<Self>) -> Values {
        Values::I64(v)
    }
    fn spare(spare: &mut Spare) -> &mut Vec<Buffer<Self>> {
        &mut spare.i64
    }
}

/// A tensor `[batch, ...]`, channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, the batch first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Values,
}

/// Runs an expression for the integers of a [`Values`], whatever their type; floats take `$float`.
macro_rules! with_ints {
    ($values:expr, $x:ident => $body:expr, float => $float:expr) => {
        match $values {
            $crate::exec::Values::U8($x) => $body,
            $crate::exec::Values::I8($x) => $body,
            $crate::exec::Values::I16($x) => $body,
            $crate::exec::Values::I32($x) => $body,
            $crate::exec::Values::I64($x) => $body,
            $crate::exec::Values::F32(_) => $float,
        }
    };
}
pub(crate) use with_ints;

/// Runs an expression with the type `$t` of a [`Storage`].
macro_rules! with_storage {
    ($storage:expr, $t:ident => $body:expr) => {
        match $storage {
            $crate::exec::tensor::Storage::U8 => {
                type $t = u8;
                $body
            }
            $crate::exec::tensor::Storage::I8 => {
                type $t = i8;
                $body
            }
            $crate::exec::tensor::Storage::I16 => {
                type $t = i16;
                $body
            }
            $crate::exec::tensor::Storage::I32 => {
                type $t = i32;
                $body
            }
            $crate::exec::tensor::Storage::I64 => {
                type $t = i64;
                $body
            }
        }
    };
}
pub(crate) use with_storage;

impl Tensor {
    /// Returns the number of items in the batch.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Returns the number of values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the integers, or `None` for floats.
    #[must_use]
    pub fn integers(&self) -> Option<ArrayD<i64>> {
        let values: Vec<i64> = with_ints!(&self.values,
            x => x.iter().map(|v| v.wide()).collect(), float => return None);
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).ok()
    }

    /// Returns the values as floats; integers by their number, without binary point or scale.
    #[must_use]
    pub fn floats(&self) -> ArrayD<f32> {
        let values: Vec<f32> = match &self.values {
            Values::F32(x) => x.clone(),
            Values::U8(_) | Values::I8(_) | Values::I16(_) | Values::I32(_) | Values::I64(_) => {
                with_ints!(&self.values,
                    x => x.iter().map(|v| int_to_f32(v.wide())).collect(), float => Vec::new())
            }
        };
        let shape = IxDyn(&self.shape);
        ArrayD::from_shape_vec(shape, values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&[0])))
    }

    /// Adds the items of another batch.
    ///
    /// # Errors
    ///
    /// Items of other extents or another type; the layer is not known here.
    pub(crate) fn append(&mut self, other: &Self) -> Result<(), ModelError> {
        let same_extents = self.shape.get(1..) == other.shape.get(1..);
        match (&mut self.values, &other.values) {
            (Values::U8(own), Values::U8(other)) if same_extents => own.extend(other),
            (Values::I8(own), Values::I8(other)) if same_extents => own.extend(other),
            (Values::I16(own), Values::I16(other)) if same_extents => own.extend(other),
            (Values::I32(own), Values::I32(other)) if same_extents => own.extend(other),
            (Values::I64(own), Values::I64(other)) if same_extents => own.extend(other),
            (Values::F32(own), Values::F32(other)) if same_extents => own.extend(other),
            _ => return Err(ModelError::invalid("the outputs", "differ in extents")),
        }
        let more = other.shape.first().copied().unwrap_or(0);
        if let Some(n) = self.shape.first_mut() {
            *n += more;
        }
        Ok(())
    }

    /// Returns the tensor of a float array.
    pub(crate) fn from_floats(x: ArrayD<f32>) -> Self {
        let shape = x.shape().to_vec();
        let values = x.as_standard_layout().iter().copied().collect();
        Self {
            shape,
            values: Values::F32(values),
        }
    }
}

/// Returns wide integers in the type `storage`; the caller knows that they fit.
pub(crate) fn convert(values: Values, storage: Storage) -> Values {
    let Values::I64(wide) = values else {
        return values;
    };
    with_storage!(storage, T => T::values(wide.iter().map(|v| T::narrow(*v)).collect()))
}

/// Returns whether `extents` are those of a batch of items of `shape`.
pub(crate) fn has_extents(extents: &[usize], shape: &Shape) -> bool {
    extents.len() == shape.len() + 1
        && extents[1..]
            .iter()
            .zip(shape)
            .all(|(n, want)| want.is_none_or(|want| want == *n))
}

/// Returns the extents of a batch of `batch` items of `shape`; `None` if one is open.
pub(crate) fn batch_shape(batch: usize, shape: &Shape) -> Option<Vec<usize>> {
    std::iter::once(Some(batch))
        .chain(shape.iter().copied())
        .collect()
}
