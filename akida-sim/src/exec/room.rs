//! What one image after the other uses: buffers, and how far a walk spreads over the threads.

use super::buffer::Buffer;
use super::tensor::{Int, Values};

/// Buffers of one type that are kept at most.
const KEPT: usize = 8;

/// Buffers of tensors that are no longer needed, for those that come.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) spare: Spare,
    /// Whether other images occupy the other threads: then a layer runs on one.
    pub(super) is_shared: bool,
}

/// Buffers by type.
#[derive(Debug, Default)]
pub(super) struct Spare {
    pub(super) u8: Vec<Buffer<u8>>,
    pub(super) i8: Vec<Buffer<i8>>,
    pub(super) i16: Vec<Buffer<i16>>,
    pub(super) i32: Vec<Buffer<i32>>,
    pub(super) i64: Vec<Buffer<i64>>,
}

impl Room {
    /// Returns `n` values, whatever they are: the caller writes each of them.
    pub(super) fn take<T: Int>(&mut self, n: usize) -> Buffer<T> {
        let spare = T::spare(&mut self.spare);
        let holds = (0..spare.len()).filter(|i| spare[*i].capacity() >= n);
        let smallest = holds.min_by_key(|i| spare[*i].capacity());
        // What holds fewer makes place for the larger one.
        let best = smallest.or_else(|| (0..spare.len()).max_by_key(|i| spare[*i].capacity()));
        let mut values = best.map_or_else(|| Buffer::aligned(n), |i| spare.swap_remove(i));
        values.set_len(n);
        values
    }

    /// Keeps the buffer of a tensor that is no longer needed.
    pub(super) fn put(&mut self, values: Values) {
        match values {
            Values::U8(v) => keep(&mut self.spare.u8, v),
            Values::I8(v) => keep(&mut self.spare.i8, v),
            Values::I16(v) => keep(&mut self.spare.i16, v),
            Values::I32(v) => keep(&mut self.spare.i32, v),
            Values::I64(v) => keep(&mut self.spare.i64, v),
            Values::F32(_) => {}
        }
    }
}

fn keep<T: Int>(spare: &mut Vec<Buffer<T>>, values: Buffer<T>) {
    spare.push(values);
    if spare.len() > KEPT {
        // Layers that bring buffers of their own must not fill the places of large ones.
        let smallest = (0..spare.len()).min_by_key(|i| spare[*i].capacity());
        smallest.map(|i| spare.swap_remove(i));
    }
}
