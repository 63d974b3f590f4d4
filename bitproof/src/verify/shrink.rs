//! The smallest input that still shows a difference.
//!
//! Delta debugging: parts are taken away as long as the difference stays. First steps of a sequence,
//! then rows and columns, then single elements.

use akida_sim::QuantizedModel;
use float_model::Graph;
use ndarray::{ArrayD, Axis, Slice};

use super::compare::{Comparison, Element, Pair, Witness};
use super::elements::compare;
use super::sides::{Side, SideMemory};
use super::{InputOrder, Verification, VerifyOptions};
use crate::{AnyModel, Error};

/// A small input that still shows the first difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrunk {
    /// The input, `[steps, ...]`; everything that is not needed is 0 or gone.
    pub input: ArrayD<f32>,
    /// The layer.
    pub layer: String,
    /// The first element that differs for this input.
    pub element: Element,
    /// First and last row of what is not 0, and first and last column; `None` for other inputs than
    /// images, or if all is 0.
    pub patch: Option<[[usize; 2]; 2]>,
    /// Elements that are not 0.
    pub n_nonzero: usize,
    /// Runs of both models that it took.
    pub n_runs: usize,
    /// Whether no single step, row, column or element can be taken away; otherwise the runs ended.
    pub is_minimal: bool,
}

/// Returns the smallest input that still shows a difference in the layer of `witness`.
///
/// Rows and columns are cut off where both models leave the extents of their inputs open, and set
/// to 0 where they do not, so that the result is an input of both models. At most `max_runs` runs of
/// the networks up to that layer are spent.
///
/// # Errors
///
/// A witness of other models, which shows no difference.
pub fn shrink(
    a: &AnyModel,
    b: &AnyModel,
    options: VerifyOptions,
    witness: &Witness,
    max_runs: usize,
) -> Result<Shrunk, Error> {
    let verification = Verification::new(a, b, options)?;
    let (pair, layer, comparison) = verification
        .layer(witness.layer)
        .ok_or_else(|| Error::Invalid("the models have no such layer".to_owned()))?;
    drop(verification);
    // What follows the layer is of no interest, and costs time.
    let (a, b) = (up_to(a, pair.a)?, up_to(b, pair.b)?);
    let mut trial = Trial {
        sides: [Side::new(&a), Side::new(&b)],
        pair,
        comparison,
        options,
        n_runs: 0,
        max_runs,
    };
    let mut input = witness.input.clone();
    if trial.element(&input)?.is_none() {
        let message = format!("the input shows no difference in layer `{layer}`");
        return Err(Error::Invalid(message));
    }
    if options.order == InputOrder::Sequence {
        input = without_steps(&mut trial, &input);
    }
    if input.ndim() == 4 {
        for axis in [1, 2] {
            input = without_edges(&mut trial, &input, axis);
        }
    }
    input = without_elements(&mut trial, &input);
    let is_minimal = trial.n_runs < trial.max_runs;
    // The budget is for the search: what was found is shown in any case.
    trial.max_runs = usize::MAX;
    let element = trial.element(&input)?.ok_or_else(|| {
        let message = format!("the difference in layer `{layer}` does not repeat");
        Error::Invalid(message)
    })?;
    Ok(Shrunk {
        patch: patch(&input),
        n_nonzero: input.iter().filter(|x| !is_zero(**x)).count(),
        input,
        layer,
        element,
        n_runs: trial.n_runs,
        is_minimal,
    })
}

/// Returns the model up to one of its layers, whose output it gives.
fn up_to(model: &AnyModel, index: usize) -> Result<AnyModel, Error> {
    Ok(match model {
        AnyModel::Float(graph) => {
            let name = graph.nodes()[index].name.clone();
            let mut draft = graph.clone().into_draft();
            draft.outputs = vec![name];
            AnyModel::Float(Graph::new(draft)?)
        }
        AnyModel::Quantized(model) => {
            let nodes = model.nodes.iter().take(index + 1).cloned();
            AnyModel::Quantized(Box::new(QuantizedModel {
                name: model.name.clone(),
                nodes: nodes.collect(),
                outputs: vec![index],
                provenance: model.provenance.clone(),
            }))
        }
    })
}

