//! The executor: exact integers, saturating exactly where the numerics say.

mod batch;
mod bounds;
mod buffer;
mod elementwise;
mod entry;
mod epilogue;
mod fusion;
mod groups;
mod linear;
mod order;
mod room;
mod sequence;
mod single;
mod tasks;
mod tensor;
mod walk;
mod weights;

use float_model::{GraphMemory, apply_step};
use kernels::{Activation, Isa};
use ndarray::ArrayD;
use quantizer_core::layers::Memory;
use quantizer_core::log2::mul_pow2;
use quantizer_core::quantizers::InputQuantizer;
use quantizer_core::round::round_half_even;
use quantizer_core::tensor::int_to_f32;
use quantizer_core::{Counters, QFormat, Stage, StageCount};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::ModelError;
use crate::model::{QuantizedModel, QuantizedOp};
use batch::enter_model;
use bounds::{Interval, output_interval};
use epilogue::{Ends, Epilogue};
use fusion::{Fusion, fuse};
use groups::Groups;
use linear::{LinearPlan, State};
use room::Room;
use tasks::mapped;
use tensor::{Int, Storage, with_ints, with_storage};
use walk::Walk;

pub use batch::Batch;
pub use buffer::Buffer;
pub use tensor::{Tensor, Values};

/// Runs a quantized model; made once per model.
///
/// The types of sums and tensors are chosen from static bounds when it is made, and the weights of a
/// layer packed when that runs first. Images and rows run in parallel; no result depends on the number of
/// threads.
#[derive(Debug)]
pub struct Executor<'m> {
    model: &'m QuantizedModel,
    plans: Vec<NodePlan>,
    /// Which images pass through the network together where nobody looks at the layers.
    groups: Groups,
    /// Buffers of walks that ended, one for each that ran at the same time.
    rooms: Mutex<Vec<Room>>,
}

#[derive(Debug)]
struct NodePlan {
    storage: Option<Storage>,
    /// What the outputs can be, whatever the inputs; `None` for floats.
    interval: Option<Interval>,
    linear: Option<LinearPlan>,
    /// How it runs where nobody looks at the layers.
    fusion: Option<Fusion>,
    /// Whether the rectifier that alone takes this layer's results does its work.
    is_fused: bool,
    /// The last steps of a layer without weights, made when it runs first.
    epilogue: OnceLock<Epilogue>,
}

/// Called with the index and the output of each layer.
type Observer<'o> = Option<&'o mut dyn FnMut(usize, &Tensor)>;

/// What the temporal layers of a model remember between the steps of a sequence.
///
/// A new one is empty: so are the buffers of a device after its reset.
#[derive(Clone, Debug, Default)]
pub struct ModelMemory {
    integers: Vec<Memory>,
    floats: GraphMemory,
}

/// The result of a run.
#[derive(Debug)]
pub struct Run {
    /// One tensor for each output of the model.
    pub outputs: Vec<Tensor>,
    /// Counts of each layer, in the order of the model's nodes.
    pub counters: Vec<Counters>,
}

/// Checks that the variable `BITPROOF_ISA`, if it is set, names an instruction set of this CPU.
///
/// # Errors
///
/// It does not, and would be ignored; the error is a message with the names that it can take.
pub fn check_instruction_set() -> Result<(), String> {
    Isa::check_variable()
}

/// Returns the name of the instruction set in use; results do not depend on it.
#[must_use]
pub fn instruction_set() -> &'static str {
    Isa::active().name()
}

impl<'m> Executor<'m> {
    /// Returns the executor of `model`.
    #[must_use]
    pub fn new(model: &'m QuantizedModel) -> Self {
        let mut intervals: Vec<Option<Interval>> = Vec::with_capacity(model.nodes.len());
        let mut plans = Vec::with_capacity(model.nodes.len());
        for node in &model.nodes {
            let inputs: Vec<Option<Interval>> = node.inputs.iter().map(|i| intervals[*i]).collect();
            let interval = output_interval(&node.op, &inputs);
            let storage = interval.map(|i| Storage::of(i.lo, i.hi));
            let linear = match &node.op {
                QuantizedOp::Integer(layer) => inputs
                    .first()
                    .copied()
                    .flatten()
                    .zip(storage)
                    .and_then(|(input, out)| LinearPlan::new(layer, input, out)),
                QuantizedOp::Input(_)
                | QuantizedOp::InputQuantizer { .. }
                | QuantizedOp::Dequantizer(_)
                | QuantizedOp::Float(_) => None,
            };
            plans.push(NodePlan {
                storage,
                interval,
                linear,
                fusion: None,
                is_fused: false,
                epilogue: OnceLock::new(),
            });
            intervals.push(interval);
        }
        fuse(model, &intervals, &mut plans);
        Self {
            model,
            groups: Groups::of(model, &plans),
            plans,
            rooms: Mutex::default(),
        }
    }

