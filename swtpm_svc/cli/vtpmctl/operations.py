"""The control operations of vtpmctl: what each sends to the device, and what it reports.

An operation gets the open device and its arguments by name, and returns a `Report`: the text for a person, and the
values for --json.
"""

import json
from argparse import ArgumentTypeError
from typing import Any, Optional

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.tpm_control import Device, refuse_result
from swtpm_svc.cli.vtpmctl.commands import INFO_NAMES
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.wire import ptm
from swtpm_svc.wire.ptm import BlobType, Capability
from swtpm_svc.wire.results import TpmResult

#: How much of the answers of another user's service is taken: bytes in all, and replies for them.
INFO_MAX_BYTES = 1 << 20
_REPLIES_MAX = 1 << 14
CONFIG_FLAGS = {"state-key": ptm.CONFIG_FLAG_FILE_KEY, "migration-key": ptm.CONFIG_FLAG_MIGRATION_KEY}


def capabilities(device: Device) -> Report:
    reply = device.ask(ptm.GetCapability(), ptm.CapabilityReply)
    bits = int(reply.capabilities)
    names = [member.name.lower().replace("_", "-") for member in _single_bits() if bits & member and member.name]
    return Report("\n".join([*names, f"0x{bits:x}"]), {"capabilities": names, "bits": bits})


def _single_bits() -> "list[Capability]":
    return [Capability(1 << bit) for bit in range(17)]


def init(device: Device, *, keep_volatile: bool, no_startup: bool) -> Report:
    # deleted unless asked otherwise, as swtpm_ioctl -i does: state that is resumed from twice takes PCRs back in time
    _power_on(device, keep_volatile=keep_volatile, no_startup=no_startup)
    return _done(device, "the TPM is powered on", keep_volatile=keep_volatile)


def reset(device: Device, *, no_startup: bool) -> Report:
    _power_on(device, keep_volatile=False, no_startup=no_startup)
    return _done(device, "the TPM was reset")


def _power_on(device: Device, *, keep_volatile: bool, no_startup: bool) -> None:
    flags = 0 if keep_volatile else ptm.INIT_FLAG_DELETE_VOLATILE
    device.perform(ptm.Init(flags | (ptm.INIT_FLAG_NO_STARTUP if no_startup else 0)))


def shutdown(device: Device) -> Report:
    device.perform(ptm.Shutdown())
    return _done(device, "the TPM is shut down and its service ends")


def power_on(device: Device, *, keep_volatile: bool, no_startup: bool) -> Report:
    return _as("power on", init(device, keep_volatile=keep_volatile, no_startup=no_startup))


def power_reset(device: Device, *, no_startup: bool) -> Report:
    return _as("power reset", reset(device, no_startup=no_startup))


def power_off(device: Device) -> Report:
    device.perform(ptm.Stop())
    text = f"the TPM is powered off; on again with: vtpmctl power on {quote(device.target.name)}"
    return _as("power off", _done(device, text))


def _as(operation: str, report: Report) -> Report:
    """What a group's action is called in full."""
    return report._replace(values={"operation": operation, **report.values})


def established(device: Device, *, reset: bool, locality: int) -> Report:
    if reset:
        device.perform(ptm.ResetTpmEstablished(locality))
        return _done(device, f"tpmEstablished is reset, as locality {locality}", locality=locality)
    reply = device.ask(ptm.GetTpmEstablished(), ptm.EstablishedReply)
    return Report(f"tpmEstablished is {reply.bit}", {"established": bool(reply.bit)})


def set_locality(device: Device, *, locality: int) -> Report:
    device.perform(ptm.SetLocality(locality))
    return _done(device, f"commands are now sent as locality {locality}", locality=locality)


def hash_data(device: Device, *, file: str) -> Report:
    # read first: a file that ends in an error must not leave a half-measured value in the PCR
    data = operator_files.read_input(file)
    device.perform(ptm.HashStart())
    for offset in range(0, len(data), ptm.HASH_DATA_MAX):
        device.perform(ptm.HashData(data[offset : offset + ptm.HASH_DATA_MAX]))
    device.perform(ptm.HashEnd())
    return _done(device, f"{len(data)} bytes were measured", bytes=len(data))


def cancel(device: Device) -> Report:
    device.perform(ptm.CancelTpmCommand())
    return _done(device, "the command that runs, if one does, was told to end")


def store_volatile(device: Device) -> Report:
    device.perform(ptm.StoreVolatile())
    return _done(device, "the volatile state is stored; the next init goes on with it")


def save(device: Device, *, type: str, file: str) -> Report:
    blob, state_flags = download(device, BlobType[type.upper()], type)
    operator_files.write_whole(file, blob)
    is_encrypted = bool(state_flags & ptm.STATE_FLAG_ENCRYPTED)
    form = "encrypted" if is_encrypted else "in clear"
    return _done(
        device, f"the {type} state is in {file}: {len(blob)} bytes, {form}", bytes=len(blob), encrypted=is_encrypted
    )


