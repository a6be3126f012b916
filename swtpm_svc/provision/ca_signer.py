"""A signing key that is somewhere else: an HSM, a PKCS#11 token, another machine; reached by a command.

The contract. The command's standard input is the message (the DER of the certificate's to-be-signed part); its standard
output is the signature of that message, nothing more, and its exit status is 0:

    RSA key                          PKCS #1 v1.5 with SHA-256
    EC key on P-256, P-384, P-521    ECDSA with SHA-256, SHA-384, SHA-512; as DER, or r and s of the
                                     curve's length in a row

Each signature is verified with the public key before it is used. The command is run without a shell, as the user whom
the CA belongs to, and has SIGN_TIME_S seconds.

`cryptography` signs a certificate with any object that has the interface of its private keys; the two classes here have
it, and what makes the certificate does not know the difference.
"""

import os
import pwd
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, Union

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from swtpm_svc.errors import Code, VtpmError, quote

SIGN_TIME_S = 60.0
SIGNATURE_MAX_BYTES = 4096
_OUTPUT_MAX_BYTES, _COMPLAINT_BYTES = 1 << 20, 4096
_ONLY_THE_SIGNATURE = "let it write the signature to standard output, and nothing else"

PublicKey = Union[rsa.RSAPublicKey, ec.EllipticCurvePublicKey]
PrivateKey = Union[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]

Hash = Union[hashes.SHA256, hashes.SHA384, hashes.SHA512]

_HASHES: "dict[str, Hash]" = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
RSA_MIN_BITS = 2048


class Command(NamedTuple):
    """What to run, and as whom when this process is root's."""

    words: "tuple[str, ...]"
    uid: int
    gid: int


def signature_hash(key: PublicKey) -> Hash:
    """The digest that goes with a key of a CA.

    Raises:
        ValueError: such a key does not sign here.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_MIN_BITS:
        return hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES:
        return _HASHES[key.curve.name]
    raise ValueError(f"an RSA key of {RSA_MIN_BITS} bits or more, or one on P-256, P-384 or P-521, is expected")


def verify(key: PublicKey, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm) -> None:
    """Raises cryptography's InvalidSignature."""
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), algorithm)
    else:
        key.verify(signature, message, ec.ECDSA(algorithm))


def external_key(command: Command, public: PublicKey) -> PrivateKey:
    """A private key that signs by running the command."""
    if isinstance(public, rsa.RSAPublicKey):
        return _ExternalRsaKey(command, public)
    return _ExternalEcKey(command, public)


class _ExternalKey:
    """The part that both kinds have in common. What a key that is elsewhere cannot do is refused."""

    def __init__(self, command: Command, public: Any) -> None:
        self._command = command
        self._public = public

    def public_key(self) -> Any:
        return self._public

    @property
    def key_size(self) -> int:
        return int(self._public.key_size)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("a key behind an external signer only signs")

    # the last three are abstract in some versions of cryptography only
    decrypt = exchange = private_numbers = private_bytes = signer = __copy__ = __deepcopy__ = _refuse

    def _sign(self, message: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        signature = _run(self._command, message)
        if isinstance(self._public, ec.EllipticCurvePublicKey):
            signature = _as_der(signature, self._public)
        try:
            verify(self._public, signature, message, algorithm)
        except InvalidSignature:
            raise _failed(
                self._command,
                f"gave {len(signature)} bytes that are not a signature by the key of the CA's certificate",
                f"let it sign standard input with that key and {algorithm.name}, see vtpmctl(8)",
            ) from None
        return signature


class _ExternalRsaKey(_ExternalKey, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        return self._sign(bytes(data), algorithm)


class _ExternalEcKey(_ExternalKey, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public.curve
        return curve

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        return self._sign(bytes(data), signature_algorithm.algorithm)


def _as_der(signature: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """PKCS #11 (CKM_ECDSA) gives r and s without any structure; DER of that very length does not happen: r, s would be
    tiny."""
    size = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * size:
        return signature
    return encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))


def _run(command: Command, message: bytes) -> bytes:
    options: dict[str, Any] = {}
    if os.geteuid() == 0 and command.uid != 0:
        # root must not run what another user has written down
        options = {"user": command.uid, "group": command.gid, "extra_groups": _groups(command)}
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            **options,
        )
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise _failed(
            command,
            f"cannot be run: {cause}",
            f"see what keeps it: ls -l {quote(command.words[0])}; or import the CA again with another command",
        ) from error
    with process:
        try:
            output, complaint = _exchange(command, process, message)
        except BaseException as error:
            with suppress(OSError):  # all that it has started, too: one of them may be what has not ended
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            remedy = "see what it waits for; it has no terminal"
            raise _failed(command, f"gave no answer in {SIGN_TIME_S:.0f} s", remedy) from None
    if process.returncode != 0:
        words = " ".join(complaint.decode(errors="replace").split())[-300:]
        raise _failed(
            command,
            f"failed with status {process.returncode}" + (f": {words}" if words else ""),
            "try it by hand; vtpmctl ca show has all of the command",
        )
    if not 0 < len(output) <= SIGNATURE_MAX_BYTES:
        raise _failed(command, f"gave {len(output)} bytes", _ONLY_THE_SIGNATURE)
    return output


def _exchange(command: Command, process: "subprocess.Popen[bytes]", message: bytes) -> "tuple[bytes, bytes]":
    """As communicate(), but the command may be another user's: output without an end is not taken, of complaints the
    end is kept.

    Raises:
        subprocess.TimeoutExpired. VtpmError CA_SIGNER: too much came.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(message)  # a certificate is smaller than a pipe, so this does not wait
    deadline = time.monotonic() + SIGN_TIME_S
    output, complaint = b"", b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _events in selector.select(max(0.0, deadline - time.monotonic())):
                piece = os.read(key.fd, 65536)
                if not piece:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    output += piece
                else:
                    complaint = (complaint + piece)[-_COMPLAINT_BYTES:]
            if len(output) > _OUTPUT_MAX_BYTES:
                raise _failed(command, f"gave {len(output)} bytes, and more", _ONLY_THE_SIGNATURE)
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, SIGN_TIME_S)
    process.wait(max(0.0, deadline - time.monotonic()))
    return output, complaint


def _groups(command: Command) -> "list[int]":
    try:
        return os.getgrouplist(pwd.getpwuid(command.uid).pw_name, command.gid)
    except (KeyError, OSError):
        return [command.gid]


def _failed(command: Command, cause: str, remedy: str) -> VtpmError:
    return VtpmError(Code.CA_SIGNER, f"the CA's signer {command.words[0]} {cause}", remedy=remedy)
