"""vtpmctl list and check: the instances that there are, and what a configuration says that cannot be."""

import json
import os

import pytest
from made_system import ANSWER

from swtpm_svc.cli.vtpmctl import inventory
from swtpm_svc.config import loading


def test_the_list(system, run):
    system.configure("vtpm0")
    system.configure("vtpm1", '[tpm]\nversion = "1.2"\n[device]\nname = "tpm-old"\n')
    system.configure("wrong", "[tpm]\nversion = 2\n")
    system.unit()
    with system.daemon(ANSWER), system.daemon({"tpm": {"power": "stopped"}}, instance="lonely"):
        result, out, err = run("list")
        whole = json.loads(run("list", "--json")[1])
    as_json = whole["instances"]
    assert whole["schema"] == 1
    assert (result, err) == (0, "")
    assert out == (
        "NAME    TPM  DEVICE        STATE\n"
        "lonely  ?    ?             serves, TPM off\n"
        "vtpm0   2.0  /dev/vtpm0    serves, TPM ok\n"
        "vtpm1   1.2  /dev/tpm-old  does not answer\n"
        "wrong   ?    ?             does not answer\n"
        f"lonely: {system.places.config}/lonely.toml does not exist\n"
        "  remedy: create it; an empty file is a TPM 2.0 at /dev/lonely: touch "
        + system.places.config
        + "/lonely.toml\n"
        f"vtpm1: the service does not answer at {system.places.run}/vtpm1/status (No such file or directory): its "
        "socket is gone, though process 812 runs\n"
        "  remedy: have it made anew; clients do not notice: systemctl restart vtpm@vtpm1.service\n"
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
        "condition": {"kind": "serves", "text": "serves, TPM ok", "tpm": "ok"},
        "error": None,
    }
    assert as_json[3]["error"]["code"] == "config-invalid"


def test_an_empty_list(system, run):
    system.systemctl("echo 'must not be asked' >&2; exit 99")
    assert run("list") == (0, "NAME  TPM  DEVICE  STATE\n", "")
    assert run("list", "--json") == (0, '{\n  "schema": 1,\n  "instances": []\n}\n', "")


def test_no_directory_to_list(system, run):
    os.rmdir(system.places.config)
    result, _, err = run("list")
    assert (result, err.splitlines()[0]) == (78, f"vtpmctl: {system.places.config} does not exist")


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
    (tmp_path / "vtpm9.toml").write_text('[device]\ngroup = "root"\n')
    result, out, _ = run("check", str(tmp_path / "vtpm9.toml"))
    assert (result, 'name = "vtpm9"' in out) == (0, True)
    (tmp_path / "vtpm9.toml").write_text("[tpm\n")
    assert run("check", str(tmp_path / "vtpm9.toml"))[0] == 78


def test_notes_about_what_is_hardly_meant(system, run):
    system.configure(
        "vtpm0",
        '[tpm]\npower-on = "manual"\n[device]\ngroup = "root"\n[control]\ngroup = "no-such-group"\n',
    )
    result, out, _ = run("check", "vtpm0")
    assert result == 0
    assert (
        "# note: there is no group no-such-group: only root and the service's user may use the control operations\n"
        in out
    )
    assert out.count("# note: ") == 1


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
        ('name = "tpm7"', 73, '[device] name: found "tpm7", which is a name for the kernel\'s own TPMs'),
        ('name = "tpmrm0"', 73, '[device] name: found "tpmrm0", which is a name for the kernel\'s own TPMs'),
        ('name = "ttyS77"', 73, '[device] name: found "ttyS77", which is a name for a device of the kernel'),
        ('name = "fd"', 73, '[device] name: found "fd", but there is a /dev/fd'),
    ):
        system.configure("vtpm0", f"{head}{text}\n")
        result, out, err = run("check", "vtpm0")
        assert (result, out) == (status_expected, "")
        assert message in err
        assert "remedy: see what it is: ls -ld " in err or "remedy: write another" in err
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
