//! What agent and controller tell Prometheus: every name, type and label of `deploy/METRICS.md`.
//!
//! In: one call where something happens. Out: the text of a scrape. Counters count from the start of the process, so there is one set of them in it;
//! tests make their own.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

mod agent;
pub mod apiserver;
mod controller;
mod process;

pub use agent::{Agent, Look, Round};
pub use controller::{Ask, Census, Controller, Counts, Routes};

/// Names and values of labels.
type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

static AGENT: LazyLock<Agent> = LazyLock::new(Agent::default);
static CONTROLLER: LazyLock<Controller> = LazyLock::new(Controller::default);
static APISERVER: LazyLock<apiserver::Calls> = LazyLock::new(apiserver::Calls::default);

/// What this process counts as an agent.
pub fn agent() -> &'static Agent {
    &AGENT
}

/// What this process counts as a controller.
pub fn controller() -> &'static Controller {
    &CONTROLLER
}

/// Which of the two is scraped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `netwright agent`.
    Agent,
    /// `netwright controller`.
    Controller,
}

/// All that a scrape of this process shows.
pub fn registry(role: Role) -> Registry {
    let mut registry = Registry::default();
    let word = match role {
        Role::Agent => {
            agent().register(&mut registry);
            "agent"
        }
        Role::Controller => {
            controller().register(&mut registry);
            "controller"
        }
    };
    let build = Gauges::<2>::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("role", word.to_owned()),
    ];
    build.get_or_create(&labels).set(1);
    registry.register("netwright_build_info", "Version and role of the process", build);
    APISERVER.register(&mut registry);
    registry.register_collector(Box::new(process::Process));
    registry
}

/// The text of a scrape: OpenMetrics 1.0, or what Prometheus spoke before.
pub fn text(registry: &Registry, openmetrics: bool) -> String {
    let mut text = String::new();
    // writing to a String does not fail
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    if openmetrics { text } else { older(&text) }
}

