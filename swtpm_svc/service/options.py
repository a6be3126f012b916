"""The command line of vtpmd, as values. No argparse: a cold start is short (decisions/0024)."""

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

HELP = """\
usage: vtpmd NAME
       vtpmd --config FILE [--foreground]

Serve the software TPM that /etc/vtpm.d/NAME.toml, or FILE, describes.

  NAME             the instance, as in systemctl start vtpm@NAME
  --config FILE    read FILE; the instance's name is the file's, without .toml
  --foreground     log to standard error, not to the journal
  --user USER      serve as USER when started as root (default: vtpm)
  --help           show this help
  --version        show the version

The manual page is vtpmd(8); the configuration file is described in vtpm.d(5).
"""


class Options(NamedTuple):
    """The command line."""

    instance: str
    config: Optional[str]
    foreground: bool
    user: str


def parse(arguments: "list[str]") -> Options:
    """
    Raises:
        VtpmError USAGE
    """
    instance: Optional[str] = None
    values = {"--config": "", "--user": "vtpm"}
    foreground = False
    words = iter(arguments)
    for word in words:
        name, separator, value = word.partition("=")
        if name in values:
            found = value if separator else next(words, None)
            if not found:
                raise _usage(f"{name} needs a value")
            values[name] = found
        elif word == "--foreground":
            foreground = True
        elif word.startswith("-") or instance is not None:
            raise _usage(f"unexpected argument {word!r}")
        else:
            instance = word
    config = values["--config"] or None
    if (instance is None) == (config is None):
        raise _usage("give either the name of an instance or --config FILE")
    if config is not None:
        instance = config.rsplit("/", 1)[-1]
        instance = instance[:-5] if instance.endswith(".toml") else instance
    assert instance is not None
    return Options(instance, config, foreground, values["--user"])


def _usage(message: str) -> VtpmError:
    return VtpmError(Code.USAGE, message, remedy="see vtpmd --help")
