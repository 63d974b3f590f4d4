//! Weights in the narrowest type, and the accumulator that their static bound asks for.

use std::borrow::Cow;
use std::sync::OnceLock;

use kernels::Kernels;

use super::bounds::Interval;
use super::tensor::{Int, Storage};

/// Weights in the narrowest type, with the accumulator that their static bound asks for.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) packed: Packed,
    pub(super) channels: usize,
    /// The same before the shifts of the rows, if they are bytes.
    pub(super) unaligned: Option<Unaligned>,
    /// For which kernels they can be packed.
    pub(super) packing: Option<Packing>,
    /// Channels whose results are written twice as large.
    pub(super) doubled: Vec<usize>,
    /// Whether some inputs come twice as large, so that nothing but shifted bytes can multiply them.
    takes_doubled: bool,
    /// Packed when the layer runs first: many have a plan that never runs, and some kernels take a while to pack.
    lanes: OnceLock<Option<Lanes>>,
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

/// What kernels that pack their weights run on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    pub(super) shape: Shape,
    /// The inputs, and their type.
    pub(super) x: Interval,
    pub(super) input: Storage,
}

/// What a kernel is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// That of a convolution, of so many rows, or a matrix, which has one.
    Product { rows: usize },
    /// That of a depthwise convolution.
    Depthwise([usize; 2]),
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
    pub(super) fn new(kernel: &[i32], channels: usize, x: Interval) -> Self {
        let bound = sum_bound(kernel, channels, x);
        let wide = bound > i32::MAX.unsigned_abs().into();
        let largest = u64::try_from(bound).map_or(1 << 62, |bound| bound.min(1 << 62));
        Self {
            packed: Packed::new(kernel, wide),
            channels,
            unaligned: None,
            packing: None,
            doubled: Vec::new(),
            takes_doubled: false,
            lanes: OnceLock::new(),
            wide,
            largest,
        }
    }

    /// Returns the weights for kernels that pack them, where those are faster.
    pub(super) fn lanes(&self) -> Option<&Lanes> {
        let packed = || {
            let packing = self.packing.as_ref()?;
            match packing.shape {
                Shape::Product { rows } => self.product(rows, packing),
                Shape::Depthwise(kernel) => self.depthwise(kernel, packing),
            }
        };
        self.lanes.get_or_init(packed).as_ref()
    }

    /// Returns whether lanes hold rows of one shift each, so that it matters which rows are neighbours.
    pub(super) fn has_shifts(&self) -> bool {
        let kernels = Kernels::active();
        let takes = |packing: &Packing| match packing.input {
            Storage::U8 => kernels.packs_pairs() || kernels.packs::<i8>(),
            Storage::I8 => kernels.packs::<i8>(),
            Storage::I16 | Storage::I32 | Storage::I64 => false,
        };
        self.unaligned.is_some() && !self.wide && self.packing.as_ref().is_some_and(takes)
    }

    /// Returns whether they are those of a depthwise layer whose kernel can write doubled results.
    pub(super) fn packs_depthwise(&self) -> bool {
        let is_byte = |packing: &Packing| matches!(packing.input, Storage::U8 | Storage::I8);
        let is_packed = matches!(self.packed, Packed::I8(_)) && !self.wide;
        let packing = self.packing.as_ref().filter(|_| is_packed);
        Kernels::active().packs_depthwise() && packing.is_some_and(is_byte)
    }

    /// Returns the inputs of bytes that are multiplied with their shifts, `None` if those are none.
    pub(super) fn shifted_inputs(&self) -> Option<Interval> {
        let kernels = Kernels::active();
        let takes = kernels.packs::<i8>() && !kernels.packs_pairs() && self.channels > 0;
        let packing = self
            .packing
            .filter(|packing| packing.input == Storage::U8)?;
        (takes && !self.wide && self.unaligned.is_some()).then_some(packing.x)
    }

    /// Shifts these rows by one less: their inputs come twice as large.
    pub(super) fn take_doubled(&mut self, rows: &[usize]) {
        if let Some(unaligned) = &mut self.unaligned {
            rows.iter().for_each(|row| unaligned.shifts[*row] -= 1);
            self.takes_doubled = true;
        }
    }

    /// Returns a packed depthwise kernel of extents `kernel`.
    fn depthwise(&self, kernel: [usize; 2], packing: &Packing) -> Option<Lanes> {
        let Packed::I8(weights) = &self.packed else {
            return None;
        };
        // The largest input, counted from the least value of its type on; outside the image is zero.
        let x = packing.x;
        let most = match packing.input {
            Storage::U8 if !self.wide => x.hi,
            Storage::I8 if !self.wide => x.hi.max(0) - i64::from(i8::MIN),
            Storage::U8 | Storage::I8 | Storage::I16 | Storage::I32 | Storage::I64 => return None,
        };
        let extents = [kernel[0], kernel[1], self.channels];
        let kernels = Kernels::active();
        if kernels.packs_depthwise() {
            let packed = kernels::PackedDepthwise::new(weights, extents);
            return Some(Lanes::Depthwise(packed.doubling(&self.doubled)));
        }
        let most = u8::try_from(most).unwrap_or(u8::MAX);
        let paired = || kernels::PairedDepthwise::new(weights, extents, most);
        let packed = kernels.pairs_depthwise().then(paired)??;
        Some(Lanes::PairedDepthwise(packed))
    }

    /// Returns the packed weights of a convolution whose kernel has `kernel_h` rows, or of a matrix product, which has
    /// one.
    fn product(&self, kernel_h: usize, packing: &Packing) -> Option<Lanes> {
        let kernels = Kernels::active();
        if !kernels.packs::<i16>() || self.wide || self.channels == 0 {
            return None;
        }
        let pairs = kernels.packs_pairs().then(|| self.pairs(packing.x));
        if let Some(pairs) = pairs.flatten()
            && is_shorter(pairs.n_lanes(), pairs.rows())
        {
            return Some(Lanes::Pairs(pairs));
        }
        // Where nothing multiplies lanes of bytes, they are words: aligned ones, which take no more lanes than others.
        let input = packing.input;
        let takes_bytes = kernels.packs::<i8>() && matches!(input, Storage::U8 | Storage::I8);
        if let Some(Unaligned { weights, shifts }) = self.unaligned.as_ref().filter(|_| takes_bytes)
        {
            let packed = kernels::Packed::shifted(weights, shifts, self.channels);
            if self.takes_doubled || is_shorter(packed.n_lanes(), shifts.len()) {
                return Some(Lanes::Bytes(packed));
            }
        }
        let words = |kernel: Vec<i16>| Lanes::Words(packed(&kernel, kernel_h, self.channels));
        match (&self.packed, input) {
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
        }
    }

    /// Returns the weights in pairs for inputs in `x`; `None` if that would not be exact.
    fn pairs(&self, x: Interval) -> Option<kernels::BytePairs> {
        let most = u8::try_from(x.hi).ok().filter(|_| x.lo >= 0)?;
        let (weights, shifts) = match (&self.unaligned, &self.packed) {
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

/// Returns whether lanes of bytes are no more than those of words, which take half as many rows.
pub(super) const fn is_shorter(n_lanes: usize, rows: usize) -> bool {
    n_lanes <= rows.div_ceil(2)
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
    fn new(kernel: &[i32], wide: bool) -> Self {
        // Signed types only: weights without a negative one are like others.
        let lo = kernel.iter().fold(-1, |lo, w| lo.min(*w));
        let hi = kernel.iter().fold(0, |hi, w| hi.max(*w));
        match Storage::of(lo.into(), hi.into()) {
            Storage::I8 if !wide => {
                Self::I8(kernel.iter().map(|w| i8::narrow((*w).into())).collect())
            }
            Storage::I8 | Storage::U8 | Storage::I16 if !wide => {
                Self::I16(kernel.iter().map(|w| i16::narrow((*w).into())).collect())
            }
            Storage::I8 | Storage::U8 | Storage::I16 | Storage::I32 | Storage::I64 => {
                Self::I32(kernel.to_vec())
            }
        }
    }
}

/// Returns a bound of every partial sum: `max |x| * max over channels of sum |w|`.
///
/// A kernel whose weights need more than an `i16` counts as unbounded.
fn sum_bound(kernel: &[i32], channels: usize, x: Interval) -> u128 {
    let mut sums = vec![0u64; channels.max(1)];
    let mut widest = 0;
    for row in kernel.chunks(channels.max(1)) {
        for (sum, w) in sums.iter_mut().zip(row) {
            *sum += u64::from(w.unsigned_abs());
            widest = widest.max(w.unsigned_abs());
        }
    }
    if widest > u32::from(i16::MAX.unsigned_abs()) {
        return u128::MAX;
    }
    let largest = sums.into_iter().max().unwrap_or(0);
    u128::from(x.max_abs()) * u128::from(largest)
}
