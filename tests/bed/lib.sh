# shellcheck shell=bash
# Shared by the scripts of the test beds. Everything a bed makes lives in network namespaces of its
# own (named nw<id>-…) and in one run directory; the machine's own interfaces are never touched.

bed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
repo=$(cd "$bed/../.." && pwd)

die() { echo "${0##*/}: $*" >&2; exit 1; }
note() { echo "${0##*/}: $*" >&2; }

need_root() { [ "$(id -u)" = 0 ] || die "needs root: network namespaces cannot be made without it"; }

# Daemons live in sbin, which is not on every PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# The system's python3 where there is one: version managers' shims are slow.
python_path() { if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi; }
python() { "$(python_path)" "$@"; }

# wait_for SECONDS WHAT COMMAND… — polls COMMAND until it succeeds; says WHAT did not happen otherwise.
wait_for() {
  local limit=$1 what=$2 deadline
  shift 2
  deadline=$(($(date +%s%N) / 1000000 + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    if [ "$(($(date +%s%N) / 1000000))" -gt "$deadline" ]; then
      note "gave up after $limit s waiting for $what"
      return 1
    fi
    sleep 0.05
  done
}

# alive PID — false also for a process that has ended and waits for its parent.
alive() { readlink "/proc/$1/ns/net" >/dev/null 2>&1; }
not_alive() { ! alive "$1"; }

# new_id — four hex digits that no bed on this machine uses yet. Call under netns_lock.
new_id() {
  local id
  while :; do
    id=$(od -An -N2 -tx1 /dev/urandom | tr -d ' \n')
    compgen -G "/run/netns/nw$id-*" >/dev/null || { echo "$id"; return; }
  done
}

# netns_lock COMMAND… — `ip netns add` is not safe against itself on its very first use.
netns_lock() {
  local lock=/tmp/.netwright-bed.lock
  (
    exec 8>>"$lock"
    flock 8
    "$@" 8>&-
  )
}

netns_add() {
  ip netns add "$1" && ip -n "$1" link set lo up
}

# netns_end NAME… — ends every process inside these namespaces, by pid, and deletes them.
netns_end() {
  local ns pids round
  for ns; do
    [ -e "/run/netns/$ns" ] || continue
    for round in TERM KILL KILL KILL; do
      pids=$(ip netns pids "$ns" 2>/dev/null) || true
      [ -n "$pids" ] || break
      # shellcheck disable=SC2086
      kill -"$round" $pids 2>/dev/null || true
      for _ in 1 2 3 4 5 6 7 8 9 10; do
        pids=$(ip netns pids "$ns" 2>/dev/null) || true
        [ -n "$pids" ] || break
        sleep 0.05
      done
    done
    ip netns del "$ns" 2>/dev/null || true
  done
}

# Unix sockets have at most 107 bytes of path.
short_enough() {
  [ "${#1}" -le 90 ] || die "the run directory's path is too long for a unix socket (${#1} > 90 bytes): $1"
}

# start LOG COMMAND… — in the background, in a session of its own; the pid is left in $started.
start() {
  local log=$1
  shift
  setsid "$@" >>"$log" 2>&1 </dev/null &
  # shellcheck disable=SC2034
  started=$!
  disown "$started" # its end is not news to the terminal
}

# start_dns DIR NETNS — the responder of a far side; dns_answers DIR waits until it listens.
start_dns() {
  : >"$1/dns.log"
  start "$1/dns.log" ip netns exec "$2" "$(python_path)" "$bed/dns.py"
}
dns_answers() {
  wait_for 5 "the name server" grep -q answering "$1/dns.log" || { cat "$1/dns.log" >&2; return 1; }
}
