"""`vtpmctl create`: a new TPM as a manufacturer makes it, and the configuration that serves it."""

import json
import os
import secrets
from argparse import ArgumentTypeError
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Optional

from swtpm_svc.cli import operator_files, passwords
from swtpm_svc.cli.passwords import Password
from swtpm_svc.cli.vtpmctl.command import Argument, Report
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.subject_public_key import fingerprint
from swtpm_svc.provision.tpm12_owner import secret_of
from swtpm_svc.state.encryption import MODES
from swtpm_svc.state.files import check_directory, is_draft, write_error
from swtpm_svc.state.filling import NEW
from swtpm_svc.state.keys import DEFAULT_KDF, FORMATS
from swtpm_svc.wire.algorithms import ENDORSEMENT_KEY_NAMES, HASH_NAMES, STORAGE_KEY_NAMES
from swtpm_svc.wire.tpm12 import WELL_KNOWN_SECRET

if TYPE_CHECKING:
    from swtpm_svc.provision.factory import Ownership
    from swtpm_svc.provision.manufacture import Made

#: Options that are keys of the configuration: option, table, key, help, placeholder. Their values are checked as the
#: file's are.
_KEYS = (
    ("--tpm-version", "tpm", "version", "1.2 or 2.0 (default 2.0)", "VERSION"),
    ("--group", "device", "group", "the group that may use the device (default vtpm)", "GROUP"),
    ("--ek", "provision", "endorsement-keys", f"of a TPM 2.0, with commas between: {', '.join(ENDORSEMENT_KEY_NAMES)} "
     "(default rsa2048,ecc-p384)", "KEYS"),
    ("--pcr-banks", "provision", "pcr-banks", f"of a TPM 2.0, with commas between: {', '.join(HASH_NAMES)} "
     "(default sha256,sha384)", "BANKS"),
    ("--srk", "provision", "storage-key", f"of a TPM 2.0: {', '.join(STORAGE_KEY_NAMES)} (default none)", "KEY"),
    ("--profile", "provision", "profile", "of a TPM 2.0, with libtpms 0.10: a profile's name or file", "PROFILE"),
    ("--ca", "provision", "ca", "the CA's directory (default /var/lib/vtpm-ca)", "DIR"),
    ("--key-file", "state", "key-file", "encrypt the state with the key in this file", "FILE"),
    ("--passphrase-file", "state", "passphrase-file", "or with one that is derived from the passphrase in this file", "FILE"),
    ("--key-format", "state", "key-format", f"what that file holds: {', '.join(FORMATS)} (default hex, of a passphrase "
     f"{DEFAULT_KDF})", "FORMAT"),
    ("--key-mode", "state", "key-mode", f"the cipher: {', '.join(MODES)} (default as long as the key, of a passphrase aes-cbc)",
     "MODE"),
    ("--platform-manufacturer", "provision", "platform-manufacturer", "who made the machine", "TEXT"),
    ("--platform-model", "provision", "platform-model", "its model", "TEXT"),
    ("--platform-version", "provision", "platform-version", "its version", "TEXT"),
    ("--platform-serial", "provision", "platform-serial", "its serial number", "TEXT"),
)  # fmt: skip
_PATHS = ("--ca", "--key-file", "--passphrase-file")
_ROLES = ("owner", "srk")
_AS_ROOT = "do this as root"
#: Where the states of TPMs are, and whose they are where root makes them. Tests have others.
STATE, USER = loading.STATE_DIRECTORY, "vtpm"


def _text(value: str) -> str:
    if not value.isprintable():  # nor are bytes that are no UTF-8
        raise ArgumentTypeError("expected printable characters, in UTF-8")
    return value


def _path(value: str) -> str:
    return operator_files.path_argument(_text(value))


ARGUMENTS = (
    *(
        Argument((option,), text, {"metavar": placeholder, "type": _path if option in _PATHS else _text})
        for option, _table, _key, text, placeholder in _KEYS
    ),
    Argument(("--idevid",), "of a TPM 2.0: with an initial device identity", {"action": "store_true"}),
    Argument(("--iak",), "of a TPM 2.0: with an initial attestation key", {"action": "store_true"}),
    Argument(("--no-certificates",), "make keys only", {"action": "store_true"}),
    *(argument for role in _ROLES for argument in passwords.arguments(role)),
)


def run(name: str, values: "dict[str, Any]", directory: str) -> Report:
    """`values`: the options by their names; `directory`: where configurations are.

    Raises:
        VtpmError USAGE, CONFIG_INVALID, ALREADY_PROVISIONED, and what provisioning.provision() raises. Nothing is left
        then.
    """
    from swtpm_svc.service import provisioning  # libtpms, which no other command needs

    path = f"{directory}/{loading.check_instance(name)}.toml"
    ownership = _ownership(values)
    _refuse_configured(path, name)
    check_directory(directory, denied=_AS_ROOT)
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
        loaded, USER, warn=warnings.append, ownership=ownership, finish=lambda: _write_new(path, name, written)
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
    for option, table, key, _text, _placeholder in _KEYS:
        value = values[option[2:].replace("-", "_")]
        if value is not None:
            is_path = option in _PATHS or (option == "--profile" and "/" in value)
            tables[table][key] = os.path.abspath(value) if is_path else value
    if STATE != loading.STATE_DIRECTORY:
        tables["state"]["directory"] = f"{STATE}/{name}"
    tables["provision"].update(idevid=values["idevid"], iak=values["iak"], certificates=not values["no_certificates"])
    provision = _toml("provision", tables.pop("provision"))
    head = f"# Made by vtpmctl create. All that can be said here: vtpm.d(5). After a change: vtpmctl check {name}\n"
    written = head + "".join(_toml(table, keys) for table, keys in tables.items() if keys)
    return written, written + provision


def _toml(table: str, keys: "dict[str, Any]") -> str:
    # JSON's strings are TOML's, but for DEL, which _text() does not take
    return f"\n[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def _refuse_configured(path: str, name: str) -> None:
    if os.path.lexists(path):
        raise VtpmError(
            Code.ALREADY_PROVISIONED,
            f"{path} exists",
            remedy=f"choose another name; or see what it is: vtpmctl status {name}",
        )


def _write_new(path: str, name: str, text: str) -> None:
    """Write the file whole, never over another one.

    Who comes here has the lock, so what is half-written is left by a crash.
    """
    directory = os.path.dirname(path)
    temporary = f"{directory}/{NEW}{secrets.token_hex(4)}"
    try:
        for other in os.listdir(directory):
            if is_draft(other):
                with suppress(OSError):
                    os.unlink(f"{directory}/{other}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o644)  # whatever the umask: the service's user reads it
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.link(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError:
            os.unlink(path)  # with the error the state goes
            raise
        finally:
            os.close(folder)
    except FileExistsError:
        _refuse_configured(path, name)
        raise
    except OSError as error:
        raise write_error(path, error, denied=_AS_ROOT) from error


def _report(loaded: Config, made: "list[Made]", warnings: "list[VtpmError]") -> Report:
    from swtpm_svc.cli.vtpmctl.render import error_values

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
        "warnings": [error_values(error) for error in warnings],
    }
    return Report("\n".join(lines), result)
