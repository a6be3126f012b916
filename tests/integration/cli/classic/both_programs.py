"""The distribution's swtpm_setup, swtpm_localca and swtpm_cert beside ours: the same words to both, each in a folder of
its own."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from swtpm_svc.provision import factory
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.wire import tpm2, tpm2_public
from swtpm_svc.wire.command_codes import CommandCode

ROOT = Path(__file__).resolve().parents[4]
#: Where the distribution's are; another PATH may have ours before them.
THEIRS = "/usr/bin/"

needs_swtpm_tools = [pytest.mark.beside_swtpm, pytest.mark.needs("swtpm_setup", "certtool")]


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def run_theirs(name, words, **options):
    return _run([THEIRS + name, *words], **options)


def run_ours(name, words, **options):
    return _run([sys.executable, "-c", program_of(name), *words], **options)


def program_of(name):
    """For `python -c` in whatever folder; the package need not be installed."""
    return f"import sys; sys.path.insert(0, {str(ROOT)!r}); from swtpm_svc.start import {name}; sys.exit({name}())"


def _run(words, **options):
    ran = subprocess.run(words, capture_output=True, timeout=120, check=False, **options)
    return Ran(ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"))


def _public(chip, handle):
    _handles, parameters = chip._call(CommandCode.READ_PUBLIC, (handle,))
    return tpm2.decode_first_public(parameters)


def contents(state):
    """What is in a TPM 2.0 with this permanent state, but for what is random: its keys' templates, NV indices, banks."""

    def look(tpm):
        chip = Tpm2(factory.executor(tpm))
        keys = {}
        for handle in chip.handles(0x81000000, 0x81FFFFFF):
            public = _public(chip, handle)
            keys[handle] = tpm2_public.encode_public(public._replace(unique=tuple(b"" for _ in public.unique)))
        indices = {}
        for index in chip.handles(0x01000000, 0x01FFFFFF):
            public = chip.nv_read_public(index)
            data = chip.nv_read(index)
            # of a certificate the serial number may be longer by an octet, and the signature is RSA's
            indices[index] = (int(public.attributes), data[:2] if data[:1] == b"0" else data)
        return keys, indices, chip.pcr_banks()

    return factory.operate("2.0", look, permanent=state)[1]
