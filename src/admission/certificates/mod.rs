//! Our own authority and the webhook's certificate: when each is due (`due`), how they are made and read (`issue`), and where they are kept (`keeper`).

mod due;
mod issue;
pub mod keeper;

use jiff::Timestamp;

pub use due::Knobs;
pub use issue::matches;

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// It was made then. The certificate itself says an hour less, for clocks that are behind.
    pub made: Timestamp,
    /// The end.
    pub until: Timestamp,
}

/// What a server shows, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}
