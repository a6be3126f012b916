"""A TPM command or response taken apart: names and words for its handles, sessions, parameters and result.

What is secret, or may be, does not come out unless it is asked for: authorization values (a session's HMAC is one where
the session is a password), and what command_shapes calls `secret`. What does not fit is said, and is not an error: it
may be what the TPM complains about.

Sources: TPM 2.0 Library Part 1, "Command/Response Structure", and Part 2 revision 1.59 for the types; TPM Main Part 3
level 2 revision 116, section 1 (where the sessions are).
"""

from typing import Callable, Optional

from swtpm_svc.wire import command_codes, command_shapes, command_shapes_12, handle_names, return_codes, tpm_header
from swtpm_svc.wire.algorithms import Alg, registered_name
from swtpm_svc.wire.command_shapes import Shape, Side
from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import HEADER_SIZE, Bytes
from swtpm_svc.wire.values import NamedTuple

#: How many bytes of a value are worth a reader's time.
SHOWN_BYTES = 32
_SESSIONS_12 = {
    tpm_header.TAG_RQU_COMMAND: 0,
    tpm_header.TAG_RQU_AUTH1_COMMAND: 1,
    tpm_header.TAG_RQU_AUTH2_COMMAND: 2,
    tpm_header.TAG_RSP_COMMAND: 0,
    tpm_header.TAG_RSP_AUTH1_COMMAND: 1,
    tpm_header.TAG_RSP_AUTH2_COMMAND: 2,
}
_COMMANDS_12 = (tpm_header.TAG_RQU_COMMAND, tpm_header.TAG_RQU_AUTH1_COMMAND, tpm_header.TAG_RQU_AUTH2_COMMAND)
#: TPM 1.2: authHandle nonceOdd continueAuthSession ownerAuth; nonceEven continueAuthSession resAuth.
_SESSION_12_BYTES = {"command": 45, "response": 41}
#: TPMA_SESSION (Part 2, section 8.4).
_ATTRIBUTES = {0: "continueSession", 1: "auditExclusive", 2: "auditReset", 5: "decrypt", 6: "encrypt", 7: "audit"}
_STARTUP_TYPES = {0: "TPM_SU_CLEAR", 1: "TPM_SU_STATE"}


class Part(NamedTuple):
    """A piece of a message: "parameter", 2, "inPublic", and what it says. `is_hidden`: it is not said."""

    kind: str
    number: int
    name: str
    text: str
    is_hidden: bool = False


class Message(NamedTuple):
    """A command or a response. `name`: of the command; "" of a response to nobody knows what. `result`: a response's,
    and its words. `handles`: a command's, by their names."""

    version: str
    kind: str
    name: str
    size: int
    code: int
    parts: "tuple[Part, ...]"
    result: str = ""
    handles: "tuple[tuple[str, int], ...]" = ()

    @property
    def sessions(self) -> int:
        return sum(part.kind == "session" for part in self.parts)


# --- types -------------------------------------------------------------------------------------------------------


def _hex(data: bytes) -> str:
    shown = data[:SHOWN_BYTES].hex() + ("..." if len(data) > SHOWN_BYTES else "")
    return f"{len(data)} bytes" + (f", {shown}" if data else "")


