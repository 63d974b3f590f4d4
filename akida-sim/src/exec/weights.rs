//! Weights in the narrowest type, and the accumulator that their static bound asks for.

use std::borrow::Cow;

use kernels::Kernels;

use super::bounds::Interval;
use super::tensor::{Int, Storage};

/// Weights in the narrowest type, with the accumulator that their static bound asks for.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) packed: Packed,
    pub(super) channels: usize,
    /// The same for kernels that pack them.
    pub(super) lanes: Option<Lanes>,
    /// The same before the shifts of the rows, until they are packed.
    pub(super) unaligned: Option<Unaligned>,
    /// Whether the lanes hold rows of several shifts.
    pub(super) has_shifts: bool,
    /// Whether sums may leave an `i32`.
    pub(super) wide: bool,
    /// Bound of the magnitudes of the sums.
    pub(super) largest: u64,
}

/// Weights of a byte, and how far each row is shifted.
#[derive(Clone, Debug)]
pub(super) struct Unaligned {
    pub(super) weights: Vec<i8>,
    /// One for each row of the kernel.
    pub(super) shifts: Vec<u32>,
}

/// Weights in lanes of bytes or of words, for kernels that multiply several at once.
#[derive(Clone, Debug)]
pub(super) enum Lanes {
    Bytes(kernels::Packed<i8>),
    Words(kernels::Packed<i16>),
    /// Bytes that never leave 16 bits.
    Pairs(kernels::BytePairs),
    /// A depthwise kernel of bytes.
    Depthwise(kernels::PackedDepthwise),
    /// The same for kernels that take two rows at once.
    PairedDepthwise(kernels::PairedDepthwise),
}

#[derive(Clone, Debug)]
pub(super) enum Packed {
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
}

impl Weights {
    /// Packs a kernel whose last axis has `channels` entries, for inputs in `x`.
    pub(super) fn new<'a>(
        kernel: impl Iterator<Item = &'a i32> + Clone,
        channels: usize,
        x: Interval,
    ) -> Self {
        let bound = sum_bound(kernel.clone(), channels, x);
        let wide = bound > i32::MAX.unsigned_abs().into();
        let largest = u64::try_from(bound).map_or(1 << 62, |bound| bound.min(1 << 62));
        Self {
            packed: Packed::new(kernel, wide),
            channels,
            lanes: None,
            unaligned: None,
            has_shifts: false,
            wide,
            largest,
        }
    }

    /// Packs a depthwise kernel of extents `kernel` for inputs in `x` of the type `input`, where that is faster.
    pub(super) fn pack_depthwise(&mut self, kernel: [usize; 2], x: Interval, input: Storage) {
        let Packed::I8(weights) = &self.packed else {
            return;
        };
        // The largest input, counted from the least value of its type on; outside the image is zero.
        let most = match input {
            Storage::U8 if !self.wide => x.hi,
            Storage::I8 if !self.wide => x.hi.max(0) - i64::from(i8::MIN),
            Storage::U8 | Storage::I8 | Storage::I16 | Storage::I32 | Storage::I64 => return,
        };
        let extents = [kernel[0], kernel[1], self.channels];
        let kernels = Kernels::active();
        if kernels.packs_depthwise() {
            let packed = kernels::PackedDepthwise::new(weights, extents);
            self.lanes = Some(Lanes::Depthwise(packed));
        } else if kernels.pairs_depthwise() {
            let most = u8::try_from(most).unwrap_or(u8::MAX);
            let packed = kernels::PairedDepthwise::new(weights, extents, most);
            self.lanes = packed.map(Lanes::PairedDepthwise);
        }
    }

    /// Packs the weights of a convolution whose kernel has `kernel_h` rows, or of a matrix product, which has one, for
    /// inputs in `x`, which have the type `input`, where that is faster.
    pub(super) fn pack_lanes(&mut self, kernel_h: usize, x: Interval, input: Storage) {
        let unaligned = self.unaligned.take();
        let kernels = Kernels::active();
        if !kernels.packs::<i16>() || self.wide || self.channels == 0 {
            return;
        }
        if kernels.packs_pairs()
            && let Some(pairs) = self.pairs(unaligned.as_ref(), x)
        {
            self.has_shifts = unaligned.is_some();
            // Words take half as many rows in a lane.
            if pairs.n_lanes() <= pairs.rows().div_ceil(2) {
                self.lanes = Some(Lanes::Pairs(pairs));
                return;
            }
        }
        // Where nothing multiplies lanes of bytes, they are words: aligned ones, which take no more lanes than others.
        let takes_bytes = kernels.packs::<i8>() && matches!(input, Storage::U8 | Storage::I8);
        if let Some(Unaligned { weights, shifts }) = unaligned.filter(|_| takes_bytes) {
            // Words take half as many rows in a lane.
            let packed = kernels::Packed::shifted(&weights, &shifts, self.channels);
            self.has_shifts = true;
            if packed.n_lanes() <= shifts.len().div_ceil(2) {
                self.lanes = Some(Lanes::Bytes(packed));
                return;
            }
        }
        let words = |kernel: Vec<i16>| Lanes::Words(packed(&kernel, kernel_h, self.channels));
        self.lanes = match (&self.packed, input) {
            (Packed::I8(kernel), Storage::U8 | Storage::I8) if takes_bytes => {
                Some(Lanes::Bytes(packed(kernel, kernel_h, self.channels)))
            }
            (Packed::I8(kernel), Storage::U8 | Storage::I8 | Storage::I16) => {
                Some(words(kernel.iter().map(|w| i16::from(*w)).collect()))
            }
            (Packed::I16(kernel), Storage::U8 | Storage::I8 | Storage::I16) => {
                Some(words(kernel.clone()))
            }
            _ => None,
        };
    }

    /// Returns the weights in pairs for inputs in `x`; `None` if that would not be exact.
    fn pairs(&self, unaligned: Option<&Unaligned>, x: Interval) -> Option<kernels::BytePairs> {
        let most = u8::try_from(x.hi).ok().filter(|_| x.lo >= 0)?;
        let (weights, shifts) = match (unaligned, &self.packed) {
            (Some(Unaligned { weights, shifts }), _) => (weights, Cow::Borrowed(shifts)),
            (None, Packed::I8(weights)) => {
                let rows = weights.len().div_euclid(self.channels);
                (weights, Cow::Owned(vec![0; rows]))
            }
            (None, Packed::I16(_) | Packed::I32(_)) => return None,
        };
        kernels::BytePairs::new(weights, &shifts, self.channels, most)
    }
}

