//! `{{ capture.… }}` and `{{ node.… }}` in the strings of a desired state.

use std::ops::Range;

use serde_json::Value;

use super::lexer::{Kind, Segment, Source, Token, tokens};
use super::{Budget, Captured, Expressions, Node, PolicyError, eval, parser};
use crate::error::Invalid;

/// A `{{ … }}` in a text.
pub(super) struct Hole {
    /// What is between the braces, without blanks.
    pub inner: Range<usize>,
    /// Where the text goes on.
    pub end: usize,
}

/// A hole that is surely meant for us. Other people's braces (of a script, of JSON) look different.
pub(super) fn begins(source: &Source, at: usize) -> bool {
    let ours = || {
        let inner = source.trimmed(at + 2..source.len()).start;
        source.says(inner, "capture.") || source.says(inner, "node.")
    };
    source.says(at, "{{") && ours()
}

/// The hole that begins at `at`, where `{{` stands.
pub(super) fn hole(source: &Source, at: usize) -> Result<Hole, PolicyError> {
    let close = source
        .find(at + 2..source.len(), "}}")
        .ok_or_else(|| source.fault(at, "'{{' is opened here and not closed"))?;
    if let Some(again) = source.find(at + 2..close, "{{") {
        return Err(source.fault(again, "'{{' inside '{{'"));
    }
    Ok(Hole {
        inner: source.trimmed(at + 2..close),
        end: close + 2,
    })
}

/// A key without quotes and blanks.
pub(super) fn bare(key: &str) -> &str {
    key.trim().trim_matches(['"', '\''])
}

/// What `node.name`, `node.labels["k"]` or `node.annotations["k"]` stands for.
pub(super) fn node_text(source: &Source, inner: Range<usize>, node: &Node) -> Result<String, PolicyError> {
    let at = inner.start;
    let what = source.text(inner);
    if what == "node.name" {
        return Ok(node.name.clone());
    }
    for (prefix, map, word) in [
        ("node.labels[", &node.labels, "label"),
        ("node.annotations[", &node.annotations, "annotation"),
    ] {
        let key = what.strip_prefix(prefix).and_then(|r| r.strip_suffix(']')).map(bare);
        if let Some(key) = key {
            let missing = || source.fault(at + prefix.len(), format!("node {} has no {word} '{key}'", node.name));
            return map.get(key).cloned().ok_or_else(missing);
        }
    }
    if what.starts_with("capture.") {
        return Err(source.fault(at, "in an expression a capture stands without braces and quotes"));
    }
    let known = "none of node.name, node.labels[\"…\"], node.annotations[\"…\"]";
    Err(source.fault(at, format!("'{{{{ {what} }}}}' is {known}")))
}

/// A part of a text.
enum Piece {
    /// As it is.
    Text(Range<usize>),
    /// What is between the braces.
    Hole(Range<usize>),
}

/// Takes a text apart. A document without captures (not `strict`) may hold any braces, as it always could.
fn pieces(source: &Source, strict: bool) -> Result<Vec<Piece>, PolicyError> {
    let mut pieces = vec![];
    let (mut from, mut at) = (0, 0);
    while at < source.len() {
        if (strict && source.says(at, "{{")) || begins(source, at) {
            let hole = hole(source, at)?;
            if from < at {
                pieces.push(Piece::Text(from..at));
            }
            pieces.push(Piece::Hole(hole.inner));
            at = hole.end;
            from = at;
        } else if strict && source.says(at, "}}") {
            return Err(source.fault(at, "'}}' without '{{' before it"));
        } else {
            at += 1;
        }
    }
    if from < at {
        pieces.push(Piece::Text(from..at));
    }
    Ok(pieces)
}

/// The path behind `capture.` in a hole; at least the name.
fn captured_path(source: &Source, inner: Range<usize>, node: &Node) -> Result<Vec<Segment>, PolicyError> {
    let at = inner.start;
    let tokens = tokens(source, inner, node)?;
    let path = match &tokens[..] {
        [
            Token {
                kind: Kind::Path(path), ..
            },
        ] => parser::captured(path),
        _ => None,
    };
    let path = path.ok_or_else(|| source.fault(at, "'capture.<name>.…' or 'node.…' is expected here"))?;
    Ok(path.to_vec())
}

/// Whether the text has holes. Each must be well formed and name something that there is.
pub(super) fn has_holes(text: &str, captures: &Expressions, node: &Node) -> Result<bool, PolicyError> {
    let source = Source::new(text);
    let mut any = false;
    for piece in pieces(&source, !captures.is_empty())? {
        let Piece::Hole(inner) = piece else { continue };
        any = true;
        if source.says(inner.start, "node.") {
            node_text(&source, inner, node)?;
            continue;
        }
        let path = captured_path(&source, inner, node)?;
        if !captures.contains_key(&path[0].name) {
            return Err(source.fault(path[0].at, format!("there is no capture '{}'", path[0].name)));
        }
    }
    Ok(any)
}

/// What templates are filled from.
pub(super) struct Filler<'a> {
    pub captured: &'a Captured,
    pub node: &'a Node,
    pub budget: Budget,
}

impl Filler<'_> {
    /// A copy with every string filled in; the error names the path.
    pub fn fill(&mut self, value: &Value) -> Result<Value, Invalid> {
        match value {
            Value::String(text) if text.contains("{{") || text.contains("}}") => Ok(self.string(text)?),
            Value::Array(list) => {
                let one = |(i, v)| self.fill(v).map_err(|e| e.under(&format!("[{i}]")));
                list.iter().enumerate().map(one).collect()
            }
            Value::Object(map) => {
                let one = |(key, v): (&String, &Value)| Ok((key.clone(), self.fill(v).map_err(|e| e.under(key))?));
                map.iter().map(one).collect()
            }
            other => Ok(other.clone()),
        }
    }

    /// A string that is one hole takes the type of what fills it.
    fn string(&mut self, text: &str) -> Result<Value, PolicyError> {
        let source = Source::new(text);
        let pieces = pieces(&source, !self.captured.is_empty())?;
        if let [Piece::Hole(inner)] = &pieces[..] {
            return self.look_up(&source, inner.clone());
        }
        let mut out = String::new();
        for piece in pieces {
            let inner = match piece {
                Piece::Text(range) => {
                    out.push_str(&source.text(range));
                    continue;
                }
                Piece::Hole(inner) => inner,
            };
            let at = inner.start;
            let value = self.look_up(&source, inner)?;
            let plain = eval::plain(&value).ok_or_else(|| {
                let message = "only a text, a number or a boolean can be part of a longer text";
                source.fault(at, message)
            })?;
            out.push_str(&plain);
        }
        Ok(Value::String(out))
    }

    fn look_up(&mut self, source: &Source, inner: Range<usize>) -> Result<Value, PolicyError> {
        let at = inner.start;
        if source.says(at, "node.") {
            return node_text(source, inner, self.node).map(Value::String);
        }
        let path = captured_path(source, inner, self.node)?;
        let value = eval::look_up_captured(source, &path, self.captured)?;
        self.budget
            .spend(1, value)
            .map_err(|message| source.fault(at, message))?;
        Ok(value.clone())
    }
}
