//! One value for a whole tensor, or one for each channel of its last axis.

/// One value for the whole tensor, or one for each channel of its last axis.
///
/// A per-axis value of one channel stays per-axis: whether a quantity is a scalar or a vector of
/// one entry is visible in the reference's files, and some of its rules depend on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PerAxis<T> {
    /// One value for every channel.
    Tensor(T),
    /// One value for each channel, `[channels]`.
    Axis(Vec<T>),
}

impl<T: Copy> PerAxis<T> {
    /// Returns the value of channel `channel`, or the common one; a single entry is common too.
    ///
    /// # Panics
    ///
    /// Panics if the value has several entries, but none for the channel.
    #[must_use]
    pub fn at(&self, channel: usize) -> T {
        match self {
            Self::Tensor(value) => *value,
            Self::Axis(values) if values.len() == 1 => values[0],
            Self::Axis(values) => values[channel],
        }
    }

    /// Returns all values: one, or one for each channel.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::Tensor(value) => std::slice::from_ref(value),
            Self::Axis(values) => values,
        }
    }

    /// Returns `Some` of the value that every channel shares, whatever the form.
    #[must_use]
    pub fn uniform(&self) -> Option<T>
    where
        T: PartialEq,
    {
        let (first, rest) = self.as_slice().split_first()?;
        rest.iter().all(|value| value == first).then_some(*first)
    }

    /// Returns the result of `f` for each value, in the same form.
    #[must_use]
    pub fn map<U>(&self, f: impl FnMut(T) -> U) -> PerAxis<U> {
        match self {
            Self::Tensor(value) => {
                let mut f = f;
                PerAxis::Tensor(f(*value))
            }
            Self::Axis(values) => PerAxis::Axis(values.iter().copied().map(f).collect()),
        }
    }

    /// Returns `f(self, other)` channel by channel; a scalar stands for each channel.
    ///
    /// # Panics
    ///
    /// Panics if both are per-axis with different numbers of channels, unless one has a single
    /// entry, which is repeated.
    #[must_use]
    pub fn zip<U: Copy, V>(&self, other: &PerAxis<U>, mut f: impl FnMut(T, U) -> V) -> PerAxis<V> {
        match (self, other) {
            (Self::Tensor(a), PerAxis::Tensor(b)) => PerAxis::Tensor(f(*a, *b)),
            (Self::Tensor(a), PerAxis::Axis(b)) => {
                PerAxis::Axis(b.iter().map(|b| f(*a, *b)).collect())
            }
            (Self::Axis(a), PerAxis::Tensor(b)) => {
                PerAxis::Axis(a.iter().map(|a| f(*a, *b)).collect())
            }
            (Self::Axis(a), PerAxis::Axis(b)) => PerAxis::Axis(zip_channels(a, b, f)),
        }
    }

    /// Returns whether there is one value for the whole tensor.
    #[must_use]
    pub fn is_per_tensor(&self) -> bool {
        matches!(self, Self::Tensor(_))
    }

    /// Returns the number of values: 1, or the number of channels.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.as_slice().len()
    }
}

fn zip_channels<T: Copy, U: Copy, V>(a: &[T], b: &[U], mut f: impl FnMut(T, U) -> V) -> Vec<V> {
    match (a, b) {
        ([a], b) => b.iter().map(|b| f(*a, *b)).collect(),
        (a, [b]) => a.iter().map(|a| f(*a, *b)).collect(),
        (a, b) => {
            assert_eq!(
                a.len(),
                b.len(),
                "per-axis values of one tensor have one length"
            );
            a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
        }
    }
}
