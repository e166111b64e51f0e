#!/usr/bin/env bash
# The catalogue on the real binary in a Debian 13 machine.
#
#   run.sh [TYPE | TYPE/CASE]…     these only, also of catalogue/next; none: all that is expected to pass
#
# VM_CASES=all or VM_CASES="TYPE TYPE/CASE" say the same from outside; `all` is everything with catalogue/next, which holds
# the types to come. CARGO_BIN is the binary to test; without it `cargo build --profile e2e` makes one.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../bed/lib.sh"

vm=$repo/tests/vm
case ${1:-} in -*) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;; esac
read -r -a choice <<<"${*:-${VM_CASES:-}}"
next=''
if [ ${#choice[@]} -gt 0 ]; then next=1; fi
if [ "${choice[*]}" = all ]; then choice=(); fi

binary=${CARGO_BIN:-}
if [ -z "$binary" ]; then
  (cd "$repo" && cargo build --profile e2e)
  binary=$repo/target/e2e/netwright
fi
payload=$(mktemp -d "${TMPDIR:-/tmp}/netwright-payload.XXXXXX")
machine=''
trap '[ -z "$machine" ] || { kill "$machine" 2>/dev/null && wait "$machine"; }; rm -rf "$payload"' EXIT
trap 'exit 130' INT TERM
cp "$vm"/guest/* "$payload"
cp "$binary" "$payload/netwright"
mkdir "$payload/catalogue"
cp "$vm"/catalogue/*.yaml "$payload/catalogue"
if [ -n "$next" ]; then cp "$vm"/catalogue/next/*.yaml "$payload/catalogue"; fi
echo "${choice[*]}" >"$payload/choice"
began=$SECONDS
"$vm/machine.sh" "$payload" &
machine=$!
wait "$machine" && code=0 || code=$?
machine=''
note "took $((SECONDS - began)) s"
exit "$code"
