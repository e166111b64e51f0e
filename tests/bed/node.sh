#!/usr/bin/env bash
# shellcheck disable=SC2034 # much is set for DIR/env
#
# A node in a network namespace: kernel devices, a D-Bus and a NetworkManager of its own.
#
#   node.sh up DIR NAME [option…]      makes it and waits until NetworkManager has settled; DIR must not
#                                      be in use; writes DIR/env (shell variables, see below)
#       --index N            addresses are 10.99.N.x (default 1)
#       --links a,b          veths whose far ends are up (default eth1,eth2; '' for none)
#       --no-mgmt            no management interface (default: mgmt0, 10.99.N.2/24, default route to
#                            10.99.N.1, which answers ping and DNS; NetworkManager sees it as an
#                            external connection)
#       --no-static-name     /etc/hostname is empty (default: the node's name)
#       --mgmt-profile       mgmt0 comes from a NetworkManager profile that holds address, gateway and DNS
#       --dead-gateway       default route and name server point at addresses where nobody is
#       --no-dns             NetworkManager knows no name server
#       --far NETNS          put mgmt0's far end into this existing namespace, which answers DNS already
#       --id ID              prefix for namespaces nw<ID>-… (default: a free one)
#       --log-level LEVEL    of NetworkManager (default INFO, which shows every audited D-Bus operation)
#       --ovs                with Open vSwitch (ovsdb-server, ovs-vswitchd) and a NetworkManager that has its
#                            plug-in (nm-ovs.sh)
#   node.sh exec DIR COMMAND…          runs COMMAND in the node (network, mount and UTS namespace, its D-Bus)
#   node.sh silence DIR CIDR           the far side drops all packets from CIDR from now on, silently
#   node.sh unsilence DIR CIDR
#   node.sh restart-nm DIR             ends this node's NetworkManager and starts it again
#   node.sh power-cut DIR              the same, and what was in memory only is gone: /run/NetworkManager, software
#                                      links, addresses
#   node.sh stop-ovs DIR               ends this node's ovsdb-server
#   node.sh down DIR                   ends all its processes, deletes its namespaces; keeps DIR's logs
#
# DIR/env: NODE INDEX NETNS FAR_NETNS WIRE_NETNS MNT_PID BUS_PID NM_PID NM_LOG NM_DIR GATEWAY ADDRESS OVSDB_PID
#          DBUS_SYSTEM_BUS_ADDRESS
# NM_DIR/etc and NM_DIR/lib are the node's /etc/NetworkManager and /var/lib/NetworkManager.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() { sed -n '4,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

