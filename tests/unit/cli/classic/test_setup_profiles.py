"""Which profile --profile-name takes, and what --print-profiles shows, from files as an administrator puts them."""

import json

import pytest

from swtpm_svc.cli.classic import setup_options, setup_profiles

LOCAL = '{"Name":"custom:ours","Algorithms":"rsa"}'
DISTRO = '{"Name":"custom:theirs"}'


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The folders of both kinds, on a libtpms that knows profiles."""
    for folder, files in (
        ("local", {"both.json": LOCAL, "notes.txt": DISTRO, "broken.json": "{"}),
        ("distro", {"both.json": DISTRO, "theirs.json": DISTRO}),
    ):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    monkeypatch.setattr(setup_profiles, "_DISTRO", str(tmp_path / "distro"))
    monkeypatch.setattr(setup_profiles, "_has_profiles", lambda: True)
    monkeypatch.setattr(setup_profiles, "_builtin", lambda: [{"Name": "null"}, {"Name": "custom"}])
    return {"local_profiles_dir": str(tmp_path / "local")}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("both", LOCAL),
        ("local:both", LOCAL),
        ("distro:both", DISTRO),
        ("theirs", DISTRO),
        ("null", '{"Name": "null"}'),
        ("custom:mine", '{"Name": "custom:mine"}'),
        ("builtin:null", '{"Name": "null"}'),
    ],
)
def test_a_name_leads_to_a_file_or_to_libtpms(settings, name, chosen):
    assert setup_profiles.choose(setup_options.read(["--tpm2", "--profile-name", name]), settings) == chosen


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("local:theirs", "Could not find or access profile 'local:theirs'."),
        ("distro:none", "Could not find or access profile 'distro:none'."),
        ("builtin:both", "swtpm does not support a profile with name 'both'"),
        ("none", "swtpm does not support a profile with name 'none'"),
        ("../both", "Profile name '../both' contains unacceptable characters."),
    ],
)
def test_a_name_that_leads_nowhere(settings, name, said):
    with pytest.raises(setup_options.SetupError) as refused:
        setup_profiles.choose(setup_options.read(["--tpm2", "--profile-name", name]), settings)
    assert str(refused.value) == said


def test_the_list_shows_what_can_be_chosen(settings):
    """A profile is chosen by its file's name; a file that is not a profile is left out."""
    assert json.loads(setup_profiles.listing(settings, setup_options.read(["--tpm2"]))) == {
        "local": [{"Name": "both", "Algorithms": "rsa"}],
        "distro": [{"Name": "both"}, {"Name": "theirs"}],
        "builtin": [{"Name": "null"}, {"Name": "custom"}],
    }
