//! Sums to results in one pass, in `i32`: bias, rectifier, integer scale, shift and saturation.
//!
//! Every step is monotone in its sum. So the range of the sums of each channel tells afterwards whether any step but
//! the last clipped something, and how large each intermediate was; nothing is watched in between.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

mod vector;
mod words;

use crate::chain::Activation;
use crate::dispatch::{InstructionSet, Job, dispatch};
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::Kernels;
use crate::narrow::{Limit, Steps};
use crate::quads::{self, BYTES, Block, Numbers};
use crate::summary::Exact;

/// Channels of the tables are a multiple of this; those that do not exist give zeros.
pub(crate) const LANES: usize = 32;

/// An integer type of one byte: `u8` or `i8`.
pub trait Byte: Activation {
    /// Whether it is `i8`.
    const IS_SIGNED: bool;

    /// Returns the low byte of `v`: `v` itself, if it fits.
    fn low_byte(v: i32) -> Self;

    /// Returns the value nearest to `v`.
    fn saturated(v: i64) -> Self {
        let (lo, hi) = if Self::IS_SIGNED {
            (-128, 127)
        } else {
            (0, 255)
        };
        Self::low_bits(v.clamp(lo, hi))
    }
}

macro_rules! byte {
    ($t:ty, $is_signed:literal $(, #[$lint:meta])*) => {
        impl Byte for $t {
            const IS_SIGNED: bool = $is_signed;

            $(#[$lint])*
            #[expect(clippy::cast_possible_truncation, reason = "the low bits are asked for")]
            #[inline(always)]
            fn low_byte(v: i32) -> Self {
                v as Self
            }
        }
    };
}
byte!(u8, false, #[expect(clippy::cast_sign_loss, reason = "the low bits are asked for")]);
byte!(i8, true);

/// [`Steps`] that stay in an `i32`, one entry a channel. NUMERICS.md E2.
///
/// ```text
/// v   = sum + bias
/// out = (min(max(v, least), most) * scale + half) >> right
/// ```
///
/// This equals the steps unless one before the last clips: `least` and `most` are the first sums whose results are the
/// ends of the last range. Without a shift that is the range of the sums with bias, and these must not clip, either.
#[derive(Clone, Debug)]
pub struct Finish {
    channels: usize,
    pub(crate) bias: Vec<i32>,
    pub(crate) least: Vec<i32>,
    pub(crate) most: Vec<i32>,
    pub(crate) scale: Vec<i32>,
    pub(crate) half: Vec<i32>,
    pub(crate) right: Vec<u32>,
    /// The half that rounds, and the bias, scaled.
    pub(crate) half_and_bias: Vec<i32>,
    /// The low bytes of the least and of the largest result.
    pub(crate) low: Vec<u8>,
    pub(crate) high: Vec<u8>,
    /// Sums with bias below which, and above which, the last step clips.
    pub(crate) clips_below: Vec<i32>,
    pub(crate) clips_above: Vec<i32>,
    /// Whether any sum can be one of these.
    pub(crate) may_clip: bool,
    /// Whether an unsigned byte shows that the last step clipped: it lies above `shown`.
    shows_clips: bool,
    /// The largest byte that is no clipped result, and the largest of all where none is clipped.
    shown: Vec<u8>,
    /// Whether every sum can be scaled as it is, since no product leaves an `i32`.
    pub(crate) scales_all: bool,
    /// Bound of the magnitudes of the sums with bias.
    pub(crate) bound: i64,
    /// The same for tiles of 32 channels.
    pub(crate) tables: Vec<Tables>,
    /// Whether results are shifted; if not, they are sums between two ends.
    pub(crate) shifts: bool,
    /// What the results lie in.
    range: Limit,
    /// The steps as they are defined.
    pub(crate) exact: Exact,
    /// The same for blocks of 64 channels.
    pub(crate) quads: Vec<QuadTables>,
}

/// The tables of the channels of a block, in the order of its vectors.
#[derive(Clone, Debug)]
pub(crate) struct QuadTables {
    pub(crate) bias: Numbers,
    pub(crate) least: Numbers,
    pub(crate) most: Numbers,
    pub(crate) scale: Numbers,
    pub(crate) half: Numbers,
    pub(crate) right: Numbers,
    pub(crate) below: Numbers,
    pub(crate) above: Numbers,
    pub(crate) packing: Packing,
}

/// The tables of 32 channels, side by side.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Tables {
    pub(crate) bias: [i32; LANES],
    pub(crate) scale: [i32; LANES],
    /// The half that rounds, and the bias, scaled.
    pub(crate) half: [i32; LANES],
    pub(crate) right: [i32; LANES],
    pub(crate) below: [i32; LANES],
    pub(crate) above: [i32; LANES],
    pub(crate) packing: Packing,
}

/// The ends of the results of a block of channels, in the order of the bytes of some pixels.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Packing {
    pub(crate) low: [u8; BYTES],
    pub(crate) high: [u8; BYTES],
    /// Unsigned bytes above which a result was clipped ([`Finish::shows_clips`]).
    pub(crate) shown: [u8; BYTES],
}

/// What the sums of a layer, bias added, were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremes {
    /// Least sum of each channel; `i32::MAX` if there was none.
    pub least: Vec<i32>,
    /// Largest sum of each channel; `i32::MIN` if there was none.
    pub most: Vec<i32>,
    /// How many results the last step clipped.
    pub clipped: u64,
}

