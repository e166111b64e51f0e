#!/usr/bin/env bash
# What is in deploy/, by the tools that people use it with.
#
#   deploy.sh render     kustomize and the Helm chart render the same objects, with each of the options;
#                        deploy/netwright.yaml is what the default overlay renders; rules and dashboard
#                        use the metrics of METRICS.md and no others
#   deploy.sh cluster    on a real kube-apiserver (as root): all of it is taken without a warning, and
#                        the token of a node's agent writes what belongs to that node and nothing else
#   deploy.sh update     writes deploy/netwright.yaml
#
# Exit code 77: this machine has not what it takes (helm or Go, kubectl).
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/bed/lib.sh"
# shellcheck disable=SC2154 # lib.sh sets it
deploy=$repo/deploy
unset KUBECONFIG # never speaks to another cluster

failed=0
wrong() { echo "WRONG: $*" >&2; failed=1; }
good() { echo "ok: $*"; }

tools() {
  "$bed/helm.sh" --can && "$bed/kube-apiserver.sh" --can || { note "there is neither helm nor Go here"; exit 77; }
  helm=$("$bed/helm.sh")
  kubectl=$("$bed/kube-apiserver.sh" kubectl)
  work=$(mktemp -d "${TMPDIR:-/tmp}/nwdeploy.XXXXXX")
  trap cleanup EXIT
}

cleanup() {
  if [ -e "$work/c/env" ]; then "$bed/cluster.sh" down "$work/c" || true; fi
  rm -rf "$work"
}

# One text for one set of objects: kustomize sorts objects, by kind and name, and keys.
# normalised OUT RESOURCE [COMPONENT…]
normalised() {
  local out=$1 dir component
  dir=$(mktemp -d "$work/k.XXXXXX")
  {
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nsortOptions: {order: legacy}\n'
    printf 'resources: ["%s"]\n' "$(realpath --relative-to "$dir" "$2")"
    shift 2
    [ $# = 0 ] || printf 'components:\n'
    for component; do printf -- '- "%s"\n' "$(realpath --relative-to "$dir" "$deploy/components/$component")"; done
  } >"$dir/kustomization.yaml"
  "$kubectl" kustomize --load-restrictor LoadRestrictionsNone "$dir" >"$out"
}

# template OUT FLAG… — helm says of each link that it follows it
template() {
  local out=$1
  shift
  "$helm" template netwright "$deploy/chart" "$@" >"$out" 2>"$work/helm.log" || { cat "$work/helm.log" >&2; return 1; }
}

count() { grep -c '^kind: ' "$1"; }

# same NAME "COMPONENT…" FLAG…
same() {
  local name=$1 components=$2
  shift 2
  # shellcheck disable=SC2086
  normalised "$work/$name.kustomize.yaml" "$deploy/base" $components
  template "$work/$name.chart.yaml" "$@"
  normalised "$work/$name.helm.yaml" "$work/$name.chart.yaml"
  if diff -u "$work/$name.kustomize.yaml" "$work/$name.helm.yaml" >"$work/$name.diff"; then
    good "$name: kustomize and Helm render the same $(count "$work/$name.helm.yaml") objects"
  else
    wrong "$name: kustomize (-) and Helm (+) differ"
    cat "$work/$name.diff" >&2
  fi
}

same_installer() {
  normalised "$work/installer.kustomize.yaml" "$deploy/installer"
  template "$work/installer.chart.yaml" --set installer.enabled=true
  normalised "$work/installer.helm.yaml" "$work/installer.chart.yaml"
  if diff -u "$work/installer.kustomize.yaml" "$work/installer.helm.yaml" >"$work/installer.diff"; then
    good "installer: kustomize and Helm render the same $(count "$work/installer.helm.yaml") objects"
  else
    wrong "installer: kustomize (-) and Helm (+) differ"
    cat "$work/installer.diff" >&2
  fi
}

render_default() {
  printf '# The default overlay, rendered by tests/deploy.sh update: edit base/ instead.\n'
  "$kubectl" kustomize "$deploy/overlays/default"
}

# The same set of options, in the words of both.
variants() {
  same default ''
  same prometheus prometheus --set monitoring.enabled=true
  same alt-names alt-names --set agent.altNames=true
  same journal journal --set agent.journal=true
  same bootstrap bootstrap --set controller.bootstrap=true
  same bridge-marker bridge-marker --set agent.bridgeMarker=true
  same cert-manager cert-manager --set webhook.certManager=true
  same_installer
  same all 'alt-names bootstrap bridge-marker journal prometheus' \
    --set agent.altNames=true,agent.bridgeMarker=true,agent.journal=true,controller.bootstrap=true,monitoring.enabled=true
}

# The chart with every value set, each told apart in what comes out.
every_value() {
  local want
  cat >"$work/values.yaml" <<'YAML'
namespace: elsewhere
image: {repository: example.org/nw, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000", pullPolicy: Always, pullSecrets: [{name: key}]}
logLevel: trace
agent:
  nodeSelector: {a: selector}
  tolerations: [{key: a-taint, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a-affinity, operator: Exists}]}]}}}
  resources: {limits: {memory: 111Mi}}
  probes: {timeout: 31, dnsHost: probe.example, retries: 0}
  retries: {max: 7, initialBackoff: 3, maxBackoff: 41}
