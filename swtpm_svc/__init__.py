"""Software TPMs (1.2 and 2.0) as Linux system services."""

__version__ = "0.1.0"
