//! An NMState object, and what the installer makes of it: objects alone, and on a real kube-apiserver with the rights that it is shipped with.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Cluster, may_run, must};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use netwright::api::NMStateSpec;
use netwright::installer::manifests::{Image, Install, objects, stands};
use netwright::yaml;
use serde_json::{Value, json};

fn made(spec: &str, namespace: &str, image: &Image) -> Result<Vec<Value>, String> {
    let spec: NMStateSpec = serde_json::from_value(yaml::read(spec).expect("it is YAML")).expect("it is a spec");
    let owner = OwnerReference {
        api_version: "nmstate.io/v1".into(),
        kind: "NMState".into(),
        name: "nmstate".into(),
        uid: "1-2-3".into(),
        ..OwnerReference::default()
    };
    objects(&Install {
        spec: &spec,
        namespace,
        image,
        owner,
    })
}

fn of<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|o| o["kind"] == kind).expect("there is one")
}

#[test]
fn without_wishes_it_is_what_people_apply_by_hand() {
    let mut objects = made("{}", "nmstate", &Image::default()).expect("objects");
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/netwright.yaml")).expect("the manifests");
    for object in &mut objects {
        let owned = object["metadata"]
            .as_object_mut()
            .expect("metadata")
            .remove("ownerReferences");
        assert_eq!(owned.is_none(), object["kind"] == "Namespace", "{object}");
        object["metadata"]
            .as_object_mut()
            .expect("metadata")
            .remove("annotations");
    }
    assert_eq!(objects, yaml::read_many(&text).expect("it is YAML"));
}

#[test]
fn every_wish_arrives() {
    let spec = "
nodeSelector: {a: b}
infraNodeSelector: {c: d}
tolerations: [{key: e, operator: Exists}]
infraTolerations: [{key: f, operator: Exists}]
affinity: {nodeAffinity: {x: agents}}
infraAffinity: {nodeAffinity: {x: controller}}
selfSignConfiguration: {caRotateInterval: 91h, caOverlapInterval: 7h, certRotateInterval: 45h, certOverlapInterval: 3h}
probeConfiguration: {dns: {host: probe.example}}
metricsConfiguration: {bindAddress: ':9123'}
logLevel: debug
";
    let image = Image {
        name: Some("example.org/nw:7".into()),
        pull_policy: Some("Always".into()),
        pull_secrets: vec!["key".into()],
    };
    let objects = made(spec, "elsewhere", &image).expect("objects");
    let agent = &of(&objects, "DaemonSet")["spec"]["template"]["spec"];
    let controller = &of(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(agent["nodeSelector"], json!({"a": "b"}));
    assert_eq!(controller["nodeSelector"], json!({"c": "d"}));
    assert_eq!(agent["tolerations"], json!([{"key": "e", "operator": "Exists"}]));
    assert_eq!(controller["tolerations"], json!([{"key": "f", "operator": "Exists"}]));
    assert_eq!(agent["affinity"]["nodeAffinity"]["x"], "agents");
    assert_eq!(controller["affinity"]["nodeAffinity"]["x"], "controller");
    for pod in [agent, controller] {
        assert_eq!(pod["containers"][0]["image"], "example.org/nw:7");
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "key"}]));
    }
    let args = &agent["containers"][0]["args"];
    assert_eq!(
        *args,
        json!([
            "agent",
            "--log-format",
            "json",
            "-v",
            "--probe-dns-host",
            "probe.example"
        ])
    );
    let args = controller["containers"][0]["args"].to_string();
    for flag in [
        "\"-v\"",
        "\"--ca-rotate-interval\",\"91h\"",
        "\"--ca-overlap-interval\",\"7h\"",
        "\"--cert-rotate-interval\",\"45h\"",
        "\"--cert-overlap-interval\",\"3h\"",
        "\"--metrics-address\",\"[::]:9123\"",
    ] {
        assert!(args.contains(flag), "{flag} is not in {args}");
    }
    let ports = &controller["containers"][0]["ports"];
    assert_eq!(ports[0], json!({"name": "metrics", "containerPort": 9123}));
    let text = serde_json::to_string(&objects).expect("JSON");
    assert!(!text.contains("\"namespace\":\"nmstate\""), "{text}");
    assert_eq!(of(&objects, "Namespace")["metadata"]["name"], "elsewhere");
    // what neither agents nor controller could live with
    for (spec, want) in [
        (
            "metricsConfiguration: {bindAddress: here}",
            "spec.metricsConfiguration.bindAddress: ",
        ),
        (
            "selfSignConfiguration: {certRotateInterval: a year}",
            "spec.selfSignConfiguration.certRotateInterval: 'a year' is no length of time",
        ),
        (
            "selfSignConfiguration: {caRotateInterval: 30h}",
            "spec.selfSignConfiguration: --ca-overlap-interval (24h) must be",
        ),
    ] {
        let fault = made(spec, "nmstate", &image).expect_err(spec);
        assert!(fault.starts_with(want), "{fault}");
    }
}

