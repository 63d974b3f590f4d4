//! The text of a `q_config`.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::report::{ConfigIssue, ConfigReport};

/// Returns the entries of a `q_config` file, one a layer.
///
/// # Errors
///
/// Text that is no JSON, something else than an object, and every key that stands twice in its
/// object: JSON keeps the last one in silence.
pub fn parse_q_config(text: &str) -> Result<Map<String, Value>, ConfigReport> {
    let issues = RefCell::new(Vec::new());
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = Unique {
        path: "$".to_owned(),
        issues: &issues,
    };
    let value = seed.deserialize(&mut json);
    let value = value.and_then(|value| json.end().map(|()| value));
    let refused = |message: String| ConfigReport {
        errors: vec![ConfigIssue::new("$", message)],
        warnings: Vec::new(),
    };
    match value {
        Err(error) => Err(refused(format!("not JSON: {error}"))),
        Ok(Value::Object(entries)) => {
            let errors = issues.into_inner();
            if errors.is_empty() {
                return Ok(entries);
            }
            let warnings = Vec::new();
            Err(ConfigReport { errors, warnings })
        }
        Ok(_) => Err(refused(
            "expected an object with an entry for each layer".to_owned(),
        )),
    }
}

/// A value in which keys that stand twice are noted.
struct Unique<'a> {
    path: String,
    issues: &'a RefCell<Vec<ConfigIssue>>,
}

impl Unique<'_> {
    fn below(&self, part: &str) -> Self {
        Self {
            path: format!("{}{part}", self.path),
            issues: self.issues,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(v);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) =
            list.next_element_seed(self.below(&format!("[{}]", values.len())))?
        {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let inner = self.below(&format!(".{key}"));
            let path = inner.path.clone();
            let value = object.next_value_seed(inner)?;
            if entries.insert(key, value).is_some() {
                let issue = ConfigIssue::new(path, "stands twice in its object");
                self.issues.borrow_mut().push(issue);
            }
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_are_all_reported() {
        let text = r#"{
            "conv": {"weight_quantizer": {"bitwidth": 4, "bitwidth": 5}},
            "relu": {"buffer_bitwidth": 32},
            "conv": {"weight_quantizer": {"bitwidth": 4}}
        }"#;
        let report = parse_q_config(text).unwrap_err();
        let paths: Vec<&str> = report.errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["$.conv.weight_quantizer.bitwidth", "$.conv"]);
    }

    #[test]
    fn a_plain_file_is_what_serde_json_reads() {
        let text = r#"{"a": {"b": [1, -2, 1.5, true, null, "c"], "d": {}}}"#;
        let want: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(parse_q_config(text).unwrap()), want);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["", "[]", "3", "{\"a\": 1", "{} {}"] {
            assert!(parse_q_config(text).is_err(), "{text:?}");
        }
    }
}
