//! How far quantized values are from float ones (NUMERICS.md: A2 to A6).

/// Sums over pairs of a float value and what the quantized model has for it.
///
/// All sums are in f64, in the order of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Pairs.
    n: u64,
    /// Pairs whose integer is not at an end of its range.
    n_inside: u64,
    relative: f64,
    signal: f64,
    noise: f64,
    quantized: f64,
    product: f64,
}

/// Whether an integer is at an end of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between the ends; floats always are.
    Inside,
    /// At one of the two ends: what it stands for may be larger.
    AtEnd,
}

impl Deviation {
    /// Adds a pair.
    pub fn add(&mut self, float: f32, quantized: f32, place: Place) {
        let (x, y) = (f64::from(float), f64::from(quantized));
        let difference = x - y;
        self.n += 1;
        self.signal += x * x;
        self.noise += difference * difference;
        self.quantized += y * y;
        self.product += x * y;
        if place == Place::Inside {
            self.n_inside += 1;
            let magnitude = x.abs() + y.abs();
            if magnitude > 0.0 {
                self.relative += difference.abs() / magnitude;
            }
        }
    }

    /// Returns the number of pairs.
    #[must_use]
    pub const fn n_pairs(&self) -> u64 {
        self.n
    }

    /// Returns the symmetric mean absolute percentage error, as a share of 1; `None` without pairs.
    ///
    /// ```text
    /// mean of |x - y| / (|x| + |y|), 0 where both are 0, over pairs whose integer is not at an end
    /// ```
    ///
    /// NUMERICS.md: A2.
    #[must_use]
    pub fn smape(&self) -> Option<f64> {
        (self.n_inside > 0).then(|| self.relative / count(self.n_inside))
    }

    /// Returns the signal-to-quantization-noise ratio in dB; `None` if either power is 0.
    ///
    /// ```text
    /// 10 * log10(sum x^2 / sum (x - y)^2)
    /// ```
    ///
    /// NUMERICS.md: A3.
    #[must_use]
    pub fn sqnr_db(&self) -> Option<f64> {
        let ratio = self.signal / self.noise;
        (self.signal > 0.0 && self.noise > 0.0).then(|| 10.0 * libm::log10(ratio))
    }

    /// Returns the cosine of the angle between both tensors; `None` if either is 0.
    ///
    /// ```text
    /// sum x * y / sqrt(sum x^2 * sum y^2)
    /// ```
    ///
    /// NUMERICS.md: A4.
    #[must_use]
    pub fn cosine(&self) -> Option<f64> {
        let norm = self.signal.sqrt() * self.quantized.sqrt();
        (norm > 0.0).then(|| (self.product / norm).clamp(-1.0, 1.0))
    }

    /// Returns the mean squared difference; 0 without pairs.
    #[must_use]
    pub fn mean_squared(&self) -> f64 {
        self.noise / count(self.n.max(1))
    }

    /// Returns the share of noise in the signal, `sum (x - y)^2 / sum x^2`; 0 where nothing differs.
    #[must_use]
    pub fn noise_share(&self) -> f64 {
        if self.noise > 0.0 {
            self.noise / self.signal
        } else {
            0.0
        }
    }
}

/// How a layer uses the integers of its format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Bits without the sign.
    pub value_bits: u8,
    /// Integers.
    pub n: u64,
    /// Integers at an end of the range, `-2^n` or `2^n - 1`.
    pub n_at_end: u64,
    /// What was seen of each channel.
    pub channels: Vec<ChannelUse>,
}

/// What was seen of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ChannelUse {
    /// Least integer, 0 among them.
    pub lo: i64,
    /// Largest integer, 0 among them.
    pub hi: i64,
    /// Largest magnitude that the float network has there.
    pub float_max: f32,
}

impl ChannelUse {
    /// Returns whether every integer was 0.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.lo == 0 && self.hi == 0
    }
}

impl Usage {
    /// Returns the share of integers at an end of the range. NUMERICS.md: A5.
    #[must_use]
    pub fn saturation(&self) -> f64 {
        count(self.n_at_end) / count(self.n.max(1))
    }

    /// Returns how much of the integer range the channels use, from 0 to 1.
    ///
    /// ```text
    /// mean over channels that are not dead of min(max |q| / (2^value_bits - 1), 1)
    /// ```
    ///
    /// `None` if all are dead. NUMERICS.md: A6.
    #[must_use]
    pub fn range_use(&self) -> Option<f64> {
        let limit = count((1_u64 << self.value_bits.min(63)) - 1);
        let alive = self.channels.iter().filter(|channel| !channel.is_dead());
        let shares: Vec<f64> = alive
            .map(|channel| {
                let largest = channel.lo.unsigned_abs().max(channel.hi.unsigned_abs());
                (count(largest) / limit).min(1.0)
            })
            .collect();
        let n = count(u64::try_from(shares.len()).unwrap_or(u64::MAX));
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / n)
    }

    /// Returns the channels that are always 0.
    #[must_use]
    pub fn dead(&self) -> Vec<usize> {
        let all = self.channels.iter().enumerate();
        let dead = all.filter(|(_, channel)| channel.is_dead());
        dead.map(|(index, _)| index).collect()
    }

    /// Returns the channels that are always 0, but not in the float network.
    #[must_use]
    pub fn killed(&self) -> Vec<usize> {
        let all = self.channels.iter().enumerate();
        let killed = all.filter(|(_, channel)| channel.is_dead() && channel.float_max > 0.0);
        killed.map(|(index, _)| index).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count as part of a mean")]
pub(crate) const fn count(n: u64) -> f64 {
    n as f64
}
