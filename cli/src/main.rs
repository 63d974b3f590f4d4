//! The `bitproof` command.
fn main() {}
