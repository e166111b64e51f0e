//! Takes a document with `{{ … }}` apart: what is known whole, and entries of which only a part is known before a node fills them in. Pure.

use serde_json::{Map, Value};

use crate::capture::{Expressions, Node, is_template};
use crate::error::Invalid;
use crate::state::NetworkState;

/// Lists whose entries stand alone.
const LISTS: [&[&str]; 3] = [&["interfaces"], &["routes", "config"], &["route-rules", "config"]];

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    /// Everything without holes.
    pub document: Value,
    /// Places in the author's lists of the entries that are left in `document`; empty where all are.
    places: Vec<(&'static [&'static str], Vec<usize>)>,
    /// Entries with holes.
    pub partial: Vec<Partial>,
}

/// An entry, or a section, with holes.
#[derive(Debug)]
pub struct Partial {
    /// As faults call it when it is looked at alone.
    label: String,
    /// As its author calls it.
    place: String,
    whole: Value,
    /// Without what is not known.
    rest: Value,
    /// Keys under which it stands in a document.
    keys: Vec<String>,
    listed: bool,
}

struct Scan<'a> {
    captures: &'a Expressions,
    node: &'a Node,
    holes: bool,
}

impl Scan<'_> {
    /// The value without its holes; None if it is one. A list with a hole in it is not known at all: its other entries would get other numbers.
    fn without_holes(&mut self, value: &Value) -> Result<Option<Value>, Invalid> {
        match value {
            Value::String(text) => {
                let hole = is_template(text, self.captures, self.node)?;
                self.holes |= hole;
                Ok((!hole).then(|| value.clone()))
            }
            Value::Array(list) => {
                let one = |(i, v)| self.without_holes(v).map_err(|e| e.under(&format!("[{i}]")));
                list.iter().enumerate().map(one).collect()
            }
            Value::Object(map) => {
                let mut out = Map::new();
                for (key, value) in map {
                    let value = self.without_holes(value).map_err(|e| e.under(key))?;
                    out.extend(value.map(|v| (key.clone(), v)));
                }
                Ok(Some(Value::Object(out)))
            }
            other => Ok(Some(other.clone())),
        }
    }

    /// None if nothing has to be filled in.
    fn partial(&mut self, value: &Value) -> Result<Option<Value>, Invalid> {
        if !has_braces(value) {
            return Ok(None);
        }
        self.holes = false;
        let rest = self.without_holes(value)?;
        Ok(self.holes.then(|| rest.unwrap_or_default()))
    }
}

/// Every text in it that speaks of the node.
pub fn texts<'v>(value: &'v Value, out: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if text.contains("node.") => out.push(text),
        Value::Array(list) => list.iter().for_each(|v| texts(v, out)),
        Value::Object(map) => map.values().for_each(|v| texts(v, out)),
        _ => {}
    }
}

/// Takes it apart. A template that is wrong in itself is a fault.
pub fn split(mut document: Value, captures: &Expressions, node: &Node) -> Result<Known, Invalid> {
    let mut scan = Scan {
        captures,
        node,
        holes: false,
    };
    let mut known = Known::default();
    for keys in LISTS {
        let pointer = format!("/{}", keys.join("/"));
        let Some(Value::Array(list)) = document.pointer_mut(&pointer) else {
            continue;
        };
        let name = keys.join(".");
        let (mut kept, mut places) = (vec![], vec![]);
        for (i, entry) in std::mem::take(list).into_iter().enumerate() {
            let place = label(&name, i, &entry);
            match scan.partial(&entry).map_err(|e| e.under(&place))? {
                None => {
                    kept.push(entry);
                    places.push(i);
                }
                Some(rest) => known.partial.push(Partial {
                    label: label(&name, 0, &entry),
                    place,
                    rest,
                    whole: entry,
                    keys: keys.iter().map(|k| (*k).to_owned()).collect(),
                    listed: true,
                }),
            }
        }
        *list = kept;
        known.places.push((keys, places));
    }
    sections(&mut document, &mut scan, &mut known)?;
    known.document = document;
    Ok(known)
}

/// Sections that have holes outside of the lists.
fn sections(document: &mut Value, scan: &mut Scan, known: &mut Known) -> Result<(), Invalid> {
    let Value::Object(map) = document else {
        if scan.partial(document)?.is_some() {
            *document = Value::Null;
        }
        return Ok(());
    };
    let keys: Vec<String> = map.keys().cloned().collect();
    for key in keys {
        if key == "interfaces" && map[&key].is_array() {
            continue;
        }
        if let Some(rest) = scan.partial(&map[&key]).map_err(|e| e.under(&key))? {
            let whole = map.remove(&key).unwrap_or_default();
            known.partial.push(Partial {
                label: key.clone(),
                place: key.clone(),
                whole,
                rest,
                keys: vec![key],
                listed: false,
            });
        }
    }
    Ok(())
}

