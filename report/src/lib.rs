//! A quantized model on one self-contained HTML page.
//!
//! [`page`] needs a model and its proof; whatever else is given (measurements on samples, the float
//! network, labelled data, the log of the quantization) adds to it. The page has no scripts and asks
//! for nothing from elsewhere. Names in a model's file are hostile until they are escaped: all text
//! goes through the template engine, and none of it becomes a style, a link or an identifier.

mod accuracy;
mod chart;
mod checks;
mod confusion;
mod histogram;
mod layer;
mod log;
mod measure;
mod network;
mod page;
mod picture;
mod standing;
mod text;
mod weights;

use bitproof::akida_sim::prove::Proof;
use bitproof::findings::Findings;
use bitproof::{Graph, QuantizedModel};

pub use accuracy::Accuracy;
pub use bitproof::counterpart;
pub use histogram::{Grid, Histogram};
pub use log::{LoggedOrigin, LoggedRewrite, QuantizeLog};
pub use measure::{Measured, MeasuredLayer, Measurement};
pub use page::page;

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The quantized model.
    pub model: &'a QuantizedModel,
    /// Its proof.
    pub proof: &'a Proof,
    /// The float network, as [`counterpart`] returns it.
    pub float: Option<&'a Graph>,
    /// What samples did.
    pub measured: Option<&'a Measured>,
    /// How well labelled data is classified.
    pub accuracy: Option<&'a Accuracy>,
    /// What quantization decided.
    pub log: Option<&'a QuantizeLog>,
    /// What checks found, such as those of the rules of a target.
    pub checks: &'a [Findings],
    /// Where all of it comes from.
    pub facts: &'a Facts,
}

/// Where a report comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The model as its user calls it.
    pub title: String,
    /// The command that makes the page.
    pub command: String,
    /// Files that were read.
    pub files: Vec<FileFact>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFact {
    /// What it is, such as `model`.
    pub role: String,
    /// Its name.
    pub path: String,
    /// Its SHA-256 in hex; that of all of them for a folder.
    pub sha256: String,
}
