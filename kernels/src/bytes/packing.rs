//! Weights of bytes in the order in which their products fit 16 bits.

use super::tile::ROWS;
use crate::contract::check_len;
use crate::packed::{LaneRows, runs};

/// Columns of a block: a vector of `i32`.
pub(crate) const COLUMNS: usize = 8;

/// Weights of a lane, and neighbouring activations that they meet.
pub(crate) const GROUP: usize = 4;

/// Lanes of the largest groups.
pub(super) const QUAD: usize = 4;

/// The largest power of two that is a word.
const MOST_SHIFTED: u32 = 14;

/// Lanes among which a partner is looked for, so that packing takes a time that grows with the weights only.
const CANDIDATES: usize = 64;

/// A kernel `[rows, filters]` of bytes, packed for sums of 16 bits. NUMERICS.md E3.
///
/// An instruction multiplies unsigned activations by signed weights, and adds neighbouring products in 16 bits. Lanes
/// of four rows are put in groups of four or two such that the products of all, added up, stay in 16 bits whatever the
/// activations are; each block of eight columns has groups of its own. A lane without a partner stays alone. Sums of
/// 16 bits are multiplied as they are widened: so those of rows that count more often need no place of their own.
#[derive(Clone, Debug)]
pub struct BytePairs {
    pub(super) rows: usize,
    pub(super) filters: usize,
    /// Largest activation.
    pub(super) most: u8,
    pub(super) blocks: Vec<Block>,
}

/// The weights of eight columns; of the last block the first ones may be those of the block before, too.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The first column.
    pub(super) first: usize,
    /// Groups of a tile of activations.
    pub(super) tile_len: usize,
    pub(super) quads: Vec<Sum<QUAD>>,
    pub(super) pairs: Vec<Sum<2>>,
    pub(super) alone: Vec<Sum<1>>,
}

/// Lanes whose products, added up, stay in 16 bits.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Sum<const L: usize> {
    pub(super) weights: [Weights; L],
    /// The first group that each lane meets in a tile. Invariant: those of all rows are in the tile.
    pub(super) starts: [u32; L],
    /// How often the sum counts: a power of two, in both words.
    pub(super) scale: i32,
}

/// The weights of a lane, eight columns of four rows each, at an address of which no load crosses a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Weights(pub(super) [i8; GROUP * COLUMNS]);

impl BytePairs {
    /// Returns the packed form of a kernel `[rows, filters]` whose row `r` counts `2^shifts[r]` times, for activations
    /// in `0..=most`; `None` if two products may leave 16 bits, a row counts more than `2^14` times as often as another,
    /// or there are fewer than eight filters.
    ///
    /// # Panics
    ///
    /// Panics if the length is not that of `shifts` times `filters`.
    #[must_use]
    pub fn new(kernel: &[i8], shifts: &[u32], filters: usize, most: u8) -> Option<Self> {
        let rows = shifts.len();
        check_len("kernel", kernel.len(), &[rows, filters]);
        u32::try_from(rows.checked_add(GROUP)?).ok()?;
        if filters < COLUMNS || rows == 0 {
            return None;
        }
        let (_, lanes) = runs(shifts, GROUP);
        let firsts = (0..filters).step_by(COLUMNS);
        let blocks = firsts.map(|first| {
            let columns = Columns {
                kernel,
                shifts,
                filters,
                first: first.min(filters - COLUMNS),
            };
            columns.block(&lanes, most)
        });
        Some(Self {
            rows,
            filters,
            most,
            blocks: blocks.collect::<Option<_>>()?,
        })
    }

    /// Returns the rows of the kernel.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the lanes that each column has: the cost of a sum.
    #[must_use]
    pub fn n_lanes(&self) -> usize {
        let n =
            |block: &Block| QUAD * block.quads.len() + 2 * block.pairs.len() + block.alone.len();
        self.blocks.first().map_or(0, n)
    }

    /// Returns the activations of a patch.
    pub(super) const fn patch_len(&self) -> usize {
        self.rows.next_multiple_of(GROUP)
    }
}

/// Eight columns of a kernel that is not packed yet.
struct Columns<'a> {
    kernel: &'a [i8],
    shifts: &'a [u32],
    filters: usize,
    first: usize,
}

/// Lanes whose rows count equally often.
struct Class {
    lanes: Vec<Lane>,
    /// How often, in both words.
    scale: i32,
    /// Their places among the lanes.
    quads: Vec<[usize; QUAD]>,
    pairs: Vec<[usize; 2]>,
    alone: Vec<[usize; 1]>,
}

/// A lane of eight columns.
struct Lane {
    /// The first group that it meets in a tile.
    start: u32,
    weights: Weights,
    sums: Sums,
}

/// Of each two neighbouring weights the sum of those above zero, and the negated sum of those below.
#[derive(Clone, Copy)]
struct Sums([[i16; 2 * COLUMNS]; 2]);

/// How large such sums may be.
#[derive(Clone, Copy)]
struct Limits([i16; 2]);

