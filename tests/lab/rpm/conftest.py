"""Where the package's tests find their helpers: systemd and the commands of an administrator are those of
tests/lab/vm."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))
