//! The JSON part: structure without numbers that belong to tensors.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) outputs: Vec<usize>,
    pub(super) provenance: ProvenanceHeader,
    pub(super) nodes: Vec<NodeHeader>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProvenanceHeader {
    pub(super) tool: String,
    pub(super) model_sha256: Option<String>,
    pub(super) samples_sha256: Option<String>,
    pub(super) q_config_sha256: Option<String>,
    pub(super) seed: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeHeader {
    pub(super) name: String,
    pub(super) class_name: String,
    pub(super) inputs: Vec<usize>,
    pub(super) shape: Vec<Option<usize>>,
    pub(super) trainable_params: usize,
    pub(super) non_trainable_params: usize,
    pub(super) config: Option<Map<String, Value>>,
    pub(super) has_ranges: bool,
    pub(super) op: OpHeader,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum OpHeader {
    FloatInput {
        dtype: String,
    },
    RawInput {
        dtype: String,
        value_bits: u8,
    },
    InputQuantizer {
        bitwidth: u8,
        signed: bool,
    },
    Integer(Box<IntegerHeader>),
    Dequantizer {
        value_bits: u8,
    },
    Float {
        class_name: String,
        config: Map<String, Value>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IntegerHeader {
    pub(super) kind: KindHeader,
    pub(super) entries: Vec<EntryHeader>,
    pub(super) inner_bits: u8,
    pub(super) has_bias: bool,
    pub(super) output: Option<OutputHeader>,
    pub(super) value_bits: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryHeader {
    pub(super) stage: String,
    pub(super) value_bits: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputHeader {
    pub(super) value_bits: u8,
    /// Value bits of the scaled sums; absent for a quantizer that only shifts.
    pub(super) buffer_bits: Option<u8>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum KindHeader {
    Conv2d {
        strides: [usize; 2],
        dilation: [usize; 2],
        border: BorderHeader,
    },
    DepthwiseConv2d {
        strides: [usize; 2],
        dilation: [usize; 2],
        padding: PaddingHeader,
    },
    SeparableConv2d {
        strides: [usize; 2],
        dilation: [usize; 2],
        padding: PaddingHeader,
    },
    Dense,
    Relu {
        has_max: bool,
    },
    MaxPool2d {
        pool_size: [usize; 2],
        strides: [usize; 2],
        padding: PaddingHeader,
    },
    GlobalAveragePooling2d {
        keepdims: bool,
    },
    Conv2dTranspose {
        strides: [usize; 2],
        padding: PaddingHeader,
        output_padding: Option<[usize; 2]>,
    },
    DepthwiseConv2dTranspose {
        strides: [usize; 2],
    },
    StatefulProjection {
        subsample: usize,
    },
    BufferTempConv {
        n_frames: usize,
    },
    DepthwiseBufferTempConv,
    StatefulRecurrent {
        state_bits: u8,
        has_multiplier: bool,
    },
    LookUp,
    Add,
    Concatenate {
        /// Absent for the last axis.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        axis: Option<usize>,
    },
    Permute {
        dims: Vec<usize>,
    },
    ExtractToken {
        token: usize,
        axis: usize,
    },
    Flatten,
    Reshape {
        target_shape: Vec<isize>,
    },
    Identity,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BorderHeader {
    Valid,
    Same,
    Value,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PaddingHeader {
    Valid,
    Same,
}