def _number(bits: int, *, signed: bool = False) -> "Callable[[Cursor], str]":
    return lambda cursor: str(int.from_bytes(cursor.take(bits // 8), "big", signed=signed))


def _list(read: "Callable[[Cursor], str]") -> "Callable[[Cursor], str]":
    def read_all(cursor: Cursor) -> str:
        return ", ".join(read(cursor) for _ in range(cursor.uint32())) or "none"

    return read_all


def _algorithm(cursor: Cursor) -> str:
    return registered_name(cursor.uint16())


def handle_text(version: str, handle: int) -> str:
    """A handle's number, and what it is."""
    words = handle_names.describe(version, handle)
    return f"0x{handle:08x}" + (f" ({words})" if words else "")


def _handle_20(cursor: Cursor) -> str:
    return handle_text("2.0", cursor.uint32())


def _handle_12(cursor: Cursor) -> str:
    return handle_text("1.2", cursor.uint32())


def _command(cursor: Cursor) -> str:
    return command_codes.name("2.0", cursor.uint32())


def _selection(cursor: Cursor) -> str:
    """TPMS_PCR_SELECTION (section 10.6.2)."""
    name, bits = registered_name(cursor.uint16()).lower(), cursor.take(cursor.uint8())
    numbers = [number for number in range(len(bits) * 8) if bits[number // 8] >> number % 8 & 1]
    return f"{name}:{','.join(map(str, numbers)) or 'none'}"


def _digest(cursor: Cursor) -> str:
    """TPMT_HA (section 10.3.2)."""
    algorithm = cursor.uint16()
    size = {Alg.SHA1: 20, Alg.SHA256: 32, Alg.SHA384: 48, Alg.SHA512: 64, Alg.SM3_256: 32, 0x27: 32, 0x28: 48, 0x29: 64}
    if algorithm not in size:
        raise ProtocolError(f"{algorithm:#06x} is not a hash")
    return f"{registered_name(algorithm).lower()} {cursor.take(size[algorithm]).hex()}"


def _symmetric(cursor: Cursor) -> str:
    """TPMT_SYM_DEF (section 11.1.6)."""
    algorithm = cursor.uint16()
    if algorithm == Alg.NULL:
        return "NULL"
    size = cursor.uint16()
    if registered_name(algorithm) == "XOR":  # its key's "size" is a hash
        return f"XOR {registered_name(size)}"
    return f"{registered_name(algorithm)} {size} {registered_name(cursor.uint16())}"


def _scheme(cursor: Cursor) -> str:
    """TPMT_SIG_SCHEME, TPMT_RSA_DECRYPT, TPMT_KDF_SCHEME (sections 11.2.1.5, 11.2.4.4, 11.2.3.3)."""
    name = registered_name(cursor.uint16())
    if name in ("NULL", "RSAES"):
        return name
    text = f"{name} {registered_name(cursor.uint16())}"
    return f"{text} {cursor.uint16()}" if name == "ECDAA" else text


def _ticket(cursor: Cursor) -> str:
    """TPMT_TK (section 10.7)."""
    tag, hierarchy, digest = cursor.uint16(), cursor.uint32(), cursor.sized16()
    return f"tag {tag:#06x}, {handle_text('2.0', hierarchy)}, {len(digest)} bytes"


def _context(cursor: Cursor) -> str:
    """TPMS_CONTEXT (section 14.5)."""
    cursor.take(8)  # sequence
    saved, hierarchy, blob = cursor.uint32(), cursor.uint32(), cursor.sized16()
    return f"of {handle_text('2.0', saved)}, {handle_text('2.0', hierarchy)}, {len(blob)} bytes"


def _startup_type(cursor: Cursor) -> str:
    number = cursor.uint16()
    return _STARTUP_TYPES.get(number, str(number))


READERS: "dict[str, Callable[[Cursor], str]]" = {
    "u8": _number(8),
    "i8": _number(8, signed=True),
    "u16": _number(16),
    "u32": _number(32),
    "i32": _number(32, signed=True),
    "u64": _number(64),
    "yes": lambda cursor: {0: "no", 1: "yes"}.get(number := cursor.uint8(), str(number)),
    "su": _startup_type,
    "alg": _algorithm,
    "algs": _list(_algorithm),
    "command": _command,
    "commands": _list(_command),
    "handle": _handle_20,
    "rc": lambda cursor: return_codes.describe("2.0", cursor.uint32()),
    "pcrs": _list(_selection),
    "digests": _list(_digest),
    "symmetric": _symmetric,
    "scheme": _scheme,
    "ticket": _ticket,
    "context": _context,
    "2b": lambda cursor: _hex(cursor.sized16()),
    "2bs": _list(lambda cursor: _hex(cursor.sized16())),
    "4b": lambda cursor: _hex(cursor.sized32()),
    "20b": lambda cursor: cursor.take(20).hex(),
    "secret": lambda cursor: _hex(cursor.sized16()),
    "secret4": lambda cursor: _hex(cursor.sized32()),
    "secret20": lambda cursor: _hex(cursor.take(20)),
    "rest": lambda cursor: _hex(cursor.rest()),
}
#: What is not told unless it is asked for: `rest` may hold anything.
_HIDDEN = {"secret", "secret4", "secret20", "rest"}


# --- messages ----------------------------------------------------------------------------------------------------


def is_command(data: Bytes) -> Optional[bool]:
    """Is it a command, or a response? None: it can be either (TPM 2.0, a header alone).

    Raises:
        ProtocolError: it is neither.
    """
    header = tpm_header.decode_header(data)
    if header.size != len(data):
        raise ProtocolError(f"it says that it has {header.size} bytes, and has {len(data)}")
    if header.tag in _SESSIONS_12:
        return header.tag in _COMMANDS_12
    if header.tag not in (tpm_header.ST_NO_SESSIONS, tpm_header.ST_SESSIONS):
        raise ProtocolError(f"it begins with {header.tag:#06x}, and no command or response does")
    if header.code == 0:
        return False
    if header.size > HEADER_SIZE:
        return True
    shape = command_shapes.shape(header.code)
    return None if shape is not None and not shape.command.handles and not shape.command.parameters else False


def read_command(data: Bytes, *, secrets: bool = False) -> Message:
    """Take a command apart.

    Raises:
        ProtocolError: it is shorter than a header.
    """
    header, cursor = _begin(data)
    version = "1.2" if header.tag in _SESSIONS_12 else "2.0"
    shape = _shape(version, header.code)
    handles: list[tuple[str, int]] = []
    parts: list[Part] = []
    reader = _Reader(version, "command", header.tag, cursor, parts, secrets=secrets)
    reader.read(shape.command if shape else None, handles)
    name = command_codes.name(version, header.code)
    return Message(version, "command", name, len(data), header.code, tuple(parts), "", tuple(handles))


def read_response(data: Bytes, command: Optional[Message] = None, *, secrets: bool = False) -> Message:
    """Take a response apart. `command`: what it answers, without which only its result can be said.

    Raises:
        ProtocolError: it is shorter than a header.
    """
    header, cursor = _begin(data)
    version = command.version if command else "1.2" if header.tag in _SESSIONS_12 else "2.0"
    parts: list[Part] = []
    if header.code == 0:
        shape = _shape(version, command.code) if command else None
        reader = _Reader(version, "response", header.tag, cursor, parts, secrets=secrets)
        reader.read(shape.response if shape else None, [])
    elif len(data) > HEADER_SIZE:
        parts.append(Part("rest", 0, "", f"{len(data) - HEADER_SIZE} bytes, which an error does not have"))
    name = command.name if command else ""
    return Message(
        version, "response", name, len(data), header.code, tuple(parts), result_text(version, header.code, command)
    )


def result_text(version: str, rc: int, command: Optional[Message] = None) -> str:
    """The words of a return code; with the name of the handle or parameter that it is about, if `command` is known."""
    text = return_codes.describe(version, rc)
    about = return_codes.subject(rc) if version == "2.0" and command is not None else None
    if about is None or command is None:
        return text
    shape = _shape(version, command.code)
    if shape is None:
        return text
    names = {"parameter": [field.name for field in shape.command.parameters], "handle": [*shape.command.handles]}
    found = names.get(about[0], [])[about[1] - 1 : about[1]]
    return f"{text[:-1]}, {found[0]})" if found else text


def _begin(data: Bytes) -> "tuple[tpm_header.Header, Cursor]":
    header, cursor = tpm_header.decode_header(data), Cursor(data)
    cursor.take(HEADER_SIZE)
    return header, cursor


def _shape(version: str, code: int) -> Optional[Shape]:
    return command_shapes.shape(code) if version == "2.0" else command_shapes_12.shape(code)


class _Reader:
    """What follows the header, in the order that the version and the direction have."""

    def __init__(
        self, version: str, kind: str, tag: int, cursor: Cursor, parts: "list[Part]", *, secrets: bool
    ) -> None:
        self._version, self._kind, self._tag = version, kind, tag
        self._cursor, self._parts, self._secrets = cursor, parts, secrets
        self._readers = READERS if version == "2.0" else {**READERS, "handle": _handle_12}

    def read(self, side: Optional[Side], handles: "list[tuple[str, int]]") -> None:
        start = self._cursor.position
        try:
            if side is None:
                self._rest("unknown to this program")
            elif self._version == "1.2":
                self._read_12(side, handles)
            else:
                self._read_20(side, handles)
            self._cursor.finish()
        except ProtocolError as error:
            self._parts.append(Part("rest", 0, "", f"does not fit, from offset {start} on: {error}"))

    def _read_20(self, side: Side, handles: "list[tuple[str, int]]") -> None:
        self._handles(side, handles)
        if self._tag != tpm_header.ST_SESSIONS:
            self._parameters(side, self._cursor)
        elif self._kind == "command":
            self._sessions(Cursor(self._cursor.sized32()), side)
            self._parameters(side, self._cursor)
        else:
            inner = Cursor(self._cursor.sized32())
            self._parameters(side, inner)
            inner.finish()
            self._sessions(self._cursor, side)

    def _read_12(self, side: Side, handles: "list[tuple[str, int]]") -> None:
        self._handles(side, handles)
        sessions, size = _SESSIONS_12.get(self._tag, 0), _SESSION_12_BYTES[self._kind]
        body = self._cursor.rest()
        split = len(body) - sessions * size
        if split < 0:
            raise ProtocolError(f"{sessions} sessions have {sessions * size} bytes, and there are {len(body)}")
        inner = Cursor(body[:split])
        self._parameters(side, inner)
        inner.finish()
        tail = Cursor(body[split:])
        for number in range(sessions):
            words = f"{handle_text('1.2', tail.uint32())}, " if self._kind == "command" else ""
            tail.take(20)  # the nonce
            goes_on = tail.uint8()
            words += "goes on" if goes_on else "ends"
            self._session(number, words, tail.take(20))

    def _handles(self, side: Side, handles: "list[tuple[str, int]]") -> None:
        for number, name in enumerate(side.handles, 1):
            handle = self._cursor.uint32()
            handles.append((name, handle))
            self._parts.append(Part("handle", number, name, handle_text(self._version, handle)))

    def _sessions(self, cursor: Cursor, side: Side) -> None:
        """TPMS_AUTH_COMMAND, TPMS_AUTH_RESPONSE (Part 2, sections 10.13.2 and 10.13.3)."""
        number = 0
        while not cursor.at_end:
            words = f"{handle_text('2.0', cursor.uint32())}, " if self._kind == "command" else ""
            cursor.sized16()  # the nonce
            bits = cursor.uint8()
            set_ = [name for bit, name in _ATTRIBUTES.items() if bits >> bit & 1]
            words += f"attributes {' '.join(set_) or 'none'}"
            if number < side.authorized and self._kind == "command":
                words += f", for {side.handles[number]}"
            self._session(number, words, cursor.sized16())
            number += 1

    def _session(self, number: int, words: str, value: bytes) -> None:
        if not self._secrets and value:
            self._parts.append(
                Part("session", number + 1, "", f"{words}, authorization not shown ({len(value)} bytes)", True)
            )
        else:
            self._parts.append(Part("session", number + 1, "", f"{words}, authorization {value.hex() or 'empty'}"))

    def _parameters(self, side: Side, cursor: Cursor) -> None:
        for number, (name, kind) in enumerate(side.parameters, 1):
            start = cursor.position
            text = self._readers[kind](cursor)
            if kind in _HIDDEN and not self._secrets:
                size = cursor.position - start - {"secret": 2, "secret4": 4}.get(kind, 0)
                text = f"not shown ({size} bytes)"
                self._parts.append(Part("parameter", number, name, text, True))
            else:
                self._parts.append(Part("parameter", number, name, text))

    def _rest(self, why: str) -> None:
        data = self._cursor.rest()
        if data:
            text = _hex(data) if self._secrets else f"{len(data)} bytes"
            self._parts.append(Part("rest", 0, "", f"{text}, {why}", not self._secrets))
