//! The capture language of nmpolicy: `capture` names parts of the state as it is, `{{ capture.… }}` puts them into the state that is wanted.
//! In go expressions, the current state as JSON and the node's labels; out come parts of the state, and a desired state that is filled in.
//! An expression is text → tokens (`lexer`) → what to do (`parser`) → a part of the state (`eval`); `template` fills. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Invalid;

mod document;
mod eval;
mod fault;
mod lexer;
mod parser;
mod template;

pub use document::Policy;
pub use fault::PolicyError;
use parser::Expression;

/// Names and their expressions, as in `spec.capture`.
pub type Expressions = BTreeMap<String, String>;

/// What templates may say of the node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`
    pub annotations: BTreeMap<String, String>,
}

/// Bytes that captures and fillings may grow to together: each may repeat what others found.
struct Budget(usize);

impl Budget {
    const BYTES: usize = 256 << 20;

    fn spend(&mut self, times: usize, value: &Value) -> Result<(), String> {
        match self.0.checked_sub(weight(value).saturating_mul(times)) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(format!("captures grow to more than {} MiB", Self::BYTES >> 20)),
        }
    }
}

fn weight(value: &Value) -> usize {
    let below = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(k, v)| 32 + k.len() + weight(v)).sum(),
    };
    size_of::<Value>() + below
}

/// What captures found, by name. In JSON: `{<name>: {state: …, metaInfo: {time, version}}}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Captured(BTreeMap<String, Found>);

/// What one capture found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Found {
    state: Value,
    #[serde(rename = "metaInfo", default)]
    about: About,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct About {
    /// RFC 3339.
    time: String,
    /// Of this form.
    version: String,
    /// What it was found with.
    #[serde(skip_serializing_if = "Option::is_none")]
    expression: Option<String>,
}

impl Default for About {
    fn default() -> Self {
        About {
            time: String::new(),
            version: "0".to_owned(),
            expression: None,
        }
    }
}

impl Captured {
    /// Reads what `to_json` wrote; `{}` and null are no captures.
    pub fn from_json(value: Value) -> Result<Self, Invalid> {
        let read = Option::<Captured>::deserialize(value).map(Option::unwrap_or_default);
        read.map_err(|e| Invalid::new("document", format!("these are no captured states: {e}")))
    }

    /// The form in which they are kept.
    pub fn to_json(&self) -> Value {
        // maps with texts as keys can always be written
        serde_json::to_value(self).unwrap_or_default()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part of the state that goes by this name.
    pub fn state(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(|found| &found.state)
    }

    /// Notes when they were found (RFC 3339).
    pub fn at(mut self, time: &str) -> Self {
        self.0.values_mut().for_each(|f| time.clone_into(&mut f.about.time));
        self
    }

    /// When they were found; empty where it was not noted.
    pub fn time(&self) -> &str {
        self.0.values().next().map_or("", |found| &found.about.time)
    }

    /// Notes what they were found with.
    pub fn of(mut self, expressions: &Expressions) -> Self {
        for (name, found) in &mut self.0 {
            found.about.expression = expressions.get(name).cloned();
        }
        self
    }

    /// They were found with these very expressions; where that was not noted, at least the names are the same.
    pub fn answers(&self, expressions: &Expressions) -> bool {
        let same = |(name, found): (&String, &Found)| match (expressions.get(name), &found.about.expression) {
            (Some(text), Some(noted)) => text == noted,
            (text, _) => text.is_some(),
        };
        self.0.len() == expressions.len() && self.0.iter().all(same)
    }

    /// Another program found them: those of ours are noted with their expressions.
    pub fn is_foreign(&self) -> bool {
        self.0.values().all(|found| found.about.expression.is_none())
    }
}

/// Parses and sorts, so that each capture comes after those that it names.
fn sorted<'c>(captures: &'c Expressions, node: &Node) -> Result<Vec<(&'c str, Expression)>, Invalid> {
    let mut parsed = BTreeMap::new();
    for (name, text) in captures {
        let expression = Expression::parse(text, node).map_err(|e| e.of_capture(name))?;
        parsed.insert(name.as_str(), expression);
    }
    let mut order = vec![];
    let mut done = BTreeSet::new();
    for root in parsed.keys() {
        // captures on the way, each with how many of its parents were looked at
        let mut open = vec![(*root, 0)];
        let mut way = BTreeSet::from([*root]);
        while let Some((name, seen)) = open.last_mut() {
            let name = *name;
            let expression = &parsed[name];
            let fault = |at, message| expression.source.fault(at, message);
            let Some(parent) = expression.parents().nth(*seen).filter(|_| !done.contains(name)) else {
                order.extend(done.insert(name).then_some(name));
                way.remove(name);
                open.pop();
                continue;
            };
            let Some((key, _)) = parsed.get_key_value(parent.name.as_str()) else {
                return Err(fault(parent.at, format!("there is no capture '{}'", parent.name)).of_capture(name));
            };
            if way.contains(key) {
                let ring = open.iter().map(|(n, _)| *n).skip_while(|n| n != key).chain([*key]);
                let ring = ring.collect::<Vec<_>>().join(" -> ");
                return Err(fault(parent.at, format!("captures go in a circle: {ring}"))
                    .of_words()
                    .of_capture(name));
            }
            *seen += 1;
            way.insert(key);
            open.push((key, 0));
        }
    }
    Ok(order.into_iter().filter_map(|name| parsed.remove_entry(name)).collect())
}

/// Faults that can be told without looking at a state: wrong text, unknown names, circles.
pub fn check(captures: &Expressions, node: &Node) -> Result<(), Invalid> {
    sorted(captures, node).map(|_| ())
}

/// Runs every capture on the current state. The error's path is `capture.<name>`, its reason has three lines.
pub fn evaluate(captures: &Expressions, current: &Value, node: &Node) -> Result<Captured, Invalid> {
    let mut captured = Captured::default();
    let mut budget = Budget(Budget::BYTES);
    for (name, expression) in sorted(captures, node)? {
        let scope = eval::Scope {
            current,
            captured: &captured,
        };
        let state = eval::run(&expression, &scope, &mut budget).map_err(|e| e.of_capture(name))?;
        budget
            .spend(1, &state)
            .map_err(|message| Invalid::new(format!("capture.{name}"), message))?;
        let about = About::default();
        captured.0.insert(name.to_owned(), Found { state, about });
    }
    Ok(captured)
}

/// A copy of a desired state in which every template is filled in; keys are left as they are.
pub fn fill(desired: &Value, captured: &Captured, node: &Node) -> Result<Value, Invalid> {
    let mut filler = template::Filler {
        captured,
        node,
        budget: Budget(Budget::BYTES),
    };
    filler.fill(desired)
}

/// Whether a text of a desired state is filled in on the node. What is wrong with its templates, or with names that they use, is a fault.
pub fn is_template(text: &str, captures: &Expressions, node: &Node) -> Result<bool, Invalid> {
    let braces = text.contains("{{") || text.contains("}}");
    Ok(braces && template::has_holes(text, captures, node)?)
}

impl Node {
    /// A node that has every label and annotation that these texts ask for: what holds for it may hold for some node.
    pub fn any<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        let mut node = Node {
            name: "node".to_owned(),
            ..Node::default()
        };
        for text in texts {
            for (prefix, map) in [
                ("node.labels[", &mut node.labels),
                ("node.annotations[", &mut node.annotations),
            ] {
                let keys = text.split(prefix).skip(1).filter_map(|rest| rest.split(']').next());
                map.extend(keys.map(|key| (template::bare(key).to_owned(), "value".to_owned())));
            }
        }
        node
    }
}
