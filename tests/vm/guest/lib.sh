# shellcheck shell=sh
# What the setup and cleanup lines of a case can call. The far ends of nic1 … nic4 are in the network namespace `world`.

# far COMMAND… — at the far end
far() { ip netns exec world "$@"; }

# veth A B — a pair whose end B is in the world, and of which NetworkManager has taken A, with the address that the kernel gave it
veth() {
  ip link add "$1" type veth peer name "$2" netns world
  far ip link set "$2" up
  ip link set "$1" up
  for _ in $(seq 60); do
    case $(nmcli -g GENERAL.STATE device show "$1" 2>/dev/null) in
      30*) [ -n "$(ip -6 -o address show dev "$1")" ] || return 0 ;;
      100*) return 0 ;; # it has a profile for it, after the reboot
    esac
    sleep 0.2
  done
}

# dnsmasq_on FAR OPTION… — the DHCP, RA and name server of one wire, as long as the case runs
dnsmasq_on() {
  card=$1
  shift
  far dnsmasq --conf-file=/dev/null --pid-file="/run/world-$card.pid" --dhcp-leasefile="/run/world-$card.leases" \
    --interface="$card" --bind-interfaces --except-interface=lo --no-resolv --no-hosts --log-facility="/run/world-$card.log" "$@"
}
dnsmasq_off() {
  kill "$(cat "/run/world-$1.pid")"
  rm -f "/run/world-$1".*
}

# udev_late LINK ADDRESS OTHER — whenever LINK is made and NetworkManager has given it ADDRESS, it gets OTHER: what systemd-udevd does for its
# `MACAddressPolicy=persistent` when it looked at a link before and comes to write after NetworkManager
udev_late() {
  while sleep 0.05; do
    now=$(cat "/sys/class/net/$1/ifindex" 2>/dev/null) || continue
    if [ "$now" != "${last:-}" ] && [ "$(cat "/sys/class/net/$1/address")" = "$2" ]; then
      ip link set "$1" address "$3"
      last=$now
    fi
  done >/dev/null 2>&1 </dev/null &
  echo $! >"/run/udev-late-$1.pid"
}
udev_late_off() {
  kill "$(cat "/run/udev-late-$1.pid")"
  rm -f "/run/udev-late-$1.pid"
}

# cut_off INTERFACES — applies these together with one that takes the way to the gateway away, and says how that went
cut_off() {
  cut='{name: nic0, type: ethernet, state: up, ipv4: {enabled: true, dhcp: false, address: [{ip: 10.98.0.2, prefix-length: 24}]}}'
  echo "{interfaces: [$1, $cut]}" | /payload/netwright apply 2>&1 || true
}
