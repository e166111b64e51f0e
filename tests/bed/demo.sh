#!/usr/bin/env bash
# The main job on real parts, as a person would see it: a policy reaches the kernel, a bad policy rolls
# back by itself, a policy takes an interface away. Exit code 0 only if every act showed what it should.
#
#   demo.sh                  KEEP=1 leaves everything up and says how to use it and how to end it
#   demo.sh --standalone     without a cluster: `agent --policy-dir` on one node (also what runs
#                            where no kube-apiserver is to be had)
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_root
started_at=$SECONDS
bin=$(realpath "${NETWRIGHT_BIN:-$repo/target/debug/netwright}")
[ -x "$bin" ] || die "no netwright at $bin: cargo build, or set NETWRIGHT_BIN"
export NETWRIGHT_BIN=$bin
unset KUBECONFIG # the demo never speaks to another cluster

standalone=''
case ${1:-} in
  '') ;;
  --standalone) standalone=1 ;;
  *) die "unknown argument '$1'" ;;
esac
if [ -z "$standalone" ] && ! "$bed/kube-apiserver.sh" --can; then
  note "there is no kube-apiserver on this machine and no Go to build one: showing the same without a cluster"
  standalone=1
fi

run_dir=$(mktemp -d "${TMPDIR:-/tmp}/nwdemo.XXXXXX")
finished=''
cleanup() {
  trap '' INT TERM
  if [ -n "${KEEP:-}" ] && [ -n "$finished" ]; then return; fi
  if [ -e "$run_dir/c/env" ]; then "$bed/cluster.sh" down "$run_dir/c" || true; fi
  if [ -e "$run_dir/node01/env" ]; then "$bed/node.sh" down "$run_dir/node01" || true; fi
  rm -rf "$run_dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
# show COMMAND… — prints the command as a person would type it, and runs it
show() {
  local word line='' plain_word='^[A-Za-z0-9_./:=,@+-]+$'
  for word; do
    if [[ $word =~ $plain_word ]]; then line+=" $word"; else line+=" '$word'"; fi
  done
  printf '%s$%s%s\n' "$bold" "$line" "$plain"
  "$@"
}
fail() {
  printf '\nNOT AS IT SHOULD BE: %s\n' "$*"
  local log
  for log in "$run_dir"/c/controller.log "$run_dir"/c/agent-*.log "$run_dir"/agent.log; do
    [ -e "$log" ] || continue
    echo "--- the last lines of ${log#"$run_dir/"}"
    tail -n 25 "$log"
  done
  exit 1
}
proved() { printf '   ok: %s\n' "$*"; }

now_ms() { echo $(($(date +%s%N) / 1000000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# addresses of a node's mgmt0, as the kernel has them
mgmt_addresses() { ip -n "$1" -4 -o address show dev mgmt0 2>/dev/null | awk '{printf "%s%s", sep, $4; sep = " "}'; }

# watch_mgmt LIMIT DONE NETNS… — prints every change of mgmt0's address on these nodes until DONE holds.
# Leaves in the arrays: moved[NETNS] when it went, longest[NETNS] how long it was away at most (ms).
declare -A moved=() longest=()
watch_mgmt() {
  local limit=$1 done_=$2 begin ns addresses now last_check=0
  local -A home=() before=() since=()
  shift 2
  begin=$(now_ms)
  for ns; do
    home[$ns]=$(mgmt_addresses "$ns") before[$ns]=${home[$ns]} since[$ns]=0
    moved[$ns]='' longest[$ns]=0
  done
  while now=$(now_ms); [ $((now - begin)) -lt $((limit * 1000)) ]; do
    for ns; do
      addresses=$(mgmt_addresses "$ns")
      if [ "$addresses" != "${before[$ns]}" ]; then
        printf '   %7s  %s mgmt0: %s\n' "$(seconds $((now - begin)))" "${ns#*-}" "${addresses:-no address}"
        before[$ns]=$addresses
        if [ "$addresses" != "${home[$ns]}" ]; then
          moved[$ns]=1
          [ "${since[$ns]}" != 0 ] || since[$ns]=$now
        else
          now=$((now - since[$ns]))
          since[$ns]=0
          [ "$now" -le "${longest[$ns]}" ] || longest[$ns]=$now
          printf '            %s has its old address back after %s\n' "${ns#*-}" "$(seconds "$now")"
        fi
      fi
    done
    now=$(now_ms)
    if [ $((now - last_check)) -ge 500 ]; then
      last_check=$now
      if $done_; then
        for ns; do [ "${since[$ns]}" = 0 ] || continue 2; done
        return 0
      fi
    fi
    sleep 0.05
  done
  return 1
}

policies() {
  cat >"$1/br0-eth1.yaml" <<'YAML'
apiVersion: nmstate.io/v1alpha1
kind: NodeNetworkConfigurationPolicy
metadata: {name: br0-eth1}
spec:
  desiredState:
    interfaces:
    - name: br0
      description: Linux bridge with eth1 as a port
      type: linux-bridge
      state: up
      bridge:
        options: {stp: {enabled: false}}
        port: [{name: eth1}]
YAML
  cat >"$1/move-mgmt.yaml" <<'YAML'
apiVersion: nmstate.io/v1alpha1
kind: NodeNetworkConfigurationPolicy
metadata: {name: move-mgmt}
spec:
  maxUnavailable: 1
  desiredState:
    interfaces:
    - name: mgmt0
      type: ethernet
      state: up
      ipv4:
        enabled: true
        dhcp: false
        address: [{ip: 10.98.0.2, prefix-length: 24}]
YAML
  cat >"$1/br0-absent.yaml" <<'YAML'
apiVersion: nmstate.io/v1alpha1
kind: NodeNetworkConfigurationPolicy
metadata: {name: br0-eth1}
spec:
  desiredState:
    interfaces:
    - name: br0
      type: linux-bridge
      state: absent
YAML
}

is_port() { ip -n "$1" -o link show dev eth1 2>/dev/null | grep -q ' master br0 '; }
has_br0() { ip -n "$1" link show dev br0 >/dev/null 2>&1; }
names_a_probe() { grep -Eiq 'probe|gateway|dns|apiserver|node-readiness' <<<"$1"; }

with_cluster() {
  local c=$run_dir/c node failing aborted message
  heading "A cluster: etcd, kube-apiserver, two nodes each with its own D-Bus and NetworkManager"
  show "${bed#"$repo/"}/cluster.sh" up "$c" --nodes 2
  # shellcheck disable=SC1091
  . "$c/env"
  for node in $NODES; do show "${bed#"$repo/"}/cluster.sh" agent "$c" "$node"; done
  show "${bed#"$repo/"}/cluster.sh" controller "$c"
  export KUBECONFIG
  PATH=$(dirname "$("$bed/kube-apiserver.sh" kubectl)"):$PATH
  local n1=nw$ID-node01 n2=nw$ID-node02
  policies "$run_dir"
  cd "$run_dir"
  show kubectl get nodes

  heading "Act 1: a policy reaches the kernel"
  show cat br0-eth1.yaml
  show kubectl apply -f br0-eth1.yaml
  show kubectl wait nncp br0-eth1 --for condition=Available --timeout 2m || fail "the policy did not become Available"
  show kubectl get nncp
  show kubectl get nnce
  port_reported() {
    kubectl get nns node01 -o 'jsonpath={.status.currentState.interfaces[?(@.name=="br0")].bridge.port[*].name}' | grep -qw eth1
  }
  wait_for 10 "br0 in node01's NodeNetworkState" port_reported || fail "node01's NodeNetworkState does not hold br0 with port eth1"
  show kubectl get nns node01 -o yaml
  proved "NodeNetworkState of node01 holds br0 with port eth1"
  for ns in "$n1" "$n2"; do
    show ip netns exec "$ns" ip link
    is_port "$ns" || fail "eth1 is not a port of br0 on ${ns#*-}"
    proved "the kernel of ${ns#*-} has br0 with port eth1"
  done

  heading "Act 2: a policy that takes the nodes off the network rolls back, and the roll-out stops"
  show cat move-mgmt.yaml
  show kubectl apply -f move-mgmt.yaml
  echo "   watching mgmt0 of both nodes:"
  status_of() { kubectl get nnce "$1.move-mgmt" -o "jsonpath={.status.conditions[?(@.type==\"$2\")].status}" 2>/dev/null; }
  settled() {
    local a b
    a=$(kubectl get nnce node01.move-mgmt -o 'jsonpath={.status.conditions[?(@.status=="True")].type}' 2>/dev/null) || return 1
    b=$(kubectl get nnce node02.move-mgmt -o 'jsonpath={.status.conditions[?(@.status=="True")].type}' 2>/dev/null) || return 1
    [[ " $a $b " == *" Failing "* && " $a $b " == *" Aborted "* ]]
  }
  watch_mgmt 150 settled "$n1" "$n2" || { show kubectl get nncp,nnce; fail "no end in 150 s: one node Failing and the other Aborted was expected"; }
  show kubectl get nncp
  show kubectl get nnce
  failing=node01 aborted=node02
  if [ "$(status_of node02 Failing)" = True ]; then failing=node02 aborted=node01; fi
  show kubectl get nnce "$failing.move-mgmt" -o 'jsonpath={.status.conditions[?(@.type=="Failing")].message}{"\n"}'
  message=$(kubectl get nnce "$failing.move-mgmt" -o 'jsonpath={.status.conditions[?(@.type=="Failing")].message}')
  show ip netns exec "nw$ID-$failing" ip -4 address show dev mgmt0
  [ "$(status_of "$failing" Failing)" = True ] || fail "no enactment says Failing"
  [ "$(status_of "$aborted" Aborted)" = True ] || fail "the other node's enactment does not say Aborted"
  names_a_probe "$message" || fail "the message does not name the probe that failed: $message"
  [ -n "${moved[nw$ID-$failing]}" ] || fail "mgmt0 of $failing never moved: nothing was tried"
  [ "${longest[nw$ID-$failing]}" -le 30000 ] || fail "$failing was off the network for $(seconds "${longest[nw$ID-$failing]}"), more than 30 s"
  [ -z "${moved[nw$ID-$aborted]}" ] || fail "$aborted was touched although the roll-out had to stop"
  proved "$failing was away for at most $(seconds "${longest[nw$ID-$failing]}"), has its old address back and says which probe failed"
  proved "$aborted never started: Aborted"
  show kubectl delete nncp move-mgmt

  heading "Act 3: state: absent"
  show cat br0-absent.yaml
  show kubectl apply -f br0-absent.yaml
  show kubectl wait nncp br0-eth1 --for condition=Available --timeout 2m || fail "the policy did not become Available"
  show kubectl get nncp,nnce
  for ns in "$n1" "$n2"; do
    show ip netns exec "$ns" ip link
    ! has_br0 "$ns" || fail "${ns#*-} still has br0"
    proved "${ns#*-} has no br0 any more"
  done
}

without_cluster() {
  local d=$run_dir/node01 w=$run_dir status
  heading "A node with its own D-Bus and NetworkManager, and an agent that takes policies from a folder"
  mkdir -p "$w/policies" "$w/state" "$w/run" "$w/drafts"
  policies "$w/drafts"
  show "${bed#"$repo/"}/node.sh" up "$d" node01
  # shellcheck disable=SC1091
  . "$d/env"
  printf '%s$ netwright agent --policy-dir policies%s\n' "$bold" "$plain"
  start "$w/agent.log" "$bed/node.sh" exec "$d" "$bin" agent --node-name node01 --policy-dir "$w/policies" \
    --state-dir "$w/state" --run-dir "$w/run"
  local agent=$started
  PATH=$(dirname "$bin"):$PATH
  cd "$w"
  status_now() { netwright status --run-dir run; }
  says() { status_now | grep -E "$1" | grep -Eq "$2"; }

  heading "Act 1: a policy reaches the kernel"
  show cat drafts/br0-eth1.yaml
  show cp drafts/br0-eth1.yaml policies/
  wait_for 120 "br0-eth1 to become Available" says br0-eth1 Available || fail "the policy did not become Available"
  show netwright status --run-dir run
  show ip netns exec "$NETNS" ip link
  is_port "$NETNS" || fail "eth1 is not a port of br0"
  proved "the kernel has br0 with port eth1"

  heading "Act 2: a policy that takes the node off the network rolls back"
  show cat drafts/move-mgmt.yaml
  show cp drafts/move-mgmt.yaml policies/
  echo "   watching mgmt0:"
  settled() { says move-mgmt Failing; }
  watch_mgmt 150 settled "$NETNS" || fail "no end in 150 s: Failing was expected"
  show netwright status --run-dir run
  status=$(status_now; cat run/enactments/*move-mgmt* 2>/dev/null || true)
  show ip netns exec "$NETNS" ip -4 address show dev mgmt0
  [ -n "${moved[$NETNS]}" ] || fail "mgmt0 never moved: nothing was tried"
  [ "${longest[$NETNS]}" -le 30000 ] || fail "the node was off the network for more than 30 s"
  names_a_probe "$status" || fail "no probe is named"
  proved "the node was away for at most $(seconds "${longest[$NETNS]}") and has its old address back"
  show rm policies/move-mgmt.yaml

  heading "Act 3: state: absent"
  show cat drafts/br0-absent.yaml
  show cp drafts/br0-absent.yaml policies/br0-eth1.yaml
  no_br0() { ! has_br0 "$NETNS"; }
  wait_for 60 "br0 to go" no_br0 || fail "the node still has br0"
  wait_for 30 "br0-eth1 to become Available" says br0-eth1 Available || fail "the policy did not become Available"
  show netwright status --run-dir run
  show ip netns exec "$NETNS" ip link
  proved "the node has no br0 any more"
  alive "$agent" || fail "the agent has ended"
}

cd "$repo"
if [ -n "$standalone" ]; then without_cluster; else with_cluster; fi
finished=1
printf '\n%s== All three acts showed what they should, in %d s%s\n' "$bold" $((SECONDS - started_at)) "$plain"
if [ -n "${KEEP:-}" ]; then
  if [ -n "$standalone" ]; then
    printf 'left up:\n  %s exec %s COMMAND\nto end it:\n  %s down %s && rm -r %s\n' \
      "$bed/node.sh" "$run_dir/node01" "$bed/node.sh" "$run_dir/node01" "$run_dir"
  else
    printf 'left up:\n  export KUBECONFIG=%s\n  %s exec %s node01 COMMAND\nto end it:\n  %s down %s && rm -r %s\n' \
      "$KUBECONFIG" "$bed/cluster.sh" "$run_dir/c" "$bed/cluster.sh" "$run_dir/c" "$run_dir"
  fi
fi
