//! A type that is shown but not configured, or an entry whose type is not given yet: its keys are kept as written.

use serde_json::{Map, Value};

/// `type` and everything that is neither base nor IP.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Other {
    /// `type`; empty where none was given.
    pub type_name: String,
    /// The rest of the entry.
    pub keys: Map<String, Value>,
}