/// The numbers of one channel.
struct Channel {
    least: i32,
    most: i32,
    scale: i32,
    half: i32,
    right: u32,
    clips_below: i32,
    clips_above: i32,
}

impl Finish {
    /// Returns the steps in 32 bits for `channels` channels, or `None` if they do not fit.
    ///
    /// `largest` bounds the magnitude of the sums.
    ///
    /// # Panics
    ///
    /// Panics if a step has another number of channels.
    #[must_use]
    pub fn new(steps: &Steps, channels: usize, largest: u64) -> Option<Self> {
        if channels == 0 || steps.scale.is_some() && steps.shift.is_none() {
            return None;
        }
        let limit = last_limit(steps);
        let padded = channels.next_multiple_of(LANES);
        let mut finish = Self::empty(channels, padded);
        finish.shifts = steps.shift.is_some();
        let tops = steps.rectify.iter().filter(|_| !finish.shifts).flatten();
        finish.range = Limit {
            lo: if steps.rectify.is_some() { 0 } else { limit.lo },
            hi: tops.max().map_or(limit.hi, |top| limit.hi.min(*top)),
        };
        for channel in 0..channels {
            let bias = steps.bias.as_ref().map_or(0, |(bias, _)| bias[channel]);
            let bound = i64::try_from(largest)
                .ok()?
                .checked_add(bias.checked_abs()?)?;
            i32::try_from(bound).ok()?;
            let scale = steps.scale.as_ref().map_or(1, |(scale, _)| scale[channel]);
            let top = steps.rectify.as_ref().map(|tops| tops[channel]);
            let shift = steps.shift.as_ref().map_or(0, |(shift, _)| shift[channel]);
            let entry = Channel::new((scale, shift), top, limit, bound)?;
            finish.bias[channel] = i32::try_from(bias).ok()?;
            finish.least[channel] = entry.least;
            finish.most[channel] = entry.most;
            finish.scale[channel] = entry.scale;
            finish.half[channel] = entry.half;
            finish.right[channel] = entry.right;
            finish.clips_below[channel] = entry.clips_below;
            finish.clips_above[channel] = entry.clips_above;
            let product = bound * i64::from(entry.scale) + i64::from(entry.half);
            finish.scales_all &= product <= i32::MAX.into();
            finish.bound = finish.bound.max(bound);
            let bias = finish.bias[channel].wrapping_mul(entry.scale);
            finish.half_and_bias[channel] = entry.half.wrapping_add(bias);
            finish.low[channel] = entry.result(entry.least);
            finish.high[channel] = entry.result(entry.most);
            finish.shown[channel] = entry.shown(limit);
            finish.shows_clips &= entry.shows_clips(limit);
            finish.may_clip |= entry.clips_below > i32::MIN || entry.clips_above < i32::MAX;
        }
        finish.exact = Exact::new(steps, channels);
        finish.tables = (0..padded)
            .step_by(LANES)
            .map(|first| finish.tables(first))
            .collect();
        finish.quads = quads::blocks(channels)
            .map(|block| finish.quad(&block))
            .collect();
        Some(finish)
    }

