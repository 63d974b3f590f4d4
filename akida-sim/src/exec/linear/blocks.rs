//! The blocks of rows that workers compute.

use super::LinearPlan;
use super::geometry::Geometry;
use crate::exec::tasks::in_parallel;

/// What a block holds.
struct Size {
    /// Outputs computed at once: few enough for a cache.
    values: usize,
    /// Pixels at least, so that weights are loaded for several.
    pixels: usize,
}

/// Blocks that the threads share.
const SHARED: Size = Size {
    values: 1 << 14,
    pixels: 96,
};

/// Blocks of a thread that has the layer for itself.
const ALONE: Size = Size {
    values: 1 << 16,
    pixels: 384,
};

/// Which output rows a worker computes.
pub(super) struct Place<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) image: usize,
    pub(super) rows: std::ops::Range<usize>,
}

/// How the rows of a layer are divided.
pub(super) struct Blocks<'a> {
    geometry: &'a Geometry,
    row_len: usize,
    rows_per_block: usize,
}

impl<'a> Blocks<'a> {
    /// Returns the blocks of a layer, which one thread computes if it `is_alone`.
    pub(super) fn of(plan: &LinearPlan, geometry: &'a Geometry, is_alone: bool) -> Self {
        let size = if is_alone { ALONE } else { SHARED };
        let row_len = geometry.row_len * plan.out_channels;
        let n_rows = size.values.div_euclid(row_len.max(1));
        let n_rows = n_rows.max(size.pixels.div_ceil(geometry.row_len.max(1)));
        Self {
            geometry,
            row_len,
            rows_per_block: if is_alone {
                balanced(geometry.n_rows, n_rows)
            } else {
                n_rows
            },
        }
    }

    /// Calls `run` for each block of `out`, `[images, rows, ...]`, one after the other.
    pub(super) fn each<O>(&self, out: &mut [O], mut run: impl FnMut(Place<'a>, &mut [O])) {
        for (image, rows) in out.chunks_mut(self.image_len()).enumerate() {
            for (number, out) in rows.chunks_mut(self.block_len()).enumerate() {
                run(self.place(image, number, out.len()), out);
            }
        }
    }

    /// Returns what `run` returns for each block of `out`, `[images, rows, ...]`, in order.
    pub(super) fn each_in_parallel<O: Send, R: Send>(
        &self,
        out: &mut [O],
        run: &(impl Fn(Place<'a>, &mut [O]) -> R + Sync),
    ) -> Vec<R> {
        let images = out.chunks_mut(self.image_len()).enumerate();
        let blocks = images.flat_map(|(image, rows)| {
            let blocks = rows.chunks_mut(self.block_len()).enumerate();
            blocks.map(move |(number, out)| (self.place(image, number, out.len()), out))
        });
        in_parallel(blocks, &|(place, out): (Place<'a>, &mut [O])| {
            run(place, out)
        })
    }

    fn place(&self, image: usize, number: usize, len: usize) -> Place<'a> {
        let first = number * self.rows_per_block;
        Place {
            geometry: self.geometry,
            image,
            rows: first..first + len.checked_div(self.row_len).unwrap_or(0),
        }
    }

    fn image_len(&self) -> usize {
        (self.geometry.n_rows * self.row_len).max(1)
    }

    fn block_len(&self) -> usize {
        (self.rows_per_block * self.row_len).max(1)
    }
}

/// Returns a number of rows like `wanted` that divides `n` rows in blocks of much the same size: a small last one would
/// read all weights for itself. Pairs of rows, which depthwise kernels compute together, stay together.
fn balanced(n: usize, wanted: usize) -> usize {
    let n_blocks = (n + (wanted >> 1)).div_euclid(wanted).max(1);
    n.div_ceil(n_blocks).next_multiple_of(2).max(2)
}

#[cfg(test)]
mod tests {
    use super::balanced;

    #[test]
    fn no_block_is_small() {
        for (n, wanted, rows) in [
            (56, 55, 56),
            (112, 18, 20),
            (82, 55, 82),
            (83, 55, 42),
            (0, 9, 2),
        ] {
            assert_eq!(
                balanced(n, wanted),
                rows,
                "{n} rows in blocks of about {wanted}"
            );
        }
        for (n, wanted) in (1..200).flat_map(|n| (1..60).map(move |wanted| (n, wanted))) {
            let rows = balanced(n, wanted);
            assert!(rows <= 2 * wanted + 2, "{rows} rows for {wanted}");
        }
    }
}
