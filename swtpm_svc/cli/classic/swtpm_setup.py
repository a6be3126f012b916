"""`swtpm_setup`: the state of a new TPM, as its manufacturer leaves it.

swtpm's starts a swtpm and talks to it. Here the TPM is made in this process and in memory; --tpm is looked at, and not
run. All that can be wrong is found before anything of an old state is touched, and a new state takes the old one's
place when it is finished: a run that fails leaves what there was.
"""

import os
import pwd
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from swtpm_svc.cli.classic import SWTPM_VERSION, setup_keys, setup_options, setup_profiles
from swtpm_svc.cli.classic.guarded_command import guarded
from swtpm_svc.cli.classic.setup_options import Given, SetupError
from swtpm_svc.errors import VtpmError
from swtpm_svc.wire.tpm12 import DIGEST_SIZE

if TYPE_CHECKING:
    from swtpm_svc.provision.swtpm_manufacture import Plan12, Plan20
    from swtpm_svc.state.encryption import StateKey
    from swtpm_svc.state.placed_state import Place
    from swtpm_svc.tpm.tpm import Tpm

_VERSION = f"TPM emulator setup tool version {SWTPM_VERSION}"
_CONFIG = "swtpm_setup.conf"
_BANKS = "sha256"
_OWNER, _SRK = "ooo", "sss"
_FAILED = "An error occurred. Authoring the TPM state failed."


class Log:
    """Where what a person is told goes: to the terminal, or all of it into a file."""

    def __init__(self, path: Optional[str]) -> None:
        """Raises: SetupError."""
        self.path = path
        self._fd = -1
        if path is not None:
            from swtpm_svc.state import named_files

            flags = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            try:
                self._fd = named_files.open_output(path, flags, 0o640, takes_readers=True)
            except OSError as error:
                raise SetupError(f"Cannot open logfile {path}: {error.strerror}") from None

    def tell(self, text: str) -> None:
        self._write(text, 1)

    def complain(self, text: str) -> None:
        self._write(text, 2)

    def say(self, text: str) -> None:
        """To the terminal, wherever the rest goes."""
        self._write(text, 1, is_for_log=False)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _write(self, text: str, fd: int, *, is_for_log: bool = True) -> None:
        data = os.fsencode(text + "\n")
        if is_for_log and self._fd >= 0:
            fd = self._fd
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            pass  # nobody listens any more, or the disk is full: the TPM is what was asked for


class Order(NamedTuple):
    """All that is to be done, checked."""

    place: "Place"
    version: str
    key: "Optional[StateKey]"
    plan: "Union[Plan12, Plan20]"
    profile: str
    values: "dict[str, str]"


def main(words: "Optional[list[str]]" = None) -> int:
    """The command; its exit status."""
    return guarded(setup_options.PROGRAM, lambda: _main(sys.argv[1:] if words is None else words))


def _main(words: "list[str]") -> int:
    try:
        given = setup_options.read(words)
        for notice in given.notices:
            print(notice, end="")
        if "help" in given:
            _print_help()
            return 0
        if "version" in given:
            print(_VERSION)
            return 0
        if "create-config-files" in given:
            return _create_config_files(given)
        sys.stdout.flush()
        log = Log(given.get("logfile"))
    except SetupError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr, flush=True)
        if error.is_usage:
            _print_help()
        return 1
    try:
        return _run(given, log)
    except SetupError as error:
        (log.tell if error.is_spoken else log.complain)(str(error))
    except VtpmError as error:
        log.complain(error.message)
    finally:
        log.close()
    return 1


def _print_help() -> None:
    print(f"{_VERSION}\n{setup_options.HELP}", end="")