    fn empty(channels: usize, padded: usize) -> Self {
        Self {
            channels,
            bias: vec![0; padded],
            least: vec![0; padded],
            most: vec![0; padded],
            scale: vec![0; padded],
            half: vec![0; padded],
            right: vec![0; padded],
            half_and_bias: vec![0; padded],
            low: vec![0; padded],
            high: vec![0; padded],
            clips_below: vec![i32::MIN; padded],
            clips_above: vec![i32::MAX; padded],
            may_clip: false,
            shows_clips: true,
            shown: vec![u8::MAX; padded],
            scales_all: true,
            bound: 0,
            tables: Vec::new(),
            shifts: false,
            range: Limit { lo: 0, hi: 0 },
            exact: Exact::default(),
            quads: Vec::new(),
        }
    }

    fn tables(&self, first: usize) -> Tables {
        let of = |table: &[i32]| std::array::from_fn(|i| table[first + i]);
        // A vector of bytes holds two pixels of 32 channels, or four where there are 16.
        let is_half = self.channels.saturating_sub(first) <= LANES >> 1;
        let width = if is_half { LANES >> 1 } else { LANES };
        Tables {
            bias: of(&self.bias),
            scale: of(&self.scale),
            half: of(&self.half_and_bias),
            right: std::array::from_fn(|i| self.right[first + i].cast_signed()),
            below: of(&self.clips_below),
            above: of(&self.clips_above),
            packing: self.packing(first, width),
        }
    }

    /// Returns the ends of the results of pixels with `width` channels from `first` on, a power of two.
    fn packing(&self, first: usize, width: usize) -> Packing {
        let of = |ends: &[u8], none: u8| {
            let end = |i: usize| ends.get(first + (i & (width - 1))).copied();
            std::array::from_fn(|i| end(i).unwrap_or(none))
        };
        Packing {
            low: of(&self.low, 0),
            high: of(&self.high, 0),
            shown: of(&self.shown, u8::MAX),
        }
    }

    fn quad(&self, block: &Block) -> QuadTables {
        let right: Vec<i32> = self.right.iter().map(|v| v.cast_signed()).collect();
        QuadTables {
            bias: block.spread(&self.bias),
            least: block.spread(&self.least),
            most: block.spread(&self.most),
            scale: block.spread(&self.scale),
            half: block.spread(&self.half),
            right: block.spread(&right),
            below: block.spread(&self.clips_below),
            above: block.spread(&self.clips_above),
            packing: self.packing(block.first, block.width()),
        }
    }

    /// Checks that every result is an `O`.
    pub(crate) fn check_type<O: Byte>(&self) {
        let (lo, hi) = if O::IS_SIGNED { (-128, 127) } else { (0, 255) };
        assert!(
            self.range.lo >= lo && self.range.hi <= hi,
            "results in {:?} fit the type of the output",
            self.range
        );
    }

    /// Returns whether sums can be scaled as they are, and their results saturate as they are packed.
    pub(crate) const fn packs_all<O: Byte>(&self) -> bool {
        // Unsigned bytes saturate at zero from below.
        self.scales_all && (O::IS_SIGNED || self.range.lo == 0)
    }

