"""Users and groups that a configuration names."""

from types import SimpleNamespace

import pytest

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

PATH = "/etc/vtpm.d/vtpm0.toml"


def test_accounts_are_looked_up():
    assert (loading.user_id("root"), loading.user_id("1234")) == (0, 1234)
    assert (loading.group_id("root"), loading.group_id("1234")) == (0, 1234)
    for look_up, kind in ((loading.user_id, "user"), (loading.group_id, "group")):
        with pytest.raises(VtpmError) as caught:
            look_up("no-such-account")
        assert (caught.value.code, caught.value.message) == (Code.USER_MISSING, f"there is no {kind} no-such-account")


#: As directories and containers have them: with a domain before or behind, a machine's `$`, 44 characters, in French.
ACCOUNTS = [
    "domain users",
    "CORP\\admins",
    "admins@corp.example",
    "svc$",
    "7zip",
    "a" * 44,
    "équipe",
    "-x",
    "$(id)",
    "1000660000",
]


@pytest.mark.parametrize("name", [*ACCOUNTS, "0", "4294967294"])
def test_any_account_that_a_database_may_know_may_be_named(name):
    text = f"[device]\nowner = '{name}'\ngroup = '{name}'\n[control]\ngroup = '{name}'\n"
    loaded = loading.parse(text, PATH, "vtpm0")
    assert (loaded.device.owner, loaded.device.group, loaded.control.group) == (name, name, name)


@pytest.mark.parametrize("name", ACCOUNTS)
def test_an_account_is_what_the_database_says(monkeypatch, name):
    number = 1000660000
    monkeypatch.setattr("pwd.getpwnam", lambda asked: SimpleNamespace(pw_uid={name: number}[asked]))
    monkeypatch.setattr("grp.getgrnam", lambda asked: SimpleNamespace(gr_gid={name: number}[asked]))
    assert loading.user_id(name) == loading.group_id(name) == number


def test_the_remedy_for_an_unknown_account_can_be_typed():
    with pytest.raises(VtpmError) as caught:
        loading.group_id("domain $(id) users")
    assert caught.value.remedy == (
        "see whether it is known: getent group 'domain $(id) users';"
        " name another, or make it: groupadd --system 'domain $(id) users'"
    )


def test_digits_of_other_scripts_are_a_name():
    """They are not numbers to chown(2), though they are to Python."""
    for text in ("\u00b2", "\u0661"):
        with pytest.raises(VtpmError) as caught:
            loading.group_id(text)
        assert caught.value.code is Code.USER_MISSING
