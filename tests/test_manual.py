"""The man page and --help: complete, the same text, quick to come by."""

import os
import re
import shutil
import subprocess
import sys

import click
import pytest
from conftest import ROOT
from test_completions import HEAVY, contexts

from avtools import __version__, manual

PAGE = ROOT / "completions" / "avtools.1"


def test_is_up_to_date():
    assert PAGE.read_text() == manual.page(), "python -m avtools.manual > completions/avtools.1"


@pytest.mark.parametrize("env", [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "COLUMNS": "40", "LC_ALL": "C", "TZ": "Asia/Tokyo"}])
def test_is_always_the_same(env):
    done = subprocess.run([sys.executable, "-m", "avtools.manual"], env={**os.environ, **env}, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.decode("ascii") == manual.page()


def test_has_its_sections():
    page = manual.page()
    assert re.findall(r"^\.SH (.*)", page, re.MULTILINE) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "SHARED OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES")
    ]
    assert page.startswith(".TH AVTOOLS 1 ") and f"avtools {__version__}" in page.split("\n")[0]
    status = page.split(".SH EXIT STATUS")[1].split(".SH FILES")[0]
    assert re.findall(r"^\\fB(.*)\\fP$", status, re.MULTILINE) == ["0", "1", "2", "3"]


def test_escapes():
    assert manual.escape(".TP 'a' -b \\n ~^` é …") == "\\&.TP \\(aqa\\(aq \\-b \\en \\(ti\\(ha\\(ga \\[u00E9] \\[u2026]"
    assert manual.prose(["word " * 20 + ". .so it begins"])[2].startswith(("word", "\\&."))
    assert manual.literal(["    .so x", "      'y"]) == [".PP", ".nf", ".RS 4", "\\&.so x", "  \\(aqy", ".RE", ".fi"]


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_mandoc_finds_no_fault():
    found = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=manual.page(), capture_output=True, text=True).stdout
    assert [line for line in found.splitlines() if "missing date" not in line] == []  # a date would never be true


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_mandoc_shows_every_text():
    done = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=300"], input=manual.page(), capture_output=True, text=True, check=True)
    shown_all(re.sub(".\b", "", done.stdout))


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_man_shows_every_text():
    env = {**os.environ, "MANWIDTH": "300", "LC_ALL": "C.UTF-8", "MANOPT": "--no-hyphenation --no-justification"}
    done = subprocess.run(["man", "--warnings=w", "-l", PAGE], env=env, capture_output=True, text=True)
    if "unrecognized option" in done.stderr or "illegal option" in done.stderr or "invalid option" in done.stderr:
        pytest.skip("this man is not man-db")
    assert done.returncode == 0 and not done.stderr
    if PAGE.read_text() == manual.page():
        shown_all(re.sub(".\b|\x1b\\[[0-9;]*m", "", done.stdout))


def shown_all(shown: str) -> None:
    """Assert that the formatted page has all texts of all commands."""
    shown = " ".join(shown.split())
    for context in contexts()[1:]:
        assert context.command_path in shown
        for text in [*manual.blocks(context.command), *(text for record in manual.options(context) for text in record)]:
            for part in text if isinstance(text, list) else [text]:
                assert " ".join(part.split()) in shown, (context.command_path, part)


# --- --help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", contexts(), ids=lambda context: context.command_path)
def test_every_command_and_option_has_help(context):
    first, *_ = manual.blocks(context.command)
    assert re.match(r"[A-Z].*\.$", first), "the help begins with one sentence"
    for option in context.command.get_params(context):
        if isinstance(option, click.Option):
            assert option.hidden or re.match(r"(?s)\S.*\.$", option.help or ""), f"{option.opts} has no help, or not in sentences"


def test_help_of_each_command_loads_nothing_but_click():
    code = f"""
import contextlib, io, sys
from avtools.cli import group, main
from avtools.manual import walk
heavy = {HEAVY!r}
for path in [context.command_path for context in walk(group, None, "avtools")]:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            main([*path.split()[1:], "--help"])
        except SystemExit as done:
            assert not done.code, path
    assert shown.getvalue().startswith("Usage: " + path), path
    assert not heavy & set(sys.modules), (path, heavy & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL, timeout=120)
