//! Arrays: NumPy's own files, round trips, damage.

use std::path::Path;

use model_files::{
    ArrayReader, FileError, NpzWriter, Spool, read_integers, write_npy_f32, write_npy_spooled,
};
use ndarray::{ArrayD, Axis, IxDyn, Slice};
use proptest::prelude::*;

use crate::support::{Scratch, case};

/// Returns the bytes of a `.npy` file with a header as NumPy may write it.
fn npy(descr: &str, order: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(dict.len()).unwrap().to_le_bytes());
    bytes.extend(dict.bytes());
    bytes.extend(body);
    bytes
}

fn all(reader: &mut ArrayReader, step: usize) -> ArrayD<f32> {
    let mut shape = reader.shape().to_vec();
    shape[0] = 0;
    let mut all = ArrayD::zeros(IxDyn(&shape));
    loop {
        let batch = reader.next_batch(step).unwrap();
        if batch.shape()[0] == 0 {
            return all;
        }
        all.append(Axis(0), batch.view()).unwrap();
    }
}

fn arrays() -> impl Strategy<Value = ArrayD<f32>> {
    proptest::collection::vec(1usize..5, 1..4).prop_flat_map(|shape| {
        let n: usize = shape.iter().product();
        // Any bits but those of NaN, which equal nothing.
        let value = any::<f32>().prop_filter("no NaN", |x| !x.is_nan());
        proptest::collection::vec(value, n)
            .prop_map(move |values| ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn npy_round_trips_in_any_steps(array in arrays(), step in 1usize..6) {
        let scratch = Scratch::new();
        let path = scratch.path("a.npy");
        write_npy_f32(&path, &array).unwrap();
        let mut reader = ArrayReader::open(&path, None, &[]).unwrap();
        prop_assert_eq!(reader.shape(), array.shape());
        prop_assert!(!reader.is_integer());
        prop_assert_eq!(&all(&mut reader, step), &array);
        reader.rewind().unwrap();
        prop_assert_eq!(&all(&mut reader, step), &array, "after a rewind");
        prop_assert_eq!(scratch.names(), ["a.npy"], "no temporary file stays");
    }

    #[test]
    fn npz_round_trips_with_many_arrays(
        floats in arrays(),
        integers in proptest::collection::vec(any::<i64>(), 1..9),
        small in proptest::collection::vec(any::<i32>(), 1..9),
    ) {
        let scratch = Scratch::new();
        let write = |name: &str| {
            let path = scratch.path(name);
            let mut npz = NpzWriter::create(&path).unwrap();
            npz.f32("a/float", &floats).unwrap();
            let vector = |values: Vec<i64>| ArrayD::from_shape_vec(IxDyn(&[values.len()]), values);
            npz.integers("b/values", &vector(integers.clone()).unwrap()).unwrap();
            let small = small.iter().copied().map(i64::from).collect();
            npz.integers("c:0/values", &vector(small).unwrap()).unwrap();
            npz.finish().unwrap();
            path
        };
        let path = write("a.npz");
        let mut reader = ArrayReader::open(&path, Some("a/float"), &[]).unwrap();
        prop_assert_eq!(&all(&mut reader, 2), &floats);
        let read = read_integers(&path, Some("b/values")).unwrap();
        prop_assert_eq!(&read.into_raw_vec_and_offset().0, &integers);
        let read = read_integers(&path, Some("c:0/values")).unwrap();
        let wide: Vec<i64> = small.iter().copied().map(i64::from).collect();
        prop_assert_eq!(read.into_raw_vec_and_offset().0, wide);
        let again = write("b.npz");
        prop_assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap());
    }
}

#[test]
fn members_carry_no_time() {
    let scratch = Scratch::new();
    let path = scratch.path("a.npz");
    let mut npz = NpzWriter::create(&path).unwrap();
    npz.f32("a", &ArrayD::zeros(IxDyn(&[2]))).unwrap();
    npz.finish().unwrap();
    let bytes = std::fs::read(path).unwrap();
    // Bytes 10 to 13 of a member's header: time 00:00:00, date 1980-01-01.
    assert_eq!(bytes[10..14], [0, 0, 0x21, 0], "time and date");
}

#[test]
fn scalars_are_written_without_axes() {
    let scratch = Scratch::new();
    let path = scratch.path("a.npz");
    let mut npz = NpzWriter::create(&path).unwrap();
    npz.integers("a", &ArrayD::from_elem(IxDyn(&[]), 7))
        .unwrap();
    npz.finish().unwrap();
    let error = ArrayReader::open(&path, None, &[]).unwrap_err();
    assert!(error.to_string().contains("single number"), "{error}");
}

/// The samples of case 03 are bytes; the same case's layers hold int32 and float32, compressed.
#[test]
fn files_of_numpy_are_read() {
    let folder = case("03-tiny-conv-8bit-per-axis");
    let mut reader = ArrayReader::open(&folder.join("samples.npy"), None, &[]).unwrap();
    assert!(reader.is_integer(), "samples are integers");
    let size = reader.shape().iter().product::<usize>();
    let bytes = std::fs::read(folder.join("samples.npy")).unwrap();
    let body: Vec<f32> = bytes[bytes.len() - size..]
        .iter()
        .map(|b| f32::from(*b))
        .collect();
    let read = all(&mut reader, 3);
    assert_eq!(
        read.into_raw_vec_and_offset().0,
        body,
        "the last bytes of the file"
    );
    let layers = folder.join("expected/layers.npz");
    let float = all(
        &mut ArrayReader::open(&layers, Some("dequantizer/float"), &[]).unwrap(),
        100,
    );
    let output = folder.join("expected/output.npy");
    let output = all(&mut ArrayReader::open(&output, None, &[]).unwrap(), 1);
    assert_eq!(float, output, "the last layer is the output");
}

#[test]
fn every_type_and_byte_order_is_read() {
    let scratch = Scratch::new();
    let cases: [(&str, Vec<u8>, f32); 14] = [
        ("|i1", vec![0xFE], -2.0),
        ("|u1", vec![0xFE], 254.0),
        ("|b1", vec![1], 1.0),
        ("<i2", (-300i16).to_le_bytes().to_vec(), -300.0),
        (">i2", (-300i16).to_be_bytes().to_vec(), -300.0),
        ("<u2", 60000u16.to_le_bytes().to_vec(), 60000.0),
        (">i4", (-70000i32).to_be_bytes().to_vec(), -70000.0),
        ("<u4", 70000u32.to_le_bytes().to_vec(), 70000.0),
        ("<i8", (-5i64).to_le_bytes().to_vec(), -5.0),
        (">u8", 5u64.to_be_bytes().to_vec(), 5.0),
        ("<f2", 0xC100u16.to_le_bytes().to_vec(), -2.5),
        (">f2", 0xC100u16.to_be_bytes().to_vec(), -2.5),
        (">f4", 0.1f32.to_be_bytes().to_vec(), 0.1),
        ("<f8", 0.1f64.to_le_bytes().to_vec(), 0.1),
    ];
    for (descr, body, want) in cases {
        let path = scratch.write("a.npy", &npy(descr, "False", "(1,)", &body));
        let mut reader = ArrayReader::open(&path, None, &[]).unwrap();
        let read = reader.next_batch(1).unwrap()[0];
        assert_eq!(read.to_bits(), want.to_bits(), "{descr}");
        assert_eq!(reader.is_integer(), !descr.contains('f'), "{descr}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_the_file_and_the_reason() {
    let scratch = Scratch::new();
    for (bytes, reason) in [
        (npy("<f4", "True", "(2, 2)", &[0; 16]), "Fortran"),
        (npy("<c8", "False", "(2,)", &[0; 16]), "type `<c8`"),
        (npy("<U3", "False", "(2,)", &[0; 24]), "type `<U3`"),
        (npy("<f4", "False", "(5,)", &[0; 16]), "ends before"),
        (npy("<f4", "False", "(0, 0)", &[]), "shape [0, 0]"),
        (b"PK\x03\x04 and nothing more".to_vec(), ""),
        (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
        (
            b"\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF".to_vec(),
            "4294967295 bytes",
        ),
        (b"no array".to_vec(), "first bytes"),
        (Vec::new(), "cut off"),
    ] {
        let path = scratch.write("odd.npy", &bytes);
        let error = ArrayReader::open(&path, None, &[]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FileError::Invalid { .. }), "{text}");
        assert!(text.contains("odd.npy") && text.contains(reason), "{text}");
    }
    let path = scratch.path("not there");
    let error = ArrayReader::open(&path, None, &[]).unwrap_err();
    assert!(matches!(error, FileError::Io { .. }), "{error}");
}

#[test]
fn a_damaged_member_is_noticed() {
    let scratch = Scratch::new();
    let path = scratch.path("a.npz");
    let mut npz = NpzWriter::create(&path).unwrap();
    // Few repetitions: deflate stores most bytes as they are.
    let values = (0u16..600)
        .map(|i| f32::from(i * 37 % 601) * 0.37)
        .collect();
    npz.f32("a", &ArrayD::from_shape_vec(IxDyn(&[600]), values).unwrap())
        .unwrap();
    npz.finish().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let mut n_noticed = 0;
    for at in (200..1200).step_by(100) {
        bytes[at] ^= 4;
        let path = scratch.write("b.npz", &bytes);
        bytes[at] ^= 4;
        let read = ArrayReader::open(&path, None, &[]).and_then(|mut r| r.next_batch(600));
        n_noticed += usize::from(matches!(read, Err(FileError::Invalid { .. })));
    }
    assert_eq!(n_noticed, 10, "each change is noticed");
}

/// A member is refused when it is opened, not after hours of reading.
#[test]
fn a_member_of_another_size_than_its_header_says_is_refused() {
    let scratch = Scratch::new();
    for (shape, body) in [("(9,)", 8), ("(2,)", 12)] {
        let path = scratch.path("a.npz");
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("a.npy", options).unwrap();
        let member = npy("<f4", "False", shape, &vec![0; body]);
        std::io::Write::write_all(&mut zip, &member).unwrap();
        zip.finish().unwrap();
        let error = ArrayReader::open(&path, None, &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("in {body} bytes")),
            "{shape}: {text}"
        );
    }
}

#[test]
fn arrays_are_chosen_by_name_or_default() {
    let ranges = case("03-tiny-conv-8bit-per-axis").join("expected/layers.npz");
    let error = ArrayReader::open(&ranges, Some("nothing"), &[]).unwrap_err();
    assert!(
        error.to_string().contains("conv_1/values"),
        "lists the arrays: {error}"
    );
    let error = ArrayReader::open(&ranges, None, &["x_test"]).unwrap_err();
    assert!(error.to_string().contains("name one"), "{error}");
    let chosen = ArrayReader::open(&ranges, None, &["x_test", "conv_1/values"]).unwrap();
    assert_eq!(chosen.shape().len(), 4, "the default that exists");
}

#[test]
fn a_folder_is_not_replaced() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let array = ArrayD::zeros(IxDyn(&[2]));
    let error = write_npy_f32(&folder, &array).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
    let path = scratch.path("no such folder/a.npy");
    assert!(write_npy_f32(&path, &array).is_err(), "no folder");
    assert_eq!(scratch.names(), ["folder"], "no temporary file stays");
}

/// Batches of several arrays, interleaved, are the arrays that they would be in one piece.
#[test]
fn arrays_that_grow_on_disk_are_written_as_one() {
    let scratch = Scratch::new();
    let target = scratch.path("grown.npz");
    let mut spool = Spool::new(&target, 3).unwrap();
    let floats = ArrayD::from_shape_fn(vec![5, 2, 3], |i| {
        f32::from(u8::try_from(i[0] * 6 + i[1] * 3 + i[2]).unwrap()) - 0.5
    });
    let integers = floats.mapv(|v| if v > 20.0 { 1 << 33 } else { -3 });
    let small = floats.mapv(|v| if v > 20.0 { i64::from(i32::MIN) } else { 7 });
    for batch in [0..2, 2..2, 2..5] {
        let of = Slice::from(batch);
        let part = |x: &ArrayD<i64>| x.slice_axis(Axis(0), of).to_owned();
        spool.push_integers(0, &part(&integers)).unwrap();
        let batch = floats.slice_axis(Axis(0), of).to_owned();
        spool.push_f32(1, &batch).unwrap();
        spool.push_integers(2, &part(&small)).unwrap();
    }
    assert_eq!(spool.holds_floats(0), Some(false));
    assert_eq!(spool.holds_floats(1), Some(true));
    let mut grown = NpzWriter::create(&target).unwrap();
    let whole = scratch.path("whole.npz");
    let mut npz = NpzWriter::create(&whole).unwrap();
    for (index, name) in ["wide", "floats", "narrow"].iter().enumerate() {
        grown.spooled(name, &mut spool, index).unwrap();
        match index {
            0 => npz.integers(name, &integers).unwrap(),
            1 => npz.f32(name, &floats).unwrap(),
            _ => npz.integers(name, &small).unwrap(),
        }
    }
    grown.finish().unwrap();
    npz.finish().unwrap();
    for name in ["wide", "floats", "narrow"] {
        let read = |path: &Path| {
            let mut reader = ArrayReader::open(path, Some(name), &[]).unwrap();
            assert_eq!(reader.shape(), [5, 2, 3], "{name}");
            reader.next_batch(5).unwrap()
        };
        assert_eq!(read(&target), read(&whole), "{name}");
    }
    let single = scratch.path("one.npy");
    write_npy_spooled(&single, &mut spool, 1).unwrap();
    let plain = scratch.path("plain.npy");
    write_npy_f32(&plain, &floats).unwrap();
    assert_eq!(
        std::fs::read(single).unwrap(),
        std::fs::read(plain).unwrap()
    );
    assert_eq!(
        scratch.names(),
        ["grown.npz", "one.npy", "plain.npy", "whole.npz"]
    );
    let other = ArrayD::zeros(vec![1, 3, 2]);
    assert!(spool.push_f32(1, &other).is_err(), "other extents");
    assert!(spool.push_f32(0, &floats).is_err(), "floats among integers");
    assert!(spool.push_f32(3, &floats).is_err(), "no such array");
}
