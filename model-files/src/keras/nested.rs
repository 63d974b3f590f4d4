//! Models in models: their layers stand in the one graph that is left.
//!
//! A layer `conv` of a model `block` is called `block/conv`, with one component for each model
//! around it. Where the graph has a layer of that name already, it is `block/conv_1`, `block/conv_2`
//! and so on. Inputs of inner models disappear: their consumers take what the model is called with.
//!
//! A layer that is called several times becomes as many layers with the same weights: `conv`,
//! `conv_1`, `conv_2`. Each is quantized for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::Tensor;
use super::config::{Item, ModelConfig, Part, Refused, Tree, batch_input_shape, dtype};
use super::quantized::{element, is_list};

/// Most models in one model; the order in which they can be inlined is searched.
const MOST_MODELS: usize = 1000;

/// Most calls of one layer; each has the weights for itself.
const MOST_CALLS: usize = 64;

/// Returns the layers of a model and of all models in it.
pub(super) fn flattened(tree: Tree) -> Result<ModelConfig, Refused> {
    let mut flat = Flat {
        taken: tree
            .parts
            .iter()
            .map(|part| part.item.name.clone())
            .collect(),
        items: Vec::new(),
    };
    let name = tree.name.clone();
    let outputs = flat.add(tree, "", None)?;
    Ok(ModelConfig {
        name,
        items: flat.items,
        outputs,
    })
}

#[derive(Default)]
struct Flat {
    taken: BTreeSet<String>,
    items: Vec<Item>,
}

impl Flat {
    /// Adds the layers of a model whose inputs are `feeds` (`None`: the model keeps its inputs).
    ///
    /// Returns the names of the layers that give its outputs.
    fn add(
        &mut self,
        tree: Tree,
        prefix: &str,
        feeds: Option<&[String]>,
    ) -> Result<Vec<String>, Refused> {
        let mut sources = Sources::default();
        if let Some(feeds) = feeds {
            sources.feed(&tree, feeds)?;
        }
        let (models, layers): (Vec<Part>, Vec<Part>) = tree
            .parts
            .into_iter()
            .partition(|part| part.inner.is_some());
        if models.len() > MOST_MODELS {
            return Err(Refused::Unsupported(format!(
                "{} inner models",
                models.len()
            )));
        }
        let mut added = Vec::with_capacity(layers.len());
        for mut part in layers {
            if sources.has(&part.item.name) {
                continue;
            }
            let own = part.item.name.clone();
            if !prefix.is_empty() {
                part.item.name = self.free_name(&format!("{prefix}{own}"));
            }
            let outputs = outputs(&part);
            if !sources.insert(own.clone(), outputs) {
                let message = format!("two layers are named `{}`", part.item.name);
                return Err(Refused::Invalid(message));
            }
            if part.repeats.len() >= MOST_CALLS {
                let message = format!(
                    "layer `{own}`, which is called {} times",
                    part.repeats.len() + 1
                );
                return Err(Refused::Unsupported(message));
            }
            for (number, calls) in (1..).zip(std::mem::take(&mut part.repeats)) {
                let mut again = part.clone();
                again.item.name = self.free_name(&part.item.name);
                again.calls = calls;
                sources.insert_call(own.clone(), number, self::outputs(&again));
                added.push(again);
            }
            added.push(part);
        }
        self.add_models(models, prefix, &mut sources)?;
        for part in added {
            let mut item = part.item;
            let inputs = part.calls.iter().map(|t| sources.get(&item.name, t));
            item.inputs = inputs.collect::<Result<_, _>>()?;
            self.items.push(item);
        }
        let outputs = tree.outputs.iter().map(|t| sources.get("the model", t));
        outputs.collect()
    }