    /// Returns the outputs for `input`, `[batch, ...]`, as [`run`](Self::run) without an observer: faster, since layers
    /// that write nothing but their rectifier's input do not write it.
    ///
    /// Images pass through the network a few at a time, so memory does not grow with the batch.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn outputs<'i>(&self, input: impl Into<Batch<'i>>) -> Result<Run, ModelError> {
        self.outputs_of(&input.into())
    }

    fn outputs_of(&self, input: &Batch<'_>) -> Result<Run, ModelError> {
        let n_items = input.n_items();
        let n_threads = rayon::current_num_threads();
        if self.model.is_temporal() || n_items < 2 {
            return self.walk(input, &mut ModelMemory::default(), None, n_threads < 2);
        }
        // Each thread gets at least one group, and a layer runs on one thread where there are more.
        let group = self.groups.n_images.min(n_items.div_ceil(n_threads));
        let n_groups = n_items.div_ceil(group);
        let is_shared = n_groups >= 2 * n_threads || n_threads < 2;
        let runs: Vec<Result<Run, ModelError>> = (0..n_groups)
            .into_par_iter()
            .map(|number| {
                let end = n_items.min((number + 1) * group);
                self.walk_group(&input.items(number * group..end), is_shared)
            })
            .collect();
        // In order: which group fails first does not depend on the threads.
        joined(runs.into_iter().collect::<Result<_, _>>()?)
    }

    /// Returns the outputs for `input`, an array `[batch, ...]` of floats or bytes; integer inputs hold whole numbers.
    ///
    /// `observer` is called once for each layer with its index and output, in the order of the
    /// model's nodes. A tensor is freed after the last layer that takes it. Temporal layers start
    /// from an empty memory: see [`run_step`](Self::run_step).
    ///
    /// # Errors
    ///
    /// Another number of inputs than one, extents that differ from those of the model, values that
    /// are no integers of the input's type, or a layer that cannot run; the layer is named.
    pub fn run<'i>(
        &self,
        input: impl Into<Batch<'i>>,
        observer: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Run, ModelError> {
        self.run_step(input, &mut ModelMemory::default(), observer)
    }

    /// Returns the outputs for the next step of a sequence, as [`run`](Self::run).
    ///
    /// Item `i` of each batch continues item `i` of the batch before.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and a batch of other extents than the one before.
    pub fn run_step<'i>(
        &self,
        input: impl Into<Batch<'i>>,
        memory: &mut ModelMemory,
        observer: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Run, ModelError> {
        self.walk(&input.into(), memory, Some(observer), false)
    }

    /// Runs a group of images: the first layers image by image, the others together.
    fn walk_group(&self, input: &Batch<'_>, is_shared: bool) -> Result<Run, ModelError> {
        let n_items = input.n_items();
        if self.groups.first == 0 || n_items < 2 {
            return self.walk(input, &mut ModelMemory::default(), None, is_shared);
        }
        let mut memory = ModelMemory::default();
        self.in_room(is_shared, |room| {
            let mut all: Option<Walk> = None;
            for item in 0..n_items {
                let input = input.items(item..item + 1);
                let mut walk = Walk::new(self.model);
                let nodes = 0..self.groups.first;
                self.steps(nodes, &input, &mut walk, (&mut memory, &mut None, room))?;
                match &mut all {
                    Some(all) => all.join(walk, self.groups.first - 1, room)?,
                    None => all = Some(walk),
                }
            }
            let mut walk = all.unwrap_or_else(|| Walk::new(self.model));
            let nodes = self.groups.first..self.model.nodes.len();
            self.steps(nodes, input, &mut walk, (&mut memory, &mut None, room))?;
            Ok(walk.end(self.model))
        })
    }

    /// Runs every layer; without an observer, some together with their rectifiers.
    ///
    /// `is_shared` says that other walks occupy the other threads.
    fn walk(
        &self,
        input: &Batch<'_>,
        memory: &mut ModelMemory,
        mut observer: Observer<'_>,
        is_shared: bool,
    ) -> Result<Run, ModelError> {
        self.in_room(is_shared, |room| {
            let mut walk = Walk::new(self.model);
            let nodes = 0..self.model.nodes.len();
            self.steps(nodes, input, &mut walk, (memory, &mut observer, room))?;
            Ok(walk.end(self.model))
        })
    }

    /// Calls `run` with the buffers of a walk that ended.
    fn in_room(
        &self,
        is_shared: bool,
        run: impl FnOnce(&mut Room) -> Result<Run, ModelError>,
    ) -> Result<Run, ModelError> {
        let rooms = || self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = rooms().pop().unwrap_or_default();
        room.is_shared = is_shared;
        let run = run(&mut room);
        rooms().push(room);
        run
    }

    /// Runs some of the nodes.
    fn steps(
        &self,
        range: Range<usize>,
        input: &Batch<'_>,
        walk: &mut Walk,
        (memory, observer, room): (&mut ModelMemory, &mut Observer<'_>, &mut Room),
    ) -> Result<(), ModelError> {
        let nodes = &self.model.nodes;
        memory.integers.resize_with(nodes.len(), Memory::default);
        check_single_input(self.model)?;
        for index in range {
            let plan = &self.plans[index];
            if plan.is_fused && observer.is_none() {
                continue;
            }
            let fusion = plan.fusion.as_ref().filter(|_| observer.is_none());
            let taken = fusion.map_or(&nodes[index].inputs, |fusion| &nodes[fusion.linear].inputs);
            let inputs = Inputs {
                tensors: taken
                    .iter()
                    .filter_map(|i| walk.tensors[*i].as_ref())
                    .collect(),
                ends: taken.first().and_then(|i| walk.ends[*i].as_ref()),
            };
            let (output, ends) = match fusion {
                Some(fusion) => {
                    let counters = walk.counters.as_mut_slice();
                    self.run_fusion(fusion, index, &inputs, (memory, counters, room))?
                }
                None => {
                    let counters = &mut walk.counters[index];
                    self.run_node(index, &inputs, input, (memory, counters, room))?
                }
            };
            if let Some(observer) = observer {
                observer(index, &output);
            }
            walk.tensors[index] = Some(output);
            walk.ends[index] = ends;
            for i in taken {
                walk.n_uses[*i] -= 1;
                if walk.n_uses[*i] == 0
                    && let Some(tensor) = walk.tensors[*i].take()
                {
                    room.put(tensor.values);
                }
            }
        }
        Ok(())
    }

    /// Runs a layer and its rectifier, which is node `index`; each gets the counts of its own stages.
    fn run_fusion(
        &self,
        fusion: &Fusion,
        index: usize,
        inputs: &Inputs<'_>,
        (memory, counters, room): (&mut ModelMemory, &mut [Counters], &mut Room),
    ) -> Result<(Tensor, Option<Ends>), ModelError> {
        let name = &self.model.nodes[fusion.linear].name;
        let mut both = Counters::default();
        let state = State {
            memory: &mut memory.integers[fusion.linear],
            counters: &mut both,
            room,
        };
        let output = fusion
            .plan
            .run(name, inputs.tensors[0], inputs.ends, state)?;
        for (stage, count) in both.iter() {
            let is_of_rectifier = matches!(stage, Stage::ScaleMultiply | Stage::OutputRescale);
            let owner = if is_of_rectifier {
                index
            } else {
                fusion.linear
            };
            counters[owner].add(stage, count);
        }
        Ok(output)
    }

    fn run_node(
        &self,
        index: usize,
        inputs: &Inputs<'_>,
        input: &Batch<'_>,
        (memory, counters, room): (&mut ModelMemory, &mut Counters, &mut Room),
    ) -> Result<(Tensor, Option<Ends>), ModelError> {
        let node = &self.model.nodes[index];
        let plan = &self.plans[index];
        let storage = plan.storage.unwrap_or(Storage::I64);
        let tensors = inputs.tensors.as_slice();
        let output = match &node.op {
            QuantizedOp::Input(kind) => enter_model(node, kind, input, (storage, room)),
            QuantizedOp::InputQuantizer { quantizer, .. } => {
                Ok(quantize_input(quantizer, tensors[0], storage, counters))
            }
            QuantizedOp::Dequantizer(format) => dequantize(&node.name, tensors[0], format),
            QuantizedOp::Float(layer) => {
                let arrays: Vec<ArrayD<f32>> = tensors.iter().map(|x| x.floats()).collect();
                let arrays: Vec<&ArrayD<f32>> = arrays.iter().collect();
                let output = apply_step(&node.name, layer, &arrays, (&mut memory.floats, index))?;
                Ok(Tensor::from_floats(output))
            }
            QuantizedOp::Integer(layer) => {
                let memory = &mut memory.integers[index];
                let state = State {
                    memory,
                    counters,
                    room,
                };
                match &plan.linear {
                    Some(linear) => return linear.run(&node.name, tensors[0], inputs.ends, state),
                    None => {
                        elementwise::run((node, layer), tensors, (storage, &plan.epilogue), state)
                    }
                }
            }
        };
        Ok((output?, None))
    }
}

