"""A TPM behind the FUSE front end in a process of its own: run as a program it serves, imported it starts that program.

A client in the serving process could wait for itself. The program takes a JSON object as its argument, says "ready" or
"failed: ..." on its standard output, and there what it heard of, one JSON list a line.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def tell(*words):
    print(json.dumps(words), flush=True)


class Told:
    """What the front end tells the service, told on."""

    def refused(self, caller, error):
        tell("refused", caller.uid, error.code.value)

    def executed(self, caller, command, response):
        pass

    def controlled(self, caller, request, result):
        tell("controlled", caller.uid, type(request).__name__, result)

    def failed(self, error):
        tell("failed", error.code.value, error.message)


def serve(directory, version="2.0", power=True, startup="clear", fd=None, uid=None, **access):
    from tpm_service import Service

    import swtpm_svc.frontends.fuse.shown_files  # noqa: F401 - now, as what follows may not be readable for `uid`
    from swtpm_svc.errors import VtpmError
    from swtpm_svc.frontends.fuse.fuse_frontend import FuseFrontend
    from swtpm_svc.service.loop import Loop
    from swtpm_svc.tpm.controller import Rights

    def rights(caller):
        control = caller.uid in (0, os.geteuid()) or caller.gid == access["control_group"]
        return Rights(control=control, secrets=caller.uid == 0)

    signal.alarm(300)  # clients of a service that hangs cannot be killed: they hang with it, and so would the tests
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    with Loop() as loop:
        service = Service(version, post=loop.post, rights=rights, events=Told(), on_shutdown=loop.stop)
        if power:
            service.start(startup)
        loop.on_signal(signal.SIGTERM, loop.stop)
        loop.on_signal(signal.SIGUSR1, lambda: time.sleep(0.5))  # keep the serving thread busy

        def describe():
            return {"version": version, "fuse": frontend.describe(), "commands": service.dispatcher.commands}

        frontend = FuseFrontend(loop, service.dispatcher, describe, **access)
        try:
            frontend.open(directory, fd)
        except VtpmError as error:
            tell("refusal", error.code.value, error.message, error.remedy)
            return 1
        tell("ready")
        try:
            loop.run()
        finally:
            frontend.close()
            frontend.close()
        while service.executor.busy:
            service.executor.join()
            loop.run_posted()
        service.close()
    return 0


class FuseService:
    """Starts the program; `close` ends it and takes its mount away, whatever has happened.

    `refusal` is [code, message, remedy] when it could not serve.
    """

    def __init__(self, directory, *, python=sys.executable, fd=None, **options):
        self.directory = str(directory)
        access = {"owner": os.geteuid(), "group": os.getegid(), "mode": 0o660, "control_group": None}
        options = {"directory": self.directory, "fd": fd, **access, **options}
        environment = dict(os.environ, PYTHONPATH=ROOT)
        self.process = subprocess.Popen(
            [python, __file__, json.dumps(options)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[] if fd is None else [fd],
        )
        first = json.loads(self.process.stdout.readline() or "null")
        self._heard = []
        # all the time: a service whose words nobody takes would stop, and its clients with it
        self._listener = threading.Thread(target=lambda: self._heard.extend(map(json.loads, self.process.stdout)))
        self._listener.start()
        self.refusal = None
        if first != ["ready"]:
            self.process.wait(30)
            assert first, "the service ended without a word"
            self.refusal = first[1:]

    def path(self, *names):
        return "/".join([self.directory, *names])

    def stop(self, number=signal.SIGTERM, timeout_s=30):
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def heard(self):
        """What it told, once it has ended."""
        self._listener.join(10)
        return self._heard

    def close(self):
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.stop(timeout_s=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        finally:
            self._listener.join(10)
            self.process.stdout.close()
            while is_mounted(self.directory):
                command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
                subprocess.run([*command, self.directory], check=True)


def is_mounted(directory):
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return any(line.split(" ")[4] == str(directory) for line in file)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(serve(**json.loads(sys.argv[1])))