impl Columns<'_> {
    /// Returns the packed columns for activations in `0..=most`; `None` if two products may leave 16 bits, or a scale
    /// does.
    fn block(&self, lanes: &[LaneRows], most: u8) -> Option<Block> {
        let classes = lanes.chunk_by(|a, b| a.shift == b.shift);
        let classes = classes.map(|class| self.class(class, Limits::new(most)));
        let classes: Vec<Class> = classes.collect::<Option<_>>()?;
        Some(Block {
            first: self.first,
            tile_len: self.shifts.len().div_ceil(GROUP) * ROWS,
            quads: sums(&classes, |class| &class.quads),
            pairs: sums(&classes, |class| &class.pairs),
            alone: sums(&classes, |class| &class.alone),
        })
    }

    /// Returns lanes of one shift, grouped; `None` if two products may leave 16 bits, or the scale does.
    fn class(&self, class: &[LaneRows], limits: Limits) -> Option<Class> {
        let shift = class.first()?.shift;
        let lanes = class.iter().map(|rows| self.lane(rows));
        let lanes: Vec<Lane> = lanes.collect::<Option<_>>()?;
        if shift > MOST_SHIFTED
            || !lanes
                .iter()
                .all(|lane| limits.hold(lane.sums.ends(&Sums::NONE)))
        {
            return None;
        }
        let (quads, others) = quads(&lanes, limits);
        let (pairs, alone) = paired(&lanes, others, limits);
        Some(Class {
            lanes,
            scale: 1 << shift | 1 << (16 + shift),
            quads,
            pairs,
            alone: alone.into_iter().map(|lane| [lane]).collect(),
        })
    }

    /// Returns a lane; the rows of its group that have another shift are zero.
    fn lane(&self, rows: &LaneRows) -> Option<Lane> {
        let start = rows.group * GROUP;
        let mut weights = [0; GROUP * COLUMNS];
        for (part, row) in (start..self.shifts.len()).take(GROUP).enumerate() {
            if self.shifts[row] == rows.shift {
                let columns = &self.kernel[row * self.filters + self.first..][..COLUMNS];
                for (column, weight) in columns.iter().enumerate() {
                    weights[column * GROUP + part] = *weight;
                }
            }
        }
        let mut sums = [[0_i16; 2 * COLUMNS]; 2];
        for (i, weight) in weights.iter().enumerate() {
            let weight = i16::from(*weight);
            sums[0][i >> 1] += weight.max(0);
            sums[1][i >> 1] += (-weight).max(0);
        }
        Some(Lane {
            start: u32::try_from(rows.group * ROWS).ok()?,
            weights: Weights(weights),
            sums: Sums(sums),
        })
    }
}

/// Returns the sums of the groups of each class.
fn sums<const L: usize>(
    classes: &[Class],
    groups: impl Fn(&Class) -> &Vec<[usize; L]>,
) -> Vec<Sum<L>> {
    let sum = |class: &Class, group: &[usize; L]| Sum {
        weights: group.map(|lane| class.lanes[lane].weights),
        starts: group.map(|lane| class.lanes[lane].start),
        scale: class.scale,
    };
    let sums = classes.iter().flat_map(|class| {
        let groups = groups(class).iter();
        groups.map(move |group| sum(class, group))
    });
    sums.collect()
}

impl Sums {
    const NONE: Self = Self([[0; 2 * COLUMNS]; 2]);

    fn plus(mut self, other: &Self) -> Self {
        for (sums, others) in self.0.iter_mut().zip(&other.0) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other;
            }
        }
        self
    }

    /// Returns the largest sum above zero, and the largest below, of both.
    fn ends(&self, other: &Self) -> [i16; 2] {
        let mut ends = [0; 2];
        for ((end, sums), others) in ends.iter_mut().zip(&self.0).zip(&other.0) {
            for (sum, other) in sums.iter().zip(others) {
                *end = (*end).max(sum + other);
            }
        }
        ends
    }
}

impl Limits {
    /// Returns the limits for activations in `0..=most`.
    fn new(most: u8) -> Self {
        let most = i32::from(most.max(1));
        Self(
            [i16::MAX.into(), -i32::from(i16::MIN)]
                .map(|end: i32| i16::try_from(end.div_euclid(most)).unwrap_or(i16::MAX)),
        )
    }

    const fn hold(self, [above, below]: [i16; 2]) -> bool {
        above <= self.0[0] && below <= self.0[1]
    }
}

/// Returns groups of four lanes whose products can be added in 16 bits, and the lanes that are in none.
fn quads(lanes: &[Lane], limits: Limits) -> (Vec<[usize; QUAD]>, Vec<usize>) {
    let (mut quads, mut others) = (Vec::new(), Vec::new());
    let mut waiting: Vec<usize> = (0..lanes.len()).collect();
    while let Some(first) = waiting.pop() {
        let (mut quad, mut n, mut sums) = ([first; QUAD], 1, lanes[first].sums);
        while n < QUAD {
            let tried = waiting.len().saturating_sub(CANDIDATES);
            // The lane that leaves most room for others.
            let next = (tried..waiting.len())
                .map(|place| (place, sums.ends(&lanes[waiting[place]].sums)))
                .filter(|(_, ends)| limits.hold(*ends))
                .min_by_key(|(_, [above, below])| *above.max(below));
            let Some((place, _)) = next else {
                break;
            };
            quad[n] = waiting.remove(place);
            sums = sums.plus(&lanes[quad[n]].sums);
            n += 1;
        }
        if n == QUAD {
            quads.push(quad);
        } else {
            others.push(first);
            waiting.extend(&quad[1..n]);
        }
    }
    (quads, others)
}

