//! The float graph of a trained network: layers, shapes, builder, summary, rewrites, evaluation.
//!
//! A [`Graph`] is immutable and always valid: names are unique, shapes agree, and the nodes stand
//! in Keras' order (see [`Graph`]). A rewrite takes a [`Draft`] apart and builds a new graph.

mod builder;
mod error;
mod eval;
mod graph;
mod layer;
mod rewrite;
mod shape;
mod summary;
mod volume;

pub use builder::{Bias, Convolution, Extents2, GraphBuilder, Output};
pub use error::GraphError;
pub use eval::{GraphMemory, Watch, apply, apply_step};
pub use graph::{Draft, DraftNode, Graph, Node, NodeId, keras_order};
pub use layer::{
    Activation, Add, BatchNormalization, BufferTempConv, Conv2D, Conv2DTranspose, Dense,
    DepthwiseBufferTempConv, DepthwiseConv2D, Dtype, GlobalAveragePooling2D, Input, Layer, Pool2D,
    ReLU, Rescaling, SeparableConv2D, StatefulProjection, StatefulRecurrent,
};
pub use quantizer_core::geometry::{Padding, Pads};
pub use rewrite::{HardwareRewrites, RewriteEvent, SanitizeOptions, Sanitized, sanitize};
pub use shape::{MAX_BATCH_VALUES, MAX_ITEM_VALUES, Shape, infer_shape, item_axis};
pub use summary::{ParamCount, Summary, SummaryRow};
pub use volume::{Conv3D, Pool3D, Volume};
