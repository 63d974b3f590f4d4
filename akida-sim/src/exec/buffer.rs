//! Where the values of tensors lie.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes of a line of the caches, and of the widest vectors.
const LINE: usize = 64;

/// Values of a tensor; those that layers write lie from the start of a line of the caches on.
///
/// It is a slice in all but its place: vectors that cross lines take twice as long to read and to write.
pub struct Buffer<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Returns `n` zeros from the start of a line on.
    #[must_use]
    pub(super) fn aligned(n: usize) -> Self {
        let spare = LINE.div_euclid(size_of::<T>().max(1));
        let values = vec![T::default(); n + spare];
        // An offset that cannot be known is none: only speed depends on it.
        let start = values.as_ptr().align_offset(LINE).min(spare);
        Self {
            values,
            start,
            len: n,
        }
    }

    /// Returns how many values it can have without moving.
    pub(super) const fn capacity(&self) -> usize {
        self.values.len() - self.start
    }

    /// Gives it `n` values, whatever they are.
    pub(super) fn set_len(&mut self, n: usize) {
        if n > self.capacity() {
            *self = Self::aligned(n);
        }
        self.len = n;
    }

    /// Adds values at its end.
    pub(super) fn extend(&mut self, other: &[T]) {
        let (old, len) = (self.len, self.len + other.len());
        if len > self.capacity() {
            // Twice as much, so that many small additions do not move it each time.
            let mut larger = Self::aligned(len.max(2 * old));
            larger[..old].copy_from_slice(self);
            *self = larger;
        }
        self.len = len;
        self[old..].copy_from_slice(other);
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.len]
    }
}

impl<T: Clone> Clone for Buffer<T> {
    /// Copies the values alone: a buffer that is used again may have held many more.
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    /// Takes the values where they lie.
    fn from(values: Vec<T>) -> Self {
        Self {
            start: 0,
            len: values.len(),
            values,
        }
    }
}

impl<T> FromIterator<T> for Buffer<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl<T: PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn values_stay_as_it_grows_and_shrinks() {
        let mut buffer = Buffer::<i16>::aligned(3);
        buffer.copy_from_slice(&[1, 2, 3]);
        for n in 0..100 {
            buffer.extend(&[n, -n]);
        }
        let expected: Vec<i16> = [1, 2, 3]
            .into_iter()
            .chain((0..100).flat_map(|n| [n, -n]))
            .collect();
        assert_eq!(*buffer, *expected, "all in order");
        assert_eq!(buffer.as_ptr().align_offset(64), 0, "from a line on");
        buffer.set_len(2);
        assert_eq!(buffer, Buffer::from(vec![1, 2]), "equal to any with these");
        assert_eq!(buffer.clone().capacity(), 2, "a copy holds no more");
        buffer.set_len(1000);
        assert_eq!(buffer.len(), 1000, "as many as asked for");
    }
}
