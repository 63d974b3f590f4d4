//! From arguments to samples: files, folders, patterns.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use bitproof::calibration::{Preprocess, Skipped};
use bitproof::model_files::{Filter, Fit, OnBadSample, glob_images, images_in};
use bitproof::{ChannelOrder, ImageSettings, Samples};

use crate::args::{FilterArg, FitArg, OnBadArg, OrderArg, SourceArgs};

/// Samples that were left out are named up to this number.
const MAX_NAMED: usize = 10;

/// Returns the samples at a place: an array, a raw file, an image, a folder, or a pattern.
pub(crate) fn at(place: &Path, args: &SourceArgs) -> Result<Samples> {
    if place.is_dir() {
        let list = images_in(place)?;
        note_left_out(place, list.n_left_out);
        return images(list.paths, args);
    }
    if place.is_file() {
        return file(place, args);
    }
    let text = place.to_string_lossy();
    if let Some((file, key)) = text.rsplit_once(".npz:") {
        if args.samples_key.is_some() {
            bail!("{text}: give the name here or as --samples-key, not both");
        }
        return array(
            PathBuf::from(format!("{file}.npz")),
            Some(key.to_owned()),
            args,
        );
    }
    if text.contains(['*', '?', '[']) {
        return images(glob_images(&text)?.paths, args);
    }
    bail!("{text}: there is no such file or folder")
}

/// Returns the samples of image files in this order.
pub(crate) fn images(paths: Vec<PathBuf>, args: &SourceArgs) -> Result<Samples> {
    refuse("images", &array_flags(args))?;
    let size = match args.image_size.as_deref() {
        None => None,
        Some([height, width]) if *height > 0 && *width > 0 => Some((*height, *width)),
        Some(_) => bail!("--image-size: two extents, height and width, such as 224,224"),
    };
    let fit = match (args.fit, args.resize_shorter) {
        (Some(FitArg::Crop), shorter) => Fit::Crop { shorter },
        (_, Some(_)) => bail!("--resize-shorter needs --fit crop"),
        (None | Some(FitArg::Stretch), None) => Fit::Stretch,
        (Some(FitArg::Exact), None) => Fit::Exact,
    };
    let filter = match args.resize_filter {
        None | Some(FilterArg::Bilinear) => Filter::Bilinear,
        Some(FilterArg::Nearest) => Filter::Nearest,
        Some(FilterArg::Bicubic) => Filter::Bicubic,
        Some(FilterArg::Lanczos) => Filter::Lanczos,
    };
    let settings = ImageSettings {
        size,
        fit,
        filter,
        order: match args.channel_order {
            None | Some(OrderArg::Rgb) => ChannelOrder::Rgb,
            Some(OrderArg::Bgr) => ChannelOrder::Bgr,
        },
        on_bad: match args.on_bad_sample {
            OnBadArg::Stop => OnBadSample::Stop,
            OnBadArg::Skip => OnBadSample::Skip,
        },
    };
    let paths = paths.into();
    preprocessed(Samples::Images { paths, settings }, args)
}

/// Returns the samples of one file, which its extension tells apart.
fn file(path: &Path, args: &SourceArgs) -> Result<Samples> {
    let has = |extensions: &[&str]| {
        path.extension()
            .is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
    };
    if has(&["png", "jpg", "jpeg"]) {
        return images(vec![path.to_owned()], args);
    }
    let is_array = has(&["npy", "npz"]);
    match (&args.sample_shape, &args.sample_dtype) {
        (None, None) if has(&["bin", "raw"]) => bail!(
            "{}: a raw file needs --sample-shape and --sample-dtype",
            path.display()
        ),
        (None, None) => array(path.to_owned(), args.samples_key.clone(), args),
        (Some(item_shape), Some(dtype)) if !is_array => {
            refuse("raw files", &image_flags(args))?;
            refuse(
                "raw files",
                &[("--samples-key", args.samples_key.is_some())],
            )?;
            let samples = Samples::Raw {
                path: path.to_owned(),
                dtype: dtype.clone(),
                item_shape: item_shape.clone(),
            };
            preprocessed(finite(samples, args), args)
        }
        (Some(_), Some(_)) => bail!(
            "{}: --sample-shape and --sample-dtype are for raw files; an array says it itself",
            path.display()
        ),
        (Some(_), None) | (None, Some(_)) => {
            bail!("--sample-shape and --sample-dtype are needed together, for raw files")
        }
    }
}

fn array(path: PathBuf, key: Option<String>, args: &SourceArgs) -> Result<Samples> {
    refuse("arrays", &image_flags(args))?;
    preprocessed(finite(Samples::File { path, key }, args), args)
}

fn finite(samples: Samples, args: &SourceArgs) -> Samples {
    match args.on_bad_sample {
        OnBadArg::Stop => samples,
        OnBadArg::Skip => Samples::FiniteOnly(Box::new(samples)),
    }
}

fn preprocessed(samples: Samples, args: &SourceArgs) -> Result<Samples> {
    let preprocess: Preprocess = args.preprocess.parse()?;
    if preprocess == Preprocess::None {
        return Ok(samples);
    }
    Ok(Samples::Preprocessed {
        samples: Box::new(samples),
        preprocess,
    })
}

/// Returns an error if one of the flags is given.
fn refuse(what: &str, flags: &[(&str, bool)]) -> Result<()> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag} is not for {what}"),
        None => Ok(()),
    }
}

/// Refuses every flag of samples when there are none.
pub(crate) fn refuse_all(what: &str, args: &SourceArgs) -> Result<()> {
    refuse(what, &array_flags(args))?;
    refuse(what, &image_flags(args))?;
    let others = [
        ("--preprocess", args.preprocess != "none"),
        ("--on-bad-sample", args.on_bad_sample != OnBadArg::Stop),
    ];
    refuse(what, &others)
}

fn array_flags(args: &SourceArgs) -> [(&'static str, bool); 3] {
    [
        ("--samples-key", args.samples_key.is_some()),
        ("--sample-shape", args.sample_shape.is_some()),
        ("--sample-dtype", args.sample_dtype.is_some()),
    ]
}

fn image_flags(args: &SourceArgs) -> [(&'static str, bool); 5] {
    [
        ("--image-size", args.image_size.is_some()),
        ("--fit", args.fit.is_some()),
        ("--resize-shorter", args.resize_shorter.is_some()),
        ("--resize-filter", args.resize_filter.is_some()),
        ("--channel-order", args.channel_order.is_some()),
    ]
}

/// Returns what samples are called.
pub(crate) fn unit(samples: &Samples) -> &'static str {
    if samples.are_images() {
        "images"
    } else {
        "samples"
    }
}

/// Says on stderr how many files are no images.
pub(crate) fn note_left_out(folder: &Path, n_left_out: usize) {
    if n_left_out > 0 {
        crate::errln!(
            "note: {}: {n_left_out} file(s) that are not named .png, .jpg or .jpeg are passed over",
            folder.display()
        );
    }
}

/// Says on stderr which samples were left out.
pub(crate) fn warn_skipped(skipped: &[Skipped], n_samples: usize) {
    if skipped.is_empty() {
        return;
    }
    crate::errln!(
        "warning: {} of {n_samples} samples are bad and were left out:",
        skipped.len()
    );
    for skipped in skipped.iter().take(MAX_NAMED) {
        crate::errln!("  {}", skipped.message);
    }
    if skipped.len() > MAX_NAMED {
        crate::errln!("  and {} more", skipped.len() - MAX_NAMED);
    }
}
