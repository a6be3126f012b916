"""The local certification authorities of the instances: would anybody accept what they sign, and for how long?"""

import os

from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL, WARN, Finding, bad, good, warn
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import Code, VtpmError

#: So long before its end a certificate is said to expire.
EXPIRES_SOON_DAYS = 30


def authorities(found: "list[Status]") -> "list[Finding]":
    """Of the CAs that there are: would anybody accept what they sign?"""
    places = {one.config.provision.ca for one in found if one.config is not None and one.config.provision.certificates}
    wanted = {one.config.provision.ca for one in found if one.config is not None and one.config.provision.enabled}
    missing = [
        bad(
            "CA",
            f"{place} does not exist, and [provision] of an instance wants certificates of it",
            f"make it: vtpmctl ca create --ca {place}",
            verdict=WARN,
            code=Code.CA_UNUSABLE,
        )
        for place in sorted(wanted)
        if not os.path.lexists(place)
    ]
    return [*missing, *(_authority(place) for place in sorted(places) if os.path.lexists(place))]


def _authority(place: str) -> Finding:
    try:
        from swtpm_svc.provision import ca, validity
        from swtpm_svc.provision.ca_directory import option

        authority = ca.load(place)
        complaint = authority.complaint()
        end = min(validity.period(certificate)[1] for certificate in authority.chain)
        left_days = (end - validity.now()).days
    except ImportError as error:
        return warn("CA", f"{place} cannot be looked at ({error})", "install python3-cryptography")
    except VtpmError as error:
        if error.code is Code.STATE_MISSING:
            return good("CA", f"there is none in {place} yet")
        verdict = WARN if error.code is Code.STATE_UNREADABLE else FAIL
        return Finding(verdict, "CA", error.message, error)
    if complaint is not None:
        return Finding(FAIL, "CA", complaint.message, complaint)
    if left_days < EXPIRES_SOON_DAYS:
        text = f"{place} can sign until {end:%Y-%m-%d}, {left_days} days from now"
        return warn("CA", text, f"import an issuer that lasts longer: vtpmctl ca import --force{option(place)}")
    return good("CA", f"{place} can sign, and its certificates are valid")
