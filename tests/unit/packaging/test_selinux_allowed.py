"""The list of what the SELinux module may allow: a rule more than that is found, whatever form it has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from swtpm_svc.cli.vtpmctl.doctor import selinux_checks

ROOT = Path(__file__).resolve().parents[3]
PACKAGING = ROOT / "packaging"

#: As /usr/libexec/selinux/hll/pp writes it.
MODULE = """
(typeattributeset cil_gen_require etc_t)
(roletype object_r vtpm_etc_t)
(type vtpm_t)
(typeattributeset domain (vtpm_t ))
(typeattributeset file_type (vtpm_etc_t ))
(allow vtpm_t vtpm_etc_t (file (getattr open read)))
(allow vtpm_t self (capability (setuid)))
(booleanif (vtpm_listen_tcp)
    (true
        (allow vtpm_t node_t (tcp_socket (node_bind)))
    )
    (false
        (allow vtpm_t port_t (tcp_socket (name_bind)))
    )
)
(optional vtpm_optional_2
    (typeattributeset cil_gen_require syslogd_t)
    (allow vtpm_t syslogd_t (unix_dgram_socket (sendto)))
)
(filecon "/dev/cuse" char (system_u object_r vtpm_cuse_device_t ((s0)(s0))))
"""

LIST = """\
# a comment
vtpm_t is domain
vtpm_t vtpm_etc_t file: getattr ioctl open read  # more than is needed
vtpm_t vtpm_t capability: setuid
if vtpm_listen_tcp vtpm_t node_t tcp_socket: node_bind
not if vtpm_listen_tcp vtpm_t port_t tcp_socket: name_bind
vtpm_t syslogd_t unix_dgram_socket: sendto
"""


@pytest.fixture
def check(tmp_path):
    def check(module: str = MODULE, listed: str = LIST) -> "tuple[int, list[str]]":
        (tmp_path / "vtpm.cil").write_text(module)
        (tmp_path / "list").write_text(listed)
        command = [
            sys.executable,
            str(ROOT / "tools/selinux_allowed.py"),
            str(tmp_path / "vtpm.cil"),
            str(tmp_path / "list"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout.splitlines()

    return check


def test_a_module_that_keeps_to_the_list(check):
    assert check() == (0, [])


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("(allow vtpm_t vtpm_etc_t (file (read write)))", "vtpm_t vtpm_etc_t file: write"),
        ("(allow vtpm_t shadow_t (file (read)))", "vtpm_t shadow_t file: read"),
        ("(optional x (allow vtpm_t self (capability (dac_override))))", "vtpm_t vtpm_t capability: dac_override"),
        ("(booleanif (x) (true (allow vtpm_t etc_t (file (write)))))", "if x vtpm_t etc_t file: write"),
        ("(typeattributeset unconfined_domain_type (vtpm_t ))", "vtpm_t is unconfined_domain_type"),
        ("(allow init_t vtpm_t (process (transition)))", "init_t vtpm_t process: transition"),
        ("(typepermissive vtpm_t)", "typepermissive vtpm_t"),
        ("(allowx vtpm_t self (ioctl chr_file (0x5401)))", "allowx vtpm_t self ioctl chr_file 0x5401"),
    ],
)
def test_one_rule_more(check, more, line):
    assert check(MODULE + more) == (1, [line])


def test_a_line_of_the_list_that_is_none(check):
    assert check(listed="vtpm_t etc_t file\n") == (65, [])


def test_the_list_has_nothing_that_a_reviewer_would_not_expect():
    """What an own domain is for; the list is for the rest of it."""
    text = (PACKAGING / "swtpm.allowed").read_text()
    assert "unconfined" not in text
    assert "shadow_t" not in text
    for line in text.splitlines():
        if line.startswith("vtpm_t "):
            assert not re.search(
                r"\b(dac_override|dac_read_search|sys_admin|execmem|ptrace|execute_no_trans)\b", line
            ), line


def test_the_program_knows_the_version_of_its_policy():
    found = re.search(r"^policy_module\((\w+), ([0-9.]+)\)$", (PACKAGING / "swtpm.te").read_text(), re.MULTILINE)
    assert found
    assert found.groups() == ("vtpm", selinux_checks.POLICY_VERSION)


def test_comments_have_no_apostrophe():
    """m4 takes it for the end of a quote, and reports a line that does not exist."""
    for name in ("swtpm.te", "swtpm.if"):
        for line in (PACKAGING / name).read_text().splitlines():
            if "#" in line:
                assert "'" not in line[line.index("#") :], line


def test_both_spellings_of_a_path_are_labelled():
    contexts = (PACKAGING / "swtpm.fc").read_text()
    paths = dict(
        re.findall(r"^(/\S+)\s+(?:-[-c]\s+)?gen_context\(system_u:object_r:(\w+),s0\)$", contexts, re.MULTILINE)
    )
    for one, other in (("/usr/bin/", "/usr/sbin/"), ("/run/", "/var/run/")):
        for path, label in paths.items():
            if path.startswith(one):
                assert paths[path.replace(one, other, 1)] == label


def test_what_the_units_name_is_labelled():
    contexts = (PACKAGING / "swtpm.fc").read_text()
    patterns = [re.compile(line.split()[0]) for line in contexts.splitlines() if line.startswith("/")]
    unit = (PACKAGING / "vtpm@.service").read_text()
    for path in {
        *re.findall(r"/usr/libexec/vtpm/\S+", unit),
        "/etc/vtpm.d/vtpm0.toml",
        "/dev/cuse",
        "/dev/vtpm0",
        "/dev/vtpmx",
    }:
        assert any(pattern.fullmatch(path) for pattern in patterns), path
