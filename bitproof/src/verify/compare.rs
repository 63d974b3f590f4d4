//! The comparison, layer by layer.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis};

use super::elements::{Found, compare};
use super::sides::{Output, Side, SideMemory};
use super::{InputOrder, VerifyOptions, formats};
use crate::meaning::{agree, extents};
use crate::{AnyModel, Error};

/// Inputs that pass together: the tensors of all layers are in memory for so many.
const FEW: usize = 4;

/// What of a layer is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Integers, which are equal or not.
    Integers,
    /// The real values that they stand for, or floats.
    Values,
    /// Nothing: the extents differ.
    None,
}

/// A number of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer.
    Integer(i64),
    /// A real value.
    Real(f32),
}

/// An element that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// Its index, the input's number first.
    pub index: Vec<usize>,
    /// What A has.
    pub a: Number,
    /// What B has.
    pub b: Number,
}

/// How a layer that both models have differs.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerDifference {
    /// Its name; of outputs that have other names in A and B, both.
    pub name: String,
    /// Its classes in A and in B.
    pub class_names: [String; 2],
    /// What is compared.
    pub comparison: Comparison,
    /// How formats differ, in words.
    pub formats: Vec<String>,
    /// Whether weights, biases or shifts are others; this does not make models different.
    pub other_constants: bool,
    /// Elements that were compared.
    pub n_elements: u64,
    /// Elements that differ.
    pub n_differing: u64,
    /// Largest difference.
    pub largest: f64,
    /// The first element that differs.
    pub first: Option<Element>,
}

/// The first difference of two models.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstDifference {
    /// The layer.
    pub layer: String,
    /// The element.
    pub element: Element,
}

/// The input that shows the first difference; of a sequence also those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Witness {
    /// Place of the layer in [`Differences::layers`].
    pub layer: usize,
    /// The input, `[1, ...]`, or the steps of the sequence up to it.
    pub input: ArrayD<f32>,
}

/// How two models differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// Inputs that were run.
    pub n_items: usize,
    /// Layers that both have, in the order of A, and outputs whose names differ.
    pub layers: Vec<LayerDifference>,
    /// Layers that only A has.
    pub only_a: Vec<String>,
    /// Layers that only B has.
    pub only_b: Vec<String>,
    /// Whether both models are quantized, so that missing layers make them different.
    pub are_quantized: bool,
    /// The input that shows the first difference.
    pub witness: Option<Witness>,
}

impl Differences {
    /// Returns the first layer with numbers that differ, and the first element.
    #[must_use]
    pub fn first(&self) -> Option<FirstDifference> {
        self.layers.iter().find_map(|layer| {
            Some(FirstDifference {
                layer: layer.name.clone(),
                element: layer.first.clone()?,
            })
        })
    }

    /// Returns whether nothing differs: no number, no format, and of two quantized models no layer
    /// is in one only.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let alike = |layer: &LayerDifference| layer.n_differing == 0 && layer.formats.is_empty();
        let complete = self.only_a.is_empty() && self.only_b.is_empty();
        self.layers.iter().all(alike) && (complete || !self.are_quantized)
    }
}

/// A layer of both models.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) a: usize,
    pub(crate) b: usize,
}

/// Runs inputs through two models and compares what their layers give.
///
/// Memory does not grow with the number of inputs, but for the steps of a sequence, which are kept
/// until a difference is found.
#[derive(Debug)]
pub struct Verification<'m> {
    a: Side<'m>,
    b: Side<'m>,
    options: VerifyOptions,
    pairs: Vec<Pair>,
    result: Differences,
    steps: Vec<ArrayD<f32>>,
    memory: [SideMemory; 2],
}

