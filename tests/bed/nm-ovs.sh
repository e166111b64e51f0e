#!/usr/bin/env bash
# Prints the path of a NetworkManager that has its plug-in for Open vSwitch. Debian builds its package without: there the same
# version is built once from Debian's source package.
#
#   nm-ovs.sh              path of NetworkManager
#   nm-ovs.sh --no-build   do not build, exit 1 if there is none
#   nm-ovs.sh --can        exit 0 if it can be had here, found or built
#
# Looked for in $NETWRIGHT_NM, on PATH, in the cache ${XDG_CACHE_HOME:-~/.cache}/netwright/NetworkManager-<version>.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build=1 can=''
for arg; do
  case $arg in
    --no-build) build='' ;;
    --can) can=1 ;;
    *) die "unknown argument '$arg'" ;;
  esac
done
version=$(NetworkManager --version 2>/dev/null || true)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/netwright/NetworkManager-${version:-none}

found() {
  if [ -x "${NETWRIGHT_NM:-/nonexistent}" ]; then
    echo "$NETWRIGHT_NM"
  elif compgen -G "/usr/lib*/NetworkManager/*/libnm-device-plugin-ovs.so" >/dev/null ||
    compgen -G "/usr/lib/*/NetworkManager/*/libnm-device-plugin-ovs.so" >/dev/null; then
    command -v NetworkManager
  elif [ -x "$cache/sbin/NetworkManager" ]; then
    echo "$cache/sbin/NetworkManager"
  else
    return 1
  fi
}

buildable() { [ -n "$version" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

if [ -n "$can" ]; then
  if buildable; then exit 0; fi
  found >/dev/null
  exit
fi
found && exit 0
[ -n "$build" ] || die "there is no NetworkManager with Open vSwitch in NETWRIGHT_NM, on PATH or in $cache"
buildable || die "there is no NetworkManager with Open vSwitch, and only as root on Debian it can be built"

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # a second run waits for the first one's build instead of repeating it
found && exit 0
note "building NetworkManager $version with Open vSwitch (once, about 4 minutes on 2 cores; kept in $cache)"
began=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The source comes from where the package came from; the machine's own list of sources stays as it is.
sources() {
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/apt/parts/${file##*/}"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >"$work/apt/parts/${file##*/}.list"
  done
  rm -f "$work"/apt/parts/{sources.list.list.list,*google*,*nodesource*}
}
mkdir -p "$work"/apt/{lists/partial,parts}
sources
apt=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/apt/parts" -o "Dir::State::lists=$work/apt/lists"
  -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -qq)
export DEBIAN_FRONTEND=noninteractive
{
  apt-get -o DPkg::Lock::Timeout=300 -qq -y install --no-install-recommends gcc libc6-dev dpkg-dev meson ninja-build pkg-config xsltproc \
    gettext libglib2.0-dev libudev-dev libsystemd-dev libndp-dev uuid-dev libdbus-1-dev libjansson-dev
  apt-get "${apt[@]}" update
  (cd "$work" && apt-get "${apt[@]}" source network-manager && mv network-manager-*/ src)
} >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "the source of NetworkManager could not be had"; }

# Only the daemon and its plug-in, with what the beds use of it; its files are where the package has them.
off=(polkit selinux systemd_journal wext wifi ppp modem_manager concheck nmcli nmtui introspection firewalld_zone more_logging
  libpsl qt session_tracking_consolekit nm_cloud_setup)
known=$(cat "$work"/src/meson_options.txt "$work"/src/meson.options 2>/dev/null || true)
options=()
for name in "${off[@]}"; do grep -q "option('$name'" <<<"$known" && options+=("-D$name=false"); done
for pair in session_tracking=no libaudit=no crypto=null tests=no readline=none ebpf=false ifcfg_rh=false ifupdown=false vapi=false \
  more_asserts=no systemdsystemunitdir=no udev_dir=no config_logging_backend_default=syslog "dbus_conf_dir=$cache/dbus" \
  iptables=/usr/sbin/iptables nft=/usr/sbin/nft ovs=true; do
  grep -q "option('${pair%%=*}'" <<<"$known" && options+=("-D$pair")
done
plugin=src/core/devices/ovs/libnm-device-plugin-ovs.so
{
  CFLAGS=-O1 meson setup "$work/build" "$work/src" --buildtype=plain --prefix="$cache" --sysconfdir=/etc --localstatedir=/var --libdir=lib "${options[@]}" &&
    nice ninja -C "$work/build" src/core/NetworkManager src/nm-daemon-helper/nm-daemon-helper "$plugin"
} >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; die "the build of NetworkManager failed"; }
install -D -m 644 "$work/build/$plugin" "$cache/lib/NetworkManager/$version/${plugin##*/}"
install -D -m 755 "$work/build/src/nm-daemon-helper/nm-daemon-helper" "$cache/libexec/nm-daemon-helper"
install -D -m 755 "$work/build/src/core/NetworkManager" "$cache/sbin/NetworkManager"
note "built NetworkManager in $((SECONDS - began)) s"
found
