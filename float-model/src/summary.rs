//! The table of a model's layers, in the text of Keras' `summary()`.

use std::collections::BTreeMap;

use crate::{Graph, Layer, Shape};

/// The layers of a float or quantized model, with their numbers of parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Name of the model.
    pub name: String,
    /// One row for each layer, in Keras' order.
    pub layers: Vec<SummaryRow>,
    /// Number of parameters that training changes.
    pub trainable_params: usize,
    /// Number of the others, such as the statistics of a normalization.
    pub non_trainable_params: usize,
}

/// One layer of a [`Summary`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummaryRow {
    /// Name of the layer.
    pub name: String,
    /// Keras (or QuantizeML) class name.
    pub class_name: String,
    /// Extents of each output with the batch axis, which is `None`; most layers have one.
    pub output_shapes: Vec<Shape>,
    /// Number of parameters.
    pub params: usize,
    /// Names of the layers whose outputs it takes, in call order.
    pub inputs: Vec<String>,
}

/// Numbers of parameters of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParamCount {
    /// Parameters that training changes.
    pub trainable: usize,
    /// Parameters that it does not change.
    pub non_trainable: usize,
}

impl Summary {
    /// Returns the number of all parameters.
    #[must_use]
    pub fn total_params(&self) -> usize {
        self.trainable_params + self.non_trainable_params
    }

    /// Returns the table as Keras prints it, without a line end after the last line.
    ///
    /// A chain has three columns in 65 characters; a model with branches has a fourth one, the
    /// inputs of each layer, in 98. A parameter takes 4 bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let table = if self.is_chain() { &CHAIN } else { &BRANCHES };
        let line = "_".repeat(table.width());
        let double_line = "=".repeat(table.width());
        let mut lines = vec![format!("Model: \"{}\"", self.name), line.clone()];
        table.push_row(HEADER.map(str::to_owned), &mut lines);
        lines.push(double_line.clone());
        for row in &self.layers {
            table.push_row(row.cells(), &mut lines);
            lines.push(" ".repeat(table.width()));
        }
        lines.push(double_line);
        let totals = [
            ("Total", self.total_params()),
            ("Trainable", self.trainable_params),
            ("Non-trainable", self.non_trainable_params),
        ];
        for (what, n_params) in totals {
            lines.push(format!(
                "{what} params: {n_params} ({})",
                memory_size(n_params)
            ));
        }
        lines.push(line);
        lines.join("\n")
    }

    /// Returns whether no layer has two inputs and no two layers have one distance to the end.
    fn is_chain(&self) -> bool {
        let place: BTreeMap<&str, usize> = self
            .layers
            .iter()
            .enumerate()
            .map(|(i, row)| (row.name.as_str(), i))
            .collect();
        let mut depth = vec![0_usize; self.layers.len()];
        let mut seen = vec![false; self.layers.len()];
        for (i, row) in self.layers.iter().enumerate().rev() {
            if row.inputs.len() > 1 || std::mem::replace(&mut seen[depth[i]], true) {
                return false;
            }
            for input in &row.inputs {
                // A layer stands after its inputs; anything else is no graph, and has no depth.
                if let Some(&input) = place.get(input.as_str()).filter(|input| **input < i) {
                    depth[input] = depth[input].max(depth[i] + 1);
                }
            }
        }
        true
    }
}

impl SummaryRow {
    fn cells(&self) -> [String; 4] {
        let inputs: Vec<String> = self
            .inputs
            .iter()
            .map(|input| format!("'{input}[0][0]'"))
            .collect();
        let shapes: Vec<String> = self.output_shapes.iter().map(tuple).collect();
        let shape = shapes.join(", ");
        let in_brackets = self.class_name == "InputLayer" || shapes.len() > 1;
        [
            format!("{} ({})", self.name, self.class_name),
            if in_brackets {
                format!("[{shape}]")
            } else {
                shape
            },
            self.params.to_string(),
            format!("[{}]", inputs.join(", ")),
        ]
    }
}

impl Graph {
    /// Returns the layers with their output shapes and numbers of parameters.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            name: self.name().to_owned(),
            ..Summary::default()
        };
        for node in self.nodes() {
            let count = node.layer.param_count();
            summary.trainable_params += count.trainable;
            summary.non_trainable_params += count.non_trainable;
            let inputs = node.inputs.iter().map(|id| self.node(*id).name.clone());
            summary.layers.push(SummaryRow {
                name: node.name.clone(),
                class_name: node.layer.class_name().to_owned(),
                output_shapes: vec![std::iter::once(None).chain(node.shape.clone()).collect()],
                params: count.trainable + count.non_trainable,
                inputs: inputs.collect(),
            });
        }
        summary
    }
}

