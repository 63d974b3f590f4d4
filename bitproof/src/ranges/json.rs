//! The JSON of calibrated ranges.

use std::collections::BTreeMap;

use calibration::{BatchPlan, InputRange};
use quantizer_core::PerAxis;
use serde_json::{Map, Value, json};

use super::{CalibratedRange, CalibratedRanges, SampleFacts};
use crate::quantize::tool;

/// What the files say they are.
const FORMAT: &str = "bitproof-ranges";
const VERSION: u64 = 1;

pub(super) fn value(ranges: &CalibratedRanges) -> Value {
    let CalibratedRanges {
        model_digest,
        samples,
        observer,
        batches,
        input,
        outputs,
    } = ranges;
    let outputs: Map<String, Value> = outputs
        .iter()
        .map(|(layer, CalibratedRange { value_bits, range })| {
            let entry = json!({ "value_bits": value_bits, "range": floats(range) });
            (layer.clone(), entry)
        })
        .collect();
    json!({
        "format": FORMAT,
        "version": VERSION,
        "tool": tool(),
        "model_sha256": model_digest,
        "samples": {
            "source": samples.source,
            "preprocess": samples.preprocess,
            "sha256": samples.digest,
            "used": samples.n_used,
            "shape": samples.item_shape,
            "integers": samples.holds_integers,
            "seed": samples.seed,
        },
        "observer": observer.to_string(),
        "batches": {
            "batch_size": batches.batch_size, "steps": batches.steps, "epochs": batches.epochs,
        },
        "input": input.as_ref().map(|input| {
            json!({ "min": floats(&input.min), "max": floats(&input.max) })
        }),
        "outputs": outputs,
    })
}

/// Returns a number, or a list of one for each channel; every f32 is an f64.
fn floats(range: &PerAxis<f32>) -> Value {
    match range {
        PerAxis::Tensor(x) => Value::from(f64::from(*x)),
        PerAxis::Axis(xs) => xs.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// Returns the ranges of a text, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<CalibratedRanges, String> {
    let root: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let root = At {
        path: "$".to_owned(),
        value: &root,
    };
    if root.get("format")?.text()? != FORMAT {
        return Err("no ranges of `bitproof calibrate`".to_owned());
    }
    let version = root.get("version")?;
    if version.value.as_u64() != Some(VERSION) {
        return Err(format!("{}: only version {VERSION} is known", version.path));
    }
    root.only(&[
        "format",
        "version",
        "tool",
        "model_sha256",
        "samples",
        "observer",
        "batches",
        "input",
        "outputs",
    ])?;
    let observer = root.get("observer")?;
    let batches = root.get("batches")?;
    batches.only(&["batch_size", "steps", "epochs"])?;
    let input = root.get("input")?;
    let mut outputs = BTreeMap::new();
    let all = root.get("outputs")?;
    for (layer, entry) in all
        .value
        .as_object()
        .ok_or_else(|| all.expected("an object"))?
    {
        let entry = At {
            path: format!("{}.{layer}", all.path),
            value: entry,
        };
        outputs.insert(layer.clone(), output(&entry)?);
    }
    Ok(CalibratedRanges {
        model_digest: root.get("model_sha256")?.optional_text()?,
        samples: samples(&root.get("samples")?)?,
        observer: observer
            .text()?
            .parse()
            .map_err(|e| format!("{}: {e}", observer.path))?,
        batches: BatchPlan {
            batch_size: batches.get("batch_size")?.count()?,
            steps: batches.get("steps")?.count()?,
            epochs: batches.get("epochs")?.count()?,
        },
        input: input.present().map(input_range).transpose()?,
        outputs,
    })
}

fn samples(at: &At<'_>) -> Result<SampleFacts, String> {
    at.only(&[
        "source",
        "preprocess",
        "sha256",
        "used",
        "shape",
        "integers",
        "seed",
    ])?;
    let shape = at.get("shape")?;
    let extents = shape
        .value
        .as_array()
        .ok_or_else(|| shape.expected("a list"))?;
    let item_shape = extents.iter().map(|value| {
        let path = shape.path.clone();
        At { path, value }.count()
    });
    let integers = at.get("integers")?;
    let seed = at.get("seed")?;
    Ok(SampleFacts {
        source: at.get("source")?.optional_text()?,
        preprocess: at.get("preprocess")?.optional_text()?,
        digest: at.get("sha256")?.optional_text()?,
        n_used: at.get("used")?.count()?,
        item_shape: item_shape.collect::<Result<Vec<usize>, String>>()?,
        holds_integers: integers
            .value
            .as_bool()
            .ok_or_else(|| integers.expected("true or false"))?,
        seed: seed
            .present()
            .map(|seed| seed.value.as_u64().ok_or_else(|| seed.expected("a number")))
            .transpose()?,
    })
}

fn input_range(at: &At<'_>) -> Result<InputRange, String> {
    at.only(&["min", "max"])?;
    let (min, max) = (at.get("min")?.floats()?, at.get("max")?.floats()?);
    let alike = min.is_per_tensor() == max.is_per_tensor() && min.n_values() == max.n_values();
    if !alike
        || !min
            .as_slice()
            .iter()
            .zip(max.as_slice())
            .all(|(a, b)| a <= b)
    {
        return Err(at.expected("a maximum for each minimum, and none below it"));
    }
    Ok(InputRange { min, max })
}

fn output(at: &At<'_>) -> Result<CalibratedRange, String> {
    at.only(&["value_bits", "range"])?;
    let (bits, range) = (at.get("value_bits")?, at.get("range")?);
    let value_bits = bits.value.as_u64().and_then(|bits| u8::try_from(bits).ok());
    let values = range.floats()?;
    if values.as_slice().iter().any(|range| *range < 0.0) {
        return Err(range.expected("no negative range"));
    }
    Ok(CalibratedRange {
        value_bits: value_bits
            .filter(|bits| *bits <= 32)
            .ok_or_else(|| bits.expected("a number of bits"))?,
        range: values,
    })
}

/// A value and its JSON path.
struct At<'v> {
    path: String,
    value: &'v Value,
}

