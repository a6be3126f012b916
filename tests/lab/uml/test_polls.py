"""Who polls while the daemon is killed and started again: the kernel asks the successor only when it is told to."""

import errno
import os
import select
import threading
import time

import pytest
from device_clients import Client
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")


def test_who_polls_over_a_kill_is_woken_and_learns_that_nothing_comes(tpm2):
    client = Client(tpm2.device, os.O_NONBLOCK)
    poll, events = select.poll(), []
    poll.register(client.fd, select.POLLIN)
    thread = threading.Thread(target=lambda: events.extend(poll.poll(20_000)), daemon=True)
    thread.start()
    time.sleep(0.5)  # it waits in the kernel
    tpm2.kill()
    tpm2.start()
    began = time.monotonic()
    thread.join(25)
    assert time.monotonic() - began < 10
    assert events
    assert events[0][1] & select.POLLIN
    with pytest.raises(OSError, match=r".") as caught:
        os.read(client.fd, 4096)
    assert caught.value.errno == errno.EIO
    assert len(client(GET_RANDOM)) == 20
    client.close()
