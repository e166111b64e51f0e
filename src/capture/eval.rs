//! Runs expressions on trees of JSON.

use serde_json::{Map, Value};

use super::lexer::{Segment, Source, dotted};
use super::parser::{Action, Expression, Input, Right, Target};
use super::{Budget, Captured, PolicyError};

/// What an expression may look at.
pub(super) struct Scope<'a> {
    pub current: &'a Value,
    pub captured: &'a Captured,
}

/// The part of a state that an expression stands for.
pub(super) fn run(expression: &Expression, scope: &Scope, budget: &mut Budget) -> Result<Value, PolicyError> {
    let source = &expression.source;
    let narrowed;
    let input = match &expression.input {
        None => scope.current,
        Some(Input { capture, list }) => {
            let whole = capture_named(source, capture, scope.captured)?;
            match list {
                None => whole,
                Some(target) => {
                    narrowed = keep(source, target, whole)?;
                    &narrowed
                }
            }
        }
    };
    match &expression.action {
        Action::Whole => Ok(input.clone()),
        Action::Keep(target) => keep(source, target, input),
        Action::Filter { target, equal, right } => {
            let wanted = value(source, right, input, scope)?;
            filter(source, target, *equal, right, &wanted, input)
        }
        Action::Replace { target, right } => {
            let new = match right {
                Right::Null => None,
                other => Some(value(source, other, input, scope)?),
            };
            let parsed = matches!(right, Right::Text { .. });
            replace(source, target, New { value: new, parsed }, input, budget)
        }
    }
}

fn capture_named<'v>(source: &Source, name: &Segment, captured: &'v Captured) -> Result<&'v Value, PolicyError> {
    captured
        .state(&name.name)
        .ok_or_else(|| source.fault(name.at, format!("there is no capture '{}'", name.name)))
}

/// What stands right of the operator.
fn value(source: &Source, right: &Right, input: &Value, scope: &Scope) -> Result<Value, PolicyError> {
    match right {
        Right::Text { text, .. } => Ok(Value::String(text.clone())),
        Right::Null => Ok(Value::Null),
        Right::Captured(path) => look_up_captured(source, path, scope.captured).cloned(),
        Right::Input(path) => look_up(source, path, input).cloned(),
    }
}

/// The value at `<name>.<path>` of the captures.
pub(super) fn look_up_captured<'v>(
    source: &Source,
    path: &[Segment],
    captured: &'v Captured,
) -> Result<&'v Value, PolicyError> {
    let state = capture_named(source, &path[0], captured)?;
    look_up(source, &path[1..], state)
}

/// The one value at a path: every list on the way needs an index.
fn look_up<'v>(source: &Source, path: &[Segment], root: &'v Value) -> Result<&'v Value, PolicyError> {
    let mut value = root;
    for (i, segment) in path.iter().enumerate() {
        let place = match i {
            0 => "this".to_owned(),
            i => dotted(&path[..i]),
        };
        let next = match (value, segment.index()) {
            (Value::Array(list), Some(index)) => list.get(index).ok_or_else(|| match list.len() {
                0 => format!("not found: {place} is empty"),
                n => format!("not found: {place} has no entry {index}, the last is {}", n - 1),
            }),
            (Value::Array(list), None) => Err(format!(
                "{place} is a list of {}: write the number of an entry, not '{}'",
                list.len(),
                segment.name
            )),
            (Value::Object(map), _) => map
                .get(&segment.name)
                .ok_or_else(|| format!("not found: {place} has no '{}'", segment.name)),
            _ => Err(format!(
                "not found: {place} is a plain value, without '{}'",
                segment.name
            )),
        };
        value = next.map_err(|message| source.fault(segment.at, message))?;
    }
    Ok(value)
}

/// The entries that a path is about.
fn entries<'v>(source: &Source, target: &Target, input: &'v Value) -> Result<&'v Vec<Value>, PolicyError> {
    let found = target.list.iter().try_fold(input, |value, key| value.get(key));
    found
        .and_then(Value::as_array)
        .ok_or_else(|| source.fault(target.at, format!("not found: there is no {}", target.list.join("."))))
}

/// A state of this list and nothing else.
fn alone(list: &[&str], entries: Vec<Value>) -> Value {
    let wrap = |inner: Value, key: &&str| Value::Object(Map::from_iter([((*key).to_owned(), inner)]));
    list.iter().rev().fold(Value::Array(entries), wrap)
}

fn keep(source: &Source, target: &Target, input: &Value) -> Result<Value, PolicyError> {
    Ok(alone(target.list, entries(source, target, input)?.clone()))
}

/// An index right after the list means one entry; then what follows it.
fn picked(rest: &[Segment]) -> (Option<usize>, &[Segment]) {
    match rest {
        [first, more @ ..] if first.index().is_some() => (first.index(), more),
        _ => (None, rest),
    }
}

