//! The errors a user sees: where in their text, what was tried, and the cause as source.

use std::fmt::Write as _;

/// A fault in what the user wrote, found before anything was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Invalid {
    /// Path in the user's text, such as `interfaces[bond0].link-aggregation.mode`; `document` for the whole.
    pub path: String,
    /// One sentence.
    pub reason: String,
}

impl Invalid {
    /// A fault at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// The same fault seen from one level further out: `prefix.path`.
    pub fn under(mut self, prefix: &str) -> Self {
        self.path = if self.path.is_empty() {
            prefix.to_owned()
        } else if self.path.starts_with('[') {
            format!("{prefix}{}", self.path)
        } else {
            format!("{prefix}.{}", self.path)
        };
        self
    }
}

/// An error and all its sources on one line: `saving profile br0: property missing`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        // some libraries repeat the source inside their own text
        if !text.ends_with(&message) {
            let _ = write!(text, ": {message}");
        }
        next = source.source();
    }
    text
}
