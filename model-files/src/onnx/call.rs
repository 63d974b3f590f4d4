//! A node with its attributes.

use super::proto::{Attribute, Node};
use super::refused::Refused;

/// A node of the default domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) node: &'a Node,
    /// Version of the operators.
    pub(super) opset: i64,
}

impl<'a> Call<'a> {
    fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    /// Returns an integer attribute.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }

    /// Returns a float attribute.
    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f)
    }

    /// Returns a text attribute, empty if it is not given.
    pub(super) fn text(&self, name: &str) -> String {
        let bytes = self.attribute(name).map(|a| a.s.as_slice());
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    }

    /// Returns integers, `None` if they are not given.
    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// Returns the tensor attribute `value`.
    pub(super) fn tensor(&self) -> Option<&'a super::proto::Tensor> {
        self.attribute("value")?.t.as_ref()
    }

    /// Returns extents: as many as `rank`, all `default` if they are not given.
    pub(super) fn extents(
        &self,
        name: &str,
        rank: usize,
        default: usize,
    ) -> Result<Vec<usize>, Refused> {
        let Some(values) = self.ints(name) else {
            return Ok(vec![default; rank]);
        };
        let extents: Option<Vec<usize>> = values.iter().map(|v| usize::try_from(*v).ok()).collect();
        extents
            .filter(|extents| extents.len() == rank)
            .ok_or_else(|| Refused::unsupported(format!("{name} {values:?}")))
    }

    /// Returns the name of an input, `None` if it is left out.
    pub(super) fn input(&self, index: usize) -> Option<&'a str> {
        let name = self.node.input.get(index)?.as_str();
        (!name.is_empty()).then_some(name)
    }

    /// Returns a name for the layer.
    pub(super) fn layer_name(&self) -> String {
        let output = self.node.output.first().map_or("", String::as_str);
        let name = if self.node.name.is_empty() {
            output
        } else {
            self.node.name.as_str()
        };
        name.trim_start_matches('/').to_owned()
    }
}
