"""What a command is, for tables of commands: values that import nothing of what the commands need.

From one table are made the parser and the help (command_line.py), the dispatch (a program's own, as vtpmctl's
performing.py), the completion of three shells (tools/make_completion.py), and the check of the manual page.
"""

from enum import Enum, unique
from importlib import import_module
from typing import Any, Callable, NamedTuple, Optional, Union

from swtpm_svc.errors import Code, VtpmError


class Report(NamedTuple):
    """`text`: lines for a person, without the last line's end; `values`: the same for a program.

    `data`: bytes to be written in place of the text, for another program or a file. `status`: the exit status.
    """

    text: str
    values: Any
    data: bytes = b""
    status: int = 0


@unique
class Offer(Enum):
    """What a shell offers for a value that is not one of a few words."""

    NOTHING = "nothing"
    FILE = "file"
    DIRECTORY = "directory"
    #: Those that have a configuration.
    INSTANCE = "instance"
    #: The same, and paths as soon as there is a slash.
    INSTANCE_OR_PATH = "instance or path"
    USER = "user"
    GROUP = "group"


class Argument(NamedTuple):
    """One argument: it is known by its place, or is an option if its names begin with a dash.

    `metavar`: what stands for the value in the help; an option without one, and without choices, has no value.
    `offer`: what a shell offers for the value, where there are no choices. `type`: the function that converts
    argparse's text, or where it is, as "package.module:function". `variable`: the environment variable that has the
    default. `optional`: one without a dash that may be left out; `many`: there may be several, or none. `dest`: the
    name of its value, where that is not the argument's own.
    """

    names: "tuple[str, ...]"
    help: str
    metavar: str = ""
    offer: "Union[Offer, tuple[str, ...]]" = Offer.NOTHING
    choices: "tuple[Any, ...]" = ()
    type: "Union[str, Callable[[str], Any]]" = str
    default: Any = None
    variable: str = ""
    optional: bool = False
    many: bool = False
    dest: str = ""

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        return not self.is_option or bool(self.metavar or self.choices)

    @property
    def offered(self) -> "Union[Offer, tuple[str, ...]]":
        return tuple(map(str, self.choices)) or self.offer


@unique
class Given(Enum):
    """What a command's function is given before its arguments, which it gets by name."""

    #: Nothing else.
    NOTHING = "nothing"
    #: Where the host has things.
    HOST = "host"
    #: The same; the first argument, which then is its bare name, is an instance, as people type them.
    INSTANCE = "instance"
    #: What takes control requests, opened: a device or a control socket. The first argument names it.
    DEVICE = "device"
    #: What takes TPM commands, connected, of either version. The first argument names it.
    TPM = "tpm"
    #: The same; it is started if nobody has.
    STARTED_TPM = "started tpm"
    #: The same, and what its daemon knows of its keys.
    WATCHED_TPM = "watched tpm"


@unique
class Cryptography(Enum):
    """Whether a command needs the package `cryptography`, which takes a tenth of a second to import."""

    #: It must not be imported.
    NEVER = "never"
    #: It depends on what is found; the command itself says so if it is missing.
    PERHAPS = "perhaps"
    #: It is looked for before anything is done.
    ALWAYS = "always"


class Command(NamedTuple):
    """A command. `function`: as "package.module:function"; the module is imported when the command is chosen.

    `actions`: a group of commands has them instead of a function; its first word chooses one. `streams`: the function
    writes its output by itself, and is told whether `as_json`. `waiting`: what it does meanwhile, where it may take
    more than a second and asks nothing.
    """

    name: str
    help: str
    function: str = ""
    arguments: "tuple[Argument, ...]" = ()
    given: Given = Given.NOTHING
    cryptography: Cryptography = Cryptography.NEVER
    actions: "tuple[Command, ...]" = ()
    streams: bool = False
    waiting: str = ""

    @property
    def options(self) -> "tuple[Argument, ...]":
        return tuple(argument for argument in self.arguments if argument.is_option)

    @property
    def places(self) -> "tuple[Argument, ...]":
        """The arguments that are known by their place."""
        return tuple(argument for argument in self.arguments if not argument.is_option)


class Program(NamedTuple):
    """A program: its own arguments, and the commands of one that has some; no option before these takes a value.

    `everywhere`: the options that may stand before and after the command. `headings`: in the help, each with the names
    of the commands below it.
    """

    name: str
    description: str
    epilog: str = ""
    arguments: "tuple[Argument, ...]" = ()
    everywhere: "tuple[Argument, ...]" = ()
    commands: "tuple[Command, ...]" = ()
    headings: "tuple[tuple[str, tuple[str, ...]], ...]" = ()

    def find(self, name: str, action: Optional[str] = None) -> Command:
        """The command, or one of a group's actions.

        Raises:
            KeyError: there is none.
        """
        found = next((command for command in self.commands if command.name == name), None)
        if found is not None and action is not None:
            found = next((one for one in found.actions if one.name == action), None)
        if found is None:
            raise KeyError(name, action)
        return found


def load(place: str) -> "Callable[..., Any]":
    """The function at "package.module:function"."""
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def require_cryptography() -> None:
    """Called by whoever is going to need it, before anything is changed.

    Raises:
        VtpmError INSTALLATION: it is missing, or cannot be used.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        cause = f"the Python package cryptography cannot be used ({error})"
        raise VtpmError(Code.INSTALLATION, cause, remedy="install python3-cryptography") from error