/// Returns a kernel of `kernel_h` rows in lanes.
fn packed<L: kernels::Lane>(kernel: &[L], kernel_h: usize, channels: usize) -> kernels::Packed<L> {
    let rows = kernel.len().div_euclid(channels);
    if kernel_h > 1 {
        kernels::Packed::by_rows(kernel, (kernel_h, rows), channels)
    } else {
        kernels::Packed::new(kernel, rows, channels)
    }
}

impl Packed {
    fn new<'a>(kernel: impl Iterator<Item = &'a i32> + Clone, wide: bool) -> Self {
        let (lo, hi) = kernel
            .clone()
            .fold((0, 0), |(lo, hi), w| (lo.min(*w), hi.max(*w)));
        match Storage::of(lo.into(), hi.into()) {
            Storage::I8 if !wide => Self::I8(kernel.map(|w| i8::narrow((*w).into())).collect()),
            Storage::I8 | Storage::U8 | Storage::I16 if !wide => {
                Self::I16(kernel.map(|w| i16::narrow((*w).into())).collect())
            }
            Storage::I8 | Storage::U8 | Storage::I16 | Storage::I32 | Storage::I64 => {
                Self::I32(kernel.copied().collect())
            }
        }
    }
}

/// Returns a bound of every partial sum: `max |x| * max over channels of sum |w|`.
///
/// A kernel whose weights need more than an `i16` counts as unbounded.
fn sum_bound<'a>(kernel: impl Iterator<Item = &'a i32>, channels: usize, x: Interval) -> u128 {
    let mut sums = vec![0u64; channels.max(1)];
    let mut widest = 0;
    for (i, w) in kernel.enumerate() {
        let channel = i.rem_euclid(channels.max(1));
        sums[channel] += u64::from(w.unsigned_abs());
        widest = widest.max(w.unsigned_abs());
    }
    if widest > u32::from(i16::MAX.unsigned_abs()) {
        return u128::MAX;
    }
    let largest = sums.into_iter().max().unwrap_or(0);
    u128::from(x.max_abs()) * u128::from(largest)
}