controller:
  replicas: 3
  nodeSelector: {c: selector}
  tolerations: [{key: c-taint, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: c-affinity, operator: Exists}]}]}}}
  resources: {limits: {memory: 222Mi}}
webhook: {selfSign: {caRotateInterval: 91h, caOverlapInterval: 7h, certRotateInterval: 45h, certOverlapInterval: 3h}}
monitoring: {enabled: true, labels: {release: prometheus}}
YAML
  template "$work/values.chart.yaml" -f "$work/values.yaml"
  normalised "$work/values.helm.yaml" "$work/values.chart.yaml"
  # a flag and its value on one line
  sed -E '/- --/{N;s/\n *- /=/;s/"//g}' "$work/values.helm.yaml" >"$work/values.joined"
  for want in 'image: example.org/nw@sha256:0000' 'imagePullPolicy: Always' '- name: key$' '- -vv' 'a: selector' \
    'key: a-taint' 'key: a-affinity' 'memory: 111Mi' 'timeout=31' 'dns-host=probe.example' 'probe-retries=0' \
    'ca-rotate-interval=91h' 'ca-overlap-interval=7h' 'cert-rotate-interval=45h' 'cert-overlap-interval=3h' \
    'max-retries=7' 'initial-backoff=3' 'max-backoff=41' \
    'replicas: 3' 'c: selector' 'key: c-taint' 'key: c-affinity' 'memory: 222Mi' 'release: prometheus' 'name: elsewhere$'; do
    grep -q -e "$want" "$work/values.joined" || wrong "the chart does nothing with the value that leads to '$want'"
  done
  if grep -n 'nmstate$' "$work/values.helm.yaml" | grep -v -e 'app: kubernetes-nmstate' -e /var/k8s_nmstate; then wrong "the chart leaves objects in namespace nmstate"; fi
  template "$work/own.yaml" -n own
  if grep -q 'kind: Namespace' "$work/own.yaml"; then wrong "the chart makes the release's own namespace"; fi
  grep -q 'namespace: own' "$work/own.yaml" || wrong "the chart does not follow the release's namespace"
  if template "$work/typo.yaml" --set agent.tolerationz=1 2>/dev/null; then wrong "the chart takes a value that it does not know"; fi
  good "the chart does something with every value"
}

# Names in rules and dashboard, without what a histogram or a recording rule adds to them.
names_used() {
  cat "$deploy"/components/prometheus/{rules.yaml,grafana-dashboard.json} |
    grep -oE '(^|[^a-zA-Z0-9_:])(netwright|kubernetes_nmstate|process)_[a-z_]+' | grep -oE '[a-z][a-z_]+$' |
    sed -E 's/_(bucket|sum|count)$//' | sort -u
}

