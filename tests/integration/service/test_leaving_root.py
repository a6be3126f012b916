"""Root becomes another user, for good or for a look: which numbers and groups it has then, and which it has no more.

Each in a process of its own: what is given up for good is gone.
"""

import json
import os
import subprocess
import sys
import tempfile

import pytest

pytestmark = pytest.mark.needs("root", "binding")

NOBODY = 65534
#: Root, in groups of its own, with the folder that is named first among the places of modules.
PRELUDE = """
import json, os, sys
sys.path.append(sys.argv[1])
os.setgroups([0, 4, 44])
def who():
    return [os.getresuid(), os.getresgid(), sorted(os.getgroups())]
def can_be_root():
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True
"""
BECOME = """
from swtpm_svc.service.privileges import Account, become
become(Account("nobody", 65534, 65534))
print(json.dumps([who(), can_be_root()]))
"""
BECOME_THE_OWNER = """
from swtpm_svc.cli.vtpmctl import rekey
rekey._become(os.stat(sys.argv[1]))
print(json.dumps([who(), can_be_root()]))
"""
LOOK = """
from swtpm_svc.service.later import is_readable_by
from swtpm_svc.service.privileges import Account
found = is_readable_by(Account("nobody", 65534, 65534))
print(json.dumps([who(), found]))
"""


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield folder


def run(code, folder):
    done = subprocess.run([sys.executable, "-c", PRELUDE + code, folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("groups", [BECOME, BECOME_THE_OWNER], ids=["the service's user", "the state's owner"])
def test_for_good_there_is_no_way_back_and_no_group_of_roots(folder, groups):
    os.chown(folder, NOBODY, NOBODY)
    (users, others, members), is_root_again = run(groups, folder)
    assert users == others == [NOBODY] * 3
    assert set(members) <= {NOBODY}
    assert not is_root_again


@pytest.mark.parametrize("is_closed", [False, True])
def test_for_a_look_at_the_modules_it_is_root_again(folder, is_closed):
    """With the groups of the user, as it goes on with them."""
    os.chmod(folder, 0o700 if is_closed else 0o755)
    (users, others, members), found = run(LOOK, folder)
    assert users == others == [0] * 3
    assert members == [NOBODY]
    if is_closed:
        assert not found
