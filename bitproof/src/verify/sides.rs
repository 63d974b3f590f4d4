//! A float network or a quantized model, as one of two that are compared.

use akida_sim::{ModelMemory, QuantizedOp, Tensor};
use float_model::{Graph, GraphMemory, Shape};
use ndarray::ArrayD;
use quantizer_core::QFormat;
use quantizer_core::layers::IntegerLayer;

use crate::meaning::{Meaning, counterpart};
use crate::{AnyModel, Error};

/// Returns the models as they can be compared: a float network beside a quantized model gets the
/// rewrites of `quantize`, so that its layers have the same names.
///
/// # Errors
///
/// A network that the rewrites refuse.
pub fn comparable(a: AnyModel, b: AnyModel) -> Result<(AnyModel, AnyModel), Error> {
    Ok(match (a, b) {
        (AnyModel::Float(a), AnyModel::Quantized(b)) => (
            AnyModel::Float(counterpart(&a, &b)?),
            AnyModel::Quantized(b),
        ),
        (AnyModel::Quantized(a), AnyModel::Float(b)) => {
            let b = counterpart(&b, &a)?;
            (AnyModel::Quantized(a), AnyModel::Float(b))
        }
        same => same,
    })
}

/// One of two models.
#[derive(Debug)]
pub(crate) enum Side<'m> {
    Float(&'m Graph),
    Quantized(Box<Meaning<'m>>),
}

/// What a model remembers between the steps of a sequence.
#[derive(Debug, Default)]
pub(crate) struct SideMemory {
    float: GraphMemory,
    quantized: ModelMemory,
}

/// A layer's output.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    Float(ArrayD<f32>),
    Quantized(Tensor),
}

impl<'m> Side<'m> {
    pub(crate) fn new(model: &'m AnyModel) -> Self {
        match model {
            AnyModel::Float(graph) => Self::Float(graph),
            AnyModel::Quantized(model) => Self::Quantized(Box::new(Meaning::new(model))),
        }
    }

    pub(crate) const fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }

    /// Returns the names of the layers, in order.
    pub(crate) fn names(&self) -> Vec<&'m str> {
        match self {
            Self::Float(graph) => graph.nodes().iter().map(|n| n.name.as_str()).collect(),
            Self::Quantized(m) => m.model.nodes.iter().map(|n| n.name.as_str()).collect(),
        }
    }

    pub(crate) fn class_name(&self, index: usize) -> &'m str {
        match self {
            Self::Float(graph) => graph.nodes()[index].layer.class_name(),
            Self::Quantized(m) => &m.model.nodes[index].class_name,
        }
    }

    pub(crate) fn shape(&self, index: usize) -> &'m Shape {
        match self {
            Self::Float(graph) => &graph.nodes()[index].shape,
            Self::Quantized(m) => &m.model.nodes[index].shape,
        }
    }

    /// Returns the extents of the only input.
    pub(crate) fn input(&self) -> Option<&'m Shape> {
        match self {
            Self::Float(graph) => graph.inputs().next().map(|id| &graph.node(id).shape),
            Self::Quantized(m) => {
                let mut nodes = m.model.nodes.iter();
                let input = nodes.find(|node| matches!(node.op, QuantizedOp::Input(_)));
                input.map(|node| &node.shape)
            }
        }
    }

    pub(crate) fn outputs(&self) -> Vec<usize> {
        match self {
            Self::Float(graph) => graph.outputs().iter().map(|id| id.index()).collect(),
            Self::Quantized(m) => m.model.outputs.clone(),
        }
    }

    /// Returns the format of a layer's integers, `None` for floats.
    pub(crate) fn format(&self, index: usize) -> Option<QFormat> {
        match self {
            Self::Float(_) => None,
            Self::Quantized(m) => m.model.nodes[index].format(),
        }
    }

    /// Returns the constants of a layer of integers.
    pub(crate) fn constants(&self, index: usize) -> Option<&'m IntegerLayer> {
        let Self::Quantized(m) = self else {
            return None;
        };
        match &m.model.nodes[index].op {
            QuantizedOp::Integer(layer) => Some(layer),
            QuantizedOp::Input(_)
            | QuantizedOp::InputQuantizer { .. }
            | QuantizedOp::Dequantizer(_)
            | QuantizedOp::Float(_) => None,
        }
    }

    /// Runs a batch and calls `observer` with the index and output of each layer.
    pub(crate) fn run(
        &self,
        batch: &ArrayD<f32>,
        memory: &mut SideMemory,
        observer: &mut dyn FnMut(usize, Output),
    ) -> Result<(), Error> {
        match self {
            Self::Float(graph) => {
                graph.run_step(&[batch], &mut memory.float, &mut |id, x: &ArrayD<f32>| {
                    observer(id.index(), Output::Float(x.clone()));
                })?;
            }
            Self::Quantized(m) => {
                let memory = &mut memory.quantized;
                m.executor.run_step(batch, memory, &mut |index, tensor| {
                    observer(index, Output::Quantized(tensor.clone()));
                })?;
            }
        }
        Ok(())
    }

    /// Returns the first output for a batch.
    pub(crate) fn output(
        &self,
        batch: &ArrayD<f32>,
        memory: &mut SideMemory,
    ) -> Result<Option<Output>, Error> {
        match self {
            Self::Float(graph) => {
                let outputs = graph.run_step(&[batch], &mut memory.float, &mut |_, _| ())?;
                Ok(outputs.into_iter().next().map(Output::Float))
            }
            Self::Quantized(m) => {
                let memory = &mut memory.quantized;
                let run = m.executor.run_step(batch, memory, &mut |_, _| ())?;
                Ok(run.outputs.into_iter().next().map(Output::Quantized))
            }
        }
    }

    /// Returns what an output of layer `index` stands for in a float network.
    pub(crate) fn meaning(&self, index: usize, output: &Output) -> Result<ArrayD<f32>, Error> {
        match (self, output) {
            (Self::Quantized(m), Output::Quantized(tensor)) => m.of(index, tensor),
            (_, Output::Quantized(tensor)) => Ok(tensor.floats()),
            (_, Output::Float(x)) => Ok(x.clone()),
        }
    }
}

impl Output {
    /// Returns the integers, `None` for floats.
    pub(crate) fn integers(&self) -> Option<ArrayD<i64>> {
        match self {
            Self::Float(_) => None,
            Self::Quantized(tensor) => tensor.integers(),
        }
    }
}
