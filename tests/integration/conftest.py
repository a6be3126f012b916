"""What the integration tests share: this folder on the import path, for cuse_kernel and the like."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
