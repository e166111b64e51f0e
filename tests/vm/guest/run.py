"""Runs the catalogue inside the machine: every case of /payload/catalogue, then power is lost in the middle of a change, then what was to
survive that.

A file of the catalogue is a list of cases of one interface type or subject. What a case may say, in the order of its life:

  case: NAME           what it shows
  setup: SHELL         with the functions of lib.sh; also after the reboot
  create: DOCUMENT     `netwright apply`; then the same again must find nothing to change and leave NetworkManager alone
  check: [CHECK…]      what holds now, also where nothing was created
  change: DOCUMENT     likewise
  changed: [CHECK…]
  fails: [{apply: DOCUMENT, says: TEXT}…]    refused or undone: what was said, and everything as before
  absent: DOCUMENT     likewise; then everything must be as it was after `setup`
  gone: [CHECK…]
  cleanup: SHELL       in any case; then the links and their addresses must be those of the start
  rollback: [create, change, absent]    these documents are first applied together with one that cuts the node off its gateway:
                       until the probe fails nothing of it may be on disk, and then everything must be as before
  persist: true        `create` is applied once more at the end, beside that of the other cases, and `check` must hold after the reboot

A check is `show: STATE`, a part of what `netwright show` prints, or `run: SHELL` with `is` (all of stdout), `has`, `lacks`
(texts), `json` (a part of it). A part is: maps with at least these keys, lists with at least these items. `within: SECONDS` lets
it become true.

The first entry of a file may be `without: {create|change|rollback|absent|persist: REASON}`: what none of its cases has. Anything else a
file leaves out makes it fail. `needs: {INTERFACE: WHAT BRINGS IT}` there leaves the file out of a machine that has none. Boot 1 says `end 100` before it loses power, which asks for boot 2.
"""

import configparser
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import yaml

PAYLOAD = Path("/payload")
MEMORY = Path("/var/lib/netwright-vm.json")  # from one boot to the next
PROFILES = [Path("/etc/NetworkManager/system-connections"), Path("/run/NetworkManager/system-connections")]
PHASES = ["create", "change", "rollback", "absent", "persist"]
WORDS = {
    "case", "setup", "create", "check", "change", "changed", "fails", "absent", "gone", "cleanup", "rollback", "persist",
}
AUDIT = re.compile(r"<\w+>.* audit: op=")
UPLINK = "uplink.nmconnection"
# Applied with another document it takes the way to the gateway away.
CUT = {
    "name": "nic0", "type": "ethernet", "state": "up",
    "ipv4": {"enabled": True, "dhcp": False, "address": [{"ip": "10.98.0.2", "prefix-length": 24}]},
}


class Loader(yaml.CSafeLoader):
    """YAML 1.2's scalars: `on` is a string, and so is 52:54:00:00:01:01."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in [
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", "n~"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]+", "-+0123456789"),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


class Failed(Exception):
    """What did not hold, with the command and what it printed."""


# --- commands --------------------------------------------------------------------------------------------------------


def sh(script, ok=True, limit=120):
    """Runs shell lines; returns stdout. With `ok` a failure of any line is one of the case."""
    whole = f"set -e; . /payload/lib.sh; {script}"
    try:
        done = subprocess.run(["sh", "-c", whole], capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"$ {script.strip()}\nnot done after {limit} s") from late
    if ok and done.returncode:
        raise Failed(f"$ {script.strip()}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return done.stdout


def ip(*words):
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout or "[]")


def netwright(*words):
    """Exit code and all that it said."""
    done = subprocess.run(
        ["netwright", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout


def show():
    done = subprocess.run(["netwright", "show", "--json"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Failed(f"$ netwright show --json\n{done.stderr}")
    return json.loads(done.stdout)


def written(document):
    path = Path("/run/document.yaml")
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def apply(document, *options):
    return netwright("apply", *options, written(document))


def applying(document, *options):
    """`apply` in the background. It logs to its output, not to the journal."""
    command = ["timeout", "300", "netwright", "apply", *options, written(document)]
    env = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, env=env)


def changed(line):
    """The node has become what was asked for, and has still to prove itself."""
    return 'phase="verify"' in line


def watched(document, *options):
    """Like `apply`, with the profiles on disk whenever `changed`."""
    said, disk = "", []
    with applying(document, *options) as running:
        for line in running.stdout:
            said += line
            if changed(line):
                disk.append(on_disk(profiles()))
    return running.returncode, said, disk


def lose_power():
    """While a change that takes the node off its gateway has still to prove itself."""
    bridge = {"name": "unproven", "type": "linux-bridge", "state": "up", "bridge": {"port": []}}
    running = applying({"interfaces": [CUT, bridge]})
    said = ""
    for line in running.stdout:
        said += line
        if changed(line):
            print("end 100", flush=True)
            termios.tcdrain(sys.stdout)
            Path("/proc/sysrq-trigger").write_text("o")
            time.sleep(60)
    raise Failed(f"power was not lost\n{said}")


class Journal:
    """NetworkManager's journal from here on."""

    def __init__(self):
        self.sync()
        self.since = time.time()

    @staticmethod
    def sync():
        subprocess.run(["journalctl", "--sync"], check=True, timeout=60)

    def lines(self):
        self.sync()
        done = subprocess.run(
            ["journalctl", "-b", "-u", "NetworkManager", "-o", "cat", "-q", "--since", f"@{self.since:.6f}"],
            capture_output=True, text=True, check=True, timeout=60,
        )
        return done.stdout.splitlines()