/// Two models that end with the layer in question.
struct Trial<'m> {
    sides: [Side<'m>; 2],
    pair: Pair,
    comparison: Comparison,
    options: VerifyOptions,
    n_runs: usize,
    max_runs: usize,
}

impl Trial<'_> {
    /// Returns whether an input still shows a difference; not one that the models do not take.
    fn shows(&mut self, input: &ArrayD<f32>) -> bool {
        if self.n_runs >= self.max_runs || input.is_empty() {
            return false;
        }
        self.element(input).is_ok_and(|element| element.is_some())
    }

    /// Returns the first element that differs.
    fn element(&mut self, input: &ArrayD<f32>) -> Result<Option<Element>, Error> {
        self.n_runs += 1;
        let [a, b] = &self.sides;
        let mut memory = [SideMemory::default(), SideMemory::default()];
        let size = match self.options.order {
            InputOrder::Single => input.len_of(Axis(0)).max(1),
            InputOrder::Sequence => 1,
        };
        for (step, batch) in input.axis_chunks_iter(Axis(0), size).enumerate() {
            let batch = batch.to_owned();
            let [memory_a, memory_b] = &mut memory;
            let outputs = (a.output(&batch, memory_a)?, b.output(&batch, memory_b)?);
            let (Some(x), Some(y)) = outputs else {
                return Ok(None);
            };
            // A float network cut short has its layers renumbered: the last one is its output.
            let place = |side: &Side<'_>, index: usize| match side {
                Side::Float(_) => side.outputs().first().copied().unwrap_or(index),
                Side::Quantized(_) => index,
            };
            let (at, bt) = (place(a, self.pair.a), place(b, self.pair.b));
            let sides = ((a, at, &x), (b, bt, &y));
            let found = compare(sides, self.comparison, self.options.tolerance)?;
            if let Some(mut element) = found.first {
                if let (InputOrder::Sequence, Some(item)) =
                    (self.options.order, element.index.first_mut())
                {
                    *item += step;
                }
                return Ok(Some(element));
            }
        }
        Ok(None)
    }

    /// Returns whether both models leave an extent of their inputs open; `axis` counts the batch.
    fn is_open(&self, axis: usize) -> bool {
        let open = |side: &Side<'_>| {
            let extent = side.input().and_then(|shape| shape.get(axis - 1));
            extent.is_some_and(Option::is_none)
        };
        self.sides.iter().all(open)
    }
}

/// Leaves out steps of a sequence.
fn without_steps(trial: &mut Trial<'_>, input: &ArrayD<f32>) -> ArrayD<f32> {
    let kept = fewest((0..input.len_of(Axis(0))).collect(), &mut |steps| {
        trial.shows(&input.select(Axis(0), steps))
    });
    input.select(Axis(0), &kept)
}

/// Cuts off, or blanks, what lies before and behind the fewest rows or columns in a row.
fn without_edges(trial: &mut Trial<'_>, input: &ArrayD<f32>, axis: usize) -> ArrayD<f32> {
    let is_open = trial.is_open(axis);
    let part = |from: usize, to: usize| -> ArrayD<f32> {
        if is_open {
            return input
                .slice_axis(Axis(axis), Slice::from(from..to))
                .to_owned();
        }
        let mut blanked = input.clone();
        for (place, mut line) in blanked.axis_iter_mut(Axis(axis)).enumerate() {
            if !(from..to).contains(&place) {
                line.fill(0.0);
            }
        }
        blanked
    };
    let (mut from, mut to) = (0, input.len_of(Axis(axis)));
    let mut step = (to - from).div_euclid(2);
    while step > 0 {
        let mut is_smaller = false;
        while to - from > step && trial.shows(&part(from + step, to)) {
            from += step;
            is_smaller = true;
        }
        while to - from > step && trial.shows(&part(from, to - step)) {
            to -= step;
            is_smaller = true;
        }
        if !is_smaller || step > 1 {
            step = step.div_euclid(2);
        }
    }
    part(from, to)
}

