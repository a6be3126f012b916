"""What `swtpm --print-...` writes: JSON that libvirt, systemd and others choose their behaviour by.

Only words are printed that work here, in swtpm's order, with its blanks (classic callers compare texts).
"""

import os

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.service.classic.emulation import CUSE
from swtpm_svc.tpm import libtpms

#: TPMLIB_GetInfo(3).
_RSA_KEY_SIZES, _PROFILES, _ALGORITHMS, _COMMANDS = 0x4, 0x40, 0x8, 0x10
_STATES = ("permall", "volatilestate", "savestate")
_PREFIX = {"1.2": "tpm-00.", "2.0": "tpm2-00."}


def capabilities(interface: str, version: str) -> str:
    """--print-capabilities; `version` as --tpm2 says."""
    words = [f"tpm-{known}" for known in ("1.2", "2.0") if libtpms.supports(known)]
    words += [] if interface == CUSE else ["tpm-send-command-header"]
    words += [
        "flags-opt-startup",
        "flags-opt-disable-auto-shutdown",
        "ctrl-opt-terminate",
        "cmdarg-seccomp",
        "cmdarg-key-fd",
        "cmdarg-pwd-fd",
        "cmdarg-print-states",
        "cmdarg-chroot",
        "nvram-backend-dir",
    ]
    profiles = "{ }"
    if version == "2.0":
        libtpms.supports("2.0")  # the choice, for what is asked now
        words += _rsa_key_sizes()
        if libtpms.has_profiles():
            words += ["cmdarg-profile", "cmdarg-print-profiles"]
            profiles = _profiles()
    words += ["cmdarg-print-info", "cmdarg-pcap", "systemd-notify"]
    quoted = ", ".join(f'"{word}"' for word in words)
    return f'{{ "type": "swtpm", "features": [ {quoted} ], "profiles": {profiles}, "version": "{SWTPM_VERSION}" }}'


def _info(flags: int) -> "dict[str, object]":
    import json

    found = json.loads(libtpms.info(flags) or "{}")
    return found if isinstance(found, dict) else {}


def _rsa_key_sizes() -> "list[str]":
    features = _info(_RSA_KEY_SIZES).get("TPMFeatures")
    sizes = features.get("RSAKeySizes", []) if isinstance(features, dict) else []
    return [f"rsa-keysize-{size}" for size in sizes]


def _profiles() -> str:
    found = _info(_PROFILES | _ALGORITHMS | _COMMANDS)
    available = found.get("AvailableProfiles")
    names = ", ".join(f'"{profile["Name"]}"' for profile in available) if isinstance(available, list) else ""
    lists = []
    for key, name in (("RuntimeAlgorithms", "algorithms"), ("RuntimeCommands", "commands")):
        part = found.get(key)
        values = part if isinstance(part, dict) else {}
        lists.append(
            f'"{name}": {{ "canbedisabled": "{values.get("CanBeDisabled", "")}", '
            f'"implemented": "{values.get("Implemented", "")}" }}'
        )
    return f'{{ "names": [ {names} ], {", ".join(lists)} }}'


def states(directory: str, version: str) -> str:
    """--print-states: looks, without lock or key, and creates nothing. A folder that is missing is empty."""
    entries = []
    for name in _STATES:
        try:
            size = os.stat(os.path.join(directory, _PREFIX[version] + name)).st_size
        except OSError:
            continue
        entries.append(f'{{"name": "{name}", "size": {size}}}')
    return (
        f'{{ "type": "swtpm", "states": [ {", ".join(entries)} ] }}'
        if entries
        else ('{ "type": "swtpm", "states": [] }')
    )


def profiles(version: str) -> str:
    """--print-profiles."""
    if version == "1.2" or not libtpms.has_profiles():
        return "{}"
    libtpms.supports("2.0")
    return libtpms.info(_PROFILES)
