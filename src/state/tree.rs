//! Trees of JSON: laying one over another, and finding what is missing. Pure.

use serde_json::Value;

/// Lays `over` on `base`: maps merge by key, everything else (lists too) replaces.
pub fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    Some(slot) => overlay(slot, value),
                    None => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Puts `value` in place of whatever stands at `path` (keys with slashes between, as `802.1x` holds a dot), in every element of lists on the way.
/// True where something stood there.
pub fn replace(tree: &mut Value, path: &str, value: &Value) -> bool {
    match tree {
        // every element, not only up to the first hit
        Value::Array(list) => {
            list.iter_mut()
                .filter_map(|item| replace(item, path, value).then_some(()))
                .count()
                > 0
        }
        Value::Object(map) => match path.split_once('/') {
            Some((key, rest)) => map.get_mut(key).is_some_and(|below| replace(below, rest, value)),
            None => map
                .get_mut(path)
                .filter(|v| !v.is_null())
                .map(|slot| *slot = value.clone())
                .is_some(),
        },
        _ => false,
    }
}

/// One place where `got` lacks what `want` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// Path such as `bridge.options.stp.enabled`.
    pub path: String,
    /// What was asked for.
    pub want: Value,
    /// What is there; null for nothing.
    pub got: Value,
}

/// Collects where `got` lacks what `want` asks for; keys that `want` leaves out are other people's business.
/// Lists must be equal in length and order.
pub fn missing(want: &Value, got: &Value, path: &str, out: &mut Vec<Missing>) {
    let at = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            for (key, value) in w {
                missing(value, g.get(key).unwrap_or(&Value::Null), &at(key), out);
            }
        }
        (Value::Array(w), Value::Array(g)) if w.len() == g.len() => {
            for (i, (w, g)) in w.iter().zip(g).enumerate() {
                missing(w, g, &format!("{path}[{i}]"), out);
            }
        }
        // what is missing as a whole is missing key by key
        (Value::Object(w), Value::Null) => {
            for (key, value) in w {
                missing(value, &Value::Null, &at(key), out);
            }
        }
        (w, g) if w == g => {}
        (w, g) => out.push(Missing {
            path: path.to_owned(),
            want: w.clone(),
            got: g.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_replace_and_maps_merge() {
        let mut base = json!({"a": {"x": 1, "y": [1, 2]}, "b": 1});
        overlay(&mut base, &json!({"a": {"y": [3]}, "c": 2}));
        assert_eq!(base, json!({"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}));
    }

    #[test]
    fn only_what_is_asked_for_is_missed() {
        let mut out = vec![];
        missing(
            &json!({"a": {"x": 1}, "l": [1]}),
            &json!({"a": {"x": 2, "y": 3}, "l": [1, 2]}),
            "",
            &mut out,
        );
        let paths: Vec<_> = out.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["a.x", "l"]);
    }
}