# --- comparing -------------------------------------------------------------------------------------------------------


def missing(want, got, at=""):
    """None where `want` is a part of `got`; else the first path at which it is not."""
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return f"{at}: {got!r} is not a map"
        for key, value in want.items():
            if key not in got:
                return f"{at}.{key}: not there"
            if why := missing(value, got[key], f"{at}.{key}"):
                return why
        return None
    if isinstance(want, list):
        return missing_items(want, got, at)
    same = want == got and isinstance(want, bool) == isinstance(got, bool)
    return None if same else f"{at}: {got!r}, not {want!r}"


def missing_items(want, got, at):
    if not isinstance(got, list):
        return f"{at}: {got!r} is not a list"
    if want == []:
        return f"{at}: {got!r} is not empty" if got else None
    for item in want:
        named = [g for g in got if isinstance(item, dict) and isinstance(g, dict) and "name" in item and g.get("name") == item["name"]]
        whys = [missing(item, g, f"{at}[{item['name']}]") for g in named] or [missing(item, g, at) for g in got] or ["no items"]
        if all(whys):
            return whys[0] if named else f"{at}: no item with {json.dumps(item)} in {json.dumps(got)}"
    return None


def unmet(check):
    """None where the check holds; else why it does not."""
    if "show" in check:
        if why := missing(check["show"], show()):
            return f"$ netwright show\n{why}"
        return None
    command = check["run"]
    try:
        said = sh(command)
    except Failed as why:
        return str(why)
    whys = []
    if "is" in check and said.strip() != str(check["is"]).strip():
        whys.append(f"that is not {check['is']!r}")
    whys += [f"{text!r} is not in it" for text in listed(check.get("has")) if text not in said]
    whys += [f"{text!r} is in it" for text in listed(check.get("lacks")) if text in said]
    if "json" in check and (why := missing(check["json"], json.loads(said or "null"))):
        whys.append(why)
    return f"$ {command}\n{said}{'; '.join(whys)}" if whys else None


def listed(value):
    return [] if value is None else [str(v) for v in value] if isinstance(value, list) else [str(value)]


def well_formed(check):
    """A check that could not fail, or says what nothing reads, is itself a failure."""
    words = set(check) - {"within"}
    if words == {"show"} or ("run" in words and words - {"run"} and words <= {"run", "is", "has", "lacks", "json"}):
        return
    raise Failed(f"a check needs `show`, or `run` with is, has, lacks or json: {json.dumps(check)}")


def hold(checks):
    """Runs the checks; returns how many there were."""
    for check in checks:
        well_formed(check)
        deadline = time.monotonic() + check.get("within", 0)
        while why := unmet(check):
            if time.monotonic() >= deadline:
                raise Failed(why)
            time.sleep(0.3)
    return len(checks)


# --- the whole node, to see that nothing is left or lost ---------------------------------------------------------------


def virtual_function(name):
    """Its address is drawn whenever the driver makes it."""
    return name.startswith("enp1s0v")


