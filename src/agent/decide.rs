//! What next for this node and one policy. Pure: objects and the time in, a decision out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::condition::{self, Enacting, is_true};
use crate::api::nnce::{Attempt, NodeNetworkConfigurationEnactmentStatus as Status, Slot};
use crate::capture::{Captured, Expressions};
use crate::transaction::{Outcome, Report};

use super::{Config, LOOK_AGAIN};

/// How long an attempt that ended in a failed probe is left alone before the next.
const AFTER_PROBE: Duration = Duration::from_secs(30);

/// Mending that is needed again within this is one in a row.
const CALM: SignedDuration = SignedDuration::from_mins(10);
/// Pause before the second in a row; each one after it waits twice as long as the one before.
const AFTER_MENDING: SignedDuration = SignedDuration::from_secs(30);

/// The status is about this generation and says its last word.
pub fn is_final(status: &Status, generation: i64) -> bool {
    let failed = is_true(&status.conditions, "Failing") && !is_true(&status.conditions, "Progressing");
    let failed = failed && !gives_way(status) && !is_not_reverted(status);
    status.policy_generation == Some(generation) && (failed || is_true(&status.conditions, "Aborted"))
}

/// The status is about this generation and says that all is well.
pub fn is_available(status: &Status, generation: i64) -> bool {
    status.policy_generation == Some(generation) && is_true(&status.conditions, "Available")
}

/// It waits until another policy does not ask for something else any more.
pub fn gives_way(status: &Status) -> bool {
    condition::is_true_because(&status.conditions, "Failing", condition::CONFLICTS)
}

/// Undoing it has failed for good.
pub fn is_not_reverted(status: &Status) -> bool {
    condition::is_true_because(&status.conditions, "Failing", condition::NOT_REVERTED)
}

/// What `Available` says now.
pub fn success(status: &Status) -> String {
    let said = status.conditions.iter().find(|c| c.type_ == "Available");
    said.map_or_else(String::new, |c| c.message.clone())
}

/// Attempts of this generation since the last that went well.
fn recent(status: &Status, generation: i64) -> impl Iterator<Item = &Attempt> {
    let well = |a: &Attempt| matches!(a.outcome.as_str(), "applied" | "unchanged");
    let all = status.attempts.iter().rev().filter(move |a| a.generation == generation);
    all.take_while(move |a| !well(a))
}

/// How often this generation was tried in vain since all was well.
pub fn failures(status: &Status, generation: i64) -> usize {
    recent(status, generation).count()
}

/// A node that drifts again and again is fought over: it is mended after growing pauses.
pub fn mend_not_before(status: &Status, generation: i64) -> Option<Timestamp> {
    let applied = status
        .attempts
        .iter()
        .filter(|a| a.generation == generation && a.outcome == "applied");
    let applied: Vec<Timestamp> = applied.filter_map(|a| a.start.parse().ok()).collect();
    let in_a_row = |pair: &&[Timestamp]| pair[1].duration_since(pair[0]) < CALM;
    let times = applied.windows(2).rev().take_while(in_a_row).count();
    let doubled = i32::try_from(times).ok()?.checked_sub(1).filter(|n| *n >= 0)?;
    Some(*applied.last()? + AFTER_MENDING * 2i32.saturating_pow(doubled.unsigned_abs()))
}

/// The status says just this about this generation already.
pub fn says(status: &Status, generation: i64, how: &Enacting) -> bool {
    let conditions = condition::enactment(how, &status.conditions, "");
    let mut now = status.conditions.clone();
    now.retain(|c| c.type_ != condition::DRIFTED);
    status.policy_generation == Some(generation) && condition::same(&conditions, &now)
}

/// There is leave to work on this generation, as far as we know: it may have been taken back meanwhile.
pub fn has_slot(status: &Status, generation: i64) -> bool {
    let slot = status.slot.as_ref().filter(|s| s.generation == generation);
    slot.is_some_and(Slot::stands)
}

/// What captures found before, where that still counts: the expressions are the same, and a change began with it or found everything in
/// place. Looked for again, the node might no longer look as it did before the change.
pub fn captures_to_keep(status: &Status, expressions: &Expressions) -> Option<Captured> {
    let found = Captured::from_json(status.captured_states.clone()?).ok()?;
    let since = found.time().parse::<Timestamp>().ok();
    let used = |a: &Attempt| {
        a.start
            .parse::<Timestamp>()
            .is_ok_and(|start| since.is_some_and(|s| start >= s))
    };
    let counts = found.is_foreign() || is_true(&status.conditions, "Available") || status.attempts.iter().any(used);
    (!expressions.is_empty() && found.answers(expressions) && counts).then_some(found)
}

