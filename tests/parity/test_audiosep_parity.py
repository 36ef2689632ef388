"""AudioSep against the numbers of the original implementation: every folder of cases, every stored output."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from audiosep_cases import KINDS, key_list  # noqa: E402
from common import check, folders, key_lists  # noqa: E402


@pytest.mark.parametrize("folder", folders("audiosep"))
def test_case(folder, tmp_path):
    check(folder, KINDS, tmp_path)


@pytest.mark.parametrize("file", key_lists("audiosep"))
def test_full_size_names_load_strictly(file, tmp_path):
    key_list(file, tmp_path)
