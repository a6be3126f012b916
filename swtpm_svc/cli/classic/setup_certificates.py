"""The certificates of swtpm_setup: by the program that the configuration names.

Where that is swtpm_localca, the distribution's or ours, what is in ours is called instead: the same CA, files and
lines, without two processes and two readings of the CA's key for each certificate, and without files to hand it over.
Any other program is run, and writes into a folder that is removed at the end, also when a signal ends the command.
"""

import os
import shutil
import signal
import subprocess
import sys
from threading import Thread
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from swtpm_svc.cli.classic.guarded_command import Ended
from swtpm_svc.cli.classic.setup_options import SetupError, is_program
from swtpm_svc.errors import VtpmError
from swtpm_svc.state import named_files
from swtpm_svc.wire.public_key import PublicKey, RsaPublicKey

if TYPE_CHECKING:
    from swtpm_svc.provision.swtpm_ca import LocalCa

#: Where swtpm_localca is; another program of that name, elsewhere, is run.
_LOCALCA = ("/usr/bin/swtpm_localca", "/usr/local/bin/swtpm_localca", "/usr/share/swtpm/swtpm-localca")
_CURVES = {3: "secp256r1", 4: "secp384r1", 5: "secp521r1"}
_MINE = b"swtpm_svc"
_FOLDER = "swtpm_setup.certs."
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Tool(NamedTuple):
    """create_certs_tool of the configuration, and the files that are handed to it."""

    path: str
    config: Optional[str]
    options: Optional[str]


class Facts(NamedTuple):
    """What each certificate says. `tpm`: as factory.facts() has it."""

    tpm: "tuple[str, str, str, str, int, int]"
    is_tpm2: bool
    vmid: Optional[str]
    allow_signing: bool
    decryption: bool


