//! The order in which vectors of a depthwise convolution hold 64 channels.
//!
//! Bytes of four rows come to lie beside one another when the rows are interleaved inside each 128 bits of a vector:
//! of 64 neighbouring bytes, vector `q` then holds bytes `16 l + 4 q + i`, `l` and `i` below four, in its lane
//! `4 l + i`. Packing sums to bytes, again inside 128 bits, undoes it. Where there are few channels, a vector holds those
//! of several pixels.

/// Bytes of a vector.
pub(crate) const BYTES: usize = 64;

/// Lanes of a vector of sums.
pub(crate) const WIDTH: usize = 16;

/// Vectors of sums of 64 bytes.
pub(crate) const QUAD: usize = 4;

/// Neighbouring channels that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// First channel.
    pub(crate) first: usize,
    /// Channels, at most 64.
    pub(crate) n: usize,
    /// Pixels of a vector: 1, 2 or 4.
    pub(crate) parts: usize,
}

/// Numbers of 64 bytes in the order of four vectors of sums.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Numbers(pub(crate) [[i32; WIDTH]; QUAD]);

/// Returns the blocks of so many channels.
pub(crate) fn blocks(channels: usize) -> impl Iterator<Item = Block> {
    (0..channels).step_by(BYTES).map(move |first| {
        let n = BYTES.min(channels - first);
        let parts = match n {
            0..=16 => 4,
            17..=32 => 2,
            _ => 1,
        };
        Block { first, n, parts }
    })
}

impl Block {
    /// Bytes of a pixel in a vector, at least as many as there are channels.
    pub(crate) const fn width(&self) -> usize {
        match self.parts {
            1 => BYTES,
            2 => 32,
            _ => 16,
        }
    }

    /// Returns the position among its channels of lane `lane` of vector `vector`.
    pub(crate) const fn channel(&self, vector: usize, lane: usize) -> usize {
        let byte = (lane & 12) * 4 + vector * 4 + (lane & 3);
        byte & (self.width() - 1)
    }

    /// Returns the numbers of its channels, zero for those that do not exist.
    pub(crate) fn spread(&self, table: &[i32]) -> Numbers {
        Numbers(std::array::from_fn(|vector| {
            std::array::from_fn(|lane| {
                let channel = self.first + self.channel(vector, lane);
                table.get(channel).copied().unwrap_or(0)
            })
        }))
    }
}
