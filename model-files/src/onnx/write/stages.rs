//! Quantizers: float tensors to integers and back.
//!
//! Between two quantizers a tensor holds `integer * 2^-frac_bits` as floats: what the integers mean,
//! without the float scales of a QFloat. Powers of two cost no digits, so sums below 24 bits are exact.

use quantizer_core::bits::ValueBits;
use quantizer_core::log2::mul_pow2;
use quantizer_core::quantizers::{InputQuantizer, OutputStage};
use quantizer_core::tensor::int_to_f32;
use quantizer_core::{PerAxis, QFormat};

use super::builder::{Builder, Integers, Kind, Value, floats, integer};
use crate::onnx::refused::Refused;

/// Whether a tensor can hold negative integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signs {
    /// None: what a ReLU gives.
    Positive,
    /// Both.
    Both,
}

/// Returns `2^-frac_bits`.
pub(super) fn unit(frac_bits: i32) -> f32 {
    mul_pow2(1.0, -frac_bits)
}

/// Adds an input quantizer (NUMERICS.md: N11): `QuantizeLinear` rounds halves to even as it does.
pub(super) fn input_quantizer(
    b: &mut Builder,
    name: &str,
    x: &Value,
    quantizer: &InputQuantizer,
) -> Result<Value, Refused> {
    let bits = quantizer.value_bits;
    let zero = quantizer.zero_point.clone().unwrap_or(PerAxis::Tensor(0));
    let x = b.channels_first(x);
    let limits = Limits {
        low: zero.map(|zero| (bits.int_min() + zero).max(bits.int_min())),
        high: zero.map(|zero| (bits.int_max() + zero).min(bits.int_max())),
    };
    let kind = storage(b.integers, bits, Signs::Both, &quantizer.frac_bits)?;
    // What is clipped has no zero point yet.
    let unshifted = Limits {
        low: limits.low.zip(&zero, |limit, zero| limit - zero),
        high: limits.high.zip(&zero, |limit, zero| limit - zero),
    };
    let x = if limits == Limits::of(kind) {
        x
    } else {
        clip(b, name, &x, &unshifted, &quantizer.frac_bits)
    };
    {
        let y = there_and_back(b, name, &x, kind, &quantizer.frac_bits, &zero);
        Ok(y.bounded(1_i128 << bits.bits()))
    }
}

/// Adds an output quantizer (NUMERICS.md: N10).
pub(super) fn output_stage(
    b: &mut Builder,
    name: &str,
    x: &Value,
    stage: &OutputStage,
    (inner, format, signs): (&QFormat, &QFormat, Signs),
) -> Result<Value, Refused> {
    let kind = storage(b.integers, stage.value_bits, signs, &format.frac_bits)?;
    let products = format
        .frac_bits
        .zip(&stage.shift, |frac, shift| frac - shift);
    let (factors, buffer) = stage
        .multiplier
        .clone()
        .map_or((PerAxis::Tensor(1), None), |(factors, buffer)| {
            (factors, Some(buffer))
        });
    let largest = factors.as_slice().iter().max().copied().unwrap_or(1);
    let bound = x.bound.saturating_mul(i128::from(largest));
    // A saturation is out of sight if the outputs saturate there too.
    let out = i32::from(stage.value_bits.bits());
    let buffer = buffer.filter(|buffer| {
        let hides = |shift: &i32| i32::from(buffer.bits()).saturating_add(*shift) >= out;
        bound > i128::from(buffer.int_max()) && !stage.shift.as_slice().iter().all(hides)
    });
    let rounding = Rounding {
        name,
        factors,
        buffer,
        products,
        inner: &inner.frac_bits,
        stage,
        format,
    };
    let x = if bound < EXACT_FLOATS {
        rounding.in_floats(b, x)
    } else {
        rounding.in_doubles(b, x)
    };
    let limits = Limits {
        low: PerAxis::Tensor(match signs {
            Signs::Positive => 0,
            Signs::Both => stage.value_bits.int_min(),
        }),
        high: PerAxis::Tensor(stage.value_bits.int_max()),
    };
    let x = if limits == Limits::of(kind) {
        x
    } else {
        clip(b, name, &x, &limits, &format.frac_bits)
    };
    let zero = PerAxis::Tensor(0);
    let y = there_and_back(b, name, &x, kind, &format.frac_bits, &zero);
    Ok(y.bounded(1_i128 << stage.value_bits.bits()))
}

/// Integers below have a digit to spare in a float, for the half that is added before rounding.
const EXACT_FLOATS: i128 = 1 << 23;