/// What an attempt means for the enactment, and when to try again.
pub fn judge(
    report: &Report,
    status: &Status,
    generation: i64,
    config: &Config,
    node: &str,
) -> (Enacting, Option<Duration>) {
    let failed = |outcome: &str| recent(status, generation).filter(|a| a.outcome == outcome).count();
    let tries = u32::try_from(failed("failed") + 1).unwrap_or(u32::MAX);
    let probed = u32::try_from(failed("probe-failed")).unwrap_or(u32::MAX);
    let retrying = |k: u32, of: u32, cause: &str| {
        Enacting::Retrying(format!(
            "failed to reconcile NodeNetworkConfigurationPolicy on node {node}. Retrying {k}/{of}: {cause}"
        ))
    };
    match &report.outcome {
        Outcome::Unchanged | Outcome::Applied => (Enacting::Success("successfully reconciled".to_owned()), None),
        Outcome::Refused(fault) => (Enacting::Failed(fault.to_string()), None),
        Outcome::Failed { cause, phase, .. } if !phase.touches() => (
            Enacting::Retrying(format!("{}: {cause}; waiting", phase.word())),
            Some(LOOK_AGAIN),
        ),
        Outcome::Failed { cause, phase, .. } if tries >= config.max_retries => {
            (Enacting::Failed(format!("{}: {cause}", phase.word())), None)
        }
        Outcome::Failed { cause, .. } => {
            let pause = config
                .initial_backoff
                .saturating_mul(1 << (tries - 1).min(16))
                .min(config.max_backoff);
            (retrying(tries + 1, config.max_retries, cause), Some(pause))
        }
        Outcome::ProbeFailed { cause } if probed >= config.probe_retries => {
            (Enacting::Failed(format!("{cause}; rolled back")), None)
        }
        Outcome::ProbeFailed { cause } => (
            retrying(probed + 2, config.probe_retries + 1, &format!("{cause}; rolled back")),
            Some(AFTER_PROBE),
        ),
        Outcome::Stuck { cause, rollback } => (
            Enacting::Failed(format!("{cause}; the rollback failed too: {rollback}")),
            None,
        ),
    }
}