def _create_config_files(given: Given) -> int:
    from swtpm_svc.cli.classic import config_files

    try:
        config_files.write(config_files.parse(given.values["create-config-files"]))
    except config_files.Problems as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(given: Given, log: Log) -> int:
    _refuse_program(given.get("tpm"))
    if "print-capabilities" in given:
        print(setup_profiles.capabilities())
        return 0
    if "print-profiles" in given:
        print(setup_profiles.listing(_settings(given, _user()) if given.get("config") else {}, given))
        # so swtpm_setup ends, and who calls it looks at what it prints
        return 1 if "tpm2" in given else 0
    _change_user(given.get("runas"))
    user = _user()
    place = _place(given, user)
    version = "2.0" if "tpm2" in given else "1.2"
    setup_options.refuse_contradictions(given)
    from swtpm_svc.state import placed_state

    if placed_state.exists(place, version) and "reconfigure" not in given:
        if "not-overwrite" in given:
            log.tell("Not overwriting existing state file.")
            return 0
        if "overwrite" not in given:
            raise SetupError("Found existing TPM state 'permall'.")
    settings = _settings(given, user)
    profile = setup_profiles.choose(given, settings)
    plan = _plan_2_0(given, settings) if version == "2.0" else _plan_1_2(given)
    doing = "reconfiguration" if "reconfigure" in given else "manufacturing"
    key = setup_keys.load(given, user, log.tell)
    log.tell(f"Starting vTPM {doing} as {user}:{_group()} @ {_now()}")
    try:
        _author(given, Order(place, version, key, plan, profile, settings), log)
        return 0
    except (SetupError, VtpmError) as error:
        log.complain(error.message if isinstance(error, VtpmError) else str(error))
        log.complain(_FAILED)
        return 1
    finally:
        log.tell(f"Ending vTPM manufacturing @ {_now()}")


def _author(given: Given, order: Order, log: Log) -> None:
    from swtpm_svc.cli.classic.setup_certificates import CertificateMaker, Facts, find_tool
    from swtpm_svc.provision import factory, swtpm_manufacture
    from swtpm_svc.provision.tpm2_owner import Tpm2
    from swtpm_svc.provision.tpm12_owner import Tpm12
    from swtpm_svc.state import placed_state

    plan, version, values = order.plan, order.version, order.values
    tool = find_tool(values) if plan.ek_certificate or plan.platform_certificate else None
    reconfigured = "reconfigure" in given
    before = placed_state.read(order.place, version, order.key) if reconfigured else None
    log.say("TPM is listening on Unix socket.")
    with CertificateMaker(tool, log.tell, log.path, given.get("write-ek-cert-files")) as certificates:

        def work(tpm: "Tpm") -> None:
            certificates.facts = Facts(
                factory.facts(tpm),
                version == "2.0",
                given.get("vmid"),
                "allow-signing" in given,
                "decryption" in given,
            )
            execute = factory.executor(tpm)
            if isinstance(plan, swtpm_manufacture.Plan12):
                swtpm_manufacture.manufacture_1_2(Tpm12(execute), plan, certificates.certify, log.tell)
            elif reconfigured:
                swtpm_manufacture.activate(Tpm2(execute), plan.banks, log.tell)
            else:
                swtpm_manufacture.manufacture_2_0(Tpm2(execute), plan, certificates.certify, log.tell)

        state, _ = factory.operate(version, work, permanent=before, profile=order.profile)
    placed_state.install(order.place, version, state, order.key)
    log.tell("Successfully authored TPM state.")


def _refuse_program(text: Optional[str]) -> None:
    program = text.split()[0] if text and text.split() else None
    if text is not None and (program is None or not setup_options.is_program(program)):
        raise SetupError(f"swtpm at {program or ''} is not an executable.")


def _change_user(user: Optional[str]) -> None:
    if user is None:
        return
    try:
        # a number of more digits is nobody's, and would take long to read
        is_number = user.isascii() and user.isdigit() and len(user) <= 10
        account = pwd.getpwuid(int(user)) if is_number else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise SetupError(f"Error: User '{user}' does not exist.") from None
    if (os.geteuid(), os.getegid()) == (account.pw_uid, account.pw_gid):
        return
    try:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise SetupError(f"Error: Could not become the user '{user}' of --runas: {error.strerror}") from None


def _place(given: Given, user: str) -> "Place":
    from swtpm_svc.state.placed_state import Place

    path = given.get("tpm-state")
    if not path:
        raise SetupError("--tpm-state must be provided")
    if path.startswith("file://"):
        file = path[len("file://") :]
        folder = os.path.dirname(file) or "."
        if os.path.isdir(file) or not os.access(file if os.path.exists(file) else folder, os.R_OK | os.W_OK):
            raise SetupError(f"User {user} cannot read/write the file {file} of --tpm-state.")
        _refuse_folder_of_copies(given, user)
        return Place(file, is_file=True)
    path = path[len("dir://") :] if path.startswith("dir://") else path
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise SetupError(f"User {user} cannot access directory {path}. Make sure it exists and is a directory.")
    lock = os.path.join(path, ".lock")
    if os.path.lexists(lock) and not os.access(lock, os.R_OK | os.W_OK):
        raise SetupError(f"User {user} cannot read/write lockfile {lock}.")
    _refuse_folder_of_copies(given, user)
    return Place(path)


