"""Our programs as another user, who need not be able to read them: a clone may lie where only root can enter."""

import sys

#: USER GROUP MODULE ARGUMENT... : everything of ours is imported, the user changes for good, and the module's main()
#: runs.
_CODE = """
import os, pkgutil, sys
from importlib import import_module
import swtpm_svc
uid, gid, module, *arguments = sys.argv[1:]
for found in pkgutil.walk_packages(swtpm_svc.__path__, "swtpm_svc."):
    if not found.name.endswith("._build"):
        import_module(found.name)
os.setgroups([])
os.setresgid(*[int(gid)] * 3)
os.setresuid(*[int(uid)] * 3)
sys.argv = [module, *arguments]
sys.exit(sys.modules[module].main())
"""


def words(module, uid, gid, *arguments):
    """The command line of `module` with these arguments, for root to start."""
    return [sys.executable, "-c", _CODE, str(uid), str(gid), module, *arguments]
