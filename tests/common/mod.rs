//! Beds for tests: a node in network namespaces with its own NetworkManager, and a cluster of them. See `tests/bed/`.

#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use netwright::plan::resolve::comparable;
use netwright::state::NetworkState;
use serde_json::Value;

/// The binary under test.
pub const NETWRIGHT: &str = env!("CARGO_BIN_EXE_netwright");

/// Beds need root. Without it tests say so and pass, unless CI promised it.
pub fn may_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI runs as root, so that nothing is skipped"
        );
        eprintln!("SKIPPED: network namespaces need root");
    }
    root
}

/// As [`may_run`], for nodes with Open vSwitch. The bed builds NetworkManager once where the distribution's has no plug-in
/// (Debian's has none).
pub fn may_run_ovs() -> bool {
    if !may_run() {
        return false;
    }
    let mut can = Command::new(script("nm-ovs.sh"));
    let can = can.arg("--can").status().is_ok_and(|status| status.success());
    if !can {
        assert!(std::env::var_os("CI").is_none(), "CI can build NetworkManager");
        eprintln!("SKIPPED: there is no NetworkManager with Open vSwitch, and it cannot be built here");
    }
    can
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed").join(name)
}

/// Runs and gives stdout; panics with everything said where it fails.
pub fn must(command: &mut Command) -> String {
    let out = command.output().expect("the command starts");
    assert!(out.status.success(), "{command:?}\n{}", said(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Of profiles as files (a name, the text), those that NetworkManager's own reader refuses, and why.
pub fn refused_by_nmcli(files: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let files: Vec<(String, String)> = files.collect();
    let judge = |(name, text): &(String, String)| {
        let mut nmcli = Command::new("nmcli");
        // something has to be changed for it to read the file at all
        let nmcli = nmcli.args(["--offline", "connection", "modify", "connection.zone", "judged"]);
        let mut nmcli = nmcli
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nmcli starts");
        let mut input = nmcli.stdin.take().expect("it has a pipe");
        input.write_all(text.as_bytes()).expect("nmcli reads");
        drop(input);
        let out = nmcli.wait_with_output().expect("nmcli ends");
        let fine = out.status.success() && out.stderr.is_empty();
        (!fine).then(|| format!("{name}: {}\n{text}", said(&out)))
    };
    std::thread::scope(|scope| {
        let halves = files.chunks(files.len().div_ceil(2).max(1));
        let halves: Vec<_> = halves
            .map(|half| scope.spawn(move || half.iter().filter_map(judge).collect::<Vec<_>>()))
            .collect();
        halves
            .into_iter()
            .flat_map(|half| half.join().expect("it ends"))
            .collect()
    })
}

/// The YAML files below this folder of `tests/`, in order.
pub fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files = vec![];
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the cases are there").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|e| e == "yaml") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What is configured, with interfaces, routes and rules as maps.
pub fn shape(state: &NetworkState) -> Value {
    let state = state.clone().running_config();
    let interfaces: Value = (state.interfaces.iter())
        .map(|i| {
            // what is down has what the kernel left it, and the address of what was made anew is drawn by the kernel
            let known = i.kind.type_name() != "" && !i.is_ignored() && i.is_up();
            let mut tree = if known { comparable(i) } else { Default::default() };
            if i.kind.is_virtual() || i.name().starts_with("eth1v") {
                tree.remove("mac-address");
            }
            (format!("{} {}", i.name(), i.kind.type_name()), Value::Object(tree))
        })
        .collect();
    let mut whole = state.to_json();
    let mut set = |key: &str| -> Value {
        let section = whole
            .as_object_mut()
            .and_then(|map| map.remove(key))
            .unwrap_or_default();
        let list = section["config"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|entry| (entry.to_string(), Value::Bool(true)))
            .collect()
    };
    let (routes, rules) = (set("routes"), set("route-rules"));
    serde_json::json!({"interfaces": interfaces, "routes": routes, "rules": rules, "dns": whole["dns-resolver"], "hostname": whole["hostname"],
        "ovs-db": whole["ovs-db"], "ovn": whole["ovn"]})
}

fn variable(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    lines.next().unwrap_or_default().to_owned()
}

/// Waits until it holds; panics with the story where it does not.
pub fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool, story: impl Fn() -> String) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}\n{}", story());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends one LLDP frame of a switch with this name to the node whose wires end in this namespace.
pub fn send_lldp(netns: &str, switch: &str) {
    let frame = "import socket, struct, sys
tlv = lambda kind, value: struct.pack('!H', kind << 9 | len(value)) + value
mac = bytes.fromhex('000130f9ada0')
frame = bytes.fromhex('0180c200000e') + mac + b'\\x88\\xcc' + tlv(1, b'\\x04' + mac) + tlv(2, b'\\x051/1')
frame += tlv(3, struct.pack('!H', 120)) + tlv(5, sys.argv[1].encode()) + tlv(7, struct.pack('!HH', 20, 20))
frame += tlv(127, bytes.fromhex('0080c203') + struct.pack('!HB', 488, 4) + b'v488') + tlv(0, b'')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('w-eth1', 0x88cc))
s.send(frame)";
    must(Command::new("ip").args(["netns", "exec", netns, "python3", "-c", frame, switch]));
}