#[test]
fn only_what_differs_is_written() {
    let objects = made("{}", "nmstate", &Image::default()).expect("objects");
    let want = of(&objects, "DaemonSet");
    let mut live = want.clone();
    live["status"] = json!({"numberReady": 1});
    live["spec"]["revisionHistoryLimit"] = json!(10);
    live["metadata"]["uid"] = json!("u");
    live["spec"]["template"]["spec"]["containers"][0]["securityContext"]
        .as_object_mut()
        .expect("a map")
        .remove("privileged");
    assert!(stands(want, &live), "what the apiserver adds is no difference");
    let mut changed = live.clone();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    assert!(!stands(want, &changed));
    let mut selected = live.clone();
    selected["spec"]["template"]["spec"]["tolerations"] = json!([]);
    assert!(!stands(want, &selected));
    // what was asked for before, and is not any more, is in nobody's list
    let before = made(
        "nodeSelector: {kubernetes.io/os: linux, a: b}",
        "nmstate",
        &Image::default(),
    )
    .expect("objects");
    assert!(!stands(want, of(&before, "DaemonSet")));
}

struct Bed {
    cluster: Cluster,
    installer: std::process::Child,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.installer.kill();
        let _ = self.installer.wait();
    }
}

impl Bed {
    /// A bare apiserver with the installer as `kubectl apply -k deploy/installer` leaves it, run by its own service account.
    fn up() -> Self {
        let dir = common::Dir::new("installer");
        let cluster = Cluster { dir };
        must(cluster.verb("up").args(["--nodes", "1", "--no-objects"]));
        let root = env!("CARGO_MANIFEST_DIR");
        cluster.kubectl(&["apply", "--server-side", "-f", &format!("{root}/crds")]);
        cluster.kubectl(&["apply", "-k", &format!("{root}/deploy/installer")]);
        cluster.kubectl(&[
            "wait",
            "--for",
            "condition=Established",
            "--timeout",
            "20s",
            "-f",
            &format!("{root}/crds"),
        ]);
        let wish = "apiVersion: nmstate.io/v1\nkind: NMState\nmetadata: {name: nmstate}\n";
        cluster.kubectl_apply(wish);
        predecessor(
            &cluster,
            &cluster.kubectl(&["get", "nmstate", "nmstate", "-o", "jsonpath={.metadata.uid}"]),
        );
        let token = cluster.kubectl(&["-n", "nmstate", "create", "token", "netwright-installer"]);
        let admin: Value =
            yaml::read(&std::fs::read_to_string(cluster.dir.0.join("c/admin.kubeconfig")).expect("kubeconfig"))
                .expect("YAML");
        let mut own = admin;
        own["users"][0]["user"] = json!({"token": token.trim()});
        let file = cluster.dir.0.join("installer.kubeconfig");
        std::fs::write(&file, own.to_string()).expect("the kubeconfig is written");
        let log = std::fs::File::create(cluster.dir.0.join("c/installer.log")).expect("a log");
        let installer = Command::new(common::NETWRIGHT)
            .args([
                "controller",
                "--install",
                "--namespace",
                "nmstate",
                "--identity",
                "bed",
                "--image",
                "example.org/nw:7",
                "--kubeconfig",
            ])
            .arg(&file)
            .stderr(log)
            .spawn()
            .expect("netwright starts");
        Bed { cluster, installer }
    }

