#!/usr/bin/env bash
# Installs what the test beds need and this machine lacks, through apt-get. Starts no service.
#
#   install.sh [--check] [--vm]     --check: only say what is missing, exit 1 if anything is
#                                   --vm: for the machines of tests/vm instead
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

check='' vm=''
for option; do
  case $option in
    --check) check=1 ;;
    --vm) vm=1 ;;
    *) die "unknown option '$option'" ;;
  esac
done

want=() lacking=()
# lacks COMMAND PACKAGE — notes PACKAGE unless COMMAND is there
lacks() {
  command -v "$1" >/dev/null && return
  lacking+=("$1")
  want+=("$2")
}
namespaces() {
  lacks NetworkManager network-manager
  lacks nmcli network-manager
  lacks dbus-daemon dbus
  lacks ip iproute2
  lacks ping iputils-ping
  lacks nsenter util-linux
  lacks openssl openssl
  lacks busybox busybox
  lacks ovs-vswitchd openvswitch-switch
  lacks faketime faketime
  if ! python -c 'import asyncio, ctypes, json' 2>/dev/null; then
    lacking+=(python3)
    want+=(python3)
  fi
  if [ -z "${KUBEBUILDER_ASSETS:-}" ] || [ ! -x "$KUBEBUILDER_ASSETS/etcd" ]; then lacks etcd etcd-server; fi
}
machines() {
  lacks qemu-system-x86_64 qemu-system-x86
  lacks debootstrap debootstrap
  lacks qemu-img qemu-utils
  lacks mke2fs e2fsprogs
  lacks modprobe kmod
  lacks cpio cpio
  lacks xz xz-utils
}
if [ -n "$vm" ]; then machines; else namespaces; fi

if [ ${#want[@]} -eq 0 ]; then
  exit 0
fi
echo "missing: ${lacking[*]}" >&2
[ -z "$check" ] || exit 1
command -v apt-get >/dev/null ||
  die "this machine has no apt-get: install the packages that hold: ${lacking[*]}"
[ "$(id -u)" = 0 ] || die "needs root to install: ${want[*]}"

# Nothing may start on installation: NetworkManager must never run in the machine's own namespaces.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi

mapfile -t want < <(printf '%s\n' "${want[@]}" | sort -u)
echo "installing: ${want[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt_get() { apt-get -o DPkg::Lock::Timeout=300 -qq -y "$@" >&2; }
apt_get update || note "apt-get update failed; trying with the lists at hand"
apt_get install --no-install-recommends "${want[@]}"

hash -r
for command in "${lacking[@]}"; do
  command -v "$command" >/dev/null || die "'$command' is still missing after installation"
done
