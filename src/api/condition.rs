//! Conditions: types, reasons and texts that scripts know, always all types in one order, so that the first True one is the status.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// One condition.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Available`, …
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Short sentences.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<String>,
    /// RFC 3339; moves when the status does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// How an enactment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enacting {
    /// It waits for a slot.
    Pending(String),
    /// The difference is published and nothing is changed.
    Planned(String),
    /// It is at work.
    Progressing,
    /// Done.
    Success(String),
    /// It failed and will be tried again.
    Retrying(String),
    /// It failed for good.
    Failed(String),
    /// Another policy comes first and asks for something else.
    Conflicts(String),
    /// What it changed is being undone.
    Reverting,
    /// What it changed could not be undone.
    NotReverted(String),
    /// The roll-out stopped before it began.
    Aborted(String),
}

/// The usual word to a node that waits.
pub const WAITING: &str = "Waiting for progressing nodes to finish";

/// Reason of an enactment that gives way to another policy.
pub const CONFLICTS: &str = "ConflictsWithPolicy";
/// Reason of an enactment whose policy is gone and could not be undone.
pub const NOT_REVERTED: &str = "FailedToRevert";
/// Reason of what only shows its plan.
pub const PLANNED: &str = "Planned";
/// Type of the condition that tells whether the node is still as it was made.
pub const DRIFTED: &str = "Drifted";

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// All conditions of an enactment, in an order in which the first True one is its status.
pub fn enactment(how: &Enacting, before: &[Condition], now: &str) -> Vec<Condition> {
    let (on, reason, rest, message): (&[&str], &str, &str, &str) = match how {
        Enacting::Pending(m) => (&["Pending"], "MaxUnavailableLimitReached", FALSE, m),
        Enacting::Planned(m) => (&["Pending"], PLANNED, FALSE, m),
        Enacting::Progressing => (
            &["Progressing"],
            "ConfigurationProgressing",
            FALSE,
            "Applying desired state",
        ),
        Enacting::Success(m) => (&["Available"], "SuccessfullyConfigured", FALSE, m),
        Enacting::Retrying(m) => (&["Failing", "Progressing"], "Retrying", FALSE, m),
        Enacting::Failed(m) => (&["Failing"], "FailedToConfigure", FALSE, m),
        Enacting::Conflicts(m) => (&["Failing"], CONFLICTS, FALSE, m),
        Enacting::Reverting => (&["Progressing"], "ConfigurationProgressing", FALSE, "Reverting"),
        Enacting::NotReverted(m) => (&["Failing"], NOT_REVERTED, FALSE, m),
        Enacting::Aborted(m) => (&["Aborted"], "ConfigurationAborted", FALSE, m),
    };
    let undecided = matches!(how, Enacting::Progressing | Enacting::Reverting);
    let types = ["Available", "Failing", "Progressing", "Pending", "Aborted"];
    let one = |t: &&str| {
        let is = on.contains(t);
        let status = match (is, undecided && matches!(*t, "Available" | "Failing")) {
            (true, _) => TRUE,
            (false, true) => UNKNOWN,
            (false, false) => rest,
        };
        condition(t, status, reason, if is { message } else { "" }, before, now)
    };
    types.iter().map(one).collect()
}

/// Whether a node is still as a policy made it; what differs, one line a property.
pub fn drifted(differences: &[String], before: &[Condition], now: &str) -> Condition {
    let (status, reason) = match differences.is_empty() {
        true => (FALSE, "SuccessfullyConfigured"),
        false => (TRUE, "NodeDiffers"),
    };
    condition(DRIFTED, status, reason, &few(differences), before, now)
}

/// The first three of many, in one sentence.
pub fn few(lines: &[String]) -> String {
    let shown = lines.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    match lines.len() {
        0..=3 => shown,
        more => format!("{shown} and {} more", more - 3),
    }
}

/// How a policy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rollout {
    /// Nodes are at work.
    Progressing(String),
    /// All are done.
    Success(String),
    /// A node failed.
    Failed(String),
    /// No node matches.
    NotMatching,
    /// Kept as it is.
    Paused,
    /// Shows what it would change.
    Planned(String),
}

