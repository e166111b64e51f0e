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

/// The first key of a path and what follows. `peers[public-key]` is a list whose items are told apart by `public-key`.
fn step(path: &str) -> (&str, Option<&str>, Option<&str>) {
    let (first, rest) = match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    match first.strip_suffix(']').and_then(|f| f.split_once('[')) {
        Some((key, id)) => (key, Some(id), rest),
        None => (first, None, rest),
    }
}

/// Puts `value` in place of whatever stands at `path` (keys with slashes between, as `802.1x` holds a dot), in every item of lists on the way.
pub fn replace(tree: &mut Value, path: &str, value: &Value) {
    let (key, _, rest) = step(path);
    let slot = tree.get_mut(key).filter(|v| !v.is_null());
    match (slot, rest) {
        (Some(Value::Array(list)), Some(rest)) => list.iter_mut().for_each(|item| replace(item, rest, value)),
        (Some(below), Some(rest)) => replace(below, rest, value),
        (Some(slot), None) => *slot = value.clone(),
        (None, _) => {}
    }
}

/// Where `placeholder` stands at `path` in `tree`, puts what `stored` has at the same place; items of lists are matched as the path says.
/// The place where nothing is stored is the error. (Of a node that is known from a document only, the placeholder is all that is stored.)
pub fn restore(tree: &mut Value, stored: &Value, path: &str, placeholder: &str) -> Result<(), String> {
    let (key, id, rest) = step(path);
    let Some(slot) = tree.get_mut(key) else { return Ok(()) };
    let stored = stored.get(key).unwrap_or(&Value::Null);
    let at = |below: String| match below.as_str() {
        "" => key.to_owned(),
        below if below.starts_with('[') => format!("{key}{below}"),
        below => format!("{key}.{below}"),
    };
    match (slot, rest) {
        (Value::Array(list), Some(rest)) => {
            for (i, item) in list.iter_mut().enumerate() {
                let same =
                    |other: &&Value| id.is_some_and(|id| other.get(id).is_some() && other.get(id) == item.get(id));
                let twin = stored.as_array().and_then(|l| l.iter().find(same)).cloned();
                restore(item, &twin.unwrap_or_default(), rest, placeholder)
                    .map_err(|below| at(format!("[{i}].{below}")))?;
            }
            Ok(())
        }
        (below, Some(rest)) => restore(below, stored, rest, placeholder).map_err(at),
        (slot, None) if slot.as_str() == Some(placeholder) => match stored.as_str() {
            Some(_) => {
                *slot = stored.clone();
                Ok(())
            }
            None => Err(key.to_owned()),
        },
        _ => Ok(()),
    }
}

/// Hides what stands at `path` in both trees, yet leaves them different where they were. Items of lists are compared by position.
pub fn mask(want: &mut Value, got: &mut Value, path: &str, placeholder: &str) {
    let (key, _, rest) = step(path);
    let (mut none, mut nothing) = (Value::Null, Value::Null);
    let w = want.get_mut(key).unwrap_or(&mut none);
    let g = got.get_mut(key).unwrap_or(&mut nothing);
    match (w, g, rest) {
        (Value::Array(w), Value::Array(g), Some(rest)) => {
            for i in 0..w.len().max(g.len()) {
                let (mut none, mut nothing) = (Value::Null, Value::Null);
                mask(
                    w.get_mut(i).unwrap_or(&mut none),
                    g.get_mut(i).unwrap_or(&mut nothing),
                    rest,
                    placeholder,
                );
            }
        }
        (Value::Array(list), other, Some(rest)) | (other, Value::Array(list), Some(rest)) => {
            list.iter_mut().for_each(|item| mask(item, other, rest, placeholder));
        }
        (w, g, Some(rest)) => mask(w, g, rest, placeholder),
        (w, g, None) => {
            let same = w == g;
            if !w.is_null() {
                *w = placeholder.into();
            }
            if !g.is_null() {
                *g = if same { placeholder } else { "another" }.into();
            }
        }
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

    #[test]
    fn secrets_are_hidden_everywhere_and_stay_different() {
        let path = "w/peers[id]/psk";
        let mut want = json!({"w": {"peers": [{"id": 1, "psk": "a"}, {"id": 2, "psk": "b"}, {"id": 3}]}});
        let mut got = json!({"w": {"peers": [{"id": 1, "psk": "a"}, {"id": 2, "psk": "c"}, {"id": 3, "psk": "d"}]}});
        mask(&mut want, &mut got, path, "*");
        assert_eq!(
            want,
            json!({"w": {"peers": [{"id": 1, "psk": "*"}, {"id": 2, "psk": "*"}, {"id": 3}]}})
        );
        assert_eq!(got["w"]["peers"][0]["psk"], "*");
        assert_eq!(got["w"]["peers"][1]["psk"], "another");
        assert_eq!(got["w"]["peers"][2]["psk"], "another");
        let mut alone = json!({"w": {"peers": [{"psk": "a"}]}});
        mask(&mut alone, &mut json!({}), path, "*");
        assert_eq!(alone["w"]["peers"][0]["psk"], "*");
    }

    #[test]
    fn a_placeholder_is_what_is_stored_for_the_same_item() {
        let stored = json!({"w": {"key": "k", "peers": [{"id": 1, "psk": "a"}, {"id": 2, "psk": "b"}]}});
        let mut wish = json!({"w": {"key": "*", "peers": [{"id": 2, "psk": "*"}, {"id": 1, "psk": "own"}]}});
        restore(&mut wish, &stored, "w/key", "*").unwrap();
        restore(&mut wish, &stored, "w/peers[id]/psk", "*").unwrap();
        assert_eq!(
            wish,
            json!({"w": {"key": "k", "peers": [{"id": 2, "psk": "b"}, {"id": 1, "psk": "own"}]}})
        );
        let mut unknown = json!({"w": {"peers": [{"id": 3, "psk": "*"}]}});
        assert_eq!(
            restore(&mut unknown, &stored, "w/peers[id]/psk", "*").unwrap_err(),
            "w.peers[0].psk"
        );
    }
}
