//! Arguments of whatever reads samples.

use clap::{Args, ValueEnum};

/// What samples are and how they become inputs.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SourceArgs {
    /// Name of the array in a .npz file; FILE.npz:NAME says the same
    #[arg(long, value_name = "NAME")]
    pub(crate) samples_key: Option<String>,
    /// Extents of a sample in a raw file, such as 32,32,3
    #[arg(long, value_name = "N,N,N", value_delimiter = ',')]
    pub(crate) sample_shape: Option<Vec<usize>>,
    /// Type of the elements of a raw file: uint8, int8, uint16 to int64, float16 to float64
    /// (little-endian), or NumPy's text such as >f4 for big-endian
    #[arg(long, value_name = "TYPE")]
    pub(crate) sample_dtype: Option<String>,
    /// What is done to every sample, as in Keras: none, tf (x/127.5 - 1), caffe (BGR less means),
    /// torch (/255, less mean, over deviation), or two numbers scale,offset
    #[arg(
        long,
        value_name = "MODE",
        default_value = "none",
        allow_hyphen_values = true
    )]
    pub(crate) preprocess: String,
    /// Rows and columns of an image sample [default: the model's input]
    #[arg(long, value_name = "H,W", value_delimiter = ',', num_args = 1)]
    pub(crate) image_size: Option<Vec<usize>>,
    /// What is done with images of other extents [default: stretch]
    #[arg(long, value_enum)]
    pub(crate) fit: Option<FitArg>,
    /// With --fit crop: the shorter side before the cut, such as 256 [default: just covers]
    #[arg(long, value_name = "N")]
    pub(crate) resize_shorter: Option<usize>,
    /// How images are resized, with the bits of Pillow [default: bilinear]
    #[arg(long, value_enum, value_name = "FILTER")]
    pub(crate) resize_filter: Option<FilterArg>,
    /// Order of an image's channels [default: rgb; gray when the model has one channel]
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(crate) channel_order: Option<OrderArg>,
    /// What is done with images that cannot be decoded, and samples with a NaN or an infinity
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_bad_sample: OnBadArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FitArg {
    /// Resized whatever the aspect.
    Stretch,
    /// Resized with the aspect kept, then cut at the centre.
    Crop,
    /// Refused.
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FilterArg {
    /// The pixel under the centre.
    Nearest,
    /// A triangle.
    Bilinear,
    /// Cubic, a = -1/2.
    Bicubic,
    /// Lanczos, three lobes.
    Lanczos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadArg {
    /// The first one is an error.
    #[default]
    Stop,
    /// They are left out, counted and reported.
    Skip,
}