/// All conditions of a policy.
pub fn policy(how: &Rollout, before: &[Condition], now: &str) -> Vec<Condition> {
    // Available, Degraded, Progressing, Ignored
    let (statuses, reason, message) = match how {
        Rollout::Progressing(m) => ([UNKNOWN, UNKNOWN, TRUE, FALSE], "ConfigurationProgressing", m.as_str()),
        Rollout::Success(m) => ([TRUE, FALSE, FALSE, FALSE], "SuccessfullyConfigured", m.as_str()),
        Rollout::Failed(m) => ([FALSE, TRUE, FALSE, FALSE], "FailedToConfigure", m.as_str()),
        Rollout::NotMatching => (
            [FALSE, FALSE, FALSE, TRUE],
            "NoMatchingNode",
            "Policy does not match any node",
        ),
        Rollout::Paused => ([UNKNOWN, UNKNOWN, FALSE, FALSE], "Paused", "Policy is paused"),
        Rollout::Planned(m) => ([FALSE, FALSE, FALSE, FALSE], PLANNED, m.as_str()),
    };
    let types = ["Available", "Degraded", "Progressing", "Ignored"];
    let stands = matches!(how, Rollout::Paused | Rollout::Planned(_));
    let said = |t: &str, status: &str| status == TRUE || (stands && t == "Progressing");
    types
        .iter()
        .zip(statuses)
        .map(|(t, s)| condition(t, s, reason, if said(t, s) { message } else { "" }, before, now))
        .collect()
}

/// One condition; its transition time moves when the status does.
pub fn condition(type_: &str, status: &str, reason: &str, message: &str, before: &[Condition], now: &str) -> Condition {
    let was = before.iter().find(|c| c.type_ == type_ && c.status == status);
    let since = was
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or_else(|| now.to_owned());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_heartbeat_time: Some(now.to_owned()),
        last_transition_time: Some(since),
    }
}

/// The condition of this type is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == TRUE)
}

/// The condition of this type is True for this reason.
pub fn is_true_because(conditions: &[Condition], type_: &str, reason: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.type_ == type_ && c.status == TRUE && c.reason == reason)
}

/// Equal but for times.
pub fn same(a: &[Condition], b: &[Condition]) -> bool {
    let key = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone());
    a.iter().map(key).eq(b.iter().map(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[Condition]) -> &str {
        conditions
            .iter()
            .find(|c| c.status == TRUE)
            .map_or("", |c| c.type_.as_str())
    }

    #[test]
    fn the_first_true_condition_is_the_status() {
        for (how, want) in [
            (Enacting::Pending(WAITING.into()), "Pending"),
            (Enacting::Progressing, "Progressing"),
            (Enacting::Success(String::new()), "Available"),
            (Enacting::Retrying(String::new()), "Failing"),
            (Enacting::Failed(String::new()), "Failing"),
            (Enacting::Aborted(String::new()), "Aborted"),
            (Enacting::Planned(String::new()), "Pending"),
            (Enacting::Conflicts(String::new()), "Failing"),
            (Enacting::Reverting, "Progressing"),
            (Enacting::NotReverted(String::new()), "Failing"),
        ] {
            let conditions = enactment(&how, &[], "t");
            assert_eq!((conditions.len(), status(&conditions)), (5, want));
        }
    }

    #[test]
    fn drift_is_told_in_a_short_sentence() {
        let lines: Vec<String> = (1..=5)
            .map(|i| format!("interfaces[eth{i}].mtu: 1400 → 1500"))
            .collect();
        let told = drifted(&lines, &[], "1");
        assert_eq!((told.type_.as_str(), told.status.as_str()), ("Drifted", TRUE));
        assert!(
            told.message.ends_with("interfaces[eth3].mtu: 1400 → 1500 and 2 more"),
            "{}",
            told.message
        );
        let gone = drifted(&[], std::slice::from_ref(&told), "2");
        assert_eq!((gone.status.as_str(), gone.message.as_str()), (FALSE, ""));
        assert_eq!(drifted(&lines, &[told], "3").last_transition_time.as_deref(), Some("1"));
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let first = enactment(&Enacting::Progressing, &[], "1");
        let second = enactment(&Enacting::Success("successfully reconciled".into()), &first, "2");
        let at = |c: &[Condition], t: &str| c.iter().find(|c| c.type_ == t).unwrap().last_transition_time.clone();
        assert_eq!(at(&second, "Aborted").as_deref(), Some("1"));
        assert_eq!(at(&second, "Available").as_deref(), Some("2"));
    }
}
