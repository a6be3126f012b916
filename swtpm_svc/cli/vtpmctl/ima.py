"""`vtpmctl doctor --ima`: are the installed files as they were signed?

The answer is that of vtpm-ima, a program of its own: it must work, and be able to say why, where IMA refuses a module
of ours.
"""

import json
import os
import subprocess
from typing import Any

from swtpm_svc.cli.vtpmctl.doctor.findings import WARN, Finding, bad
from swtpm_svc.errors import Code, VtpmError

PROGRAMS = ("/usr/libexec/vtpm/vtpm-ima", "/usr/local/libexec/vtpm/vtpm-ima")
TIME_S = 120


def examine() -> "list[Finding]":
    """One finding for each file that is not as it was signed, or one for all of them."""
    program = next((path for path in PROGRAMS if os.path.exists(path)), None)
    if program is None:
        return [bad("IMA", f"there is no {PROGRAMS[0]}", "reinstall python3-swtpm", verdict=WARN)]
    command = [program, "verify", "--json"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_S, check=False)
    except OSError as error:
        text = f"{program} cannot be executed ({error.strerror})"
        return [bad("IMA", text, "reinstall python3-swtpm; if IMA refuses it, from a boot without the policy")]
    except subprocess.TimeoutExpired:
        return [
            bad(
                "IMA", f"{program} has not answered in {TIME_S} s", "try again when the host is less busy", verdict=WARN
            )
        ]
    try:
        return [_finding(entry) for entry in json.loads(done.stdout)]
    except (ValueError, TypeError, KeyError):
        cause = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
        return [bad("IMA", f"{program} failed: {cause}", "reinstall python3-swtpm")]


def _finding(entry: "dict[str, Any]") -> Finding:
    verdict, check, text, remedy = (entry[name] for name in ("verdict", "check", "text", "remedy"))
    problem = VtpmError(Code.INSTALLATION, f"{check}: {text}", remedy=remedy) if remedy else None
    return Finding(verdict, check, text, problem)
