//! Decides what to do: desired over current gives a `Plan`, a value that the host only carries out. Pure.

use crate::error::Invalid;
use crate::host::{Observation, Step};
use crate::state::NetworkState;

/// Everything that will happen to this node, decided before anything happens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Steps in waves: a wave starts when all of the one before are answered.
    pub waves: Vec<Vec<Step>>,
    /// The difference, one line a property, secrets hidden.
    pub lines: Vec<String>,
    /// Names of the interfaces it touches.
    pub touched: Vec<String>,
    /// Things left out or changed for a reason the user should know.
    pub warnings: Vec<String>,
    /// What must hold afterwards.
    pub expect: NetworkState,
}

impl Plan {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }
}

/// Decides.
pub fn plan(_desired: &NetworkState, _seen: &Observation) -> Result<Plan, Invalid> {
    unimplemented!()
}
