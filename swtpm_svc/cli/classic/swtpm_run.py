"""From what was given to a run of swtpm: the order in which options are looked at, and the values that they make."""

import os

from swtpm_svc.cli.classic import swtpm_lists
from swtpm_svc.cli.classic.swtpm_lists import StateOptions
from swtpm_svc.cli.classic.swtpm_options import CommandError, Given
from swtpm_svc.cli.classic.swtpm_output import say
from swtpm_svc.config import schema
from swtpm_svc.config.schema import MigrationConfig, StateConfig
from swtpm_svc.errors import VtpmError
from swtpm_svc.service.classic import user
from swtpm_svc.service.classic.emulation import Emulation
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.state.encryption import Keys
from swtpm_svc.state.files import swtpm_mode
from swtpm_svc.tpm.controller import MAX_LOCALITY
from swtpm_svc.wire.hints import Optional

#: What a run imports later, and cannot any more in another root, or as a user to whom it is closed.
_LATER = (
    "grp",
    "json",
    "pwd",
    "re",
    "socket",
    "threading",
    "encodings.idna",
    "swtpm_svc.cli.classic.swtpm_channels",
    "swtpm_svc.cli.classic.swtpm_keys",
    "swtpm_svc.cli.classic.swtpm_prints",
    "swtpm_svc.service.capture",
    "swtpm_svc.state.named_files",
    "swtpm_svc.service.classic.emulator",
    "swtpm_svc.service.classic.cuse_device",
    "swtpm_svc.service.classic.kernel_device",
)


def version_of(given: Given) -> str:
    return "2.0" if "tpm2" in given else "1.2"


def change_root(given: Given) -> None:
    """--chroot, with all that this process needs from its own root taken along. Raises: CommandError."""
    root = given.get("chroot")
    if root is None:
        return
    import_all(given)
    try:
        os.chroot(root)
        os.chdir("/")
    except OSError as error:
        raise CommandError(f"chroot failed: {error.strerror}") from None


def import_all(given: Given) -> None:
    """Raises: CommandError: libtpms cannot be had."""
    from importlib import import_module

    for name in _LATER:
        import_module(name)
    if os.environ.get("NOTIFY_SOCKET"):
        import_module("systemd._daemon")
    if "key" in given or "migration-key" in given:
        from swtpm_svc.state.encryption import StateKey

        StateKey(bytes(16))  # what a key brings with it
    from swtpm_svc.tpm import libtpms

    try:
        libtpms.silence()
    except VtpmError as error:
        raise CommandError(error.message) from None


def change_user(given: Given) -> None:
    """--runas. Raises: CommandError."""
    name = given.get("runas")
    if name is None:
        return
    import_all(given)
    try:
        user.find(name)  # an empty one too: who gives it means somebody
        user.become(name)
    except VtpmError as error:
        raise CommandError(f"Error: {error.message}") from None
    except OSError as error:
        raise CommandError(f"Error: cannot become user '{name}': {error.strerror}") from None


def open_log(given: Given) -> EmulationLog:
    """Raises: CommandError."""
    text = given.get("log")
    return EmulationLog() if text is None else swtpm_lists.log(text)


def state_of(options: StateOptions, state: StateConfig) -> StateConfig:
    """--tpmstate over what `state` has; no place at all is ""."""
    return state._replace(
        directory=options.directory,
        file=options.file or "none",
        mode=swtpm_mode() if options.mode is None else options.mode,
        # a folder is locked unless that is said, a file if that is said
        lock=not options.file if options.lock is None else options.lock,
        backup=options.backup,
    )


def read_keys(given: Given, log: EmulationLog) -> Keys:
    """Raises: CommandError."""
    found = {}
    for option, field in (("key", "state"), ("migration-key", "migration")):
        text = given.get(option)
        if text is not None:
            from swtpm_svc.cli.classic import swtpm_keys

            found[field] = swtpm_keys.load(text, "key" if option == "key" else option, log.line)
    return Keys(**found)


def common(given: Given, interface: str, log: EmulationLog, *, is_started: bool = False) -> Emulation:
    """What is the same with every interface. `is_started`: it is powered and started, whatever the flags say.

    Raises:
        CommandError
    """
    keys = read_keys(given, log)
    pid = given.get("pid")
    pid_file = swtpm_lists.pid_file(pid) if pid is not None else None
    locality = swtpm_lists.locality(given.get("locality"))
    defaults = schema.defaults("swtpm")
    state = swtpm_lists.state(given.get("tpmstate"))
    seccomp = swtpm_lists.seccomp(given.get("seccomp"))
    flags = swtpm_lists.flags(given.get("flags"))
    migration = swtpm_lists.migration(given.get("migration"))
    profile = given.get("profile")
    profile_json = None if profile is None else swtpm_lists.profile(profile)
    capture_fd, checksums = swtpm_lists.pcap(given.get("pcap"))
    startup = flags.startup if flags.startup != "none" or not is_started else "clear"
    config = defaults._replace(
        tpm=defaults.tpm._replace(
            version=version_of(given),
            power_on="manual" if flags.needs_init and not is_started else "auto",
            startup=startup,
            disable_auto_shutdown=not flags.auto_shutdown,
            profile=profile_json or "none",
        ),
        state=state_of(state, defaults.state),
        migration=MigrationConfig(incoming="incoming" in migration, release_lock="release-lock-outgoing" in migration),
    )
    return Emulation(
        config=config,
        interface=interface,
        keys=keys,
        keeps_modes=state.mode is None,
        pid_file=pid_file,
        seccomp=seccomp,
        max_locality=MAX_LOCALITY - 1 if locality.reject_4 else MAX_LOCALITY,
        obeys_set_locality=locality.allow_set,
        capture_fd=capture_fd,
        captures_checksums=checksums,
    )


def print_capabilities(interface: str, given: Given) -> None:
    from swtpm_svc.cli.classic import swtpm_prints

    say(swtpm_prints.capabilities(interface, version_of(given)) + "\n")


def print_profiles(given: Given) -> None:
    from swtpm_svc.cli.classic import swtpm_prints

    say(swtpm_prints.profiles(version_of(given)))


def print_states(given: Given) -> None:
    """Raises: CommandError."""
    from swtpm_svc.cli.classic import swtpm_prints

    if "tpmstate" not in given:
        raise CommandError("Error: --tpmstate option is required for --print-states")
    state = state_of(swtpm_lists.state(given.get("tpmstate")), schema.defaults("swtpm").state)
    say(swtpm_prints.states(state, version_of(given)))


def print_info(given: Given, flags: int, log: EmulationLog) -> int:
    """With a state the TPM is started, and made where there is none; then it says more. The exit status."""
    from swtpm_svc.service.classic import emulator

    emulation: Optional[Emulation] = common(given, "socket", log) if "tpmstate" in given else None
    try:
        say(emulator.describe(version_of(given), flags, emulation) + "\n")
    except VtpmError as error:
        log.error(error)
        return 1
    return 0
