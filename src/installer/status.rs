//! How an installation stands, from its workloads. Pure.

use serde_json::Value;

use crate::api::Condition;
use crate::api::condition::condition;

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Some are not there yet: one line each.
    Deploying(String),
    /// All of it runs.
    Ready,
    /// It cannot be installed.
    Failed(String),
}

/// From the DaemonSets and Deployments as they are.
pub fn standing(workloads: &[Value]) -> Standing {
    let lines: Vec<String> = workloads.iter().filter_map(awaited).collect();
    match lines.is_empty() {
        true => Standing::Ready,
        false => Standing::Deploying(lines.join("\n")),
    }
}

/// What a workload still waits for, in the words of kubernetes-nmstate.
fn awaited(workload: &Value) -> Option<String> {
    let number = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64);
    let kind = workload["kind"].as_str().unwrap_or_default();
    let name = workload["metadata"]["name"].as_str().unwrap_or_default();
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Some(format!("{kind} \"{name}\" update is being processed"));
    }
    let (wanted, updated, available) = match kind {
        "DaemonSet" => (
            number("/status/desiredNumberScheduled"),
            number("/status/updatedNumberScheduled"),
            number("/status/numberAvailable"),
        ),
        _ => (
            number("/spec/replicas"),
            number("/status/updatedReplicas"),
            number("/status/availableReplicas"),
        ),
    };
    let wanted = wanted.unwrap_or(1);
    let there = updated.unwrap_or(0).min(available.unwrap_or(0));
    (there < wanted).then(|| format!("{kind} \"{name}\" is not available (awaiting {} nodes)", wanted - there))
}

/// All conditions of an NMState.
pub fn conditions(standing: &Standing, before: &[Condition], now: &str) -> Vec<Condition> {
    // Available, Progressing, Degraded
    let (statuses, reason, messages) = match standing {
        Standing::Deploying(lines) => {
            let rest = "Deploying is in progress";
            (["False", "True", "False"], "Deploying", [rest, lines, rest])
        }
        Standing::Ready => {
            let all = "All components are available and ready";
            (["True", "False", "False"], "SuccessfullyDeployed", [all, all, all])
        }
        Standing::Failed(why) => (["False", "False", "True"], "InternalError", ["", "", why.as_str()]),
    };
    let types = ["Available", "Progressing", "Degraded"];
    types
        .iter()
        .zip(statuses)
        .zip(messages)
        .map(|((t, s), m)| condition(t, s, reason, m, before, now))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn daemon_set(generation: i64, observed: i64, wanted: i64, available: i64) -> Value {
        json!({
            "kind": "DaemonSet", "metadata": {"name": "a", "generation": generation},
            "status": {"observedGeneration": observed, "desiredNumberScheduled": wanted, "updatedNumberScheduled": wanted, "numberAvailable": available},
        })
    }

    #[test]
    fn it_is_ready_when_all_of_it_runs() {
        let deployment = |available: Value| {
            json!({"kind": "Deployment", "metadata": {"name": "c", "generation": 1}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": available}})
        };
        assert_eq!(
            standing(&[daemon_set(2, 2, 3, 3), deployment(json!(2))]),
            Standing::Ready
        );
        let lines =
            "DaemonSet \"a\" is not available (awaiting 2 nodes)\nDeployment \"c\" is not available (awaiting 2 nodes)";
        assert_eq!(
            standing(&[daemon_set(2, 2, 3, 1), deployment(Value::Null)]),
            Standing::Deploying(lines.into())
        );
        let old = "DaemonSet \"a\" update is being processed";
        assert_eq!(standing(&[daemon_set(2, 1, 3, 3)]), Standing::Deploying(old.into()));
        // nobody has looked at it yet
        let new = json!({"kind": "DaemonSet", "metadata": {"name": "a", "generation": 1}});
        assert_eq!(standing(&[new]), Standing::Deploying(old.into()));
        // no node matches
        assert_eq!(standing(&[daemon_set(1, 1, 0, 0)]), Standing::Ready);
    }

    #[test]
    fn one_condition_is_true() {
        for (standing, want) in [
            (Standing::Ready, "Available"),
            (Standing::Deploying("x".into()), "Progressing"),
            (Standing::Failed("x".into()), "Degraded"),
        ] {
            let all = conditions(&standing, &[], "t");
            let on: Vec<&str> = all
                .iter()
                .filter(|c| c.status == "True")
                .map(|c| c.type_.as_str())
                .collect();
            assert_eq!((all.len(), on), (3, vec![want]));
        }
    }
}
