//! Steps and lines of a plan while they are collected.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::scalar::Id;
use crate::step::{Effect, Step};

/// Lines of the plan while they are collected, and which interfaces they speak of.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) list: Vec<String>,
    about: HashSet<String>,
    said: HashSet<String>,
}

impl Lines {
    pub(super) fn push(&mut self, line: String) {
        if let Some((label, _)) = line.split_once(']').filter(|(l, _)| l.starts_with("interfaces[")) {
            self.about.insert(format!("{label}]"));
        }
        self.said.insert(line.clone());
        self.list.push(line);
    }

    /// Unless it was said before.
    pub(super) fn push_new(&mut self, line: String) {
        if !self.said.contains(&line) {
            self.push(line);
        }
    }

    /// Unless a line begins with this label.
    pub(super) fn push_unless(&mut self, label: &str, line: String) {
        if !self.list.iter().any(|l| l.starts_with(label)) {
            self.push(line);
        }
    }

    pub(super) fn speaks_of(&self, label: &str) -> bool {
        self.about.contains(label)
    }
}

/// Steps while they are collected.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) scripts: Vec<Step>,
    pub(super) forget: Vec<Step>,
    pub(super) save: Vec<Step>,
    pub(super) deactivate: Vec<Step>,
    /// Links that NetworkManager may not have made, and then keeps, where it is to make them anew.
    pub(super) clear: Vec<Step>,
    pub(super) activate: BTreeMap<usize, Vec<Step>>,
    pub(super) above: BTreeMap<Id, Id>,
    pub(super) after: Vec<Step>,
    pub(super) remove: Vec<Step>,
    pub(super) node: Vec<Step>,
}

impl Steps {
    pub(super) fn into_waves(self) -> Vec<Vec<Step>> {
        let Steps {
            scripts,
            forget,
            save,
            deactivate,
            clear,
            mut activate,
            above,
            after,
            remove,
            node,
        } = self;
        let begun = |s: &Step| match s {
            Step::Activate { iface, .. } => Some(iface.clone()),
            _ => None,
        };
        let begun: BTreeSet<Id> = activate.values().flatten().filter_map(begun).collect();
        for step in activate.values_mut().flatten() {
            if let Step::Activate { iface, follows, .. } = step {
                *follows = above.get(iface).is_some_and(|c| begun.contains(c));
            }
        }
        let mut waves = vec![scripts, forget, save, deactivate, clear];
        waves.extend(activate.into_values());
        waves.push(after);
        waves.push(remove);
        // NetworkManager may take a new static host name for the running one as well
        let running = |s: &Step| matches!(s, Step::Effect(Effect::RunningHostname(_)));
        let (hostname, node) = node.into_iter().partition(running);
        waves.push(node);
        waves.push(hostname);
        waves.retain(|w| !w.is_empty());
        waves
    }

    pub(super) fn touched(&self) -> Vec<String> {
        let all = self
            .forget
            .iter()
            .chain(&self.save)
            .chain(self.activate.values().flatten())
            .chain(&self.after)
            .chain(&self.remove);
        let mut names: Vec<String> = all.filter_map(|s| s.interface().map(|id| id.name.clone())).collect();
        names.sort();
        names.dedup();
        names
    }
}
