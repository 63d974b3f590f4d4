//! Files of the reference, round trips, and files that mean harm.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests stop at the first surprise"
)]

mod arrays;
mod bpq;
mod hostile;
mod images;
mod keras;
mod keras_archives;
mod keras_files;
mod onnx;
mod onnx_nodes;
mod support;
