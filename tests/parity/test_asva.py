"""AVSyncD and the AVSync classifier against the numbers of the original implementation: every folder of cases, every stored output."""

import importlib
import importlib.util

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from common import Case, folders, key_lists, kind_of  # noqa: E402

PARTS = [importlib.import_module(name) for name in ("asva_clips", "asva_imagebind", "asva_avsync", "asva_avsyncd", "asva_metrics")]
KINDS = {name: function for part in PARTS for name, function in part.KINDS.items()}
KEY_LISTS = {name: function for part in PARTS for name, function in getattr(part, "KEY_LISTS", {}).items()}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("folder", folders("asva"))
def test_case(folder, tmp_path):
    function = kind_of(folder.name, KINDS)
    case = Case(folder)
    function(case, tmp_path)
    case.finish()


@pytest.mark.parametrize("file", key_lists("asva"))
def test_full_size_names_load_strictly(file):
    kind_of(file.parent.name, KEY_LISTS)(file)
