"""vtpmctl list, status and check: what is shown of a system that is healthy, half there, or not there at all.

The daemon is a status socket with the answer that the daemon documents; systemctl is a script on the PATH. The real
ones are in tests/lab.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swtpm_svc
from swtpm_svc.cli.vtpmctl import entry, inventory, render, status
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import Node, StateFiles, Status, Unit
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

ANSWER: "dict[str, Any]" = {
    "instance": "vtpm0",
    "version": swtpm_svc.__version__,
    "pid": 812,
    "tpm": {"version": "2.0", "power": "running", "locality": 0, "buffer_size": 4096, "pcr_banks": ["sha1", "sha256"]},
    "device": {"path": "/dev/null", "major": 1, "minor": 3},
    "state": {"directory": "/var/lib/vtpm/vtpm0", "generation": "1700000000.000000001", "bytes": {"permall": 5821}},
    "openers": [
        {"handle": 2, "pid": 900, "uid": 0, "pending": True},
        {"handle": 4, "pid": 901, "uid": 4242, "pending": False},
    ],
    "opener_count": 3,
    "commands": 17,
    "restarts": 2,
    "started": 1700000000.5,
    "last_error": {"time": 1700000001.0, "code": "state-full", "message": "no room"},
}

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}


class System:
    """A system of a test's own: configurations, run directory, systemctl."""

    def __init__(self, root: Path) -> None:
        self.places = Places(str(root / "config"), str(root / "run"), str(root / "sys"))
        for directory in self.places:
            os.mkdir(directory)
        self.bin = root / "bin"
        self.bin.mkdir()
        self.systemctl("echo 'System has not been booted with systemd' >&2; exit 1")

    def configure(self, name: str, text: str = '[device]\ngroup = "root"\n') -> None:
        Path(self.places.config, f"{name}.toml").write_text(text)

    def systemctl(self, script: str) -> None:
        file = self.bin / "systemctl"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def unit(self, **properties: str) -> None:
        lines = "".join(f"echo '{key}={value}'\n" for key, value in {**ACTIVE, **properties}.items())
        self.systemctl(f'while [ "$1" != -- ]; do shift; done; shift; for unit; do echo "Id=$unit"; {lines} echo; done')

    @contextmanager
    def daemon(self, answer: object, instance: str = "vtpm0") -> Iterator[None]:
        """`answer`: JSON for whoever connects, or raw bytes."""
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        Path(self.places.run, instance).mkdir()
        path = f"{self.places.run}/{instance}/status"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                while True:
                    try:
                        client = listener.accept()[0]
                    except OSError:
                        return
                    with client:
                        client.sendall(content)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                os.unlink(path)
                os.rmdir(os.path.dirname(path))


@pytest.fixture
def system(tmp_path, monkeypatch) -> System:
    made = System(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("TZ", "UTC")
    return made


@pytest.fixture
def run(system, capsys):
    def run(*arguments: str) -> "tuple[int, str, str]":
        return (entry.main(list(arguments), system.places), *capsys.readouterr())

    return run


# --- status ----------------------------------------------------------------------------------------------------------


FAILURE = {"code": "state-full", "message": "no room", "remedy": "make room", "since": 1700000001.0, "heals": True}


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (FAILURE, ["the TPM has failed: no room", "make room; it then goes on by itself, with its PCRs and sessions"]),
        ({**FAILURE, "heals": False, "remedy": "reset it"}, ["the TPM has failed: no room", "    remedy   reset it\n"]),
        ({**FAILURE, "message": "a\nb\x1b[m"}, ["the TPM has failed: a?b?[m"]),
        ({}, ["the TPM has failed: the daemon does not say why"]),
        (None, ["the TPM has failed: the daemon does not say why"]),
        ([7], ["the TPM has failed: the daemon does not say why"]),
    ],
)
def test_a_tpm_that_has_failed_is_a_problem(system, run, failure, words):
    system.configure("vtpm0", '[device]\ngroup = "root"\nmode = "0666"\n')
    system.unit()
    tpm = {**ANSWER["tpm"], "power": "failed", "failure": failure, "healed": 3}
    with system.daemon({**ANSWER, "tpm": tpm}):
        result, out, _err = run("status", "vtpm0")
        assert run("--json", "status", "vtpm0")[0] == result
        assert "failed" in run("list")[1]
    assert result == 70
    assert all(word in out + "\n" for word in words), out
    assert "power failed" in out
    assert "has failed and gone on 3 times" in out


