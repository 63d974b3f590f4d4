//! Constants: initializers, and what is known of shapes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use half::{bf16, f16};

use super::proto::Tensor;
use super::refused::Refused;

/// Stands for the batch in shapes that a model computes.
pub(super) const BATCH: i64 = i64::MIN;

/// 2^53: integers of models are small.
const LARGEST_TRUNCATED: f32 = 16_777_216.0 * 16_777_216.0 * 32.0;

/// A constant tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Constant {
    /// Returns a vector of integers.
    pub(super) fn integers(values: Vec<i64>) -> Self {
        Self {
            shape: vec![values.len()],
            data: Data::Integers(values),
        }
    }

    /// Returns the constant of a message; external data lies in `folder`.
    pub(super) fn read(tensor: &Tensor, folder: &Path) -> Result<Self, Refused> {
        let name = &tensor.name;
        let shape: Option<Vec<usize>> = tensor
            .dims
            .iter()
            .map(|n| usize::try_from(*n).ok())
            .collect();
        let shape = shape.ok_or_else(|| {
            Refused::invalid(format!("tensor `{name}`: extents {:?}", tensor.dims))
        })?;
        let len = shape.iter().try_fold(1_usize, |len, n| len.checked_mul(*n));
        let external;
        let raw = match tensor.external() {
            None => tensor.raw_data.as_slice(),
            Some(entries) => {
                let get = |key: &str| entries.get(key).copied();
                external = read_external(folder, get)
                    .map_err(|why| Refused::invalid(format!("tensor `{name}`: {why}")))?;
                external.as_slice()
            }
        };
        let data = data(tensor, raw)?;
        if len != Some(data.len()) {
            let got = data.len();
            return Err(Refused::invalid(format!(
                "tensor `{name}`: {got} elements for extents {shape:?}"
            )));
        }
        Ok(Self { shape, data })
    }

    /// Returns the number of elements.
    pub(super) const fn len(&self) -> usize {
        self.data.len()
    }

    /// Returns the elements as floats.
    pub(super) fn floats(&self) -> Vec<f32> {
        match &self.data {
            Data::Floats(values) => values.clone(),
            Data::Integers(values) => values.iter().map(|v| float(*v)).collect(),
        }
    }

    /// Returns the constant as floats; a shape with the batch in it stays what it is.
    pub(super) fn into_floats(self) -> Self {
        match &self.data {
            Data::Integers(values) if !values.contains(&BATCH) => {
                let data = Data::Floats(self.floats());
                Self { data, ..self }
            }
            Data::Integers(_) | Data::Floats(_) => self,
        }
    }

    /// Returns the constant as integers: floats are truncated.
    ///
    /// # Errors
    ///
    /// Floats beyond those that are exact.
    pub(super) fn into_integers(self) -> Result<Self, Refused> {
        let Data::Floats(values) = &self.data else {
            return Ok(self);
        };
        let values: Option<Vec<i64>> = values.iter().map(|v| truncated(*v)).collect();
        let values = values.ok_or_else(|| Refused::unsupported("a constant beyond 2^53"))?;
        let data = Data::Integers(values);
        Ok(Self { data, ..self })
    }

    /// Returns the integers, `None` for floats.
    pub(super) fn as_integers(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Integers(values) => Some(values),
            Data::Floats(_) => None,
        }
    }

    /// Returns the value of a constant of one element.
    pub(super) fn scalar(&self) -> Option<f32> {
        match self.floats().as_slice() {
            [value] => Some(*value),
            _ => None,
        }
    }
}

impl Data {
    const fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "integers of models are small")]
const fn float(v: i64) -> f32 {
    v as f32
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncated(v: f32) -> Option<i64> {
    (v.abs() <= LARGEST_TRUNCATED).then_some(v as i64)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "weights are f32: one rounding"
)]
const fn rounded(v: f64) -> f32 {
    v as f32
}

fn data(tensor: &Tensor, raw: &[u8]) -> Result<Data, Refused> {
    macro_rules! integers {
        ($t:ty) => {
            Data::Integers(if raw.is_empty() {
                let words = tensor.int32_data.iter().map(|v| i64::from(*v));
                words.chain(tensor.int64_data.iter().copied()).collect()
            } else {
                let parts = raw.chunks_exact(size_of::<$t>());
                parts
                    .filter_map(|b| b.try_into().ok())
                    .map(<$t>::from_le_bytes)
                    .map(i64::from)
                    .collect()
            })
        };
    }
    macro_rules! halves {
        ($t:ty) => {
            Data::Floats(if raw.is_empty() {
                let bits = tensor
                    .int32_data
                    .iter()
                    .filter_map(|v| u16::try_from(*v).ok());
                bits.map(|bits| <$t>::from_bits(bits).to_f32()).collect()
            } else {
                let parts = raw.chunks_exact(2).filter_map(|b| b.try_into().ok());
                parts.map(|b| <$t>::from_le_bytes(b).to_f32()).collect()
            })
        };
    }
    Ok(match tensor.data_type {
        1 if raw.is_empty() => Data::Floats(tensor.float_data.clone()),
        1 => {
            let parts = raw.chunks_exact(4).filter_map(|b| b.try_into().ok());
            Data::Floats(parts.map(f32::from_le_bytes).collect())
        }
        2 | 9 => integers!(u8),
        3 => integers!(i8),
        4 => integers!(u16),
        5 => integers!(i16),
        6 => integers!(i32),
        7 => integers!(i64),
        10 => halves!(f16),
        16 => halves!(bf16),
        11 if raw.is_empty() => {
            Data::Floats(tensor.double_data.iter().copied().map(rounded).collect())
        }
        11 => {
            let parts = raw.chunks_exact(8).filter_map(|b| b.try_into().ok());
            Data::Floats(parts.map(f64::from_le_bytes).map(rounded).collect())
        }
        other => {
            let name = &tensor.name;
            return Err(Refused::unsupported(format!(
                "tensor `{name}` of element type {other}"
            )));
        }
    })
}

/// Returns external data; its file may not lie outside the model's folder.
fn read_external<'a>(
    folder: &Path,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<Vec<u8>, String> {
    let location = Path::new(get("location").ok_or("external data without a location")?);
    let shown = location.display();
    if !location
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!(
            "external data `{shown}` outside the model's folder"
        ));
    }
    let io = |e: std::io::Error| format!("external data `{shown}`: {e}");
    let place = folder.join(location).canonicalize().map_err(io)?;
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    if !place.starts_with(folder.canonicalize().map_err(io)?) {
        return Err(format!(
            "external data `{shown}` outside the model's folder"
        ));
    }
    let number = |key: &str| {
        get(key)
            .map(|text| {
                text.parse::<u64>()
                    .map_err(|_| format!("external {key} `{text}`"))
            })
            .transpose()
    };
    let mut file = File::open(place).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let offset = number("offset")?.unwrap_or(0);
    let rest = size.checked_sub(offset).ok_or("external data is cut off")?;
    let length = number("length")?.unwrap_or(rest);
    if length > rest {
        return Err("external data is cut off".to_owned());
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
