"""What swtpm_bios sends: the commands with which firmware makes a TPM ready, in their order, for each version.

Sources: TPM Main Part 3, level 2 revision 116, TPM 2.0 Library Part 3, revision 1.59, swtpm_bios(8).
"""

import os
from typing import NamedTuple, Optional

from swtpm_svc.wire import tpm2, tpm12
from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.command_codes import CommandCode, Ordinal
from swtpm_svc.wire.dialect import StartupType, Su
from swtpm_svc.wire.tpm2_numbers import Rh
from swtpm_svc.wire.tpm2_public import sized
from swtpm_svc.wire.tpm_header import HEADER_SIZE, ST_NO_SESSIONS, TAG_RQU_COMMAND, encode_command

_SHORT_S, _LONG_S = 20.0, 600.0
#: The platform hierarchy's password, which nobody is to know.
_PASSWORD_BYTES = 20
#: TPM_PERMANENT_FLAGS (TPM Main Part 2, section 7.1): a tag, disable, ownership, deactivated; behind the answer's size.
_DEACTIVATED = HEADER_SIZE + 4 + 2 + 2


class Options(NamedTuple):
    """What the command line asks for. `startup`: a StartupType; None: no such command."""

    startup: Optional[StartupType] = StartupType.CLEAR
    presence: bool = True
    self_test: bool = False
    ensure_activated: bool = False
    give_up: bool = False


class Step(NamedTuple):
    """One command. `asks_flags`: it does no more than ask whether the TPM is deactivated."""

    name: str
    command: bytes
    timeout_s: float = _SHORT_S
    asks_flags: bool = False


def is_deactivated(response: bytes) -> bool:
    """The answer to a step that asks for flags."""
    return len(response) > _DEACTIVATED and response[_DEACTIVATED] != 0


def tpm12_steps(options: Options) -> "tuple[list[Step], list[Step]]":
    """Those up to an activated TPM, and those for which it must be one."""
    first, last = [], []
    if options.startup is not None:
        command = _tpm12(Ordinal.STARTUP, options.startup.to_bytes(2, "big"))
        first.append(Step(f"TPM_Startup(0x{options.startup:02x})", command))
    if options.presence:
        first.append(_presence("CMD_ENABLE", tpm12.PHYSICAL_PRESENCE_CMD_ENABLE))
        first.append(_presence("PRESENT", tpm12.PHYSICAL_PRESENCE_PRESENT))
        if options.ensure_activated:
            asked = tpm12.encode_get_capability(tpm12.Cap.FLAG, tpm12.CapFlag.PERMANENT)
            first.append(Step("TPM_GetCapability", _tpm12(Ordinal.GET_CAPABILITY, asked), asks_flags=True))
        first.append(Step("TPM_PhysicalEnable", _tpm12(Ordinal.PHYSICAL_ENABLE)))
        first.append(Step("TPM_PhysicalSetDeactivated", _tpm12(Ordinal.PHYSICAL_SET_DEACTIVATED, b"\0")))
    if options.self_test:
        last.append(Step("TPM_ContinueSelfTest", _tpm12(Ordinal.CONTINUE_SELF_TEST), _LONG_S))
    if options.give_up:
        last.append(_presence("CMD_ENABLE", tpm12.PHYSICAL_PRESENCE_CMD_ENABLE))
        locked = tpm12.PHYSICAL_PRESENCE_NOTPRESENT | tpm12.PHYSICAL_PRESENCE_LOCK
        last.append(_presence("NOT_PRESENT|LOCK", locked))
    return first, last


def tpm2_steps(options: Options) -> "list[Step]":
    steps = []
    if options.startup in (StartupType.CLEAR, StartupType.STATE):
        kind = Su.CLEAR if options.startup is StartupType.CLEAR else Su.STATE
        steps.append(Step("TPM2_Startup", _tpm2(CommandCode.STARTUP, kind.to_bytes(2, "big"))))
    if options.self_test:
        listed = (1).to_bytes(4, "big") + Alg.SHA256.to_bytes(2, "big")
        steps.append(Step("TPM2_IncrementalSelfTest", _tpm2(CommandCode.INCREMENTAL_SELF_TEST, listed), _LONG_S))
    if options.give_up:
        handles, password = (Rh.PLATFORM,), sized(os.urandom(_PASSWORD_BYTES))
        command = tpm2.encode(CommandCode.HIERARCHY_CHANGE_AUTH, handles, password, password=b"")
        steps.append(Step("TPM2_HierarchyChangeAuth", command))
    return steps


def _presence(name: str, value: int) -> Step:
    return Step(f"TSC_PhysicalPresence({name})", _tpm12(Ordinal.PHYSICAL_PRESENCE, value.to_bytes(2, "big")))


def _tpm12(ordinal: Ordinal, parameters: bytes = b"") -> bytes:
    return encode_command(TAG_RQU_COMMAND, ordinal, parameters)


def _tpm2(code: CommandCode, parameters: bytes) -> bytes:
    return encode_command(ST_NO_SESSIONS, code, parameters)
