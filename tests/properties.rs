//! What holds for every document: its print reads back as the same, carried out once there is nothing left to do, and no text whatsoever
//! makes the parser fall over.

mod common;

use netwright::host::fake::FakeHost;
use netwright::nm::keyfile;
use netwright::plan::plan;
use netwright::plan::revert::{revert, since};
use netwright::probe::Prober;
use netwright::state::{NetworkState, tree};
use netwright::transaction::{Options, Outcome, run};
use netwright::yaml;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

const CARDS: [&str; 3] = ["eth1", "eth2", "eth3"];

/// A map of those that are some.
fn map(entries: Vec<(&str, Option<Value>)>) -> Value {
    let some = entries.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?)));
    Value::Object(some.collect::<Map<String, Value>>())
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = Value> + Clone {
    select(words).prop_map(Value::from)
}

fn number(range: std::ops::Range<u32>) -> impl Strategy<Value = Value> + Clone {
    // as a number, a decimal text or a hexadecimal one: all mean the same
    (range, 0..3u8).prop_map(|(n, how)| match how {
        0 => json!(n),
        1 => json!(n.to_string()),
        _ => json!(format!("0x{n:x}")),
    })
}

fn flag() -> impl Strategy<Value = Value> + Clone {
    select(vec![json!(true), json!(false), json!("yes"), json!("off"), json!(1)])
}

/// A section `ipv4` of an interface with this number: addresses of different interfaces do not meet.
fn ipv4(nth: u8) -> impl Strategy<Value = Value> {
    let list = subsequence(vec![1u8, 2, 3], 0..=3);
    (any::<bool>(), list).prop_map(move |(enabled, hosts)| {
        let address = |host: u8| json!({"ip": format!("192.0.{nth}.{host}"), "prefix-length": 24});
        match enabled {
            false => json!({"enabled": false}),
            true => {
                json!({"enabled": true, "dhcp": false, "address": hosts.into_iter().map(address).collect::<Vec<_>>()})
            }
        }
    })
}

fn ipv6(nth: u8) -> impl Strategy<Value = Value> {
    let list = subsequence(vec![1u8, 2], 0..=2);
    (any::<bool>(), list).prop_map(move |(enabled, hosts)| {
        let address = |host: u8| json!({"ip": format!("2001:db8:{nth}::{host}"), "prefix-length": 64});
        match enabled {
            false => json!({"enabled": false}),
            true => json!({"enabled": true, "dhcp": false, "autoconf": false,
                "address": hosts.into_iter().map(address).collect::<Vec<_>>()}),
        }
    })
}

/// What any interface may have.
fn common(name: &'static str, kind: &'static str, nth: u8) -> impl Strategy<Value = Map<String, Value>> {
    let state = of(select(vec!["up", "up", "up", "down", "absent"]).prop_map(Value::from));
    let mtu = of(number(1300..1500));
    let description = of("[ -~äöü#:'\"]{0,20}".prop_map(Value::from));
    (state, mtu, description, of(ipv4(nth)), of(ipv6(nth)), of(flag())).prop_map(
        move |(state, mtu, description, ipv4, ipv6, lldp)| {
            let lldp = lldp.map(|enabled| json!({ "enabled": enabled }));
            let entries = vec![
                ("name", Some(json!(name))),
                ("type", Some(json!(kind))),
                ("state", state),
                ("mtu", mtu),
                ("description", description),
                ("ipv4", ipv4),
                ("ipv6", ipv6),
                ("lldp", lldp),
            ];
            match map(entries) {
                Value::Object(map) => map,
                _ => unreachable!("a map is a map"),
            }
        },
    )
}

fn with(
    common: impl Strategy<Value = Map<String, Value>>,
    key: &'static str,
    section: impl Strategy<Value = Option<Value>>,
) -> impl Strategy<Value = Value> {
    (common, section).prop_map(move |(mut map, section)| {
        map.extend(section.map(|s| (key.to_owned(), s)));
        Value::Object(map)
    })
}

fn ethernet(nth: u8) -> BoxedStrategy<Value> {
    let name = CARDS[usize::from(nth)];
    let controller = of(word(&["", "br0", "br1"]));
    with(common(name, "ethernet", nth), "controller", controller).boxed()
}

fn bridge(name: &'static str, nth: u8) -> BoxedStrategy<Value> {
    let stp =
        (of(flag()), of(number(4..30))).prop_map(|(on, delay)| map(vec![("enabled", on), ("forward-delay", delay)]));
    let options = of(stp).prop_map(|stp| map(vec![("stp", stp)]));
    let port = |name: &&str| json!({ "name": name });
    let ports = subsequence(CARDS.to_vec(), 0..=3).prop_map(move |p| Value::Array(p.iter().map(port).collect()));
    let section =
        (of(options), of(ports)).prop_map(|(options, ports)| Some(map(vec![("options", options), ("port", ports)])));
    with(common(name, "linux-bridge", nth), "bridge", section).boxed()
}

