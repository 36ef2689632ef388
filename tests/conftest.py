"""What all tests share: the program as a real process, and folders of real media."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Under nohup, or in a script's background, these are ignored, and so by every process that a test starts and signals.
for _signal in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


def command(*arguments) -> list[str]:
    """The command line of avtools in this environment."""
    return [sys.executable, "-m", "avtools", *map(str, arguments)]


class Program:
    """Runs avtools as users do, in a folder of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __call__(self, *arguments, input=None, status=0, env=None, text=True):
        """Run to the end; assert the exit status (None: any) and give stdout, stderr, returncode."""
        if isinstance(input, str) and not text:
            input = input.encode()
        done = subprocess.run(
            command(*arguments),
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            text=text,
            timeout=300,
        )
        if status is not None:
            assert done.returncode == status, f"status {done.returncode}, not {status}\n{done.stderr}"
        return done

    def start(self, *arguments, **settings):
        """Start and return the process; its workers can be waited for with :meth:`wait_for_workers`."""
        settings["env"] = {**(settings.get("env") or os.environ), "AVTOOLS_TEST_FOLDER": str(self.folder)}
        settings.setdefault("stdout", subprocess.PIPE)
        settings.setdefault("stderr", subprocess.PIPE)
        settings.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(command(*arguments), cwd=self.folder, **settings)

    def wait_for_workers(self):
        """Until the workers of killed runs have noticed: they never outlive their run."""
        deadline = time.monotonic() + 20
        while [pid for pid in os.listdir("/proc") if pid.isdigit() and self._is_ours(pid)]:
            assert time.monotonic() < deadline, "workers outlive their run"
            time.sleep(0.05)

    def _is_ours(self, pid: str) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"AVTOOLS_TEST_FOLDER={self.folder}".encode() in file.read().split(b"\0")
        except OSError:
            return False

    def pipe(self, line: str, status=0):
        """Run a line of bash with pipefail, `avtools` meaning this one."""
        shell = f'avtools() {{ "{sys.executable}" -m avtools "$@"; }}; set -o pipefail; {line}'
        done = subprocess.run(["bash", "-c", shell], cwd=self.folder, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
        if status is not None:
            assert done.returncode == status, f"status {done.returncode}, not {status}\n{done.stderr}"
        return done


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread for torch, so that sums are the same on every machine, and workers of the tests' own are not in each other's way."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def avtools(tmp_path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="session")
def media() -> pathlib.Path:
    """The folder of real clips, where there is one."""
    folder = os.environ.get("AVTOOLS_MEDIA")
    if not folder:
        pytest.skip("AVTOOLS_MEDIA is not set")
    return pathlib.Path(folder)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Relative name -> content of the files below `folder`, without the journal."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".avtools" not in path.relative_to(folder).parts
    }