fn filter(
    source: &Source,
    target: &Target,
    equal: bool,
    right: &Right,
    wanted: &Value,
    input: &Value,
) -> Result<Value, PolicyError> {
    let (only, path) = picked(&target.rest);
    let mut known = false;
    let mut kept = vec![];
    for (i, entry) in entries(source, target, input)?.iter().enumerate() {
        let mut found = vec![];
        if only.is_none_or(|o| o == i) {
            collect(entry, path, &mut found);
        }
        known |= !found.is_empty();
        if !found.is_empty() && found.iter().any(|v| matches(v, wanted)) == equal {
            kept.push(entry.clone());
        }
    }
    if !kept.is_empty() {
        return Ok(alone(target.list, kept));
    }
    let (list, property) = (target.list.join("."), dotted(&target.rest));
    if !known {
        let message = format!("not found: no entry of {list} has {property}");
        return Err(source.fault(target.rest[0].at, message));
    }
    let at = match right {
        Right::Text { at, .. } => *at,
        Right::Captured(path) | Right::Input(path) => path[0].at,
        Right::Null => target.at,
    };
    let than = if equal { "equal to" } else { "other than" };
    let message = format!("not found: no entry of {list} has {property} {than} {}", short(wanted));
    Err(source.fault(at, message))
}

/// A value in an error.
fn short(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "a map".to_owned(),
        scalar => format!("'{}'", plain(scalar).unwrap_or_default()),
    }
}

/// Everything at a path, in every element of the lists on the way. Null is nothing.
fn collect<'v>(value: &'v Value, path: &[Segment], out: &mut Vec<&'v Value>) {
    let Some((first, more)) = path.split_first() else {
        out.extend(Some(value).filter(|v| !v.is_null()));
        return;
    };
    match (value, first.index()) {
        (Value::Array(list), Some(index)) => list.get(index).into_iter().for_each(|v| collect(v, more, out)),
        (Value::Array(list), None) => list.iter().for_each(|v| collect(v, path, out)),
        (Value::Object(map), _) => map.get(&first.name).into_iter().for_each(|v| collect(v, more, out)),
        _ => {}
    }
}

/// Equal as texts; a list matches when it is that, or when one of its elements matches.
fn matches(value: &Value, wanted: &Value) -> bool {
    let within = || matches!(value, Value::Array(list) if list.iter().any(|v| matches(v, wanted)));
    same(value, wanted) || within()
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        _ => plain(a).is_some() && plain(a) == plain(b),
    }
}

/// A text, number or boolean as text.
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What `:=` sets; without a value the property goes away.
struct New {
    value: Option<Value>,
    /// A word of the expression: it takes the type of what it replaces.
    parsed: bool,
}

fn replace(
    source: &Source,
    target: &Target,
    new: New,
    input: &Value,
    budget: &mut Budget,
) -> Result<Value, PolicyError> {
    let (only, path) = picked(&target.rest);
    let count = entries(source, target, input)?.len();
    if only.is_some_and(|i| i >= count) {
        let message = format!("not found: {} has {count} entries", target.list.join("."));
        return Err(source.fault(target.rest[0].at, message));
    }
    let spent = new.value.iter().try_for_each(|v| budget.spend(count, v));
    spent.map_err(|message| source.fault(target.at, message))?;
    let mut state = input.clone();
    let list = target.list.iter().try_fold(&mut state, |value, key| value.get_mut(key));
    let entries = list.and_then(Value::as_array_mut).into_iter().flatten();
    for (_, entry) in entries.enumerate().filter(|(i, _)| only.is_none_or(|o| o == *i)) {
        let below = "nothing can be set here: what is above it is a plain value";
        set(entry, path, &new).map_err(|at| source.fault(at, below))?;
    }
    Ok(state)
}

/// Sets what is at the path, with the maps on the way. The error is the column of what would be below a plain value.
fn set(slot: &mut Value, path: &[Segment], new: &New) -> Result<(), usize> {
    let Some((first, more)) = path.split_first() else {
        *slot = fit(new, slot).unwrap_or_default();
        return Ok(());
    };
    let removes = more.is_empty() && new.value.is_none();
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    match (slot, first.index()) {
        (Value::Array(list), Some(index)) if removes && index < list.len() => {
            list.remove(index);
            Ok(())
        }
        (Value::Array(list), Some(index)) => list.get_mut(index).map_or(Ok(()), |v| set(v, more, new)),
        (Value::Array(list), None) => list.iter_mut().try_for_each(|v| set(v, path, new)),
        (Value::Object(map), _) if more.is_empty() => {
            match fit(new, map.get(&first.name).unwrap_or(&Value::Null)) {
                Some(value) => map.insert(first.name.clone(), value),
                None => map.remove(&first.name),
            };
            Ok(())
        }
        (Value::Object(map), _) => match (new.value.is_none(), map.get_mut(&first.name)) {
            (_, Some(inner)) => set(inner, more, new),
            (true, None) => Ok(()),
            (false, None) => set(map.entry(first.name.clone()).or_insert(Value::Null), more, new),
        },
        _ => Err(first.at),
    }
}

/// The new value in the type of the old one, where it can be read as such.
fn fit(new: &New, old: &Value) -> Option<Value> {
    let value = new.value.clone()?;
    let text = match &value {
        Value::String(text) if new.parsed => text.clone(),
        _ => return Some(value),
    };
    let typed = match old {
        Value::Bool(_) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Some(Value::Bool(true)),
            "false" | "no" | "off" | "n" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        Value::Number(_) => text.parse::<i64>().ok().map(Value::from),
        _ => None,
    };
    Some(typed.unwrap_or(value))
}