def test_a_disk_that_does_not_answer_is_shown(system, run):
    system.configure("vtpm0", '[device]\ngroup = "root"\nmode = "0666"\n')
    with system.daemon({**ANSWER, "state": {**ANSWER["state"], "stalled": True}}):
        assert "; the storage does not answer" in run("status", "vtpm0")[1]


def test_everything_about_an_instance_that_is_served(system, run):
    system.configure("vtpm0", '[device]\ngroup = "root"\nmode = "0666"\n')
    system.unit(StatusText="TPM 2.0 at /dev/vtpm0, running", NRestarts="1")
    with system.daemon(ANSWER):
        result, out, err = run("status", "vtpm0")
    assert (result, err) == (0, "")
    assert out == (
        "vtpm0\n"
        "  unit       vtpm@vtpm0.service: active (running), restarted 1 times: TPM 2.0 at /dev/vtpm0, running\n"
        "  device     /dev/null root:root 0666, number 1:3\n"
        "  TPM        2.0, power running, locality 0, buffer 4096 bytes\n"
        "  PCR banks  sha1, sha256\n"
        "  state      /var/lib/vtpm/vtpm0: permall 5821 bytes, generation of 2023-11-14 22:13:20\n"
        f"  daemon     vtpmd {swtpm_svc.__version__}, process 812, since 2023-11-14 22:13:20, "
        "17 commands, 2 restarts unseen by clients\n"
        "  openers    process 900 of root (a response waits), process 901 of 4242, and 1 more\n"
        "  last error 2023-11-14 22:13:21 state-full: no room\n"
    )


def test_an_instance_without_a_device_is_shown_by_its_other_ways_in(system, run):
    files = "/run/vtpm/vtpm0/fs"
    others = {
        "device": None,
        "kernel_tpm": "/dev/tpm3",
        "fuse": {"path": files, "openers": 2},
        "listening": ["/run/vtpm/vtpm0/ctrl.sock", "tcp:127.0.0.1:2321"],
        "connections": 4,
    }
    system.configure("vtpm0", "[device]\nenabled = false\n")
    system.unit()
    with system.daemon({**ANSWER, **others}):
        result, out, err = run("status", "vtpm0")
    assert (result, err) == (0, "")
    assert "  device  " not in out
    assert out.splitlines()[2:5] == [
        "  kernel     /dev/tpm3",
        f"  files      {files}: 2 openers",
        "  sockets    /run/vtpm/vtpm0/ctrl.sock, tcp:127.0.0.1:2321: 4 connections",
    ]
    assert " - " in run("list")[1].splitlines()[1], "no device"
    # down, there is nothing to miss either
    assert "does not exist" not in run("status", "vtpm0")[1]


def test_the_same_as_json(system, run):
    system.configure("vtpm0", '[device]\ngroup = "root"\nmode = "0666"\n')
    system.unit()
    with system.daemon(ANSWER):
        result, out, _ = run("status", "vtpm0", "--json")
    found = json.loads(out)
    assert result == 0
    assert found["daemon"] == ANSWER
    assert found["unit"]["properties"]["ActiveState"] == "active"
    assert found["device"] == {
        "path": "/dev/null",
        "exists": True,
        "served": False,
        "owner": "root",
        "group": "root",
        "mode": "0666",
        "major": 1,
        "minor": 3,
    }
    assert found["config"]["device"]["mode"] == "0666"
    assert found["problems"] == []


