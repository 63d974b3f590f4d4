//! Our own format: a safetensors file with integer tensors and a JSON description.
//!
//! Integers, shifts, scales and ranges are tensors named `<layer>/<field>`: extents `[]` for one
//! value, `[channels]` for one a channel. The graph, the configuration and the provenance are one
//! JSON text under the metadata key `bitproof`. The same model gives the same bytes.

mod header;
mod kind;
mod read;
mod tensors;
mod write;

pub use read::read_bpq;
pub use write::write_bpq;

/// Version of the format; another one is refused.
const VERSION: u32 = 1;

/// Metadata key of the JSON text.
const KEY: &str = "bitproof";
