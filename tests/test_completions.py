"""Completion, asked of the shells themselves: their answers, and whole lines typed at a terminal."""

import fcntl
import os
import pathlib
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT, command

from avtools.manual import walk

SCRIPTS = {"bash": "avtools", "zsh": "_avtools", "fish": "avtools.fish"}
HEAVY = {"av", "jsonlines", "numpy", "pandas", "pyarrow", "soundfile", "soxr", "torch", "tqdm", "transformers", "diffusers"}
NAMES = ["a.csv", "b.mp4", "c.txt", "with space.csv", "quo'te\".csv", "x:y.csv", "LOUD.MP4", "ünï.csv", "$HOME.csv", "odd*.csv", "-dash.csv", "dir/in.csv", ".hidden.csv"]


@pytest.fixture(params=SCRIPTS)
def shell(request):
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    folder = tmp_path / "work"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "bin").mkdir()
    # the program, but that it says what it was called with instead of doing it
    program = tmp_path / "bin" / "avtools"
    program.write_text(f"""#!/bin/sh
[ "$_AVTOOLS_COMPLETE" ] && exec {shlex.join(command())} "$@"
printf 'called:'; printf '<%s>' "$@"; echo ' ;'
""")
    program.chmod(0o755)
    return folder


def environment(folder: pathlib.Path) -> dict[str, str]:
    home = folder.parent / "home"
    (home / "clips").mkdir(parents=True, exist_ok=True)
    (home / "clips" / "one.mp4").touch()
    own = {"HOME": home, "ZDOTDIR": home, "XDG_CONFIG_HOME": home / "config", "XDG_DATA_HOME": home / "data", "XDG_CACHE_HOME": home / "cache"}
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, **{name: str(value) for name, value in own.items()}, "PATH": path, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


