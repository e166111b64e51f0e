//! A fault in an expression or a template, with a caret under it.

use std::fmt;

use crate::error::{ErrorKind, Invalid};

/// Prints three lines: what is wrong, the text, and a caret under the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    kind: ErrorKind,
    message: String,
    /// The line in question, or as much of it as is shown.
    line: String,
    /// Characters before the caret.
    column: usize,
}

/// Characters shown on each side of a fault.
const SHOWN: usize = 80;

impl PolicyError {
    pub(super) fn new(text: &[char], at: usize, message: &str) -> Self {
        let at = at.min(text.len());
        let begin = text[..at].iter().rposition(|c| *c == '\n').map_or(0, |i| i + 1);
        let end = text[at..]
            .iter()
            .position(|c| *c == '\n')
            .map_or(text.len(), |i| at + i);
        let from = begin.max(at.saturating_sub(SHOWN));
        let plain = |c: &char| if c.is_control() || c.is_whitespace() { ' ' } else { *c };
        let line: String = text[from..end.min(at + SHOWN)].iter().map(plain).collect();
        PolicyError {
            kind: ErrorKind::PolicyError,
            // it may quote a word with a line break in it
            message: message.chars().map(|c| plain(&c)).collect(),
            line: line.trim_end().to_owned(),
            column: at - from,
        }
    }

    /// It is a word that means nothing here, rather than a wrong grammar or a search without a find.
    pub(super) fn of_words(self) -> Self {
        PolicyError {
            kind: ErrorKind::InvalidArgument,
            ..self
        }
    }

    /// The same as a fault of the document.
    pub(super) fn of_capture(&self, name: &str) -> Invalid {
        Invalid::of(self.kind, format!("capture.{name}"), self.to_string())
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n| {}\n| {}^", self.message, self.line, ".".repeat(self.column))
    }
}

impl std::error::Error for PolicyError {}

/// Without a path, which is for the caller to put `under`.
impl From<PolicyError> for Invalid {
    fn from(e: PolicyError) -> Self {
        Invalid::of(e.kind, "", e.to_string())
    }
}
