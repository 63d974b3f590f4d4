//! The driver: what a rewrite sees, what it may propose, and how a proposal is applied.

use super::{RewriteEvent, Sanitized};
use crate::{Draft, DraftNode, Graph, GraphError, Layer, Node, NodeId};

/// A rewrite: a pure proposal for one node of a graph.
pub(super) trait Rewrite: Sync {
    /// Returns its name, such as `fold-batchnorm`.
    fn name(&self) -> &'static str;

    /// Returns how often it looks at the graph.
    fn pass(&self) -> Pass {
        Pass::Once
    }

    /// Returns what it would do at `node`, or why it does nothing.
    fn propose(&self, view: &View<'_>, node: NodeId) -> Result<Patch, Skip>;
}

/// How often a rewrite looks at the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Only what matches at the start is rewritten, as the reference does: a `ReLU` moves behind
    /// one pool, not behind a chain of them.
    Once,
    /// Until nothing matches. The rewrite must come to an end.
    UntilStable,
}

/// Why a rewrite does nothing at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// The node is not what it looks for.
    NoMatch,
    /// The node is what it looks for, but a rewrite would be wrong or impossible.
    Blocked(String),
}

/// A proposal.
pub(super) struct Patch {
    /// What it does, for the report.
    pub(super) message: String,
    /// Steps, in order.
    pub(super) edits: Vec<Edit>,
}

/// One step of a proposal.
pub(super) enum Edit {
    /// Changes a layer in place, without copying its weights.
    Change(String, Box<dyn FnOnce(&mut Layer)>),
    /// Removes a node; its consumers take its input. The second text says where it went.
    Remove(String, String),
    /// Takes a node out that nothing uses any more. The second text says where it went.
    Drop(String, String),
    /// Gives a node another name, everywhere.
    Rename(String, String),
    /// Inserts a layer after a node; its consumers and the outputs take the layer instead.
    InsertAfter {
        after: String,
        name: String,
        layer: Layer,
    },
    /// Adds a node that nothing uses yet.
    Push(DraftNode),
    /// Makes one consumer of `from` take `to` instead.
    Rewire {
        consumer: String,
        from: String,
        to: String,
    },
    /// Gives a node other inputs.
    SetInputs(String, Vec<String>),
    /// Makes `x -> first -> second -> y` into `x -> second -> first -> y`.
    Swap { first: String, second: String },
}

impl Edit {
    /// Returns an edit that changes the layer of `node`.
    pub(super) fn change(node: &Node, change: impl FnOnce(&mut Layer) + 'static) -> Self {
        Self::Change(node.name.clone(), Box::new(change))
    }
}

/// A graph with its consumers.
pub(super) struct View<'a> {
    graph: &'a Graph,
    consumers: Vec<Vec<NodeId>>,
}

impl<'a> View<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self {
            graph,
            consumers: graph.consumers(),
        }
    }

    pub(super) fn graph(&self) -> &'a Graph {
        self.graph
    }

    pub(super) fn node(&self, id: NodeId) -> &'a Node {
        self.graph.node(id)
    }

    pub(super) fn layer(&self, id: NodeId) -> &'a Layer {
        &self.graph.node(id).layer
    }

    /// Returns who takes the output of `id`, in Keras' order, doubles included.
    pub(super) fn consumers(&self, id: NodeId) -> &[NodeId] {
        &self.consumers[id.index()]
    }

    pub(super) fn is_output(&self, id: NodeId) -> bool {
        self.graph.outputs().contains(&id)
    }

    /// Returns the producer of `id` if it has exactly one.
    pub(super) fn sole_input(&self, id: NodeId) -> Option<NodeId> {
        match self.node(id).inputs.as_slice() {
            [input] => Some(*input),
            _ => None,
        }
    }

    /// Returns the only consumer of `id`.
    ///
    /// Fails if something else sees the output of `id`: another consumer, or the user.
    pub(super) fn sole_consumer(&self, id: NodeId) -> Result<NodeId, Skip> {
        let name = &self.node(id).name;
        match self.consumers(id) {
            [] => Err(Skip::NoMatch),
            _ if self.is_output(id) => {
                Err(Skip::Blocked(format!("`{name}` is also a model output")))
            }
            [consumer] => Ok(*consumer),
            several => {
                let n = several.len();
                Err(Skip::Blocked(format!("`{name}` has {n} consumers")))
            }
        }
    }

    /// Returns the producer of `id` if `id` takes nothing else, `is_wanted` holds for its layer,
    /// and only `id` sees its output.
    pub(super) fn private_input(
        &self,
        id: NodeId,
        is_wanted: impl Fn(&Layer) -> bool,
    ) -> Result<NodeId, Skip> {
        let input = self.sole_input(id).ok_or(Skip::NoMatch)?;
        if !is_wanted(self.layer(input)) {
            return Err(Skip::NoMatch);
        }
        self.sole_consumer(input)?;
        Ok(input)
    }

    /// Returns the extents of what `id` takes first.
    pub(super) fn input_shape(&self, id: NodeId) -> Option<&'a [Option<usize>]> {
        let input = self.node(id).inputs.first()?;
        Some(&self.node(*input).shape)
    }

    /// Returns `base`, or `base_1`, `base_2`, ... if there is such a layer or `taken` holds it.
    pub(super) fn fresh_name(&self, base: String, taken: &[String]) -> String {
        let is_free = |name: &String| self.graph.find(name).is_none() && !taken.contains(name);
        if is_free(&base) {
            return base;
        }
        (1..usize::MAX)
            .map(|k| format!("{base}_{k}"))
            .find(is_free)
            .unwrap_or(base)
    }
}

