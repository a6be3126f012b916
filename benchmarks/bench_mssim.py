"""A command's round trip over TCP by tpm2-tss itself: its mssim TCTI, which writes a command in pieces, beside its
swtpm TCTI.

The clients are processes of the distribution's Python with tpm2-pytss, on one processor with the daemon. Without
TCP_NODELAY, which tpm2-tss does not set, each piece waits until the one before is acknowledged: 40 ms, unless the
server does that at once.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "tests", place) for place in ("", "integration")]

from daemon_process import DaemonProcess

DATA, CONTROL, MSSIM = 25310, 25311, 25320
COUNT = 100

CLIENT = """
import sys, time
from tpm2_pytss import ESAPI, TCTILdr
with TCTILdr(*sys.argv[1].split(":")) as tcti, ESAPI(tcti) as esapi:
    for _ in range(int(sys.argv[2])):
        begin = time.perf_counter()
        esapi.get_random(16)
        print((time.perf_counter() - begin) * 1e6)
"""


def measure(tcti):
    """Microseconds of each command, but the first."""
    words = ["/usr/bin/python3", "-c", CLIENT, tcti, str(COUNT)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in told.splitlines()[1:]]


def main():
    if not os.path.isdir("/usr/lib/python3/dist-packages/tpm2_pytss"):
        sys.exit("no tpm2_pytss for /usr/bin/python3: apt-get install python3-tpm2-pytss")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="vtpm-bench-") as directory:
        sockets = f'control = "tcp:{CONTROL}"\ndata = "tcp:{DATA}"\nmssim = "tcp:{MSSIM}"'
        daemon = DaemonProcess(directory, socket_keys=sockets)
        try:
            daemon.start()
            print(f"GetRandom over TCP by tpm2-tss, us: the median and the quartiles of {COUNT - 1} commands")
            for title, tcti in (
                ("mssim", f"mssim:host=127.0.0.1,port={MSSIM}"),
                ("swtpm", f"swtpm:host=127.0.0.1,port={DATA}"),
            ):
                low, middle, high = statistics.quantiles(measure(tcti), n=4)
                print(f"{title:6} {middle:9.1f}  ({low:.1f}-{high:.1f})")
        finally:
            daemon.stop(signal.SIGKILL)


if __name__ == "__main__":
    main()
