"""What the README says can be typed, and it speaks of every command."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)


def commands(group=None, path=()):
    """Every command as a tuple of words."""
    import click

    from avtools.cli import group as root

    group = group or root
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command


@pytest.mark.parametrize("words", [" ".join(words) for words, _ in commands()])
def test_every_command_has_its_row(words):
    assert re.search(rf"^\| `{words}` \|", TEXT, re.M), f"README.md has no row for {words}"


def test_no_row_without_its_command():
    rows = set(re.findall(r"^\| `((?:mkmeta )?[a-z-]+)` \|", TEXT, re.M))
    assert rows == {" ".join(words) for words, _ in commands()}


@pytest.mark.long
def test_the_blocks_run_one_after_another(tmp_path):
    """The blocks of a newcomer who reads from top to bottom, in a clean folder."""
    assert BLOCKS
    script = f'avtools() {{ "{sys.executable}" -m avtools "$@"; }}\nset -euo pipefail\n' + "\n".join(BLOCKS)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.csv").read_text().count("\n") == 5
    assert (tmp_path / "whole.csv").read_text().count("\n") == 5
