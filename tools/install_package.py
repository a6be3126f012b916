"""Install the Python package, its extension and its commands below DESTDIR, for the Python that runs this.

usage: python3 tools/install_package.py [--classic | --classic-only] PREFIX [DESTDIR]

--classic: the old command names, too (packaging/classic-commands.ini); --classic-only: these and nothing else, as a
package build has the rest from elsewhere. `make install` calls it. Nothing is fetched: setuptools, wheel and cffi are
those of this Python.
"""

import compileall
import configparser
import os
import shutil
import site
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
CLASSIC_COMMANDS = SOURCE / "packaging/classic-commands.ini"
#: -S: what site does takes a fifth of the interpreter's start, and what a command needs of it is where packages are. It
#: is asked where that has changed, or where a .pth file does more than name a folder (an editable installation).
COMMAND = """#!{python} -IS
import sys

sys.path += {places}

try:
    from {module} import {function}
except ImportError:
    import site

    site.main()
    from {module} import {function}

sys.exit({function}())
"""


def site_directory(prefix: str) -> str:
    """Where this Python looks for packages below `prefix`; a place of the usual form if it looks nowhere there."""
    for directory in site.getsitepackages():
        below = os.path.relpath(directory, prefix).split(os.sep)
        if below[0] in ("lib", "lib64"):
            return directory
    return f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def build_wheel(target: Path) -> Path:
    # from a copy: a build leaves files in the tree, and the tree may be read-only or somebody else's
    tree = target / "source"
    shutil.copytree(
        SOURCE / "swtpm_svc",
        tree / "swtpm_svc",
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_libtpms.c"),
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (SOURCE / name).exists():
            shutil.copy(SOURCE / name, tree)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(target),
        ".",
    ]
    subprocess.run(command, cwd=tree, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = target.glob("*.whl")
    return wheel


def unpack(wheel: Path, directory: Path) -> None:
    for old in [directory / "swtpm_svc", *directory.glob("swtpm_svc-*.dist-info")]:
        shutil.rmtree(old, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    for path in [directory / "swtpm_svc", *(directory / "swtpm_svc").rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)


def commands_of(entry_points: Path, section: str = "console_scripts") -> "dict[str, str]":
    """What each command calls, as `module:function`."""
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(entry_points)
    return dict(parser[section])


def package_places() -> "list[str]":
    """The folders in which this Python looks for packages: those that there may be, and what .pth files add."""
    found = {}
    for option in ("-I", "-IS"):
        command = [sys.executable, option, "-c", "import sys; print(*sys.path, sep='\\0')"]
        found[option] = subprocess.run(command, capture_output=True, text=True, check=True).stdout[:-1].split("\0")
    added = [path for path in found["-I"] if path not in found["-IS"]]
    return [*dict.fromkeys([*added, *site.getsitepackages()])]


def install_commands(commands: "dict[str, str]", bin_directory: Path) -> None:
    bin_directory.mkdir(parents=True, exist_ok=True)
    places = package_places()
    for name, target in commands.items():
        module, _, function = target.partition(":")
        path = bin_directory / name
        path.write_text(COMMAND.format(python=sys.executable, places=places, module=module, function=function))
        path.chmod(0o755)


def main(*words: str) -> int:
    os.umask(0o022)
    option = words[0] if words[:1] in (("--classic",), ("--classic-only",)) else ""
    prefix, destdir = (*words[bool(option) :], "")[:2]
    bin_directory = Path(f"{destdir}{prefix}/bin")
    if option:
        install_commands(commands_of(CLASSIC_COMMANDS), bin_directory)
        install_commands(commands_of(CLASSIC_COMMANDS, "share_swtpm"), Path(f"{destdir}{prefix}/share/swtpm"))
    return 0 if option == "--classic-only" else install_package(prefix, destdir, bin_directory)


def install_package(prefix: str, destdir: str, bin_directory: Path) -> int:
    directory = site_directory(prefix)
    target = Path(destdir + directory)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack(build_wheel(Path(folder)), target)
    (entry_points,) = target.glob("swtpm_svc-*.dist-info/entry_points.txt")
    install_commands(commands_of(entry_points), bin_directory)
    # the daemon is started with -B and as a user who may not write here
    compiled = compileall.compile_dir(
        str(target / "swtpm_svc"), quiet=1, stripdir=destdir or None, prependdir="/" if destdir else None
    )
    print(f"installed {directory}/swtpm_svc")
    if directory not in sys.path:
        print(f"  {sys.executable} does not look there: set PYTHONPATH, or choose another PREFIX", file=sys.stderr)
    return 0 if compiled else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