class CertificateMaker:
    """Makes the certificates of one TPM. A context manager, for the folder that they come through.

    `copies`: a folder that gets those of keys, too.
    """

    def __init__(
        self, tool: Optional[Tool], tell: Callable[[str], None], log_file: Optional[str], copies: Optional[str]
    ) -> None:
        self._tool, self._tell, self._log_file, self._copies = tool, tell, log_file, copies
        self.facts: Optional[Facts] = None
        self._folder = ""
        self._endorsement = b""
        self._heard: list[str] = []
        self._ca: Optional[LocalCa] = None
        self._failure: Optional[Exception] = None
        self._thread: Optional[Thread] = None
        #: Those that are ours to take while the folder is there.
        self._signals: list[signal.Signals] = []
        #: While a process is made it is nobody's yet, and would not be ended: a signal waits.
        self._is_starting = False
        self._ended_by = 0

    def __enter__(self) -> "CertificateMaker":
        if self._tool is not None and _is_localca(self._tool.path):
            self._folder = f"{os.environ.get('TMPDIR') or '/tmp'}/{_FOLDER}XXXXXX"  # it is told of, and there is none
            # while the TPM makes its keys, which does not need the interpreter
            self._thread = Thread(target=self._prepare, daemon=True)
            self._thread.start()
        elif self._tool is not None:
            for number in _ENDING:
                if signal.getsignal(number) == signal.SIG_DFL:  # else whoever started us wants it ignored
                    signal.signal(number, self._end)
                    self._signals.append(number)
            import tempfile

            self._folder = tempfile.mkdtemp(prefix=_FOLDER)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
        elif self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)

    def _end(self, number: int, _frame: object) -> None:
        self._ended_by = number
        if not self._is_starting:
            raise Ended(number)

    def _prepare(self) -> None:
        from swtpm_svc.cli.classic import swtpm_localca

        try:
            job = swtpm_localca.parse(self._files())
            assert job is not None
            self._ca = swtpm_localca.find_ca(job, self._heard.append)
            self._ca.prepare()
        except (VtpmError, swtpm_localca.Failure):
            pass  # it comes again when a certificate is made, and is told of then
        except Exception as error:
            self._failure = error

    def _files(self) -> "list[str]":
        assert self._tool is not None
        config = ["--configfile", self._tool.config] if self._tool.config else []
        return [*config, *(["--optsfile", self._tool.options] if self._tool.options else [])]

    def certify(self, kind: str, key: PublicKey, name: str) -> bytes:
        """A certificate, DER without a TPM 1.2's header.

        Raises:
            SetupError.
        """
        if self._tool is None:
            raise SetupError(
                f"Could not open {kind}.cert: the configuration file names no create_certs_tool, which would make it"
            )
        words = self._words(kind, key)
        self._tell("  " + " ".join(["Invoking", self._tool.path, *words]))
        certificate = self._made_here(words) if self._thread is not None else self._made_by_tool(kind, words)
        if kind == "ek" and not self._endorsement:
            self._endorsement = certificate
        if self._copies is not None and name:
            self._copy(os.path.join(self._copies, f"{kind}-{name}.crt"), certificate)
        return certificate

    def _words(self, kind: str, key: PublicKey) -> "list[str]":
        facts = self.facts
        assert facts is not None
        maker, model, version, family, level, revision = facts.tpm
        words = ["--type", kind, "--key" if kind in ("iak", "idevid") else "--ek", _value(key), "--dir", self._folder]
        if facts.allow_signing:
            words += ["--allow-signing", *(["--decryption"] if facts.decryption else [])]
        words += ["--logfile", self._log_file] if self._log_file else []
        words += ["--vmid", facts.vmid] if facts.vmid is not None else []
        words += ["--tpm-spec-family", family, "--tpm-spec-level", str(level), "--tpm-spec-revision", str(revision)]
        words += ["--tpm-manufacturer", maker, "--tpm-model", model, "--tpm-version", version]
        words += ["--tpm2"] if facts.is_tpm2 else []
        words += self._files()
        if kind in ("iak", "idevid"):
            from swtpm_svc.provision.swtpm_manufacture import serial_number

            words += ["--tpm-serial-num", serial_number(self._endorsement)]
        return words

    def _made_here(self, words: "list[str]") -> bytes:
        from swtpm_svc.cli.classic import swtpm_localca

        assert self._thread is not None
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        try:
            job = swtpm_localca.parse(words)
            assert job is not None
            if self._ca is None:
                self._heard.clear()
                self._ca = swtpm_localca.find_ca(job, self._heard.append)
            return swtpm_localca.certify(job, self._ca, self._heard.append)
        except (VtpmError, swtpm_localca.Failure) as error:
            raise SetupError(f"{swtpm_localca.PROGRAM} exit with status 1: {error}") from None
        finally:
            for line in self._heard:  # into a log file it writes without that
                self._tell(line if self._log_file else f"{swtpm_localca.PROGRAM}: {line}")
            self._heard.clear()

    def _made_by_tool(self, kind: str, words: "list[str]") -> bytes:
        self._run(words)
        path = os.path.join(self._folder, f"{kind}.cert")
        try:
            certificate = named_files.read_input(path, 1 << 16)
            os.unlink(path)
        except OSError as error:
            raise SetupError(f"Could not open {path} for reading: {error.strerror}") from None
        return certificate[7:] if certificate.startswith(b"\x10\x01\0") else certificate

    def _run(self, words: "list[str]") -> None:
        assert self._tool is not None
        name = os.path.basename(self._tool.path)
        sys.stdout.flush()
        pipe = subprocess.PIPE
        self._is_starting = True
        try:
            process = subprocess.Popen([self._tool.path, *words], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise SetupError(f"Could not run {self._tool.path}: {error.strerror}") from None
        finally:
            self._is_starting = False
        with process:
            try:
                if self._ended_by:
                    raise Ended(self._ended_by)
                told, complaint = (data.decode(errors="replace") for data in process.communicate())
            except BaseException:
                process.kill()
                raise
        for line in told.splitlines():
            self._tell(f"{name}: {line}")
        if process.returncode:
            raise SetupError(f"{name} exit with status {process.returncode}: {complaint.rstrip()}")

    def _copy(self, path: str, certificate: bytes) -> None:
        try:
            named_files.replace(path, certificate, 0o640)
        except OSError as error:
            raise SetupError(f"Could not write certificate file {path}: {error.strerror}") from None


def find_tool(values: "dict[str, str]") -> Optional[Tool]:
    """The program that the configuration names; None: it names none.

    Raises:
        SetupError: it is not there.
    """
    named = values.get("create_certs_tool")
    if not named:
        return None
    path = named if "/" in named else shutil.which(named)
    if path is None:
        raise SetupError(f"Could not find {named} in PATH.")
    if not is_program(path) and not _is_localca(path):
        raise SetupError(f"Could not find {path} in PATH.")
    return Tool(path, values.get("create_certs_tool_config"), values.get("create_certs_tool_options"))


def _is_localca(path: str) -> bool:
    if path in _LOCALCA:
        try:
            start = named_files.read_input(path, 4096)
        except FileNotFoundError:
            return True  # the distribution's, of which ours took the place
        except OSError:
            return False
        return start.startswith(b"\x7fELF") or _MINE in start or path == _LOCALCA[-1]
    if os.path.basename(path) != "swtpm_localca":
        return False
    try:
        return _MINE in named_files.read_input(path, 4096)
    except OSError:
        return False


def _value(key: PublicKey) -> str:
    if isinstance(key, RsaPublicKey):
        return key.modulus.hex()
    return f"x={key.x.hex()},y={key.y.hex()},id={_CURVES[key.curve]}"
