"""The CA's part in making a TPM, prepared in a thread while the TPM makes its keys.

To import `cryptography` takes about as long as an RSA key. Meanwhile libtpms computes: it does not need the
interpreter.
"""

import atexit
from threading import Thread
from typing import Any, Optional

from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.provision.subject_public_key import to_cryptography
from swtpm_svc.wire.public_key import PublicKey

#: How long the end of the process may take: `cryptography` is imported by then, and a CA made, on a busy machine too.
_END_TIME_S = 5.0


class Issuer:
    """Makes the certificates of one TPM; its methods wait until the CA is there, and raise what went wrong with it.

    `tpm` and `platform` are the fields of certificates.TpmFacts and PlatformFacts.

    Raises (the methods):
        VtpmError INSTALLATION: `cryptography` is missing; CA_UNUSABLE, CA_SIGNER, and the rest of ca.obtain().
    """

    def __init__(self, directory: str, platform: "tuple[str, str, str, str]") -> None:
        self._directory, self._platform = directory, platform
        self._authority: Any = None
        self._failure: Optional[VtpmError] = None
        self.tpm: tuple[str, str, str, str, int, int] = ("", "", "", "", 0, 0)
        self._thread = Thread(target=self._prepare, daemon=True)
        self._thread.start()
        # a failure does not wait for the CA's lock; but Python's end aborts the process when it meets a thread in
        # `cryptography`
        atexit.register(self._thread.join, _END_TIME_S)

    def _prepare(self) -> None:
        try:
            from swtpm_svc.provision import ca, certificates  # noqa: F401 - the second one for who asks next

            self._authority = ca.obtain(self._directory)
        except ImportError as error:
            cause = f"the Python package cryptography cannot be used ({error})"
            remedy = "install python3-cryptography, or make the TPM without certificates"
            self._failure = VtpmError(Code.INSTALLATION, cause, remedy=remedy)
        except VtpmError as error:
            self._failure = error
        except Exception as error:
            self._failure = internal("while preparing the CA", error)

    def wait(self) -> None:
        """Until the CA is there."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def complaint(self) -> Optional[VtpmError]:
        """Why nobody accepts now what it makes; None: nothing is wrong."""
        self.wait()
        error: Optional[VtpmError] = self._authority.complaint()
        return error

    def endorsement(self, key: PublicKey) -> bytes:
        """DER, as from the others."""
        self.wait()
        from swtpm_svc.provision import certificates

        return certificates.ek_certificate(self._authority, to_cryptography(key), certificates.TpmFacts(*self.tpm))

    def platform(self, key: PublicKey) -> bytes:
        self.wait()
        from swtpm_svc.provision import certificates

        tpm, platform = certificates.TpmFacts(*self.tpm), certificates.PlatformFacts(*self._platform)
        return certificates.platform_certificate(self._authority, to_cryptography(key), tpm, platform)

    def identity(self, key: PublicKey, ek: bytes) -> bytes:
        self.wait()
        from swtpm_svc.provision import certificates

        tpm, serial = certificates.TpmFacts(*self.tpm), self._platform[3]
        return certificates.idevid_certificate(self._authority, to_cryptography(key), tpm, ek, serial)

    def attestation(self, key: PublicKey, ek: bytes) -> bytes:
        self.wait()
        from swtpm_svc.provision import certificates

        tpm, serial = certificates.TpmFacts(*self.tpm), self._platform[3]
        return certificates.iak_certificate(self._authority, to_cryptography(key), tpm, ek, serial)