/// stdout and stderr.
pub fn said(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// A folder that goes away.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(what: &str) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let path = std::env::temp_dir().join(format!("nw-{what}-{}", &unique[..8]));
        std::fs::create_dir_all(&path).expect("a folder under the temporary one");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node with its own NetworkManager.
pub struct Node {
    pub dir: Dir,
}

impl Node {
    pub fn up(options: &[&str]) -> Self {
        let dir = Dir::new("node");
        must(
            Command::new(script("node.sh"))
                .arg("up")
                .arg(dir.0.join("n"))
                .arg("node01")
                .args(options),
        );
        Node { dir }
    }

    fn bed(&self) -> PathBuf {
        self.dir.0.join("n")
    }

    /// A command inside the node.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = node_verb(&self.bed(), "exec");
        command.arg(program).args(args);
        command
    }

    /// `netwright apply` of this text, with probes.
    pub fn apply(&self, yaml: &str, flags: &[&str]) -> Output {
        let file = self.dir.0.join("wish.yaml");
        std::fs::write(&file, yaml).expect("the wish is written");
        let state = self.dir.0.join("state");
        let mut command = self.command(NETWRIGHT, &["apply"]);
        command.arg(file).arg("--state-dir").arg(state).args(flags);
        command.output().expect("netwright starts")
    }

    /// Output of `ip` inside the node.
    pub fn ip(&self, args: &[&str]) -> String {
        must(&mut self.command("ip", args))
    }

    /// Lines of NetworkManager's log that tell of something done over D-Bus.
    pub fn audit(&self) -> usize {
        let log = std::fs::read_to_string(self.bed().join("NetworkManager.log")).unwrap_or_default();
        log.lines().filter(|l| l.contains("audit: op=")).count()
    }

    /// NetworkManager's profiles on disk: text by file name.
    pub fn profiles(&self) -> BTreeMap<String, String> {
        let folder = format!("{}/etc/system-connections", self.env("NM_DIR"));
        let files = std::fs::read_dir(folder)
            .expect("it is there")
            .map(|f| f.expect("it is read"));
        let text = |f: &std::fs::DirEntry| std::fs::read_to_string(f.path()).expect("it is text");
        files
            .map(|f| (f.file_name().to_string_lossy().into_owned(), text(&f)))
            .collect()
    }

    /// A variable of the bed.
    pub fn env(&self, name: &str) -> String {
        variable(
            &std::fs::read_to_string(self.bed().join("env")).unwrap_or_default(),
            name,
        )
    }

    /// Another verb of `node.sh`.
    pub fn bed_verb(&self, verb: &str, args: &[&str]) {
        must(node_verb(&self.bed(), verb).args(args));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = node_verb(&self.bed(), "down").output();
    }
}

/// A verb of `node.sh` on the node that was made in this folder.
pub fn node_verb(bed: &Path, verb: &str) -> Command {
    let mut command = Command::new(script("node.sh"));
    command.arg(verb).arg(bed);
    command
}

