"""`vtpmctl verify`: is a state good, which of its generations, and what is in it? Nothing is ever changed."""

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from swtpm_svc.cli import operator_files, output
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.key_places import Place, key_of, owner_of
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import archive, blob, inspection, keys, linear
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.inspection import CURRENT, Piece
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.payloads import unwrap

if TYPE_CHECKING:
    from swtpm_svc.provision.trial import Contents

#: Of the JSON.
SCHEMA = 1
WORDS = {PERMALL: "permanent", VOLATILESTATE: "volatile", SAVESTATE: "savestate"}
_REMEDY = "restore it from a backup"


class File(NamedTuple):
    """What was found out of one blob."""

    piece: Piece
    form: str
    has_checksum: bool
    problem: Optional[VtpmError]


class Verified(NamedTuple):
    """One TPM. `contents`: of the current generation; `good`: the generations to start from."""

    subject: str
    place: str
    version: Optional[str]
    files: "list[File]"
    good: "list[str]"
    contents: "Optional[Contents]" = None
    problem: Optional[VtpmError] = None
    written_by: Optional[str] = None


def run(places: Places, *, name: Optional[str], key: Optional[Place]) -> Report:
    """
    Raises:
        VtpmError USAGE, CONFIG_*, KEY_UNUSABLE, STATE_MISSING, STATE_UNREADABLE, STATE_FOREIGN: there is nothing that
            could be looked at.
    """
    if name is None:
        found = [one for instance in loading.instances(places.config) for one in _instance_or_error(places, instance)]
    else:
        instance = _instance_of(name, places)
        found = _path(name, key) if instance is None else _instance(places, instance, key)
    problems = [one.problem for one in found if one.problem is not None]
    text = "\n".join(line for one in found for line in _lines(one)) or "no instance is configured"
    values = {"schema": SCHEMA, "states": [_values(one) for one in found]}
    return Report(text, values, status=problems[0].fault.exit_status if problems else 0)


def _instance_of(name: str, places: Places) -> Optional[str]:
    """None: it is a path."""
    if "/" in name:
        return loading.instance_at(name, places.config) if not os.path.isdir(name) else None
    if not os.path.lexists(f"{places.config}/{name}.toml") and os.path.lexists(name):
        return None
    return loading.check_instance(name)


def _instance_or_error(places: Places, instance: str) -> "list[Verified]":
    try:
        return _instance(places, instance, None)
    except VtpmError as error:
        error.of(instance)
        return [Verified(instance, "", None, [], [], problem=error)]


def _instance(places: Places, instance: str, key: Optional[Place]) -> "list[Verified]":
    loaded = loading.load(f"{places.config}/{instance}.toml", instance)
    owner = owner_of(loaded.state.place)
    trusted = Trusted((owner.st_uid,), (owner.st_gid,))
    return _verify(instance, loaded.state.place, _pieces(loaded), _given_key(key) or _own_key(loaded, trusted))


def _own_key(loaded: Config, trusted: Trusted) -> Optional[StateKey]:
    return keys.load(loaded.state.key, trusted) if loaded.state.key is not None else None


def _given_key(key: Optional[Place]) -> Optional[StateKey]:
    return key_of(key.source, Trusted((), ()), "The") if key is not None and key.source is not None else None


def _pieces(loaded: Config) -> "list[Piece]":
    version = loaded.tpm.version
    if loaded.state.is_file:
        return _in_file(loaded.state.file, version)
    return [piece for piece in inspection.in_directory(loaded.state.directory) if piece.version == version]


def _in_file(path: str, version: str) -> "list[Piece]":
    data = operator_files.read_input(path, archive.MAX_BYTES)
    return inspection.in_file(path, version, data, _written(path))


def _written(path: str) -> Optional[float]:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _path(path: str, key: Optional[Place]) -> "list[Verified]":
    given = _given_key(key)
    if os.path.isdir(path):
        pieces = inspection.in_directory(path)
        if not pieces:
            raise VtpmError(
                Code.STATE_MISSING, f"there is no state of a TPM in {path}", remedy="name a directory that has one"
            )
        of_versions = {version: [one for one in pieces if one.version == version] for version in ("2.0", "1.2")}
        return [one for some in of_versions.values() if some for one in _verify(path, path, some, given)]
    data = operator_files.read_input(path, archive.MAX_BYTES)
    if archive.is_archive(data) or not data:
        return [_archive(path, archive.decode(data, path), given)]
    if linear.is_linear(data):
        return _verify(path, path, inspection.in_file(path, _linear_version(path, data), data, _written(path)), given)
    piece = Piece(path, _version(path, data), inspection.kind_of(path), CURRENT, data, _written(path))
    return _verify(path, path, [piece], given, is_whole=False)


def _version(path: str, data: bytes) -> str:
    """By its name, or its first bytes where they are in clear."""
    named = inspection.version_of(path)
    try:
        return named or blob.payload_version(blob.payload(blob.decode(data))) or "2.0"
    except blob.BlobError:
        return "2.0"


def _linear_version(path: str, data: bytes) -> str:
    pieces = inspection.in_file(path, "2.0", data)
    return next((_version("", piece.data) for piece in pieces if piece.name == PERMALL), "2.0")


def _archive(path: str, found: archive.Archive, key: Optional[StateKey]) -> Verified:
    pieces = [
        Piece(f"{path} ({archive.BLOB_FILES[name]})", found.version, name, CURRENT, data, float(found.made))
        for name, data in found.blobs.items()
    ]
    return _verify(path, path, pieces, key)[0]._replace(written_by=found.libtpms)


