"""Case folders: cases/COMMAND/CASE/ holds a command line and what must come of it.

    cmd      a line of bash in which `avtools` is the program and `python` the one that runs it
    out      its standard output        {TMP} stands for the folder that it runs in
    err      its standard error
    status   its exit status
    xfail    where there is one: why what comes of it is not yet what stands here

All other files are its input: it runs in a copy of the folder.  AVTOOLS_REGENERATE=1 writes out, err and
status anew, for git diff to show.
"""

import difflib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

CASES = pathlib.Path(__file__).parent / "cases"
RESULTS = ("out", "err", "status")
HIDDEN = ("cmd", "xfail", *RESULTS)


def cases() -> list[str]:
    return sorted(str(path.parent.relative_to(CASES)) for path in CASES.glob("*/*/cmd"))


def marked() -> list:
    reasons = {case: CASES / case / "xfail" for case in cases()}
    marks = {case: [pytest.mark.xfail(strict=True, reason=path.read_text().strip())] for case, path in reasons.items() if path.exists()}
    return [pytest.param(case, marks=marks.get(case, [])) for case in cases()]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder for PATH in which `avtools` and `python` are those of this environment."""
    folder = tmp_path_factory.mktemp("bin")
    for name, more in (("avtools", " -m avtools"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{more} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("case", marked())
def test_case(case, programs, tmp_path):
    folder, run = CASES / case, tmp_path / "run"
    shutil.copytree(folder, run, symlinks=True, ignore=shutil.ignore_patterns(*HIDDEN))
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    line = ["bash", "-o", "pipefail", "-c", (folder / "cmd").read_text()]
    done = subprocess.run(line, cwd=run, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    got = {"out": done.stdout, "err": done.stderr, "status": b"%d\n" % done.returncode}
    got = {name: data.decode("utf-8", "surrogateescape").replace(str(run), "{TMP}") for name, data in got.items()}
    if os.environ.get("AVTOOLS_REGENERATE") and not (folder / "xfail").exists():
        for name, text in got.items():
            (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    difference = ""
    for name, text in got.items():
        path = folder / name
        want = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
        if want != text:
            lines = want.splitlines(keepends=True), text.splitlines(keepends=True)
            difference += "".join(line if line.endswith("\n") else line + "\n" for line in difflib.unified_diff(*lines, f"{case}/{name}", "now"))
    assert not difference, "\n" + difference


def test_there_are_cases():
    assert len(cases()) >= 30


def test_every_case_is_complete_and_small():
    for case in cases():
        folder = CASES / case
        missing = [name for name in RESULTS if not (folder / name).exists()]
        assert not missing, f"{case}: no {', '.join(missing)}; AVTOOLS_REGENERATE=1 writes them"
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20_000, case
