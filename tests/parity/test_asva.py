"""AVSyncD and the AVSync classifier against the numbers of the original implementation: every folder of cases, every stored output."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from common import check, collected, folders, key_lists, kind_of  # noqa: E402

KINDS, KEY_LISTS = collected("asva")


@pytest.mark.parametrize("folder", folders("asva"))
def test_case(folder, tmp_path):
    check(folder, KINDS, tmp_path)


@pytest.mark.parametrize("file", key_lists("asva"))
def test_full_size_names_load_strictly(file):
    for function in kind_of(file.parent.name, KEY_LISTS):
        function(file)
