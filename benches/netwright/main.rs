//! `make bench`: netwright beside NetworkManager's own floor, in one run on one node, as ratios; then a policy's way through a real
//! apiserver, memory and size. What misses its target is marked.
//!
//! Floor: the same profiles sent pipelined over one D-Bus connection by a bare client, until NetworkManager has answered, and when they
//! are deleted until the links are gone; a bare GetManagedObjects with all profiles; a bare netlink dump. With `PEER=path` the same
//! documents go through that `nmstatectl`. On a machine that has other work `chrt -r 1 make bench` comes near to what a quiet one gives.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use netwright::facts::Facts;
use netwright::host::Host;
use netwright::host::live::LiveHost;
use netwright::kernel::Kernel;
use netwright::nm::NetworkManager;
use netwright::plan::plan;
use netwright::probe::Prober;
use netwright::state::NetworkState;
use netwright::step::Step;
use netwright::transaction::{Options, Outcome, run};
use serde_json::{Value, json};

mod cluster;
mod webhook;

/// A script of the test beds.
fn bed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed").join(name)
}

/// `ok` or `MISSED` beside what is wanted.
fn verdict(got: f64, limit: f64, unit: &str) -> String {
    let word = if got <= limit { "ok" } else { "MISSED" };
    format!("{word} (≤ {limit}{unit})")
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|a| a == "--inside") {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(inside());
    }
    node();
    cluster::main();
    webhook::main();
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_netwright")).map_or(0, |m| m.len());
    println!("binary, stripped{:22}{:8.1} MB", "", size as f64 / 1e6);
}

/// The first part runs inside a node.
fn node() {
    let dir = std::env::temp_dir().join(format!("nwbench{}", std::process::id()));
    let run = |verb: &str, rest: &[&str]| {
        Command::new(bed("node.sh"))
            .arg(verb)
            .arg(&dir)
            .args(rest)
            .status()
            .expect("the bed's script starts")
    };
    assert!(
        run("up", &["bench", "--log-level", "WARN"]).success(),
        "the bed did not come up"
    );
    let me = std::env::current_exe().expect("own path");
    let done = run("exec", &[me.to_str().expect("a path in UTF-8"), "--inside"]);
    run("down", &[]);
    let _ = std::fs::remove_dir_all(&dir);
    assert!(done.success());
}

fn bridge(i: usize, state: &str, mtu: u32) -> Value {
    let address = format!("10.{}.{}.1", 100 + i / 250, i % 250);
    match state {
        "absent" => json!({"name": format!("nb{i}"), "type": "linux-bridge", "state": "absent"}),
        _ => json!({
            "name": format!("nb{i}"), "type": "linux-bridge", "state": "up", "mtu": mtu,
            "ipv4": {"enabled": true, "dhcp": false, "address": [{"ip": address, "prefix-length": 24}]},
            "bridge": {"options": {"stp": {"enabled": false}}, "port": []},
        }),
    }
}

fn bridges(n: usize, state: &str, mtu: u32) -> Value {
    json!({ "interfaces": (0..n).map(|i| bridge(i, state, mtu)).collect::<Vec<_>>() })
}

/// What something took: time on the clock, and processor time of netwright, the bus and NetworkManager together, which says more
/// on a machine that has other work.
#[derive(Debug, Clone, Copy)]
struct Cost {
    time: Duration,
    cpu: Duration,
}

/// The stopwatch.
struct Begin(Instant, Duration);

impl Begin {
    fn now() -> Self {
        Begin(Instant::now(), cpu())
    }

    fn end(&self) -> Cost {
        Cost {
            time: self.0.elapsed(),
            cpu: cpu() - self.1,
        }
    }
}

