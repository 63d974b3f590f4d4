//! Wider buffers.

use akida_sim::QuantizedOp;
use akida_sim::prove::smallest_buffers;
use quantizer_core::Stage;
use quantizer_core::layers::IntegerOp;
use serde_json::json;

use super::plan::Plan;
use super::region::has_quantizer;
use super::{Outcome, Place, Trial, Tried};

/// Widest buffer that a q_config takes.
const WIDEST: u32 = 32;

/// Rounds in which buffers behind a wider one are widened in turn.
const ROUNDS: usize = 16;

const OWN: [&str; 1] = ["buffer_bitwidth"];
const SCALED: [&str; 2] = ["output_quantizer", "buffer_bitwidth"];

impl<'a> Trial<'a> {
    /// Widens each buffer that does not fit to what its range needs, and those behind that must
    /// take more.
    pub(super) fn wider_buffers(&self) -> Outcome<'a> {
        if let Some(bits) = self.requantizer.buffer_bits() {
            return Err(format!("every buffer was asked to have {bits} bits"));
        }
        let mut plan = Plan::new(self.requantizer.base());
        for _ in 0..ROUNDS {
            let tried = self.tried(&plan).map_err(|error| error.to_string())?;
            let own = tried.open.iter().filter(|place| place.0 == self.name());
            for place in own {
                self.widen(&mut plan, &tried, place)?;
            }
            // Buffers behind that can be widened are; what else they open is reported.
            let behind: Vec<Place> = self.opened(&tried).cloned().collect();
            let widened = behind
                .iter()
                .filter(|place| self.widen(&mut plan, &tried, place).is_ok());
            if widened.count() == 0 && self.is_fixed(&tried) {
                return Ok((plan, tried));
            }
        }
        Err("the buffers behind it do not settle".to_owned())
    }

    fn widen(
        &self,
        plan: &mut Plan<'a>,
        tried: &Tried,
        (name, stage): &Place,
    ) -> Result<(), String> {
        let nodes = &tried.model.nodes;
        let index = nodes.iter().position(|node| node.name == *name);
        let index = index.ok_or_else(|| format!("there is no layer `{name}`"))?;
        let QuantizedOp::Integer(layer) = &nodes[index].op else {
            return Err(format!("`{name}` is no layer of integers"));
        };
        let smallest = smallest_buffers(&tried.model, index, &tried.bounds);
        let scaled = *stage == Stage::ScaleMultiply;
        let needed = if scaled {
            smallest.output_quantizer
        } else {
            smallest.layer
        };
        let needed =
            needed.ok_or_else(|| format!("{stage} of `{name}` has no buffer of its own"))?;
        if !needed.is_possible() {
            return Err(format!(
                "{stage} of `{name}` needs {} bits, and {} are the most",
                needed.bits, needed.most
            ));
        }
        let needed = needed.bits;
        plan.set(name, if scaled { &SCALED } else { &OWN }, json!(needed));
        if !scaled {
            let sign = u32::from(!is_unsigned(&layer.op));
            self.make_room(plan, index, needed - sign);
        }
        Ok(())
    }

    /// Widens the buffers that take `value_bits` from node `index`, as far as an output quantizer.
    fn make_room(&self, plan: &mut Plan<'_>, index: usize, value_bits: u32) {
        let nodes = &self.model.nodes;
        let name = &nodes[index].name;
        if has_quantizer(&nodes[index], "output_quantizer") {
            at_least(plan, name, &SCALED, value_bits);
            return;
        }
        for (consumer, node) in nodes.iter().enumerate() {
            let QuantizedOp::Integer(layer) = &node.op else {
                continue;
            };
            if node.inputs.contains(&index) {
                let sign = u32::from(!is_unsigned(&layer.op));
                at_least(plan, &node.name, &OWN, value_bits + sign);
                self.make_room(plan, consumer, value_bits);
            }
        }
    }
}

/// Raises a width that the plan leaves below `bits`; a layer without it has no buffer.
fn at_least(plan: &mut Plan<'_>, layer: &str, path: &[&str], bits: u32) {
    let current = plan.get(layer, path).and_then(serde_json::Value::as_u64);
    if current.is_some_and(|current| current < u64::from(bits)) {
        plan.set(layer, path, json!(bits.min(WIDEST)));
    }
}

const fn is_unsigned(op: &IntegerOp) -> bool {
    matches!(
        op,
        IntegerOp::ReLU { .. } | IntegerOp::GlobalAveragePooling2D { .. }
    )
}
