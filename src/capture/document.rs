//! The documents that may hold captures: `capture` beside `desired`, a NodeNetworkConfigurationPolicy, or a plain state without any.

use serde_json::{Map, Value, json};

use super::{Captured, Expressions, Node, check, evaluate, fill};
use crate::error::Invalid;

/// A wish that may depend on the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Names and expressions.
    pub capture: Expressions,
    /// The state wanted, with its templates.
    pub desired: Value,
    /// The state to take captures from; the node's own where left out.
    pub current: Option<Value>,
    /// What the author calls the place of `desired`: `spec.desiredState`, `desired`, or nothing where it is the document.
    place: &'static str,
}

/// The names of a policy that is not wrapped for Kubernetes.
const KEYS: [&str; 4] = ["capture", "desired", "desiredState", "current"];

impl Policy {
    /// Reads any of the three.
    pub fn from_json(document: Value) -> Result<Self, Invalid> {
        let mut map = match document {
            Value::Object(map) => map,
            desired => {
                return Ok(Policy {
                    desired,
                    ..Policy::default()
                });
            }
        };
        if map.get("kind").and_then(Value::as_str) == Some("NodeNetworkConfigurationPolicy") {
            let mut spec = match map.remove("spec") {
                Some(Value::Object(spec)) => spec,
                None | Some(Value::Null) => Map::new(),
                Some(_) => return Err(Invalid::new("spec", "a map is expected")),
            };
            return Ok(Policy {
                capture: expressions(spec.remove("capture")).map_err(|e| e.under("spec"))?,
                desired: spec.remove("desiredState").unwrap_or_else(|| json!({})),
                current: None,
                place: "spec.desiredState",
            });
        }
        if !KEYS.iter().any(|key| map.contains_key(*key)) {
            let desired = Value::Object(map);
            return Ok(Policy {
                desired,
                ..Policy::default()
            });
        }
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(Invalid::new(key, format!("unknown key '{key}' in a policy")));
        }
        let place = match (map.contains_key("desired"), map.contains_key("desiredState")) {
            (true, true) => {
                return Err(Invalid::new(
                    "desired",
                    "desiredState says the same; only one can stand here",
                ));
            }
            (false, true) => "desiredState",
            _ => "desired",
        };
        Ok(Policy {
            capture: expressions(map.remove("capture"))?,
            desired: map.remove(place).unwrap_or_else(|| json!({})),
            current: map.remove("current"),
            place,
        })
    }

    /// Faults that can be told without looking at a state.
    pub fn check(&self, node: &Node) -> Result<(), Invalid> {
        check(&self.capture, node).map_err(|e| self.place_capture(e))
    }

    /// What the captures find in this current state, or in the one that the policy brings along.
    pub fn evaluate(&self, current: &Value, node: &Node) -> Result<Captured, Invalid> {
        let current = self.current.as_ref().unwrap_or(current);
        evaluate(&self.capture, current, node).map_err(|e| self.place_capture(e))
    }

    /// The desired state, with what the captures find.
    pub fn render(&self, current: &Value, node: &Node) -> Result<Value, Invalid> {
        self.render_with(&self.evaluate(current, node)?, node)
    }

    /// The desired state, with what was captured before.
    pub fn render_with(&self, captured: &Captured, node: &Node) -> Result<Value, Invalid> {
        fill(&self.desired, captured, node).map_err(|e| self.place(e))
    }

    /// A fault in `desired`, where the author finds it.
    pub fn place(&self, fault: Invalid) -> Invalid {
        if self.place.is_empty() {
            fault
        } else {
            fault.under(self.place)
        }
    }

    fn place_capture(&self, fault: Invalid) -> Invalid {
        match self.place.split_once('.') {
            Some((outer, _)) => fault.under(outer),
            None => fault,
        }
    }
}

fn expressions(value: Option<Value>) -> Result<Expressions, Invalid> {
    let map = match value {
        None | Some(Value::Null) => return Ok(Expressions::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Invalid::new("capture", "a map of names and expressions is expected")),
    };
    let one = |(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Null => Ok((name, String::new())),
        _ => Err(Invalid::new(format!("capture.{name}"), "an expression is a text")),
    };
    map.into_iter().map(one).collect()
}