@pytest.mark.parametrize(
    ("installed", "running", "line"),
    [
        (
            "0.10.0",
            "0.9.1",
            "  installed  0.10.0, a newer version than the one that runs: systemctl restart vtpm@vtpm0.service takes "
            "it over",
        ),
        (
            "0.1.0",
            "0.2.0",
            "  installed  0.1.0, another version than the one that runs: systemctl restart vtpm@vtpm0.service takes it "
            "over",
        ),
        ("0.1.0", "0.1.0", None),
        (
            "0.1.0",
            "\x1b[31m",
            "  installed  0.1.0, another version than the one that runs: systemctl restart vtpm@vtpm0.service takes it "
            "over",
        ),
        ("0.1.0", ["0.2.0"], None),
    ],
)
def test_a_version_that_is_installed_but_does_not_run_yet(system, run, monkeypatch, installed, running, line):
    monkeypatch.setattr("swtpm_svc.__version__", installed)
    system.configure("vtpm0", '[device]\ngroup = "root"\nmode = "0666"\n')
    system.unit()
    with system.daemon({**ANSWER, "version": running}):
        result, out, _ = run("status", "vtpm0")
        found = json.loads(run("status", "vtpm0", "--json")[1])
    assert result == 0, "a restart that is still to be done is not a fault"
    assert [text for text in out.splitlines() if text.startswith("  installed")] == ([line] if line else [])
    assert (found["installed"], found["restart_pending"]) == (installed, line is not None)


def test_a_daemon_that_is_down_has_no_restart_to_wait_for(system, run):
    system.configure("vtpm0")
    system.unit(ActiveState="inactive", SubState="dead")
    assert json.loads(run("status", "vtpm0", "--json")[1])["restart_pending"] is False


def test_a_node_that_udev_has_not_dressed(system, run):
    system.configure("vtpm0")
    system.unit()
    with system.daemon(ANSWER):
        result, out, _ = run("status", "vtpm0")
    assert result == 75
    assert "  problem    /dev/null is root:root 0666, the configuration says root:root 0660\n" in out
    assert "    remedy   check that 70-vtpm.rules is installed, then: udevadm trigger /dev/null\n" in out


def test_a_service_that_is_not_started(system, run, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "tpm2-00.permall").write_bytes(bytes(100))
    os.utime(state / "tpm2-00.permall", (1700000000, 1700000000))
    system.configure("vtpm0", f'[device]\nname = "vtpm-none"\n[state]\ndirectory = "{state}"\n')
    system.unit(ActiveState="inactive", SubState="dead")
    result, out, _ = run("status", "vtpm0")
    assert result == 69
    assert out == (
        "vtpm0\n"
        "  unit       vtpm@vtpm0.service: inactive (dead)\n"
        "  device     /dev/vtpm-none: no such device\n"
        "  TPM        2.0, not served\n"
        f"  state      {state}: permall 100 bytes, generation of 2023-11-14 22:13:20\n"
        "  problem    vtpm@vtpm0.service is not started\n"
        "    remedy   start it: systemctl start vtpm@vtpm0.service\n"
    )


def test_a_service_that_failed(system, run):
    system.configure("vtpm0")
    system.unit(ActiveState="failed", SubState="failed", Result="exit-code")
    result, out, _ = run("status", "vtpm0")
    assert result == 69
    assert "vtpm@vtpm0.service: failed (failed), result exit-code\n" in out
    assert (
        "  problem    vtpm@vtpm0.service failed (exit-code)\n    remedy   see why: journalctl -u vtpm@vtpm0.service;"
        in out
    )


def test_a_machine_without_systemd(system, run):
    system.configure("vtpm0")
    result, out, _ = run("status", "vtpm0")
    assert result == 69
    assert "  unit       vtpm@vtpm0.service: not known (System has not been booted with systemd)\n" in out
    assert f"the service does not answer at {system.places.run}/vtpm0/status (No such file or directory)" in out


def test_a_machine_without_systemctl(system, run, monkeypatch):
    system.configure("vtpm0")
    monkeypatch.setenv("PATH", str(system.places.run))
    assert "not known (systemctl is not installed)" in run("status", "vtpm0")[1]


def test_a_unit_that_is_not_installed(system, run):
    system.configure("vtpm0")
    system.unit(LoadState="not-found", ActiveState="inactive", SubState="dead")
    _, out, _ = run("status", "vtpm0")
    assert "  unit       vtpm@vtpm0.service: not-found\n" in out
    file = f"{system.places.config}/vtpm0.toml"
    assert f"    remedy   install the unit vtpm@.service, or run vtpmd --config {file} --foreground\n" in out