fn vlan(name: &'static str, nth: u8) -> BoxedStrategy<Value> {
    let section = (number(1..4095), word(&["eth1", "eth2", "br0"]), of(flag())).prop_map(|(id, base, loose)| {
        Some(map(vec![
            ("id", Some(id)),
            ("base-iface", Some(base)),
            ("loose-binding", loose),
        ]))
    });
    with(common(name, "vlan", nth), "vlan", section).boxed()
}

fn bond() -> BoxedStrategy<Value> {
    let mode = word(&["active-backup", "balance-rr", "802.3ad"]);
    let options = of(number(50..200)).prop_map(|miimon| map(vec![("miimon", miimon)]));
    let ports = subsequence(CARDS.to_vec(), 0..=2).prop_map(Value::from);
    let section = (mode, of(options), of(ports))
        .prop_map(|(mode, options, port)| Some(map(vec![("mode", Some(mode)), ("options", options), ("port", port)])));
    with(common("bond0", "bond", 9), "link-aggregation", section).boxed()
}

fn vrf() -> BoxedStrategy<Value> {
    let ports = subsequence(CARDS.to_vec(), 0..=2).prop_map(Value::from);
    let section = (number(10..20), of(ports))
        .prop_map(|(table, port)| Some(map(vec![("route-table-id", Some(table)), ("port", port)])));
    with(common("red", "vrf", 10), "vrf", section).boxed()
}

fn mac_vlan() -> BoxedStrategy<Value> {
    let section = (word(&["eth1", "br0"]), word(&["bridge", "vepa", "private"]))
        .prop_map(|(base, mode)| Some(map(vec![("base-iface", Some(base)), ("mode", Some(mode))])));
    with(common("mv0", "mac-vlan", 11), "mac-vlan", section).boxed()
}

fn vxlan() -> BoxedStrategy<Value> {
    let section = (
        number(1..5000),
        of(word(&["eth1", "eth2"])),
        word(&["203.0.113.1", "203.0.113.2"]),
    )
        .prop_map(|(id, base, remote)| {
            Some(map(vec![
                ("id", Some(id)),
                ("base-iface", base),
                ("remote", Some(remote)),
            ]))
        });
    with(common("vx0", "vxlan", 12), "vxlan", section).boxed()
}

fn interfaces() -> impl Strategy<Value = Value> {
    let dummy = common("d0", "dummy", 7).prop_map(Value::Object).boxed();
    let veth = with(
        common("veth0", "veth", 8),
        "veth",
        Just(Some(json!({"peer": "veth0p"}))),
    )
    .boxed();
    let all = vec![
        of(ethernet(0)).boxed(),
        of(ethernet(1)).boxed(),
        of(ethernet(2)).boxed(),
        of(bridge("br0", 3)).boxed(),
        of(bridge("br1", 4)).boxed(),
        of(vlan("v5", 5)).boxed(),
        of(vlan("v6", 6)).boxed(),
        of(dummy).boxed(),
        of(veth).boxed(),
        of(bond()).boxed(),
        of(vrf()).boxed(),
        of(mac_vlan()).boxed(),
        of(vxlan()).boxed(),
    ];
    all.prop_map(|list| Value::Array(list.into_iter().flatten().collect()))
}

fn route() -> impl Strategy<Value = Value> {
    let links = ["eth1", "eth2", "eth3", "br0", "br1", "v5"];
    let to = word(&["0.0.0.0/0", "203.0.113.0/24", "203.0.113.7", "2001:db8:f::/48", "::/0"]);
    let rest = (
        of(number(1..9)),
        of(select(vec![json!(-1), json!(0), json!(100)])),
        of(number(1300..1500)),
        of(flag()),
    );
    let absent = prop::bool::weighted(0.2);
    (
        to,
        0..links.len(),
        any::<bool>(),
        rest,
        absent,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            move |(to, at, gateway, (table, metric, mtu, quickack), absent, special)| {
                let v6 = to.as_str().is_some_and(|t| t.contains(':'));
                let via = if v6 {
                    format!("2001:db8:{at}::9")
                } else {
                    format!("192.0.{at}.9")
                };
                map(vec![
                    ("state", absent.then(|| json!("absent"))),
                    ("destination", Some(to)),
                    ("next-hop-interface", (!special).then(|| json!(links[at]))),
                    ("next-hop-address", (gateway && !special).then(|| json!(via))),
                    ("route-type", special.then(|| json!("blackhole"))),
                    ("table-id", table),
                    ("metric", metric),
                    ("mtu", mtu.filter(|_| !special)),
                    ("quickack", quickack.filter(|_| !special)),
                ])
            },
        )
}

