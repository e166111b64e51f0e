#!/usr/bin/env bash
# The disk, kernel and initramfs of a Debian 13 machine: systemd, udev, journald, NetworkManager, Open vSwitch.
#
#   image.sh           builds it unless it is there (root; about ten minutes), prints the folder it is in
#   image.sh --path    only prints the folder
#
# The folder is ~/.cache/netwright/vm/<hash of this file and of the one that builds NetworkManager>: a changed recipe is another
# image, an old one is removed by hand.
# The machine holds nothing of this repository. It mounts its second disk on /payload and runs /payload/start there; what that
# prints goes to the second serial port, with `end CODE` as the last line, and then the machine switches itself off.
set -euo pipefail
# shellcheck source=tests/bed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../bed/lib.sh"

suite=trixie
packages=(
  systemd systemd-sysv udev dbus network-manager openvswitch-switch iproute2 iputils-ping dnsmasq-base kmod ethtool procps
  wpasupplicant wireguard-tools tcpdump nftables python3-yaml python3-pytest busybox-static
)
# Of the kernel's modules only what a network node in a virtual machine can have.
modules=(
  arch crypto lib net fs/{ext4,fat,fuse,jbd2,nls,overlayfs} fs/mbcache.ko drivers/{block,char,crypto,dca,i2c,infiniband,net,pps,ptp,vdpa,vhost,virtio}
)
# The initramfs loads these, with what they need, to find the disk.
early=(virtio_pci virtio_blk crc32c_generic ext4)

# The archive that apt uses where this is a Debian; debootstrap knows one otherwise.
mirror() {
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(SITE)' 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

system() {
  local root=$1
  debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$root" "$(mirror)" >"$root.log" ||
    { tail -n 30 "$root.log" >&2; die "debootstrap failed"; }
  chroot "$root" apt-get -qq update
  # The package that linux-image-amd64 stands for, without what it wants installed around it.
  # shellcheck disable=SC2016
  chroot "$root" sh -c 'cd /tmp && apt-get -qq download "$(apt-cache depends linux-image-amd64 |
    sed -n "s/^ *Depends: \(linux-image-[0-9].*\)/\1/p")"'
}

# Debian builds its NetworkManager without the plug-in for Open vSwitch: the same version with it takes its place.
network_manager() {
  local root=$1 build=$1.build
  cp -a "$root" "$build"
  cp -r "$bed" "$build/bed"
  mount -t proc proc "$build/proc"
  chroot "$build" env HOME=/root XDG_CACHE_HOME=/opt /bed/nm-ovs.sh >/dev/null || { umount "$build/proc"; die "no NetworkManager with Open vSwitch"; }
  umount "$build/proc"
  cp -a "$build/opt/netwright" "$root/opt"
  mkdir "$root/etc/systemd/system/NetworkManager.service.d"
  printf '[Service]\nExecStart=\nExecStart=%s --no-daemon\n' "$(cd "$root" && echo opt/netwright/NetworkManager-*/sbin/NetworkManager | sed 's|^|/|')" \
    >"$root/etc/systemd/system/NetworkManager.service.d/with-ovs.conf"
  rm -rf "$build"
}

