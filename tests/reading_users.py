"""A daemon that says as which users it opens the state, which somebody may have put there to take it over."""

#: To be run with python -c: as swtpm_svc.service.vtpmd. The numbers are the real, the effective and the saved user id.
PROGRAM = """
import os, sys
from swtpm_svc.service.vtpmd import main
from swtpm_svc.state.state_directory import StateDirectory
opened = StateDirectory.open
def say(*words, **keys):
    sys.stderr.write("state is read as %s\\n" % " ".join(map(str, sorted(set(os.getresuid())))))
    return opened(*words, **keys)
StateDirectory.open = say
sys.exit(main())
"""
