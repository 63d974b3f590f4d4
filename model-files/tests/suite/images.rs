//! Images against Pillow, lists of files, damage.

use std::fs;
use std::path::{Path, PathBuf};

use model_files::{
    ArrayReader, Channels, FileError, Filter, Fit, ImageOptions, ImageReader, OnBadSample,
    glob_images, images_in, labelled_images,
};
use ndarray::{ArrayD, s};

use crate::support::{Scratch, Stream};

/// Extents of the committed images, height first.
const EXTENTS: (usize, usize) = (17, 23);
/// Levels by which a JPEG decoder may differ from Pillow's.
const JPEG_TOLERANCE: f32 = 4.0;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/images")
        .join(name)
}

/// Returns what Pillow makes of a committed image.
fn expected(name: &str) -> ArrayD<f32> {
    let mut reader = ArrayReader::open(&file("expected.npz"), Some(name), &[]).unwrap();
    reader.next_batch(1).unwrap()
}

fn options((height, width): (usize, usize)) -> ImageOptions {
    ImageOptions {
        height,
        width,
        channels: Channels::Rgb,
        fit: Fit::Exact,
        filter: Filter::Bilinear,
        on_bad: OnBadSample::Stop,
    }
}

fn read(path: PathBuf, options: ImageOptions) -> Result<ArrayD<f32>, FileError> {
    ImageReader::new(vec![path], options).next_batch(1)
}

#[test]
fn png_pixels_are_those_of_pillow() {
    let names = ["rgb", "gray", "palette", "one_bit", "rgba", "gray_alpha"];
    for name in names.map(|name| format!("{name}.png")) {
        let got = read(file(&name), options(EXTENTS)).unwrap();
        assert_eq!(got, expected(&format!("{name}/rgb")), "{name}");
    }
    for name in ["rgb.png", "gray.png"] {
        let gray = ImageOptions {
            channels: Channels::Gray,
            ..options(EXTENTS)
        };
        let got = read(file(name), gray).unwrap();
        assert_eq!(got, expected(&format!("{name}/gray")), "{name} as gray");
    }
}

#[test]
fn jpeg_pixels_are_close_to_those_of_pillow() {
    for name in ["rgb.jpg", "progressive.jpg", "gray.jpg"] {
        let got = read(file(name), options(EXTENTS)).unwrap();
        let want = expected(&format!("{name}/rgb"));
        let largest = (&got - &want).iter().fold(0.0_f32, |m, d| m.max(d.abs()));
        assert!(largest <= JPEG_TOLERANCE, "{name}: {largest} levels");
    }
}

#[test]
fn resized_images_have_the_bits_of_pillow() {
    let filters = [
        (Filter::Nearest, "nearest"),
        (Filter::Bilinear, "bilinear"),
        (Filter::Bicubic, "bicubic"),
        (Filter::Lanczos, "lanczos"),
    ];
    for (height, width) in [(7, 11), (40, 31), (17, 40), (5, 23), (1, 1)] {
        for (filter, name) in filters {
            let stretched = ImageOptions {
                fit: Fit::Stretch,
                filter,
                ..options((height, width))
            };
            let got = read(file("rgb.png"), stretched).unwrap();
            let want = expected(&format!("rgb.png/{name}/{height}x{width}"));
            assert_eq!(got, want, "{name} to {height}x{width}");
        }
    }
}

#[test]
fn channels_can_be_reversed() {
    let bgr = ImageOptions {
        channels: Channels::Bgr,
        ..options(EXTENTS)
    };
    let got = read(file("rgb.png"), bgr).unwrap();
    let want = expected("rgb.png/rgb");
    assert_eq!(got, want.slice(s![.., .., .., ..;-1]).into_dyn(), "BGR");
}

#[test]
fn a_crop_is_the_centre_of_the_image() {
    let crop = |shorter, extents| ImageOptions {
        fit: Fit::Crop { shorter },
        ..options(extents)
    };
    let want = expected("rgb.png/rgb");
    // The shorter side keeps its 17 rows: nothing is resized.
    let got = read(file("rgb.png"), crop(Some(17), (10, 12))).unwrap();
    assert_eq!(got, want.slice(s![.., 3..13, 5..17, ..]).into_dyn(), "cut");
    let got = read(file("rgb.png"), crop(None, (17, 17))).unwrap();
    assert_eq!(got, want.slice(s![.., .., 3..20, ..]).into_dyn(), "covers");
    // 17 rows of 23 to 40 rows: floor(23 * 40 / 17) = 54 columns, of which 54 - 31 = 23 go.
    let got = read(file("rgb.png"), crop(None, (40, 31))).unwrap();
    let wide = ImageOptions {
        fit: Fit::Stretch,
        ..options((40, 54))
    };
    let whole = read(file("rgb.png"), wide).unwrap();
    assert_eq!(
        got,
        whole.slice(s![.., .., 11..42, ..]).into_dyn(),
        "larger"
    );
    let error = read(file("rgb.png"), crop(Some(8), (10, 12))).unwrap_err();
    assert!(error.to_string().contains("too small"), "{error}");
}

