"""JavisDiT against the numbers of the original implementation: every folder of cases, every stored output."""

import importlib
import pathlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from common import Case, folders, key_lists, kind_of  # noqa: E402

PARTS = [importlib.import_module(file.stem) for file in sorted(pathlib.Path(__file__).parent.glob("javisdit_*.py"))]
KINDS = {name: function for part in PARTS for name, function in getattr(part, "KINDS", {}).items()}
KEY_LISTS: dict[str, list] = {}  # a kind of case, beside which full_keys*.json lie, -> what loads them
for part in PARTS:
    for name, function in getattr(part, "KEY_LISTS", {}).items():
        KEY_LISTS.setdefault(name, []).append(function)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("folder", folders("javisdit"))
def test_case(folder, tmp_path):
    function = kind_of(folder.name, KINDS)
    case = Case(folder)
    function(case, tmp_path)
    case.finish()


@pytest.mark.parametrize("file", key_lists("javisdit"))
def test_full_size_names_load_strictly(file):
    for function in kind_of(file.parent.name, KEY_LISTS):
        function(file)
