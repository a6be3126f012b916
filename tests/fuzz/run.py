"""run.py TARGET [-version=2.0|1.2] [libFuzzer's options] : fuzz one of control, data, mssim, cuse, spaces with
atheris.

As in: run.py control -max_total_time=600. Beginning with the seeds; what is found is written to ./crash-*, and can be
given as an argument to be run once more.
"""

import os
import sys
import tempfile

import atheris

sys.path[:0] = [os.path.join(os.path.dirname(__file__), os.pardir, folder) for folder in ("integration", "")]

with atheris.instrument_imports(include=["swtpm_svc"]):
    import targets


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in targets.TARGETS:
        print(__doc__, file=sys.stderr)
        sys.exit(64)
    target, *options = sys.argv[1:]
    version = "1.2" if "-version=1.2" in options else "2.0"
    options = [option for option in options if not option.startswith("-version=")]
    test_one = getattr(targets.TARGETS[target](version), target)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as corpus:
        for number, seed in enumerate(targets.seeds(target, version)):
            with open(os.path.join(corpus, f"seed-{number:03}"), "wb") as file:
                file.write(seed)
        files = [option for option in options if not option.startswith("-")]
        atheris.Setup(
            [sys.argv[0], "-max_len=4200", "-timeout=30", "-rss_limit_mb=1500", *options, *([] if files else [corpus])],
            test_one,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
