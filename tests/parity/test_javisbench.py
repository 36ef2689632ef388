"""JavisBench's scores against the numbers of the original implementation: every stored output of every case.

AV-Align's cases are in tests/metrics/test_av_align.py.
"""

import pytest

torch = pytest.importorskip("torch")

from common import check, collected, folders  # noqa: E402

KINDS, _ = collected("javisbench")


@pytest.mark.parametrize("folder", [folder for folder in folders("javisbench") if "av_align" not in folder.id])
def test_case(folder, tmp_path):
    check(folder, KINDS, tmp_path)
