"""State directories with all files there can be, under a key or in clear."""

import os
from pathlib import Path
from typing import Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.state.state_directory import PREVIOUS, file_name
from swtpm_svc.state.store import Store

A, B, C = (StateKey(bytes([value]) * size) for value, size in ((1, 16), (2, 32), (3, 16)))
HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}


def payloads(version: str) -> "dict[str, bytes]":
    """What each file holds; the volatile and saved state are as secret as the rest."""
    names = (PERMALL, PERMALL + PREVIOUS, VOLATILESTATE, SAVESTATE)
    return {file_name(version, name): HEADS[version] + name.encode() * 3 for name in names}


def make(directory: object, version: str, key: Optional[StateKey]) -> str:
    os.makedirs(str(directory), exist_ok=True)
    for name, payload in payloads(version).items():
        with open(os.path.join(str(directory), name), "wb") as file:
            file.write(blob.encode_checked(payload, key))
    return str(directory)


def read(directory: str, version: str, key: Optional[StateKey]) -> "dict[str, bytes]":
    """All that a service with this key would read, in the form that it wants. Raises: VtpmError."""
    with Store.open(directory, version, key):
        pass
    found = {}
    for name in payloads(version):
        with open(os.path.join(directory, name), "rb") as file:
            decoded = blob.decode(file.read())
        assert blob.is_encrypted(decoded) == (key is not None), name
        found[name] = blob.payload(decoded, Keys(key))
    return found


def is_under(directory: str, version: str, key: Optional[StateKey]) -> bool:
    try:
        return read(directory, version, key) == payloads(version)
    except VtpmError as error:
        if error.code is not Code.STATE_KEY:
            raise
        return False


def contents(directory: str) -> "dict[str, bytes]":
    return {name: Path(directory, name).read_bytes() for name in os.listdir(directory) if name != ".lock"}
