//! The graph: nodes in Keras' order with inferred shapes.

use std::collections::BTreeMap;

use crate::shape::infer_shape;
use crate::{GraphError, Layer, Shape};

/// Index of a node in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

impl NodeId {
    /// Returns the index in [`Graph::nodes`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// A layer in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// The layer.
    pub layer: Layer,
    /// Producers of its inputs, in call order.
    pub inputs: Vec<NodeId>,
    /// Extents of one output item, without the batch.
    pub shape: Shape,
}

/// A valid network.
///
/// The nodes stand in the order of Keras' `model.layers`: by decreasing depth (the longest path
/// to an output), ties in the order in which a walk from the outputs first meets a layer. The
/// order is topological. Layers that no output needs are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    name: String,
    // Invariant: names are unique; inputs stand before their consumers; shapes are inferred.
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
}

/// A node of a [`Draft`]: inputs by name.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftNode {
    /// Name.
    pub name: String,
    /// The layer.
    pub layer: Layer,
    /// Names of the layers whose outputs it takes, in call order.
    pub inputs: Vec<String>,
}

/// A graph that is being written or rewritten: any order, nothing checked yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Name of the model.
    pub name: String,
    /// Nodes in any order.
    pub nodes: Vec<DraftNode>,
    /// Names of the layers whose outputs the model returns.
    pub outputs: Vec<String>,
}

impl Draft {
    /// Returns the node called `name`.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut DraftNode> {
        self.nodes.iter_mut().find(|node| node.name == name)
    }

    /// Makes every consumer of `from`, and the outputs, take `to` instead.
    pub fn replace_uses(&mut self, from: &str, to: &str) {
        let inputs = self
            .nodes
            .iter_mut()
            .flat_map(|node| node.inputs.iter_mut());
        for name in inputs
            .chain(self.outputs.iter_mut())
            .filter(|name| *name == from)
        {
            *name = to.to_owned();
        }
    }

    /// Removes the node called `name`; its consumers take its first input instead.
    pub fn remove(&mut self, name: &str) {
        let Some(index) = self.nodes.iter().position(|node| node.name == name) else {
            return;
        };
        let node = self.nodes.remove(index);
        if let Some(input) = node.inputs.first() {
            self.replace_uses(name, input);
        }
    }

    /// Inserts `layer` after the node `after`; every consumer of `after` takes it instead.
    pub fn insert_after(&mut self, after: &str, name: &str, layer: Layer) {
        self.replace_uses(after, name);
        let inputs = vec![after.to_owned()];
        self.nodes.push(DraftNode {
            name: name.to_owned(),
            layer,
            inputs,
        });
    }
}

impl Graph {
    /// Returns the checked graph of a draft.
    ///
    /// # Errors
    ///
    /// Names that are double, unknown or no text, circles, no output, inputs or weights whose extents do
    /// not agree.
    pub fn new(draft: Draft) -> Result<Self, GraphError> {
        let index = index_names(&draft)?;
        let outputs = draft
            .outputs
            .iter()
            .map(|name| find(&index, "output", name))
            .collect::<Result<Vec<_>, _>>()?;
        if outputs.is_empty() {
            return Err(GraphError::Empty);
        }
        let inputs = draft
            .nodes
            .iter()
            .map(|node| {
                node.inputs
                    .iter()
                    .map(|name| find(&index, &node.name, name))
                    .collect()
            })
            .collect::<Result<Vec<Vec<usize>>, _>>()?;
        let order = keras_order(&inputs, &outputs).map_err(|i| GraphError::Cycle {
            layer: draft.nodes[i].name.clone(),
        })?;
        let mut place = vec![NodeId(0); draft.nodes.len()];
        for (position, &old) in order.iter().enumerate() {
            place[old] = NodeId(position);
        }
        let mut slots: Vec<Option<DraftNode>> = draft.nodes.into_iter().map(Some).collect();
        let mut nodes: Vec<Node> = Vec::with_capacity(order.len());
        for old in order {
            let Some(node) = slots[old].take() else {
                continue;
            };
            let inputs: Vec<NodeId> = inputs[old].iter().map(|&i| place[i]).collect();
            let shapes: Vec<&Shape> = inputs.iter().map(|id| &nodes[id.0].shape).collect();
            let shape = infer_shape(&node.name, &node.layer, &shapes)?;
            nodes.push(Node {
                name: node.name,
                layer: node.layer,
                inputs,
                shape,
            });
        }
        let outputs = outputs.into_iter().map(|old| place[old]).collect();
        Ok(Self {
            name: draft.name,
            nodes,
            outputs,
        })
    }

