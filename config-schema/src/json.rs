//! JSON as the reference's users see it: indented by four, ASCII only.

use std::{fmt, io};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};

use crate::resolve::{Resolved, Source, Status};

/// Returns the text of `value` as Python's `json.dumps(value, indent=4)` writes it.
#[must_use]
pub fn to_indented(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = Ascii(PrettyFormatter::with_indent(b"    "));
    let mut serializer = Serializer::with_formatter(&mut text, formatter);
    // Writing to memory cannot fail, and every `Value` is valid JSON.
    let written = value.serialize(&mut serializer).is_ok();
    debug_assert!(written, "a JSON value can be written");
    String::from_utf8(text).unwrap_or_default()
}

/// One value of the configuration, or a layer without one, and the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Name of the layer.
    pub layer: String,
    /// Path of the value below the layer, such as `output_quantizer.bitwidth`; `None` for a layer
    /// that stays in float.
    pub path: Option<String>,
    /// The value; null without a path.
    pub value: Value,
    /// Where it comes from, or why the layer stays in float.
    pub reason: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            layer,
            path,
            value,
            reason,
        } = self;
        match path {
            Some(path) => write!(f, "$.{layer}.{path} = {value}  ({reason})"),
            None => write!(f, "$.{layer}: stays in float: {reason}"),
        }
    }
}

/// Returns where every value of the configuration comes from.
#[must_use]
pub fn explain(resolved: &Resolved) -> Vec<Origin> {
    let mut origins = Vec::new();
    for layer in &resolved.layers {
        match &layer.status {
            Status::Input => {}
            Status::Float { reason } => origins.push(Origin {
                layer: layer.name.clone(),
                path: None,
                value: Value::Null,
                reason: reason.clone(),
            }),
            Status::Quantized { json, sources, .. } => {
                origins.extend(sources.iter().map(|(path, source)| Origin {
                    layer: layer.name.clone(),
                    path: Some(path.clone()),
                    value: value_at(json.as_ref(), path).unwrap_or(Value::Null),
                    reason: origin(source),
                }));
            }
        }
    }
    origins
}

fn value_at(entry: Option<&serde_json::Map<String, Value>>, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => entry?.get(path).cloned(),
        Some((key, inner)) => entry?.get(key)?.get(inner).cloned(),
    }
}

fn origin(source: &Source) -> String {
    match source {
        Source::File => "q_config".to_owned(),
        Source::Parameter(name) => format!("parameter {name}"),
        Source::Default => "default of the class".to_owned(),
        Source::Rule(text) => format!("rule: {text}"),
    }
}

/// Escapes everything beyond ASCII, as Python does.
struct Ascii(PrettyFormatter<'static>);

impl Formatter for Ascii {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                writer.write_all(&[u8::try_from(c).unwrap_or(b'?')])?;
            } else if c.is_ascii() {
                writer.write_all(b"\x7f")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }
}
