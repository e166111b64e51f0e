//! The merge patch of an enactment's status: nothing of an older document stays behind in it, and it fits into etcd. Pure.

use serde_json::Value;

/// etcd takes 1.5 MiB at once, and the apiserver adds who owns which field.
const LIMIT: usize = 1 << 20;

/// What a merge patch must say to turn one value into another: it leaves alone what it does not name.
pub fn merge(old: Option<&Value>, new: Option<&Value>) -> Value {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys = old.keys().chain(new.keys());
            keys.map(|key| (key.clone(), merge(old.get(key), new.get(key))))
                .collect()
        }
        (_, new) => new.cloned().unwrap_or_default(),
    }
}

/// Equal as far as a merge patch can tell: a null takes a key away.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys = a.keys().chain(b.keys());
            let at = |map: &serde_json::Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or_default();
            keys.all(|key| same(&at(a, key), &at(b, key)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(map), Value::Null) | (Value::Null, Value::Object(map)) => map.values().all(Value::is_null),
        (a, b) => a == b,
    }
}

/// Leaves out the document, and then lines of the plan, until the rest fits. Says so in the plan.
pub fn fit(status: &mut Value) {
    if size(status) <= LIMIT {
        return;
    }
    let left_out = size(&status["desiredState"]);
    status["desiredState"] = Value::Null;
    let room = LIMIT.saturating_sub(size(status).saturating_sub(size(&status["plan"])));
    let lines = status["plan"].as_array().cloned().unwrap_or_default();
    let of = lines.len();
    let mut used = 256;
    let fits = |line: &Value| {
        used += size(line) + 1;
        used <= room
    };
    let mut plan: Vec<Value> = lines.into_iter().take_while(fits).collect();
    let shown = plan.len();
    plan.push(format!("too large to be published whole: desiredState ({left_out} bytes) is left out, {shown} of {of} lines are shown").into());
    status["plan"] = plan.into();
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_takes_away_what_is_not_there_any_more() {
        let old = json!({"a": {"x": 1, "y": [1]}, "b": 1});
        let new = json!({"a": {"y": [2]}, "c": {"d": 1}});
        let want = json!({"a": {"x": null, "y": [2]}, "b": null, "c": {"d": 1}});
        assert_eq!(merge(Some(&old), Some(&new)), want);
        assert_eq!(merge(Some(&old), None), Value::Null);
        assert_eq!(merge(None, Some(&new)), new);
    }

    #[test]
    fn what_is_published_lacks_what_was_null() {
        let wish = json!({"a": {"x": null, "y": [{"z": 1, "w": null}]}, "b": null});
        assert!(same(&json!({"a": {"y": [{"z": 1}]}}), &wish));
        assert!(!same(&json!({"a": {"y": [{"z": 2}]}}), &wish));
        assert!(!same(&json!({"a": {"x": 1, "y": [{"z": 1}]}}), &wish));
        assert!(same(&json!({"a": {}}), &json!({})) && !same(&json!({"a": {"x": 0}}), &json!({})));
    }

    #[test]
    fn what_is_too_large_is_cut_and_says_so() {
        let line = "x".repeat(1000);
        let mut status = json!({"conditions": [{"message": "m"}], "desiredState": {"a": "y".repeat(LIMIT)}, "plan": vec![line; 2000]});
        fit(&mut status);
        assert!(size(&status) <= LIMIT);
        let plan = status["plan"].as_array().unwrap();
        assert!(plan.len() > 900, "{}", plan.len());
        assert!(
            plan.last()
                .unwrap()
                .as_str()
                .unwrap()
                .ends_with("of 2000 lines are shown")
        );
        let mut small = json!({"desiredState": {}, "plan": []});
        fit(&mut small);
        assert_eq!(small, json!({"desiredState": {}, "plan": []}));
    }
}
