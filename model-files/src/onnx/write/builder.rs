//! The graph of a file while it is made.

use std::collections::{BTreeMap, BTreeSet};

use float_model::Shape;
use quantizer_core::PerAxis;

use crate::onnx::proto::{
    Attribute, Dimension, Graph, Node, Shape as Extents, Tensor, TensorType, Type, ValueInfo,
};

/// Element types of ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float = 1,
    UInt8 = 2,
    Int8 = 3,
    UInt16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    Double = 11,
}

/// The integers between quantizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Integers {
    /// Of up to 8 bits.
    #[default]
    Bytes,
    /// Of up to 16 bits, which came with opset 21. Bytes with a sign are stored as words too: there
    /// onnxruntime 1.32 refuses to load a `Transpose` or `MaxPool` behind a `DequantizeLinear` of `int8`,
    /// whose zero point its optimizer makes `uint8`.
    Words,
}

impl Integers {
    /// Returns the version of the format, and the opset that came with it.
    pub(super) const fn versions(self) -> (i64, i64) {
        match self {
            Self::Bytes => (9, 20),
            Self::Words => (10, 21),
        }
    }
}

/// Where the channels of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[batch, channels, height, width]`: images, as ONNX has them.
    First,
    /// On the last axis, as Keras has them.
    Last,
}

/// A float tensor of the graph.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) layout: Layout,
    /// Extents of an item, channels last whatever the layout.
    pub(super) shape: Shape,
    /// The largest magnitude of the integers that it stands for; 0 for a float tensor.
    pub(super) bound: i128,
}

/// The graph so far.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) graph: Graph,
    pub(super) integers: Integers,
    names: BTreeSet<String>,
    /// Transposed tensors, by their origin.
    transposed: BTreeMap<String, String>,
}

impl Value {
    /// Returns a tensor with the channels last.
    pub(super) fn last(name: String, shape: &Shape) -> Self {
        Self {
            name,
            layout: Layout::Last,
            shape: shape.clone(),
            bound: 0,
        }
    }

    /// Returns the tensor, whose channels are elsewhere.
    pub(super) fn in_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Returns another tensor of the same integers.
    pub(super) fn renamed(&self, name: String, layout: Layout, shape: &Shape) -> Self {
        Self {
            name,
            layout,
            shape: shape.clone(),
            bound: self.bound,
        }
    }

    /// Returns the tensor, whose integers are below `bound`.
    pub(super) fn bounded(self, bound: i128) -> Self {
        Self { bound, ..self }
    }

    /// Returns the axis of the channels, counted with the batch axis.
    pub(super) fn channel_axis(&self) -> i64 {
        match self.layout {
            Layout::First => 1,
            Layout::Last => -1,
        }
    }
}

