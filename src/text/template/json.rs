//! JSON as Python writes it: the `tojson` filter of Transformers' templates, and template arguments from JSON.
//!
//! Principal function: [`tojson`]. Must not know what is rendered.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::runtime::OrderedMap;

/// Nesting beyond this is refused: values are written recursively.
const MAX_DEPTH: usize = 64;

/// How `json.dumps` is to write.
struct Style {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: `json.dumps` without HTML
/// escapes, which is what Transformers gives its templates in place of Jinja's own filter.
pub(super) fn tojson(value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent = match args.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match value.as_str() {
            Some(text) => Some(text.to_string()),
            None => Some(" ".repeat(usize::try_from(value)?.min(64))),
        },
    };
    let defaults = if indent.is_some() { (",", ": ") } else { (", ", ": ") };
    let separators = match args.get::<Option<Vec<String>>>("separators")? {
        Some(pair) if pair.len() == 2 => (pair[0].clone(), pair[1].clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair"));
        }
        None => (defaults.0.to_string(), defaults.1.to_string()),
    };
    let style = Style {
        indent,
        item_separator: separators.0,
        key_separator: separators.1,
        ensure_ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    args.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(Value::from(out))
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply for JSON"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(out, ['[', ']'], items.len(), style, depth, |out, index| {
                write_value(out, &items[index], style, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort_unstable();
            }
            write_items(out, ['{', '}'], keys.len(), style, depth, |out, index| {
                let key = &keys[index];
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_string);
                write_string(out, &name, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write_value(out, &value.get_item(key)?, style, depth + 1)
            })?;
        }
        kind => {
            let message = format!("a value of type {kind} has no JSON form");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

/// Brackets, separators and line breaks around `n` items.
fn write_items(
    out: &mut String,
    brackets: [char; 2],
    n: usize,
    style: &Style,
    depth: usize,
    mut item: impl FnMut(&mut String, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    };
    out.push(brackets[0]);
    for index in 0..n {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        item(out, index)?;
    }
    if n > 0 {
        new_line(out, depth);
    }
    out.push(brackets[1]);
    Ok(())
}

fn write_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Guard marks (plane 15) stand for ASCII characters and must be found again, so they are not escaped.
            c if (c as u32) < 0x20 || (ensure_ascii && c as u32 > 0x7e && (c as u32) < 0xf_0000) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A JSON value for a template; every string goes through `mark`.
pub(super) fn to_value(value: &serde_json::Value, mark: &impl Fn(&str) -> String) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(mark(text)),
        serde_json::Value::Array(items) => {
            Value::from(items.iter().map(|item| to_value(item, mark)).collect::<Vec<_>>())
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (mark(name), to_value(value, mark)));
            Value::from_object(OrderedMap::new(fields.collect()))
        }
    }
}

/// Lists the strings within a JSON value; gives their bytes in all.
pub(super) fn collect_strings<'t>(value: &'t serde_json::Value, strings: &mut Vec<&'t str>) -> usize {
    match value {
        serde_json::Value::String(text) => {
            strings.push(text);
            text.len()
        }
        serde_json::Value::Array(items) => items.iter().map(|item| collect_strings(item, strings)).sum(),
        serde_json::Value::Object(fields) => {
            let mut size = 0;
            for (name, value) in fields {
                strings.push(name);
                size += name.len() + collect_strings(value, strings);
            }
            size
        }
        _ => 0,
    }
}
