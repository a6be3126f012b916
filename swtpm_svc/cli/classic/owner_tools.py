"""createek, takeown and getpubek of 2014: the endorsement key and the owner of a TPM 1.2.

They find the TPM by the variables of swtpm_bios, TPM_DEVICE among them, and start one that nobody has started. What
vtpmctl has under these names does more, asks for passwords, and knows a TPM 2.0.
"""

import os
import sys
from typing import Callable, NamedTuple

from swtpm_svc.cli import operator_files, output
from swtpm_svc.cli.classic.option_scanner import REQUIRED, Found, Option, Problem, scan
from swtpm_svc.cli.classic.tpm_addresses import AddressError
from swtpm_svc.cli.classic.tpm_place import DEFAULT_DEVICE, tcp_of_environment
from swtpm_svc.cli.command import require_cryptography
from swtpm_svc.cli.public_key_text import key_text
from swtpm_svc.cli.tpm_connection import TpmConnection
from swtpm_svc.cli.tpm_control import Target
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ownership, startup, subject_public_key
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm12_owner import Tpm12, secret_of
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm12 import WELL_KNOWN_SECRET

PUBEK_FILE = "pubek.pem"

Passwords = dict[str, bytes]


class Tool(NamedTuple):
    """One command: its options but for -h, with what its usage says of them, and what it does to the TPM: the text that
    it prints."""

    options: "dict[str, str]"
    act: Callable[[Tpm12, Passwords], str]
    required: "tuple[str, ...]" = ()


def _create(tpm: Tpm12, _passwords: Passwords) -> str:
    tpm.create_endorsement_key()
    return ""


def _take(tpm: Tpm12, passwords: Passwords) -> str:
    require_cryptography()  # before anything is changed
    storage = passwords.get("pwds")
    tpm.take_ownership(secret_of(passwords["pwdo"]), WELL_KNOWN_SECRET if storage is None else secret_of(storage))
    return ""


def _get(tpm: Tpm12, passwords: Passwords) -> str:
    try:
        key = tpm.read_pubek()
    except RefusedByTpm as error:
        if error.reason != TpmResult.DISABLED_CMD:
            raise
        if "pwdo" not in passwords:
            cause = "the TPM has an owner, who alone may read the endorsement key"
            raise VtpmError(Code.AUTH_FAILED, cause, remedy="give the owner's password: getpubek -pwdo") from error
        key = tpm.owner_read_pubek(secret_of(passwords["pwdo"]))
    operator_files.write_whole(PUBEK_FILE, subject_public_key.to_pem(key), 0o644)
    return key_text(key, PUBEK_FILE) + "\n"


TOOLS = {
    "createek": Tool({}, _create),
    "takeown": Tool(
        {"pwdo": "-pwdo <owner password>", "pwds": "[-pwds <storage root key password>]"}, _take, required=("pwdo",)
    ),
    "getpubek": Tool({"pwdo": "[-pwdo <owner password>]"}, _get),
}


def main(name: str, words: "list[str]") -> int:
    """The exit status: 0 or 1."""
    tool = TOOLS[name]
    try:
        usage = " ".join(("usage:", name, *tool.options.values())) + "\n"
        passwords = _parse(tool, words)
        if isinstance(passwords, str):
            output.write(sys.stderr, f"{name}: {passwords}\n{usage}")
            return 1
        output.write(sys.stdout, usage if passwords is None else _perform(tool, passwords))
    except VtpmError as error:
        _tell(error.report(name))
        return 1
    except OSError:  # nobody reads what it prints
        return 1
    return 0


def _parse(tool: Tool, words: "list[str]") -> "Passwords | str | None":
    """What was given by option; what is wrong; None: the usage was asked for."""
    options = (*(Option(name, REQUIRED) for name in tool.options), Option("h"))
    passwords: Passwords = {}
    for event in scan(options, words, long_only=True):
        if isinstance(event, Problem):
            return event.message
        if not isinstance(event, Found):
            return f"'{event.text}' is not an option"
        if event.option.name == "h":
            return None
        passwords[event.option.name] = os.fsencode(event.value or "")
    missing = [name for name in tool.required if name not in passwords]
    return f"option '-{missing[0]}' is missing" if missing else passwords


def _perform(tool: Tool, passwords: Passwords) -> str:
    target = _target()
    try:
        with TpmConnection(target) as connection:
            tpm = ownership.connect(startup.when_needed(connection.execute))
            if not isinstance(tpm, Tpm12):
                cause = f"{target.name} is a TPM {tpm.version}, and this command is for a TPM 1.2"
                raise VtpmError(Code.USAGE, cause, remedy="use vtpmctl: createek, takeown, getpubek")
            return tool.act(tpm, passwords)
    except ProtocolError as error:
        remedy = "see that TPM_DEVICE names a TPM"
        raise VtpmError(Code.PROTOCOL, f"{target.name}: {error}", remedy=remedy) from error
    except VtpmError as error:
        raise error.of(target.name) from error.__cause__


def _target() -> Target:
    """
    Raises:
        VtpmError USAGE: a variable says something that it may not.
    """
    try:
        address = tcp_of_environment(os.environ)
    except AddressError as error:
        raise VtpmError(Code.USAGE, str(error), remedy="give it a number, or unset it") from None
    if address is None:
        place = os.environ.get("TPM_DEVICE", DEFAULT_DEVICE)
    else:
        host, port = address
        place = f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
    return Target(place, place, None)


def _tell(report: str) -> None:
    try:
        output.write(sys.stderr, report + "\n")
    except (OSError, VtpmError):
        pass  # nobody can be told