metrics() {
  local name known used
  used=$(names_used)
  known=$(grep -oE '^\| `[a-z_]+` \|' "$deploy/METRICS.md" | tr -d '|` ' | sort -u)
  [ "$(wc -l <<<"$known")" -gt 20 ] || wrong "METRICS.md lists no metrics"
  while read -r name; do
    grep -qx "$name" <<<"$known" || wrong "METRICS.md does not know $name"
  done <<<"$used"
  # what nobody looks at need not be measured
  while read -r name; do
    case $name in process_*) continue ;; esac
    grep -qx "$name" <<<"$used" || note "neither rules nor dashboard use $name"
  done <<<"$known"
  good "rules and dashboard use $(wc -l <<<"$used") of the $(wc -l <<<"$known") metrics"
}

versions() {
  local version
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n1)
  grep -qx "appVersion: $version" "$deploy/chart/Chart.yaml" || wrong "the chart is not of version $version"
  if grep -h 'image: netwright' "$deploy"/base/*.yaml "$deploy"/installer/installer.yaml | grep -v "image: netwright:$version$"; then wrong "the base is not of version $version"; fi
  good "manifests and chart are of version $version"
}

render() {
  tools
  variants
  every_value
  if diff -u "$deploy/netwright.yaml" <(render_default); then
    good "deploy/netwright.yaml is up to date"
  else
    wrong "deploy/netwright.yaml is old: tests/deploy.sh update"
  fi
  "$helm" show crds "$deploy/chart" 2>/dev/null | sed '/^---$/d;/^$/d' >"$work/crds.yaml"
  diff <(sed '/^---$/d;/^$/d' "$repo"/crds/*.yaml) "$work/crds.yaml" >/dev/null || wrong "the chart's CRDs are not those of crds/"
  "$helm" lint --quiet --strict "$deploy/chart" 2>/dev/null || wrong "helm lint has something to say"
  metrics
  versions
}

bed_kubectl() { "$bed/cluster.sh" kubectl "$work/c" "$@"; }

# taken NAME COMMAND… — it passes, and says nothing on stderr
taken() {
  local name=$1
  shift
  if "$@" >"$work/out" 2>"$work/err" && [ ! -s "$work/err" ]; then
    good "$name: $(wc -l <"$work/out") lines, none of them a warning"
  else
    wrong "$name"
    cat "$work/out" "$work/err" >&2
  fi
}

with_helm() { "$helm" --kubeconfig "$work/c/admin.kubeconfig" "$@" 2> >(grep -v 'found symbolic link' >&2); }

# The operator's own definitions, from its Go module (checked by the checksum database).
monitoring_crds() {
  local dir name
  dir=$(cd "$work" && go mod download -json github.com/prometheus-operator/prometheus-operator@v0.85.0 |
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [ -d "$dir" ] || die "the Prometheus operator's definitions are not to be had"
  for name in podmonitors servicemonitors prometheusrules; do
    bed_kubectl apply --server-side -f "$dir/example/prometheus-operator-crd/monitoring.coreos.com_$name.yaml" >/dev/null
  done
  bed_kubectl wait --for condition=Established --timeout 20s crd/podmonitors.monitoring.coreos.com \
    crd/servicemonitors.monitoring.coreos.com crd/prometheusrules.monitoring.coreos.com >/dev/null
}

# agent_token NODE — that of a pod there, as its kubelet would ask for it
agent_token() {
  local uid pod=agent-${1:0:12}
  bed_kubectl create -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $pod, namespace: nmstate}
spec:
  nodeName: $1
  serviceAccountName: netwright-agent
  containers: [{name: agent, image: netwright}]
YAML
  uid=$(bed_kubectl -n nmstate get pod "$pod" -o 'jsonpath={.metadata.uid}')
  bed_kubectl -n nmstate create token netwright-agent --bound-object-kind Pod --bound-object-name "$pod" --bound-object-uid "$uid"
}

# as WHO kubectl-argument… — WHO is a file $work/WHO.token
as() {
  local who=$1
  shift
  "$kubectl" --kubeconfig /dev/null --server "$server" --certificate-authority "$work/c/pki/ca.crt" \
    --token "$(cat "$work/$who.token")" "$@"
}

# may WHO WHAT kubectl-argument… <MANIFEST
may() {
  local who=$1 what=$2
  shift 2
  if as "$who" "$@" >"$work/out" 2>&1; then good "$who may $what"; else
    wrong "$who may not $what: $(cat "$work/out")"
  fi
}

# may_not WHO WHAT MESSAGE kubectl-argument… <MANIFEST
may_not() {
  local who=$1 what=$2 message=$3
  shift 3
  if as "$who" "$@" >"$work/out" 2>&1; then
    wrong "$who may $what"
  elif grep -qF "$message" "$work/out"; then
    good "$who may not $what: $(sed 's/.*denied request: //' "$work/out" | tail -n1)"
  else
    wrong "$who may not $what, but not for the right reason: $(cat "$work/out")"
  fi
}

state() {
  printf 'apiVersion: nmstate.io/v1beta1\nkind: NodeNetworkState\nmetadata: {name: %s}\nstatus: {currentState: {told: %s}}\n' "$1" "$2"
}
enactment() {
  printf 'apiVersion: nmstate.io/v1beta1\nkind: NodeNetworkConfigurationEnactment\nmetadata: {name: %s, labels: {nmstate.io/node: %s, nmstate.io/policy: p}}\n' "$1" "$2"
}
progress='{"status":{"policyGeneration":1}}'

# A policy acts some moments after it was stored.
policy_acts() {
  ! state node02 probe | as node01 apply --server-side --dry-run=server -f - >"$work/out" 2>&1 && grep -q 'denied request' "$work/out"
}

own_objects() {
  local node
  for node in node01 node02; do
    state $node self | may $node "create the state of $node" apply --server-side -f -
    state $node self | may $node "write the state of $node" apply --server-side --subresource status -f -
    enactment $node.p $node | may $node "create enactment $node.p" create -f -
    may $node "write enactment $node.p" patch nnce $node.p --subresource status --type merge -p "$progress"
  done
}

foreign_objects() {
  local states='the agent of node node01 may write only the NodeNetworkState of that name'
  local names='the agent of node node01 may write only enactments named node01.'
  local labels='the agent of node node01 may write only enactments with label nmstate.io/node=node01'
  state node02 other | may_not node01 "apply to the state of node02" "$states" apply --server-side --force-conflicts -f -
  state node02 other | may_not node01 "write the state of node02" "$states" apply --server-side --force-conflicts --subresource status -f -
  state node03 other | may_not node01 "create the state of node03" "$states" apply --server-side -f -
  enactment node02.q node01 | may_not node01 "create enactment node02.q" "$names" create -f -
  enactment node01.q node02 | may_not node01 "create an enactment labelled node02" "$labels" create -f -
  may_not node01 "write enactment node02.p" "$names" patch nnce node02.p --subresource status --type merge -p "$progress"
  may_not node01 "delete enactment node02.p" "$names" delete nnce node02.p
  enactment node01.sub.p node01.sub | bed_kubectl create -f - >/dev/null
  may_not node01 "write an enactment of node node01.sub" "$labels" patch nnce node01.sub.p --subresource status --type merge -p "$progress"
  state node01 other | may_not nowhere "write with a token that is bound to no node" 'must be bound to a Pod or a Node' apply --server-side --force-conflicts -f -
  [ "$(bed_kubectl get nns node02 -o 'jsonpath={.status.currentState.told}')" = self ] || wrong "the state of node02 was changed"
}

# A node whose name is longer than a label may be.
long_name() {
  local stem node
  stem=node-$(printf 'n%.0s' {1..50}) node=$stem.rack-7.example.org
  printf 'apiVersion: v1\nkind: Node\nmetadata: {name: %s}\n' "$node" | bed_kubectl create -f - >/dev/null
  agent_token "$node" >"$work/long.token"
  labelled() { enactment "$node.$1" "$2" | sed "s|, labels|, annotations: {netwright.io/full-name: $3}, labels|"; }
  labelled p "${stem:0:50}-0123456789" "$node" | may long "create an enactment of its own" create -f -
  labelled q node02 "$node" | may_not long "label one as node02's" 'may write only enactments with label' create -f -
  labelled r "${stem:0:50}-0123456789" node02 | may_not long "annotate one as node02's" 'may write only enactments with label' create -f -
}

others() {
  may controller "write enactment node01.p" patch nnce node01.p --subresource status --type merge -p "$progress"
  may controller "delete enactment node02.p" delete nnce node02.p
  may node01 "delete enactment node01.p" delete nnce node01.p
  state node03 admin | bed_kubectl apply --server-side -f - >/dev/null || wrong "an administrator may not create the state of node03"
  may_not node01 "read Secrets" 'cannot list resource "secrets"' get secrets -A
  bed_kubectl create -f - >/dev/null <<'YAML'
{"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "metadata": {"name": "p"}, "spec": {"desiredState": {}}}
YAML
  may_not node01 "change policies" 'cannot patch resource' patch nncp p --type merge -p '{}'
  may_not controller "read Secrets" 'cannot list resource "secrets"' get secrets -A
  may_not controller "read another Secret" 'cannot get resource "secrets"' -n nmstate get secret other
  may_not node01 "read the webhook's Secret" 'cannot get resource "secrets"' -n nmstate get secret netwright-webhook
  may_not controller "change a Lease of somebody else" 'cannot update resource "leases"' -n nmstate replace -f - <<'YAML'
{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "other", "namespace": "nmstate"}}
YAML
  may node01 "send an event" create -f - <<'YAML'
{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"}, "reason": "RolledBack", "type": "Warning",
 "message": "m", "involvedObject": {"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "name": "p"}}
YAML
}

# The apiserver says of each answer by which FlowSchema it was ordered.
flow() {
  local uid who
  uid=$(bed_kubectl get flowschema netwright -o 'jsonpath={.metadata.uid}')
  ordered() { as "$1" get nncp -v=8 2>&1 | grep -i "Flowschema-Uid: $uid" >/dev/null; }
  for who in node01 controller; do
    if wait_for 10 "the flow schema" ordered $who; then good "$who is ordered by the flow schema"; else wrong "$who is not ordered by the flow schema"; fi
  done
}

admission() {
  server=$(bed_kubectl config view --raw -o 'jsonpath={.clusters[0].cluster.server}')
  agent_token node01 >"$work/node01.token"
  agent_token node02 >"$work/node02.token"
  bed_kubectl -n nmstate create token netwright-agent >"$work/nowhere.token"
  bed_kubectl -n nmstate create token netwright-controller >"$work/controller.token"
  wait_for 20 "the admission policy" policy_acts || wrong "the admission policy does not act"
  own_objects
  foreign_objects
  long_name
  others
  flow
}

versions_stored() {
  bed_kubectl get -f "$deploy" -o 'jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'
}

cluster() {
  need_root
  command -v go >/dev/null || { note "there is no Go here to get the Prometheus operator's definitions with"; exit 77; }
  tools
  "$bed/cluster.sh" up "$work/c" --nodes 2 --no-objects
  # as the README says, each on a cluster that has nothing yet
  taken 'helm install' with_helm install netwright "$deploy/chart" --namespace nmstate-chart --create-namespace --skip-crds
  taken 'helm uninstall' with_helm uninstall netwright --namespace nmstate-chart
  taken 'apply -f crds -f deploy' bed_kubectl apply -f "$repo/crds" -f "$deploy"
  bed_kubectl wait --for condition=Established --timeout 20s -f "$repo/crds" >/dev/null
  versions_stored >"$work/once"
  taken 'the same again' bed_kubectl apply -f "$repo/crds" -f "$deploy"
  versions_stored | diff "$work/once" - || wrong "applied twice it is not the same"
  taken 'apply -k deploy/installer' bed_kubectl apply -k "$deploy/installer"
  monitoring_crds
  local overlay name
  for overlay in "$deploy"/overlays/*/; do
    taken "dry run of ${overlay#"$repo/"}" bed_kubectl apply --dry-run=server -k "$overlay"
  done
  variants
  every_value
  for name in default all; do taken "dry run of the chart: $name" bed_kubectl apply --dry-run=server -f "$work/$name.chart.yaml"; done
  bed_kubectl create --save-config namespace elsewhere >/dev/null
  taken 'dry run of the chart: every value' bed_kubectl apply --dry-run=server -f "$work/values.chart.yaml"
  admission
}

case ${1:-} in
  render) render ;;
  cluster) cluster ;;
  update) tools; render_default >"$deploy/netwright.yaml" ;;
  *) sed -n '4,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
exit $failed