impl Layer {
    /// Returns the numbers of parameters. A padding value is none.
    #[must_use]
    pub fn param_count(&self) -> ParamCount {
        let len = |vector: &Option<ndarray::Array1<f32>>| vector.as_ref().map_or(0, |v| v.len());
        let trainable = match self {
            Self::Conv2D(conv) => conv.kernel.len() + len(&conv.bias),
            Self::DepthwiseConv2D(conv) | Self::DepthwiseConv2DTranspose(conv) => {
                conv.kernel.len() + len(&conv.bias)
            }
            Self::SeparableConv2D(conv) => {
                conv.depthwise_kernel.len() + conv.pointwise_kernel.len() + len(&conv.bias)
            }
            Self::Conv2DTranspose(conv) => conv.kernel.len() + len(&conv.bias),
            Self::Dense(dense) => dense.kernel.len() + len(&dense.bias),
            Self::StatefulProjection(projection) => {
                projection.dense.kernel.len() + len(&projection.dense.bias)
            }
            Self::Volume(volume) => volume.n_params(),
            Self::BufferTempConv(conv) => conv.kernel.len() + len(&conv.bias),
            Self::DepthwiseBufferTempConv(conv) => conv.kernel.len() + len(&conv.bias),
            Self::StatefulRecurrent(recurrent) => recurrent.a_real.len() + recurrent.a_imag.len(),
            Self::BatchNormalization(norm) => len(&norm.gamma) + len(&norm.beta),
            Self::PReLU { alpha } => alpha.len(),
            Self::Input(_)
            | Self::ReLU(_)
            | Self::LeakyReLU { .. }
            | Self::Activation(_)
            | Self::Softmax
            | Self::MaxPool2D(_)
            | Self::AveragePool2D(_)
            | Self::GlobalAveragePooling2D(_)
            | Self::Add(_)
            | Self::Multiply
            | Self::Subtract
            | Self::Concatenate { .. }
            | Self::Rescaling(_)
            | Self::ZeroPadding2D(_)
            | Self::UpSampling2D { .. }
            | Self::Flatten
            | Self::Reshape { .. }
            | Self::Permute { .. }
            | Self::ExtractToken { .. }
            | Self::Dropout { .. } => 0,
        };
        let non_trainable = if let Self::BatchNormalization(norm) = self {
            norm.mean.len() + norm.variance.len()
        } else {
            0
        };
        ParamCount {
            trainable,
            non_trainable,
        }
    }
}

const HEADER: [&str; 4] = ["Layer (type)", "Output Shape", "Param #", "Connected to"];

/// Columns of a table, as the position where each ends.
struct Table(&'static [usize]);

// Keras' shares 0.45, 0.85, 1 of 65 and 0.3, 0.6, 0.7, 1 of 98, rounded down.
const CHAIN: Table = Table(&[29, 55, 65]);
const BRANCHES: Table = Table(&[29, 58, 68, 98]);

/// A cell is broken after the first of each of these, where its line holds one.
const BREAKS: [&str; 4] = ["),", "},", "],", "',"];

impl Table {
    fn width(&self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }

    /// Appends the lines of a row; cells beyond the last column are not printed.
    fn push_row(&self, cells: [String; 4], lines: &mut Vec<String>) {
        let n_columns = self.0.len();
        let mut rest: Vec<Vec<char>> = cells
            .iter()
            .take(n_columns)
            .map(|cell| cell.chars().collect())
            .collect();
        while rest.iter().any(|cell| !cell.is_empty()) {
            let mut line = " ".to_owned();
            let mut start = 0;
            for (column, &end) in self.0.iter().enumerate() {
                // Every column but the last leaves three characters free.
                let is_last = column + 1 == n_columns;
                let room = end - start - if is_last { 0 } else { 3 };
                let taken = take_cell(&mut rest[column], room);
                line.extend(taken);
                let missing = end.saturating_sub(line.chars().count());
                line.push_str(&" ".repeat(missing));
                start = end;
            }
            lines.push(line);
        }
    }
}

/// Removes what fits into `room` characters from the front of a cell.
fn take_cell(cell: &mut Vec<char>, room: usize) -> Vec<char> {
    let fits: String = cell.iter().take(room).collect();
    let cut = BREAKS
        .iter()
        .filter_map(|mark| {
            let (before, _) = fits.split_once(mark)?;
            Some(before.chars().count() + mark.len())
        })
        .min()
        .unwrap_or(room);
    cell.drain(..cut.min(cell.len())).collect()
}

/// Returns a shape as a Python tuple, such as `(None, 28, 28, 3)`.
fn tuple(shape: &Shape) -> String {
    let extents: Vec<String> = shape
        .iter()
        .map(|n| n.map_or_else(|| "None".to_owned(), |n| n.to_string()))
        .collect();
    match extents.as_slice() {
        [only] => format!("({only},)"),
        _ => format!("({})", extents.join(", ")),
    }
}

/// Returns the bytes of `n_params` parameters in the largest unit that leaves at least 1.
#[expect(
    clippy::cast_precision_loss,
    reason = "two decimals are shown; exact below 2^51 parameters"
)]
fn memory_size(n_params: usize) -> String {
    let mut size = 4.0 * n_params as f64;
    for unit in ["Byte", "KB", "MB", "GB", "TB"] {
        if size < 1024.0 {
            return format!("{size:.2} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.2} PB")
}
