//! Named tensors, as bytes.

use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, Dimension, IxDyn};
use quantizer_core::PerAxis;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A number that a tensor can hold.
pub(super) trait Element: Copy {
    const DTYPE: Dtype;
    const SIZE: usize;
    fn push(self, bytes: &mut Vec<u8>);
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

macro_rules! element {
    ($($t:ty => $dtype:ident),*) => {
        $(impl Element for $t {
            const DTYPE: Dtype = Dtype::$dtype;
            const SIZE: usize = size_of::<$t>();
            fn push(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_le_bytes)
            }
        })*
    };
}
element!(i8 => I8, i16 => I16, i32 => I32, i64 => I64, u32 => U32, f32 => F32);

/// Tensors to write, by name.
#[derive(Debug, Default)]
pub(super) struct Written {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Written {
    /// Adds an array.
    pub(super) fn array<T: Element, D: Dimension>(&mut self, name: String, array: &Array<T, D>) {
        let mut bytes = Vec::with_capacity(array.len() * T::SIZE);
        array.iter().for_each(|value| value.push(&mut bytes));
        self.tensors
            .insert(name, (T::DTYPE, array.shape().to_vec(), bytes));
    }

    /// Adds one value, or one a channel.
    pub(super) fn per_axis<T: Element>(&mut self, name: String, values: &PerAxis<T>) {
        let shape = match values {
            PerAxis::Tensor(_) => Vec::new(),
            PerAxis::Axis(values) => vec![values.len()],
        };
        let mut bytes = Vec::new();
        values
            .as_slice()
            .iter()
            .for_each(|value| value.push(&mut bytes));
        self.tensors.insert(name, (T::DTYPE, shape, bytes));
    }

    /// Adds integers in the narrowest of three types.
    pub(super) fn integers<D: Dimension>(&mut self, name: String, array: &Array<i32, D>) {
        let (lo, hi) = array
            .iter()
            .fold((0, 0), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let fits = |min: i32, max: i32| min <= lo && hi <= max;
        if fits(i8::MIN.into(), i8::MAX.into()) {
            self.array(name, &array.mapv(|v| i8::try_from(v).unwrap_or_default()));
        } else if fits(i16::MIN.into(), i16::MAX.into()) {
            self.array(name, &array.mapv(|v| i16::try_from(v).unwrap_or_default()));
        } else {
            self.array(name, array);
        }
    }

    /// Returns the tensors as views, by name.
    pub(super) fn views(&self) -> Result<Vec<(&str, TensorView<'_>)>, String> {
        self.tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                TensorView::new(*dtype, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|e| e.to_string())
            })
            .collect()
    }
}

/// Tensors of a file; each is taken once, so that none is left over.
pub(super) struct Read<'f> {
    file: SafeTensors<'f>,
    taken: BTreeMap<String, ()>,
}

impl<'f> Read<'f> {
    pub(super) fn new(file: SafeTensors<'f>) -> Self {
        Self {
            file,
            taken: BTreeMap::new(),
        }
    }

    /// Takes an array of any extents.
    pub(super) fn array<T: Element>(&mut self, name: &str) -> Result<ArrayD<T>, String> {
        let tensor = self
            .file
            .tensor(name)
            .map_err(|_| format!("tensor `{name}` is missing"))?;
        self.taken.insert(name.to_owned(), ());
        if tensor.dtype() != T::DTYPE {
            return Err(format!("tensor `{name}` has type {:?}", tensor.dtype()));
        }
        decoded(name, &tensor)
    }

    /// Takes integers of one of three types.
    pub(super) fn integers(&mut self, name: &str) -> Result<ArrayD<i32>, String> {
        let dtype = self.file.tensor(name).map(|tensor| tensor.dtype());
        match dtype {
            Ok(Dtype::I8) => Ok(self.array::<i8>(name)?.mapv(i32::from)),
            Ok(Dtype::I16) => Ok(self.array::<i16>(name)?.mapv(i32::from)),
            _ => self.array(name),
        }
    }

    /// Takes one value, or one a channel.
    pub(super) fn per_axis<T: Element>(&mut self, name: &str) -> Result<PerAxis<T>, String> {
        let array: ArrayD<T> = self.array(name)?;
        match array.ndim() {
            0 => array
                .iter()
                .next()
                .map(|v| PerAxis::Tensor(*v))
                .ok_or_else(|| format!("tensor `{name}` is empty")),
            1 if !array.is_empty() => Ok(PerAxis::Axis(array.into_iter().collect())),
            _ => Err(format!("tensor `{name}` has extents {:?}", array.shape())),
        }
    }

    /// Returns whether there is a tensor called `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_ok()
    }

    /// Refuses tensors that nothing took.
    pub(super) fn finish(&self) -> Result<(), String> {
        let mut names: Vec<&str> = self.file.names();
        names.sort_unstable();
        match names
            .into_iter()
            .find(|name| !self.taken.contains_key(*name))
        {
            Some(name) => Err(format!("unexpected tensor `{name}`")),
            None => Ok(()),
        }
    }
}

fn decoded<T: Element>(name: &str, tensor: &TensorView<'_>) -> Result<ArrayD<T>, String> {
    let values: Option<Vec<T>> = tensor
        .data()
        .chunks_exact(T::SIZE)
        .map(T::from_bytes)
        .collect();
    let values = values.ok_or_else(|| format!("tensor `{name}` is cut off"))?;
    ArrayD::from_shape_vec(IxDyn(tensor.shape()), values)
        .map_err(|e| format!("tensor `{name}`: {e}"))
}
