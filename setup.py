"""The one thing pyproject.toml cannot say: which cffi module the build compiles."""

from setuptools import setup

setup(cffi_modules=["swtpm_svc/tpm/_build.py:ffibuilder"])