impl<'m> Verification<'m> {
    /// Starts with no inputs. The models are what [`comparable`](super::comparable) returns.
    ///
    /// # Errors
    ///
    /// Models that do not take the same inputs, or have other numbers of outputs; a tolerance that
    /// is negative or no number.
    pub fn new(a: &'m AnyModel, b: &'m AnyModel, options: VerifyOptions) -> Result<Self, Error> {
        let (a, b) = (Side::new(a), Side::new(b));
        check(&a, &b, options)?;
        let (names_a, names_b) = (a.names(), b.names());
        let by_name: BTreeMap<&str, usize> = names_b.iter().copied().zip(0..).collect();
        let matched = names_a.iter().enumerate();
        let mut pairs: Vec<Pair> = matched
            .filter_map(|(a, name)| by_name.get(name).map(|b| Pair { a, b: *b }))
            .collect();
        let is_paired = |pairs: &[Pair], a: usize, b: usize| {
            pairs.iter().any(|pair| pair.a == a && pair.b == b)
        };
        let in_a = |b: &usize| pairs.iter().any(|pair| pair.b == *b);
        let missing = (0..names_b.len()).filter(|b| !in_a(b));
        let only_b = missing.map(|b| names_b[b].to_owned()).collect();
        let in_b = |name: &&&str| !by_name.contains_key(**name);
        let only_a = names_a.iter().filter(in_b).map(|n| (*n).to_owned());
        let only_a: Vec<String> = only_a.collect();
        for (at, bt) in a.outputs().into_iter().zip(b.outputs()) {
            if !is_paired(&pairs, at, bt) {
                pairs.push(Pair { a: at, b: bt });
            }
        }
        let layers = pairs.iter().map(|pair| layer(&a, &b, *pair)).collect();
        Ok(Self {
            result: Differences {
                layers,
                only_a,
                only_b,
                are_quantized: a.is_quantized() && b.is_quantized(),
                ..Differences::default()
            },
            a,
            b,
            options,
            pairs,
            steps: Vec::new(),
            memory: Default::default(),
        })
    }

    /// Runs a batch, `[batch, ...]`, through both models.
    ///
    /// # Errors
    ///
    /// A batch that one of the models does not take.
    pub fn add(&mut self, batch: &ArrayD<f32>) -> Result<(), Error> {
        let size = match self.options.order {
            InputOrder::Sequence => 1,
            InputOrder::Single => FEW,
        };
        for few in batch.axis_chunks_iter(Axis(0), size) {
            self.add_few(&few.to_owned())?;
        }
        Ok(())
    }

    /// Returns what was found.
    #[must_use]
    pub fn finish(self) -> Differences {
        self.result
    }

    /// Returns a layer of both models, its name, and what of it is compared.
    pub(crate) fn layer(&self, place: usize) -> Option<(Pair, String, Comparison)> {
        let pair = *self.pairs.get(place)?;
        let layer = self.result.layers.get(place)?;
        Some((pair, layer.name.clone(), layer.comparison))
    }

    fn add_few(&mut self, batch: &ArrayD<f32>) -> Result<(), Error> {
        let is_sequence = self.options.order == InputOrder::Sequence;
        if !is_sequence {
            self.memory = Default::default();
        }
        // The first difference needs every step before it.
        if is_sequence && self.result.witness.as_ref().is_none_or(|w| w.layer > 0) {
            self.steps.push(batch.clone());
        }
        let [memory_a, memory_b] = &mut self.memory;
        let mut outputs: BTreeMap<usize, Output> = BTreeMap::new();
        let wanted: Vec<usize> = self.pairs.iter().map(|pair| pair.a).collect();
        self.a.run(batch, memory_a, &mut |index, output| {
            if wanted.contains(&index) {
                outputs.insert(index, output);
            }
        })?;
        let mut others: BTreeMap<usize, Output> = BTreeMap::new();
        let wanted: Vec<usize> = self.pairs.iter().map(|pair| pair.b).collect();
        self.b.run(batch, memory_b, &mut |index, output| {
            if wanted.contains(&index) {
                others.insert(index, output);
            }
        })?;
        let first_item = self.result.n_items;
        for place in 0..self.pairs.len() {
            let pair = self.pairs[place];
            let (Some(a), Some(b)) = (outputs.get(&pair.a), others.get(&pair.b)) else {
                continue;
            };
            let layer = &mut self.result.layers[place];
            if layer.comparison == Comparison::None {
                continue;
            }
            let sides = ((&self.a, pair.a, a), (&self.b, pair.b, b));
            let found = compare(sides, layer.comparison, self.options.tolerance)?;
            merge(layer, found, first_item);
            if let Some(first) = &layer.first {
                let item = first.index.first().copied().unwrap_or(0);
                self.keep_witness(place, batch, item.saturating_sub(first_item));
            }
        }
        self.result.n_items += batch.len_of(Axis(0));
        Ok(())
    }