fn rule() -> impl Strategy<Value = Value> {
    let from = of(word(&["192.0.2.0/24", "10.0.0.7", "2001:db8::/32"]));
    let key = (
        of(number(500..510)),
        of(number(1..9)),
        of(number(1..255)),
        of(word(&["blackhole", "prohibit"])),
    );
    (from, key, of(word(&["eth1", "eth2"])), prop::bool::weighted(0.2)).prop_map(
        |(from, (priority, table, mark, action), iif, absent)| {
            let family = from.is_none().then(|| json!("ipv4"));
            map(vec![
                ("state", absent.then(|| json!("absent"))),
                ("family", family),
                ("ip-from", from),
                ("priority", priority),
                ("route-table", table),
                ("fwmark", mark),
                ("action", action),
                ("iif", iif),
            ])
        },
    )
}

fn dns() -> impl Strategy<Value = Value> {
    let servers = vec!["192.0.2.53", "192.0.2.54", "2001:db8::53", "fe80::53%eth1"];
    let list = |of: Vec<&'static str>| {
        let most = of.len();
        subsequence(of, 0..=most).prop_shuffle().prop_map(Value::from)
    };
    (
        of(list(servers)),
        of(list(vec!["a.example", "b.example"])),
        of(list(vec!["rotate", "ndots:2"])),
    )
        .prop_map(|(server, search, options)| map(vec![("server", server), ("search", search), ("options", options)]))
}

fn document() -> impl Strategy<Value = Value> {
    let sections = (
        of(vec(route(), 0..5)),
        of(vec(rule(), 0..4)),
        of(dns()),
        of("[ -~]{0,30}".prop_map(Value::from)),
    );
    (interfaces(), sections).prop_map(|(interfaces, (routes, rules, dns, description))| {
        map(vec![
            ("description", description),
            ("dns-resolver", dns.map(|d| json!({ "config": d }))),
            ("route-rules", rules.map(|r| json!({ "config": r }))),
            ("routes", routes.map(|r| json!({ "config": r }))),
            ("interfaces", Some(interfaces)),
        ])
    })
}