    /// Returns whether results that saturate as they are packed show which of them the last step clips, before they are
    /// brought between their ends.
    pub(crate) const fn shows_clips<O: Byte>(&self) -> bool {
        self.shows_clips && !O::IS_SIGNED && self.packs_all::<O>()
    }

    /// Returns the number of channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }
}

impl Channel {
    /// Returns the numbers for sums of magnitude at most `bound`; `top` is the end of a rectifier, if there is one.
    fn new((scale, shift): (i64, i32), top: Option<i64>, limit: Limit, bound: i64) -> Option<Self> {
        let right = shift.checked_neg().and_then(|s| u32::try_from(s).ok())?;
        let reach = i128::from(bound) * i128::from(scale);
        if scale < 0 || right > 62 || top.is_some_and(|top| top < 0) {
            return None;
        }
        let half = if right == 0 { 0 } else { 1_i64 << (right - 1) };
        if scale == 0 || reach < i128::from(half) {
            // Every result rounds to zero.
            return Some(Self::zero());
        }
        if scale > 1 << right {
            return None; // A step of the sum could jump over the end of the range.
        }
        // The least sum whose result is `r` or more.
        let first = |r: i64| (i128::from(r) << right) - i128::from(half);
        let first = |r: i64| ceil_div(first(r), i128::from(scale));
        let clips_above = first(limit.hi + 1) - 1;
        let most = first(limit.hi).min(top.map_or(i128::MAX, i128::from));
        let (clips_below, least) = match top {
            Some(_) => (i128::MIN, 0),
            None => (first(limit.lo), first(limit.lo + 1) - 1),
        };
        let [least, most] = [least, most].map(|v| v.clamp((-bound).into(), bound.into()));
        let fits = |v: i128| i32::try_from(v * i128::from(scale) + i128::from(half)).ok();
        fits(least).and(fits(most))?;
        let never_above = top.is_some_and(|top| i128::from(top) <= clips_above)
            || clips_above >= i128::from(bound);
        Some(Self {
            least: i32::try_from(least).ok()?,
            most: i32::try_from(most.max(least)).ok()?,
            scale: i32::try_from(scale).ok()?,
            half: i32::try_from(half).ok()?,
            right,
            clips_below: if clips_below <= i128::from(-bound) {
                i32::MIN
            } else {
                clamped(clips_below)
            },
            clips_above: if never_above {
                i32::MAX
            } else {
                clamped(clips_above)
            },
        })
    }

    /// Returns the low byte of the result of a sum.
    fn result(&self, sum: i32) -> u8 {
        u8::low_byte((sum.wrapping_mul(self.scale).wrapping_add(self.half)) >> self.right)
    }

    /// Returns whether an unsigned byte to which a result saturates shows that the last step clips it to `limit`.
    fn shows_clips(&self, limit: Limit) -> bool {
        let is_below_bytes = limit.hi < u8::MAX.into();
        self.clips_below == i32::MIN && (is_below_bytes || self.clips_above == i32::MAX)
    }

    /// Returns the largest byte that shows no clip.
    fn shown(&self, limit: Limit) -> u8 {
        let is_never_clipped = self.clips_above == i32::MAX;
        let limit = u8::try_from(limit.hi).ok().filter(|_| !is_never_clipped);
        limit.unwrap_or(u8::MAX)
    }

    /// A channel whose every result is zero.
    const fn zero() -> Self {
        Self {
            least: 0,
            most: 0,
            scale: 0,
            half: 0,
            right: 0,
            clips_below: i32::MIN,
            clips_above: i32::MAX,
        }
    }
}

/// Returns the range of the last step that has one, as far as it is one of `i32`.
fn last_limit(steps: &Steps) -> Limit {
    let shift = steps.shift.as_ref().map(|(_, limit)| *limit);
    let bias = steps.bias.as_ref().map(|(_, limit)| *limit);
    let limit = shift.or(bias).or(steps.sum);
    // No result leaves an `i32`: what is beyond clips nothing.
    Limit {
        lo: limit
            .map_or(i64::MIN, |limit| limit.lo)
            .max(i32::MIN.into()),
        hi: limit
            .map_or(i64::MAX, |limit| limit.hi)
            .min(i32::MAX.into()),
    }
}

