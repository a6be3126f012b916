# shellcheck shell=bash
# Sourced by uml-kernel.sh and vm-suite.sh: the archive that their packages come from
keyring=${LAB_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

# the archive that apt uses here; LAB_MIRROR and LAB_SECURITY_MIRROR ("none": do without) override it
apt_site() { # LABEL PATH-END
  local site
  # shellcheck disable=SC2016
  site=$(apt-get indextargets --format '$(LABEL)|$(SITE)' 'Created-By: Packages' 2>/dev/null |
    awk -F'|' -v l="$1" '$1==l{print $2; exit}')
  [ -n "$site" ] ||
    site=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -v '^ *#' | grep -oE '[a-z+]+://[^] ]+' | sed 's,/*$,,' | grep -m1 "$2\$" || :)
  printf '%s' "$site"
}
apt_lines() { # SUITE : for mmdebstrap and for apt in the build root
  local main security
  main=${LAB_MIRROR:-$(apt_site Debian /debian)}
  security=${LAB_SECURITY_MIRROR:-$(apt_site Debian-Security /debian-security)}
  if [ -z "$main" ]; then
    printf 'no Debian archive in the configuration of apt\n  remedy: set LAB_MIRROR\n' >&2; return 1
  fi
  echo "deb [signed-by=$keyring] $main $1 main"
  [ "$1" = sid ] || [ -z "$security" ] || [ "$security" = none ] ||
    echo "deb [signed-by=$keyring] $security $1-security main"
}