def links(dump):
    """Links by name as far as somebody configures them. In one dump: between two a link may come or go."""
    rows = {}
    for link in dump:
        info = link.get("linkinfo", {})
        rows[link["ifname"]] = {
            "mtu": link["mtu"],
            "address": None if virtual_function(link["ifname"]) else link.get("address"),
            "up": "UP" in link["flags"],
            "promiscuous": link.get("promiscuity", 0) > 0,
            "controller": link.get("master"),
            "parent": link.get("link"),
            "altnames": link.get("altnames", []),
            "kind": info.get("info_kind"),
            "data": {k: v for k, v in info.get("info_data", {}).items() if not re.search("timer|bridge_id|root_id|root_|tcn|topology|seq_nr|n_learned", k)},
            "addresses": sorted(f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if "local" in a),
        }
    return rows


def routes(dump):
    rows = []
    for route in dump:
        if route.get("protocol") != "kernel" and route.get("type") not in ("local", "anycast", "multicast"):
            route = {k: v for k, v in route.items() if k not in ("flags", "expires", "pref")}
            if route.get("protocol") in ("ra", "dhcp"):
                # NetworkManager gives each device the next number that no other one has just then
                route.pop("metric", None)
            rows.append(json.dumps(route, sort_keys=True))
    return sorted(rows)


def profiles():
    """Profiles on disk and in memory by path: settings with their keys, without when they were last used."""
    found = {}
    for path in (path for folder in PROFILES for path in folder.glob("*")):
        keys = configparser.RawConfigParser(strict=False, delimiters=("=",))
        keys.optionxform = str
        keys.read_string(path.read_text())
        settings = {name: {k: v for k, v in keys[name].items() if k != "timestamp"} for name in keys.sections()}
        if path.name != "lo.nmconnection":  # NetworkManager's own, once it has looked at lo
            found[str(path)] = {name: values for name, values in settings.items() if values}
    return found


def on_disk(all_profiles):
    return {path: profile for path, profile in all_profiles.items() if path.startswith(str(PROFILES[0]))}


def ovs(said):
    """What `ovs-vsctl show` says, with what each line stands under; it has no order of its own."""
    above, found = [], []
    for line in said.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 4
        above = above[: depth - 1] + [line.strip()]
        found.append(" / ".join(above))
    return sorted(found)


def shown(state):
    """What `netwright show` prints, without what changes by itself."""
    routes = state.get("routes", {})
    for route in routes.get("running", []):
        if route not in routes.get("config", []):
            route.pop("metric", None)
    for interface in state["interfaces"]:
        if interface["name"] == "lo":
            # whether NetworkManager has only found it or holds it by its own profile
            for key in ["identifier", "lldp", "wait-ip"]:
                interface.pop(key, None)
            for family in ["ipv4", "ipv6"]:
                for key in ["addr-gen-mode", "prefix-route-metric"]:
                    interface[family].pop(key, None)
        if virtual_function(interface["name"]):
            for key in ["mac-address", "permanent-mac-address"]:
                interface.pop(key, None)
        options = interface.get("bridge", {}).get("options", {})
        for key in ["gc-timer", "hello-timer"]:
            options.pop(key, None)
        for family in ["ipv4", "ipv6"]:
            for address in interface.get(family, {}).get("address", []):
                for key in [k for k in address if k.startswith(("valid", "preferred", "protocol"))]:
                    address.pop(key)
    return state