BASH = r"""
compopt() { :; }
. "$SCRIPT"
COMP_LINE=$LINE COMP_POINT=${#LINE}
read -ra COMP_WORDS <<<"$LINE"
[[ $LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_avtools avtools "${COMP_WORDS[COMP_CWORD]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
ZSH = r"""
compdef() { :; }
_describe() { print -rl -- "${(@)${(P@)@[-1]}%%:*}"; }
_files() { setopt localoptions extendedglob nullglob; print -rl -- *(-/); [[ $1 == -g ]] && print -rl -- ${~2}; }
. "$SCRIPT"
words=("${(z)LINE}"); [[ $LINE == *' ' ]] && words+=('')
CURRENT=$#words PREFIX=$words[-1]
_avtools
"""
FISH = 'source "$SCRIPT"; complete -C "$LINE"'


def offers(shell: str, line: str, folder: pathlib.Path) -> list[str]:
    """What the shell offers where the line ends."""
    script = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
    start = {"bash": ["bash", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}[shell]
    env = {**environment(folder), "SCRIPT": str(ROOT / "completions" / SCRIPTS[shell]), "LINE": line}
    done = subprocess.run([*start, "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert not done.stderr
    return [offer.split("\t")[0].rstrip("/") for offer in done.stdout.splitlines() if offer]


@pytest.mark.parametrize(
    "line, expected",
    {
        "avtools pro": ["probe"],
        "avtools mkmeta sc": ["scan"],
        "avtools probe --fm": ["--fmin", "--fmax"],
        "avtools probe --on-error d": ["drop"],
        "avtools probe --from ": ["csv", "tsv", "jsonl"],
        "avtools probe --fmin 3 --require v": ["video"],
        "avtools mkmeta scan ": ["video", "audio", "image"],
        "avtools resample a.csv -d ": ["dir"],
        "avtools probe --fmin ": [],
        "avtools bogus ": [],
    }.items(),
)
def test_offers(line, expected, shell, folder):
    assert offers(shell, line, folder) == expected


def test_offers_every_command(shell, folder):
    paths = [context.command_path.split() for context in contexts()]
    assert offers(shell, "avtools ", folder) == [path[1] for path in paths if len(path) == 2]
    assert offers(shell, "avtools mkmeta ", folder) == [path[2] for path in paths if path[1:2] == ["mkmeta"] and len(path) == 3]


def test_offers_files_by_suffix(shell, folder):
    found = set(offers(shell, "avtools probe ", folder)) - {"./-dash.csv", "-dash.csv"}
    assert found == {"a.csv", "b.mp4", "with space.csv", "quo'te\".csv", "x:y.csv", "LOUD.MP4", "ünï.csv", "$HOME.csv", "odd*.csv", "dir"}
    tables = set(offers(shell, "avtools probe -o ", folder))
    assert {"a.csv", "dir"} < tables and not tables & {"b.mp4", "c.txt", "LOUD.MP4"}


TYPED = {  # '\t' is the TAB key; what the program is called with
    "avtools pro\t": ["probe"],
    "avtools mkmeta sc\t": ["mkmeta", "scan"],
    "avtools probe a.csv --fmi\t 3": ["probe", "a.csv", "--fmin", "3"],
    "avtools probe --on-error d\t": ["probe", "--on-error", "drop"],
    "avtools probe --on-error=d\t": ["probe", "--on-error=drop"],
    "avtools probe --errors=di\tin.csv": ["probe", "--errors=dir/in.csv"],
    "avtools probe wi\t": ["probe", "with space.csv"],
    "avtools probe with\\ s\t": ["probe", "with space.csv"],
    "avtools probe 'with s\t": ["probe", "with space.csv"],
    'avtools probe "wi\t': ["probe", "with space.csv"],
    "avtools probe 'with space.csv' b\t": ["probe", "with space.csv", "b.mp4"],
    "avtools probe quo\t": ["probe", "quo'te\".csv"],
    "avtools probe x:\t": ["probe", "x:y.csv"],
    'avtools probe "x:\t': ["probe", "x:y.csv"],
    "avtools probe ü\t": ["probe", "ünï.csv"],
    "avtools probe '$\t": ["probe", "$HOME.csv"],
    "avtools probe od\t": ["probe", "odd*.csv"],
    "avtools probe -- -\t": ["probe", "--", "-dash.csv"],
    "avtools probe ./-\t": ["probe", "./-dash.csv"],
    "avtools probe .h\t": ["probe", ".hidden.csv"],
    "avtools probe di\t\t": ["probe", "dir/in.csv"],
    "avtools probe ~/cl\t\t": ["probe", "{home}/clips/one.mp4"],
    "../bin/avtools pro\t": ["probe"],
    "true | X=1 avtools pro\t": ["probe"],
    "avtools probe a.csv > c\t; cat c.txt": ["probe", "a.csv"],
}


def test_typed_at_a_terminal(shell, folder):
    script = ROOT / "completions" / SCRIPTS[shell]
    settings = {
        "bash": f"PS1='ready> '; bind 'set enable-bracketed-paste off'; . {shlex.quote(str(script))}\n",
        "zsh": f"PS1='ready> '; unset zle_bracketed_paste; fpath=({shlex.quote(str(script.parent))} $fpath); autoload -Uz compinit; compinit -u -D\n",
        "fish": f"function fish_prompt; echo 'ready> '; end; function fish_greeting; end; source {shlex.quote(str(script))}\n",
    }[shell]
    env = environment(folder)
    home = pathlib.Path(env["HOME"])
    file = {"bash": home / "rc", "zsh": home / ".zshrc", "fish": home / "config" / "fish" / "config.fish"}[shell]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(settings)
    start = {"bash": ["bash", "--noprofile", "--rcfile", file, "-i"], "zsh": ["zsh", "-d", "-i"], "fish": ["fish", "-i"]}[shell]
    with Terminal(start, folder, env) as terminal:
        terminal.wait("ready> ")
        found = {line: terminal.type(line + "\n", r"called:(<.*>) ;") for line in TYPED}
    expected = {line: "".join(f"<{word.format(home=home)}>" for word in words) for line, words in TYPED.items()}
    assert found == expected


class Terminal:
    """A shell at a pseudo-terminal."""

    def __init__(self, start, folder, env):
        self.keys, screen = os.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 500, 0, 0))
        self.process = subprocess.Popen(
            start,
            cwd=folder,
            env=env,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # the shell's own terminal
        )
        os.close(screen)
        self.seen = ""

    def wait(self, pattern: str) -> re.Match:
        """Read until the pattern has come; drop what was read up to its end."""
        end = time.monotonic() + 60
        while not (match := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.keys], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.keys, 1 << 16).decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match

    def type(self, keys: str, pattern: str) -> str:
        os.write(self.keys, keys.encode())
        found = self.wait(pattern)[1]
        self.wait("ready> ")
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.keys)


# --- the program's side -----------------------------------------------------------------------------------


def ask(line: str, cwd=None, word: str | None = None, instruction="bash_complete") -> subprocess.CompletedProcess:
    env = {**os.environ, "_AVTOOLS_COMPLETE": instruction, "COMP_LINE": line, "COMP_WORD": line.split(" ")[-1] if word is None else word}
    return subprocess.run(command(), cwd=cwd, env=env, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)


def contexts():
    from avtools.cli import group

    return list(walk(group, None, "avtools"))


@pytest.mark.parametrize("shell", SCRIPTS)  # also where the shell is not installed
def test_scripts_are_what_the_program_prints(shell):
    assert ask("", instruction=f"{shell}_source").stdout == (ROOT / "completions" / SCRIPTS[shell]).read_bytes()


def test_wrong_lines_get_no_answer_and_no_noise():
    for line in ("avtools bogus ", "avtools probe --nonsense ", "avtools probe --shard 9/8 --fm", "avtools mkmeta bogus --fm", ""):
        done = ask(line)
        assert done.returncode == 0 and not done.stderr
    assert ask("avtools ", instruction="tcsh_complete").returncode == 2


def test_odd_names(tmp_path):
    for name in (b"b\xff.csv", b"new\nline.csv", b"comma,.csv", b"-dash.csv"):
        with open(os.path.join(os.fsencode(tmp_path), name), "w"):
            pass
    (tmp_path / "nowhere.csv").symlink_to("gone")
    (tmp_path / "folder.csv").mkdir()
    found = ask("avtools probe ", tmp_path).stdout.splitlines()
    assert found == [b"file,./-dash.csv", b"file,b\xff.csv", b"file,comma,.csv", b"file,folder.csv/", b"file,nowhere.csv"]
    assert ask("avtools probe /nowhere/", tmp_path).stdout == b""


def test_options_once_given_are_not_offered_again():
    assert b"--fmin" not in ask("avtools probe --fmin 3 --fm").stdout
    assert b"--require" in ask("avtools probe --require audio --req").stdout  # it may be repeated


def test_completion_loads_nothing_but_click():
    code = f"""
import contextlib, io, os, sys
from avtools.cli import group
from avtools.manual import walk
from avtools.shell import answer
heavy = {HEAVY!r}
for path in [context.command_path for context in walk(group, None, "avtools")]:
    for line in (path + " ", path + " -"):
        os.environ["COMP_LINE"] = line
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
            answer(group, "bash_complete")
        assert not heavy & set(sys.modules), (line, heavy & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL, timeout=120)


def test_completion_is_fast(tmp_path):
    def seconds(start, env) -> float:
        """Processor time of the quickest of five runs: other programs do not count."""
        times = []
        for _ in range(5):
            process = subprocess.Popen(start, env={**os.environ, **env}, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            times.append(usage.ru_utime + usage.ru_stime)
        return min(times)

    limit = max(0.2, 3 * seconds([sys.executable, "-c", "import click"], {}))  # for slow machines
    for line in ("avtools ", "avtools mkmeta ", "avtools probe --", "avtools probe "):
        assert seconds(command(), {"_AVTOOLS_COMPLETE": "bash_complete", "COMP_LINE": line}) < limit, line
