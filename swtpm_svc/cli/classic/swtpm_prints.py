"""What `swtpm --print-...` writes: JSON that libvirt, systemd and others choose their behaviour by.

Only words are printed that work here, in swtpm's order, with its blanks (classic callers compare texts).
"""

import os

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.config.schema import StateConfig
from swtpm_svc.service.classic.emulation import CUSE
from swtpm_svc.service.opened_state import open_state
from swtpm_svc.state.backend import NAMES
from swtpm_svc.state.state_directory import file_name
from swtpm_svc.tpm import libtpms

#: TPMLIB_GetInfo(3).
_RSA_KEY_SIZES, _PROFILES, _ALGORITHMS, _COMMANDS = 0x4, 0x40, 0x8, 0x10


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
        "cmdarg-migration",
        "nvram-backend-dir",
        "nvram-backend-file",
    ]
    profiles = "{ }"
    if version == "2.0":
        libtpms.supports("2.0")  # the choice, for what is asked now
        words += _rsa_key_sizes()
        if libtpms.has_profiles():
            words += ["cmdarg-profile", "cmdarg-print-profiles"]
            profiles = _profiles()
    words += [
        "cmdarg-print-info",
        "tpmstate-opt-lock",
        "tpmstate-dir-backend-opt-backup",
        "tpmstate-dir-backend-opt-fsync",
        "cmdarg-pcap",
        "systemd-notify",
    ]
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


def states(state: StateConfig, version: str) -> str:
    """--print-states: looks, without lock or key, and creates nothing in a folder. One that is missing is empty.

    Raises:
        VtpmError: a file cannot be opened.
    """
    if state.is_file:
        with open_state(state, version, None, is_incoming=True, is_classic=True, keeps_modes=True) as store:
            sizes = store.sizes()
    else:
        paths = {name: os.path.join(state.directory, file_name(version, name)) for name in NAMES}
        sizes = {name: os.stat(path).st_size for name, path in paths.items() if os.path.isfile(path)}
    entries = ", ".join(f'{{"name": "{name}", "size": {size}}}' for name, size in sizes.items())
    return f'{{ "type": "swtpm", "states": [ {entries} ] }}' if entries else '{ "type": "swtpm", "states": [] }'


def profiles(version: str) -> str:
    """--print-profiles."""
    if version == "1.2" or not libtpms.has_profiles():
        return "{}"
    libtpms.supports("2.0")
    return libtpms.info(_PROFILES)