def test_a_wrong_configuration_under_a_running_daemon(system, run):
    system.configure("vtpm0", "[tpm]\nversion = 2.0\n")
    system.unit()
    with system.daemon(ANSWER):
        result, out, _ = run("status", "vtpm0")
    assert result == 78
    assert "  TPM        2.0, power running" in out
    assert '[tpm] version: found the float 2.0, expected "1.2" or "2.0"\n' in out


def test_an_instance_that_runs_without_a_configuration_of_its_name(system, run):
    with system.daemon(ANSWER):
        result, out, _ = run("status", "vtpm0")
    assert result == 78
    assert "  TPM        2.0, power running" in out


def test_a_path_that_is_an_instances_own_does_for_its_name(system, run):
    system.configure("vtpm0", '[device]\nname = "tpm-of-mine"\ngroup = "root"\n[socket]\ndata = "/run/mine.sock"\n')
    named = run("status", "vtpm0")
    for path in ("/dev/tpm-of-mine", "/run/mine.sock", "/run/vtpm/vtpm0/ctrl.sock", "/var/lib/vtpm/vtpm0"):
        assert run("status", path) == named
    result, out, err = run("status", "/dev/vtpm0")
    assert (result, out) == (64, "")
    assert err == (
        f"vtpmctl: no configuration in {system.places.config} has /dev/vtpm0\n"
        "  remedy: name an instance: vtpmctl list has them, with their devices\n"
    )


@pytest.mark.parametrize("name", ["vtpm@vtpm0.service", "vtpm@vtpm0", "vtpm0.service/", "conf/vtpm0.toml"])
def test_what_belongs_to_an_instance_is_no_name_of_another(run, name):
    result, _, err = run("status", name)
    assert (result, "perhaps vtpm0: vtpmctl list" in err) == (64, True)


def test_an_instance_that_is_nowhere(system, run):
    result, out, err = run("status", "vtpm0")
    assert (result, out) == (78, "")
    assert err == (
        f"vtpmctl: {system.places.config}/vtpm0.toml does not exist\n"
        "  remedy: see those that there are: vtpmctl list; or make it: vtpmctl create vtpm0\n"
    )


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100000])
def test_an_answer_that_is_none(system, run, answer):
    system.configure("vtpm0")
    with system.daemon(answer):
        result, out, _ = run("status", "vtpm0")
    assert result == 76
    assert "gave no JSON" in out


def test_an_answer_that_does_not_come(system, run, monkeypatch):
    monkeypatch.setattr(status, "ANSWER_TIME_S", 0.1)
    system.configure("vtpm0")
    Path(system.places.run, "vtpm0").mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{system.places.run}/vtpm0/status")
        deaf.listen()
        result, out, _ = run("status", "vtpm0")
    assert result == 69
    assert "(no answer in time)" in out


def test_an_answer_that_does_not_end(system, run, monkeypatch):
    monkeypatch.setattr(status, "ANSWER_MAX_BYTES", 1000)
    system.configure("vtpm0")
    with system.daemon(b" " * 2000):
        assert run("status", "vtpm0")[0] == 69


def test_control_characters_do_not_reach_the_terminal(system, run):
    system.configure("vtpm0")
    answer = {**ANSWER, "last_error": {"time": 0, "code": "x", "message": "\x1b[31mred\nline"}}
    with system.daemon(answer):
        _, out, _ = run("status", "vtpm0")
    assert "x: \\x1b[31mred\\nline\n" in out


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "tpm",
                        "device",
                        "path",
                        "state",
                        "bytes",
                        "openers",
                        "opener_count",
                        "last_error",
                        "pid",
                        "uid",
                        "started",
                        "version",
                    ]
                )
                | st.text(max_size=5),
                inner,
                max_size=8,
            )
        ),
        max_leaves=30,
    )
)
def test_any_answer_can_be_shown(answer):
    daemon = (
        answer
        if isinstance(answer, dict)
        else {"tpm": answer, "state": answer, "openers": answer, "last_error": answer}
    )
    node = Node(status._device_path("vtpm0", None, daemon), exists=False, served=False)
    shown = Status(
        "vtpm0", None, Unit("vtpm@vtpm0.service", None, "x"), node, daemon, StateFiles({}, None), [], "0.1.0"
    )
    assert all(line.isprintable() for line in render.status_text(shown).splitlines())
    json.dumps(render.status_values(shown))


