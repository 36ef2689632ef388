"""The wheel and the editable checkout, started in each way that users start it."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

from conftest import ROOT

PARTS = ["avtools", "commands", "models", "completions", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout: building leaves traces."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, checkout, tmp_path_factory):
    """The folder of programs of an environment with nothing of ours but the package, dependencies from this one."""
    if not shutil.which("pip", path=os.path.dirname(sys.executable)):
        pytest.skip("this environment has no pip")
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env/bin/python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
    # a plain path: .pth files in there, such as that of an editable avtools, are not followed
    pathlib.Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if request.param == "wheel":
        subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout], check=True, capture_output=True)
        what = [*folder.glob("*.whl")]
        assert len(what) == 1
    else:
        what = ["-e", checkout]
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-build-isolation", *what], check=True, capture_output=True)
    return folder / "env/bin"


def run(*words, cwd, **more):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, env=env, timeout=120, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


TABLE = "path,id\n,a\n"


@pytest.mark.parametrize("where", ["elsewhere", "root"])
@pytest.mark.parametrize("way", ["program", "module", "torchrun"])
def test_starts_everywhere(where, way, installed, checkout, tmp_path):
    if way == "torchrun" and subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode:
        pytest.skip("torch is not installed")
    start = {
        "program": [installed / "avtools"],
        "module": [installed / "python", "-m", "avtools"],
        "torchrun": [installed / "python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "avtools"],
    }[way]
    cwd = checkout if where == "root" else tmp_path
    table = tmp_path / "t.csv"
    table.write_text(TABLE)
    out = run(*start, "probe", table, "--on-error", "keep", "--timeout", "20", cwd=cwd)
    assert out.startswith("path,id,num_frames,") and "neither 'path' nor 'audio_path'" in out and out.count("\n") == 2
    if way != "torchrun":
        assert "mkmeta" in run(*start, "--help", cwd=cwd)
        assert "scan" in run(*start, "mkmeta", "--help", cwd=cwd)
        assert run(*start, "--version", cwd=cwd).startswith("avtools ")


def test_man_page_and_completions_are_installed(installed):
    share = installed.parent / "share"
    if "editable" in str(installed):
        pytest.skip("an editable install has them in the checkout")
    for name in ("man/man1/avtools.1", "bash-completion/completions/avtools", "zsh/site-functions/_avtools", "fish/vendor_completions.d/avtools.fish"):
        assert (share / name).is_file()


@pytest.mark.parametrize("name", ["commands", "models"])
def test_no_second_copy_from_the_root(name, tmp_path):
    """`import commands` in the checkout's root would load every command again beside avtools.commands."""
    code = f"""
import sys, avtools.{name}
try:
    import {name}
except ImportError as error:
    assert "import avtools.{name}" in str(error)
else:
    assert {name} is avtools.{name}
assert not [m for m in sys.modules if m.startswith("{name}.")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_start_up_loads_nothing_but_click():
    code = """
import sys
from avtools.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"av", "numpy", "pandas", "pyarrow", "torch", "soundfile", "soxr", "tqdm", "jsonlines", "multiprocessing", "sqlite3"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_core_names_no_system_and_no_command():
    """Imports go one way: commands -> models -> core; a command imports no other."""
    import re

    for path in (ROOT / "avtools").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) avtools\.(commands|models)", path.read_text(), re.M), path
    for path in [*(ROOT / "commands").rglob("*.py"), *(ROOT / "models").rglob("*.py")]:
        assert not re.search(r"^\s*(from|import) avtools\.commands", path.read_text(), re.M), path
