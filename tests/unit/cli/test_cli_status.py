"""vtpmctl status: what is shown of a system that is healthy, half there, or not there at all.

The daemon is a status socket with the answer that the daemon documents; systemctl is a script on the PATH. The real
ones are in tests/lab.
"""

import json
import os
import socket
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_system import ANSWER

import swtpm_svc
from swtpm_svc.cli.vtpmctl import asking, render, status
from swtpm_svc.cli.vtpmctl.asking import Unit
from swtpm_svc.cli.vtpmctl.condition import Condition, Kind
from swtpm_svc.cli.vtpmctl.status import Node, StateFiles, Status
from swtpm_svc.errors import Code, VtpmError

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
        "vtpm0: serves, TPM ok\n"
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
        "vtpm0: not started\n"
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
        "  problem    vtpm@vtpm0.service failed: it ended (exit-code)\n"
        f"    remedy   see why, {'as root, ' * bool(os.geteuid())}in its journal: journalctl -u vtpm@vtpm0.service; then: systemctl start vtpm@vtpm0.service\n"
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


@pytest.mark.parametrize("name", ["vtpm0.service/", "conf/vtpm0.toml"])
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
    monkeypatch.setattr(asking, "ANSWER_TIME_S", 0.1)
    system.configure("vtpm0")
    Path(system.places.run, "vtpm0").mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{system.places.run}/vtpm0/status")
        deaf.listen()
        result, out, _ = run("status", "vtpm0")
    assert result == 69
    assert "(no answer in time)" in out


def test_an_answer_that_does_not_end(system, run, monkeypatch):
    monkeypatch.setattr(asking, "ANSWER_MAX_BYTES", 1000)
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
        "vtpm0",
        None,
        Unit("vtpm@vtpm0.service", None, "x"),
        node,
        daemon,
        StateFiles({}, None),
        [],
        "0.1.0",
        Condition(Kind.UNKNOWN, "?"),
    )
    assert all(line.isprintable() for line in render.status_text(shown).splitlines())
    json.dumps(render.status_values(shown))


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
        asking.ask_daemon("vtpm0", system.places)
    assert caught.value.code is Code.NOT_PERMITTED
