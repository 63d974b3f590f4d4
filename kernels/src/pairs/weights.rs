//! The weights of a block of channels, as pairs of rows of turned columns meet them.

use std::array::from_fn;

/// Bytes of a vector.
pub(super) const WIDTH: usize = 32;

/// Bytes of half a vector, the channels of a narrow block.
pub(super) const HALF: usize = 16;

/// A vector at an address of which no load crosses a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Line(pub(super) [u8; WIDTH]);

/// Numbers of 32 bytes in the order of four vectors of sums.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Numbers(pub(super) [[i32; 8]; 4]);

/// Neighbouring channels that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// First channel.
    pub(super) first: usize,
    /// Pixels of a vector: 1, or 2 where the channels are 16.
    pub(super) parts: usize,
    /// How many of the first channels are those of an earlier block as well.
    pub(super) seen: usize,
}

/// Returns blocks that hold all of so many channels, `None` if there are too few for the narrowest one.
pub(super) fn blocks(channels: usize) -> Option<Vec<Block>> {
    if channels < HALF {
        return None;
    }
    let (mut blocks, mut done) = (Vec::new(), 0);
    while done < channels {
        let is_wide = channels - done > HALF && channels >= WIDTH;
        let width = if is_wide { WIDTH } else { HALF };
        // The last block is moved back to end with the channels.
        let first = done.min(channels - width);
        blocks.push(Block {
            first,
            parts: WIDTH.div_euclid(width),
            seen: done - first,
        });
        done = first + width;
    }
    Some(blocks)
}

impl Block {
    /// Returns the channel of a byte of a row.
    pub(super) const fn channel(&self, byte: usize) -> usize {
        self.first + (byte & (WIDTH.div_euclid(self.parts) - 1))
    }

    /// Returns the byte of a row whose products are in lane `lane` of vector `vector` of sums: rows are interleaved
    /// inside each 128 bits.
    pub(super) const fn byte(vector: usize, lane: usize) -> usize {
        (lane & 4) * 4 + vector * 4 + (lane & 3)
    }

    /// Returns the numbers of its channels.
    #[inline(always)]
    pub(super) fn spread<T: Copy>(&self, table: &[T], number: impl Fn(T) -> i32) -> Numbers {
        let mut numbers = Numbers([[0; 8]; 4]);
        for (vector, lanes) in numbers.0.iter_mut().enumerate() {
            for (four, lanes) in lanes.chunks_exact_mut(4).enumerate() {
                let channel = self.channel(Self::byte(vector, 4 * four));
                for (lane, v) in lanes.iter_mut().zip(&table[channel..channel + 4]) {
                    *lane = number(*v);
                }
            }
        }
        numbers
    }
}

/// The weights of a block of channels.
#[derive(Clone, Debug)]
pub(super) struct BlockKernel {
    pub(super) block: Block,
    pub(super) weights: Weights,
    /// The sum of each channel's weights.
    pub(super) totals: Numbers,
    /// What the sums of each channel have too much.
    pub(super) excess: Numbers,
}

/// The weights that the first and the second output row of a band meet, one row later, of both halves of the channels.
#[derive(Clone, Debug)]
pub(super) enum Weights {
    /// Of a kernel of 3x3 whose sums fit in 16 bits for half of the taps.
    Bytes(Box<[[Bytes; 2]; 2]>),
    /// Pairs of rows after each other, each with all columns: two vectors a tap.
    Words([[Vec<[Line; 2]>; 2]; 2]),
}

/// The weights of 16 channels that meet bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes {
    /// What each group of taps begins with, so that its sums stay in 16 bits.
    pub(super) starts: [Line; 2],
    /// Of each column both pairs of rows.
    pub(super) taps: [[Line; 2]; 3],
}

/// Returns which group of taps a pair of rows of a column is summed in.
pub(super) const fn group(column: usize, pair: usize) -> usize {
    (column * 2 + pair).div_euclid(3)
}

impl BlockKernel {
    /// Returns the weights of a block of a kernel `[kernel_h, kernel_w, channels]` for activations of 0 to `most`.
    pub(super) fn new(kernel: &[i8], extents: [usize; 3], block: Block, most: u8) -> Self {
        let source = Source {
            kernel,
            extents,
            block,
        };
        let bytes = (extents[..2] == [3, 3]).then(|| Groups::new(&source, most.into()));
        let (weights, excess) = match bytes.flatten() {
            Some(groups) => (
                Weights::Bytes(Box::new([0, 1].map(|row| source.bytes(row, &groups)))),
                groups.excess,
            ),
            None => (
                Weights::Words([0, 1].map(|row| source.words(row))),
                [0; WIDTH],
            ),
        };
        let in_order = |values: &[i32; WIDTH]| {
            Numbers(from_fn(|q| from_fn(|lane| values[Block::byte(q, lane)])))
        };
        Self {
            block,
            weights,
            totals: in_order(&from_fn(|byte| source.total(byte))),
            excess: in_order(&excess),
        }
    }
}