kernel() {
  local root=$1 out=$2 unpacked=$1/tmp/kernel from to path
  dpkg -x "$root"/tmp/linux-image-*.deb "$unpacked"
  cp "$unpacked"/boot/vmlinuz-* "$out/vmlinuz"
  from=$(echo "$unpacked"/usr/lib/modules/*)
  version=${from##*/}
  to=$root/usr/lib/modules/$version
  mkdir -p "$to"
  cp "$from"/modules.* "$to"
  for path in "${modules[@]}"; do
    path=$(compgen -G "$from/kernel/$path*" | head -n 1)
    mkdir -p "$to/kernel/$(dirname "${path#"$from/kernel/"}")"
    cp -r "$path" "$to/kernel/$(dirname "${path#"$from/kernel/"}")"
  done
  rm -rf "$to"/kernel/drivers/net/{wireless,wwan,usb}
  # Unpacked once here instead of at each start by an emulated processor.
  find "$to" -name '*.ko.xz' -print0 | xargs -0 xz -d
  chroot "$root" depmod "$version"
}

initramfs() {
  local root=$1 out=$2 tree=$1/tmp/initramfs path
  mkdir -p "$tree"/{bin,dev,proc,sys,root,modules}
  cp "$root/usr/bin/busybox" "$tree/bin/busybox"
  for path in $(for m in "${early[@]}"; do modprobe -d "$root" -S "$version" --show-depends "$m"; done |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
    cp "$path" "$tree/modules"
    echo "${path##*/}" >>"$tree/modules/order"
  done
  cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
if /bin/busybox grep -qw netwright.hello /proc/cmdline; then
  echo netwright-hello
  /bin/busybox poweroff -f
fi
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
INIT
  chmod +x "$tree/init"
  (cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$out/initrd"
}

settle() {
  local root=$1 unit
  echo node01 >"$root/etc/hostname"
  printf '%s\n' '127.0.0.1 localhost' '127.0.1.1 node01' '::1 localhost' >"$root/etc/hosts"
  echo 6e657477726967687400000000000001 >"$root/etc/machine-id" # not a first boot
  echo '/dev/vda / ext4 noatime 0 1' >"$root/etc/fstab"
  : >"$root/etc/resolv.conf"
  # 52:54:00:00:01:NN is nicNN of the node, 52:54:00:00:02:NN is farNN at the other end of its cable.
  for n in 0 1 2 3 4; do
    printf '[Match]\nMACAddress=52:54:00:00:01:%02d\n[Link]\nName=nic%d\n' "$n" "$n" >"$root/etc/systemd/network/10-nic$n.link"
    printf '[Match]\nMACAddress=52:54:00:00:02:%02d\n[Link]\nName=far%d\n' "$n" "$n" >"$root/etc/systemd/network/10-far$n.link"
  done
  # As on a server: only what somebody wrote is configured.
  cat >"$root/etc/NetworkManager/conf.d/server.conf" <<'CONF'
[main]
no-auto-default=*
ignore-carrier=*
[connectivity]
enabled=false
CONF
  # nic0 is the way out, over QEMU's own gateway at 10.0.2.2; it does without DNS, which would ask names of the host's.
  cat >"$root/etc/NetworkManager/system-connections/uplink.nmconnection" <<'UPLINK'
[connection]
id=uplink
uuid=7570606c-696e-4b00-8000-000000000000
type=ethernet
interface-name=nic0
[ipv4]
method=manual
address1=10.0.2.15/24
gateway=10.0.2.2
route-metric=100
[ipv6]
method=disabled
UPLINK
  chmod 600 "$root/etc/NetworkManager/system-connections/uplink.nmconnection"
  cat >"$root/usr/local/sbin/payload" <<'PAYLOAD'
#!/bin/sh
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1 </dev/null
until [ -b /dev/vdb ]; do sleep 0.1; done
mkdir -p /payload && mount -o ro /dev/vdb /payload && /payload/start
code=$?
echo "end $code"
# What comes after another boot must find everything written; the end of it all need not be orderly.
if [ "$code" = 100 ]; then systemctl --no-block start poweroff.target; else systemctl --force --force poweroff; fi
PAYLOAD
  chmod +x "$root/usr/local/sbin/payload"
  cat >"$root/etc/systemd/system/payload.service" <<'UNIT'
[Unit]
Wants=NetworkManager.service
After=NetworkManager.service openvswitch-switch.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/payload
TimeoutStartSec=infinity
Environment=HOME=/root
[Install]
WantedBy=multi-user.target
UNIT
  ln -s ../payload.service "$root/etc/systemd/system/multi-user.target.wants/payload.service"
  # Open vSwitch needs this one, but not what it does.
  printf '[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=yes\n' >"$root/etc/systemd/system/ovs-record-hostname.service"
  # Nobody logs in, and what runs by the clock only takes time away.
  for unit in getty@tty1.service serial-getty@ttyS0.service getty.target apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer \
    systemd-logind.service systemd-user-sessions.service NetworkManager-wait-online.service \
    modprobe@{configfs,drm,efi_pstore,fuse}.service dev-hugepages.mount dev-mqueue.mount sys-kernel-{debug,tracing}.mount \
    sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-random-seed.service systemd-pstore.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  rm -rf "$root"/tmp/* "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/{doc,man,locale}/*
  # or the linker's cache, the journal's catalogue and the like are made anew at the first start, for nine seconds
  chroot "$root" /usr/lib/systemd/systemd-update-done
}

build() {
  local out=$1 root began=$SECONDS
  need_root
  "$bed/install.sh" --vm
  trap 'umount "$out.new/root.build/proc" 2>/dev/null || true; rm -rf "$out.new"' EXIT
  trap 'exit 130' INT TERM
  rm -rf "$out.new"
  root=$out.new/root
  mkdir -p "$root"
  system "$root"
  network_manager "$root"
  kernel "$root" "$out.new"
  initramfs "$root" "$out.new"
  settle "$root"
  mke2fs -q -t ext4 -L root -O ^metadata_csum -d "$root" "$out.new/disk.img" 1200M >&2
  rm -rf "$root" "$root.log"
  mv "$out.new" "$out"
  note "built in $((SECONDS - began)) s, $(du -sh "$out" | cut -f1) in $out"
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/netwright/vm
out=$cache/$(cat "${BASH_SOURCE[0]}" "$bed/nm-ovs.sh" | sha256sum | cut -c1-12)
case ${1:-} in
  '') ;;
  --path) echo "$out"; exit ;;
  *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
mkdir -p "$cache"
exec 8>>"$cache/lock"
flock 8 # two that build at once would only take twice as long
[ -e "$out/disk.img" ] || build "$out" 8>&-
echo "$out"