def download(device: Device, number: int, kind: str) -> "tuple[bytes, int]":
    """The whole state blob of a type, and its flags; `kind`: its word in an error.

    Raises:
        VtpmError STATE_MISSING, PROTOCOL, and what the TPM or its service refuses with.
    """
    first = _state_chunk(device, number, kind, 0)
    blob, replies = bytearray(first.data), 1
    # only the first total is used: whether later ones count all the bytes or those that are left is not agreed on
    while len(blob) < first.total_length:
        _refuse_endless(
            device, f"{kind} state", max(first.total_length, len(blob)), operator_files.BLOB_MAX_BYTES, replies
        )
        blob += _state_chunk(device, number, kind, len(blob)).data
        replies += 1
    return bytes(blob), first.state_flags


def _state_chunk(device: Device, number: int, kind: str, offset: int) -> ptm.StateBlobReply:
    """At least one byte of the blob; asked for in clear, as swtpm_ioctl does."""
    request = ptm.GetStateBlob(ptm.STATE_FLAG_DECRYPTED, number, offset)
    reply = device.control(request)
    if isinstance(reply, ptm.StateBlobReply) and reply.data:
        return reply
    # RETRY: there is no such state (seen with the distribution's swtpm)
    if isinstance(reply, ptm.Result) and reply.tpm_result not in (0, TpmResult.RETRY):
        refuse_result(device.target, request, reply.tpm_result)
    if offset:
        raise VtpmError(
            Code.PROTOCOL,
            f"{device.target.name}: the {kind} state ended after {offset} bytes, before its end",
            remedy="try again when no other program changes the TPM",
        )
    raise VtpmError(
        Code.STATE_MISSING,
        f"{device.target.name}: the TPM has no {kind} state",
        remedy="save another type, see vtpmctl(8)",
    )


def load(device: Device, *, type: str, file: str) -> Report:
    blob = operator_files.read_whole(file)
    size = device.blob_chunk or len(blob) + 1
    # the chunk that is not full is the last one: after a multiple of the chunk size comes an empty one
    for offset in range(0, len(blob) + 1, size):
        device.perform(ptm.SetStateBlob(0, BlobType[type.upper()], blob[offset : offset + size]))
    text = f"the {type} state is loaded: {len(blob)} bytes; power on with: vtpmctl power on {quote(device.target.name)}"
    return _done(device, text, bytes=len(blob))


def info(device: Device, *, flags: int) -> Report:
    text, total, replies = bytearray(), 1, 0
    while len(text) < total:
        reply = device.ask(ptm.GetInfo(flags, len(text)), ptm.InfoReply)
        replies += 1
        total = reply.total_length if not text else total
        text += reply.data
        if not reply.data:
            break
        _refuse_endless(device, "TPM's information", max(total, len(text)), INFO_MAX_BYTES, replies)
    try:
        values = json.loads(text.rstrip(b"\0") or b"{}")
    except (ValueError, RecursionError) as error:
        raise VtpmError(
            Code.PROTOCOL,
            f"{device.target.name}: the TPM's information is not JSON ({error})",
            remedy="ask for less with --flags",
        ) from error
    return Report(json.dumps(values, indent=2), {"info": values})


def _refuse_endless(device: Device, what: str, size: int, max_bytes: int, replies: int) -> None:
    if size > max_bytes or replies > _REPLIES_MAX:
        raise VtpmError(
            Code.PROTOCOL,
            f"{device.target.name}: the {what} has no end: {size} bytes, after {replies} replies; {max_bytes} are the "
            "most",
            remedy=f"see what serves it: {device.target.journal}; nothing was written",
        )


def get_config(device: Device) -> Report:
    reply = device.ask(ptm.GetConfig(), ptm.ConfigReply)
    names = [name for name, bit in CONFIG_FLAGS.items() if reply.flags & bit]
    lines = [f"{name}: {'in use' if name in names else 'none'}" for name in CONFIG_FLAGS]
    return Report("\n".join(lines), {"keys": names, "flags": reply.flags})


def buffer_size(device: Device, *, size: Optional[int]) -> Report:
    reply = device.ask(ptm.SetBufferSize(size or 0), ptm.BufferSizeReply)
    text = f"the TPM's buffer has {reply.size} bytes (from {reply.minimum} to {reply.maximum} are possible)"
    return Report(text, {"size": reply.size, "minimum": reply.minimum, "maximum": reply.maximum})


def _done(device: Device, text: str, **values: Any) -> Report:
    return Report(f"{device.target.name}: {text}", values)


def info_flags(text: str) -> int:
    """A number, or names with commas between them."""
    if text[:1].isdigit():
        return _number(text, (1 << 64) - 1)
    flags = 0
    for name in text.split(","):
        if name not in INFO_NAMES:
            raise ArgumentTypeError(f"found {name!r}, expected a number or some of {','.join(INFO_NAMES)}")
        flags |= ptm.InfoFlag[name.replace("-", "_").upper()]
    return flags


def buffer_bytes(text: str) -> int:
    return _number(text, (1 << 32) - 1)


def _number(text: str, maximum: int) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= maximum:
        raise ArgumentTypeError(f"found {text!r}, expected a number from 0 to {maximum:#x}")
    return value