/// What a layer takes.
struct Inputs<'a> {
    tensors: Vec<&'a Tensor>,
    /// Ends of the channels of the first, if its layer knows them.
    ends: Option<&'a Ends>,
}

/// Returns the runs of consecutive items as one.
fn joined(runs: Vec<Run>) -> Result<Run, ModelError> {
    let mut runs = runs.into_iter();
    let Some(mut all) = runs.next() else {
        return Ok(Run {
            outputs: Vec::new(),
            counters: Vec::new(),
        });
    };
    for run in runs {
        all.counters
            .iter_mut()
            .zip(&run.counters)
            .for_each(|(own, other)| own.merge(other));
        for (own, other) in all.outputs.iter_mut().zip(run.outputs) {
            own.append(&other)?;
        }
    }
    Ok(all)
}

fn count_uses(model: &QuantizedModel) -> Vec<usize> {
    let mut n_uses = vec![0; model.nodes.len()];
    let inputs = model.nodes.iter().flat_map(|node| &node.inputs);
    for index in inputs.chain(&model.outputs) {
        n_uses[*index] += 1;
    }
    n_uses
}

fn check_single_input(model: &QuantizedModel) -> Result<(), ModelError> {
    let mut inputs = model
        .nodes
        .iter()
        .filter(|n| matches!(n.op, QuantizedOp::Input(_)));
    match (inputs.next(), inputs.next()) {
        (Some(_), None) => Ok(()),
        (None, _) => Err(ModelError::invalid(&model.name, "has no input")),
        (Some(_), Some(second)) => Err(ModelError::invalid(
            &second.name,
            "is a second input: only one is supported",
        )),
    }
}