/// Where weights are read.
struct Source<'a> {
    kernel: &'a [i8],
    extents: [usize; 3],
    block: Block,
}

impl Source<'_> {
    /// Returns the weights that output row `row` of a band has for a pair of input rows, zeros where it sees none.
    fn pair(&self, row: usize, pair: usize, column: usize, byte: usize) -> [i8; 2] {
        let [kernel_h, kernel_w, channels] = self.extents;
        [2 * pair, 2 * pair + 1].map(|input| {
            let kernel_row = input.checked_sub(row).filter(|r| *r < kernel_h);
            kernel_row.map_or(0, |kernel_row| {
                let tap = kernel_row * kernel_w + column;
                self.kernel[tap * channels + self.block.channel(byte)]
            })
        })
    }

    fn total(&self, byte: usize) -> i32 {
        let weights = self.kernel.chunks_exact(self.extents[2]);
        weights
            .map(|w| i32::from(w[self.block.channel(byte)]))
            .sum()
    }

    fn bytes(&self, row: usize, groups: &Groups) -> [Bytes; 2] {
        [0, 1].map(|half| {
            let byte = |lane: usize| (lane & 8) * 2 + half * 8 + (lane & 7);
            let line = |of: &dyn Fn(usize) -> [u8; 2]| -> Line {
                Line(from_fn(|i| of(byte(i.div_euclid(2)))[i.rem_euclid(2)]))
            };
            Bytes {
                starts: from_fn(|group| {
                    line(&|byte| groups.starts[row][group][byte].to_le_bytes())
                }),
                taps: from_fn(|column| {
                    from_fn(|pair| {
                        line(&|byte| self.pair(row, pair, column, byte).map(i8::cast_unsigned))
                    })
                }),
            }
        })
    }

    fn words(&self, row: usize) -> [Vec<[Line; 2]>; 2] {
        let [kernel_h, kernel_w, _] = self.extents;
        let n_pairs = (kernel_h + 1).div_ceil(2);
        [0, 1].map(|half| {
            let line = |pair: usize, column: usize, vector: usize| {
                Line(from_fn(|i| {
                    let byte = Block::byte(vector, i.div_euclid(4));
                    let weights = self.pair(row, pair, column, byte).map(i16::from);
                    weights[(i & 2).div_euclid(2)].to_le_bytes()[i & 1]
                }))
            };
            let taps = (0..n_pairs).flat_map(|pair| (0..kernel_w).map(move |col| (pair, col)));
            taps.map(|(pair, column)| [0, 1].map(|i| line(pair, column, 2 * half + i)))
                .collect()
        })
    }
}

/// What groups of taps begin with.
struct Groups {
    /// For each output row of a band, group and byte.
    starts: [[[i16; WIDTH]; 2]; 2],
    /// What both groups of a byte begin with, the same for both rows.
    excess: [i32; WIDTH],
}

/// The least and the largest of some sums.
#[derive(Clone, Copy, Default)]
struct Ends {
    lo: i32,
    hi: i32,
}

impl Groups {
    /// Returns starts with which every sum of a group of taps fits in 16 bits for activations of 0 to `most`, `None` if
    /// there are none, or the instruction would saturate.
    fn new(source: &Source<'_>, most: i32) -> Option<Self> {
        let mut groups = Self {
            starts: [[[0; WIDTH]; 2]; 2],
            excess: [0; WIDTH],
        };
        for byte in 0..WIDTH {
            let rows = [ends(source, 0, byte, most)?, ends(source, 1, byte, most)?];
            // Both rows have the same taps in all. Their middle becomes zero.
            let [first, second] = rows[0];
            let excess = -(first.lo + first.hi + second.lo + second.hi).div_euclid(2);
            for (row, [first, second]) in rows.into_iter().enumerate() {
                let least = (-0x8000 - first.lo).max(excess + second.hi - 0x7FFF);
                let largest = (0x7FFF - first.hi).min(excess + second.lo + 0x8000);
                if least > largest {
                    return None;
                }
                // Sums wrap around, so these may.
                groups.starts[row][0][byte] = low_word(least);
                groups.starts[row][1][byte] = low_word(excess - least);
            }
            groups.excess[byte] = excess;
        }
        Some(groups)
    }
}

/// Returns the ends of the sums of each group of taps, `None` if those of a pair do not fit in 16 bits.
fn ends(source: &Source<'_>, row: usize, byte: usize, most: i32) -> Option<[Ends; 2]> {
    let mut ends = [Ends::default(); 2];
    for column in 0..3 {
        for pair in 0..2 {
            let weights = source.pair(row, pair, column, byte).map(i32::from);
            let lo = most * weights.iter().map(|w| w.min(&0)).sum::<i32>();
            let hi = most * weights.iter().map(|w| w.max(&0)).sum::<i32>();
            if lo < -0x8000 || hi > 0x7FFF {
                return None;
            }
            let group = &mut ends[group(column, pair)];
            group.lo += lo;
            group.hi += hi;
        }
    }
    Some(ends)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits are asked for"
)]
const fn low_word(v: i32) -> i16 {
    v as i16
}