def _refuse_folder_of_copies(given: Given, user: str) -> None:
    copies = given.get("write-ek-cert-files")
    if copies is not None and not (os.path.isdir(copies) and os.access(copies, os.W_OK | os.X_OK)):
        raise SetupError(f"User {user} cannot write to directory {copies} of --write-ek-cert-files.")


def _settings(given: Given, user: str) -> "dict[str, str]":
    from swtpm_svc.cli.classic import settings_file

    path = given.get("config") or settings_file.find(_CONFIG)
    try:
        return settings_file.read(path)
    except OSError:
        raise SetupError(f"User {user} cannot read config file {path}.") from None


def _plan_1_2(given: Given) -> "Plan12":
    from swtpm_svc.provision.swtpm_manufacture import Plan12

    owns = "take-ownership" in given
    certificate = "create-ek-cert" in given
    return Plan12(
        endorsement_key=owns or certificate or "createek" in given or "create-platform-cert" in given,
        owner=_secret(given, "owner", _OWNER) if owns else None,
        srk=_secret(given, "srk", _SRK),
        ek_certificate=certificate,
        platform_certificate="create-platform-cert" in given,
        lock="lock-nvram" in given,
    )


def _secret(given: Given, role: str, default: str) -> bytes:
    from swtpm_svc.provision.tpm12_owner import secret_of

    password = given.get(f"{role}pass")
    if f"{role}-well-known" in given:
        # swtpm_setup's; to other programs the well-known secret is 20 zero octets and not their hash
        return secret_of(bytes(DIGEST_SIZE))
    return secret_of(os.fsencode(password if password is not None else default))


def _plan_2_0(given: Given, settings: "dict[str, str]") -> "Plan20":
    from swtpm_svc.provision import swtpm_templates
    from swtpm_svc.provision.swtpm_manufacture import Plan20

    def algorithm(option: str, default: Optional[str]) -> Optional[str]:
        text = given.get(option) or settings.get(option) or default
        found = swtpm_templates.algorithm(text) if text else None
        if text and found is None:
            raise SetupError(f"Key algorithm {text} is not supported.")
        return found

    size = _rsa_size(given, settings)
    certificate, platform = "create-ek-cert" in given, "create-platform-cert" in given
    endorsement: list[str] = []
    first, second = algorithm("ek1keyalgo", f"rsa{size}"), algorithm("ek2keyalgo", "secp384r1")
    if certificate or platform or "createek" in given:
        endorsement = list(dict.fromkeys(name for name in (first, second) if name))
    iak = algorithm("iakkeyalgo", None) if certificate else None
    idevid = algorithm("idevidkeyalgo", None) if certificate else None
    signs, decrypts = "allow-signing" in given, "decryption" in given
    banks = given.get("pcr-banks") or settings.get("active_pcr_banks") or _BANKS
    storage = ("secp384r1" if "ecc" in given else f"rsa{size}") if "create-spk" in given else None
    return Plan20(
        storage_key=swtpm_templates.storage_key(storage) if storage else None,
        endorsement_keys=tuple(
            swtpm_templates.endorsement_key(name, signs=signs, decrypts=decrypts) for name in endorsement
        ),
        attestation_key=swtpm_templates.attestation_key(iak) if iak else None,
        identity_key=swtpm_templates.identity_key(idevid) if idevid else None,
        ek_certificate=certificate,
        platform_certificate=platform,
        lock="lock-nvram" in given,
        banks=None if banks == "-" else tuple(bank.strip() for bank in banks.split(",") if bank.strip()),
    )


def _rsa_size(given: Given, settings: "dict[str, str]") -> int:
    text = given.get("rsa-keysize") or settings.get("rsa_keysize") or "2048"
    sizes = setup_profiles.rsa_sizes()
    if text == "max":
        return max(sizes)
    if text not in {str(size) for size in sizes}:
        raise SetupError(f"Unsupported RSA key size {text}.", is_spoken=True)
    return int(text)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "<unknown>"


def _group() -> str:
    import grp

    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return "<unknown>"


def _now() -> str:
    return time.strftime("%a %d %b %Y %I:%M:%S %p %Z")
