"""VATT against the numbers of the original implementation: every folder of cases, every stored output."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from common import check, collected, folders, key_lists, kind_of  # noqa: E402

KINDS, KEY_LISTS = collected("vatt")


@pytest.mark.parametrize("folder", folders("vatt"))
def test_case(folder, tmp_path):
    check(folder, KINDS, tmp_path)


@pytest.mark.parametrize("file", key_lists("vatt"))
def test_full_size_names_load_strictly(file):
    for function in kind_of(file.stem, KEY_LISTS):
        function(file)
