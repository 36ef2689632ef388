"""AudioSep against the numbers of the original implementation: every folder of cases, every stored output."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from audiosep_cases import KINDS, key_list  # noqa: E402
from common import Case, folders, key_lists, kind_of  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("folder", folders("audiosep"))
def test_case(folder, tmp_path):
    function = kind_of(folder.name, KINDS)
    case = Case(folder)
    function(case, tmp_path)
    case.finish()


@pytest.mark.parametrize("file", key_lists("audiosep"))
def test_full_size_names_load_strictly(file, tmp_path):
    key_list(file, tmp_path)
