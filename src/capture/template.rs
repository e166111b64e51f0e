//! `{{ capture.… }}` and `{{ node.… }}` in the strings of a desired state.

use std::ops::Range;

use serde_json::Value;

use super::lexer::{Kind, Source, Token, tokens};
use super::{Budget, Captured, Node, PolicyError, eval, parser};
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
        let key = what
            .strip_prefix(prefix)
            .and_then(|r| r.strip_suffix(']'))
            .map(|k| k.trim().trim_matches(['"', '\'']));
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
        // a document without captures may hold any braces, as it always could
        let strict = !self.captured.is_empty();
        let mut out = String::new();
        let mut at = 0;
        while let Some(c) = source.get(at) {
            if (strict && source.says(at, "{{")) || begins(&source, at) {
                let hole = hole(&source, at)?;
                let inner = hole.inner.start;
                let value = self.look_up(&source, hole.inner)?;
                if at == 0 && hole.end == source.len() {
                    return Ok(value);
                }
                let plain = eval::plain(&value).ok_or_else(|| {
                    let message = "only a text, a number or a boolean can be part of a longer text";
                    source.fault(inner, message)
                })?;
                out.push_str(&plain);
                at = hole.end;
            } else if strict && source.says(at, "}}") {
                return Err(source.fault(at, "'}}' without '{{' before it"));
            } else {
                out.push(c);
                at += 1;
            }
        }
        Ok(Value::String(out))
    }

    fn look_up(&mut self, source: &Source, inner: Range<usize>) -> Result<Value, PolicyError> {
        let at = inner.start;
        if source.says(at, "node.") {
            return node_text(source, inner, self.node).map(Value::String);
        }
        let tokens = tokens(source, inner, self.node)?;
        let path = match &tokens[..] {
            [
                Token {
                    kind: Kind::Path(path), ..
                },
            ] => parser::captured(path),
            _ => None,
        };
        let path = path.ok_or_else(|| source.fault(at, "'capture.<name>.…' or 'node.…' is expected here"))?;
        let value = eval::look_up_captured(source, path, self.captured)?;
        self.budget
            .spend(1, value)
            .map_err(|message| source.fault(at, message))?;
        Ok(value.clone())
    }
}