#[test]
fn images_come_in_the_order_of_their_list_in_any_steps() {
    let names = ["rgb.png", "gray.png", "palette.png", "rgba.png"];
    let paths: Vec<PathBuf> = (0..75).map(|i| file(names[i * 7 % 4])).collect();
    let mut reader = ImageReader::new(paths.clone(), options(EXTENTS));
    for step in [1, 7, 50, 75, 200] {
        reader.rewind();
        let mut seen = 0;
        loop {
            let batch = reader.next_batch(step).unwrap();
            assert_eq!(batch.shape()[0], step.min(75 - seen), "a full batch");
            if batch.shape()[0] == 0 {
                break;
            }
            for item in batch.outer_iter() {
                let name = paths[seen].file_name().unwrap().to_str().unwrap();
                let want = expected(&format!("{name}/rgb"));
                assert_eq!(item, want.index_axis(ndarray::Axis(0), 0), "{seen}");
                seen += 1;
            }
        }
        assert_eq!(seen, 75, "all images in steps of {step}");
    }
}

#[test]
fn bad_images_stop_or_are_left_out() {
    let scratch = Scratch::new();
    let cut = |name: &str, n: usize| {
        let bytes = fs::read(file(name)).unwrap();
        scratch.write(name, &bytes[..bytes.len() - n])
    };
    let bad = [
        (cut("rgb.jpg", 60), "ends before"),
        (cut("progressive.jpg", 2), "ends before"),
        (cut("rgb.png", 300), "rgb.png"),
        (
            scratch.write("text.png", b"no image"),
            "neither PNG nor JPEG",
        ),
        (scratch.write("empty.jpg", b""), "neither PNG nor JPEG"),
        (scratch.write("a.png", b"GIF89a and so on"), "not supported"),
        (file("deep.png"), "8 bits"),
        (scratch.path("absent.png"), "absent.png"),
        (scratch.0.path().to_owned(), "no image file"),
    ];
    for (path, part) in &bad {
        let error = read(path.clone(), options(EXTENTS))
            .unwrap_err()
            .to_string();
        let name = path.display().to_string();
        assert!(error.contains(part) && error.contains(&name), "{error}");
    }
    let mut paths: Vec<PathBuf> = bad.iter().map(|(path, _)| path.clone()).collect();
    paths.insert(4, file("rgb.png"));
    paths.push(file("gray.png"));
    let skipping = ImageOptions {
        on_bad: OnBadSample::Skip,
        ..options(EXTENTS)
    };
    let mut reader = ImageReader::new(paths, skipping);
    for pass in 0..2 {
        let batch = reader.next_batch(2).unwrap();
        assert_eq!(batch.shape()[0], 2, "the good ones of pass {pass}");
        assert_eq!(reader.next_batch(2).unwrap().shape()[0], 0, "no others");
        let skipped: Vec<usize> = reader.bad().iter().map(|bad| bad.index).collect();
        assert_eq!(skipped, [0, 1, 2, 3, 5, 6, 7, 8, 9], "pass {pass}");
        reader.rewind();
    }
}

#[test]
fn images_of_other_extents_are_refused_when_exact_ones_are_asked_for() {
    let error = read(file("rgb.png"), options((17, 24))).unwrap_err();
    assert!(error.to_string().contains("23x17"), "{error}");
}

#[test]
fn damaged_images_are_errors_or_pictures() {
    let scratch = Scratch::new();
    let mut stream = Stream::new(11);
    for name in ["rgb.png", "palette.png", "rgb.jpg", "progressive.jpg"] {
        let whole = fs::read(file(name)).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + stream.below(4) {
                let at = stream.below(bytes.len());
                bytes[at] = u8::try_from(stream.below(256)).unwrap();
            }
            let path = scratch.write(name, &bytes);
            let stretched = ImageOptions {
                fit: Fit::Stretch,
                ..options((9, 9))
            };
            if let Ok(picture) = read(path, stretched) {
                assert_eq!(picture.shape(), [1, 9, 9, 3], "{name}");
            }
        }
    }
}

