//! The document (stub, being written).
use crate::facts::Facts;
/// The document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkState {}
impl NetworkState {
    /// Renders facts.
    pub fn from_facts(_facts: &Facts) -> Self {
        NetworkState {}
    }
}
