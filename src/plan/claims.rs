//! What the kernel gives to one interface only, be it a VLAN's number on a link or what a link receives: two may not want it. Pure.

use std::collections::BTreeMap;

use crate::error::Invalid;
use crate::observation::Observation;
use crate::scalar::Id;
use crate::state::iface::{Claim, Interface};

use super::topology::{self, Graph};

/// Who has it, and since when.
struct Holder {
    claim: Claim,
    /// The interface of the document that says so.
    id: Id,
    /// In the words of an error.
    by: String,
    /// The document names it, and wants it up.
    named: bool,
    /// It is so already.
    now: bool,
}

/// Refuses a wish for what another interface has or wants; what the kernel has let happen is not judged.
pub fn check(graph: &Graph, seen: &Observation) -> Result<(), Invalid> {
    let untouched = seen.state.interfaces.iter().map(Interface::id);
    let ids = graph
        .keys()
        .cloned()
        .chain(untouched.filter(|id| !graph.contains_key(id)));
    let mut taken: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
    for holder in ids.flat_map(|id| holders(&id, graph, seen)) {
        let others = taken.entry(holder.claim.what.clone()).or_default();
        let clash = |other: &&Holder| {
            let together = holder.claim.with.is_some() && holder.claim.with == other.claim.with;
            let settled = together || (holder.now && other.now);
            !settled && (holder.named || other.named)
        };
        if let Some(other) = others.iter().find(clash) {
            let (asked, other) = if holder.named {
                (&holder, other)
            } else {
                (other, &holder)
            };
            return Err(Invalid::new(
                format!("interfaces[{}].{}", asked.id.name, asked.claim.path),
                format!(
                    "{} belongs to {}, and the kernel gives it to one interface only",
                    asked.claim.what, other.by
                ),
            ));
        }
        others.push(holder);
    }
    Ok(())
}

/// What an interface has after the plan.
fn holders(id: &Id, graph: &Graph, seen: &Observation) -> Vec<Holder> {
    let touched = graph.get(id);
    let current = seen.interface(id);
    let up = touched.map_or(current.is_some(), |t| t.wish.is_up());
    let Some(whole) = touched.map(|t| &t.wish).or(current).filter(|_| up) else {
        return vec![];
    };
    let below = topology::parents_after(id, graph, seen);
    let before = touched.and(current).map(|c| c.kind.claims(None, &c.kind.parents()));
    let own = whole
        .kind
        .claims(current.map(|c| &c.kind), &below)
        .into_iter()
        .map(|claim| Holder {
            now: touched.is_none() || before.iter().flatten().any(|b| *b == claim),
            claim,
            id: id.clone(),
            by: id.name.clone(),
            named: touched.is_some_and(|t| t.named),
        });
    own.chain(as_port(id, graph, seen)).collect()
}

/// A port's frames go to its controller.
fn as_port(id: &Id, graph: &Graph, seen: &Observation) -> Option<Holder> {
    let now = topology::controller_now(id, seen);
    let above = match graph.contains_key(id) {
        true => topology::controller_after(id, graph, seen)?,
        false => now.clone()?,
    };
    let touched = graph.get(&above);
    let controller = touched.map(|t| &t.wish).or_else(|| seen.interface(&above))?;
    let goes = touched.is_some_and(|t| !t.wish.is_up());
    if goes || !controller.kind.takes_frames() {
        return None;
    }
    let asked = touched.filter(|t| t.named);
    let path = asked.map_or("controller", |t| t.wish.kind.ports_path());
    Some(Holder {
        claim: Claim::frames(path, &id.name, None),
        now: now.as_ref() == Some(&above),
        by: format!("{}, whose port it is", above.name),
        named: asked.is_some() || graph.get(id).is_some_and(|t| t.named),
        id: if asked.is_some() { above } else { id.clone() },
    })
}