fn quantize_input(
    quantizer: &InputQuantizer,
    x: &Tensor,
    storage: Storage,
    counters: &mut Counters,
) -> Tensor {
    let floats = x.floats();
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    let mut counts = [StageCount::default(); 2];
    let values = with_storage!(storage, T => {
        let integers = floats.iter().enumerate().map(|(i, x)| {
            let channel = i.rem_euclid(n_channels);
            let rounded = round_half_even(mul_pow2(*x, quantizer.frac_bits.at(channel)));
            let bits = quantizer.value_bits;
            let v = counts[0].saturate(rounded, bits);
            T::narrow(match &quantizer.zero_point {
                None => v,
                Some(zero) => counts[1].saturate(v + zero.at(channel), bits),
            })
        });
        T::values(integers.collect())
    });
    counters.add(Stage::Input, counts[0]);
    if quantizer.zero_point.is_some() {
        counters.add(Stage::ZeroPoint, counts[1]);
    }
    Tensor {
        shape: x.shape.clone(),
        values,
    }
}

/// Returns the floats of integers of `format` (NUMERICS.md: N12).
fn dequantize(name: &str, x: &Tensor, format: &QFormat) -> Result<Tensor, ModelError> {
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    let real = |v: i64, i: usize| {
        let channel = i.rem_euclid(n_channels);
        let fixed = mul_pow2(int_to_f32(v), -format.frac_bits.at(channel));
        format
            .scales
            .as_ref()
            .map_or(fixed, |scales| fixed * scales.at(channel))
    };
    let values: Vec<f32> = with_ints!(&x.values,
        v => mapped(v, |i, v| real(v.wide(), i)),
        float => return Err(ModelError::invalid(name, "dequantizes a float tensor")));
    Ok(Tensor {
        shape: x.shape.clone(),
        values: Values::F32(values),
    })
}
