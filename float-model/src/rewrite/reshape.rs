//! Of two reshapes in a row only the second matters.

use super::driver::{Edit, Pass, Patch, Rewrite, Skip, View};
use crate::{Layer, NodeId};

/// R7: a `Reshape` or `Flatten` that only another `Reshape` or `Flatten` sees is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoveReshape;

impl Rewrite for RemoveReshape {
    fn name(&self) -> &'static str {
        "remove-reshape"
    }

    fn pass(&self) -> Pass {
        Pass::UntilStable
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let is_reshape = |id| matches!(view.layer(id), Layer::Reshape { .. } | Layer::Flatten);
        let has_match = is_reshape(id) && view.consumers(id).iter().any(|c| is_reshape(*c));
        if !has_match {
            return Err(Skip::NoMatch);
        }
        let next = &view.node(view.sole_consumer(id)?).name;
        let went = format!("merged into `{next}`");
        Ok(Patch {
            message: went.clone(),
            edits: vec![Edit::Remove(view.node(id).name.clone(), went)],
        })
    }
}