    /// Adds inner models, each once all that it takes is known.
    fn add_models(
        &mut self,
        mut models: Vec<Part>,
        prefix: &str,
        sources: &mut Sources,
    ) -> Result<(), Refused> {
        let names: BTreeSet<String> = models.iter().map(|m| m.item.name.clone()).collect();
        while !models.is_empty() {
            let is_ready = |part: &Part| part.calls.iter().all(|t| sources.has(&t.layer));
            let Some(next) = models.iter().position(is_ready) else {
                return Err(
                    match models
                        .iter()
                        .flat_map(|m| &m.calls)
                        .find(|t| !names.contains(&t.layer) && !sources.has(&t.layer))
                    {
                        Some(tensor) => {
                            Refused::Invalid(format!("there is no layer `{}`", tensor.layer))
                        }
                        None => {
                            Refused::Invalid("inner models take each other's outputs".to_owned())
                        }
                    },
                );
            };
            let part = models.swap_remove(next);
            let Some(inner) = part.inner else { continue };
            let name = part.item.name;
            if !part.repeats.is_empty() {
                let message = format!("model `{name}`, which is shared");
                return Err(Refused::Unsupported(message));
            }
            let feeds = part.calls.iter().map(|t| sources.get(&name, t));
            let feeds = feeds.collect::<Result<Vec<_>, _>>()?;
            let outputs = self.add(*inner, &format!("{prefix}{name}/"), Some(&feeds))?;
            sources.models.insert(name.clone());
            if !sources.insert(name.clone(), outputs) {
                return Err(Refused::Invalid(format!("two layers are named `{name}`")));
            }
        }
        Ok(())
    }

    /// Returns `name`, or `name_k` with the least `k` that no layer has, and takes it.
    fn free_name(&mut self, name: &str) -> String {
        let mut candidates =
            std::iter::once(name.to_owned()).chain((1..).map(|k| format!("{name}_{k}")));
        let free = candidates.find(|name| !self.taken.contains(name));
        let free = free.unwrap_or_else(|| name.to_owned());
        self.taken.insert(free.clone());
        free
    }
}

/// Returns the names of what a layer gives.
fn outputs(part: &Part) -> Vec<String> {
    let name = &part.item.name;
    if is_list(&part.item.class, part.calls.len()) {
        (0..part.calls.len()).map(|i| element(name, i)).collect()
    } else {
        vec![name.clone()]
    }
}

/// What the layers of one model give: names in the graph.
#[derive(Default)]
struct Sources {
    /// By layer and number of the call.
    outputs: BTreeMap<(String, u64), Vec<String>>,
    /// Inner models. Their own construction counts as a call in Keras 2.
    models: BTreeSet<String>,
}

impl Sources {
    /// Lets the inputs of an inner model stand for `feeds`.
    fn feed(&mut self, tree: &Tree, feeds: &[String]) -> Result<(), Refused> {
        if feeds.len() != tree.inputs.len() {
            return Err(Refused::Invalid(format!(
                "model `{}` has {} inputs, but is called with {}",
                tree.name,
                tree.inputs.len(),
                feeds.len()
            )));
        }
        let items = tree.parts.iter().map(|part| &part.item);
        let items: BTreeMap<&str, &Item> = items.map(|item| (item.name.as_str(), item)).collect();
        for (input, feed) in tree.inputs.iter().zip(feeds) {
            let is_integer = items.get(input.as_str()).is_some_and(|item| {
                let config = &item.config;
                batch_input_shape(config).is_some()
                    && dtype(config).map_or(true, float_model::Dtype::is_integer)
            });
            if is_integer {
                // Keras would convert the tensor.
                let message = format!("model `{}`, whose inputs are integers", tree.name);
                return Err(Refused::Unsupported(message));
            }
            self.insert(input.clone(), vec![feed.clone()]);
        }
        Ok(())
    }

    fn has(&self, layer: &str) -> bool {
        self.outputs.contains_key(&(layer.to_owned(), 0))
    }

    /// Returns whether the name is new.
    fn insert(&mut self, layer: String, outputs: Vec<String>) -> bool {
        self.outputs.insert((layer, 0), outputs).is_none()
    }

    /// Adds what a call after the first gives.
    fn insert_call(&mut self, layer: String, call: u64, outputs: Vec<String>) {
        self.outputs.insert((layer, call), outputs);
    }

    /// Returns the name in the graph of the layer that gives a tensor to `consumer`.
    fn get(&self, consumer: &str, tensor: &Tensor) -> Result<String, Refused> {
        let Tensor {
            layer,
            call,
            output,
        } = tensor;
        if !self.has(layer) {
            return Err(Refused::Invalid(format!(
                "layer `{consumer}` takes `{layer}`, which is no layer"
            )));
        }
        let call = if self.models.contains(layer) && *call == 1 {
            0
        } else {
            *call
        };
        let outputs = self.outputs.get(&(layer.clone(), call));
        outputs
            .and_then(|outputs| outputs.get(*output))
            .cloned()
            .ok_or_else(|| {
                Refused::Unsupported(format!(
                    "layer `{consumer}` takes a call or an output that layer `{layer}` does not have"
                ))
            })
    }
}
