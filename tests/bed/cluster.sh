#!/usr/bin/env bash
# shellcheck disable=SC2034 # much is set for DIR/env
#
# A cluster without kubelets: etcd and a real kube-apiserver in a namespace of their own, and nodes
# made by node.sh that reach it over mgmt0.
#
#   cluster.sh up DIR [option…]        makes it and waits until it answers; writes DIR/env
#       --nodes N            node01 … (default 2)
#       --node-option X      passed to `node.sh up` of every node (repeatable)
#       --no-objects         neither CRDs nor deploy/ nor tokens: a bare apiserver and Node objects
#   cluster.sh agent DIR NODE [arg…]   starts `netwright agent` in NODE, as its own service account
#   cluster.sh controller DIR [arg…]   starts `netwright controller` beside the apiserver
#   cluster.sh apiserver DIR           starts a kube-apiserver that was stopped
#   cluster.sh stop DIR agent-NODE|controller|kube-apiserver   ends one of them (SIGTERM), waits for it
#   cluster.sh kubectl DIR arg…        kubectl as administrator
#   cluster.sh exec DIR NODE COMMAND…  same as node.sh exec DIR/NODE
#   cluster.sh down DIR                ends everything; keeps DIR's logs
#
# DIR/env: ID CP_NETNS KUBECONFIG NODES. KUBECONFIG works from outside (127.0.0.1).
# DIR/agent-NODE.kubeconfig and DIR/controller.kubeconfig hold tokens of the shipped service accounts;
# logs are DIR/agent-NODE.log, DIR/controller.log, DIR/kube-apiserver.log, DIR/etcd.log.
# A node's agent keeps its state in DIR/NODE/state and DIR/NODE/run.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() { sed -n '4,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

binary() {
  local path=${NETWRIGHT_BIN:-$repo/target/debug/netwright}
  [ -x "$path" ] || die "no netwright at $path: cargo build, or set NETWRIGHT_BIN"
  realpath "$path"
}

load() {
  dir=$(realpath -m "$1")
  [ -r "$dir/env" ] || die "no cluster was made in $dir"
  # shellcheck disable=SC1091
  . "$dir/env"
  kubectl=$("$bed/kube-apiserver.sh" kubectl)
}

write_env() {
  local name
  for name in ID CP_NETNS KUBECONFIG NODES; do printf '%s=%q\n' "$name" "${!name:-}"; done >"$dir/env.new"
  mv "$dir/env.new" "$dir/env"
}

kube() { "$kubectl" --kubeconfig "$dir/admin.kubeconfig" "$@"; }

certificates() {
  local pki=$dir/pki n addresses=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1
  for n in $(seq 1 "$1"); do addresses+=,IP:10.99.$n.1; done
  mkdir -p "$pki"
  {
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/sa.key"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=netwright-bed-ca \
      -keyout "$pki/ca.key" -out "$pki/ca.crt"
    sign server /CN=kube-apiserver "subjectAltName=$addresses" serverAuth
    sign admin /O=system:masters/CN=admin basicConstraints=CA:FALSE clientAuth
  } 2>"$dir/openssl.log" || { cat "$dir/openssl.log" >&2; return 1; }
}

# sign NAME SUBJECT EXTENSION USAGE
sign() {
  local pki=$dir/pki
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr"
  printf '%s\nextendedKeyUsage=%s\n' "$3" "$4" >"$pki/$1.ext"
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 \
    -extfile "$pki/$1.ext" -out "$pki/$1.crt"
}

# kubeconfig FILE SERVER USER-YAML
kubeconfig() {
  (
    umask 077
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: bed
clusters:
- name: bed
  cluster: {server: "$2", certificate-authority-data: $(base64 -w0 "$dir/pki/ca.crt")}
contexts:
- name: bed
  context: {cluster: bed, user: bed}
users:
- name: bed
  user: {$3}
YAML
  )
}

