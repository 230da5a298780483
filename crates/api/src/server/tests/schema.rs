//! A validator for the part of JSON Schema that the OpenAPI document uses.
//!
//! Stricter than the standard in two ways, because it guards a server and not a client: a field the schema does not name
//! is an error, and so is a keyword this validator does not know (the check would otherwise pass without looking).

use serde_json::{Map, Value};

/// Keywords that describe and do not restrict (`propertyNames` says only that names are strings, which JSON knows).
const SILENT: [&str; 7] =
    ["description", "summary", "example", "examples", "default", "title", "propertyNames"];

pub(super) struct Schemas<'a> {
    pub(super) document: &'a Value,
}

impl Schemas<'_> {
    /// What is wrong with `value`, with the path to it.
    pub(super) fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = schema.as_object().ok_or_else(|| format!("{at}: the schema is no object"))?;
        for (keyword, rule) in schema {
            let fail = |why: String| Err(format!("{at}: {why}"));
            match keyword.as_str() {
                "$ref" => self.check(self.referred(rule), value, at)?,
                "type" if !type_fits(rule, value) => return fail(format!("{value} is not of type {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    return fail(format!("{value} is none of {rule}"));
                }
                "minimum" if value.is_number() && value.as_i128_lossless() < rule.as_i128_lossless() => {
                    return fail(format!("{value} is less than {rule}"));
                }
                "format" if !format_fits(rule.as_str().unwrap(), value) => {
                    return fail(format!("{value} is not of format {rule}"));
                }
                "oneOf" => {
                    let fits = |one: &&Value| self.check(one, value, at).is_ok();
                    let count = rule.as_array().unwrap().iter().filter(fits).count();
                    if count != 1 {
                        return fail(format!("{value} fits {count} of {rule}"));
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}/{index}"))?;
                    }
                }
                "required" => {
                    for field in rule.as_array().unwrap() {
                        if value.is_object() && value.get(field.as_str().unwrap()).is_none() {
                            return fail(format!("{field} is missing"));
                        }
                    }
                }
                "type" | "enum" | "minimum" | "format" | "properties" | "additionalProperties" => {}
                silent if SILENT.contains(&silent) => {}
                unknown => return fail(format!("the validator does not know {unknown:?}")),
            }
        }
        self.check_fields(schema, value, at)
    }

    fn check_fields(&self, schema: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
        let (Some(fields), Some("object")) = (value.as_object(), schema.get("type").and_then(Value::as_str))
        else {
            return Ok(());
        };
        for (name, field) in fields {
            let at = format!("{at}/{name}");
            let known = schema.get("properties").and_then(|known| known.get(name));
            match known.or(schema.get("additionalProperties").filter(|other| other.is_object())) {
                Some(schema) => self.check(schema, field, &at)?,
                None => return Err(format!("{at}: the schema has no such field")),
            }
        }
        Ok(())
    }

    fn referred(&self, reference: &Value) -> &Value {
        let path = reference.as_str().unwrap().strip_prefix('#').unwrap();
        self.document.pointer(path).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }
}

/// Numbers up to `u64::MAX` compared exactly.
trait Exact {
    fn as_i128_lossless(&self) -> Option<i128>;
}

impl Exact for Value {
    fn as_i128_lossless(&self) -> Option<i128> {
        self.as_u64().map(i128::from).or(self.as_i64().map(i128::from))
    }
}

fn type_fits(rule: &Value, value: &Value) -> bool {
    match rule {
        Value::Array(rules) => rules.iter().any(|rule| type_fits(rule, value)),
        _ => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "null" => value.is_null(),
            _ => false,
        },
    }
}

fn format_fits(format: &str, value: &Value) -> bool {
    match (format, value) {
        (_, Value::Null) => true,
        // The document says int64 with minimum 0 for what is a u64: any whole number fits.
        ("int64", value) => value.is_u64() || value.is_i64(),
        ("int32", value) => value.as_u64().is_some_and(|number| number <= u64::from(u32::MAX)),
        ("uuid", Value::String(text)) => text.parse::<crate::Uuid>().is_ok(),
        ("date-time", Value::String(text)) => text.parse::<crate::Timestamp>().is_ok(),
        _ => false,
    }
}