    fn get(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["get", "--ignore-not-found"], args].concat())
    }

    fn eventually(&self, what: &str, holds: impl FnMut() -> bool) {
        common::wait_for(what, Duration::from_secs(60), holds, || {
            self.cluster.log("installer.log")
        });
    }

    fn shows(&self, what: &str, args: &[&str], path: &str, want: &str) {
        let path = format!("jsonpath={path}");
        self.eventually(what, || self.get(&[args, &["-o", &path]].concat()) == want);
    }

    fn writes(&self) -> usize {
        self.cluster.log("installer.log").matches(" applied").count()
    }
}

const AGENT: [&str; 4] = ["-n", "nmstate", "daemonset", "netwright-agent"];
const CONTROLLER: [&str; 4] = ["-n", "nmstate", "deployment", "netwright-controller"];
const TRUE: &str = "{.status.conditions[?(@.status==\"True\")].type}";

/// What is in `deploy/netwright.yaml`, without the namespace.
fn all(bed: &Bed) -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/netwright.yaml");
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.ownerReferences[*].name}{\"\\n\"}{end}";
    let text = bed.get(&["-f", file, "-o", path]);
    text.lines()
        .filter(|l| !l.starts_with("Namespace/"))
        .map(str::to_owned)
        .collect()
}

/// What kubernetes-nmstate leaves when its operator is taken away: all of it its NMState's, but for one thing that somebody else has made.
fn predecessor(cluster: &Cluster, uid: &str) {
    let owner = format!("ownerReferences: [{{apiVersion: nmstate.io/v1, kind: NMState, name: nmstate, uid: {uid}}}]");
    let workload = |kind: &str, name: &str, owner: &str| {
        format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: nmstate, {owner}}}\nspec: {{selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}\n---\n"
        )
    };
    let text = [
        workload("DaemonSet", "nmstate-handler", &owner),
        workload("Deployment", "nmstate-webhook", &owner),
        workload("Deployment", "nmstate-metrics", ""),
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {{name: nmstate, {owner}}}\n---\n\
             apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: nncp-validation-policy, {owner}}}\n\
             spec: {{matchConstraints: {{resourceRules: [{{apiGroups: [nmstate.io], apiVersions: [v1], operations: [UPDATE], resources: [nodenetworkconfigurationpolicies]}}]}}, \
             validations: [{{expression: 'false'}}]}}\n"
        ),
    ];
    cluster.kubectl_apply(&text.concat());
}

/// What is left of it.
fn left(bed: &Bed) -> Vec<String> {
    let there = |namespaced: &[&str], what: &str| bed.get(&[namespaced, &[what, "-o", "name"]].concat());
    let text = [
        there(&["-n", "nmstate"], "daemonset,deployment"),
        there(&[], "mutatingwebhookconfiguration"),
        there(&[], "validatingadmissionpolicy"),
    ];
    let text = text.concat();
    let lines = text.lines().filter(|l| l.contains("nmstate") || l.contains("nncp"));
    lines.map(str::to_owned).collect()
}

