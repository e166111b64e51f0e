#!/usr/bin/env bash
# Prints the path of helm; builds it from its Go module if there is none.
#
#   helm.sh            path of helm
#   helm.sh --can      exit 0 if it can be had here, found or built
#
# Looked for in $HELM, on PATH, in the cache ${XDG_CACHE_HOME:-~/.cache}/netwright/helm-<version>.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$here/../control-plane/helm
version=$(awk '$1 == "helm.sh/helm/v3" {print $2}' "$module/go.mod")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/netwright/helm-$version

found() {
  if [ -n "${HELM:-}" ]; then
    echo "$HELM"
  elif command -v helm 2>/dev/null; then
    :
  elif [ -x "$cache/helm" ]; then
    echo "$cache/helm"
  else
    return 1
  fi
}

# What its own Makefile tells it: without, it takes every cluster for a Kubernetes 1.20.
told() {
  local v=helm.sh/helm/v3 minor at
  minor=$(awk '$1 == "k8s.io/client-go" {split($2, v, "."); print v[2]}' "$module/go.mod")
  printf -- '-X %s ' "$v/internal/version.version=$version"
  for at in pkg/chartutil pkg/lint/rules; do printf -- '-X %s ' "$v/$at.k8sVersionMajor=1" "$v/$at.k8sVersionMinor=$minor"; done
}

case ${1:-} in
  '') ;;
  --can) found >/dev/null || command -v go >/dev/null; exit ;;
  *) echo "helm.sh: unknown argument '$1'" >&2; exit 2 ;;
esac
found && exit 0
if ! command -v go >/dev/null; then
  echo "helm.sh: there is no helm and no Go to build it with; set HELM or install Go 1.24 or newer" >&2
  exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # a second run waits for the first one's build instead of repeating it
found && exit 0
echo "building helm $version (once, about 2 minutes on 2 cores; kept in $cache)" >&2
trap 'rm -f "$cache/helm.$$"' EXIT
(cd "$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $(told)" -o "$cache/helm.$$" helm.sh/helm/v3/cmd/helm) >&2
mv "$cache/helm.$$" "$cache/helm"
echo "$cache/helm"
