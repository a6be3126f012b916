"""A client of a space, over libtpms in this process: commands as bytes, and what they answer.

Objects are told apart by what ReadPublic says of them, policy sessions by their digests.
"""

import hashlib
import hmac
import os

from space_model import Refused
from tpm_commands import EMPTY_PASSWORD, result_of

from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, ST_SESSIONS, encode_command

h = bytes.fromhex

PASSWORD, NULL, OWNER = 0x40000009, 0x40000007, 0x40000001
CONTINUE, DECRYPT, AUDIT, EXCLUSIVE = 0x01, 0x20, 0x80, 0x02
#: A parent for keys, ECC P-256 in the null hierarchy; and a sealed object below it.
PARENT = h("0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000")


def uint16(number):
    return number.to_bytes(2, "big")


def uint32(*numbers):
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def sized(data):
    return uint16(len(data)) + data


def command(code, *handles, parameters=b"", auth=None):
    body = uint32(*handles)
    if auth is not None:
        body += uint32(len(auth)) + auth
    return encode_command(ST_NO_SESSIONS if auth is None else ST_SESSIONS, code, body + parameters)


def authorized(session, *, goes_on=True):
    """TPMS_AUTH_COMMAND of a policy session, or of an HMAC session that needs no HMAC."""
    return uint32(session) + sized(b"") + bytes([goes_on]) + sized(b"")


class SpaceClient:
    """`execute`: bytes to bytes."""

    def __init__(self, execute):
        self.execute = execute

    def __call__(self, code, *handles, parameters=b"", auth=None):
        """The body of the response. Raises: Refused."""
        response = self.execute(command(code, *handles, parameters=parameters, auth=auth))
        if result_of(response):
            raise Refused(result_of(response))
        return response[10:]

    def refusal(self, code, *handles, **rest):
        try:
            self(code, *handles, **rest)
        except Refused as refused:
            return refused.args[0]
        return 0

    def handle(self, code, *handles, **rest):
        return int.from_bytes(self(code, *handles, **rest)[:4], "big")

    # --- objects -------------------------------------------------------------------------------------------------

    def load_external(self, number):
        """The public part of a keyed hash, whose `unique` is the number."""
        public = h("0008 000b 00000040 0000 0010") + sized(bytes(28) + uint32(number))
        return self.handle(0x167, parameters=sized(b"") + sized(public) + uint32(NULL))

    def unique(self, handle):
        """What was given to `load_external`."""
        body = self(0x173, handle)
        public = body[2 : 2 + int.from_bytes(body[:2], "big")]
        return int.from_bytes(public[-4:], "big")

    def create_parent(self):
        return self.handle(0x131, NULL, parameters=PARENT, auth=EMPTY_PASSWORD)

    def seal(self, parent, data, policy=b""):
        """Private and public part."""
        public = h("0008 000b") + (h("00000412") if policy else h("00000452")) + sized(policy) + h("0010 0000")
        body = self(
            0x153,
            parent,
            parameters=sized(sized(b"") + sized(data)) + sized(public) + sized(b"") + uint32(0),
            auth=EMPTY_PASSWORD,
        )
        first = 4 + 2 + int.from_bytes(body[4:6], "big")
        second = first + 2 + int.from_bytes(body[first : first + 2], "big")
        return body[4:first], body[first:second]

    def load(self, parent, sealed):
        return self.handle(0x157, parent, parameters=sealed[0] + sealed[1], auth=EMPTY_PASSWORD)

    def unseal(self, handle, auth=EMPTY_PASSWORD):
        body = self(0x15E, handle, auth=auth)
        return body[6 : 6 + int.from_bytes(body[4:6], "big")]

    def start_sequence(self):
        return self.handle(0x186, parameters=sized(b"") + h("000b"))

    def update_sequence(self, sequence, data):
        self(0x15C, sequence, parameters=sized(data), auth=EMPTY_PASSWORD)

    def complete_sequence(self, sequence):
        """The digest."""
        return self(0x13E, sequence, parameters=sized(b"") + uint32(NULL), auth=EMPTY_PASSWORD)[6:38]

    # --- sessions ------------------------------------------------------------------------------------------------

    def start(self, kind=1):
        """0: HMAC, 1: policy, 3: trial."""
        return int.from_bytes(self.start_with_nonce(kind)[0], "big")

    def start_with_nonce(self, kind=0):
        body = self(0x176, NULL, NULL, parameters=sized(bytes(16)) + sized(b"") + bytes([kind]) + h("0010 000b"))
        return body[:4], body[6:22]

    def only_for(self, session, code):
        """PolicyCommandCode."""
        self(0x16C, session, parameters=uint32(code))

    def digest(self, session):
        return self(0x189, session)[2:]

    def save(self, handle):
        return self(0x162, handle)

    def load_context(self, context):
        return self.handle(0x161, parameters=context)

    def flush(self, handle):
        return self.refusal(0x165, parameters=uint32(handle))

    def listed(self, first):
        body = self(0x17A, parameters=uint32(1, first, 254))
        assert body[0] == 0
        return [int.from_bytes(body[n : n + 4], "big") for n in range(9, len(body), 4)]


class Managed(SpaceClient):
    def __init__(self, manager, uid=1000):
        self.manager = manager
        self.space = manager.open(Caller(uid, uid, 1))
        super().__init__(lambda whole: manager.execute(self.space, bytearray(whole)))

    def close(self):
        self.manager.close(self.space)


class HmacSession:
    """An HMAC session for audit and parameter encryption, with the handles' Names in its HMAC: the client's side of
    TPM 2.0 Part 1, "Session-Based Authorizations"."""

    def __init__(self, client):
        self.client = client
        self.handle, self.nonce_tpm = client.start_with_nonce(0)
        #: That of the response before the last one.
        self.nonce_before = b""

    def __call__(self, code, handles=(), names=(), parameters=b"", attributes=CONTINUE, first=None):
        """The parameters of the response. `handles` are authorized by an empty password before this session, `first`
        alone. Its HMAC is checked."""
        nonce = os.urandom(16)
        cp_hash = hashlib.sha256(uint32(code) + b"".join(names) + parameters).digest()
        mac = hmac.new(b"", cp_hash + nonce + self.nonce_tpm + bytes([attributes]), hashlib.sha256).digest()
        area = (EMPTY_PASSWORD if first else b"") + self.handle + sized(nonce) + bytes([attributes]) + sized(mac)
        response = self.client.execute(command(code, *handles, parameters=parameters, auth=area))
        if result_of(response):
            raise Refused(result_of(response))
        body = response[10:]
        size = int.from_bytes(body[:4], "big")
        answer, rest = body[4 : 4 + size], body[4 + size :]
        if first:
            rest = rest[5:]  # of the password
        self.nonce_before, self.nonce_tpm = self.nonce_tpm, rest[2:18]
        rp_hash = hashlib.sha256(bytes(4) + uint32(code) + answer).digest()
        told = hmac.new(b"", rp_hash + self.nonce_tpm + nonce + rest[18:19], hashlib.sha256).digest()
        assert rest[21:] == told, "the TPM's HMAC"
        return answer
