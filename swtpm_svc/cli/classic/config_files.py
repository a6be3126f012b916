"""The configuration files that `swtpm_setup --create-config-files` and swtpm-create-user-config-files write."""

import os
import re
import shutil
import sys
from typing import NamedTuple

from swtpm_svc.cli.classic import settings_file
from swtpm_svc.cli.classic.option_scanner import Found, Option, Problem, scan
from swtpm_svc.cli.classic.setup_options import is_program
from swtpm_svc.state import named_files

WORDS = ("overwrite", "root", "skip-if-exist")
_BLANK = re.compile(r"\s")

_SETUP = """create_certs_tool = {tool}
create_certs_tool_config = {folder}/swtpm-localca.conf
create_certs_tool_options = {folder}/swtpm-localca.options
# Comma-separated list (no spaces) of PCR banks to activate by default
active_pcr_banks = sha256
profile = {{"Name":"default-v1"}}
# profile_file =
local_profiles_dir = {folder}/etc/swtpm/profiles/
"""
_LOCALCA = """statedir = {state}
signingkey = {state}/signkey.pem
issuercert = {state}/issuercert.pem
certserial = {state}/certserial
"""
_OPTIONS = """--platform-manufacturer {system}
--platform-version {version}
--platform-model {system}
"""


class Problems(Exception):
    """The files are not written; the text says why."""


class Wanted(NamedTuple):
    """The words of --create-config-files."""

    overwrite: bool = False
    root: bool = False
    skip_if_exist: bool = False


def parse(text: str) -> Wanted:
    """
    Raises:
        Problems.
    """
    words = [word for word in re.split(r"[, ]+", text) if word]
    for word in words:
        if word not in WORDS:
            raise Problems(f"Unknown parameter '{word}' of --create-config-files: it takes {', '.join(WORDS)}")
    wanted = Wanted("overwrite" in words, "root" in words, "skip-if-exist" in words)
    if wanted.overwrite and wanted.skip_if_exist:
        raise Problems("Error: overwrite and skip-if-exist cannot both be used")
    return wanted


def write(wanted: Wanted) -> None:
    """Write them, and say so.

    Raises:
        Problems.
    """
    if os.geteuid() == 0 and not wanted.root:
        raise Problems("Requiring the 'root' flag since the configuration files will shadow those in /etc.")
    folder = settings_file.own_folder()
    if folder is None:
        raise Problems("Neither XDG_CONFIG_HOME nor HOME is set.")
    state, system = os.path.join(folder, "var/lib/swtpm-localca"), os.uname()
    values = {
        "tool": _tool(),
        "folder": folder,
        "state": state,
        "system": _BLANK.sub("_", system.sysname),
        "version": _BLANK.sub("_", system.version),
    }
    files = {
        os.path.join(folder, name): text.format(**values)
        for name, text in (
            ("swtpm_setup.conf", _SETUP),
            ("swtpm-localca.conf", _LOCALCA),
            ("swtpm-localca.options", _OPTIONS),
        )
    }
    for path in files:
        if os.path.lexists(path) and not wanted.overwrite:
            if wanted.skip_if_exist:
                return
            raise Problems(f"File {path} already exists. Refusing to overwrite.")
    try:
        os.makedirs(state, 0o775, exist_ok=True)
        for path, text in files.items():
            print(f"Writing {path}.", flush=True)
            named_files.replace(os.path.realpath(path), text.encode("utf-8", "surrogateescape"), 0o644)
    except OSError as error:
        raise Problems(f"Could not write {error.filename}: {error.strerror}") from None


def main() -> int:
    """The command swtpm-create-user-config-files; its exit status."""
    words = []
    for event in scan((Option("root"), Option("overwrite"), Option("help", letter="h")), sys.argv[1:]):
        if isinstance(event, Problem):
            print(f"swtpm-create-user-config-files: {event.message}", file=sys.stderr)
            return 1
        if isinstance(event, Found):
            words.append(event.option.name)
    if "help" in words:
        print("Usage: swtpm-create-user-config-files [--overwrite] [--root]\n\nWrite swtpm_setup's and swtpm_localca's")
        print("configuration files for this user; --root: also where that is root.")
        return 0
    try:
        write(Wanted("overwrite" in words, "root" in words))
    except Problems as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _tool() -> str:
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "swtpm_localca")
    return beside if is_program(beside) else shutil.which("swtpm_localca") or "/usr/bin/swtpm_localca"
