"""When a certificate is valid, and whether that is now.

What is made here begins long ago. A host whose clock was ahead when it made its CA would otherwise sign, for years,
what nobody accepts; and a verifier's clock may be behind. Nor does it end: RFC 5280, 4.1.2.5, and nobody publishes
revocations.
"""

from datetime import datetime, timezone
from typing import Optional

from cryptography import x509

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision.ca_directory import option, unusable

#: Where clocks without a battery start.
BEGINNING = datetime(2000, 1, 1, tzinfo=timezone.utc)
#: "No well-defined expiration date": RFC 5280, 4.1.2.5.
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
VALID, EARLY, EXPIRED = "valid", "not-yet-valid", "expired"
#: For a person, behind the dates.
WORDS = {VALID: "", EARLY: ": NOT YET VALID", EXPIRED: ": EXPIRED"}


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def period(certificate: x509.Certificate) -> "tuple[datetime, datetime]":
    """The first and the last second, in UTC."""
    if hasattr(certificate, "not_valid_after_utc"):  # cryptography 42 and later
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate.not_valid_before.replace(tzinfo=timezone.utc), certificate.not_valid_after.replace(
        tzinfo=timezone.utc
    )


def state(certificate: x509.Certificate) -> str:
    """VALID, EARLY or EXPIRED."""
    begin, end = period(certificate)
    return EARLY if now() < begin else EXPIRED if end < now() else VALID


def begin_below(chain: "tuple[x509.Certificate, ...]") -> datetime:
    """When what the chain's issuer signs begins: not before any of those that vouch for it."""
    return max(BEGINNING, *(period(certificate)[0] for certificate in chain))


def expired(chain: "tuple[x509.Certificate, ...]", name: str, directory: str) -> Optional[VtpmError]:
    """What is wrong with a chain that is over; None: nothing. `name` is what the message calls it, `directory` the
    CA's."""
    for certificate in chain:
        if state(certificate) == EXPIRED:
            return unusable(
                name,
                f"cannot be used: {_subject(certificate)} expired at {_words(period(certificate)[1])}",
                "see that the clock is right: date -u; if it is, import another issuer: vtpmctl ca import --force"
                + option(directory),
            )
    return None


def early(chain: "tuple[x509.Certificate, ...]", name: str, remedy: str) -> Optional[VtpmError]:
    """What is wrong with a chain that is yet to begin; None: nothing."""
    for certificate in chain:
        if state(certificate) == EARLY:
            begin = _words(period(certificate)[0])
            return unusable(name, f"is not accepted yet: {_subject(certificate)} is not valid before {begin}", remedy)
    return None


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _words(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
