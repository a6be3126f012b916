"""What depends on the release of libtpms: profiles, RSA key sizes, and what swtpm_setup says that it can."""

import json
import os
import re
from typing import Any

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.cli.classic.setup_options import Given, SetupError
from swtpm_svc.state import named_files

_NAME = re.compile(r"[A-Za-z0-9.:-]+")
_DISTRO = "/usr/share/swtpm/profiles"
_MAX_BYTES = 64 * 1024
_FEATURES = (
    "tpm-1.2",
    "tpm-2.0",
    "cmdarg-keyfile-fd",
    "cmdarg-pwdfile-fd",
    "tpm12-not-need-root",
    "cmdarg-write-ek-cert-files",
    "cmdarg-create-config-files",
    "cmdarg-reconfigure-pcr-banks",
)
_NEWER = ("cmdarg-ek1keyalgo", "cmdarg-ek2keyalgo", "cmdarg-iakkeyalgo", "cmdarg-idevidkeyalgo")


def rsa_sizes() -> "tuple[int, ...]":
    """Of endorsement keys: what this libtpms makes."""
    return (2048, 3072, 4096) if _release() >= (0, 11) else (2048, 3072)


def capabilities() -> str:
    """The line of --print-capabilities."""
    sizes = [f"tpm2-rsa-keysize-{size}" for size in rsa_sizes()]
    words = [*_FEATURES, *sizes[:2], *(["cmdarg-profile"] if _has_profiles() else []), *sizes[2:], *_NEWER]
    names = [str(profile.get("Name")) for profile in _builtin()]
    profiles = f"[ {_quoted(names)} ]" if names else "[]"
    return (
        f'{{ "type": "swtpm_setup", "features": [ {_quoted(words)} ], "profiles": {profiles}, '
        f'"version": "{SWTPM_VERSION}" }}'
    )


def listing(settings: "dict[str, str]", given: Given) -> str:
    """The line of --print-profiles."""
    if "tpm2" not in given:
        return "{}"
    parts = {
        "local": _files(settings.get("local_profiles_dir", "/etc/swtpm/profiles")),
        "distro": _files(_DISTRO),
        "builtin": _builtin(),
    }
    return json.dumps({name: profiles for name, profiles in parts.items() if profiles}, separators=(",", ":"))


def choose(given: Given, settings: "dict[str, str]") -> str:
    """The profile as factory.operate() takes it.

    Raises:
        SetupError.
    """
    option = next(
        (name for name in ("profile", "profile-name", "profile-file", "profile-file-fd") if name in given), None
    )
    if "profile-remove-disabled" in given:
        raise SetupError("--profile-remove-disabled is not supported: leave it out")
    if option is not None and not _has_profiles():
        from swtpm_svc.tpm import libtpms

        raise SetupError(
            f"--{option} needs libtpms 0.10 or later, and this is libtpms {libtpms.version()}: leave it out"
        )
    if "tpm2" not in given or "reconfigure" in given or not _has_profiles():
        return "none"  # without profiles what a configuration says of them does not matter
    if option == "profile":
        return _checked(given.values[option])
    if option == "profile-name":
        return _named(given.values[option], settings)
    if option == "profile-file":
        return _checked(_read(given.values[option]))
    if option == "profile-file-fd":
        return _checked(_read(f"/proc/self/fd/{given.values[option]}"))
    if settings.get("profile_file"):
        return _checked(_read(settings["profile_file"]))
    return _checked(settings["profile"]) if settings.get("profile") else "none"


def _named(name: str, settings: "dict[str, str]") -> str:
    if not _NAME.fullmatch(name):
        raise SetupError(f"Profile name '{name}' contains unacceptable characters.")
    where, _, rest = name.rpartition(":") if name.startswith(("local:", "distro:", "builtin:")) else ("", "", name)
    folders = {"local": settings.get("local_profiles_dir", "/etc/swtpm/profiles"), "distro": _DISTRO}
    for kind, folder in folders.items():
        path = os.path.join(folder, f"{rest}.json")
        if where in ("", kind) and os.access(path, os.R_OK):
            return _checked(_read(path))
    if where in folders:
        raise SetupError(f"Could not find or access profile '{name}'.")
    if rest.partition(":")[0] not in [profile.get("Name") for profile in _builtin()]:
        raise SetupError(f"swtpm does not support a profile with name '{rest}'")
    return json.dumps({"Name": rest})


def _checked(text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"Could not parse JSON '{text.strip()}': {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("Name"), str):
        raise SetupError(f"Failed to get 'Name' from profile '{text.strip()}'.")
    return text.strip()


def _read(path: str) -> str:
    try:
        return named_files.read_input(path, _MAX_BYTES).decode()
    except (OSError, ValueError) as error:
        raise SetupError(f"Could not read profile file {path}: {getattr(error, 'strerror', None) or error}") from None


def _files(folder: str) -> "list[dict[str, Any]]":
    profiles = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []
    for name in names:
        try:
            profiles.append({**json.loads(_checked(_read(os.path.join(folder, name)))), "Name": name[: -len(".json")]})
        except SetupError:
            continue
    return profiles


def _builtin() -> "list[dict[str, Any]]":
    if not _has_profiles():
        return []
    from swtpm_svc.tpm import libtpms

    profiles: list[dict[str, Any]] = json.loads(libtpms.info(0x40)).get("AvailableProfiles", [])
    return profiles


def _has_profiles() -> bool:
    from swtpm_svc.tpm import libtpms

    return libtpms.has_profiles()


def _release() -> "tuple[int, ...]":
    from swtpm_svc.tpm import libtpms

    return tuple(int(part) for part in re.findall(r"[0-9]+", libtpms.version())[:2])


def _quoted(words: "list[str]") -> str:
    return ", ".join(f'"{word}"' for word in words)
