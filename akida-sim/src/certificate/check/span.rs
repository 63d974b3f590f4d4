//! Least and largest values, and what shifts, products and sums make of them.

/// A least and a largest value.
pub(super) type Span = (i128, i128);

/// Returns the span of all integers of `bits` bits beside the sign.
pub(super) const fn full(bits: u8) -> Span {
    let top = 1_i128 << bits;
    (-top, top - 1)
}

/// Returns what is left of a span after saturation to `bits` bits beside the sign.
pub(super) fn cut((lo, hi): Span, bits: u8) -> Span {
    let (low, high) = full(bits);
    (lo.clamp(low, high), hi.clamp(low, high))
}

pub(super) const fn times((lo, hi): Span, w: i128) -> Span {
    if w < 0 {
        (hi * w, lo * w)
    } else {
        (lo * w, hi * w)
    }
}

pub(super) const fn plus(a: Span, b: Span) -> Span {
    (a.0 + b.0, a.1 + b.1)
}

pub(super) fn join(a: Span, b: Span) -> Span {
    (a.0.min(b.0), a.1.max(b.1))
}

/// Returns the span that holds all of `x`.
pub(super) fn total(x: impl IntoIterator<Item = Span>) -> Span {
    x.into_iter().reduce(join).unwrap_or((0, 0))
}

/// Returns the ends after `f`, which never decreases, of each channel.
pub(super) fn each(x: &[Span], f: impl Fn(i128, usize) -> i128) -> Vec<Span> {
    let both = |(c, (lo, hi)): (usize, &Span)| (f(*lo, c), f(*hi, c));
    x.iter().enumerate().map(both).collect()
}

/// Returns a value as the 64 bits hold it in which the definition computes shifts and products.
pub(super) fn in_64_bits(v: i128) -> i128 {
    v.clamp(i64::MIN.into(), i64::MAX.into())
}

/// Returns `v << s`.
pub(super) fn left(v: i128, s: u32) -> i128 {
    in_64_bits(v << s.min(63))
}

/// Returns `v * 2^s`, a half rounded up.
pub(super) fn half_up(v: i128, s: i32) -> i128 {
    match u32::try_from(s) {
        Ok(s) => left(v, s),
        Err(_) => (v + (1 << (s.unsigned_abs().min(100) - 1))) >> s.unsigned_abs().min(100),
    }
}
