//! `make bench`: netwright beside NetworkManager's own floor, in one run on one node, as ratios.
//!
//! Floor: the same profiles sent pipelined over one D-Bus connection by a bare client, until NetworkManager has answered; a bare
//! GetManagedObjects with all profiles; a bare netlink dump. With `PEER=path` the same documents go through that `nmstatectl`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use netwright::facts::Facts;
use netwright::host::live::LiveHost;
use netwright::host::{Host, Step};
use netwright::kernel::Kernel;
use netwright::nm::NetworkManager;
use netwright::plan::plan;
use netwright::probe::Prober;
use netwright::state::NetworkState;
use netwright::transaction::{Options, Outcome, run};
use serde_json::{Value, json};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|a| a == "--inside") {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(inside());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed/node.sh");
    let dir = std::env::temp_dir().join(format!("nwbench{}", std::process::id()));
    let bed = |verb: &str, rest: &[&str]| {
        Command::new(&script)
            .arg(verb)
            .arg(&dir)
            .args(rest)
            .status()
            .expect("the bed's script starts")
    };
    assert!(
        bed("up", &["bench", "--log-level", "WARN"]).success(),
        "the bed did not come up"
    );
    let me = std::env::current_exe().expect("own path");
    let done = bed("exec", &[me.to_str().expect("a path in UTF-8"), "--inside"]);
    bed("down", &[]);
    let _ = std::fs::remove_dir_all(&dir);
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_netwright")).map_or(0, |m| m.len());
    println!("\nbinary of this profile, with symbols: {:.1} MB", size as f64 / 1e6);
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

async fn apply(host: &LiveHost, document: &Value) -> Duration {
    let begin = Instant::now();
    let wish = NetworkState::from_json(document.clone()).expect("the document parses");
    let report = run(host, &Prober::none(), &wish, &Options::default()).await;
    assert!(
        matches!(report.outcome, Outcome::Applied | Outcome::Unchanged),
        "{:?}",
        report.outcome
    );
    begin.elapsed()
}

/// What a bare client needs for the profiles of the same plan: add and activate, then delete; each phase pipelined.
async fn floor(host: &LiveHost, nm: &NetworkManager, document: &Value) -> (Duration, Duration) {
    let wish = NetworkState::from_json(document.clone()).expect("the document parses");
    let steps = plan(&wish, &host.observe().await.expect("observed"))
        .expect("planned")
        .waves
        .concat();
    let profiles: Vec<_> = steps
        .iter()
        .filter_map(|s| match s {
            Step::Save { iface, profile, .. } => Some((iface.clone(), profile.clone())),
            _ => None,
        })
        .collect();
    let begin = Instant::now();
    let saved = try_join_all(profiles.iter().map(|(iface, p)| nm.save(&iface.name, p, None, false)))
        .await
        .expect("saved");
    let names = profiles.iter().map(|(iface, _)| iface);
    try_join_all(
        saved
            .iter()
            .zip(names.clone())
            .map(|(at, iface)| nm.activate(&iface.name, at, None)),
    )
    .await
    .expect("activated");
    let up = begin.elapsed();
    let count = profiles.len();
    while host
        .observe()
        .await
        .expect("observed")
        .facts
        .devices
        .iter()
        .filter(|d| d.state == 100)
        .count()
        < count
    {
        host.changed(Duration::from_secs(1)).await;
    }
    let begin = Instant::now();
    try_join_all(saved.iter().zip(names).map(|(at, iface)| nm.forget(&iface.name, at)))
        .await
        .expect("deleted");
    let down = begin.elapsed();
    while host
        .observe()
        .await
        .expect("observed")
        .facts
        .links
        .iter()
        .any(|l| l.name.starts_with("nb"))
    {
        host.changed(Duration::from_secs(1)).await;
    }
    (up, down)
}

fn row(n: usize, what: &str, ours: Duration, floor: Option<Duration>, peer: Option<Duration>) {
    let ratio = |other: Option<Duration>| match other {
        Some(other) => format!(
            "{:8.3} s {:5.2}x",
            other.as_secs_f64(),
            ours.as_secs_f64() / other.as_secs_f64()
        ),
        None => format!("{:>17}", "-"),
    };
    println!(
        "{n:>4}  {what:<28}{:8.3} s   {}   {}",
        ours.as_secs_f64(),
        ratio(floor),
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

async fn inside() {
    let host = LiveHost::connect().await.expect("NetworkManager answers");
    let nm = NetworkManager::connect().await.expect("NetworkManager answers");
    let kernel = Kernel::connect().await.expect("netlink answers");
    println!(
        "{:>4}  {:<28}{:>10}   {:>17}   {:>17}",
        "N", "bridges with an address", "netwright", "floor, ratio", "peer, ratio"
    );
    for n in [1, 10, 100, 200] {
        let (up, absent) = (bridges(n, "up", 1500), bridges(n, "absent", 0));
        let (floor_up, floor_down) = floor(&host, &nm, &up).await;
        let peer_first = peer(&["apply", "-"], Some(&up));
        let peer_again = peer(&["apply", "-"], Some(&up));
        let peer_show = peer(&["show"], None);
        let peer_absent = peer(&["apply", "-"], Some(&absent));
        row(n, "first apply", apply(&host, &up).await, Some(floor_up), peer_first);
        let begin = Instant::now();
        host.observe().await.expect("observed");
        let show = begin.elapsed();
        let begin = Instant::now();
        let mut facts = Facts::default();
        nm.fill(&mut facts).await.expect("filled");
        kernel.dump().await.expect("dumped");
        row(n, "show", show, Some(begin.elapsed()), peer_show);
        row(n, "apply again, no change", apply(&host, &up).await, None, peer_again);
        row(
            n,
            "one property of one changed",
            apply(&host, &json!({"interfaces": [bridge(0, "up", 1400)]})).await,
            None,
            None,
        );
        row(
            n,
            "made absent",
            apply(&host, &absent).await,
            Some(floor_down),
            peer_absent,
        );
    }
    let port = |state: &str| json!({"interfaces": [{"name": "nbp", "type": "linux-bridge", "state": state, "bridge": {"port": [{"name": "eth1"}]}}]});
    let peer_port = peer(&["apply", "-"], Some(&port("up")));
    peer(&["apply", "-"], Some(&port("absent")));
    row(
        1,
        "one bridge with a port",
        apply(&host, &port("up")).await,
        None,
        peer_port,
    );
    let gone = json!({"interfaces": [{"name": "nbp", "type": "linux-bridge", "state": "absent"}]});
    row(1, "made absent", apply(&host, &gone).await, None, None);
}