/// Scale multiply and shift of an output quantizer.
struct Rounding<'a> {
    name: &'a str,
    factors: PerAxis<i64>,
    /// Width of the products where they saturate first.
    buffer: Option<ValueBits>,
    /// Binary points of the products.
    products: PerAxis<i32>,
    /// Binary points of the sums.
    inner: &'a PerAxis<i32>,
    stage: &'a OutputStage,
    format: &'a QFormat,
}

impl Rounding<'_> {
    /// Multiplies, and adds half of the last digit that is dropped: what lies between two integers
    /// is no tie any more for `QuantizeLinear`, and goes up as in a shift.
    fn in_floats(&self, b: &mut Builder, x: &Value) -> Value {
        let mut x = x.clone();
        let point = self.inner.zip(&self.products, |from, to| from - to);
        let scales = self
            .factors
            .zip(&point, |q, point| mul_pow2(int_to_f32(q), point));
        if scales.uniform() != Some(1.0) {
            let scales = b.per_channel(&format!("{}/scales", self.name), &x, &scales);
            x = b.map("Mul", self.name, &x, &[&scales], Vec::new());
        }
        if let Some(buffer) = self.buffer {
            x = saturate(b, self.name, &x, buffer, &self.products);
        }
        let half = self.products.zip(&self.stage.shift, |frac, shift| {
            if shift < 0 { unit(frac + 1) } else { 0.0 }
        });
        if half.as_slice().iter().all(|half| *half == 0.0) {
            return x;
        }
        let half = b.per_channel(&format!("{}/half", self.name), &x, &half);
        b.map("Add", self.name, &x, &[&half], Vec::new())
    }

    /// Does the same with the 53 digits of doubles, and rounds there.
    fn in_doubles(&self, b: &mut Builder, x: &Value) -> Value {
        let to = |kind: Kind| vec![integer("to", kind as i64)];
        let mut x = b.map("Cast", self.name, x, &[], to(Kind::Double));
        let point = self
            .inner
            .zip(&self.stage.shift, |frac, shift| frac + shift);
        let scales = self
            .factors
            .zip(&point, |q, point| int_to_f64(q) * f64::from(unit(-point)));
        let scales = b.double_per_channel(&format!("{}/scales", self.name), &x, &scales);
        x = b.map("Mul", self.name, &x, &[&scales], Vec::new());
        if let Some(buffer) = self.buffer {
            let limit = |limit: i64| {
                let shifts = &self.stage.shift;
                shifts.map(|shift| int_to_f64(limit) * f64::from(unit(-shift)))
            };
            let (low, high) = (limit(buffer.int_min()), limit(buffer.int_max()));
            let low = b.double_per_channel(&format!("{}/low", self.name), &x, &low);
            let high = b.double_per_channel(&format!("{}/high", self.name), &x, &high);
            x = b.map("Max", self.name, &x, &[&low], Vec::new());
            x = b.map("Min", self.name, &x, &[&high], Vec::new());
        }
        let half = b.double_per_channel(&format!("{}/half", self.name), &x, &PerAxis::Tensor(0.5));
        x = b.map("Add", self.name, &x, &[&half], Vec::new());
        x = b.map("Floor", self.name, &x, &[], Vec::new());
        x = b.map("Cast", self.name, &x, &[], to(Kind::Float));
        let units = self.format.frac_bits.map(unit);
        let units = b.per_channel(&format!("{}/units", self.name), &x, &units);
        b.map("Mul", self.name, &x, &[&units], Vec::new())
    }
}

/// Saturates to the integers of `bits` at a binary point.
pub(super) fn saturate(
    b: &mut Builder,
    name: &str,
    x: &Value,
    bits: ValueBits,
    frac_bits: &PerAxis<i32>,
) -> Value {
    let limits = Limits {
        low: PerAxis::Tensor(bits.int_min()),
        high: PerAxis::Tensor(bits.int_max()),
    };
    let bound = x.bound.min(1_i128 << bits.bits());
    clip(b, name, x, &limits, frac_bits).bounded(bound)
}

/// The integers of a tensor, least and largest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limits {
    low: PerAxis<i64>,
    high: PerAxis<i64>,
}

impl Limits {
    /// Returns what a type holds.
    fn of(kind: Kind) -> Self {
        let (low, high) = match kind {
            Kind::Int8 => (-128, 127),
            Kind::UInt8 => (0, 255),
            Kind::UInt16 => (0, 65_535),
            Kind::Int16 => (-32_768, 32_767),
            Kind::Int32 | Kind::Int64 | Kind::Float | Kind::Double => (i64::MIN, i64::MAX),
        };
        Self {
            low: PerAxis::Tensor(low),
            high: PerAxis::Tensor(high),
        }
    }
}

