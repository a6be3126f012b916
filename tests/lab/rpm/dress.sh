#!/bin/bash
# dress.sh ROOT [PACKAGE...] : make dnf and rpm of a Debian root work for an RPM that was written for Fedora
#
# The SELinux policy gets Fedora's name (targeted), presets are Fedora's (disable *), and one RPM, lab-system, provides
# the names of what apt installed (tests/lab/rpm/names), but of these packages, and has the file triggers that Fedora's
# systemd package has. May run more than once.
set -euo pipefail
root=$1; shift; without=" $* "; here=$(cd "$(dirname "$0")" && pwd)
if [ ! -d "$root/etc/selinux/targeted" ]; then
  mv "$root/etc/selinux/default" "$root/etc/selinux/targeted"
  mv "$root/var/lib/selinux/default" "$root/var/lib/selinux/targeted"
  ln -s targeted "$root/etc/selinux/default"
  sed -i 's/^SELINUXTYPE=.*/SELINUXTYPE=targeted/' "$root/etc/selinux/config"
fi
mkdir -p "$root"/etc/{rpm,dnf/vars,yum.repos.d} "$root/var/lib/rpm" "$root/usr/lib/systemd/system-preset"
plugins=$(cd "$root" && echo usr/lib/*/rpm-plugins)
printf '%s\n' '%_dbpath /var/lib/rpm' "%__plugindir /$plugins" '%_pkgverify_level none' >"$root/etc/rpm/macros"
echo 'disable *' >"$root/usr/lib/systemd/system-preset/99-default-disable.preset"
echo 42 >"$root/etc/dnf/vars/releasever"
# Fedora's packages filesystem and selinux-policy have them
mkdir -p "$root"/usr/share/{doc,licenses,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d} \
  "$root"/usr/share/man/man{1..9} \
  "$root"/usr/share/selinux/{packages/targeted,devel/include/distributed}

version() {
  dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${db:Status-Abbrev} ${Version}' "$1" 2>/dev/null |
    sed -n 's/^ii *//p' | sed 's/^[0-9]*://; s/[-+~].*//'
}
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
work=$root/tmp/lab-system; mkdir -p "$work"
{
  printf '%s\n' 'Name: lab-system' "Version: $(date +%s)" 'Release: 1' 'Summary: What this system has' \
    'License: BSD-3-Clause' 'BuildArch: noarch' 'AutoReqProv: no'
  sed "s/@PY@/$python/g" "$here/names" | while read -r package names; do
    case $package in '' | \#*) continue;; esac
    [[ $without != *" $package "* ]] || continue
    found=$(version "$package" || :); [ -n "$found" ] || continue
    for name in $names; do
      case $name in
        *=*) echo "Provides: ${name%%=*} = ${name#*=}";;
        /*) echo "Provides: $name";;
        *) echo "Provides: $name = $found";;
      esac
    done
  done
  # versions of symbols too, which rpm requires of what it builds here
  for library in libc.so.6 libtpms.so.0 ld-linux-x86-64.so.2; do
    chroot "$root" sh -ec "readlink -f /lib/x86_64-linux-gnu/$library | /usr/lib/rpm/elfdeps --provides" |
      sed 's/^/Provides: /'
  done
  printf '%%description\n%%{summary}.\n'
  # trigger WHEN PRIORITY FOLDER COMMAND; the higher priority is first
  trigger() { printf '%%%s -P %s -- %s\n%s || :\n' "$@"; }
  trigger transfiletriggerin 1000700 /usr/lib/sysusers.d systemd-sysusers
  trigger transfiletriggerin 1000600 /usr/lib/udev/rules.d 'udevadm control --reload'
  trigger transfiletriggerin 1000500 /usr/lib/tmpfiles.d 'systemd-tmpfiles --create'
  trigger transfiletriggerin 1000400 /usr/lib/systemd/catalog 'journalctl --update-catalog'
  trigger transfiletriggerin 900900 '/usr/lib/systemd/system /etc/systemd/system' 'systemctl daemon-reload'
  trigger transfiletriggerpostun 1000100 '/usr/lib/systemd/system /etc/systemd/system' 'systemctl daemon-reload'
  printf '%%files\n'
} >"$work/lab-system.spec"
chroot "$root" rpmbuild --quiet -D '_topdir /tmp/lab-system' -bb /tmp/lab-system/lab-system.spec
chroot "$root" sh -ec 'rpm -e lab-system 2>/dev/null || :
  rpm -i --nosignature --nodeps /tmp/lab-system/RPMS/noarch/*.rpm'
rm -rf "$work"