# Runs inside the fresh mount, network and UTS namespaces; becomes the process that holds them.
hold() {
  local dir=$1 name=$2 target
  # Copies of other namespaces' handles would keep those alive after their deletion.
  umount -R -l /run/netns 2>/dev/null || true
  umount -l /sys
  # Read-only: NetworkManager then does not wait for udev, which does not run here.
  mount -t sysfs -o ro sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/dbus /run/NetworkManager /run/lock
  ln -s "$dir/bus" /run/dbus/system_bus_socket
  mkdir -p /etc/NetworkManager /var/lib/NetworkManager
  mount --bind "$dir/nm/etc" /etc/NetworkManager
  mount --bind "$dir/nm/lib" /var/lib/NetworkManager
  # alt-names are kept here
  if [ -d /etc/systemd/network ]; then mount -t tmpfs tmpfs /etc/systemd/network; fi
  if [ -d /usr/lib/NetworkManager/conf.d ]; then mount -t tmpfs tmpfs /usr/lib/NetworkManager/conf.d; fi
  target=$(readlink -m /etc/resolv.conf)
  case $target in /run/*) mkdir -p "${target%/*}" && touch "$target" ;; esac
  if [ -e "$target" ]; then mount --bind "$dir/resolv.conf" "$target"; fi
  # NetworkManager may set host names: it gets a name and a file of its own.
  if [ -e /etc/hostname ]; then mount --bind "$dir/hostname" /etc/hostname; fi
  echo "$name" >/proc/sys/kernel/hostname
  touch "$dir/held"
  exec sleep infinity
}

in_node() { nsenter -t "$MNT_PID" -n -m -u -- "$@"; }

start_nm() {
  start "$NM_LOG" nsenter -t "$MNT_PID" -n -m -u -- \
    env "DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SYSTEM_BUS_ADDRESS" "$NM_BIN" --debug
  NM_PID=$started
}

# Its database and sockets are below the node's own /run. The userspace datapath needs no kernel module.
start_ovs() {
  in_node sh -c 'mkdir -p /run/openvswitch && ovsdb-tool create /run/openvswitch/conf.db' || die "no database for Open vSwitch"
  start "$dir/ovsdb.log" nsenter -t "$MNT_PID" -n -m -u -- ovsdb-server /run/openvswitch/conf.db \
    --remote=punix:/run/openvswitch/db.sock --unixctl=/run/openvswitch/ovsdb.ctl --no-chdir -vconsole:info -vsyslog:off
  OVSDB_PID=$started
  wait_for 5 ovsdb-server in_node test -S /run/openvswitch/db.sock || { cat "$dir/ovsdb.log" >&2; exit 1; }
  in_node ovs-vsctl --no-wait init
  start "$dir/vswitchd.log" nsenter -t "$MNT_PID" -n -m -u -- ovs-vswitchd unix:/run/openvswitch/db.sock \
    --unixctl=/run/openvswitch/vswitchd.ctl --no-chdir -vconsole:info -vsyslog:off
  wait_for 10 ovs-vswitchd in_node ovs-appctl -t /run/openvswitch/vswitchd.ctl version ||
    { cat "$dir/vswitchd.log" >&2; exit 1; }
}

settled() {
  local states
  states=$(in_node env "DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SYSTEM_BUS_ADDRESS" LC_ALL=C \
    nmcli -t -f DEVICE,STATE device) || return 1
  local link
  for link in "${links[@]}"; do grep -qx "$link:disconnected" <<<"$states" || return 1; done
  [ -z "$mgmt" ] || grep -q '^mgmt0:connected' <<<"$states"
}

name_is_free() {
  dbus-send --bus="$DBUS_SYSTEM_BUS_ADDRESS" --print-reply=literal --dest=org.freedesktop.DBus / \
    org.freedesktop.DBus.NameHasOwner string:org.freedesktop.NetworkManager | grep -q 'boolean false'
}

write_env() {
  local name
  for name in ID NODE INDEX NETNS FAR_NETNS WIRE_NETNS MNT_PID BUS_PID NM_PID NM_LOG NM_DIR GATEWAY \
    ADDRESS DBUS_SYSTEM_BUS_ADDRESS LINKS MGMT NM_BIN OVSDB_PID; do
    printf '%s=%q\n' "$name" "${!name:-}"
  done >"$dir/env.new"
  mv "$dir/env.new" "$dir/env"
}

load() {
  dir=$(realpath -m "$1")
  [ -r "$dir/env" ] || die "no node was made in $dir"
  # shellcheck disable=SC1091
  . "$dir/env"
}

add_namespaces() {
  ID=${ID:-$(new_id)}
  NETNS=nw$ID-$NODE
  WIRE_NETNS=nw$ID-$NODE-w
  FAR_NETNS=${far:-$WIRE_NETNS}
  write_env
  netns_add "$NETNS" && netns_add "$WIRE_NETNS"
}

up() {
  [ $# -ge 2 ] || usage
  dir=$(realpath -m "$1") NODE=$2
  shift 2
  local far='' level=INFO dead='' no_dns='' profile='' list=eth1,eth2 static=$NODE
  INDEX=1 ID='' mgmt=1 NM_BIN=NetworkManager OVSDB_PID='' ovs=''
  while [ $# -gt 0 ]; do
    case $1 in
      --index) INDEX=$2; shift ;;
      --links) list=$2; shift ;;
      --mgmt) mgmt=1 ;;
      --no-mgmt) mgmt='' ;;
      --mgmt-profile) profile=1 ;;
      --no-static-name) static='' ;;
      --dead-gateway) dead=1 ;;
      --no-dns) no_dns=1 ;;
      --far) far=$2; shift ;;
      --id) ID=$2; shift ;;
      --log-level) level=$2; shift ;;
      --ovs) ovs=1 ;;
      *) die "unknown option '$1'" ;;
    esac
    shift
  done
  [[ $NODE =~ ^[a-z0-9.-]+$ ]] || die "a node's name has small letters, digits, '-' and '.': '$NODE'"
  need_root
  "$bed/install.sh" --check || die "run tests/bed/install.sh first"
  if [ -n "$ovs" ]; then NM_BIN=$("$bed/nm-ovs.sh"); fi
  short_enough "$dir"
  case $dir/ in /run/* | /sys/* | /proc/*) die "the run directory must not be below /run, /sys or /proc" ;; esac
  [ ! -e "$dir/env" ] || die "$dir is in use: node.sh down $dir"

  mkdir -p "$dir"/nm/{etc/system-connections,etc/conf.d,lib}
  chmod 700 "$dir/nm/etc/system-connections"
  rm -f "$dir/held" "$dir/bus"
  trap 'trap - INT TERM; down "$dir"; exit 130' INT TERM
  trap '[ $? = 0 ] || down "$dir"' EXIT

  GATEWAY=10.99.$INDEX.1 ADDRESS=10.99.$INDEX.2 NM_DIR=$dir/nm NM_LOG=$dir/NetworkManager.log LINKS=$list MGMT=$mgmt
  DBUS_SYSTEM_BUS_ADDRESS=unix:path=$dir/bus
  local nameserver=$GATEWAY gateway=$GATEWAY
  if [ -n "$dead" ]; then nameserver=10.99.$INDEX.253 gateway=10.99.$INDEX.254; fi
  IFS=, read -r -a links <<<"$list"

  far=$far netns_lock add_namespaces
  # shellcheck disable=SC1091
  . "$dir/env" # the names were made in a subshell

  ip netns exec "$WIRE_NETNS" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null || true
  local link
  for link in "${links[@]}"; do
    ip -n "$NETNS" link add "$link" type veth peer name "w-$link" netns "$WIRE_NETNS"
    ip -n "$WIRE_NETNS" link set "w-$link" up
  done
  if [ -n "$mgmt" ]; then
    ip -n "$NETNS" link add mgmt0 type veth peer name "mg$INDEX" netns "$FAR_NETNS"
    ip -n "$FAR_NETNS" address add "$GATEWAY/24" dev "mg$INDEX"
    ip -n "$FAR_NETNS" link set "mg$INDEX" up
    if [ -z "$profile" ]; then
      ip -n "$NETNS" address add "$ADDRESS/24" dev mgmt0
      ip -n "$NETNS" link set mgmt0 up
      ip -n "$NETNS" route add default via "$gateway" dev mgmt0
    else
      printf '%s\n' '[connection]' 'id=mgmt0' "uuid=00000000-0000-4000-8000-0000000000$(printf %02x "$INDEX")" \
        'type=ethernet' 'interface-name=mgmt0' '' '[ipv4]' 'method=manual' "address1=$ADDRESS/24,$gateway" \
        "dns=$([ -n "$no_dns" ] || echo "$nameserver;")" '' '[ipv6]' 'method=disabled' \
        >"$dir/nm/etc/system-connections/mgmt0.nmconnection"
      chmod 600 "$dir/nm/etc/system-connections/mgmt0.nmconnection"
    fi
    if [ -z "${far:-}" ]; then
      start_dns "$dir" "$FAR_NETNS"
    fi
  fi

  {
    printf '%s\n' '[main]' 'plugins=keyfile' 'no-auto-default=*' 'auth-polkit=false' 'dns=default' \
      'rc-manager=unmanaged' 'dhcp=internal' '' '[logging]' "level=$level" '' '[connectivity]' 'enabled=false'
    if [ -n "$mgmt" ] && [ -z "$no_dns$profile" ]; then
      printf '%s\n' '' '[global-dns-domain-*]' "servers=$nameserver"
    fi
  } >"$dir/nm/etc/NetworkManager.conf"
  if [ -n "$mgmt" ] && [ -z "$no_dns" ]; then echo "nameserver $nameserver"; fi >"$dir/resolv.conf"
  echo "$static" >"$dir/hostname"
  cat >"$dir/bus.conf" <<XML
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=$dir/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
XML

  # `ip netns exec` is not used here: it would mount a sysfs of its own.
  start "$dir/hold.log" nsenter --net="/run/netns/$NETNS" unshare -m -u --propagation private \
    "$BASH" "${BASH_SOURCE[0]}" --hold "$dir" "$NODE"
  MNT_PID=$started
  wait_for 5 "the node's mount namespace" test -e "$dir/held" || { cat "$dir/hold.log" >&2; exit 1; }
  start "$dir/bus.log" nsenter -t "$MNT_PID" -n -m -u -- dbus-daemon --config-file="$dir/bus.conf" --nofork --nopidfile
  BUS_PID=$started
  wait_for 5 "dbus-daemon" test -S "$dir/bus" || { cat "$dir/bus.log" >&2; exit 1; }
  if [ -n "$ovs" ]; then start_ovs; fi
  start_nm
  write_env
  if [ -n "$mgmt" ] && [ -z "$far" ]; then dns_answers "$dir"; fi
  wait_for 15 "NetworkManager to settle" settled || { tail -n 30 "$NM_LOG" >&2; exit 1; }
  trap - EXIT INT TERM
}

# A rule drops packets only if it comes before the one for local addresses, which is first by default.
silence() {
  # not into a pipe: grep -q would end before ip has said everything, which is a failure with pipefail
  if grep -q '^0:' <<<"$(ip -n "$FAR_NETNS" rule)"; then
    ip -n "$FAR_NETNS" rule add pref 100 lookup local
    ip -n "$FAR_NETNS" rule del pref 0
  fi
  ip -n "$FAR_NETNS" rule add from "$1" blackhole pref 10
}

lose_memory() {
  local link
  in_node sh -c 'rm -rf /run/NetworkManager/*'
  for link in $(in_node ip -br link show type bridge | cut -d' ' -f1); do in_node ip link delete "$link"; done
  for link in $(in_node ip -br link show type veth | cut -d@ -f1); do
    in_node ip addr flush dev "$link"
    in_node ip link set "$link" down
  done
}

down() {
  dir=$(realpath -m "$1")
  [ -r "$dir/env" ] || return 0
  # shellcheck disable=SC1091
  . "$dir/env"
  netns_end "$NETNS" "$WIRE_NETNS"
  # The far end of mgmt0 goes with its peer.
  rm -f "$dir/env" "$dir/bus" "$dir/held"
}

verb=${1:-}
[ $# -ge 2 ] || usage
shift
case $verb in
  --hold) hold "$@" ;;
  up) up "$@" ;;
  down) need_root; down "$1" ;;
  exec)
    load "$1"
    shift
    # shellcheck disable=SC2016
    exec nsenter -t "$MNT_PID" -n -m -u -- env "DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SYSTEM_BUS_ADDRESS" \
      sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
    ;;
  silence) load "$1"; silence "$2" ;;
  unsilence) load "$1"; ip -n "$FAR_NETNS" rule del from "$2" blackhole pref 10 ;;
  restart-nm | power-cut)
    load "$1"
    IFS=, read -r -a links <<<"$LINKS"
    mgmt=$MGMT links=()
    if [ "$verb" = power-cut ]; then kill -KILL "$NM_PID"; else kill "$NM_PID" 2>/dev/null || true; fi
    wait_for 5 "NetworkManager to end" not_alive "$NM_PID" || kill -KILL "$NM_PID"
    # the bus may notice later than the kernel; a NetworkManager that finds its name taken ends at once
    wait_for 5 "the bus to give up NetworkManager's name" name_is_free
    if [ "$verb" = power-cut ]; then lose_memory; fi
    start_nm
    write_env
    wait_for 15 "NetworkManager to settle" settled
    ;;
  stop-ovs) load "$1"; kill "$OVSDB_PID" ;;
  *) usage ;;
esac