# token ACCOUNT [NODE UID] — bound to the Node, as the token of a pod on it would be
token() {
  local bound=''
  if [ $# -gt 1 ]; then bound=", \"boundObjectRef\": {\"kind\": \"Node\", \"apiVersion\": \"v1\", \"name\": \"$2\", \"uid\": \"$3\"}"; fi
  kube create --raw "/api/v1/namespaces/nmstate/serviceaccounts/$1/token" -f - <<JSON |
{"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"audiences": [], "expirationSeconds": 86400$bound}}
JSON
    python -c 'import json, sys; print(json.load(sys.stdin)["status"]["token"])'
}

node_objects() {
  local n node now
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  for node in $NODES; do
    cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: $node
  labels: {kubernetes.io/hostname: $node, kubernetes.io/os: linux, node-role.kubernetes.io/worker: ""}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: $node, namespace: kube-node-lease}
spec: {holderIdentity: $node, leaseDurationSeconds: 40, renewTime: "${now%Z}.000000Z"}
YAML
  done | kube apply -f - >/dev/null
  n=0
  for node in $NODES; do
    n=$((n + 1))
    # Nothing here judges heartbeats, so Ready stays what it is set to.
    kube patch node "$node" --subresource=status --type=merge -p "{\"status\": {
      \"addresses\": [{\"type\": \"InternalIP\", \"address\": \"10.99.$n.2\"}, {\"type\": \"Hostname\", \"address\": \"$node\"}],
      \"capacity\": {\"cpu\": \"2\", \"memory\": \"4Gi\", \"pods\": \"110\"},
      \"allocatable\": {\"cpu\": \"2\", \"memory\": \"4Gi\", \"pods\": \"110\"},
      \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\", \"reason\": \"KubeletReady\", \"message\": \"made by the test bed\",
                        \"lastHeartbeatTime\": \"$now\", \"lastTransitionTime\": \"$now\"}]}}" >/dev/null
  done
}

shipped_objects() {
  local node uid n=0
  [ -d "$repo/crds" ] || die "there is no crds/ to apply"
  kube apply --server-side -f "$repo/crds" >/dev/null
  # also the workloads, which stay objects: there is nothing that would run them
  kube apply --server-side -f "$repo/deploy" >/dev/null
  kube wait --for condition=Established --timeout 20s -f "$repo/crds" >/dev/null
  while read -r node uid; do
    n=$((n + 1))
    kubeconfig "$dir/agent-$node.kubeconfig" "https://10.99.$n.1:6443" "token: $(token netwright-agent "$node" "$uid")"
  done < <(kube get nodes --sort-by=.metadata.name --no-headers -o custom-columns=N:.metadata.name,U:.metadata.uid)
  kubeconfig "$dir/controller.kubeconfig" https://127.0.0.1:6443 "token: $(token netwright-controller)"
}

# start_apiserver — remembers its pid, so that `stop DIR kube-apiserver` and `apiserver DIR` can end and start it
start_apiserver() {
  local apiserver pki=$dir/pki
  apiserver=$("$bed/kube-apiserver.sh")
  run kube-apiserver ip netns exec "$CP_NETNS" "$apiserver" \
    --etcd-servers http://127.0.0.1:2379 --secure-port 6443 --bind-address 0.0.0.0 --advertise-address 10.99.1.1 \
    --endpoint-reconciler-type none \
    --tls-cert-file "$pki/server.crt" --tls-private-key-file "$pki/server.key" --client-ca-file "$pki/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/sa.key" \
    --service-account-signing-key-file "$pki/sa.key" --authorization-mode Node,RBAC \
    --enable-aggregator-routing --service-cluster-ip-range 10.96.0.0/16 --disable-admission-plugins ServiceAccount --cert-dir "$dir/pki"
}

add_namespace() {
  ID=$(new_id)
  CP_NETNS=nw$ID-cp
  write_env
  netns_add "$CP_NETNS"
}

up() {
  dir=$(realpath -m "$1")
  shift
  local nodes=2 objects=1 node_options=() n node etcd pki=$dir/pki
  while [ $# -gt 0 ]; do
    case $1 in
      --nodes) nodes=$2; shift ;;
      --node-option) node_options+=("$2"); shift ;;
      --no-objects) objects='' ;;
      *) die "unknown option '$1'" ;;
    esac
    shift
  done
  need_root
  "$bed/install.sh" --check || die "run tests/bed/install.sh first"
  short_enough "$dir/node00"
  [ ! -e "$dir/env" ] || die "$dir is in use: cluster.sh down $dir"
  "$bed/kube-apiserver.sh" >/dev/null
  kubectl=$("$bed/kube-apiserver.sh" kubectl)
  etcd=${KUBEBUILDER_ASSETS:+$KUBEBUILDER_ASSETS/etcd}
  [ -x "$etcd" ] || etcd=$(command -v etcd)

  mkdir -p "$dir"
  rm -rf "$dir/etcd" "$dir/port"
  trap 'trap - INT TERM; down "$dir"; exit 130' INT TERM
  trap '[ $? = 0 ] || down "$dir"' EXIT
  NODES=$(seq -f node%02.0f -s ' ' 1 "$nodes") KUBECONFIG=$dir/admin.kubeconfig
  netns_lock add_namespace
  # shellcheck disable=SC1091
  . "$dir/env" # the names were made in a subshell

  start "$dir/etcd.log" ip netns exec "$CP_NETNS" "$etcd" --data-dir "$dir/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --log-level warn
  certificates "$nodes"
  start_apiserver
  local apiserver_pid
  apiserver_pid=$(cat "$dir/kube-apiserver.pid")
  start_dns "$dir" "$CP_NETNS"
  start "$dir/forward.log" "$(python_path)" "$bed/forward.py" "$CP_NETNS" 6443 "$dir/port"
  n=0
  for node in $NODES; do
    n=$((n + 1))
    "$bed/node.sh" up "$dir/$node" "$node" --index "$n" --far "$CP_NETNS" --id "$ID" "${node_options[@]}"
  done
  dns_answers "$dir"
  wait_for 5 "the forwarder" test -s "$dir/port" || { cat "$dir/forward.log" >&2; exit 1; }
  kubeconfig "$dir/admin.kubeconfig" "https://127.0.0.1:$(cat "$dir/port")" \
    "client-certificate-data: $(base64 -w0 "$pki/admin.crt"), client-key-data: $(base64 -w0 "$pki/admin.key")"
  ready() { kube get --raw /readyz && kube get namespace kube-node-lease; }
    ready_or_gone() { ready || not_alive "$apiserver_pid"; }
  if ! wait_for 60 "the apiserver" ready_or_gone || ! ready >/dev/null 2>&1; then
    tail -n 20 "$dir/kube-apiserver.log" >&2
    die "the apiserver did not come up"
  fi
  node_objects
  [ -z "$objects" ] || shipped_objects
  trap - EXIT INT TERM
}