fn label(list: &str, i: usize, entry: &Value) -> String {
    match entry
        .get("name")
        .and_then(Value::as_str)
        .filter(|_| list == "interfaces")
    {
        Some(name) => format!("{list}[{name}]"),
        None => format!("{list}[{i}]"),
    }
}

impl Known {
    /// A fault in `document`, where the author finds it.
    pub fn place(&self, mut fault: Invalid) -> Invalid {
        for (keys, places) in &self.places {
            let prefix = format!("{}[", keys.join("."));
            let Some((number, rest)) = fault.path.strip_prefix(&prefix).and_then(|r| r.split_once(']')) else {
                continue;
            };
            if let Some(place) = number.parse::<usize>().ok().and_then(|i| places.get(i)) {
                fault.path = format!("{prefix}{place}]{rest}");
            }
        }
        fault
    }
}

impl Partial {
    /// What is wrong however its holes are filled.
    pub fn check(&self) -> Result<(), Invalid> {
        let mut rest = self.rest.clone();
        if let (Value::Object(rest), Value::Object(whole)) = (&mut rest, &self.whole) {
            // what an interface may have depends on its type
            if whole.contains_key("type") != rest.contains_key("type") {
                return Ok(());
            }
            if let Some(name) = whole.get("name").filter(|_| self.keys == ["interfaces"]) {
                rest.insert("name".to_owned(), name.clone());
            }
        }
        if rest.is_null() {
            return Ok(());
        }
        let entry = if self.listed { Value::Array(vec![rest]) } else { rest };
        let wrap = |inner: Value, key: &String| Value::Object(Map::from_iter([(key.clone(), inner)]));
        let document = self.keys.iter().rev().fold(entry, wrap);
        let Err(mut fault) = NetworkState::from_json(document) else {
            return Ok(());
        };
        let Some(inside) = fault.path.strip_prefix(&self.label) else {
            return Ok(());
        };
        if has_braces(place_of(&self.whole, &self.rest, inside)) {
            return Ok(());
        }
        fault.path = format!("{}{inside}", self.place);
        Err(fault)
    }
}

/// What a fault is about: the value at its path, or where that is missing, the map that it is missing from.
fn place_of<'v>(mut whole: &'v Value, mut known: &'v Value, mut path: &str) -> &'v Value {
    loop {
        path = path.strip_prefix('.').unwrap_or(path);
        let next = match (whole, known) {
            (Value::Object(map), Value::Object(there)) => {
                let ends = |key: &&String| {
                    let rest = path.strip_prefix(key.as_str());
                    rest.is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']))
                };
                let key = there.keys().filter(ends).max_by_key(|k| k.len());
                key.map(|key| (&map[key], &there[key], &path[key.len()..]))
            }
            (Value::Array(list), Value::Array(there)) => {
                let inner = path.strip_prefix('[').and_then(|r| r.split_once(']'));
                inner.and_then(|(word, rest)| {
                    let named = |v: &Value| v.get("name").and_then(Value::as_str) == Some(word);
                    let at = word.parse().ok().or_else(|| there.iter().position(named))?;
                    Some((list.get(at)?, there.get(at)?, rest))
                })
            }
            _ => None,
        };
        match next {
            Some((inner, there, rest)) => (whole, known, path) = (inner, there, rest),
            None => return whole,
        }
    }
}

/// Whether a string in this text of JSON may have braces of a template: one that is escaped may be any letter.
pub fn may_have_braces(text: &str) -> bool {
    let (mut inside, mut before) = (false, b' ');
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => inside = !inside,
            b'\\' if bytes.next() == Some(b'u') => return true,
            b'{' | b'}' if inside && before == byte => return true,
            _ => {}
        }
        before = byte;
    }
    false
}

/// Braces of a template anywhere in it.
fn has_braces(value: &Value) -> bool {
    match value {
        // most texts have no brace at all, which is quicker to see
        Value::String(text) => text.contains(['{', '}']) && (text.contains("{{") || text.contains("}}")),
        Value::Array(list) => list.iter().any(has_braces),
        Value::Object(map) => map.values().any(has_braces),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_seen_in_strings_only() {
        for (text, want) in [
            (r#"{"a":{"b":{"c":[{}]}}}"#, false),
            (r#"{"a":"{","b":"}"}"#, false),
            (r#"{"a\"{":"\\","b":{"c":{}}}"#, false),
            (r#"{"a":"x {{ y }}"}"#, true),
            (r#"{"a":"y }}"}"#, true),
            (r#"{"a":"\"{{"}"#, true),
            (r#"{"a":"\u007b{"}"#, true),
        ] {
            assert_eq!(may_have_braces(text), want, "{text}");
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(has_braces(&value), want, "{text}");
        }
    }
}
