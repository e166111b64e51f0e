#!/usr/bin/env bash
# The catalogue on the real binary, in Debian 13 machines that share it between them.
#
#   run.sh [TYPE | TYPE/CASE]…     these only; none: everything
#
# VM_CASES="TYPE TYPE/CASE" says the same from outside. CARGO_BIN is the binary to test; without it `cargo build --profile e2e`
# makes one. VM_MACHINES is how many machines run side by side: one emulated processor takes one real one (default: 2, or 1
# where there is one processor).
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../bed/lib.sh"

vm=$repo/tests/vm
case ${1:-} in -*) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;; esac
read -r -a choice <<<"${*:-${VM_CASES:-}}"
machines=${VM_MACHINES:-$(($(nproc) > 1 ? 2 : 1))}
case ${choice[*]} in *' '*) ;; */*) machines=1 ;; esac

binary=${CARGO_BIN:-}
if [ -z "$binary" ]; then
  (cd "$repo" && cargo build --profile e2e)
  binary=$repo/target/e2e/netwright
fi
"$vm/image.sh" >/dev/null # once, before two want it

work=$(mktemp -d "${TMPDIR:-/tmp}/netwright-suite.XXXXXX")
pids=()
trap '[ ${#pids[@]} = 0 ] || { kill "${pids[@]}" 2>/dev/null && wait; }; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

began=$SECONDS
for n in $(seq "$machines"); do
  payload=$work/payload$n
  mkdir "$payload"
  cp "$vm"/guest/* "$payload"
  cp -r "$vm/catalogue" "$payload"
  cp "$binary" "$payload/netwright"
  echo "${choice[*]}" >"$payload/choice"
  echo "$n $machines" >"$payload/part"
  "$vm/machine.sh" "$payload" > >(tee "$work/said$n" | grep --line-buffered -v '^[0-9]* passed, [0-9]* failed$') &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
pids=()
sleep 0.2 # until the last words are out
cat "$work"/said* | awk '/^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 } END { printf "%d passed, %d failed\n", passed, failed; exit !passed }' || code=1
note "took $((SECONDS - began)) s"
exit "$code"