/// Sets elements to 0.
fn without_elements(trial: &mut Trial<'_>, input: &ArrayD<f32>) -> ArrayD<f32> {
    let with = |kept: &[usize]| -> ArrayD<f32> {
        let mut kept = kept.iter().copied().peekable();
        let mut only = input.clone();
        for (place, x) in only.iter_mut().enumerate() {
            if kept.peek() == Some(&place) {
                kept.next();
            } else {
                *x = 0.0;
            }
        }
        only
    };
    let nonzero = input.iter().enumerate().filter(|(_, x)| !is_zero(**x));
    let nonzero: Vec<usize> = nonzero.map(|(place, _)| place).collect();
    if trial.shows(&with(&[])) {
        return with(&[]);
    }
    let kept = fewest(nonzero, &mut |kept| trial.shows(&with(kept)));
    with(&kept)
}

/// Returns a part of `all`, in its order, of which no single entry can be left out.
///
/// Delta debugging: `shows` holds for `all`; ever smaller groups are left out while it still holds.
fn fewest(all: Vec<usize>, shows: &mut dyn FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut kept = all;
    let mut n_groups = 2;
    while kept.len() > 1 {
        let size = kept.len().div_ceil(n_groups).max(1);
        let mut is_smaller = false;
        let mut from = 0;
        while from < kept.len() && kept.len() > 1 {
            let to = (from + size).min(kept.len());
            let mut rest = kept[..from].to_vec();
            rest.extend_from_slice(&kept[to..]);
            if !rest.is_empty() && shows(&rest) {
                kept = rest;
                is_smaller = true;
            } else {
                from = to;
            }
        }
        if size > 1 {
            n_groups = n_groups.saturating_mul(2).min(kept.len());
        } else if !is_smaller {
            break;
        }
    }
    kept
}

/// Returns where images are not 0: rows and columns, first and last.
fn patch(input: &ArrayD<f32>) -> Option<[[usize; 2]; 2]> {
    if input.ndim() != 4 {
        return None;
    }
    let nonzero = input.indexed_iter().filter(|(_, x)| !is_zero(**x));
    nonzero.fold(None, |patch: Option<[[usize; 2]; 2]>, (index, _)| {
        let (row, column) = (index[1], index[2]);
        let [rows, columns] = patch.unwrap_or([[row, row], [column, column]]);
        Some([
            [rows[0].min(row), rows[1].max(row)],
            [columns[0].min(column), columns[1].max(column)],
        ])
    })
}

fn is_zero(x: f32) -> bool {
    x.to_bits() << 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_entries_that_show_something_are_kept() {
        for needed in [vec![3], vec![0, 9], vec![2, 3, 7], (0..10).collect()] {
            let mut n_runs = 0;
            let kept = fewest((0..10).collect(), &mut |part| {
                n_runs += 1;
                needed.iter().all(|entry| part.contains(entry))
            });
            assert_eq!(kept, needed, "exactly what is needed");
            assert!(n_runs < 100, "{n_runs} runs");
        }
    }

    #[test]
    fn no_single_entry_can_be_left_out() {
        // Any three of four: several parts are minimal.
        let shows = |part: &[usize]| part.iter().filter(|entry| **entry % 3 == 0).count() >= 3;
        let kept = fewest((0..12).collect(), &mut |part| shows(part));
        assert!(shows(&kept), "it still shows");
        assert_eq!(kept.len(), 3, "{kept:?}");
    }
}