#[test]
fn a_small_file_cannot_claim_a_large_image() {
    let scratch = Scratch::new();
    let mut bytes = fs::read(file("rgb.png")).unwrap();
    // Width and height of the header, whose checksum is made right again.
    bytes[16..24].copy_from_slice(&[0, 0, 0x7F, 0xFF, 0, 0, 0x7F, 0xFF]);
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let path = scratch.write("large.png", &bytes);
    let error = read(path, options(EXTENTS)).unwrap_err();
    assert!(error.to_string().contains("32767x32767"), "{error}");
}

#[test]
fn lists_of_images_are_sorted() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("b/deep")).unwrap();
    for name in [
        "b/2.PNG",
        "b/deep/1.jpg",
        "a.jpeg",
        "c.png",
        ".d.png",
        "notes.txt",
    ] {
        scratch.write(name, b"");
    }
    let list = images_in(scratch.0.path()).unwrap();
    let names: Vec<PathBuf> = ["a.jpeg", "b/2.PNG", "b/deep/1.jpg", "c.png"]
        .map(|name| scratch.path(name))
        .to_vec();
    assert_eq!(list.paths, names, "order");
    assert_eq!(list.n_left_out, 1, "the notes");
    let pattern = scratch.path("**/*.jp*g");
    let list = glob_images(pattern.to_str().unwrap()).unwrap();
    assert_eq!(list.paths, [&names[0], &names[2]].map(Clone::clone), "glob");
    for pattern in ["no_such/*.png", "a[", "***"] {
        assert!(glob_images(pattern).is_err(), "{pattern}");
    }
    fs::create_dir(scratch.path("none")).unwrap();
    let error = images_in(&scratch.path("none")).unwrap_err();
    assert!(error.to_string().contains("no .png"), "{error}");
}

#[test]
fn classes_are_numbered_by_name_or_are_numbers() {
    let scratch = Scratch::new();
    let make = |root: &str, names: &[&str]| {
        for name in names {
            fs::create_dir_all(scratch.path(&format!("{root}/{name}"))).unwrap();
            for image in ["2.png", "1.png"] {
                scratch.write(&format!("{root}/{name}/{image}"), b"");
            }
        }
        scratch.path(root)
    };
    let labelled = labelled_images(&make("names", &["dog", "cat", "10"])).unwrap();
    let classes = [("10", 0), ("cat", 1), ("dog", 2)].map(|(n, l)| (n.to_owned(), l));
    assert_eq!(labelled.classes, classes, "by name");
    assert_eq!(labelled.labels, [0, 0, 1, 1, 2, 2], "two images each");
    assert!(labelled.paths[1].ends_with("10/2.png"), "sorted");
    let labelled = labelled_images(&make("numbers", &["10", "9", "0"])).unwrap();
    assert_eq!(labelled.labels, [0, 0, 9, 9, 10, 10], "by number");
    let error = labelled_images(&make("twice", &["1", "01"])).unwrap_err();
    assert!(error.to_string().contains("one class"), "{error}");
    scratch.write("names/stray.png", b"");
    let error = labelled_images(&scratch.path("names")).unwrap_err();
    assert!(error.to_string().contains("stray.png"), "{error}");
    assert!(
        labelled_images(&scratch.path("names/cat")).is_err(),
        "no classes"
    );
}

#[test]
fn raw_files_have_the_extents_that_are_given() {
    let scratch = Scratch::new();
    let values: Vec<i16> = (-6..6).collect();
    let little: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let big: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    for (dtype, bytes) in [("int16", little), (">i2", big)] {
        let path = scratch.write("a.bin", &bytes);
        let mut reader = ArrayReader::open_raw(&path, dtype, &[2, 2, 1]).unwrap();
        assert_eq!(reader.shape(), [3, 2, 2, 1], "{dtype}");
        assert!(reader.is_integer(), "{dtype}");
        for _ in 0..2 {
            let first = reader.next_batch(2).unwrap();
            let last = reader.next_batch(2).unwrap();
            let got: Vec<f32> = first.iter().chain(&last).copied().collect();
            let want: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
            assert_eq!(got, want, "{dtype}");
            reader.rewind().unwrap();
        }
        for (dtype, shape) in [(dtype, vec![5]), ("int24", vec![2]), (dtype, vec![0, 2])] {
            assert!(
                ArrayReader::open_raw(&path, dtype, &shape).is_err(),
                "{dtype} {shape:?}"
            );
        }
    }
}