/// Processor time of everything in this network namespace.
fn cpu() -> Duration {
    let ours = std::fs::read_link("/proc/self/ns/net").ok();
    let used = |process: std::fs::DirEntry| {
        (std::fs::read_link(process.path().join("ns/net")).ok() == ours).then_some(())?;
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        // proc_pid_stat(5): utime and stime are fields 14 and 15, in 1/100 s; the second field ends with the last ')'
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    Duration::from_millis(10 * processes.filter_map(used).sum::<u64>())
}

async fn apply(host: &LiveHost, document: &Value) -> Cost {
    let begin = Begin::now();
    let wish = NetworkState::from_json(document.clone()).expect("the document parses");
    let report = run(host, &Prober::none(), &wish, &Options::default()).await;
    assert!(
        matches!(report.outcome, Outcome::Applied | Outcome::Unchanged),
        "{:?}",
        report.outcome
    );
    begin.end()
}

/// What a bare client needs for the profiles of the same plan: add and activate, then delete; each phase pipelined.
async fn floor(host: &LiveHost, nm: &NetworkManager, document: &Value) -> (Cost, Cost) {
    let wish = NetworkState::from_json(document.clone()).expect("the document parses");
    let steps = plan(&wish, &host.observe().await.expect("observed"))
        .expect("planned")
        .waves
        .concat();
    let profiles: Vec<_> = steps
        .iter()
        .filter_map(|s| match s {
            Step::Save { iface, profile, .. } => Some((iface.name.clone(), profile.clone())),
            _ => None,
        })
        .collect();
    let begin = Begin::now();
    let saved = try_join_all(profiles.iter().map(|(iface, p)| nm.save(iface, p, None, false, false)))
        .await
        .expect("saved");
    let names = profiles.iter().map(|(iface, _)| iface);
    try_join_all(
        saved
            .iter()
            .zip(names.clone())
            .map(|(at, iface)| nm.activate(iface, at, None)),
    )
    .await
    .expect("activated");
    let time = begin.end().time;
    let count = profiles.len();
    until(host, |facts| {
        facts.devices.iter().filter(|d| d.state == 100).count() >= count
    })
    .await;
    let up = Cost { time, ..begin.end() };
    let begin = Begin::now();
    try_join_all(saved.iter().zip(names).map(|(at, iface)| nm.forget(iface, at)))
        .await
        .expect("deleted");
    // NetworkManager answers before the kernel is through, which takes nearly all of the time
    until(host, |facts| !facts.links.iter().any(|l| l.name.starts_with("nb"))).await;
    (up, begin.end())
}

/// Looks at the node at each event until it is as wanted.
async fn until(host: &LiveHost, wanted: impl Fn(&Facts) -> bool) {
    while !wanted(&host.observe().await.expect("observed").facts) {
        host.changed(Duration::from_secs(1)).await;
    }
}

/// What a row must not exceed: seconds, or a ratio to the floor.
enum Target {
    None,
    Seconds(f64),
    Floor(f64),
}

fn row(n: usize, what: &str, ours: Cost, floor: Option<Cost>, peer: Option<Duration>, target: Target) {
    let over = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    let ratio = |other: Option<Duration>| match other {
        Some(other) => format!("{:8.3} s {:6.2}x", other.as_secs_f64(), over(ours.time, other)),
        None => format!("{:>18}", "-"),
    };
    let of_floor = match floor {
        Some(floor) if floor.cpu > Duration::from_millis(50) => format!("{:5.2}x", over(ours.cpu, floor.cpu)),
        _ => format!("{:>6}", "-"),
    };
    let target = match (target, floor) {
        (Target::Seconds(limit), _) => verdict(ours.time.as_secs_f64(), limit, " s"),
        (Target::Floor(limit), Some(floor)) => verdict(over(ours.time, floor.time), limit, "x"),
        _ => String::new(),
    };
    println!(
        "{n:>4}  {what:<28}{:8.3} s {:7.2} s   {} {of_floor}   {}   {target}",
        ours.time.as_secs_f64(),
        ours.cpu.as_secs_f64(),
        ratio(floor.map(|f| f.time)),
        ratio(peer)
    );
}

/// `nmstatectl` with a document on stdin, where PEER names one.
fn peer(args: &[&str], document: Option<&Value>) -> Option<Duration> {
    let path = std::env::var_os("PEER")?;
    let begin = Instant::now();
    let mut child = Command::new(path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let (Some(document), Some(stdin)) = (document, child.stdin.take()) {
        serde_json::to_writer(stdin, document).ok()?;
    }
    child.wait().ok()?.success().then(|| begin.elapsed())
}

/// One size: floor and peer first, then ours. Gives what a bridge costs: first apply, re-apply, absent.
async fn bridges_of(n: usize, host: &LiveHost, nm: &NetworkManager, kernel: &Kernel) -> [Cost; 3] {
    let (up, absent) = (bridges(n, "up", 1500), bridges(n, "absent", 0));
    let (floor_up, floor_down) = floor(host, nm, &up).await;
    let peer_first = peer(&["apply", "-"], Some(&up));
    let peer_again = peer(&["apply", "-"], Some(&up));
    let peer_show = peer(&["show"], None);
    let peer_absent = peer(&["apply", "-"], Some(&absent));
    let at_200 = |target: Target| if n == 200 { target } else { Target::None };
    let first = apply(host, &up).await;
    row(
        n,
        "first apply",
        first,
        Some(floor_up),
        peer_first,
        at_200(Target::Floor(1.5)),
    );
    let begin = Begin::now();
    host.observe().await.expect("observed");
    let show = begin.end();
    let begin = Begin::now();
    let mut facts = Facts::default();
    nm.fill(&mut facts).await.expect("filled");
    kernel.dump().await.expect("dumped");
    row(
        n,
        "show",
        show,
        Some(begin.end()),
        peer_show,
        at_200(Target::Seconds(0.2)),
    );
    let before = writes(host).await;
    let again = apply(host, &up).await;
    row(
        n,
        "apply again, no change",
        again,
        None,
        peer_again,
        at_200(Target::Seconds(0.25)),
    );
    assert_eq!(writes(host).await, before, "nothing may be written");
    let one = apply(host, &json!({"interfaces": [bridge(0, "up", 1400)]})).await;
    row(n, "one property of one changed", one, None, None, Target::None);
    let gone = apply(host, &absent).await;
    let target = if n == 100 { Target::Floor(1.1) } else { Target::None };
    row(n, "made absent", gone, Some(floor_down), peer_absent, target);
    [first, again, gone]
}

/// Time stamps of the profiles' files: what is written shows there.
async fn writes(host: &LiveHost) -> Vec<(String, std::time::SystemTime)> {
    let profiles = host.observe().await.expect("observed").facts.profiles;
    let file = |name: String| Some((name.clone(), std::fs::metadata(&name).ok()?.modified().ok()?));
    profiles.into_iter().filter_map(|p| file(p.filename)).collect()
}

async fn inside() {
    let host = LiveHost::connect().await.expect("NetworkManager answers");
    let nm = NetworkManager::connect().await.expect("NetworkManager answers");
    let kernel = Kernel::connect().await.expect("netlink answers");
    println!(
        "{:>4}  {:<28}{:>10} {:>9}   {:>18} {:>6}   {:>18}   target",
        "N", "bridges with an address", "netwright", "cpu", "floor, ratio", "cpu", "peer, ratio"
    );
    let mut costs = vec![];
    for n in [1, 10, 100, 200] {
        costs.push((n, bridges_of(n, &host, &nm, &kernel).await));
    }
    let each = |n: usize, k: usize| {
        let found = costs.iter().find(|(size, _)| *size == n);
        found.map_or(0.0, |(n, all)| all[k].time.as_secs_f64() / *n as f64)
    };
    for (k, what) in ["first apply", "apply again", "made absent"].into_iter().enumerate() {
        let growth = each(200, k) / each(100, k);
        println!(
            "      {what}: one of 200 costs {growth:.2}x of one of 100   {}",
            verdict(growth, 1.5, "x")
        );
    }
    let port = |state: &str| json!({"interfaces": [{"name": "nbp", "type": "linux-bridge", "state": state, "bridge": {"port": [{"name": "eth1"}]}}]});
    let gone = json!({"interfaces": [{"name": "nbp", "type": "linux-bridge", "state": "absent"}]});
    let peer_port = peer(&["apply", "-"], Some(&port("up")));
    let peer_gone = peer(&["apply", "-"], Some(&gone));
    let up = apply(&host, &port("up")).await;
    row(1, "one bridge with a port", up, None, peer_port, Target::Seconds(0.08));
    row(
        1,
        "made absent",
        apply(&host, &gone).await,
        None,
        peer_gone,
        Target::None,
    );
}