# --- list ------------------------------------------------------------------------------------------------------------


def test_the_list(system, run):
    system.configure("vtpm0")
    system.configure("vtpm1", '[tpm]\nversion = "1.2"\n[device]\nname = "tpm-old"\n')
    system.configure("wrong", "[tpm]\nversion = 2\n")
    system.unit()
    with system.daemon(ANSWER), system.daemon({"tpm": {"power": "stopped"}}, instance="lonely"):
        result, out, err = run("list")
        as_json = json.loads(run("list", "--json")[1])
    assert (result, err) == (0, "")
    assert out == (
        "NAME    TPM  DEVICE        UNIT    POWER\n"
        "lonely  ?    ?             active  stopped\n"
        "vtpm0   2.0  /dev/vtpm0    active  running\n"
        "vtpm1   1.2  /dev/tpm-old  active  -\n"
        "wrong   ?    ?             active  -\n"
        f"lonely: {system.places.config}/lonely.toml does not exist\n"
        "  remedy: create it; an empty file is a TPM 2.0 at /dev/lonely: touch "
        + system.places.config
        + "/lonely.toml\n"
        f'wrong: {system.places.config}/wrong.toml: [tpm] version: found the integer 2, expected "1.2" or "2.0"\n'
        '  remedy: write for example: version = "2.0"\n'
    )
    assert [entry["instance"] for entry in as_json] == ["lonely", "vtpm0", "vtpm1", "wrong"]
    assert as_json[1] == {
        "instance": "vtpm0",
        "version": "2.0",
        "device": "/dev/vtpm0",
        "active": "active",
        "power": "running",
        "error": None,
    }
    assert as_json[3]["error"]["code"] == "config-invalid"


def test_an_empty_list(system, run):
    system.systemctl("echo 'must not be asked' >&2; exit 99")
    assert run("list") == (0, "NAME  TPM  DEVICE  UNIT  POWER\n", "")
    assert run("list", "--json") == (0, "[]\n", "")


def test_no_directory_to_list(system, run):
    os.rmdir(system.places.config)
    result, _, err = run("list")
    assert (result, err.splitlines()[0]) == (78, f"vtpmctl: {system.places.config} does not exist")


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_good_configuration_is_shown_whole(system, run):
    system.configure("vtpm0")
    result, out, err = run("check", "vtpm0")
    assert (result, err) == (0, "")
    assert out.startswith(
        f"# {system.places.config}/vtpm0.toml is good; these values are in force, defaults included\n"
    )
    assert loading.parse(out, f"{system.places.config}/vtpm0.toml", "vtpm0") == loading.load(
        f"{system.places.config}/vtpm0.toml", "vtpm0"
    )
    as_json = json.loads(run("check", "vtpm0", "--json")[1])
    assert as_json["config"]["device"]["mode"] == "0660"


def test_a_file_is_checked_wherever_it_is(system, run, tmp_path):
    (tmp_path / "tpm9.toml").write_text('[device]\ngroup = "root"\n')
    result, out, _ = run("check", str(tmp_path / "tpm9.toml"))
    assert (result, 'name = "tpm9"' in out) == (0, True)
    (tmp_path / "tpm9.toml").write_text("[tpm\n")
    assert run("check", str(tmp_path / "tpm9.toml"))[0] == 78


def test_notes_about_what_is_hardly_meant(system, run):
    system.configure(
        "vtpm0",
        '[tpm]\npower-on = "manual"\nstartup = "clear"\n[device]\ngroup = "root"\n[control]\ngroup = "no-such-group"\n',
    )
    result, out, _ = run("check", "vtpm0")
    assert result == 0
    assert (
        "# note: there is no group no-such-group: only root and the service's user may use the control operations\n"
        in out
    )
    assert '# note: startup = "clear" has no effect with power-on = "manual"\n' in out


