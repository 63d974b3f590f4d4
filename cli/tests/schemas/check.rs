//! A checker for the keywords that the schemas use.

use serde_json::{Map, Value};

/// Keywords that only describe.
const DESCRIBING: [&str; 5] = ["$schema", "$id", "title", "description", "default"];

/// Returns what is wrong with `value`, and what of it the schema does not mention.
pub(crate) fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut mistakes = Vec::new();
    check(schema.as_object().unwrap(), value, "$", &mut mistakes);
    mistakes
}

fn check(schema: &Map<String, Value>, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    for (keyword, asked) in schema {
        let is_right = match keyword.as_str() {
            "type" => types(asked).any(|name| is_of(name, value)),
            "enum" => asked.as_array().unwrap().contains(value),
            "const" => asked == value,
            "minimum" => value.as_f64().is_none_or(|v| v >= asked.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= asked.as_f64().unwrap()),
            "minItems" => value.as_array().is_none_or(|v| v.len() >= number(asked)),
            "maxItems" => value.as_array().is_none_or(|v| v.len() <= number(asked)),
            "pattern" => value.as_str().is_none_or(|text| {
                assert_eq!(asked, "^[0-9a-f]{64}$", "the only pattern that is known");
                text.len() == 64 && text.chars().all(|c| "0123456789abcdef".contains(c))
            }),
            "required" => value.as_object().is_none_or(|object| {
                let mut names = asked.as_array().unwrap().iter();
                names.all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(
                        asked.as_object().unwrap(),
                        item,
                        &format!("{path}[{i}]"),
                        mistakes,
                    );
                }
                true
            }
            "properties" | "additionalProperties" => true,
            name => {
                assert!(DESCRIBING.contains(&name), "{path}: unknown keyword {name}");
                true
            }
        };
        if !is_right {
            mistakes.push(format!("{path}: {value} is not: {keyword} {asked}"));
        }
    }
    if let Value::Object(object) = value {
        members(schema, object, path, mistakes);
    }
}

/// Checks the members of an object; one that the schema does not mention is a mistake.
fn members(
    schema: &Map<String, Value>,
    object: &Map<String, Value>,
    path: &str,
    mistakes: &mut Vec<String>,
) {
    let named = schema.get("properties").and_then(Value::as_object);
    let others = schema
        .get("additionalProperties")
        .and_then(Value::as_object);
    for (name, member) in object {
        let known = named.and_then(|n| n.get(name)).and_then(Value::as_object);
        match known.or(others) {
            Some(schema) => check(schema, member, &format!("{path}.{name}"), mistakes),
            None => mistakes.push(format!("{path}.{name} is not described")),
        }
    }
}

fn types(asked: &Value) -> impl Iterator<Item = &str> {
    let several = asked.as_array().into_iter().flatten();
    several.chain(Some(asked)).filter_map(Value::as_str)
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        name => unreachable!("unknown type {name}"),
    }
}

fn number(asked: &Value) -> usize {
    usize::try_from(asked.as_u64().unwrap()).unwrap()
}