/// Clips real values at integers of a binary point.
fn clip(
    b: &mut Builder,
    name: &str,
    x: &Value,
    limits: &Limits,
    frac_bits: &PerAxis<i32>,
) -> Value {
    let real = |limit: &PerAxis<i64>| {
        limit.zip(frac_bits, |limit, frac| mul_pow2(int_to_f32(limit), -frac))
    };
    let (low, high) = (real(&limits.low), real(&limits.high));
    let is_scalar = low.uniform().is_some() && high.uniform().is_some();
    let low = b.per_channel(&format!("{name}/low"), x, &low);
    let high = b.per_channel(&format!("{name}/high"), x, &high);
    if is_scalar {
        return b.map("Clip", name, x, &[&low, &high], Vec::new());
    }
    let x = b.map("Max", name, x, &[&low], Vec::new());
    b.map("Min", name, &x, &[&high], Vec::new())
}

/// Adds `QuantizeLinear` and `DequantizeLinear`; the real value of an integer includes its zero point,
/// which the layers behind take off.
fn there_and_back(
    b: &mut Builder,
    name: &str,
    x: &Value,
    kind: Kind,
    frac_bits: &PerAxis<i32>,
    zero: &PerAxis<i64>,
) -> Value {
    let units = frac_bits.zip(zero, |frac, _| unit(frac));
    let zeros = zero.zip(&units, |zero, _| zero);
    let is_scalar = units.uniform().is_some() && zeros.uniform().is_some();
    let (units, zeros) = if is_scalar {
        (&units.as_slice()[..1], &zeros.as_slice()[..1])
    } else {
        (units.as_slice(), zeros.as_slice())
    };
    let len = units.len();
    let extents: &[usize] = if is_scalar { &[] } else { &[len] };
    let scale = b.constant(&format!("{name}/scale"), extents, floats(units));
    let point = b.constant(&format!("{name}/zero_point"), extents, words(kind, zeros));
    let axis = || vec![integer("axis", x.channel_axis().rem_euclid(rank(x)))];
    let quantized = b.map("QuantizeLinear", name, x, &[&scale, &point], axis());
    let origin = if zeros.iter().all(|zero| *zero == 0) {
        point
    } else {
        b.constant(
            &format!("{name}/origin"),
            extents,
            words(kind, &vec![0; len]),
        )
    };
    b.map(
        "DequantizeLinear",
        name,
        &quantized,
        &[&scale, &origin],
        axis(),
    )
}

fn rank(x: &Value) -> i64 {
    super::builder::int(x.shape.len() + 1)
}

/// Returns the type of the integers of a quantizer.
///
/// What has a binary point for each channel is stored in words: onnxruntime fuses products of bytes, and
/// then refuses zero points that are not one.
fn storage(
    integers: Integers,
    bits: ValueBits,
    signs: Signs,
    points: &PerAxis<i32>,
) -> Result<Kind, Refused> {
    let has_bytes = points.uniform().is_some();
    match (bits.bits(), signs) {
        (0..=7, _) if has_bytes && integers == Integers::Bytes => Ok(Kind::Int8),
        (0..=8, Signs::Positive) if has_bytes => Ok(Kind::UInt8),
        (0..=15, _) => Ok(Kind::Int16),
        (16, Signs::Positive) => Ok(Kind::UInt16),
        (bits, _) => Err(Refused::unsupported(format!(
            "integers of {bits} bits without the sign; QuantizeLinear has 16 with it"
        ))),
    }
}

/// Returns the bytes of integers of a type of up to 16 bits, saturated to it.
fn words(kind: Kind, values: &[i64]) -> (Kind, Vec<u8>) {
    let limits = Limits::of(kind);
    let values = values.iter().map(|v| {
        (*v).clamp(limits.low.at(0), limits.high.at(0))
            .to_le_bytes()
    });
    let n_bytes = match kind {
        Kind::Int8 | Kind::UInt8 => 1,
        Kind::Int16 | Kind::UInt16 => 2,
        Kind::Int32 | Kind::Float => 4,
        Kind::Int64 | Kind::Double => 8,
    };
    let bytes = values.flat_map(|bytes| bytes.into_iter().take(n_bytes));
    (kind, bytes.collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "scales have few bits, and buffers at most 32"
)]
const fn int_to_f64(v: i64) -> f64 {
    v as f64
}
