//! The network in the making: layers so far, and what each ONNX value is in terms of them.
//!
//! Our tensors are channels last. A [`View`] says which of our axes each ONNX axis is, so that a Transpose costs
//! nothing and a Permute or Reshape layer is only made where a layer needs another order.

use std::collections::BTreeMap;

use float_model::{Activation, Draft, DraftNode, Layer, Shape, infer_shape};

use super::constant::Constant;
use super::refused::Refused;

/// A tensor of ours, seen with ONNX axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    /// Layer whose output it is.
    pub(super) layer: String,
    /// Our axis of each ONNX axis, 0 being the batch; `None` for an extent of 1 that our tensor lacks.
    pub(super) axes: Vec<Option<usize>>,
}

/// What an ONNX value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Constant(Constant),
    View(View),
    /// The same, with all axes but the batch made one, in ONNX order.
    Flat(View),
    /// A part of an activation that only makes sense as a whole.
    Part(Part, View),
    /// The result of a node that is refused.
    Unknown,
}

/// A function of `x` that is part of an activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    /// `erf(x / sqrt 2)`.
    Erf,
    /// `x^3`.
    Cube,
    /// `0.044715 x^3`.
    ScaledCube,
    /// `x + 0.044715 x^3`.
    Inner,
    /// `sqrt(2 / pi) (x + 0.044715 x^3)`.
    ScaledInner,
    /// `tanh(sqrt(2 / pi) (x + 0.044715 x^3))`.
    Tanh,
    /// `1 + erf(x / sqrt 2)`, or the same with the tanh above.
    OnePlus { approximate: bool },
    /// Half of that.
    Half { approximate: bool },
    /// `x` times `OnePlus`.
    TimesOnePlus { approximate: bool },
    /// The activation, complete; its layer is made where the node is read.
    Whole(Activation),
}

/// The network in the making.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) draft: Draft,
    shapes: BTreeMap<String, Shape>,
    /// Where each layer stands in the draft.
    positions: BTreeMap<String, usize>,
    /// How often a name was asked for.
    n_names: BTreeMap<String, usize>,
    values: BTreeMap<String, Value>,
    /// `x * k`: what a scaled layer scales.
    scaled: BTreeMap<String, (View, f32)>,
    /// `g(x)`: what a layer is a gate of, and the activation `x * g(x)`.
    gates: BTreeMap<String, (View, Activation)>,
    /// How many values each layer is.
    n_values: BTreeMap<String, usize>,
    /// How many nodes and outputs take each value.
    pub(super) n_uses: BTreeMap<String, usize>,
    /// Batch that the file was exported with, if it is fixed.
    pub(super) batch: Option<usize>,
    /// Elements that may still be made of constants.
    budget: usize,
}

/// Elements that nodes may make of constants, for each element that the file holds.
const MADE_FOR_EACH: usize = 16;

/// Elements that nodes may make of constants in any file.
const MADE_ALWAYS: usize = 1 << 16;

impl View {
    /// Returns the view of a layer whose axes are those of ONNX.
    pub(super) fn natural(layer: String, rank: usize) -> Self {
        Self {
            layer,
            axes: (0..rank).map(Some).collect(),
        }
    }

    /// Returns the view of an image layer: `[batch, channels, height, width]`, or without the height.
    pub(super) fn image(layer: String, rank: usize) -> Self {
        let axes = if rank == 3 {
            vec![0, 3, 2]
        } else {
            vec![0, 3, 1, 2]
        };
        Self {
            layer,
            axes: axes.into_iter().map(Some).collect(),
        }
    }

    /// Returns whether the ONNX axes are ours.
    pub(super) fn is_natural(&self) -> bool {
        let mut ours = self.axes.iter().enumerate();
        ours.all(|(i, axis)| *axis == Some(i))
    }

    pub(super) const fn rank(&self) -> usize {
        self.axes.len()
    }

    /// Returns the view of another layer with the same axes.
    pub(super) fn with(&self, layer: String) -> Self {
        Self {
            layer,
            axes: self.axes.clone(),
        }
    }
}

impl Network {
    pub(super) fn new(name: String) -> Self {
        Self {
            draft: Draft {
                name,
                ..Draft::default()
            },
            shapes: BTreeMap::new(),
            positions: BTreeMap::new(),
            n_names: BTreeMap::new(),
            values: BTreeMap::new(),
            scaled: BTreeMap::new(),
            gates: BTreeMap::new(),
            n_values: BTreeMap::new(),
            n_uses: BTreeMap::new(),
            batch: None,
            budget: MADE_ALWAYS,
        }
    }