def _verify(
    subject: str, place: str, pieces: "list[Piece]", key: Optional[StateKey], *, is_whole: bool = True
) -> "list[Verified]":
    """`is_whole`: False of one blob, which may be a volatile state alone."""
    from swtpm_svc.provision import trial  # libtpms, which is needed from here on

    if not pieces:
        remedy = "nothing is to be done if the TPM is yet to be made; else restore it from a backup"
        missing = VtpmError(Code.STATE_MISSING, f"there is no state of a TPM in {place}", remedy=remedy)
        return [Verified(subject, place, None, [], [], problem=missing)]
    version = pieces[0].version
    files, payloads = [], {}
    for piece in pieces:
        file, payload = _open(piece, key)
        files.append(file)
        if payload is not None:
            payloads[piece.generation, piece.name] = payload
    good, contents = [], None
    for generation in dict.fromkeys(piece.generation for piece in pieces):
        permanent = payloads.get((generation, PERMALL))
        if permanent is None:
            continue
        try:
            found = trial.load(version, {PERMALL: permanent})
        except VtpmError as error:
            files = _blamed(files, generation, PERMALL, error)
            continue
        if generation != CURRENT:
            good.append(generation)
            continue
        contents = found
        if (CURRENT, VOLATILESTATE) in payloads:
            try:
                trial.load(version, {PERMALL: permanent, VOLATILESTATE: payloads[CURRENT, VOLATILESTATE]})
            except VtpmError as error:
                files = _blamed(files, CURRENT, VOLATILESTATE, error)
    problem = next((one.problem for one in files if one.problem and one.piece.generation == CURRENT), None)
    has_permanent = any(one.piece.name == PERMALL and one.piece.generation == CURRENT for one in files)
    if problem is None and not has_permanent and is_whole:
        problem = VtpmError(Code.STATE_CORRUPT, f"the permanent state of the TPM in {place} is missing", remedy=_REMEDY)
    if problem is None and has_permanent:
        good.insert(0, CURRENT)
    return [Verified(subject, place, version, files, good, contents, problem)]


def _open(piece: Piece, key: Optional[StateKey]) -> "tuple[File, Optional[bytes]]":
    if piece.problem is not None:
        return File(piece, "unknown", False, piece.problem), None
    form, has_checksum = "unknown", False
    try:
        decoded = blob.decode(piece.data)
        form = "encrypted" if blob.is_encrypted(decoded) else "in clear"
        has_checksum = blob.Tag.CHECKSUM in decoded.tlvs
    except blob.BlobError:
        pass  # unwrap says what
    try:
        payload = unwrap(piece.data, piece.version, key, piece.path, remedy=_REMEDY, may_be_clear=True)
    except VtpmError as error:
        return File(piece, form, has_checksum, error), None
    return File(piece, form, has_checksum, None), payload


def _blamed(files: "list[File]", generation: str, name: str, error: VtpmError) -> "list[File]":
    return [
        one._replace(problem=VtpmError(error.code, f"{one.piece.path} is damaged: {error.message}", remedy=_REMEDY))
        if (one.piece.generation, one.piece.name) == (generation, name)
        else one
        for one in files
    ]


# --- in words ------------------------------------------------------------------------------------------------------


def _lines(found: Verified) -> "list[str]":
    if found.version is None:
        assert found.problem is not None
        return [f"{found.subject}: {found.problem.message}"]
    words = [f"{found.subject}: TPM {found.version}"]
    words += [f"written by libtpms {found.written_by}"] if found.written_by else []
    contents = found.contents
    if contents is not None and contents.has_owner is not None:
        words.append("with an owner" if contents.has_owner else "without an owner")
    elif contents is not None:
        words.append(f"{len(contents.nv_indices)} NV indices, {len(contents.persistent)} persistent objects")
    words.append(f"good: {', '.join(found.good)}" if found.good else "no generation is known to be good")
    lines = ["; ".join(words)]
    for one in found.files:
        piece = one.piece
        which = WORDS[piece.name] + ("" if piece.generation == CURRENT else f", {piece.generation}")
        facts = [f"{len(piece.data)} bytes", one.form, "with checksum" if one.has_checksum else "without checksum"]
        facts += [f"of {_time(piece.written)}"] if piece.written is not None else []
        verdict = "ok" if one.problem is None else one.problem.message
        lines.append(f"  {which}: {', '.join(facts)}: {verdict}")
    if found.problem is not None:
        lines.append(f"  problem: {found.problem.message}")
        lines += [f"  remedy: {found.problem.remedy}"] if found.problem.remedy else []
    return lines


def _time(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "no time that there is"


def _values(found: Verified) -> "dict[str, Any]":
    contents = found.contents
    return {
        "name": found.subject,
        "place": found.place,
        "version": found.version,
        "libtpms": found.written_by,
        "good": found.good,
        "contents": None
        if contents is None
        else {
            "nv_indices": [f"{one:#010x}" for one in contents.nv_indices],
            "persistent": [f"{one:#010x}" for one in contents.persistent],
            "has_owner": contents.has_owner,
        },
        "problem": output.error_values(found.problem) if found.problem is not None else None,
        "files": [
            {
                "path": one.piece.path,
                "type": WORDS[one.piece.name],
                "generation": one.piece.generation,
                "bytes": len(one.piece.data),
                "form": one.form,
                "checksum": one.has_checksum,
                "written": one.piece.written,
                "problem": output.error_values(one.problem) if one.problem is not None else None,
            }
            for one in found.files
        ],
    }
