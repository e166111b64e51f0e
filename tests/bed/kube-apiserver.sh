#!/usr/bin/env bash
# Prints the path of a Kubernetes binary; builds it from its Go module if there is none.
#
#   kube-apiserver.sh                  path of kube-apiserver
#   kube-apiserver.sh kubectl          path of kubectl
#   kube-apiserver.sh --no-build [..]  do not build, exit 1 if there is none
#   kube-apiserver.sh --can            exit 0 if both can be had here, found or built
#
# Looked for in $KUBEBUILDER_ASSETS, on PATH, in the cache ${XDG_CACHE_HOME:-~/.cache}/netwright/<version>.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$here/../control-plane
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ {print $2} $1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$module/go.mod" | head -n1)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/netwright/$version

build=1 can='' tool=kube-apiserver
for arg; do
  case $arg in
    --no-build) build='' ;;
    --can) can=1 ;;
    kube-apiserver | kubectl) tool=$arg ;;
    *) echo "kube-apiserver.sh: unknown argument '$arg'" >&2; exit 2 ;;
  esac
done

# The server takes itself apart by these and does not start without them.
version_parts() {
  local v=k8s.io/component-base/version minor=${version#v1.}
  echo "-X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}"
}

found() {
  if [ -x "${KUBEBUILDER_ASSETS:-/nonexistent}/$tool" ]; then
    echo "$KUBEBUILDER_ASSETS/$tool"
  elif command -v "$tool" 2>/dev/null; then
    :
  elif [ -x "$cache/$tool" ]; then
    echo "$cache/$tool"
  else
    return 1
  fi
}

if [ -n "$can" ]; then
  if command -v go >/dev/null; then exit 0; fi
  tool=kube-apiserver && found >/dev/null && tool=kubectl && found >/dev/null
  exit
fi
found && exit 0
if [ -z "$build" ]; then
  echo "kube-apiserver.sh: there is no $tool in KUBEBUILDER_ASSETS, on PATH or in $cache" >&2
  exit 1
fi
if ! command -v go >/dev/null; then
  echo "kube-apiserver.sh: there is no $tool and no Go to build it with; set KUBEBUILDER_ASSETS or install Go 1.24 or newer" >&2
  exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # a second run waits for the first one's build instead of repeating it
found && exit 0
echo "building $tool $version (once, about 4 minutes on 2 cores; kept in $cache)" >&2
started=$SECONDS
trap 'rm -f "$cache/$tool.$$"' EXIT
(cd "$module" && CGO_ENABLED=0 go build -trimpath \
  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version $(version_parts)" \
  -o "$cache/$tool.$$" "k8s.io/kubernetes/cmd/$tool") >&2
mv "$cache/$tool.$$" "$cache/$tool"
echo "built $tool in $((SECONDS - started)) s" >&2
echo "$cache/$tool"