#[test]
fn an_object_leads_to_an_installation_and_its_deletion_to_none() {
    if !may_run() {
        return;
    }
    let bed = Bed::up();
    let wish = |spec: &str| {
        let text =
            format!("apiVersion: nmstate.io/v1beta1\nkind: NMState\nmetadata: {{name: nmstate}}\nspec: {spec}\n");
        bed.cluster.kubectl_apply(&text);
    };
    wish("{nodeSelector: {a: b}, logLevel: debug}");
    bed.eventually("what kubernetes-nmstate made for it is gone", || {
        left(&bed) == ["deployment.apps/nmstate-metrics"]
    });
    bed.shows("it is being installed", &["nmstate", "nmstate"], TRUE, "Progressing");
    bed.shows("agents", &AGENT, "{.spec.template.spec.nodeSelector}", "{\"a\":\"b\"}");
    bed.shows(
        "the image",
        &CONTROLLER,
        "{.spec.template.spec.containers[0].image}",
        "example.org/nw:7",
    );
    let owned = all(&bed);
    assert!(
        owned.len() > 20 && owned.iter().all(|l| l.ends_with(" nmstate")),
        "{owned:?}"
    );

    // its pods come up, as far as the apiserver is told
    for (what, status) in [
        (
            AGENT,
            "{\"desiredNumberScheduled\": 1, \"currentNumberScheduled\": 1, \"numberMisscheduled\": 0, \"numberReady\": 1, \"updatedNumberScheduled\": 1, \"numberAvailable\": 1, \"observedGeneration\": 9}",
        ),
        (
            CONTROLLER,
            "{\"replicas\": 2, \"updatedReplicas\": 2, \"readyReplicas\": 2, \"availableReplicas\": 2, \"observedGeneration\": 9}",
        ),
    ] {
        let patch = format!("{{\"status\": {status}}}");
        bed.cluster.kubectl(
            &[
                &["patch", "--subresource=status", "--type=merge", "-p", &patch],
                &what[..],
            ]
            .concat(),
        );
    }
    bed.shows("it stands", &["nmstate", "nmstate"], TRUE, "Available");

    // changed by hand, changed in the wish
    let before = bed.writes();
    bed.cluster.kubectl(&[
        "-n",
        "nmstate",
        "set",
        "image",
        "daemonset/netwright-agent",
        "agent=other:1",
    ]);
    bed.shows(
        "the image is put back",
        &AGENT,
        "{.spec.template.spec.containers[0].image}",
        "example.org/nw:7",
    );
    // the apiserver shows it before the installer has had the answer
    let log = || bed.cluster.log("installer.log");
    common::wait_for("it is told", Duration::from_secs(10), || bed.writes() > before, log);
    assert_eq!(bed.writes(), before + 1, "{}", log());
    wish("{tolerations: [{key: t, operator: Exists}]}");
    bed.shows(
        "a wish that is gone",
        &AGENT,
        "{.spec.template.spec.nodeSelector}",
        "{\"kubernetes.io/os\":\"linux\"}",
    );
    bed.shows("another wish", &AGENT, "{.spec.template.spec.tolerations[*].key}", "t");
    bed.cluster
        .kubectl(&["-n", "nmstate", "delete", "deployment", "netwright-controller"]);
    bed.shows("what is deleted comes back", &CONTROLLER, "{.spec.replicas}", "2");

    // a wish that cannot be, and its way out
    wish("{infraAffinity: {nodeAffinity: 7}}");
    bed.shows("it fails", &["nmstate", "nmstate"], TRUE, "Degraded");
    wish("{}");
    bed.shows("it is mended", &["nmstate", "nmstate"], TRUE, "Progressing");

    // there is one installation
    bed.cluster
        .kubectl_apply("apiVersion: nmstate.io/v1\nkind: NMState\nmetadata: {name: second}\n");
    bed.eventually("the second one is gone", || bed.get(&["nmstate", "second"]).is_empty());
    assert!(
        bed.get(&["events", "-n", "default"])
            .contains("NMState nmstate is older"),
        "{}",
        bed.get(&["events", "-A"])
    );

    // somebody else's object of the same name, and what the controller made
    bed.cluster
        .kubectl(&["-n", "nmstate", "create", "secret", "generic", "netwright-webhook"]);
    bed.cluster
        .kubectl(&["annotate", "clusterrole", "netwright-view", "mine=yes"]);
    bed.cluster.kubectl(&[
        "patch",
        "clusterrole",
        "netwright-view",
        "--type=json",
        "-p",
        "[{\"op\": \"remove\", \"path\": \"/metadata/ownerReferences\"}]",
    ]);
    bed.shows(
        "nobody owns it",
        &["clusterrole", "netwright-view"],
        "{.metadata.ownerReferences[*].name}",
        "",
    );
    bed.cluster.kubectl(&["delete", "nmstate", "nmstate"]);
    bed.eventually("everything is removed", || all(&bed) == ["ClusterRole/netwright-view "]);
    bed.eventually("the secret is removed", || {
        bed.get(&["-n", "nmstate", "secret", "netwright-webhook"]).is_empty()
    });
    assert!(
        !bed.get(&["namespace", "nmstate"]).is_empty() && !bed.get(&["crd", "nodenetworkstates.nmstate.io"]).is_empty()
    );
}
