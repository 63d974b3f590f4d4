//! The skeleton of a network: what the rules of configuration need to know of it.

/// A network without its weights, in Keras' order of the layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Layers; inputs stand before their consumers.
    pub layers: Vec<LayerInfo>,
}

/// One layer of a [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Unique name, after the rewrites.
    pub name: String,
    /// What rules apply to its class.
    pub kind: LayerKind,
    /// Why this layer has no integer form although its class may have one.
    pub float_only: Option<String>,
    /// Indices of the producers of its inputs.
    pub inputs: Vec<usize>,
    /// Extents of one output item, without the batch; `None` where they are open.
    pub shape: Vec<Option<usize>>,
    /// Whether the model returns its output.
    pub is_output: bool,
}

/// What rules apply to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the classes of Keras and QuantizeML by their names"
)]
pub enum LayerKind {
    Input,
    Conv2D,
    DepthwiseConv2D,
    SeparableConv2D,
    Conv2DTranspose,
    DepthwiseConv2DTranspose,
    Dense,
    BufferTempConv,
    DepthwiseBufferTempConv,
    StatefulProjection,
    StatefulRecurrent,
    ReLU,
    LutActivation,
    Add,
    GlobalAveragePooling2D,
    Concatenate,
    MaxPool2D,
    Rescaling,
    Dropout,
    Flatten,
    Reshape,
    Permute,
    ExtractToken,
    /// A layer without a quantized class.
    Unquantizable,
}

impl LayerKind {
    /// Returns whether the layer takes `input_weight_bits` when it is the first one quantized.
    #[must_use]
    pub const fn is_weighted(self) -> bool {
        matches!(
            self,
            Self::Conv2D
                | Self::DepthwiseConv2D
                | Self::SeparableConv2D
                | Self::Conv2DTranspose
                | Self::DepthwiseConv2DTranspose
                | Self::Dense
                | Self::BufferTempConv
                | Self::DepthwiseBufferTempConv
                | Self::StatefulProjection
                | Self::StatefulRecurrent
        )
    }

    /// Returns whether the layer has an entry in a `q_config`.
    #[must_use]
    pub const fn is_configurable(self) -> bool {
        self.is_weighted()
            || matches!(
                self,
                Self::ReLU | Self::LutActivation | Self::Add | Self::GlobalAveragePooling2D
            )
    }

    /// Returns whether the outputs that reach the layer must be quantized.
    pub(crate) const fn needs_aligned_inputs(self) -> bool {
        matches!(
            self,
            Self::Conv2D
                | Self::Conv2DTranspose
                | Self::DepthwiseConv2D
                | Self::DepthwiseConv2DTranspose
                | Self::SeparableConv2D
                | Self::Dense
                | Self::StatefulProjection
                | Self::BufferTempConv
                | Self::DepthwiseBufferTempConv
                | Self::Add
                | Self::Concatenate
                | Self::LutActivation
                | Self::Flatten
                | Self::Permute
                | Self::ExtractToken
        )
    }

    /// Returns whether the layer can have an output quantizer of its own.
    pub(crate) const fn can_rescale(self) -> bool {
        self.is_configurable()
    }

    /// Returns whether sums of the layer have one buffer of at most 28 bits.
    pub(crate) const fn has_capped_buffer(self) -> bool {
        matches!(
            self,
            Self::Conv2D
                | Self::Conv2DTranspose
                | Self::DepthwiseConv2D
                | Self::DepthwiseConv2DTranspose
                | Self::Dense
                | Self::StatefulProjection
        )
    }
}

impl LayerInfo {
    /// Returns whether the output is a vector: all elements of an item are on the last axis.
    pub(crate) fn is_vector(&self) -> bool {
        let elements = self
            .shape
            .iter()
            .try_fold(1_usize, |n, extent| extent.map(|e| n.saturating_mul(e)));
        elements.is_some() && elements == self.shape.last().copied().flatten()
    }
}

impl Topology {
    /// Returns the index of the layer called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// Returns the layers that take the output of each layer.
    pub(crate) fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.layers.len()];
        for (i, layer) in self.layers.iter().enumerate() {
            layer
                .inputs
                .iter()
                .for_each(|input| consumers[*input].push(i));
        }
        consumers
    }
}