    /// Keeps the input that shows a difference in an earlier layer than the one that is kept.
    fn keep_witness(&mut self, layer: usize, batch: &ArrayD<f32>, item: usize) {
        let known = self.result.witness.as_ref().map(|witness| witness.layer);
        if known.is_some_and(|known| known <= layer) || item >= batch.len_of(Axis(0)) {
            return;
        }
        let input = match self.options.order {
            InputOrder::Single => batch.slice_axis(Axis(0), (item..=item).into()).to_owned(),
            InputOrder::Sequence => {
                let steps: Vec<_> = self.steps.iter().map(|x| x.view()).collect();
                match ndarray::concatenate(Axis(0), &steps) {
                    Ok(input) => input,
                    Err(_) => return,
                }
            }
        };
        self.result.witness = Some(Witness { layer, input });
    }
}

fn check(a: &Side<'_>, b: &Side<'_>, options: VerifyOptions) -> Result<(), Error> {
    let refused = |message: String| Err(Error::Invalid(message));
    if !options.tolerance.is_finite() || options.tolerance < 0.0 {
        return refused(format!(
            "a tolerance of {}: a share from 0 on, such as 0.01",
            options.tolerance
        ));
    }
    match (a.input(), b.input()) {
        (Some(a), Some(b)) if !agree(a, b) => {
            return refused(format!(
                "A takes inputs of {}, B of {}: they cannot be compared on the same inputs",
                extents(a),
                extents(b)
            ));
        }
        _ => {}
    }
    let (n_a, n_b) = (a.outputs().len(), b.outputs().len());
    if n_a != n_b {
        return refused(format!("A has {n_a} outputs, B has {n_b}"));
    }
    Ok(())
}

fn layer(a: &Side<'_>, b: &Side<'_>, pair: Pair) -> LayerDifference {
    let (name_a, name_b) = (a.names()[pair.a], b.names()[pair.b]);
    let name = if name_a == name_b {
        name_a.to_owned()
    } else {
        format!("{name_a} | {name_b}")
    };
    let comparison = if !agree(a.shape(pair.a), b.shape(pair.b)) {
        Comparison::None
    } else if a.format(pair.a).is_some() && b.format(pair.b).is_some() {
        Comparison::Integers
    } else {
        Comparison::Values
    };
    let constants = (a.constants(pair.a), b.constants(pair.b));
    LayerDifference {
        name,
        class_names: [a.class_name(pair.a), b.class_name(pair.b)].map(str::to_owned),
        comparison,
        formats: formats::differences((a, pair.a), (b, pair.b)),
        other_constants: matches!(constants, (Some(a), Some(b)) if a != b),
        n_elements: 0,
        n_differing: 0,
        largest: 0.0,
        first: None,
    }
}

/// Adds what one batch showed; `first_item` is the number of its first input.
fn merge(layer: &mut LayerDifference, found: Found, first_item: usize) {
    layer.n_elements += found.n_elements;
    layer.n_differing += found.n_differing;
    // A difference that is no number stays the largest.
    if found.largest > layer.largest || found.largest.is_nan() {
        layer.largest = found.largest;
    }
    if let (None, Some(mut first)) = (&layer.first, found.first) {
        if let Some(item) = first.index.first_mut() {
            *item += first_item;
        }
        layer.first = Some(first);
    }
}
