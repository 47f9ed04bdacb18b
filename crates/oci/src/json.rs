//! JSON whose bytes depend on the value alone: keys sorted, no white space, no floats.

use serde::Serialize;
use serde_json::Value;

/// OCI documents are hashed, so equal values must have equal bytes; `HashMap`s of annotations
/// would otherwise come in any order.
///
/// # Errors
/// When the value has no JSON form, such as a map with other keys than strings.
pub fn canonical(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    serde_json::to_vec(&value)
}

/// A string member of an object.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
