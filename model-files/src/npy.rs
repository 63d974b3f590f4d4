//! The `.npy` format: headers, elements.

use std::io::{self, Read, Write};

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, TypeStr};

/// Extents beyond this are no tensor.
const MAX_RANK: usize = 8;

/// Longest header that is read.
const MAX_HEADER: u64 = 1 << 16;

/// What a `.npy` header says.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) shape: Vec<usize>,
    pub(crate) element: Element,
}

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    kind: Kind,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub(crate) size: usize,
    big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Signed,
    Unsigned,
    Float,
}

impl Header {
    /// Reads a header; the reader then stands at the first element.
    pub(crate) fn read(reader: &mut dyn Read) -> Result<Self, String> {
        let header = NpyHeader::from_reader(reader.take(MAX_HEADER))
            .map_err(|e| format!("not a .npy array: {e}"))?;
        let shape = header
            .shape()
            .iter()
            .map(|n| {
                usize::try_from(*n).map_err(|_| "an array beyond the address space".to_owned())
            })
            .collect::<Result<Vec<usize>, _>>()?;
        if shape.len() > MAX_RANK {
            return Err(format!("an array of rank {}", shape.len()));
        }
        if header.order() == Order::Fortran && shape.len() > 1 {
            return Err(
                "an array in Fortran order; save it with numpy.ascontiguousarray".to_owned(),
            );
        }
        let header = Self {
            element: Element::of(&header.dtype())?,
            shape,
        };
        header.n_bytes().map(|_| header)
    }

    /// Returns the number of bytes of all elements.
    pub(crate) fn n_bytes(&self) -> Result<usize, String> {
        let n = self
            .shape
            .iter()
            .try_fold(1usize, |n, extent| n.checked_mul(*extent));
        n.and_then(|n| n.checked_mul(self.element.size))
            .ok_or_else(|| format!("an array of shape {:?}", self.shape))
    }
}

#[cfg(test)]
impl Element {
    /// Returns an element by its NumPy type letter.
    pub(crate) fn for_tests(kind: char, size: usize, big_endian: bool) -> Self {
        let kind = match kind {
            'i' => Kind::Signed,
            'u' => Kind::Unsigned,
            _ => Kind::Float,
        };
        Self {
            kind,
            size,
            big_endian,
        }
    }
}

impl Element {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only numbers are read")]
    fn of(dtype: &DType) -> Result<Self, String> {
        let DType::Plain(plain) = dtype else {
            return Err("an array of records".to_owned());
        };
        let refused = || format!("an array of type {plain}");
        let kind = match plain.type_char() {
            TypeChar::Int => Kind::Signed,
            TypeChar::Uint | TypeChar::Bool => Kind::Unsigned,
            TypeChar::Float => Kind::Float,
            _ => return Err(refused()),
        };
        let size = usize::try_from(plain.size_field()).map_err(|_| refused())?;
        let fits = match kind {
            Kind::Float => [2, 4, 8].contains(&size),
            Kind::Signed | Kind::Unsigned => [1, 2, 4, 8].contains(&size),
        };
        if !fits {
            return Err(refused());
        }
        Ok(Self {
            kind,
            size,
            big_endian: is_big_endian(plain),
        })
    }

    /// Returns whether elements are integers.
    pub(crate) fn is_integer(self) -> bool {
        self.kind != Kind::Float
    }

    /// Returns one element as a float32; larger types are rounded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rounded"
    )]
    pub(crate) fn float(self, bytes: &[u8]) -> f32 {
        match self.kind {
            Kind::Float => match self.size {
                2 => half::f16::from_bits(low_u16(self.bits(bytes))).to_f32(),
                4 => f32::from_bits(low_u32(self.bits(bytes))),
                _ => f64::from_bits(self.bits(bytes)) as f32,
            },
            Kind::Unsigned => self.bits(bytes) as f32,
            Kind::Signed => self.signed(bytes) as f32,
        }
    }

    /// Returns one integer element, `None` for a float or a number beyond `i64`.
    pub(crate) fn integer(self, bytes: &[u8]) -> Option<i64> {
        match self.kind {
            Kind::Float => None,
            Kind::Unsigned => i64::try_from(self.bits(bytes)).ok(),
            Kind::Signed => Some(self.signed(bytes)),
        }
    }

    fn bits(self, bytes: &[u8]) -> u64 {
        let join = |bits: u64, byte: &u8| (bits << 8) | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, join)
        } else {
            bytes.iter().rev().fold(0, join)
        }
    }

    #[expect(
        clippy::cast_possible_wrap,
        reason = "two's complement is what is stored"
    )]
    fn signed(self, bytes: &[u8]) -> i64 {
        let unused = 64 - 8 * self.size;
        (self.bits(bytes) << unused) as i64 >> unused
    }
}

fn is_big_endian(plain: &TypeStr) -> bool {
    plain.endianness() == Endianness::Big
}

#[expect(clippy::cast_possible_truncation, reason = "two bytes were read")]
const fn low_u16(bits: u64) -> u16 {
    bits as u16
}

#[expect(clippy::cast_possible_truncation, reason = "four bytes were read")]
const fn low_u32(bits: u64) -> u32 {
    bits as u32
}

/// Writes a header of version 1.0 for a little-endian array in C order.
pub(crate) fn write_header(out: &mut dyn Write, descr: &str, shape: &[usize]) -> io::Result<()> {
    let extents: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let extents = match extents.as_slice() {
        [one] => one.clone(),
        many => many.join(" ").trim_end_matches(',').to_owned(),
    };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // Magic, version, length and dictionary end on a multiple of 64, closed by a newline.
    let unpadded = 10 + dict.len() + 1;
    let length = unpadded.next_multiple_of(64) - 10;
    let length_field = u16::try_from(length).map_err(|_| io::Error::other("a header too long"))?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&length_field.to_le_bytes())?;
    let padding = length - dict.len() - 1;
    writeln!(out, "{dict}{:padding$}", "")
}
