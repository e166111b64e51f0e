//! The errors a user sees: where in their text, what was tried, and the cause as source.

use std::fmt::Write as _;

/// What sort of fault it is, in the words that scripts look for in front of a message (`InvalidArgument: …`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The document is wrong.
    #[default]
    InvalidArgument,
    /// NetworkManager, the kernel or Open vSwitch did not do as they were told.
    PluginFailure,
    /// A fault of ours.
    Bug,
    /// After applying, the node is not what was asked for.
    VerificationError,
    /// It makes sense but cannot be done by this program.
    NotImplementedError,
    /// This node, or NetworkManager as such, cannot do it.
    NotSupportedError,
    /// The kernel rounded a number.
    KernelIntegerRoundedError,
    /// Something must be installed or upgraded first.
    DependencyError,
    /// A capture or a template is wrong.
    PolicyError,
    /// We may not.
    PermissionError,
    /// A virtual function has not come up.
    SrIovVfNotFound,
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // each is called as scripts know it
        write!(f, "{self:?}")
    }
}

/// A fault in what the user wrote, found before anything was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Invalid {
    /// Its sort.
    pub kind: ErrorKind,
    /// Path in the user's text, such as `interfaces[bond0].link-aggregation.mode`; `document` for the whole.
    pub path: String,
    /// One sentence.
    pub reason: String,
}

impl Invalid {
    /// A wrong document at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid::of(ErrorKind::InvalidArgument, path, reason)
    }

    /// A fault of this kind at `path`.
    pub fn of(kind: ErrorKind, path: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid {
            kind,
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

/// What went wrong while a document was carried out, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// Its sort.
    pub kind: ErrorKind,
    /// One sentence.
    pub reason: String,
}

/// Why the host could not do it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A D-Bus call failed.
    #[error("{tried}")]
    Dbus {
        /// What we were doing: `saving profile br0 of br0`.
        tried: String,
        /// What sort of fault the bus's answer is.
        kind: ErrorKind,
        /// The bus's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A netlink request failed.
    #[error("{tried}")]
    Kernel {
        /// What we were doing.
        tried: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint of somebody else is in force.
    #[error("another NetworkManager checkpoint is active ({path}); its owner must commit or roll it back first")]
    ForeignCheckpoint {
        /// D-Bus object path.
        path: String,
    },
    /// Something must be installed or started first.
    #[error("{0}")]
    Missing(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl HostError {
    /// What sort of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            HostError::Dbus { kind, .. } => *kind,
            HostError::Missing(_) => ErrorKind::DependencyError,
            HostError::Kernel { .. } | HostError::ForeignCheckpoint { .. } | HostError::Other(_) => {
                ErrorKind::PluginFailure
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_as_scripts_know_them() {
        let fault = Invalid::of(ErrorKind::SrIovVfNotFound, "interfaces[eth1v7]", "it is not there");
        assert_eq!(
            format!("{}: {fault}", fault.kind),
            "SrIovVfNotFound: interfaces[eth1v7]: it is not there"
        );
        assert_eq!(Invalid::new("a", "b").under("c").kind.to_string(), "InvalidArgument");
    }
}
