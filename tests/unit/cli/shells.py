"""The three shells as a person meets them who presses Tab: what each offers for the last word of a command line."""

import os
import pty
import re
import select
import shlex
import subprocess
import time
from pathlib import Path

COMPLETION = Path(__file__).resolve().parents[3] / "packaging/completion"
WAIT_S = 60.0


class Bash:
    """Calls the function as readline does: it has `=` as a word of its own."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.directory = program, directory

    def __enter__(self) -> "Bash":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def complete(self, *words: str) -> "list[str]":
        script = (
            f"source {shlex.quote(f'{COMPLETION}/bash/{self.program}')}\n"
            'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
            f'_{self.program}; [[ ${{#COMPREPLY[@]}} == 0 ]] || printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        split = [part for word in words for part in (re.split("(=)", word) if "=" in word else [word])]
        done = subprocess.run(
            ["bash", "-u", "-c", script, "bash", self.program, *split],
            env=environment(self.directory),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


class Fish:
    """Asks `complete -C`, which is what Tab does."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.directory = program, directory

    def __enter__(self) -> "Fish":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def complete(self, *words: str) -> "list[str]":
        line = " ".join([self.program, *(shlex.quote(word) for word in words[:-1]), words[-1]])
        script = f"source {shlex.quote(f'{COMPLETION}/fish/{self.program}.fish')}; complete -C {shlex.quote(line)}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            env=environment(self.directory),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split("\t")[0] for line in done.stdout.splitlines()]


#: compadd puts what it is given into the list; here it also tells it. Of -O, -A and -D the caller uses the result itself.
ZSH = r"""
PROMPT=
unsetopt prompt_cr prompt_sp
fpath=(@FOLDER@ $fpath)
autoload -Uz compinit
compinit -u -D
zstyle ':completion:*' insert-tab false
compadd () {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return $?; fi
    local -a hits
    builtin compadd -A hits "$@"
    local hit
    for hit in $hits; do print -r -- "offer:$IPREFIX$hit"; done
    return $(( $#hits == 0 ))
}
opened () { print -r -- begin:; compprefuncs=(opened) }
closed () { print -r -- end:; compstate[insert]=; compstate[list]=; comppostfuncs=(closed) }
compprefuncs=(opened) # they are forgotten when they were called
comppostfuncs=(closed)
bindkey '^I' complete-word
bindkey '^U' kill-buffer
print -r -- rea''dy:
"""


class Zsh:
    """Types into an interactive shell at a terminal, and presses Tab."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.directory = program, directory

    def __enter__(self) -> "Zsh":
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment(self.directory), "TERM": "dumb", "COLUMNS": "1000"},
            cwd=self.directory,
            start_new_session=True,
        )
        os.close(slave)
        self.setup = self.directory.parent / "setup.zsh"
        self.setup.write_text(ZSH.replace("@FOLDER@", shlex.quote(str(COMPLETION / "zsh"))))
        os.write(self.master, f"source {shlex.quote(str(self.setup))}\n".encode())
        self.until("ready:")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def until(self, mark: str) -> str:
        text, deadline = "", time.monotonic() + WAIT_S
        while mark not in text:
            assert select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0], text
            text += os.read(self.master, 65536).decode(errors="replace")
        return text

    def complete(self, *words: str) -> "list[str]":
        line = " ".join([self.program, *(shlex.quote(word) for word in words[:-1]), words[-1]])
        os.write(self.master, f"\x15{line}\t".encode())
        text = self.until("end:").rpartition("begin:")[2]
        return [line[len("offer:") :] for line in re.split(r"\s*[\r\n]+", text) if line.startswith("offer:")]


SHELLS = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def environment(directory: Path) -> "dict[str, str]":
    home = directory.parent / "home"
    home.mkdir(exist_ok=True)
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "HOME": str(home), "VTPM_CONFIG_DIRECTORY": str(directory), "LC_ALL": "C.UTF-8"}