# In one shell: by itself each of them would take the emulated processor half as long again.
LOOK = "echo; echo ---; ".join([
    *[f"ip -j {what} || true; " for what in ["-d address", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule"]],
    "ovs-vsctl show; ", "netwright show --json",
])


def node():
    *dumps, bridges, state = sh(LOOK).split("\n---\n")
    addresses, routes4, routes6, rules4, rules6 = (json.loads(dump.strip() or "[]") for dump in dumps)
    return {
        "links": links(addresses),
        "routes": routes(routes4 + routes6),
        # the kernel's own rule for VRFs comes with the first and stays
        "rules": sorted(json.dumps(rule, sort_keys=True) for rule in rules4 + rules6 if "l3mdev" not in rule),
        "profiles": profiles(),
        "resolv.conf": [line for line in Path("/etc/resolv.conf").read_text().splitlines() if line[:1] != "#"],
        "ovs": ovs(bridges),
        "show": shown(json.loads(state)),
    }


def same_as(before, what, seconds=30):
    """Fails unless the node becomes what it was. It gets a little time: NetworkManager tidies up after it has answered."""
    deadline = time.monotonic() + seconds
    while (now := node()) != before:
        if time.monotonic() >= deadline:
            old, new = (yaml.dump(x, sort_keys=True, width=1000).splitlines() for x in (before, now))
            diff = [line for line in difflib.unified_diff(old, new, "before", "now", lineterm="", n=2)]
            raise Failed(f"{what} is not as before\n" + "\n".join(diff[:80]))
        time.sleep(0.5)


# --- a case ------------------------------------------------------------------------------------------------------------


class Case:
    def __init__(self, subject, words):
        self.name = f"{subject}/{words['case']}"
        self.words = words
        self.checks = 0
        self.seen = None
        if unknown := set(words) - WORDS:
            raise Failed(f"{self.name}: unknown words {', '.join(sorted(unknown))}")

    def weight(self):
        """About how long it takes, in the time of one document. What is undone takes longer, and the probe or the check that fails its time."""
        applied = sum(word in self.words for word in ["create", "change", "absent", "persist"])
        return 1 + applied + 2 * len(self.words.get("rollback", [])) + 4 * len(self.words.get("fails", []))

    def live(self):
        """The whole life, up to being gone."""
        sh(self.words.get("setup", ""))
        before = self.now()
        self.step("create", "check")
        for wrong in self.words.get("fails", []):
            self.fail(wrong)
        self.step("change", "changed")
        self.step("absent", "gone")
        if "absent" in self.words:
            same_as(before, "after `absent` the node")
            self.checks += 1
        if not self.checks:
            raise Failed("nothing was checked")

    def step(self, phase, then):
        document = self.words.get(phase)
        if document is None:
            self.checks += hold(self.words.get(then, []))
            return
        if phase in self.words.get("rollback", []):
            self.cut_off(phase, document)
        self.ok(document)
        self.checks += hold(self.words.get(then, []))
        self.again(document)

    def now(self):
        """The node, read once for all that follows until something is applied."""
        self.seen = self.seen or node()
        return self.seen

    def ok(self, document):
        self.seen = None
        code, said = apply(document)
        if code:
            raise Failed(f"$ netwright apply <<< {json.dumps(document)}\n{said}exit code {code}")
        if "nothing to change" in said:
            raise Failed(f"$ netwright apply <<< {json.dumps(document)}\n{said}that should have changed something")
        self.checks += 1

    def again(self, document):
        """The same document once more touches nothing."""
        journal = Journal()
        code, said = apply(document)
        if code or "nothing to change" not in said:
            left = netwright("plan", "/run/document.yaml")[1]
            raise Failed(f"the same again\n$ netwright apply <<< {json.dumps(document)}\n{said}exit code {code}\n$ netwright plan\n{left}")
        if touched := [line for line in journal.lines() if AUDIT.search(line)]:
            raise Failed("the same again has touched NetworkManager\n" + "\n".join(touched))
        self.checks += 1

    def cut_off(self, phase, document):
        """Together with the loss of the gateway it must not stay."""
        before = self.now()
        both = {**document, "interfaces": [*document.get("interfaces", []), CUT]}
        code, said, disk = watched(both, "--probe-timeout", "2")
        if not code or "probe gateway failed" not in said or "rolled back" not in said:
            raise Failed(f"{phase} and the gateway gone\n{said}exit code {code}")
        if not disk or any(then != on_disk(before["profiles"]) for then in disk):
            raise Failed(f"{phase} was on disk before it was proven\n{said}{yaml.dump(disk)}")
        same_as(before, f"after {phase} was rolled back the node")
        self.checks += 1

    def fail(self, wrong):
        before = self.now()
        code, said = apply(wrong["apply"])
        if not code or wrong["says"] not in said:
            raise Failed(f"$ netwright apply <<< {json.dumps(wrong['apply'])}\n{said}exit code {code}; wanted: {wrong['says']}")
        same_as(before, "after what failed the node")
        self.checks += 1

    def leave(self):
        """For the reboot."""
        sh(self.words.get("setup", ""))
        self.ok(self.words["create"])

    def survived(self):
        """After the reboot everything is there by itself, and there is nothing to apply."""
        sh(self.words.get("setup", ""))
        path = Path("/run/document.yaml")
        path.write_text(json.dumps(self.words["create"]))
        deadline = time.monotonic() + 30
        while "nothing to change" not in (said := netwright("plan", str(path))[1]):
            if time.monotonic() >= deadline:
                raise Failed(f"after the reboot\n$ netwright plan <<< {json.dumps(self.words['create'])}\n{said}")
            time.sleep(1)
        self.checks = 1 + hold(self.words.get("check", []))

    def came_up(self, disk):
        """After the power was lost: as if nothing had been begun, and the next one tells of it."""
        if (now := on_disk(profiles())) != disk:
            raise Failed(f"on disk was\n{yaml.dump(disk)}and is\n{yaml.dump(now)}")
        self.checks = 1 + hold([
            {"run": "ip -br address show nic0", "has": "10.0.2.15/24", "lacks": "10.98.0.2", "within": 30},
            {"run": "ip -br link", "lacks": "unproven"},
        ])
        code, said = apply({"interfaces": []})
        if code or "netwright ended during phase" not in said:
            raise Failed(f"{said}exit code {code}")
        self.checks += hold([{"run": "ip -br address show nic0", "has": "10.0.2.15/24"}])

    def clean(self):
        sh(self.words.get("cleanup", ""), ok=False)


def scrub():
    """After a failure: the node as it was at the start, so that the next case has its chance."""
    sh("for b in $(ovs-vsctl list-br); do ovs-vsctl --if-exists del-br $b; done; ovs-vsctl clear open_vswitch . external_ids", ok=False)
    for folder in PROFILES:
        for path in folder.glob("*"):
            if path.name not in (UPLINK, "lo.nmconnection"):
                path.unlink()
    Path("/var/lib/NetworkManager/NetworkManager-intern.conf").unlink(missing_ok=True)
    shutil.rmtree("/var/lib/netwright", ignore_errors=True)
    for link in ip("-d", "link"):
        if link.get("linkinfo", {}).get("info_kind"):
            sh(f"ip link delete {link['ifname']}", ok=False)
    for pid in Path("/run").glob("world-*.pid"):
        sh(f"dnsmasq_off {pid.name.removeprefix('world-').removesuffix('.pid')}", ok=False)
    sh("nmcli connection reload; nmcli general reload; systemctl restart NetworkManager; nmcli connection up uplink; hostname node01", ok=False)


# --- the suite ---------------------------------------------------------------------------------------------------------


class Suite:
    def __init__(self, passed=0, failed=0, left=()):
        self.passed, self.failed, self.left = passed, failed, list(left)
        self.links = {}

    @staticmethod
    def addressed():
        """Links by name, with what addresses each has."""
        return {link["ifname"]: sorted(address.get("local", "") for address in link["addr_info"]) for link in ip("address")}

    def tidy(self, seconds=30):
        """Fails unless the links and their addresses are those of the start again, so that no case begins with what another one's
        cleanup is still at: NetworkManager deletes a profile first, and takes the addresses away later."""
        deadline = time.monotonic() + seconds
        while self.links and (now := self.addressed()) != self.links:
            if time.monotonic() >= deadline:
                others = [f"{name}: {self.links.get(name)}, now {now.get(name)}" for name in sorted(self.links.keys() | now.keys())
                          if self.links.get(name) != now.get(name)]
                raise Failed("after `cleanup` other links or addresses than at the start\n" + "\n".join(others))
            time.sleep(0.5)

    def run(self, name, case, life, mend):
        """One line, and below it why it failed. `mend` makes the node fit for the next case then."""
        began, journal = time.monotonic(), None
        try:
            journal = Journal()
            life()
            case.clean()
            self.tidy()
        except Exception as why:  # a broken case must not end the suite
            self.failed += 1
            print(f"FAILED {name} ({count(case.checks)}, {time.monotonic() - began:.1f} s)")
            told = str(why) if isinstance(why, Failed) else f"{type(why).__name__}: {why}"
            print("\n".join(f"    {line}" for line in told.splitlines()))
            if journal:
                print("\n".join(f"    | {line}" for line in journal.lines()[-40:]))
            if why_not := attempt(case.clean):
                print(f"    cleanup: {why_not}")
            mend()
        else:
            self.passed += 1
            print(f"ok {name} ({count(case.checks)}, {time.monotonic() - began:.1f} s)")

    def first_boot(self, cases):
        self.links = self.addressed()
        for case in cases:
            self.run(case.name, case, case.live, scrub)
        lasting = [case for case in cases if case.words.get("persist")]
        for case in lasting:
            try:
                case.leave()
                self.left.append(case.name)
            except Failed as why:
                self.failed += 1
                print(f"FAILED {case.name} before the reboot\n    {why}")
                # the others' stay
                attempt(case.clean)
        if self.left:
            so_far = {"passed": self.passed, "failed": self.failed, "left": self.left}
            MEMORY.write_text(json.dumps({"suite": so_far, "disk": on_disk(profiles())}))
            os.sync()
            lose_power()
        self.end()

    def second_boot(self, cases, disk):
        after = Case("power", {"case": "lost-in-mid-change"})
        self.run(after.name, after, lambda: after.came_up(disk), lambda: None)
        for case in cases:
            if case.name in self.left:
                self.run(f"{case.name} after reboot", case, case.survived, lambda: None)
        self.end()

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)


def count(checks):
    return f"{checks} check{'' if checks == 1 else 's'}"


def attempt(action):
    try:
        return action()
    except Failed as why:
        return why


def chosen(name, choice):
    subject = name.split("/")[0]
    return not choice or name in choice or subject in choice


def mine(cases, part, parts):
    """One machine's part of the cases: those with most to apply first, each to the machine that has the least to do."""
    heaps = [(0, n, []) for n in range(parts)]
    for case in sorted(cases, key=lambda c: (-c.weight(), c.name)):
        weight, n, names = min(heaps)
        heaps[n] = (weight + case.weight(), n, [*names, case.name])
    return [case for case in cases if case.name in heaps[part - 1][2]]


def load(suite):
    """This machine's part of the cases that were asked for. A file that leaves out a phase without saying why is a failure."""
    choice = (PAYLOAD / "choice").read_text().split()
    part, parts = (int(n) for n in (PAYLOAD / "part").read_text().split())
    told = part > 1 or MEMORY.exists()
    cases = []
    for path in sorted((PAYLOAD / "catalogue").glob("*.yaml")):
        entries = yaml.load(path.read_text(), Loader)
        head = {} if "case" in entries[0] else entries.pop(0)
        without, needs = head.get("without", {}), head.get("needs", {})
        absent = [f"{name}: {why}" for name, why in needs.items() if not Path("/sys/class/net", name).exists()]
        if absent:
            if not told:
                print(f"left out {path.stem}, for want of {', '.join(absent)}")
            continue
        of_file = [Case(path.stem, words) for words in entries]
        lacking = [p for p in PHASES if p not in without and not any(c.words.get(p) for c in of_file)]
        if lacking and not told:
            suite.failed += 1
            print(f"FAILED {path.stem}: no case has {', '.join(lacking)}, and `without` gives no reason")
        cases += [case for case in of_file if chosen(case.name, choice)]
    return mine(cases, part, parts)


def world():
    """The far ends of the cables, out of NetworkManager's sight."""
    sh("udevadm settle; ip netns add world; far ip link set lo up; for n in 1 2 3 4; do ip link set far$n netns world; far ip link set far$n up; done")
    # No tunl0, gre0 and the like, which come with their modules and stay.
    sh("sysctl -qw net.core.fb_tunnels_only_for_init_net=2; nm-online -q -t 60; udevadm settle")


def main():
    shutil.copy(PAYLOAD / "netwright", "/usr/local/bin/netwright")
    world()
    if MEMORY.exists():
        memory = json.loads(MEMORY.read_text())
        suite = Suite(**memory["suite"])
        suite.second_boot(load(suite), memory["disk"])
    else:
        uptime = Path("/proc/uptime").read_text().split()[0]
        print(f"booted in {uptime} s: Linux {os.uname().release}, {sh('nmcli -v').split()[-1]}, {sh('ovs-vsctl -V').split()[3]}")
        suite = Suite()
        suite.first_boot(load(suite))


main()