impl<'v> At<'v> {
    fn get(&self, key: &str) -> Result<Self, String> {
        match self.value.get(key) {
            Some(value) => Ok(Self {
                path: format!("{}.{key}", self.path),
                value,
            }),
            None => Err(format!("{}: has no `{key}`", self.path)),
        }
    }

    /// Refuses keys that have no meaning: a person may have written them.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        let object = self
            .value
            .as_object()
            .ok_or_else(|| self.expected("an object"))?;
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(format!("{}.{key}: no such key", self.path)),
            None => Ok(()),
        }
    }

    fn expected(&self, what: &str) -> String {
        format!("{}: expected {what}", self.path)
    }

    fn text(&self) -> Result<&'v str, String> {
        self.value.as_str().ok_or_else(|| self.expected("a text"))
    }

    fn optional_text(&self) -> Result<Option<String>, String> {
        let text = self.present().map(Self::text).transpose()?;
        Ok(text.map(str::to_owned))
    }

    /// Returns the value unless it is null.
    fn present(&self) -> Option<&Self> {
        (!self.value.is_null()).then_some(self)
    }

    fn count(&self) -> Result<usize, String> {
        let count = self.value.as_u64().and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| self.expected("a whole number"))
    }

    /// Returns a number, or the numbers of a list that is not empty; all finite.
    fn floats(&self) -> Result<PerAxis<f32>, String> {
        let refused = || self.expected("a finite number, or a list of them");
        let Value::Array(values) = self.value else {
            return Ok(PerAxis::Tensor(float(self.value).ok_or_else(refused)?));
        };
        let floats: Option<Vec<f32>> = values.iter().map(float).collect();
        let floats = floats.filter(|floats| !floats.is_empty());
        Ok(PerAxis::Axis(floats.ok_or_else(refused)?))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a number that a person wrote is rounded to float32"
)]
fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32).filter(|x| x.is_finite())
}
