//! Initial kernels.

use ndarray::{Array2, Array4};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of Glorot uniform kernels.
///
/// ```text
/// w     = limit * (2 * (u / 2^24) - 1)      f64, rounded once to f32; u uniform in 0..2^24
/// limit = sqrt(6 / (cells * (a + b)))       cells of the kernel, its last two extents a and b
/// ```
///
/// `u` is the upper 24 bits of the next 32-bit word of `ChaCha8`, whose key is the seed,
/// little-endian, followed by zeros. Elements are drawn in row-major order.
#[derive(Debug)]
pub(super) struct Glorot(ChaCha8Rng);

impl Glorot {
    pub(super) fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    pub(super) fn kernel4(&mut self, shape: [usize; 4]) -> Array4<f32> {
        let [h, w, a, b] = shape;
        let limit = limit(h * w * (a + b));
        Array4::from_shape_simple_fn(shape, || self.draw(limit))
    }

    pub(super) fn kernel2(&mut self, shape: [usize; 2]) -> Array2<f32> {
        let [a, b] = shape;
        let limit = limit(a + b);
        Array2::from_shape_simple_fn(shape, || self.draw(limit))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the one rounding, ties to even"
    )]
    fn draw(&mut self, limit: f64) -> f32 {
        let u = f64::from(self.0.next_u32() >> 8) / f64::from(1_u32 << 24);
        (limit * (2.0 * u - 1.0)) as f32
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "only the spread of random numbers depends on it"
)]
fn limit(fans: usize) -> f64 {
    (6.0 / fans as f64).sqrt()
}
