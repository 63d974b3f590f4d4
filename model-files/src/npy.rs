//! The `.npy` format: headers, elements.

mod dict;

use std::io::{self, Read, Write};

use dict::Dict;

/// Extents beyond this are no tensor.
const MAX_RANK: usize = 8;

/// Longest header that is read.
const MAX_HEADER: u32 = 1 << 16;

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
        let text = header_text(reader).map_err(|e| format!("not a .npy array: {e}"))?;
        let Dict {
            descr,
            fortran_order,
            shape,
        } = Dict::parse(&text)?;
        if shape.len() > MAX_RANK {
            return Err(format!("an array of rank {}", shape.len()));
        }
        if fortran_order && shape.len() > 1 {
            return Err(
                "an array in Fortran order; save it with numpy.ascontiguousarray".to_owned(),
            );
        }
        // A reader of items of no size would never end.
        if shape.iter().skip(1).any(|extent| *extent == 0) {
            return Err(format!("an array of shape {shape:?}"));
        }
        let header = Self {
            element: Element::of(&descr)?,
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
    /// Returns the element of a type by NumPy's name or text for it.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let descr = match name {
            "uint8" => "|u1",
            "int8" => "|i1",
            "uint16" => "<u2",
            "int16" => "<i2",
            "uint32" => "<u4",
            "int32" => "<i4",
            "uint64" => "<u8",
            "int64" => "<i8",
            "float16" => "<f2",
            "float32" => "<f4",
            "float64" => "<f8",
            other => other,
        };
        Self::of(descr).map_err(|_| {
            format!(
                "no type `{name}`: use uint8, int8, uint16 to int64, float16, float32 or float64"
            )
        })
    }

    /// Returns the element of NumPy's type text: byte order, letter, size.
    fn of(descr: &str) -> Result<Self, String> {
        let refused = || format!("an array of type `{descr}`");
        let mut chars = descr.chars();
        let big_endian = match chars.next() {
            Some('<' | '|') => false,
            Some('>') => true,
            _ => return Err(refused()),
        };
        let kind = match chars.next() {
            Some('i') => Kind::Signed,
            Some('u' | 'b') => Kind::Unsigned,
            Some('f') => Kind::Float,
            _ => return Err(refused()),
        };
        let size = match (chars.as_str(), kind) {
            ("1", Kind::Signed | Kind::Unsigned) => 1,
            ("2", _) => 2,
            ("4", _) => 4,
            ("8", _) => 8,
            _ => return Err(refused()),
        };
        Ok(Self {
            kind,
            size,
            big_endian,
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

    /// Returns the elements of whole bytes; the types of images and of weights have loops of their own.
    pub(crate) fn floats(self, bytes: &[u8]) -> Vec<f32> {
        match (&self.kind, self.size, self.big_endian) {
            (Kind::Unsigned, 1, _) => bytes.iter().map(|v| f32::from(*v)).collect(),
            (Kind::Signed, 1, _) => bytes.iter().map(|v| f32::from(v.cast_signed())).collect(),
            (Kind::Float, 4, false) => {
                let (words, _) = bytes.as_chunks();
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
            _ => {
                let elements = bytes.chunks_exact(self.size);
                elements.map(|bytes| self.float(bytes)).collect()
            }
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

/// Reads the magic number, the version and the text of a header.
fn header_text(reader: &mut dyn Read) -> Result<String, String> {
    let mut take = |n: u64| -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let taken = (&mut *reader).take(n).read_to_end(&mut bytes);
        taken.map_err(|e| e.to_string())?;
        if u64::try_from(bytes.len()) == Ok(n) {
            Ok(bytes)
        } else {
            Err("its header is cut off".to_owned())
        }
    };
    let start = take(8)?;
    let length = match start.as_slice() {
        [b'\x93', b'N', b'U', b'M', b'P', b'Y', 1, _] => match take(2)?.as_slice() {
            [a, b] => u32::from(u16::from_le_bytes([*a, *b])),
            _ => 0,
        },
        [b'\x93', b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => match take(4)?.as_slice() {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        },
        [b'\x93', b'N', b'U', b'M', b'P', b'Y', version, _] => {
            return Err(format!("version {version} of the format"));
        }
        _ => return Err("its first bytes are others".to_owned()),
    };
    if length > MAX_HEADER {
        return Err(format!("its header has {length} bytes"));
    }
    String::from_utf8(take(length.into())?).map_err(|_| "its header is no text".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_numpy() {
        let element = |shape: &[usize]| {
            let mut bytes = Vec::new();
            write_header(&mut bytes, "<f4", shape).unwrap();
            assert_eq!(bytes.len() % 64, 0, "length of the header");
            let header = Header::read(&mut bytes.as_slice()).unwrap();
            assert_eq!(header.shape, shape, "shape");
            String::from_utf8_lossy(&bytes[10..]).into_owned()
        };
        assert!(element(&[]).contains("'shape': ()"), "a scalar");
        assert!(element(&[3]).contains("'shape': (3,)"), "a vector");
        assert!(element(&[3, 4]).contains("'shape': (3, 4)"), "a matrix");
    }

    #[test]
    fn elements_of_every_type_are_read() {
        let element = |kind, size, big_endian| Element::for_tests(kind, size, big_endian);
        assert_eq!(
            element('i', 2, false).integer(&[0xFE, 0xFF]),
            Some(-2),
            "int16"
        );
        assert_eq!(
            element('i', 2, true).integer(&[0xFF, 0xFE]),
            Some(-2),
            "int16, big-endian"
        );
        assert_eq!(
            element('u', 8, false).integer(&[0xFF; 8]),
            None,
            "beyond i64"
        );
        assert_eq!(
            element('f', 2, false).float(&[0x00, 0x3C]).to_bits(),
            1f32.to_bits(),
            "half"
        );
        let bytes = 0.1f64.to_be_bytes();
        assert_eq!(
            element('f', 8, true).float(&bytes).to_bits(),
            0.1f32.to_bits(),
            "double"
        );
    }
}