    /// Allows nodes to make constants in proportion to `n_elements` of the file.
    pub(super) const fn allow(&mut self, n_elements: usize) {
        let more = n_elements.saturating_mul(MADE_FOR_EACH);
        self.budget = self.budget.saturating_add(more);
    }

    /// Takes elements that are made from what is allowed: a small file cannot ask for much memory.
    pub(super) fn spend(&mut self, n_elements: usize) -> Result<(), Refused> {
        let rest = self.budget.checked_sub(n_elements);
        self.budget = rest.ok_or_else(|| {
            Refused::unsupported("makes more of constants than a file of this size needs")
        })?;
        Ok(())
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        if let Value::View(view) | Value::Flat(view) | Value::Part(_, view) = &value {
            *self.n_values.entry(view.layer.clone()).or_default() += 1;
        }
        self.values.insert(name.to_owned(), value);
    }

    /// Returns whether the value `name` is all that is known of `layer`, and one node takes it.
    pub(super) fn is_only_use(&self, name: &str, layer: &str) -> bool {
        self.n_uses.get(name) == Some(&1) && self.n_values.get(layer) == Some(&1)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Value, Refused> {
        self.values
            .get(name)
            .ok_or_else(|| Refused::invalid(format!("takes `{name}`, which nothing makes")))
    }

    /// Returns the constant of a name.
    pub(super) fn constant(&self, name: &str) -> Result<&Constant, Refused> {
        match self.get(name)? {
            Value::Constant(constant) => Ok(constant),
            Value::Unknown => Err(Refused::Silent),
            Value::View(_) | Value::Flat(_) | Value::Part(..) => {
                Err(Refused::unsupported(format!("`{name}` is not a constant")))
            }
        }
    }

    /// Adds a layer and returns its name.
    pub(super) fn emit(
        &mut self,
        name: &str,
        layer: Layer,
        inputs: &[&str],
    ) -> Result<String, Refused> {
        let mut unique = name.to_owned();
        while self.shapes.contains_key(&unique) {
            let n = self.n_names.entry(name.to_owned()).or_default();
            *n += 1;
            unique = format!("{name}_{n}");
        }
        let shapes: Vec<&Shape> = inputs.iter().filter_map(|i| self.shapes.get(*i)).collect();
        let shape =
            infer_shape(&unique, &layer, &shapes).map_err(|e| Refused::invalid(e.to_string()))?;
        self.shapes.insert(unique.clone(), shape);
        self.positions
            .insert(unique.clone(), self.draft.nodes.len());
        self.draft.nodes.push(DraftNode {
            name: unique.clone(),
            layer,
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
        });
        Ok(unique)
    }

    /// Returns the extents of a layer's items.
    pub(super) fn shape(&self, layer: &str) -> Shape {
        self.shapes.get(layer).cloned().unwrap_or_default()
    }

    /// Returns the extent of an ONNX axis but the batch, `None` if it is open.
    pub(super) fn extent(&self, view: &View, axis: usize) -> Option<usize> {
        match view.axes.get(axis)? {
            None => Some(1),
            Some(ours) => self
                .shape(&view.layer)
                .get(ours.checked_sub(1)?)
                .copied()
                .flatten(),
        }
    }

    /// Returns the view of a value that a layer takes; `at` names the layers that this needs.
    pub(super) fn view(&mut self, name: &str, at: &str) -> Result<View, Refused> {
        match self.get(name)?.clone() {
            Value::View(view) => Ok(view),
            Value::Flat(view) => {
                let natural = self.natural(&view, at)?;
                let flat = self.emit(&format!("{at}_flatten"), Layer::Flatten, &[&natural])?;
                Ok(View::natural(flat, 2))
            }
            Value::Unknown => Err(Refused::Silent),
            Value::Part(part, _) => Err(Refused::unsupported(format!(
                "takes a part of an activation, {part:?}"
            ))),
            Value::Constant(_) => Err(Refused::unsupported(format!("`{name}` is a constant"))),
        }
    }

    /// Returns a layer whose axes are the ONNX axes in `order`, the batch first.
    pub(super) fn realize(
        &mut self,
        view: &View,
        order: &[usize],
        at: &str,
    ) -> Result<String, Refused> {
        let shape = self.shape(&view.layer);
        let rank = shape.len() + 1;
        let wanted: Vec<usize> = order.iter().filter_map(|axis| view.axes[*axis]).collect();
        let others = (0..rank).filter(|axis| !wanted.contains(axis));
        let perm: Vec<usize> = wanted.iter().copied().chain(others).collect();
        if perm.first() != Some(&0) {
            return Err(Refused::unsupported("moves the batch"));
        }
        let is_unit = |axis: &usize| *axis > 0 && shape[axis - 1] == Some(1);
        let moving: Vec<usize> = perm.iter().copied().filter(|axis| !is_unit(axis)).collect();
        let mut layer = view.layer.clone();
        if !moving.is_sorted() {
            let dims = perm[1..].to_vec();
            layer = self.emit(&format!("{at}_permute"), Layer::Permute { dims }, &[&layer])?;
        }
        let extents: Vec<Option<usize>> = order[1..]
            .iter()
            .map(|axis| self.extent(view, *axis))
            .collect();
        if self.shape(&layer) == extents {
            return Ok(layer);
        }
        if extents.iter().filter(|n| n.is_none()).count() > 1 {
            return Err(Refused::unsupported("reshapes several open extents"));
        }
        let target = extents
            .iter()
            .map(|n| n.map_or(-1, |n| isize::try_from(n).unwrap_or(isize::MAX)));
        let target_shape = target.collect();
        self.emit(
            &format!("{at}_reshape"),
            Layer::Reshape { target_shape },
            &[&layer],
        )
    }

    /// Returns a layer with the ONNX axes in their order.
    pub(super) fn natural(&mut self, view: &View, at: &str) -> Result<String, Refused> {
        let order: Vec<usize> = (0..view.rank()).collect();
        self.realize(view, &order, at)
    }

    /// Returns a layer `[batch, height, width, channels]`; the height of a sequence is 1.
    pub(super) fn image(&mut self, view: &View, at: &str) -> Result<String, Refused> {
        match view.rank() {
            4 => self.realize(view, &[0, 2, 3, 1], at),
            3 => {
                let rank = self.shape(&view.layer).len();
                if rank == 3 && *view == View::image(view.layer.clone(), 3) {
                    return Ok(view.layer.clone());
                }
                let [length, channels] = [2, 1].map(|axis| self.extent(view, axis));
                let sequence = self.realize(view, &[0, 2, 1], at)?;
                let fixed =
                    |n: Option<usize>| n.map_or(-1, |n| isize::try_from(n).unwrap_or(isize::MAX));
                let target_shape = vec![1, fixed(length), fixed(channels)];
                self.emit(
                    &format!("{at}_image"),
                    Layer::Reshape { target_shape },
                    &[&sequence],
                )
            }
            rank => Err(Refused::unsupported(format!(
                "takes {rank} axes, not an image or a sequence"
            ))),
        }
    }

    /// Returns the layer called `name`, to change it.
    pub(super) fn layer_mut(&mut self, name: &str) -> Option<&mut Layer> {
        let node = self.draft.nodes.get_mut(*self.positions.get(name)?)?;
        Some(&mut node.layer)
    }

    /// Returns the layer called `name`.
    pub(super) fn layer(&self, name: &str) -> Option<&Layer> {
        let node = self.draft.nodes.get(*self.positions.get(name)?)?;
        Some(&node.layer)
    }

    /// Notes that `layer` is `k` times `view`.
    pub(super) fn note_scaled(&mut self, layer: &str, view: View, k: f32) {
        self.scaled.insert(layer.to_owned(), (view, k));
    }

    /// Returns what `view` scales, and by what.
    pub(super) fn scaled(&self, view: &View) -> Option<&(View, f32)> {
        self.scaled
            .get(&view.layer)
            .filter(|(x, _)| x.axes == view.axes)
    }

    /// Notes that `view` times `layer` is the activation `whole` of `view`.
    pub(super) fn note_gate(&mut self, layer: &str, view: View, whole: Activation) {
        self.gates.insert(layer.to_owned(), (view, whole));
    }

    /// Returns what `view` is a gate of, and the activation that their product is.
    pub(super) fn gate_of(&self, view: &View) -> Option<&(View, Activation)> {
        self.gates
            .get(&view.layer)
            .filter(|(x, _)| x.axes == view.axes)
    }
}