/// Applies `rewrite` wherever it matches.
pub(super) fn run(rewrite: &dyn Rewrite, sanitized: Sanitized) -> Result<Sanitized, GraphError> {
    match rewrite.pass() {
        Pass::Once => run_once(rewrite, sanitized),
        Pass::UntilStable => run_until_stable(rewrite, sanitized),
    }
}

fn run_once(rewrite: &dyn Rewrite, mut sanitized: Sanitized) -> Result<Sanitized, GraphError> {
    let view = View::new(&sanitized.graph);
    let matches: Vec<String> = sanitized
        .graph
        .iter()
        .filter(|(id, _)| rewrite.propose(&view, *id).err() != Some(Skip::NoMatch))
        .map(|(_, node)| node.name.clone())
        .collect();
    for name in matches {
        // An earlier match may have changed what this one sees, so it is proposed again.
        let Some(id) = sanitized.graph.find(&name) else {
            continue;
        };
        match rewrite.propose(&View::new(&sanitized.graph), id) {
            Ok(patch) => sanitized = apply(rewrite, sanitized, name, patch)?,
            Err(Skip::Blocked(message)) => {
                sanitized.refused.push(event(rewrite, name, message));
            }
            Err(Skip::NoMatch) => {}
        }
    }
    Ok(sanitized)
}

fn run_until_stable(
    rewrite: &dyn Rewrite,
    mut sanitized: Sanitized,
) -> Result<Sanitized, GraphError> {
    loop {
        let view = View::new(&sanitized.graph);
        let mut refused = Vec::new();
        let mut found = None;
        for (id, node) in sanitized.graph.iter() {
            match rewrite.propose(&view, id) {
                Ok(patch) => {
                    found = Some((node.name.clone(), patch));
                    break;
                }
                Err(Skip::Blocked(message)) => {
                    refused.push(event(rewrite, node.name.clone(), message));
                }
                Err(Skip::NoMatch) => {}
            }
        }
        let Some((name, patch)) = found else {
            sanitized.refused.extend(refused);
            return Ok(sanitized);
        };
        sanitized = apply(rewrite, sanitized, name, patch)?;
    }
}

fn event(rewrite: &dyn Rewrite, layer: String, message: String) -> RewriteEvent {
    RewriteEvent {
        rewrite: rewrite.name(),
        layer,
        message,
    }
}

fn apply(
    rewrite: &dyn Rewrite,
    sanitized: Sanitized,
    layer: String,
    patch: Patch,
) -> Result<Sanitized, GraphError> {
    let Sanitized {
        graph,
        mut applied,
        refused,
        mut removed,
    } = sanitized;
    applied.push(event(rewrite, layer, patch.message));
    let mut draft = graph.into_draft();
    for edit in patch.edits {
        if let Edit::Remove(name, went) | Edit::Drop(name, went) = &edit {
            removed.insert(name.clone(), went.clone());
        }
        apply_edit(&mut draft, edit);
    }
    Ok(Sanitized {
        graph: Graph::new(draft)?,
        applied,
        refused,
        removed,
    })
}

fn apply_edit(draft: &mut Draft, edit: Edit) {
    match edit {
        Edit::Change(name, change) => {
            if let Some(node) = draft.node_mut(&name) {
                change(&mut node.layer);
            }
        }
        Edit::Remove(name, _) => draft.remove(&name),
        Edit::Drop(name, _) => draft.nodes.retain(|node| node.name != name),
        Edit::Rename(from, to) => {
            draft.replace_uses(&from, &to);
            if let Some(node) = draft.node_mut(&from) {
                node.name = to;
            }
        }
        Edit::InsertAfter { after, name, layer } => draft.insert_after(&after, &name, layer),
        Edit::Push(node) => draft.nodes.push(node),
        Edit::Rewire { consumer, from, to } => {
            let inputs = draft.node_mut(&consumer).map(|node| &mut node.inputs);
            for input in inputs.into_iter().flatten().filter(|name| **name == from) {
                input.clone_from(&to);
            }
        }
        Edit::SetInputs(name, inputs) => {
            if let Some(node) = draft.node_mut(&name) {
                node.inputs = inputs;
            }
        }
        Edit::Swap { first, second } => swap(draft, &first, &second),
    }
}

fn swap(draft: &mut Draft, first: &str, second: &str) {
    draft.replace_uses(second, first);
    let outer = draft
        .node_mut(first)
        .map(|node| std::mem::replace(&mut node.inputs, vec![second.to_owned()]));
    if let (Some(node), Some(inputs)) = (draft.node_mut(second), outer) {
        node.inputs = inputs;
    }
}