fn clamped(v: i128) -> i32 {
    i32::try_from(v).unwrap_or(if v < 0 { i32::MIN } else { i32::MAX })
}

/// Returns the least integer that is not below `a / b`, `b > 0`.
const fn ceil_div(a: i128, b: i128) -> i128 {
    -(-a).div_euclid(b)
}

impl Extremes {
    /// Returns the extremes of no sums.
    #[must_use]
    pub fn new(finish: &Finish) -> Self {
        Self {
            least: vec![i32::MAX; finish.bias.len()],
            most: vec![i32::MIN; finish.bias.len()],
            clipped: 0,
        }
    }

    /// Adds those of other sums of the same layer; the order does not matter.
    pub fn merge(&mut self, other: &Self) {
        self.add(0, &other.least, &other.most);
        self.clipped += other.clipped;
    }

    /// Adds the ends of the sums of the channels from `first` on.
    #[inline(always)]
    pub(crate) fn add(&mut self, first: usize, least: &[i32], most: &[i32]) {
        for (own, least) in self.least[first..][..least.len()].iter_mut().zip(least) {
            *own = (*own).min(*least);
        }
        for (own, most) in self.most[first..][..most.len()].iter_mut().zip(most) {
            *own = (*own).max(*most);
        }
    }
}

impl Kernels {
    /// Writes the results of `sums`, `[pixels, channels]`, into `out`, and adds what they were to `extremes`.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ or are no whole number of pixels, or results do not fit an `O`.
    pub fn finish<O: Byte>(
        self,
        finish: &Finish,
        sums: &[i32],
        out: &mut [O],
        extremes: &mut Extremes,
    ) {
        assert_eq!(sums.len(), out.len(), "a result for each sum");
        finish.check_type::<O>();
        assert!(
            sums.len().checked_rem(finish.channels) == Some(0),
            "whole pixels"
        );
        #[cfg(target_arch = "x86_64")]
        if self.isa() >= Isa::Avx2 && finish.channels >= vector::WIDTH {
            // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX2 with FMA and POPCNT, which all
            // sets above include.
            unsafe { vector::pixels(finish, sums, out, extremes) };
            return;
        }
        dispatch(
            self,
            Pixels {
                finish,
                sums,
                out,
                extremes,
            },
        );
    }
}

/// Pixels of one block.
struct Pixels<'a, O> {
    finish: &'a Finish,
    sums: &'a [i32],
    out: &'a mut [O],
    extremes: &'a mut Extremes,
}

impl<O: Byte> Job for Pixels<'_, O> {
    fn n_columns(&self) -> usize {
        self.finish.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let Self {
            finish,
            sums,
            out,
            extremes,
        } = self;
        let n = finish.channels;
        let (bias, scale, half, right) = (
            &finish.bias[..n],
            &finish.scale[..n],
            &finish.half[..n],
            &finish.right[..n],
        );
        let (least, most) = (&finish.least[..n], &finish.most[..n]);
        let (below, above) = (&finish.clips_below[..n], &finish.clips_above[..n]);
        let (lo, hi) = (&mut extremes.least[..n], &mut extremes.most[..n]);
        for (sums, out) in sums.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let mut clipped = 0_u32;
            for c in 0..n {
                let v = sums[c].wrapping_add(bias[c]);
                lo[c] = lo[c].min(v);
                hi[c] = hi[c].max(v);
                clipped += u32::from(v < below[c]) + u32::from(v > above[c]);
                // Only the sum with the half stays in an `i32`: a product may leave it by less than that.
                let scaled = v.max(least[c]).min(most[c]).wrapping_mul(scale[c]);
                out[c] = O::low_byte(scaled.wrapping_add(half[c]) >> right[c]);
            }
            extremes.clipped += u64::from(clipped);
        }
    }
}
