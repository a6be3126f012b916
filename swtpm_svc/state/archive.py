"""A TPM in one file, for a backup or a move: bytes <-> values.

A tar archive (ustar, not compressed) of regular files, in this order:

    manifest.json        what it is, and of each file behind it how long it is and its SHA-256
    permanent.state      state blobs (blob.py), as state files are: all in clear, or all under one key
    volatile.state       } where the TPM had one, and it was wanted
    savestate.state      }
    configuration.toml   the instance's, /etc/vtpm.d/NAME.toml
    identity.json        the keys that the TPM was known by (service/identity/), where they were known
    manifest.sha256      the manifest's own, as sha256sum writes it

    manifest: {"format": 1, "instance": NAME, "version": "2.0", "libtpms": "0.9.2", "made": seconds since 1970,
               "encrypted": true, "files": {"permanent.state": {"bytes": 1299, "sha256": "..."}, ...}}

Nothing is ever unpacked by the names in it: they are looked for in this list, and everything else is refused. The
checksums tell of accidents; who may write the file can write them too, and only a key tells of that (of the state).
"""

import hashlib
import io
import json
import tarfile
from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.files import MAX_SIZE

FORMAT = 1
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
CONFIGURATION, IDENTITY = "configuration.toml", "identity.json"
BLOB_FILES = {PERMALL: "permanent.state", VOLATILESTATE: "volatile.state", SAVESTATE: "savestate.state"}
_FILES = (*BLOB_FILES.values(), CONFIGURATION, IDENTITY)
#: Three states, a configuration and some more; what is larger is not read into memory.
MAX_BYTES = 3 * MAX_SIZE
_SMALL_MAX_BYTES = 1 << 20
_BEGINNING = MANIFEST.encode() + b"\0"
_NOTHING = "nothing was changed"


class Archive(NamedTuple):
    """`blobs`: by libtpms' names. `made`: seconds since 1970. `is_encrypted`: the blobs are."""

    instance: str
    version: str
    libtpms: str
    made: int
    is_encrypted: bool
    blobs: "dict[str, bytes]"
    configuration: bytes
    identity: Optional[bytes]


def is_archive(beginning: bytes) -> bool:
    """Does a file with this beginning say that it is one?"""
    return beginning.startswith(_BEGINNING)


def encode(archive: Archive) -> bytes:
    files = {BLOB_FILES[name]: data for name, data in archive.blobs.items()}
    files[CONFIGURATION] = archive.configuration
    if archive.identity is not None:
        files[IDENTITY] = archive.identity
    described = {name: {"bytes": len(data), "sha256": _digest(data)} for name, data in files.items()}
    values = {
        "format": FORMAT,
        "instance": archive.instance,
        "version": archive.version,
        "libtpms": archive.libtpms,
        "made": archive.made,
        "encrypted": archive.is_encrypted,
        "files": described,
    }
    manifest = json.dumps(values, indent=1).encode() + b"\n"
    whole = {MANIFEST: manifest, **files, DIGEST: _digest_line(manifest)}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in whole.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o600, archive.made
            tar.addfile(member, io.BytesIO(data))
    return written.getvalue()


def decode(data: bytes, path: str) -> Archive:
    """`path`: its name in an error.

    Raises:
        VtpmError STATE_CORRUPT: it is damaged, or has something in it that no archive has. STATE_FOREIGN: it is none,
            or of a format to come.
    """
    if not is_archive(data):
        raise VtpmError(
            Code.STATE_FOREIGN if data else Code.STATE_CORRUPT,
            f"{path} is {'not a file that vtpmctl export wrote' if data else 'empty'}",
            remedy=f"name one that it wrote; {_NOTHING}",
        )
    try:
        files = _members(data)
        manifest = files.pop(MANIFEST)
        if files.pop(DIGEST, None) != _digest_line(manifest):
            raise ValueError(f"{MANIFEST} is not as it was written, or the end is missing")
        values = json.loads(manifest)
        if values["format"] != FORMAT:
            raise VtpmError(
                Code.STATE_FOREIGN,
                f"{path} is of format {values['format']!r}; this program knows {FORMAT}",
                remedy=f"read it with the program of the host that wrote it; {_NOTHING}",
            )
        return _archive(values, files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error.args[0] if type(error) is ValueError else "its manifest does not say what one says"
        raise VtpmError(
            Code.STATE_CORRUPT, f"{path} is damaged: {why}", remedy=f"take another copy of it; {_NOTHING}"
        ) from None


def _members(data: bytes) -> "dict[str, bytes]":
    """Raises: ValueError."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            while True:
                member = tar.next()
                if member is None:
                    break
                name = ascii(member.name[:60])
                if member.name not in (MANIFEST, DIGEST, *_FILES) or member.name in found:
                    raise ValueError(f"there is a file {name} in it, which does not belong there")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.pax_headers:
                    raise ValueError(f"{name} in it is not a regular file")
                is_blob = member.name in BLOB_FILES.values()
                if not 0 <= member.size <= (MAX_SIZE if is_blob else _SMALL_MAX_BYTES):
                    raise ValueError(f"{name} in it is larger than any such file")
                file = tar.extractfile(member)
                content = file.read() if file is not None else b""
                if len(content) != member.size:
                    raise ValueError("it is cut off")
                found[member.name] = content
    except (tarfile.TarError, EOFError, OSError, OverflowError, UnicodeError) as error:
        raise ValueError("it is cut off, or no tar archive any more") from error
    return found


def _archive(values: "dict[str, object]", files: "dict[str, bytes]") -> Archive:
    """Raises: ValueError, KeyError, TypeError, AttributeError."""
    described = values["files"]
    if not isinstance(described, dict) or sorted(described) != sorted(files):
        raise ValueError("its manifest names other files than there are")
    for name, data in files.items():
        if described[name] != {"bytes": len(data), "sha256": _digest(data)}:
            raise ValueError(f"{name} in it is not as it was written")
    if BLOB_FILES[PERMALL] not in files or CONFIGURATION not in files:
        raise ValueError("there is no permanent state in it, or no configuration")
    instance, version, library = values["instance"], values["version"], values["libtpms"]
    made, is_encrypted = values["made"], values["encrypted"]
    is_text = isinstance(instance, str) and isinstance(library, str) and (instance + library).isprintable()
    if not is_text or version not in ("1.2", "2.0") or type(made) is not int or type(is_encrypted) is not bool:
        raise TypeError
    blobs = {name: files[file] for name, file in BLOB_FILES.items() if file in files}
    return Archive(
        str(instance), str(version), str(library), made, is_encrypted, blobs, files[CONFIGURATION], files.get(IDENTITY)
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_line(manifest: bytes) -> bytes:
    return f"{_digest(manifest)}  {MANIFEST}\n".encode()
