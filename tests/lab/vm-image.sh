#!/bin/bash
# vm-image.sh [--force | --remove] : the image of the lab with systemd, made when it is missing or its inputs changed
#
# Debian $SUITE, its cloud kernel, SELinux labels and a slim policy, and beside it a build root with compilers, so that
# the extension fits the guest's Python. Needs root. It is kept in ${XDG_CACHE_HOME:-~/.cache}/vtpm-lab/$SUITE
# (LAB_CACHE).
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
case ${1:-} in
  --remove) rm -rf "$LAB_CACHE"; exit 0;;
  --force) rm -f "$image_dir/inputs";;
  '') ;;
  *) sed -n '2s/^# //p' "$0" >&2; exit 64;;
esac
[ "$(id -u)" = 0 ] || { printf 'vm-image.sh: making the image needs root\n  remedy: sudo make lab-vm\n' >&2; exit 77; }

mkdir -p "$image_dir"
exec 9>"$image_dir.lock"; flock 9   # two runs at once make it once
uml=$(uml_fetch 2>&1) || say "no machine in User-Mode Linux: $uml"
inputs=$({ ls "$uml_cache/sid/modules" 2>/dev/null || :
  cat "$here"/{apt,vm-suite,vm-image}.sh "$here"/guest/lab* "$here"/policy/* "$here"/rpm/{dress.sh,names}; } |
  sha256sum)
if [ -f "$image_dir/root.img" ] && [ "$inputs" = "$(cat "$image_dir/inputs" 2>/dev/null)" ]; then
  say "image of $SUITE: as it is"
  exit 0
fi
rm -rf "$image_dir"; mkdir -p "$image_dir/kernel"; umask 022
log=$image_dir/build.log
trap '[ $? = 0 ] || { tail -n 30 "$log"; echo "vm-image.sh: failed, see $log"; } >&2' EXIT
say "image of $SUITE: bootstrap"
mapfile -t lines < <(apt_lines "$SUITE")
# the kernel packages are only fetched: no initramfs, no postinst
cat >"$image_dir/kernel.hook" <<'H'
#!/bin/sh
set -e; cd "$KERNEL"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
  linux-image-cloud-amd64 |
  grep -E '^linux-(image|binary|modules)-[0-9].*-cloud-amd64$' | sort -u >list
xargs apt-get -q -o APT::Sandbox::User=root download <list
H
# sid's selinux-policy-default disables modules that it does not bring, which semodule 3.11 refuses
cat >"$image_dir/semodule" <<'H'
#!/bin/sh
for word; do
  shift
  case $word in -d*) [ -f "/usr/share/selinux/default/${word#-d}.pp.bz2" ] || continue;; esac
  set -- "$@" "$word"
done
exec /usr/sbin/semodule.real "$@"
H
chmod +x "$image_dir/kernel.hook" "$image_dir/semodule"
# shellcheck disable=SC2016
KERNEL=$image_dir/kernel mmdebstrap --variant=apt --mode=root --format=directory --include="$base_pkgs" \
  --dpkgopt=force-unsafe-io --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  --essential-hook='chroot "$1" dpkg-divert --quiet --add --no-rename --divert /usr/sbin/semodule.real \
    /usr/sbin/semodule' \
  --essential-hook="install -t \"\$1/usr/sbin\" '$image_dir/semodule'" --customize-hook='rm "$1/usr/sbin/semodule"' \
  --customize-hook='chroot "$1" dpkg-divert --quiet --remove --rename /usr/sbin/semodule' \
  --customize-hook="$image_dir/kernel.hook" "$SUITE" "$root" "${lines[@]}" >"$log" 2>&1

say "build root"
cp -a --reflink=auto "$root" "$build"
cp -L /etc/resolv.conf "$build/etc/resolv.conf"
rm -f "$build"/etc/apt/sources.list.d/*; cp "$keyring" "$build/etc/apt/lab.gpg"
apt_lines "$SUITE" | sed 's,signed-by=[^]]*,signed-by=/etc/apt/lab.gpg,' >"$build/etc/apt/sources.list"
printf '%s\n' 'Acquire::Check-Valid-Until "false";' 'APT::Install-Recommends "false";' \
  'Dpkg::Options {"--force-unsafe-io"; };' \
  'APT::Sandbox::User "root";' >"$build/etc/apt/apt.conf.d/99lab"
in_build_root bash -ec "export DEBIAN_FRONTEND=noninteractive
  apt-get -q update; apt-get -q -y install $build_pkgs; apt-get clean" >>"$log" 2>&1
"$here/rpm/dress.sh" "$build" >>"$log" 2>&1

say "kernel"
for deb in "$image_dir"/kernel/*.deb; do dpkg-deb -x "$deb" "$image_dir/kernel/x"; done
for folder in "$image_dir"/kernel/x/usr/lib/modules/* "$image_dir"/kernel/x/lib/modules/*; do
  if [ -d "$folder" ]; then modules=$folder; fi
done
version=$(basename "$modules")
for file in "$image_dir/kernel/x/boot/vmlinuz-$version" "$modules/vmlinuz"; do
  [ ! -f "$file" ] || cp "$file" "$image_dir/vmlinuz"
done
add_modules() { # FOLDER : of one version, and of it only what the lab can need
  local part target=$root/usr/lib/modules/${1##*/}
  mkdir -p "$target/kernel"; cp "$1"/modules.* "$target/" 2>/dev/null || :
  for part in fs/fuse fs/overlayfs fs/autofs net/vmw_vsock drivers/char drivers/virtio drivers/block crypto lib; do
    [ ! -e "$1/kernel/$part" ] ||
      { mkdir -p "$target/kernel/$(dirname $part)"; cp -a "$1/kernel/$part" "$target/kernel/$part"; }
  done
  depmod -b "$root" "${1##*/}" 2>/dev/null
}
add_modules "$modules"
# User-Mode Linux brings its own; without it the image is for QEMU alone
for modules in "$uml_cache"/sid/modules/*; do
  if [ -d "$modules" ]; then add_modules "$modules"; fi
done

say "configuration"
install -m 755 "$here/guest/lab-run.sh" "$root/usr/local/sbin/lab-run"
units=$root/etc/systemd/system; mkdir -p "$units/multi-user.target.wants"
install -m 644 "$here/guest/lab.service" "$units/lab.service"
ln -sf ../lab.service "$units/multi-user.target.wants/lab.service"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
  e2scrub_reap.service systemd-pstore.service trousers.service tcsd.service getty@tty1.service \
  systemd-firstboot.service serial-getty@.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
  systemd-tpm2-setup-early.service systemd-tpm2-setup.service; do
  ln -sf /dev/null "$units/$unit"
done
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"
echo vtpm-lab >"$root/etc/hostname"
echo 127.0.0.1 localhost vtpm-lab >"$root/etc/hosts"
echo '/dev/root / ext4 rw,noatime 0 0' >"$root/etc/fstab"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
chroot "$root" passwd -d root >/dev/null
for person in lab-member lab-operator lab-outsider; do
  chroot "$root" useradd --no-create-home --home-dir /tmp --shell /bin/bash --user-group $person
done
rm -f "$root"/var/cache/apt/*.bin "$root"/.autorelabel
# python3-swtpm-compat conflicts with these
"$here/rpm/dress.sh" "$root" swtpm swtpm-tools >>"$log" 2>&1

say "SELinux"
# over 300 modules would make each load of the policy in the guest five times slower
keep=" base unconfined getty hostname su sudo staff unprivuser secadm tcsd apt gpg dmidecode netutils loadkeys xdg"
keep+=" xserver "
drop=$(chroot "$root" semodule -l |
  while read -r name _; do case "$keep" in *" $name "*) ;; *) printf '%s ' "$name";; esac; done)
# shellcheck disable=SC2086
[ -z "$drop" ] || chroot "$root" semodule -X 100 -n -r $drop >>"$log" 2>&1
in_build_root -b "$here/policy:/mnt" bash -ec 'rm -rf /tmp/labbase; cp -r /mnt /tmp/labbase
  make -s -C /tmp/labbase -f /usr/share/selinux/devel/Makefile labbase.pp' >>"$log" 2>&1
cp "$build/tmp/labbase/labbase.pp" "$root/root/"
chroot "$root" semodule -n -i /root/labbase.pp >>"$log" 2>&1
rm "$root/root/labbase.pp"
# labelled here, since mkfs copies the attributes; setfiles of libselinux 3.4 wants /proc
# shellcheck disable=SC2016
unshare --mount bash -ec 'mount -t proc proc "$1/proc"
  chroot "$1" setfiles -F -e /proc /etc/selinux/default/contexts/files/file_contexts /' - "$root" >>"$log" 2>&1

say "file system"
truncate -s 1G "$image_dir/root.img"
mkfs.ext4 -q -F -L root -m 0 -O ^metadata_csum,^64bit,^resize_inode -d "$root" "$image_dir/root.img"
rm -rf "$image_dir/kernel" "$root"
echo "$inputs" >"$image_dir/inputs"
size() { du -sh "$1" | cut -f1; }
say "image of $SUITE: $(size "$image_dir/root.img"), kernel $version, build root $(size "$build")"
