"""vtpmctl ca: look at the local CA, hand out its certificates, put one's own issuer in its place."""

import os
import shlex
import shutil
from typing import TYPE_CHECKING, Optional

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.ca_directory import FILE_MAX_BYTES

if TYPE_CHECKING:
    from cryptography import x509

    from swtpm_svc.provision.ca import Authority


def create(*, directory: str) -> Report:
    from swtpm_svc.provision import ca

    return _report(ca.obtain(os.path.abspath(directory)))


def show(*, directory: str) -> Report:
    from swtpm_svc.provision import ca

    return _report(ca.load(os.path.abspath(directory)))


def export(*, directory: str, chain: bool, output: Optional[str]) -> Report:
    from swtpm_svc.provision import ca

    certificates = ca.load(os.path.abspath(directory)).chain
    chosen = certificates if chain else certificates[-1:]
    text = b"".join(ca.pem(certificate) for certificate in chosen)
    if output is None:
        return Report(text.decode().rstrip("\n"), {"pem": text.decode()})
    operator_files.write_whole(output, text, mode=0o644)
    return Report(f"{output}: certificates written: {len(chosen)}", {"output": output, "certificates": len(chosen)})


def import_issuer(*, directory: str, chain: str, key: Optional[str], signer: Optional[str], force: bool) -> Report:
    from swtpm_svc.provision import ca

    if (key is None) == (signer is None):
        raise VtpmError(Code.USAGE, "one of --key and --signer is required", remedy="vtpmctl ca import --help")
    chain_pem = operator_files.read_input(chain, FILE_MAX_BYTES)
    key_pem = operator_files.read_input(key, FILE_MAX_BYTES) if key is not None else None
    command = _command(signer) if signer is not None else ()
    place = os.path.abspath(directory)
    authority, kept = ca.import_issuer(chain_pem, key=key_pem, command=command, directory=place, force=force)
    text, values, _data, _status = _report(authority)
    if kept:
        text += f"\nreplaced    kept in {kept}"
    return Report(text, {**values, "replaced": kept})


def _command(line: str) -> "tuple[str, ...]":
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise VtpmError(
            Code.USAGE, f"--signer: {str(error).lower()}", remedy="quote it as for a shell, see vtpmctl(8)"
        ) from error
    program = shutil.which(words[0]) if words else None
    if program is None:
        cause = f"--signer: there is no program {words[0] if words else line!r}"
        raise VtpmError(Code.USAGE, cause, remedy="give a command that is there, quoted as one word, see vtpmctl(8)")
    return (os.path.abspath(program), *words[1:])


def _report(authority: "Authority") -> Report:
    from swtpm_svc.provision import validity

    names = ["issuer", *["intermediate"] * (len(authority.chain) - 2), "root"][: len(authority.chain)]
    if authority.chain[-1].issuer != authority.chain[-1].subject:
        names[1:] = ["intermediate"] * (len(names) - 1)  # what was imported ends before the root
    certificates = [{"role": name, **_describe(found)} for name, found in zip(names, authority.chain)]
    signer = list(authority.signer.words) if authority.signer else None
    lines = [
        f"directory   {authority.directory}",
        f"signs with  {shlex.join(signer) if signer else 'a key in the directory'}",
    ]
    for values in certificates:
        lines.append(f"{values['role']:<12}{values['subject']}")
        lines += [f"  {name:<10}{values[name]}" for name in ("key", "serial", "sha256")]
        lines.append(
            f"  {'valid':<10}{values['not_before']} to {values['not_after']}{validity.WORDS[values['validity']]}"
        )
    complaint = authority.complaint()
    lines += [f"warning     {complaint.message}", f"  remedy    {complaint.remedy}"] if complaint else []
    return Report("\n".join(lines), {"directory": authority.directory, "signer": signer, "certificates": certificates})


def _describe(certificate: "x509.Certificate") -> "dict[str, str]":
    from cryptography.hazmat.primitives import hashes

    from swtpm_svc.provision import ca, validity

    begin, end = validity.period(certificate)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "key": ca.describe_key(certificate),
        "serial": f"{certificate.serial_number:x}",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        "not_before": f"{begin:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "validity": validity.state(certificate),
    }
