#!/usr/bin/env bash
# Boots the machine of image.sh with a folder as its second disk, runs that folder's `start` in it and prints what it says.
#
#   machine.sh FOLDER      exit code: what `start` ended with; 124 when the time was up, 125 when the machine ended by itself
#
# `start` runs as root after NetworkManager and Open vSwitch are up, with /payload read-only; exit code 100 asks for a reboot,
# after which it runs again. Nothing the machine writes outlives this command.
# It has nic0 (10.0.2.15, gateway 10.0.2.2: the way out that leads nowhere), nic1 … nic4, and far1 … far4 at the other end of
# their cables; where QEMU has the igb card, also enp1s0 with up to seven virtual functions. VM_LIMIT is how long it may run, in seconds (default 3600). VM_QEMU_ARGS are added to QEMU's.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../bed/lib.sh"

[ $# = 1 ] && [ -x "$1/start" ] || { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
image=$("$(dirname "${BASH_SOURCE[0]}")/image.sh")
limit=${VM_LIMIT:-3600}
work=$(mktemp -d "${TMPDIR:-/tmp}/netwright-vm.XXXXXX")
qemu='' tail='' code=''

end() {
  local code=$?
  trap - EXIT INT TERM
  for pid in $tail $qemu; do kill "$pid" 2>/dev/null || true; done
  [ -z "$qemu" ] || wait "$qemu" 2>/dev/null || true
  # The console is only of interest where it did not end well.
  if [ "$code" = 0 ]; then
    rm -rf "$work"
  else
    find "$work" -mindepth 1 ! -name '*.log' -delete
    note "the machine's console: $work/serial.log, QEMU's own words: $work/qemu.log"
  fi
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT TERM

boot=(-no-user-config -nodefaults -no-reboot -display none -m 1024 -kernel "$image/vmlinuz" -initrd "$image/initrd")
# A kernel that panics ends the machine instead of standing still until the time is up. Before version 8.0 QEMU translates code once
# for each address at which it runs: with norandmaps a command runs the second time what was translated the first time, two to three
# times as fast.
words="console=ttyS0 ${VM_KERNEL_ARGS:-quiet} norandmaps panic=-1 mitigations=off nokaslr nowatchdog audit=0 apparmor=0 no_timer_check"
# A processor without AVX: emulating what newer ones add (and a second one) made the kernel oops while it patched itself.
emulated=(-machine q35,accel=tcg -cpu Nehalem -smp 1)
native=(-machine q35,accel=kvm -cpu host -smp 2)

# /dev/kvm may be there and yet not run an ordinary kernel: believed only when one has said hello. Asked once per boot.
kvm_works() {
  local known=$image/kvm boot_id
  [ -w /dev/kvm ] || return
  boot_id=$(cat /proc/sys/kernel/random/boot_id)
  if [ "$(cut -d' ' -f1 "$known" 2>/dev/null)" != "$boot_id" ]; then
    local said=no
    { timeout 10 qemu-system-x86_64 "${native[@]}" "${boot[@]}" -serial "file:$work/hello" \
      -append "$words netwright.hello" || true; } 2>/dev/null
    if grep -q netwright-hello "$work/hello" 2>/dev/null; then said=yes; fi
    echo "$boot_id $said" >"$work/kvm"
    mv "$work/kvm" "$known" 2>/dev/null || true
  fi
  grep -q yes "$known"
}
if kvm_works; then processor=("${native[@]}"); else processor=("${emulated[@]}"); fi

mke2fs -q -t ext4 -d "$1" "$work/payload.img" "$(($(du -sm "$1" | cut -f1) + 16))M" >/dev/null
cards=(-netdev user,id=n0,restrict=on -device virtio-net-pci,netdev=n0,mac=52:54:00:00:01:00,romfile=)
for n in 1 2 3 4; do
  cards+=(-netdev "hubport,id=n$n,hubid=$n" -device "virtio-net-pci,netdev=n$n,mac=52:54:00:00:01:0$n,romfile="
    -netdev "hubport,id=f$n,hubid=$n" -device "virtio-net-pci,netdev=f$n,mac=52:54:00:00:02:0$n,romfile=")
done
# A card with virtual functions, from QEMU 8.0 on: enp1s0, as it is the first behind a port of the root complex.
if qemu-system-x86_64 -device help 2>/dev/null | grep -q '"igb"'; then
  cards+=(-device "pcie-root-port,id=port1,chassis=1,slot=9" -netdev "user,id=igb,restrict=on"
    -device "igb,netdev=igb,bus=port1,mac=52:54:00:00:03:01,romfile=")
fi
qemu-img create -q -f qcow2 -b "$image/disk.img" -F raw "$work/disk"
: >"$work/results"
tail -n +1 -s 0.2 -f "$work/results" | grep --line-buffered -v '^end [0-9]*$' &
tail=$!

# boots until the machine has switched itself off, and leaves in `code` what `start` ended with
run() {
  # shellcheck disable=SC2086
  qemu-system-x86_64 "${processor[@]}" "${boot[@]}" -append "$words" \
    -chardev "file,id=console,path=$work/serial.log,append=on" -serial chardev:console \
    -chardev "file,id=results,path=$work/results,append=on" -serial chardev:results \
    -drive "if=none,id=root,file=$work/disk,format=qcow2,cache=unsafe" -device virtio-blk-pci,drive=root \
    -drive "if=none,id=payload,file=$work/payload.img,format=raw,readonly=on" -device virtio-blk-pci,drive=payload \
    -device virtio-rng-pci "${cards[@]}" ${VM_QEMU_ARGS:-} 2>>"$work/qemu.log" &
  qemu=$!
  while kill -0 "$qemu" 2>/dev/null; do
    if [ "$SECONDS" -ge "$limit" ]; then
      note "not done after $limit s"
      exit 124
    fi
    sleep 0.2
  done
  wait "$qemu" || true
  qemu=''
  code=$(sed -n 's/^end \([0-9]*\)$/\1/p' "$work/results" | sed -n "$1p")
}

boots=1
run 1
# A new process for the second boot: after a reset inside QEMU the emulated kernel takes two minutes to unpack itself.
while [ "$code" = 100 ]; do
  boots=$((boots + 1))
  run "$boots"
done
sleep 0.5 # until the last words are out
exit "${code:-125}"
