"""systemd and the commands of an administrator, as the tests in the machine use them."""

import json
import os
import subprocess

SYSTEMD = int(subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1])


def run(*words, user=None, expect=0, timeout=90, **kw):
    prefix = ["runuser", "-u", user, "--"] if user else []
    done = subprocess.run([*prefix, *words], capture_output=True, text=True, timeout=timeout, check=False, **kw)
    if expect is not None:
        assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
    return done


def selinux_type(path):
    """Of the label that a file has."""
    return os.getxattr(path, "security.selinux").decode().split(":")[2]


def systemctl(verb, *instances, expect=0):
    return run("systemctl", verb, *[f"vtpm@{name}.service" for name in instances], expect=expect)


def show(name, prop):
    return run("systemctl", "show", "-P", prop, f"vtpm@{name}.service").stdout.strip()


def journal(name, *words):
    run("journalctl", "--sync")
    done = run("journalctl", "-b", "-o", "json", "-u", f"vtpm@{name}.service", *words)
    return [json.loads(line) for line in done.stdout.splitlines()]


def status(name):
    return json.loads(run("vtpmctl", "--json", "status", name).stdout)


def tpm2(tool, *words, device="vtpm1", user=None, expect=0):
    return run(tool, *words, user=user, expect=expect, env=dict(os.environ, TPM2TOOLS_TCTI=f"device:/dev/{device}"))