impl Builder {
    /// Returns a builder where `reserved` names are left to inputs and outputs.
    pub(super) fn new(reserved: impl IntoIterator<Item = String>, integers: Integers) -> Self {
        Self {
            integers,
            names: reserved.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Returns whether the graph has integers of 16 bits.
    pub(super) fn has_words(&self) -> bool {
        let words = [Kind::Int16 as i32, Kind::UInt16 as i32];
        let mut constants = self.graph.initializer.iter();
        constants.any(|tensor| words.contains(&tensor.data_type))
    }

    /// Adds a constant, and returns its name.
    pub(super) fn constant(
        &mut self,
        name: &str,
        extents: &[usize],
        (kind, raw_data): (Kind, Vec<u8>),
    ) -> String {
        let name = self.fresh(name);
        self.graph.initializer.push(Tensor {
            dims: extents.iter().map(|n| int(*n)).collect(),
            data_type: kind as i32,
            name: name.clone(),
            raw_data,
            ..Tensor::default()
        });
        name
    }

    /// Adds a node with one output, and returns the name of both.
    pub(super) fn call(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<Attribute>,
    ) -> String {
        let name = self.fresh(&format!("{name}/{op_type}"));
        self.call_named(op_type, &name, inputs, attribute);
        name
    }

    /// Adds a node whose output has a reserved name.
    pub(super) fn call_named(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<Attribute>,
    ) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    /// Adds an elementwise node on a tensor.
    pub(super) fn map(
        &mut self,
        op_type: &str,
        name: &str,
        x: &Value,
        others: &[&str],
        attribute: Vec<Attribute>,
    ) -> Value {
        let inputs: Vec<&str> = std::iter::once(x.name.as_str())
            .chain(others.iter().copied())
            .collect();
        Value {
            name: self.call(op_type, name, &inputs, attribute),
            ..x.clone()
        }
    }

    /// Returns a tensor with the channels where `layout` says; only images have them first.
    pub(super) fn with_layout(&mut self, x: &Value, layout: Layout) -> Value {
        if x.shape.len() != 3 || x.layout == layout {
            return x.clone();
        }
        let perm = match layout {
            Layout::First => [0, 3, 1, 2],
            Layout::Last => [0, 2, 3, 1],
        };
        let known = self.transposed.get(&x.name).cloned();
        let name = known.unwrap_or_else(|| {
            let base = x.name.clone();
            let name = self.call("Transpose", &base, &[&base], vec![ints("perm", &perm)]);
            self.transposed.insert(base.clone(), name.clone());
            self.transposed.insert(name.clone(), base);
            name
        });
        x.renamed(name, layout, &x.shape)
    }

    /// Returns images with the channels first, other tensors as they are.
    pub(super) fn channels_first(&mut self, x: &Value) -> Value {
        self.with_layout(x, Layout::First)
    }

    /// Returns a tensor with the channels last.
    pub(super) fn channels_last(&mut self, x: &Value) -> Value {
        self.with_layout(x, Layout::Last)
    }

    /// Adds a float for each channel of `x`, or one if all are equal.
    pub(super) fn per_channel(&mut self, name: &str, x: &Value, values: &PerAxis<f32>) -> String {
        self.each_channel(name, x, values, floats)
    }

    /// Adds a double for each channel of `x`, or one if all are equal.
    pub(super) fn double_per_channel(
        &mut self,
        name: &str,
        x: &Value,
        values: &PerAxis<f64>,
    ) -> String {
        self.each_channel(name, x, values, doubles)
    }

    fn each_channel<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        x: &Value,
        values: &PerAxis<T>,
        bytes: fn(&[T]) -> (Kind, Vec<u8>),
    ) -> String {
        if let Some(value) = values.uniform() {
            return self.constant(name, &[], bytes(&[value]));
        }
        let values = values.as_slice();
        let extents: &[usize] = match x.layout {
            Layout::First => &[values.len(), 1, 1],
            Layout::Last => &[values.len()],
        };
        self.constant(name, extents, bytes(values))
    }

    /// Returns the name, with a number behind it if it is taken.
    fn fresh(&mut self, name: &str) -> String {
        let mut unique = name.to_owned();
        let mut n = 1_usize;
        while !self.names.insert(unique.clone()) {
            n += 1;
            unique = format!("{name}_{n}");
        }
        unique
    }
}

/// Returns the entry of an input or output, its batch open.
pub(super) fn value_info(name: &str, kind: Kind, shape: &Shape) -> ValueInfo {
    let batch = Dimension {
        dim_param: Some("batch".to_owned()),
        ..Dimension::default()
    };
    let others = shape.iter().map(|n| Dimension {
        dim_value: n.map(int),
        ..Dimension::default()
    });
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: kind as i32,
                shape: Some(Extents {
                    dim: std::iter::once(batch).chain(others).collect(),
                }),
            }),
        }),
    }
}

/// Returns an attribute of one integer.
pub(super) fn integer(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: value,
        r#type: 2,
        ..Attribute::default()
    }
}

/// Returns an attribute of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: 7,
        ..Attribute::default()
    }
}

/// Returns an attribute of extents.
pub(super) fn extents(name: &str, values: &[usize]) -> Attribute {
    let values: Vec<i64> = values.iter().map(|n| int(*n)).collect();
    ints(name, &values)
}

/// Returns an attribute of a float.
pub(super) fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f: value,
        r#type: 1,
        ..Attribute::default()
    }
}

/// Returns an attribute of a text.
pub(super) fn text(name: &str, value: &str) -> Attribute {
    Attribute {
        name: name.to_owned(),
        s: value.as_bytes().to_vec(),
        r#type: 3,
        ..Attribute::default()
    }
}

/// Returns the bytes of a constant of floats.
pub(super) fn floats(values: &[f32]) -> (Kind, Vec<u8>) {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Kind::Float, bytes)
}

/// Returns the bytes of a constant of doubles.
fn doubles(values: &[f64]) -> (Kind, Vec<u8>) {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Kind::Double, bytes)
}

/// Returns the bytes of a constant of indices and extents.
pub(super) fn indices(values: &[i64]) -> (Kind, Vec<u8>) {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Kind::Int64, bytes)
}

/// Returns the bytes of integers in the smallest type from 8 bits that holds them all.
pub(super) fn signed(values: &[i32]) -> (Kind, Vec<u8>) {
    let bytes: Option<Vec<u8>> = values
        .iter()
        .map(|v| i8::try_from(*v).ok().map(i8::cast_unsigned))
        .collect();
    if let Some(bytes) = bytes {
        return (Kind::Int8, bytes);
    }
    let words: Option<Vec<i16>> = values.iter().map(|v| i16::try_from(*v).ok()).collect();
    if let Some(words) = words {
        let bytes = words.iter().flat_map(|v| v.to_le_bytes()).collect();
        return (Kind::Int16, bytes);
    }
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Kind::Int32, bytes)
}

/// Returns an extent as ONNX has it; no tensor has one that is larger.
pub(super) fn int(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
