"""Clients of the FUSE front end: what a program does with the files."""

import os
import pickle
import time
from contextlib import contextmanager, suppress

import pytest

#: The distribution's, with its own pyfuse3.
SYSTEM_PYTHON = "/usr/bin/python3"
OPERATOR, STRANGER = 65531, 65532
NOBODY = 65534  # who has an account, as fusermount3 demands
CONTROL_GROUP, DEVICE_GROUP = 65521, 65522


@contextmanager
def opened(service, name="tpm", flags=os.O_RDWR):
    fd = os.open(service.path(name), flags)
    try:
        yield fd
    finally:
        with suppress(OSError):  # close() too reports that the service is gone
            os.close(fd)


def exchange(fd, command):
    assert os.write(fd, command) == len(command)
    return os.read(fd, 4096)


def fact(service, *names):
    with open(service.path(*names), encoding="ascii") as file:
        return file.read()


def raises(number):
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def as_user(uid, gid, function):
    """What `function` gives, or raises, in a child process with no other rights than these."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            result = function(), None
        except BaseException as error:
            result = None, error
        os.write(writer, pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        result, error = pickle.load(file)
    os.waitpid(child, 0)
    if error is not None:
        raise error
    return result


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
