"""`vtpmctl create`: a new TPM as a manufacturer makes it, and the configuration that serves it."""

import json
import os
from argparse import ArgumentTypeError
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Optional

from swtpm_svc.cli import operator_files, output
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.passwords import Password
from swtpm_svc.cli.vtpmctl import new_instance
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.subject_public_key import fingerprint
from swtpm_svc.provision.tpm12_owner import secret_of
from swtpm_svc.state.files import check_directory
from swtpm_svc.wire.tpm12 import WELL_KNOWN_SECRET

if TYPE_CHECKING:
    from swtpm_svc.provision.factory import Ownership
    from swtpm_svc.provision.manufacture import Made

#: Options that are keys of the configuration, which are checked as the file's are: option, table, key.
_KEYS = (
    ("--tpm-version", "tpm", "version"),
    ("--group", "device", "group"),
    ("--ek", "provision", "endorsement-keys"),
    ("--pcr-banks", "provision", "pcr-banks"),
    ("--srk", "provision", "storage-key"),
    ("--profile", "tpm", "profile"),
    ("--ca", "provision", "ca"),
    ("--key-file", "state", "key-file"),
    ("--passphrase-file", "state", "passphrase-file"),
    ("--key-format", "state", "key-format"),
    ("--key-mode", "state", "key-mode"),
    ("--platform-manufacturer", "provision", "platform-manufacturer"),
    ("--platform-model", "provision", "platform-model"),
    ("--platform-version", "provision", "platform-version"),
    ("--platform-serial", "provision", "platform-serial"),
)
_PATHS = ("--ca", "--key-file", "--passphrase-file")
_ROLES = ("owner", "srk")
_AS_ROOT = "do this as root"
#: Where the states of TPMs are, and whose they are where root makes them. Tests have others.
STATE, USER = loading.STATE_DIRECTORY, "vtpm"


def text_argument(value: str) -> str:
    if not value.isprintable():  # bytes that are not UTF-8 are not printable either
        raise ArgumentTypeError("expected printable characters, in UTF-8")
    return value


def path_argument(value: str) -> str:
    return operator_files.path_argument(text_argument(value))


def run(places: Places, *, name: str, **values: Any) -> Report:
    """`values`: the options by their names.

    Raises:
        VtpmError USAGE, CONFIG_INVALID, ALREADY_PROVISIONED, and what provisioning.provision() raises. Nothing is left
        then.
    """
    from swtpm_svc.service import provisioning  # libtpms, which no other command needs

    path = f"{places.config}/{loading.check_instance(name)}.toml"
    ownership = _ownership(values)
    new_instance.refuse_configured(path, name)
    check_directory(places.config, denied=_AS_ROOT)
    written, described = _texts(name, values)
    loaded = loading.parse(described, path, name)
    if values["group"] is not None:
        loading.group_id(loaded.device.group)
    if loaded.tpm.version == "1.2":
        _refuse_of_2_0(values)
    if ownership is not None and loaded.tpm.version != "1.2":
        raise VtpmError(
            Code.USAGE,
            "create takes ownership of a TPM 1.2 only",
            remedy=f"leave the password out; later: vtpmctl takeown {name}",
        )
    warnings: list[VtpmError] = []
    made = provisioning.provision(
        loaded, USER, warn=warnings.append, ownership=ownership, finish=lambda: new_instance.write(path, name, written)
    )
    return _report(loaded, made, warnings)


def _ownership(values: "dict[str, Any]") -> "Optional[Ownership]":
    from swtpm_svc.provision.factory import Ownership

    owner, srk = (Password.of(role, values).given() for role in _ROLES)
    if owner is None:
        if srk is not None:
            raise VtpmError(
                Code.USAGE, "there is a password for the SRK, and none for the owner", remedy="give both, or none"
            )
        return None
    return Ownership(secret_of(owner), WELL_KNOWN_SECRET if srk is None else secret_of(srk))


def _refuse_of_2_0(values: "dict[str, Any]") -> None:
    given = [option for option in ("--ek", "--pcr-banks", "--srk") if values[option[2:].replace("-", "_")] is not None]
    if given:
        cause = f"a TPM 1.2 has no choice of {', '.join(given)}: it has RSA 2048 and SHA-1"
        raise VtpmError(Code.USAGE, cause, remedy=f"leave out {', '.join(given)}")


def _texts(name: str, values: "dict[str, Any]") -> "tuple[str, str]":
    """The configuration that is written, and the same with [provision], which says what is made now."""
    tables: dict[str, dict[str, Any]] = {
        "tpm": {"version": "2.0", "startup": "clear"},
        "device": {},
        "state": {},
        "provision": {},
    }
    for option, table, key in _KEYS:
        value = values[option[2:].replace("-", "_")]
        if value is not None:
            is_path = option in _PATHS or (option == "--profile" and "/" in value and value[0] != "{")
            tables[table][key] = os.path.abspath(value) if is_path else value
    if STATE != loading.STATE_DIRECTORY:
        tables["state"]["directory"] = f"{STATE}/{name}"
    tables["provision"].update(idevid=values["idevid"], iak=values["iak"], certificates=not values["no_certificates"])
    provision = _toml("provision", tables.pop("provision"))
    head = f"# Made by vtpmctl create. All that can be said here: vtpm.d(5). After a change: vtpmctl check {name}\n"
    written = head + "".join(_toml(table, keys) for table, keys in tables.items() if keys)
    return written, written + provision


def _toml(table: str, keys: "dict[str, Any]") -> str:
    # JSON's strings are TOML's, but for DEL, which text_argument() does not take
    return f"\n[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def _report(loaded: Config, made: "list[Made]", warnings: "list[VtpmError]") -> Report:
    lines, values = [], []
    for one in made:
        key = fingerprint(one.key) if one.key is not None else None
        certificate = sha256(one.certificate).hexdigest() if one.certificate else None
        words = [one.label]
        words += [f"at {one.handle:#x}"] if one.handle else []
        words += [f"sha256:{key}"] if key else []
        if certificate:
            words += [f"{'certificate ' if one.key is not None else ''}at {one.nv_index:#x} sha256:{certificate}"]
        lines.append(f"{loaded.instance}: {', '.join(words)}")
        values.append(
            {
                "label": one.label,
                "handle": f"{one.handle:#x}" if one.handle else None,
                "fingerprint": key,
                "nv_index": f"{one.nv_index:#x}" if certificate else None,
                "certificate_sha256": certificate,
            }
        )
    lines.append(
        f"{loaded.instance}: TPM {loaded.tpm.version} in {loaded.state.directory}, configured by {loaded.path}"
    )
    lines += [error.report(f"{loaded.instance}: warning") for error in warnings]
    lines.append(f"{loaded.instance}: start it: systemctl start vtpm@{loaded.instance}")
    result = {
        "instance": loaded.instance,
        "version": loaded.tpm.version,
        "config": loaded.path,
        "state": loaded.state.directory,
        "pcr_banks": list(loaded.provision.pcr_banks) if loaded.tpm.version == "2.0" else ["sha1"],
        "made": values,
        "warnings": [output.error_values(error) for error in warnings],
    }
    return Report("\n".join(lines), result)