/// Any JSON, a few levels deep, with the words of the document among its keys.
fn anything() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        ".{0,12}".prop_map(Value::from),
        word(&[
            "eth1",
            "up",
            "absent",
            "0x10",
            "ethernet",
            "linux-bridge",
            "vlan",
            "192.0.2.1/24",
            "::1"
        ]),
    ];
    let key = prop_oneof![
        select(vec![
            "interfaces",
            "routes",
            "route-rules",
            "dns-resolver",
            "config",
            "running",
            "name",
            "type",
            "state",
            "ipv4",
            "ipv6",
            "address",
            "ip",
            "prefix-length",
            "bridge",
            "port",
            "options",
            "vlan",
            "id",
            "base-iface",
            "destination",
            "metric",
            "ip-from",
            "server",
            "hostname",
            "mtu",
            "veth",
            "peer",
            "lldp",
            "enabled",
        ])
        .prop_map(str::to_owned),
        "[a-z-]{0,8}",
    ];
    plain.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            vec((key.clone(), inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Carries a document out. False where it is refused.
fn carry_out(host: &FakeHost, document: &Value) -> Result<bool, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let state = NetworkState::from_json(document.clone()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let report = runtime
        .expect("a runtime")
        .block_on(run(host, &Prober::none(), &state, &Options::default()));
    match report.outcome {
        Outcome::Refused(_) => Ok(false),
        Outcome::Applied | Outcome::Unchanged => Ok(true),
        other => Err(TestCaseError::fail(format!("{other:?}\n{}", yaml::write(&state)))),
    }
}

/// The inverse, as it is kept, is carried out, and then the node is as it was.
fn leads_back(host: &FakeHost, back: &NetworkState, before: &NetworkState) -> Result<(), TestCaseError> {
    let kept = yaml::write(back);
    let back = yaml::read(&kept).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(carry_out(host, &back)?, "the inverse is refused\n{}", kept);
    let mut lacking = vec![];
    let now = host.now().state;
    tree::missing(&common::shape(before), &common::shape(&now), "", &mut lacking);
    prop_assert!(
        lacking.is_empty(),
        "the inverse does not lead back: {:?}\n{}",
        lacking,
        kept
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn print_then_parse_is_the_same(document in document()) {
        let state = NetworkState::from_json(document).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let printed = yaml::write(&state);
        let again = yaml::read(&printed).and_then(NetworkState::from_json);
        prop_assert_eq!(again.map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?, state);
    }

    #[test]
    fn carried_out_there_is_nothing_left_to_do(documents in vec(document(), 1..4)) {
        let host = FakeHost::with_cards(&CARDS);
        for document in &documents {
            if !carry_out(&host, document)? {
                continue;
            }
            let state = NetworkState::from_json(document.clone()).expect("parsed before");
            let again = plan(&state, &host.now()).map_err(|e| TestCaseError::fail(format!("the second time: {e}")))?;
            prop_assert!(again.is_empty(), "{:#?}\n{:#?}", again.lines, again.waves);
        }
    }

    #[test]
    fn what_is_shown_is_as_it_is(documents in vec(document(), 1..3)) {
        let host = FakeHost::with_cards(&CARDS);
        for document in &documents {
            carry_out(&host, document)?;
        }
        let shown = host.now().state;
        let again = yaml::read(&yaml::write(&shown)).and_then(NetworkState::from_json);
        let again = again.map_err(|e| TestCaseError::fail(format!("{e}\n{}", yaml::write(&shown))))?;
        let plan = plan(&again, &host.now()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        // what was named is kept from now on, also where it is only what the kernel happens to have
        let kept = |l: &&String| !l.ends_with("kept by a profile of its own from now on");
        let rest: Vec<&String> = plan.lines.iter().filter(kept).collect();
        prop_assert!(rest.is_empty(), "{rest:#?}");
    }
}

// The same documents each time: an inverse is a document, and not every state can be said in one.
proptest! {
    #![proptest_config(ProptestConfig { cases: 256, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_inverse_leads_back(documents in vec(document(), 1..3), last in document()) {
        let host = FakeHost::with_cards(&CARDS);
        for document in &documents {
            carry_out(&host, document)?;
        }
        let before = host.now();
        let wish = NetworkState::from_json(last.clone()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let Ok(back) = revert(&wish, &before) else { return Ok(()) };
        if !carry_out(&host, &last)? {
            return Ok(());
        }
        leads_back(&host, &back, &before.state)?;
    }

    #[test]
    fn the_inverse_of_two_changes_leads_back(first in document(), second in document(), third in document()) {
        let host = FakeHost::with_cards(&CARDS);
        carry_out(&host, &first)?;
        let before = host.now();
        let mut back = None;
        for document in [second, third] {
            let seen = host.now();
            let wish = NetworkState::from_json(document.clone()).map_err(|e| TestCaseError::fail(e.to_string()))?;
            if !carry_out(&host, &document)? {
                return Ok(());
            }
            back = Some(since(back.as_ref(), &wish, &seen).map_err(|e| TestCaseError::fail(e.to_string()))?);
        }
        leads_back(&host, &back.unwrap_or_default(), &before.state)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn networkmanager_takes_what_is_stored(documents in vec(document(), 1..4)) {
        let host = FakeHost::with_cards(&CARDS);
        for document in &documents {
            carry_out(&host, document)?;
        }
        let stored = host.now().facts.profiles;
        let files = stored.iter().map(|p| (p.uuid().to_owned(), keyfile::write(&p.profile))).filter(|(uuid, _)| uuid != "lo");
        if common::may_run() {
            let refused = common::refused_by_nmcli(files);
            prop_assert!(refused.is_empty(), "{}", refused.join("\n"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_fall_over(text in "(?s).{0,200}") {
        let _ = yaml::read_many(&text).map(|all| all.into_iter().map(NetworkState::from_json).collect::<Vec<_>>());
    }

    #[test]
    fn no_document_makes_the_planner_fall_over(document in anything()) {
        if let Ok(state) = NetworkState::from_json(document) {
            let host = FakeHost::with_cards(&CARDS);
            let _ = plan(&state, &host.now());
        }
    }

    #[test]
    fn a_broken_document_is_refused_or_read(document in document(), at in any::<prop::sample::Index>(), junk in "[ -~\n]{0,3}") {
        let mut text = yaml::write(&document);
        let at = text.char_indices().map(|(at, _)| at).nth(at.index(text.chars().count())).unwrap_or(0);
        text.insert_str(at, &junk);
        text.truncate(text.floor_char_boundary(at + text.len() / 2));
        if let Ok(state) = yaml::read(&text).and_then(NetworkState::from_json) {
            let _ = plan(&state, &FakeHost::with_cards(&CARDS).now());
        }
    }
}
