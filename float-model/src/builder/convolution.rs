//! How a convolution of the builder moves.

use ndarray::Array1;

use crate::{Activation, Padding};

/// Extents of rows and columns: `3` stands for `[3, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents2(pub [usize; 2]);

impl From<usize> for Extents2 {
    fn from(n: usize) -> Self {
        Self([n, n])
    }
}

impl From<[usize; 2]> for Extents2 {
    fn from(extents: [usize; 2]) -> Self {
        Self(extents)
    }
}

/// How a convolution moves; the methods set what differs from Keras' defaults.
///
/// A bare kernel extent stands for [`Convolution::new`] of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convolution {
    /// Extents of the kernel, rows and columns.
    pub kernel_size: [usize; 2],
    /// Strides of rows and columns; 1.
    pub strides: [usize; 2],
    /// Border rule; [`Padding::Valid`].
    pub padding: Padding,
    /// Distance of kernel cells, rows and columns; 1.
    pub dilation: [usize; 2],
    /// Number of channel groups, of a plain convolution only; 1.
    pub groups: usize,
    /// Filters for each channel, of a depthwise or separable convolution only; 1.
    pub depth_multiplier: usize,
    /// Whether there is a bias.
    pub bias: Bias,
    /// Fused activation; linear.
    pub activation: Activation,
}

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// One entry for each filter, which starts at zero.
    Zeros,
    /// No bias.
    Absent,
}

impl Convolution {
    /// Returns a convolution with Keras' defaults: stride 1, 'valid', no dilation, a bias.
    #[must_use]
    pub fn new(kernel_size: impl Into<Extents2>) -> Self {
        Self {
            kernel_size: kernel_size.into().0,
            strides: [1, 1],
            padding: Padding::Valid,
            dilation: [1, 1],
            groups: 1,
            depth_multiplier: 1,
            bias: Bias::Zeros,
            activation: Activation::Linear,
        }
    }

    /// Returns it with the given strides.
    #[must_use]
    pub fn strides(self, strides: impl Into<Extents2>) -> Self {
        let strides = strides.into().0;
        Self { strides, ..self }
    }

    /// Returns it with [`Padding::Same`].
    #[must_use]
    pub fn same(self) -> Self {
        let padding = Padding::Same;
        Self { padding, ..self }
    }

    /// Returns it with the given distance of kernel cells.
    #[must_use]
    pub fn dilation(self, dilation: impl Into<Extents2>) -> Self {
        let dilation = dilation.into().0;
        Self { dilation, ..self }
    }

    /// Returns it without a bias.
    #[must_use]
    pub fn no_bias(self) -> Self {
        let bias = Bias::Absent;
        Self { bias, ..self }
    }

    /// Returns it with a fused activation.
    #[must_use]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    pub(super) fn bias_of(&self, n_filters: usize) -> Option<Array1<f32>> {
        (self.bias == Bias::Zeros).then(|| Array1::zeros(n_filters))
    }
}

impl<T: Into<Extents2>> From<T> for Convolution {
    fn from(kernel_size: T) -> Self {
        Self::new(kernel_size)
    }
}
