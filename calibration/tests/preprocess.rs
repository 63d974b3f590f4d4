//! Preprocessing against Keras' numbers, and samples that are left out.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use calibration::{
    ArraySource, FiniteSource, Preprocess, PreprocessedSource, SampleSource, Skipped,
};
use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

/// Two pixels of three channels.
const PIXELS: [f32; 6] = [0.0, 1.0, 255.0, 17.0, 128.0, 200.0];

fn applied(preprocess: &str) -> Vec<u32> {
    let mut values = PIXELS.to_vec();
    let preprocess: Preprocess = preprocess.parse().unwrap();
    preprocess.apply(&mut values, 3).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn values_have_the_bits_of_keras() {
    // `imagenet_utils.preprocess_input` of tf_keras 2.19 and of Keras 3.15 on `PIXELS`.
    let want = [
        (
            "tf",
            [
                0xBF80_0000,
                0xBF7D_FDFE,
                0x3F80_0000,
                0xBF5D_DDDE,
                0x3B80_8100,
                0x3F11_9192,
            ],
        ),
        (
            "caffe",
            [
                0x4317_0F9E,
                0xC2E7_8ED9,
                0xC2F7_5C29,
                0x42C0_1F3B,
                0x4133_8938,
                0xC2D5_5C29,
            ],
        ),
        (
            "torch",
            [
                0xC007_8BBD,
                0xC001_2A4F,
                0x4028_F5C3,
                0xBFE9_D408,
                0x3E52_1B48,
                0x3FD7_37EF,
            ],
        ),
    ];
    for (name, bits) in want {
        assert_eq!(applied(name), bits, "{name}");
    }
    assert_eq!(applied("none"), PIXELS.map(f32::to_bits), "none");
    let want = PIXELS.map(|x| (x * 0.5 - 1.5).to_bits());
    assert_eq!(applied("0.5,-1.5"), want, "halves are exact");
}

#[test]
fn texts_that_are_no_preprocessing_are_refused() {
    for text in ["", "vgg", "1", "1,", "1,2,3", "nan,0", "1,inf", "one,0"] {
        let error = text.parse::<Preprocess>().unwrap_err();
        assert!(
            error.to_string().contains("scale,offset"),
            "{text}: {error}"
        );
    }
    for text in ["none", "tf", "caffe", "torch", "0.5,-1.5"] {
        let read: Preprocess = text.parse().unwrap();
        assert_eq!(read.to_string(), text, "as it is written");
    }
}

#[test]
fn colours_need_three_channels() {
    for (text, fits) in [
        ("tf", true),
        ("2,1", true),
        ("caffe", false),
        ("torch", false),
    ] {
        let gray = ArraySource::integers(ArrayD::zeros(IxDyn(&[2, 3, 3, 1])));
        let source = PreprocessedSource::new(Box::new(gray), text.parse().unwrap());
        assert_eq!(source.is_ok(), fits, "{text}");
    }
}

#[test]
fn preprocessed_integers_are_floats() {
    for (text, is_integer) in [("none", true), ("tf", false), ("1,0", false)] {
        let integers = ArraySource::integers(ArrayD::zeros(IxDyn(&[2, 3])));
        let source = PreprocessedSource::new(Box::new(integers), text.parse().unwrap()).unwrap();
        assert_eq!(source.is_integer(), is_integer, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn finite_samples_fill_batches(bad in proptest::collection::vec(any::<bool>(), 1..40), step in 1usize..9) {
        let n = bad.len();
        let value = |i: usize| f32::from(u16::try_from(i).unwrap());
        let samples = ArrayD::from_shape_fn(IxDyn(&[n, 2]), |at| {
            if bad[at[0]] && at[1] == 1 { f32::NAN } else { value(at[0]) }
        });
        let mut source = FiniteSource::new(Box::new(ArraySource::floats(samples)));
        let good: Vec<f32> = (0..n).filter(|i| !bad[*i]).map(value).collect();
        let skipped: Vec<usize> = (0..n).filter(|i| bad[*i]).collect();
        for _ in 0..2 {
            source.rewind().unwrap();
            let mut got = Vec::new();
            loop {
                let batch = source.next_batch(step).unwrap();
                prop_assert_eq!(batch.shape()[0], step.min(good.len() - got.len()), "a full batch");
                if batch.shape()[0] == 0 {
                    break;
                }
                got.extend(batch.outer_iter().map(|item| item[1]));
            }
            prop_assert_eq!(&got, &good);
            let indices: Vec<usize> = source.skipped().iter().map(|s: &Skipped| s.index).collect();
            prop_assert_eq!(&indices, &skipped);
        }
    }
}
