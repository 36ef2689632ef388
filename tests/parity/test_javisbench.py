"""JavisBench's scores against the numbers of the original implementation: every stored output of every case.

AV-Align's cases are in tests/metrics/test_av_align.py.
"""

import importlib

import pytest

torch = pytest.importorskip("torch")

from common import Case, folders, kind_of  # noqa: E402

PARTS = [importlib.import_module(name) for name in ("javisbench_cavp", "javisbench_desync", "javisbench_distances", "javisbench_imagebind")]
KINDS = {name: function for part in PARTS for name, function in part.KINDS.items()}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("folder", [folder for folder in folders("javisbench") if "av_align" not in folder.id])
def test_case(folder, tmp_path):
    function = kind_of(folder.name, KINDS)
    case = Case(folder)
    function(case, tmp_path)
    case.finish()