# run NAME COMMAND… — starts a role of netwright in the background and remembers its pid
run() {
  local name=$1
  shift
  if [ -s "$dir/$name.pid" ] && alive "$(cat "$dir/$name.pid")"; then die "$name runs already"; fi
  start "$dir/$name.log" "$@"
  echo "$started" >"$dir/$name.pid"
}

down() {
  dir=$(realpath -m "$1")
  [ -r "$dir/env" ] || return 0
  # shellcheck disable=SC1091
  . "$dir/env"
  local node ends=()
  for node in $NODES; do
    "$bed/node.sh" down "$dir/$node" &
    ends+=($!)
  done
  netns_end "$CP_NETNS"
  wait "${ends[@]}" || true
  rm -rf "$dir/env" "$dir/etcd" "$dir"/*.pid "$dir/port"
}

verb=${1:-}
[ $# -ge 2 ] || usage
shift
case $verb in
  up) up "$@" ;;
  down) need_root; down "$1" ;;
  kubectl) load "$1"; shift; exec "$kubectl" --kubeconfig "$dir/admin.kubeconfig" "$@" ;;
  exec) load "$1"; node=$2; shift 2; exec "$bed/node.sh" exec "$dir/$node" "$@" ;;
  agent)
    load "$1"
    node=$2
    shift 2
    bin=$(binary)
    mkdir -p "$dir/$node/state" "$dir/$node/run"
    run "agent-$node" "$bed/node.sh" exec "$dir/$node" "$bin" agent --node-name "$node" \
      --kubeconfig "$dir/agent-$node.kubeconfig" --state-dir "$dir/$node/state" --run-dir "$dir/$node/run" "$@"
    ;;
  apiserver) load "$1"; start_apiserver ;;
  controller)
    load "$1"
    shift
    bin=$(binary)
    run controller ip netns exec "$CP_NETNS" "$bin" controller --kubeconfig "$dir/controller.kubeconfig" \
      --namespace nmstate --identity "bed-$ID" "$@"
    ;;
  stop)
    load "$1"
    pid=$(cat "$dir/$2.pid" 2>/dev/null) || die "$2 does not run"
    kill "$pid" 2>/dev/null || true
    wait_for 10 "$2 to end" not_alive "$pid" || kill -KILL "$pid"
    rm -f "$dir/$2.pid"
    ;;
  *) usage ;;
esac