/// A counter bears its full name in the older format's comments, and there is no end mark.
fn older(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|l| *l != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(&name) => {
                out.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// A word as label values have it: small letters, digits and underscores.
fn word(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    text.chars().map(plain).collect()
}

/// Observes its time when it is dropped.
#[derive(Debug)]
pub struct Timer {
    histogram: Histogram,
    begun: std::time::Instant,
}

impl Timer {
    fn new(histogram: Histogram) -> Self {
        Timer {
            histogram,
            begun: std::time::Instant::now(),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram.observe(self.begun.elapsed().as_secs_f64());
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_has_counters_under_their_full_names_and_no_end() {
        let text = "# HELP a Things.\n# TYPE a counter\na_total 1\n# HELP b Other.\n# TYPE b gauge\nb 2\n# EOF\n";
        assert_eq!(
            older(text),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n# HELP b Other.\n# TYPE b gauge\nb 2\n"
        );
    }

    #[test]
    fn words_are_plain() {
        assert_eq!(word("node-readiness"), "node_readiness");
        assert_eq!(word("Rack 7\"\n"), "rack_7__");
    }

    /// Every series of a text: name, labels, value.
    fn series(text: &str) -> Vec<(String, String, f64)> {
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        let one = |l: &str| {
            let (series, value) = l.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').expect("an end of labels");
            (name.to_owned(), labels.to_owned(), value.parse().expect("a number"))
        };
        lines.map(one).collect()
    }

    /// Names, types and labels of a table in METRICS.md.
    fn promised(section: &str) -> Vec<(String, String, Vec<String>)> {
        let text = include_str!("../../deploy/METRICS.md");
        let (_, rest) = text.split_once(&format!("## {section}\n")).expect("a section");
        let table = rest.split("\n## ").next().unwrap_or_default();
        let rows = table.lines().filter_map(|l| l.strip_prefix("| `"));
        let row = |l: &str| {
            let mut cells = l.split('|');
            let name = cells.next()?.trim_end().trim_end_matches('`').to_owned();
            let kind = cells.next()?.trim().to_owned();
            let quoted = |part: &str| Some(part.split('`').nth(1)?.to_owned());
            let labels = cells.next()?.split(';').flat_map(|of| {
                let names = of.split(':').next().unwrap_or_default();
                names.split(',').filter_map(quoted).collect::<Vec<_>>()
            });
            Some((name, kind, labels.collect()))
        };
        rows.filter_map(row).collect()
    }

    fn holds(text: &str, section: &str, may_lack: &[&str]) {
        let all = series(text);
        let rows = promised(section);
        assert!(rows.len() >= 6, "{section}: {rows:?}");
        for (name, kind, labels) in rows {
            if may_lack.contains(&name.as_str()) {
                continue;
            }
            let family = if kind == "counter" {
                name.trim_end_matches("_total")
            } else {
                &name
            };
            assert!(
                text.contains(&format!("# TYPE {family} {kind}\n")),
                "{name} is no {kind}\n{text}"
            );
            let sample = if kind == "histogram" {
                format!("{name}_count")
            } else {
                name.clone()
            };
            let found: Vec<_> = all.iter().filter(|(n, ..)| *n == sample).collect();
            assert!(!found.is_empty(), "{sample} has no series\n{text}");
            for (_, have, _) in found {
                let have: Vec<&str> = have.split(',').filter_map(|l| Some(l.split_once('=')?.0)).collect();
                let mut want: Vec<&str> = labels.iter().map(String::as_str).collect();
                let mut have = have;
                want.sort_unstable();
                have.sort_unstable();
                assert_eq!(have, want, "labels of {name}");
            }
        }
    }

    #[test]
    fn a_scrape_shows_what_the_page_promises_from_the_start() {
        // these have no series before there is something to tell
        let agent = [
            "netwright_policy_drifted",
            "netwright_dbus_calls_total",
            "netwright_dbus_call_duration_seconds",
            "netwright_networkmanager_info",
        ];
        let mut registry = Registry::default();
        Agent::default().register(&mut registry);
        holds(&text(&registry, true), "Agent", &agent);
        let controller = [
            "kubernetes_nmstate_features_applied",
            "kubernetes_nmstate_network_interfaces",
            "kubernetes_nmstate_routes",
            "kubernetes_nmstate_policies_status",
            "kubernetes_nmstate_enactments_status",
            "netwright_slots_held",
            "netwright_slots_allowed",
        ];
        let mut registry = Registry::default();
        Controller::default().register(&mut registry);
        holds(&text(&registry, true), "Controller", &controller);
        let calls = [
            "netwright_apiserver_requests_total",
            "netwright_apiserver_request_duration_seconds",
        ];
        holds(&text(&super::registry(Role::Agent), true), "Both", &calls);
        assert!(text(&super::registry(Role::Controller), true).ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn what_has_happened_is_told() {
        let agent = Agent::default();
        drop(agent.dbus_call("GetSettings"));
        agent.networkmanager("1.42.4");
        agent.drifts_of(|| vec![("br0".to_owned(), true), ("br1".to_owned(), false)]);
        let controller = Controller::default();
        controller.slots("br0", 1, 2);
        let counts = Counts {
            interfaces: [("veth".to_owned(), 2)].into(),
            routes: Routes {
                static_v4: 1,
                dynamic_v6: 3,
                ..Routes::default()
            },
        };
        let census = Census {
            features: ["lldp".to_owned()].into(),
            policies: [("Available", 1)].into(),
            enactments: [(("node01".to_owned(), "Failing"), 1)].into(),
            nodes: [("node01".to_owned(), counts)].into(),
        };
        let mut asks = controller.lead();
        let answer = async { asks.recv().await.unwrap().send(census).unwrap() };
        tokio::join!(controller.refresh(), answer);
        let calls = apiserver::Calls::default();
        let mut registry = Registry::default();
        agent.register(&mut registry);
        controller.register(&mut registry);
        drop(calls.asked(&http::Method::GET, "/api/v1/nodes/n", ""));
        calls.register(&mut registry);
        let text = text(&registry, true);
        holds(&text, "Agent", &[]);
        holds(&text, "Controller", &[]);
        for line in [
            "netwright_dbus_calls_total{method=\"GetSettings\",result=\"error\"} 1",
            "netwright_policy_drifted{policy=\"br0\"} 1",
            "netwright_policy_drifted{policy=\"br1\"} 0",
            "netwright_leader 1",
            "netwright_slots_held{policy=\"br0\"} 1",
            "kubernetes_nmstate_policies_status{status=\"Degraded\"} 0",
            "kubernetes_nmstate_enactments_status{node=\"node01\",status=\"Failing\"} 1",
            "kubernetes_nmstate_network_interfaces{type=\"veth\",node=\"node01\"} 2",
            "kubernetes_nmstate_routes{node=\"node01\",ip_stack=\"ipv6\",type=\"dynamic\"} 3",
            "netwright_apiserver_requests_total{verb=\"get\",resource=\"nodes\",code=\"none\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        controller.follow();
        let mut registry = Registry::default();
        controller.register(&mut registry);
        let text = super::text(&registry, true);
        assert!(text.contains("netwright_leader 0\n"));
        assert!(
            !text.contains("kubernetes_nmstate_"),
            "only the leader tells of the cluster"
        );
    }
}
