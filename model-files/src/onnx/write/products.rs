//! Convolutions and matrix products, of integer and of float layers.

use float_model::{Padding, Pads, Shape};
use ndarray::{ArrayD, ArrayViewD};
use quantizer_core::geometry::{same_pads, transposed_crop};

use super::builder::{Builder, Value, extents, integer, ints, text};
use crate::onnx::proto::Attribute;
use crate::onnx::refused::Refused;

/// A sum of products that waits for its weights.
#[derive(Debug)]
pub(super) struct Product {
    op_type: &'static str,
    attributes: Vec<Attribute>,
    /// Order of the axes of a Keras kernel in ONNX.
    axes: Vec<usize>,
    /// Axis of the outputs' channels in the weights.
    pub(super) weight_axis: i64,
    pub(super) scope: Scope,
}

/// What an output channel is a sum over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All input channels.
    All,
    /// Its own input channel, or its group of them.
    Each,
}

/// A window that slides over an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sliding {
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilation: [usize; 2],
    pub(super) padding: Padding,
}

impl Product {
    /// Returns the matrix product with a kernel `[channels, units]` on the last axis.
    pub(super) fn dense(item_rank: usize) -> Self {
        Self {
            op_type: if item_rank == 1 { "Gemm" } else { "MatMul" },
            attributes: Vec::new(),
            axes: vec![0, 1],
            weight_axis: 1,
            scope: Scope::All,
        }
    }

    /// Returns the convolution with a kernel `[height, width, channels / groups, filters]`.
    pub(super) fn conv2d(window: Sliding, image: &Shape, groups: usize) -> Self {
        let mut attributes = window.attributes(image);
        attributes.push(extents("dilations", &window.dilation));
        attributes.push(integer("group", super::builder::int(groups)));
        Self {
            op_type: "Conv",
            attributes,
            axes: vec![3, 2, 0, 1],
            weight_axis: 0,
            scope: if groups == 1 { Scope::All } else { Scope::Each },
        }
    }

    /// Returns the transposed convolution with a kernel `[height, width, channels, filters]`.
    pub(super) fn conv2d_transpose(
        window: Sliding,
        image: &Shape,
        outputs: &Shape,
    ) -> Result<Self, Refused> {
        Ok(Self {
            op_type: "ConvTranspose",
            attributes: transposed(window, image, outputs)?,
            axes: vec![2, 3, 0, 1],
            weight_axis: 1,
            scope: Scope::All,
        })
    }

    /// Returns the transposed convolution of each channel with a kernel `[height, width, channels, 1]`.
    pub(super) fn depthwise_transpose(
        window: Sliding,
        image: &Shape,
        outputs: &Shape,
        channels: usize,
    ) -> Result<Self, Refused> {
        let mut attributes = transposed(window, image, outputs)?;
        attributes.push(integer("group", super::builder::int(channels)));
        Ok(Self {
            op_type: "ConvTranspose",
            attributes,
            axes: vec![3, 2, 0, 1],
            weight_axis: 0,
            scope: Scope::Each,
        })
    }

    /// Returns a Keras kernel in ONNX' order.
    pub(super) fn ordered<T: Clone>(&self, kernel: ArrayViewD<'_, T>) -> ArrayD<T> {
        let kernel = kernel.permuted_axes(self.axes.as_slice());
        kernel.as_standard_layout().into_owned()
    }

    /// Adds the product to the graph.
    pub(super) fn add(
        &self,
        b: &mut Builder,
        name: &str,
        x: &Value,
        (weights, bias): (&str, Option<&str>),
        shape: &Shape,
    ) -> Value {
        let x = if matches!(self.op_type, "Gemm" | "MatMul") {
            b.channels_last(x)
        } else {
            b.channels_first(x)
        };
        let is_matmul = self.op_type == "MatMul";
        let mut inputs = vec![x.name.as_str(), weights];
        inputs.extend(bias.filter(|_| !is_matmul));
        let product = b.call(self.op_type, name, &inputs, self.attributes.clone());
        let y = x.renamed(product, x.layout, shape).bounded(0);
        match bias {
            Some(bias) if is_matmul => b.map("Add", name, &y, &[bias], Vec::new()),
            _ => y,
        }
    }
}

impl Sliding {
    /// Returns a window without gaps between its cells.
    pub(super) const fn over(kernel: [usize; 2], strides: [usize; 2], padding: Padding) -> Self {
        Self {
            kernel,
            strides,
            dilation: [1, 1],
            padding,
        }
    }

    /// Returns the attributes of a convolution or pooling over `image`, without the dilation.
    pub(super) fn attributes(&self, image: &Shape) -> Vec<Attribute> {
        let mut attributes = vec![
            extents("kernel_shape", &self.kernel),
            extents("strides", &self.strides),
        ];
        match (self.padding, image.as_slice()) {
            (Padding::Valid, _) => {}
            (Padding::Same, [Some(h), Some(w), ..]) => {
                let pads = |axis: usize, n| {
                    same_pads(
                        n,
                        self.kernel[axis],
                        self.strides[axis],
                        self.dilation[axis],
                    )
                };
                let ((top, bottom), (left, right)) = (pads(0, *h), pads(1, *w));
                attributes.push(onnx_pads(Pads {
                    top,
                    bottom,
                    left,
                    right,
                }));
            }
            (Padding::Same, _) => attributes.push(text("auto_pad", "SAME_UPPER")),
        }
        attributes
    }
}

/// Returns pads in ONNX' order.
pub(super) fn onnx_pads(pads: Pads) -> Attribute {
    extents("pads", &[pads.top, pads.left, pads.bottom, pads.right])
}

/// Returns the attributes that give the extents and the crop of a transposed convolution.
fn transposed(window: Sliding, image: &Shape, outputs: &Shape) -> Result<Vec<Attribute>, Refused> {
    if window.dilation != [1, 1] {
        return Err(Refused::unsupported(
            "a transposed convolution with a dilation",
        ));
    }
    let mut pads = [0; 4];
    let mut extra = [0; 2];
    for axis in 0..2 {
        let (n, out) = image
            .get(axis)
            .copied()
            .flatten()
            .zip(outputs.get(axis).copied().flatten())
            .ok_or_else(|| {
                Refused::unsupported("a transposed convolution of an image of open extents")
            })?;
        let (k, stride) = (window.kernel[axis], window.strides[axis]);
        let crop = transposed_crop(n, out, k, stride, window.padding);
        let full = n.saturating_sub(1) * stride + k;
        pads[axis] = crop;
        pads[axis + 2] = full.saturating_sub(out + crop);
        extra[axis] = (out + crop).saturating_sub(full);
    }
    let mut attributes = vec![
        extents("kernel_shape", &window.kernel),
        extents("strides", &window.strides),
        extents("pads", &pads),
    ];
    if extra != [0; 2] {
        attributes.push(extents("output_padding", &extra));
    }
    Ok(attributes)
}

/// Returns the axes of a Transpose that Keras' Permute stands for.
pub(super) fn permutation(dims: &[usize]) -> Attribute {
    let perm: Vec<i64> = std::iter::once(0)
        .chain(dims.iter().map(|d| super::builder::int(*d)))
        .collect();
    ints("perm", &perm)
}