    /// Takes the graph apart for a rewrite; nodes keep their order.
    #[must_use]
    pub fn into_draft(self) -> Draft {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let name_of = |id: NodeId| names[id.0].clone();
        let outputs = self.outputs.iter().map(|id| name_of(*id)).collect();
        let nodes = self.nodes.into_iter().map(|node| DraftNode {
            inputs: node.inputs.iter().map(|id| name_of(*id)).collect(),
            name: node.name,
            layer: node.layer,
        });
        Draft {
            name: self.name,
            nodes: nodes.collect(),
            outputs,
        }
    }

    /// Returns the name of the model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the nodes in Keras' order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the ids and nodes in Keras' order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(i, node)| (NodeId(i), node))
    }

    /// Returns the node of `id`.
    ///
    /// # Panics
    ///
    /// Panics if `id` belongs to another graph and is out of range.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Returns the id of the layer called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .map(NodeId)
    }

    /// Returns the nodes whose outputs the model returns.
    #[must_use]
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Returns the input nodes.
    pub fn inputs(&self) -> impl Iterator<Item = NodeId> {
        self.iter()
            .filter(|(_, node)| matches!(node.layer, Layer::Input(_)))
            .map(|(id, _)| id)
    }

    /// Returns, for each node, the nodes that take its output, in Keras' order; a node that takes
    /// it twice stands there twice. Model outputs are not consumers.
    #[must_use]
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.iter() {
            for input in &node.inputs {
                consumers[input.0].push(id);
            }
        }
        consumers
    }
}

fn index_names(draft: &Draft) -> Result<BTreeMap<String, usize>, GraphError> {
    let mut index = BTreeMap::new();
    let names = draft.nodes.iter().map(|node| &node.name);
    for name in names.chain([&draft.name]) {
        if name.chars().any(char::is_control) {
            let name = name.escape_debug().to_string();
            return Err(GraphError::invalid(
                name,
                "has a control character in its name",
            ));
        }
    }
    for (i, node) in draft.nodes.iter().enumerate() {
        if index.insert(node.name.clone(), i).is_some() {
            return Err(GraphError::DuplicateName {
                layer: node.name.clone(),
            });
        }
    }
    Ok(index)
}

fn find(index: &BTreeMap<String, usize>, layer: &str, name: &str) -> Result<usize, GraphError> {
    index
        .get(name)
        .copied()
        .ok_or_else(|| GraphError::UnknownLayer {
            layer: layer.to_owned(),
            name: name.to_owned(),
        })
}

/// Returns the indices of the nodes that `outputs` need, in Keras' order (see [`Graph`]).
///
/// `inputs[i]` holds the producers of node `i`, in call order.
///
/// # Errors
///
/// The index of a node that depends on its own output.
///
/// # Panics
///
/// Panics if an index is out of range.
pub fn keras_order(inputs: &[Vec<usize>], outputs: &[usize]) -> Result<Vec<usize>, usize> {
    let mut walk = Walk::new(inputs.len());
    for &output in outputs {
        walk.visit(output, inputs)?;
    }
    let mut depth = vec![0usize; inputs.len()];
    // Finished in post-order, so a reversed pass sees every consumer before its producers.
    for &node in walk.finished.iter().rev() {
        for &input in &inputs[node] {
            depth[input] = depth[input].max(depth[node] + 1);
        }
    }
    let mut order = walk.finished;
    order.sort_by_key(|&node| (std::cmp::Reverse(depth[node]), walk.first_met[node]));
    Ok(order)
}

/// A depth-first walk from the outputs, without recursion: graphs may be deep.
struct Walk {
    first_met: Vec<Option<usize>>,
    n_met: usize,
    in_progress: Vec<bool>,
    done: Vec<bool>,
    finished: Vec<usize>,
}

impl Walk {
    fn new(n_nodes: usize) -> Self {
        Self {
            first_met: vec![None; n_nodes],
            n_met: 0,
            in_progress: vec![false; n_nodes],
            done: vec![false; n_nodes],
            finished: Vec::with_capacity(n_nodes),
        }
    }

    /// Visits everything that `start` needs; the error is a node on a circle.
    fn visit(&mut self, start: usize, inputs: &[Vec<usize>]) -> Result<(), usize> {
        let mut stack = Vec::new();
        self.enter(start, &mut stack)?;
        while let Some((node, next)) = stack.last_mut() {
            let node = *node;
            if let Some(&input) = inputs[node].get(*next) {
                *next += 1;
                self.enter(input, &mut stack)?;
            } else {
                self.in_progress[node] = false;
                self.done[node] = true;
                self.finished.push(node);
                stack.pop();
            }
        }
        Ok(())
    }

    fn enter(&mut self, node: usize, stack: &mut Vec<(usize, usize)>) -> Result<(), usize> {
        if self.in_progress[node] {
            return Err(node);
        }
        if self.done[node] {
            return Ok(());
        }
        self.first_met[node] = Some(self.n_met);
        self.n_met += 1;
        self.in_progress[node] = true;
        stack.push((node, 0));
        Ok(())
    }
}