@pytest.mark.parametrize(
    ("text", "status_expected", "message"),
    [
        ('[device]\ngroup = "no-such-group"\n', 67, "there is no group no-such-group"),
        ('[device]\nowner = "no-such-user"\n', 67, "there is no user no-such-user"),
        ('[device]\ngroup = "root"\nname = "shared"\n', 73, '[device] name: found "shared", which '),
        (
            '[device]\ngroup = "root"\n[state]\ndirectory = "/srv/shared"\n',
            75,
            '[state] directory: found "/srv/shared", which ',
        ),
    ],
)
def test_what_a_configuration_names_is_checked_too(system, run, text, status_expected, message):
    system.configure("other", '[device]\nname = "shared"\n[state]\ndirectory = "/srv/shared/"\n')
    system.configure("broken", "[[[")
    system.configure("vtpm0", text)
    result, out, err = run("check", "vtpm0")
    assert (result, out) == (status_expected, "")
    assert message in err


def test_what_is_in_the_place_of_something(system, run, tmp_path):
    """All of this was called good, and failed at the start."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    head = '[device]\ngroup = "root"\n'
    for text, status_expected, message in (
        (
            f'[state]\ndirectory = "{tmp_path}/file"',
            66,
            f'[state] directory: found "{tmp_path}/file", which is not a directory',
        ),
        (f'[fuse]\nenabled = true\ndirectory = "{tmp_path}/file"', 73, "[fuse] directory: found"),
        (f'[socket]\ndata = "{tmp_path}/file"', 75, f'[socket] data: found "{tmp_path}/file", which is not a socket'),
        (f'[socket]\ndata = "{tmp_path}/folder"', 75, "which is not a socket"),
        (f'[provision]\nenabled = true\nca = "{tmp_path}/file"', 65, "[provision] ca: found"),
        ('name = "null"', 73, '[device] name: found "null", but there is a /dev/null, which is not ours'),
        ('name = "fd"', 73, '[device] name: found "fd", but there is a /dev/fd'),
    ):
        system.configure("vtpm0", f"{head}{text}\n")
        result, out, err = run("check", "vtpm0")
        assert (result, out) == (status_expected, "")
        assert message in err
        assert "remedy: see what it is: ls -ld " in err
    os.mkdir(f"{system.places.sysfs}/null")  # a device of CUSE: it may be this instance's own
    system.configure("vtpm0", f'{head}name = "null"\n')
    assert run("check", "vtpm0")[0] == 0


def test_a_state_directory_that_is_not_mounted_is_said(system, run, tmp_path):
    system.configure("vtpm0", f'[device]\ngroup = "root"\n[state]\ndirectory = "{tmp_path}/none"\n')
    result, out, _ = run("check", "vtpm0")
    assert (
        result,
        f"# note: there is no {tmp_path}/none: mount what belongs there, or make it: install -d " in out,
    ) == (0, True)


def test_links_do_not_hide_that_two_share_a_place(system, run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    system.configure("other", f'[state]\ndirectory = "{tmp_path}/state"\n')
    system.configure("vtpm0", f'[device]\ngroup = "root"\n[state]\ndirectory = "{tmp_path}/link"\n')
    assert run("check", "vtpm0")[0] == 75


def test_two_with_one_number(system, run):
    for name in ("other", "vtpm0"):
        system.configure(name, '[device]\ngroup = "root"\nmajor = 240\nminor = 7\n')
    result, _, err = run("check", "vtpm0")
    assert (result, "[device] major, minor: found 240 and 7, which " in err) == (73, True)
    system.configure("other", "[device]\nmajor = 240\nminor = 8\n")
    assert run("check", "vtpm0")[0] == 0


def test_an_instance_does_not_clash_with_itself(system):
    system.configure("vtpm0")
    loaded, _ = inventory.check("vtpm0", system.places)
    assert loaded.instance == "vtpm0"


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_node_is_a_character_device(system, tmp_path):
    (tmp_path / "file").touch()
    for path in (str(tmp_path / "file"), str(tmp_path / "none")):
        assert not status.look_at_node(path, system.places).exists
    os.mkdir(f"{system.places.sysfs}/vtpm0")
    assert status.look_at_node("/dev/vtpm0", system.places).served


def test_no_right_to_ask(system, monkeypatch):
    def refuse(*_arguments: object) -> Optional[object]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(VtpmError) as caught:
        status.ask_daemon("vtpm0", system.places)
    assert caught.value.code is Code.NOT_PERMITTED
