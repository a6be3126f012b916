"""A TPM whose state was copied: both are told of when both are served."""

import json
import os
import re
import shutil
import subprocess

import pytest
from tpm_commands import STARTUP_CLEAR
from watched_instances import Instance, making

from swtpm_svc.cli.vtpmctl.doctor import examination
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.service.identity import clones


@pytest.fixture(params=["2.0", "1.2"])
def version(request):
    return request.param


@pytest.fixture
def instance(tmp_path):
    with making(Instance, tmp_path) as make:
        yield make


@pytest.fixture
def copies(tmp_path, instance, version, monkeypatch):
    """A TPM that is served, and a copy of its state (cp -a) that is not yet; what systemd would make for them is
    there."""
    monkeypatch.setattr(clones, "DIRECTORY", str(tmp_path / "vtpmkeys"))
    original, copy = instance(version, "one"), instance(version, "two")
    original.start()
    if version == "1.2":
        original.vtpmctl("createek")
    original.daemon.stop()
    shutil.rmtree(copy.daemon.state)
    subprocess.run(["cp", "-a", original.daemon.state, copy.daemon.state], check=True)
    for one in (original, copy):
        os.makedirs(f"{clones.DIRECTORY}/{one.folder.name}")
    return original, copy


def start(one):
    paths = f"{one.folder}:{clones.DIRECTORY}/{one.folder.name}"
    one.daemon.start(environment={"RUNTIME_DIRECTORY": paths})
    return one.daemon.status()["identity"]


def test_a_copy_is_noticed_when_both_are_served(copies, capsys):
    """Also a TPM 2.0 without an endorsement key, by the mark of its storage hierarchy."""
    original, copy = copies
    assert start(original)["clones"] == []
    assert start(copy)["clones"] == ["one"]
    [told] = re.findall("warning: (this TPM is that of one, too: .*)", copy.daemon.log())
    assert "move its state away" in told
    assert "this TPM is that of" not in original.daemon.log()
    capsys.readouterr()
    for one in copies:  # by vtpmctl both are told, whichever was first
        one.vtpmctl("identity")
        assert "served as: one, two, which have the SAME TPM" in capsys.readouterr().out
        one.vtpmctl("identity", "--json")
        assert json.loads(capsys.readouterr().out)["served_as"] == ["one", "two"]
    finding = next(
        one for one in examination.examine(["lab"], Places(config=str(copy.folder))) if one.check == "copies"
    )
    assert (finding.verdict, finding.text.startswith("one, two have the same TPM")) == ("fail", True)


def test_a_copy_is_told_once_and_again_when_there_is_another(copies):
    original, copy = copies
    start(original)
    start(copy)
    subprocess.run(["tpm2_getrandom", "-T", f"swtpm:path={copy.daemon.data}", "4"], capture_output=True, check=False)
    with copy.daemon.connect() as client:  # started once more: asked once more
        client.sendall(STARTUP_CLEAR)
        client.recv(4096)
    assert copy.daemon.status()["identity"]["clones"] == ["one"]
    assert copy.daemon.log().count("this TPM is that of") == 1


def test_a_copy_that_is_alone_is_none(copies):
    """The original has ended, and systemd has removed its directory: the state was moved, or is a spare."""
    original, copy = copies
    start(original)
    original.daemon.stop()
    shutil.rmtree(f"{clones.DIRECTORY}/one")
    assert start(copy)["clones"] == []
    assert "this TPM is that of" not in copy.daemon.log()


def test_without_its_directory_a_daemon_serves_all_the_same(copies):
    original, _copy = copies
    os.rmdir(f"{clones.DIRECTORY}/one")
    assert start(original)["clones"] == []
    assert "this TPM is that of" not in original.daemon.log()
