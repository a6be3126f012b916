"""A remedy of vtpmctl names what is to be typed: the instance, or the path that was given. And typed so, it works."""

import re
import shlex

import pytest
from daemon_process import DaemonProcess

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places

pytestmark = pytest.mark.needs("binding")


@pytest.fixture
def lab(tmp_path):
    daemon = DaemonProcess(tmp_path, "lab").start()
    yield daemon
    daemon.stop()


@pytest.fixture
def run(lab, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> "tuple[int, str]":
        status = entry.main(list(words), Places(config=str(tmp_path)))
        return status, capsys.readouterr().err

    return run


def remedy_of(run, *words: str) -> str:
    status, err = run(*words)
    assert status
    found = re.search(r"^  remedy: (.*)$", err, re.MULTILINE)
    assert found, err
    assert not re.search(r"\bNAME\b|\bTCTI\b|[<>]", found[1])
    return found[1]


def follow(run, remedy: str) -> None:
    command = re.search(r"vtpmctl ([^;]*)", remedy)
    assert command
    assert run(*shlex.split(command[1])) == (0, "")


@pytest.mark.parametrize("way", ["instance", "control", "data"])
def test_a_key_that_is_to_be_made_first(run, lab, way):
    given = {"instance": "lab", "control": lab.control, "data": lab.data}[way]
    remedy = remedy_of(run, "getpubek", given)
    assert remedy.startswith(f"make it: vtpmctl createek {given} --algorithm rsa2048;")
    follow(run, remedy)
    assert run("getpubek", given)[0] == 0


@pytest.mark.parametrize("way", ["instance", "control", "data"])
def test_a_tpm_that_is_to_be_powered_on_first(run, lab, way):
    """A data socket takes no control operation, so that the instance is named that has it."""
    given = {"instance": "lab", "control": lab.control, "data": lab.data}[way]
    assert run("power", "off", "lab")[0] == 0
    remedy = remedy_of(run, "createek", given)
    assert remedy == f"power it on: vtpmctl init {'lab' if way == 'data' else given}"
    follow(run, remedy)
    assert run("createek", given)[0] == 0


def test_a_tpm_that_nobody_has_configured(run, lab, tmp_path):
    run("power", "off", "lab")
    (tmp_path / "lab.toml").rename(tmp_path / "elsewhere")
    assert remedy_of(run, "createek", lab.control) == f"power it on: vtpmctl init {lab.control}"
    assert remedy_of(run, "createek", lab.data) == "power it on: vtpmctl init ITS-CONTROL-SOCKET"


def test_a_tpm_that_is_to_be_started_first(tmp_path, capsys):
    daemon = DaemonProcess(tmp_path, "lab", startup="none").start()
    try:
        assert entry.main(["ek", daemon.data], Places(config=str(tmp_path))) == 69
        assert f"vtpmctl createek {daemon.data} starts it" in capsys.readouterr().err
    finally:
        daemon.stop()