/// A control plane with nodes, agents and a controller.
pub struct Cluster {
    pub dir: Dir,
}

impl Cluster {
    pub fn up(nodes: &str) -> Self {
        Cluster::with(&["--nodes", nodes])
    }

    /// With options of `cluster.sh up`.
    pub fn with(options: &[&str]) -> Self {
        let dir = Dir::new("cluster");
        let cluster = Cluster { dir };
        must(cluster.verb("up").args(options));
        cluster
    }

    /// A verb of `cluster.sh`.
    pub fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(script("cluster.sh"));
        command
            .env("NETWRIGHT_BIN", NETWRIGHT)
            .arg(verb)
            .arg(self.dir.0.join("c"));
        command
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        must(self.verb("kubectl").args(args))
    }

    /// Applies a manifest from a file.
    pub fn kubectl_apply(&self, yaml: &str) {
        let file = self.dir.0.join("manifest.yaml");
        std::fs::write(&file, yaml).expect("the manifest is written");
        must(self.verb("kubectl").arg("apply").arg("-f").arg(file));
    }

    /// A variable of the bed.
    pub fn env(&self, name: &str) -> String {
        variable(&self.log("env"), name)
    }

    /// A variable of one node.
    pub fn node_env(&self, node: &str, name: &str) -> String {
        variable(&self.log(&format!("{node}/env")), name)
    }

    /// A verb of `node.sh` on one node.
    pub fn node_verb(&self, node: &str, verb: &str) -> Command {
        node_verb(&self.dir.0.join("c").join(node), verb)
    }

    /// GET of a page from inside a node, or beside the apiserver.
    pub fn page(&self, inside: Option<&str>, port: u16, path: &str) -> String {
        let get = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nAccept: application/openmetrics-text\\r\\n\\r\\n' >&3; cat <&3"
        );
        let output = match inside {
            Some(node) => self.verb("exec").args([node, "bash", "-c", &get]).output(),
            None => {
                let netns = self.env("CP_NETNS");
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", &netns, "bash", "-c", &get]).output()
            }
        };
        String::from_utf8_lossy(&output.expect("bash").stdout).into_owned()
    }

    /// A log of the bed.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.0.join("c").join(name)).unwrap_or_default()
    }
}

/// The way back out of a network namespace, taken when this is dropped.
pub struct Inside(std::fs::File);

/// This thread, and those that it starts, are inside the control plane of the bed in `dir` as long as what it gives is there. The bed must
/// be taken down from outside: it ends every process that is inside.
#[must_use]
pub fn enter(dir: &Path) -> Inside {
    let outside = std::fs::File::open("/proc/thread-self/ns/net").expect("every thread has one");
    move_into(&std::fs::File::open(Path::new("/run/netns").join(control_plane(dir))).expect("it exists"));
    Inside(outside)
}

/// The network namespace of the control plane of the bed in `dir`.
pub fn control_plane(dir: &Path) -> String {
    let env = std::fs::read_to_string(dir.join("env")).expect("the bed is up");
    let netns = variable(&env, "CP_NETNS");
    assert!(!netns.is_empty(), "its namespace");
    netns
}

fn move_into(namespace: &std::fs::File) {
    use std::os::fd::AsFd;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter it");
}

impl Drop for Inside {
    fn drop(&mut self) {
        move_into(&self.0);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.verb("down").output();
    }
}

/// An agent's flags as they are by default. Its state is kept apart from that of other nodes and of other runs.
pub fn agent_flags(node: &str) -> netwright::agent::Config {
    netwright::agent::Config {
        node_name: node.to_owned(),
        kubeconfig: None,
        state_dir: std::env::temp_dir()
            .join(format!("nw-agents-{}", std::process::id()))
            .join(node),
        run_dir: PathBuf::new(),
        policy_dir: None,
        bridge_marker: false,
        handler_lock: Default::default(),
        metrics_address: netwright::serve::Address(None),
        probe_timeout: Duration::from_secs(120),
        probe_dns_host: None,
        probe_retries: 1,
        max_retries: 5,
        initial_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(30),
    }
}
