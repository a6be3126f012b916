"""SIGHUP: the configuration is read anew, what can be changed at run time is put into force, and the rest is named.

The schema says which keys those are (`reloads`); APPLIERS says what a new value of each changes. A test holds them
together.
"""

from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config, ControlConfig
from swtpm_svc.errors import VtpmError, internal
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service.authorization import Authorization
from swtpm_svc.service.systemd.journal import LEVELS, RELOADED_ID, Journal
from swtpm_svc.service.ways_in import WaysIn
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.small_tools import suppress
from swtpm_svc.wire.values import NamedTuple


class Subjects(NamedTuple):
    """Who is told of new values."""

    journal: Journal
    dispatcher: Dispatcher
    authorization: Authorization
    ways_in: WaysIn


class Found(NamedTuple):
    """A configuration that was read anew, and what was looked up for it beside the loop."""

    config: Config
    #: The number of the control group; None: there is no such group, and nobody is in it.
    control_gid: Optional[int]


def shows_commands(level: str) -> bool:
    """Is each command told at this level of [log]?"""
    return level == "debug"


def _apply_control_group(subjects: Subjects, found: Found) -> None:
    subjects.authorization.change_group(found.config.control.group)
    subjects.ways_in.set_control_group(found.config.control, found.control_gid)


def _apply_log_level(subjects: Subjects, found: Found) -> None:
    subjects.journal.level = LEVELS[found.config.log.level]
    subjects.dispatcher.trace = shows_commands(found.config.log.level)


#: What puts the value of a key into force, by table and key. Done at each reload: what a name stands for may be new.
APPLIERS: "dict[tuple[str, str], Callable[[Subjects, Found], None]]" = {
    ("control", "group"): _apply_control_group,
    ("log", "level"): _apply_log_level,
}


class Reload:
    """`begin` at each SIGHUP. What takes a disk, or a database of accounts that may be far away, is done beside the
    loop, into which `post` brings back what was found. `done` is called at the end of each, `failed` hears of faults.
    """

    def __init__(
        self,
        config: Config,
        subjects: Subjects,
        post: Callable[[Callable[[], None]], None],
        done: Callable[[], None],
        failed: Callable[[VtpmError], None],
    ) -> None:
        #: What is in force.
        self._config = config
        self._subjects = subjects
        self._journal = subjects.journal
        self._post = post
        self._done = done
        self._failed = failed
        #: How often it was begun: what an earlier reading has found does not count any more.
        self._number = 0

    def begin(self) -> None:
        self._number += 1
        number, current = self._number, self._config
        try:
            from threading import Thread  # most starts have no use for it

            Thread(target=self._read_again, args=(number, current), name="reload", daemon=True).start()
        except RuntimeError:  # no thread to be had (TasksMax=, memory): late is better than never
            self._read_again(number, current)

    def _read_again(self, number: int, current: Config) -> None:
        found = None
        try:
            config = loading.load(current.path, current.instance)
            config = config._replace(control=self._usable_control(config.control, current.control))
            group = None
            with suppress(VtpmError):  # the start has said that there is no such group
                group = loading.group_id(config.control.group)
            found = Found(config, group)
        except VtpmError as error:
            self._journal.error(error)
        except Exception as error:  # systemd waits for the end of a reload
            self._failed(internal("while reading the configuration", error))
        self._post(lambda: self._take_over(number, found))

    def _usable_control(self, wanted: ControlConfig, current: ControlConfig) -> ControlConfig:
        """The [control] of now, where that of the file names a group that does not exist: nobody would be in it."""
        try:
            if wanted.group != current.group:
                loading.group_id(wanted.group)
            return wanted
        except VtpmError as error:
            error.message = f"[control] group has changed: {error.message}; {current.group} stays in force"
            self._journal.error(error)
            return current

    def _take_over(self, number: int, found: Optional[Found]) -> None:
        if number != self._number:
            return  # there was another SIGHUP since
        if found is not None:
            self._apply(found)
        self._done()

    def _apply(self, found: Found) -> None:
        for table, key, reloads in loading.changes(self._config, found.config):
            what = "now in force" if reloads else "not before a restart of the service"
            self._journal.log("notice", f"[{table}] {key} has changed: {what}", message_id=RELOADED_ID)
        self._config = loading.reloaded(self._config, found.config)
        for apply in APPLIERS.values():
            apply(self._subjects, found)
        self._journal.log("info", "configuration reloaded", message_id=RELOADED_ID)
