//! Which images pass through a network together.
//!
//! What a layer costs beside its products, and the reading of its weights, it costs once for a group. But the tensors
//! of a group must stay in the caches: so large images pass the first layers one by one.

use super::NodePlan;
use crate::model::{QuantizedModel, QuantizedNode};

/// Values of a layer's output that a group has at most: about as many as a core's own cache holds.
const MOST_VALUES: usize = 1 << 20;

/// Images of a group at most.
const MOST_IMAGES: usize = 8;

/// How images are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// First node that a group passes together; before it, images pass one by one.
    pub(super) first: usize,
    /// Images of a group.
    pub(super) n_images: usize,
}

impl Groups {
    /// Returns the groups for a model.
    pub(super) fn of(model: &QuantizedModel, plans: &[NodePlan]) -> Self {
        let alone = Self {
            first: 0,
            n_images: 1,
        };
        let values: Option<Vec<usize>> = model.nodes.iter().map(n_values).collect();
        let Some(values) = values else {
            return alone;
        };
        let fits = |first: &usize| {
            let kept = &values[first.saturating_sub(1)..];
            let largest = kept.iter().max().copied().unwrap_or(0);
            largest.saturating_mul(MOST_IMAGES) <= MOST_VALUES
        };
        let first = (0..model.nodes.len())
            .filter(|first| is_cut(model, plans, *first))
            .find(fits);
        first.map_or(alone, |first| Self {
            first,
            n_images: MOST_IMAGES,
        })
    }
}

/// Returns the values of an output, `None` if extents are open.
fn n_values(node: &QuantizedNode) -> Option<usize> {
    let mut extents = node.shape.iter();
    extents.try_fold(1_usize, |n, extent| n.checked_mul((*extent)?))
}

/// Returns whether nothing but the output of the node before `first` is needed from there on.
fn is_cut(model: &QuantizedModel, plans: &[NodePlan], first: usize) -> bool {
    let Some(last) = first.checked_sub(1) else {
        return true;
    };
    let inputs = model.nodes[first..].iter().flat_map(|node| &node.inputs);
    !plans[last].is_fused && inputs.chain(&model.outputs).all(|i| *i >= last)
}

#[cfg(test)]
mod tests {
    use float_model::Dtype;

    use super::{Groups, MOST_IMAGES};
    use crate::exec::Executor;
    use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};

    /// Returns the groups of a network of nodes of so many values, with these inputs.
    fn groups(nodes: &[(usize, &[usize])]) -> Groups {
        let nodes = nodes.iter().map(|(n_values, inputs)| QuantizedNode {
            name: String::new(),
            class_name: String::new(),
            inputs: inputs.to_vec(),
            shape: vec![Some(*n_values)],
            op: QuantizedOp::Input(InputKind::Float(Dtype::Float32)),
            config: None,
            ranges: None,
            params: Default::default(),
        });
        let nodes: Vec<_> = nodes.collect();
        let model = QuantizedModel {
            name: String::new(),
            outputs: vec![nodes.len() - 1],
            nodes,
            provenance: Default::default(),
        };
        Executor::new(&model).groups
    }

    #[test]
    fn small_images_pass_all_layers_together() {
        let together = Groups {
            first: 0,
            n_images: MOST_IMAGES,
        };
        assert_eq!(groups(&[(100, &[]), (50, &[0])]), together, "a chain");
    }

    #[test]
    fn large_images_pass_the_first_layers_alone() {
        let large = 1 << 20;
        let nodes: [(usize, &[usize]); 4] = [(large, &[]), (large, &[0]), (9, &[1]), (9, &[2])];
        assert_eq!(groups(&nodes).first, 3, "behind the first small output");
        let nodes: [(usize, &[usize]); 2] = [(large, &[]), (large, &[0])];
        let alone = Groups {
            first: 0,
            n_images: 1,
        };
        assert_eq!(groups(&nodes), alone, "nothing is small");
    }

    #[test]
    fn images_are_joined_where_one_tensor_is_left() {
        // The third output is small, but a later layer takes the first, too.
        let nodes: [(usize, &[usize]); 5] = [
            (1 << 20, &[]),
            (9, &[0]),
            (9, &[1]),
            (9, &[2, 1]),
            (9, &[3]),
        ];
        assert_eq!(groups(&nodes).first, 2, "behind the tensor that both take");
        let nodes: [(usize, &[usize]); 5] = [
            (1 << 20, &[]),
            (9, &[0]),
            (9, &[1]),
            (9, &[2, 0]),
            (9, &[3]),
        ];
        assert_eq!(groups(&nodes).first, 4, "behind the sum");
    }
}