/// Returns pairs of some lanes whose products can be added in 16 bits, and the lanes that found no partner.
fn paired(
    lanes: &[Lane],
    mut waiting: Vec<usize>,
    limits: Limits,
) -> (Vec<[usize; 2]>, Vec<usize>) {
    let fit = |a: usize, b: usize| limits.hold(lanes[a].sums.ends(&lanes[b].sums));
    let (mut pairs, mut alone) = (Vec::new(), Vec::<usize>::new());
    while let Some(a) = waiting.pop() {
        let tried = waiting.len().saturating_sub(CANDIDATES);
        let partner = waiting[tried..].iter().rposition(|b| fit(a, *b));
        if let Some(partner) = partner {
            pairs.push([a, waiting.remove(tried + partner)]);
            continue;
        }
        // One of a pair may leave for this lane if its partner finds another one that is alone.
        let swap = pairs.iter_mut().rev().take(CANDIDATES).find_map(|pair| {
            let other = |side: usize, alone: &[usize]| {
                let [own, left] = [pair[side], pair[1 - side]];
                let place = fit(a, own).then(|| alone.iter().rposition(|b| fit(left, *b)));
                place.flatten().map(|place| (own, left, place))
            };
            let last = &alone[alone.len().saturating_sub(CANDIDATES)..];
            let (own, left, place) = other(0, last).or_else(|| other(1, last))?;
            *pair = [a, own];
            Some((left, alone.len() - last.len() + place))
        });
        match swap {
            Some((left, place)) => pairs.push([left, alone.remove(place)]),
            None => alone.push(a),
        }
    }
    (pairs, alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a sum of any number of lanes has.
    fn parts<const L: usize>(sum: &Sum<L>) -> (&[Weights], &[u32], i32) {
        (&sum.weights, &sum.starts, sum.scale)
    }

    /// Every row is in one lane of each block, and no sum of a pair leaves 16 bits at the ends of the activations.
    #[test]
    fn pairs_stay_in_16_bits() {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33).to_le_bytes()[0].cast_signed().max(-127)
        };
        let (rows, filters) = (203, 21);
        let kernel: Vec<i8> = (0..rows * filters).map(|_| next()).collect();
        let shifts: Vec<u32> = (0..rows).map(|row| u32::from(row % 50 > 40)).collect();
        let packed = BytePairs::new(&kernel, &shifts, filters, 127).expect("bytes of seven bits");
        assert_eq!(packed.blocks.len(), 3);
        for block in &packed.blocks {
            assert!(
                QUAD * block.quads.len() + 2 * block.pairs.len() > block.alone.len(),
                "most lanes have partners"
            );
            let mut seen = vec![0_i32; rows];
            let (quads, pairs) = (block.quads.iter().map(parts), block.pairs.iter().map(parts));
            for (weights, starts, scale) in quads.chain(pairs).chain(block.alone.iter().map(parts))
            {
                // The products of a word at the largest activations, those above zero and those below.
                let mut ends = [[0_i32; 2]; 2 * COLUMNS];
                for (weights, start) in weights.iter().zip(starts) {
                    for (i, weight) in weights.0.iter().enumerate() {
                        let product = 127 * i32::from(*weight);
                        ends[i >> 1][0] += product.max(0);
                        ends[i >> 1][1] += product.min(0);
                    }
                    let row = (*start as usize).div_euclid(ROWS) * GROUP;
                    for (row, weight) in (row..rows).zip(&weights.0[..GROUP]) {
                        if *weight != 0 {
                            assert_eq!(*weight, kernel[row * filters + block.first]);
                            assert_eq!(scale, 0x1_0001 << shifts[row]);
                            seen[row] += 1;
                        }
                    }
                }
                for [above, below] in ends {
                    assert!(above <= 32767 && below >= -32768, "{} lanes", starts.len());
                }
            }
            for (row, seen) in seen.iter().enumerate() {
                assert_eq!(*seen, i32::from(kernel[row * filters + block.first] != 0));
            }
        }
    }

    #[test]
    fn products_that_may_leave_16_bits_are_refused() {
        let packs = |weight: i8, most| BytePairs::new(&[weight; 32], &[0; 4], 8, most).is_some();
        assert!(packs(-128, 128) && !packs(-128, 129));
        assert!(packs(127, 129) && !packs(127, 130));
        assert!(packs(64, 255) && !packs(65, 255));
        assert!(BytePairs::new(&[1; 28], &[0; 4], 7, 1).is_none());
    }
}