/// The last five attempts with this one. One that could not begin is none.
pub fn attempts(report: &Report, status: &Status, generation: i64, start: Timestamp) -> Vec<Attempt> {
    let (outcome, error) = match &report.outcome {
        Outcome::Failed { phase, .. } if !phase.touches() => return status.attempts.clone(),
        Outcome::Unchanged => ("unchanged", String::new()),
        Outcome::Applied => ("applied", String::new()),
        Outcome::Refused(fault) => ("refused", fault.to_string()),
        Outcome::Failed { cause, .. } => ("failed", cause.clone()),
        Outcome::ProbeFailed { cause } => ("probe-failed", cause.clone()),
        Outcome::Stuck { cause, .. } => ("stuck", cause.clone()),
    };
    let this = Attempt {
        generation,
        start: start.to_string(),
        duration_ms: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
        outcome: outcome.to_owned(),
        error,
    };
    let mut all = status.attempts.clone();
    all.push(this);
    let extra = all.len().saturating_sub(5);
    all.split_off(extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::transaction::Phase;

    fn config() -> Config {
        Config::test()
    }

    fn report(outcome: Outcome) -> Report {
        Report {
            outcome,
            plan: vec![],
            warnings: vec![],
            probes: vec![],
            held: None,
            before: None,
            duration: Duration::ZERO,
        }
    }

    fn after(outcomes: &[&str]) -> Status {
        let attempts = outcomes.iter().map(|o| Attempt {
            generation: 1,
            outcome: (*o).into(),
            ..Attempt::default()
        });
        Status {
            attempts: attempts.collect(),
            ..Status::default()
        }
    }

    #[test]
    fn a_failed_probe_is_tried_once_more_and_no_more() {
        let failed = report(Outcome::ProbeFailed {
            cause: "probe gateway failed: no route to 192.0.2.1".into(),
        });
        let (first, again) = judge(&failed, &after(&[]), 1, &config(), "n");
        assert!(matches!(first, Enacting::Retrying(m) if m.contains("Retrying 2/2: probe gateway failed")));
        assert_eq!(again, Some(AFTER_PROBE));
        let (second, again) = judge(&failed, &after(&["probe-failed"]), 1, &config(), "n");
        assert!(matches!(second, Enacting::Failed(_)));
        assert_eq!(again, None);
    }

    #[test]
    fn other_failures_are_tried_five_times_with_growing_pauses() {
        let failed = || {
            report(Outcome::Failed {
                phase: Phase::Execute,
                kind: ErrorKind::PluginFailure,
                cause: "x".into(),
            })
        };
        let pause = |n: usize| {
            judge(&failed(), &after(&vec!["failed"; n]), 1, &config(), "n")
                .1
                .map(|d| d.as_secs())
        };
        assert_eq!(
            [pause(0), pause(1), pause(2), pause(3), pause(4)],
            [Some(1), Some(2), Some(4), Some(8), None]
        );
    }

    #[test]
    fn what_went_well_forgives_earlier_failures() {
        let failed = report(Outcome::Failed {
            phase: Phase::Execute,
            kind: ErrorKind::PluginFailure,
            cause: "x".into(),
        });
        let status = after(&["failed", "failed", "failed", "applied", "failed"]);
        assert_eq!(
            judge(&failed, &status, 1, &config(), "n").1.map(|d| d.as_secs()),
            Some(2)
        );
        assert_eq!(
            failures(&after(&["failed", "applied", "failed", "failed", "failed"]), 1),
            3
        );
        assert_eq!(failures(&after(&[]), 1), 0);
    }

    #[test]
    fn mending_in_a_row_waits_longer_each_time() {
        let at = |starts: &[&str]| {
            let mut status = after(&vec!["applied"; starts.len()]);
            for (attempt, start) in status.attempts.iter_mut().zip(starts) {
                attempt.start = format!("2026-01-01T{start}:00Z");
            }
            mend_not_before(&status, 1).map(|t| t.to_string())
        };
        assert_eq!(at(&[]), None);
        assert_eq!(at(&["00:00"]), None);
        assert_eq!(at(&["00:00", "01:00"]), None);
        assert_eq!(at(&["00:00", "00:05"]).as_deref(), Some("2026-01-01T00:05:30Z"));
        assert_eq!(
            at(&["00:00", "00:05", "00:06"]).as_deref(),
            Some("2026-01-01T00:07:00Z")
        );
        assert_eq!(
            at(&["00:00", "00:05", "01:00", "01:01"]).as_deref(),
            Some("2026-01-01T01:01:30Z")
        );
    }

    #[test]
    fn who_gives_way_has_not_said_its_last_word() {
        let status = |how| Status {
            conditions: condition::enactment(&how, &[], ""),
            policy_generation: Some(1),
            ..Status::default()
        };
        assert!(is_final(&status(Enacting::Failed("x".into())), 1));
        assert!(!is_final(&status(Enacting::Conflicts("x".into())), 1));
        assert!(!is_final(&status(Enacting::NotReverted("x".into())), 1));
        assert!(!is_final(&status(Enacting::Retrying("x".into())), 1));
    }

    #[test]
    fn captures_are_kept_once_a_change_began_with_them() {
        let expressions: Expressions = [("a".to_owned(), "all".to_owned())].into();
        let at = |time: &str| {
            let found = crate::capture::evaluate(&expressions, &serde_json::json!({}), &Default::default()).unwrap();
            found.of(&expressions).at(time).to_json()
        };
        let status = |captured, start: &str| {
            let mut status = after(&["failed"]);
            status.attempts[0].start = start.into();
            status.captured_states = Some(captured);
            status
        };
        let early = "2026-01-01T00:00:00Z";
        let late = "2026-01-01T00:00:09.5Z";
        assert!(captures_to_keep(&status(at(early), early), &expressions).is_some());
        assert!(captures_to_keep(&status(at(early), late), &expressions).is_some());
        assert!(
            captures_to_keep(&status(at(late), early), &expressions).is_none(),
            "only waited with them"
        );
        let other = [("a".to_owned(), "interfaces.name".to_owned())].into();
        assert!(captures_to_keep(&status(at(early), late), &other).is_none(), "edited");
        let of_the_incumbent = serde_json::json!({"a": {"state": {}, "metaInfo": {"time": late, "version": "0"}}});
        assert!(captures_to_keep(&status(of_the_incumbent.clone(), early), &expressions).is_some());
        let two = [("a".to_owned(), String::new()), ("b".to_owned(), String::new())].into();
        assert!(captures_to_keep(&status(of_the_incumbent, early), &two).is_none());
    }

    #[test]
    fn what_could_not_begin_waits_and_is_no_attempt() {
        let failed = report(Outcome::Failed {
            phase: Phase::Observe,
            kind: ErrorKind::PluginFailure,
            cause: "NetworkManager does not answer".into(),
        });
        let status = after(&["failed"; 5]);
        let (how, again) = judge(&failed, &status, 1, &config(), "n");
        assert_eq!(
            how,
            Enacting::Retrying("observe: NetworkManager does not answer; waiting".into())
        );
        assert_eq!(again, Some(LOOK_AGAIN));
        assert_eq!(attempts(&failed, &status, 1, Timestamp::UNIX_EPOCH).len(), 5);
    }

    #[test]
    fn attempts_of_an_older_generation_do_not_count() {
        let failed = report(Outcome::ProbeFailed { cause: "x".into() });
        assert!(judge(&failed, &after(&["probe-failed"]), 2, &config(), "n").1.is_some());
    }
}
