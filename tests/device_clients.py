"""Clients of a TPM device, for tests in the labs: one command at a time, and one in a loop."""

import os
import select
import threading
import time


def wait_for(condition, what, timeout_s=60.0, pause_s=0.02):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(pause_s)


class Client:
    """An opener of a TPM device, by the kernel."""

    def __init__(self, device, flags=0):
        self.fd = os.open(device, os.O_RDWR | flags)

    def __call__(self, command):
        os.write(self.fd, command)
        return self.read()

    def read(self, size=4096):
        """Of the response. Who opened it with O_NONBLOCK polls first: short commands wait too, while the TPM is in use."""
        if not os.get_blocking(self.fd):
            assert select.select([self.fd], [], [], 60)[0], "no response within a minute"
        return os.read(self.fd, size)

    def close(self):
        os.close(self.fd)


class Load(threading.Thread):
    """A client in a loop on one open file. `errors` are the errnos that it met: it goes on after each."""

    def __init__(self, device, command, pause_s=0):
        super().__init__(daemon=True)
        self.client, self.command, self.pause_s = Client(device), command, pause_s
        self.answered, self.errors, self.wrong = 0, [], []
        self.done = False

    def run(self):
        while not self.done:
            try:
                response = self.client(self.command)
            except OSError as error:
                self.errors.append(error.errno)
                continue
            if response[6:10] == bytes(4):
                self.answered += 1
            else:
                self.wrong.append(response)
            time.sleep(self.pause_s)

    def proceeds(self):
        before = self.answered
        wait_for(lambda: self.answered > before + 3, "the client to go on")

    def finish(self):
        self.done = True
        self.join(60)
        assert not self.is_alive(), "the client hangs"
        self.client.close()
