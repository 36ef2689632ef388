"""Stream health: made clips whose faults are known."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.health import Health
from avtools.metrics.media import Pair, Sound
from fixtures import even, make

pytest.importorskip("cv2")
RATE = 48000


def film(path, levels, fps=25, noise=None):
    """Flat frames of these levels, without loss."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for k, level in enumerate(levels):
            picture = np.full((48, 64, 3), level, np.uint8)
            if noise is not None:
                picture[: noise.get(k, 0), 0] ^= 1
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        out.mux(stream.encode(None))
    return str(path)


def found(row, **settings):
    return Health(**settings).row(Pair(row if isinstance(row, dict) else {"path": str(row)}, {}))


def test_a_whole_clip(tmp_path):
    make(tmp_path / "a.mkv", even(25), sound={"rate": RATE, "codec": "pcm_s16le"})
    cells = found(tmp_path / "a.mkv")
    assert cells == {
        "stream_offset": 0, "length_mismatch": pytest.approx(0, abs=0.001), "frozen_frames": 0, "longest_freeze": 0,
        "black_frames": 4 / 25, "silence": 0, "clipped": 0,
    }  # fmt: skip  # the made picture's levels begin dark
    assert set(cells) == set(Health.columns)


def test_offset_and_lengths(tmp_path):
    make(tmp_path / "late.mkv", even(50), sound={"rate": RATE, "codec": "pcm_s16le", "start": Fraction(1, 4), "seconds": Fraction(1, 2)})
    cells = found(tmp_path / "late.mkv")
    assert cells["stream_offset"] == pytest.approx(0.25, abs=0.002) and cells["length_mismatch"] == pytest.approx(1.5, abs=0.002)
    soundfile.write(tmp_path / "a.wav", np.ones(3 * RATE) / 2, RATE)
    cells = found({"path": str(tmp_path / "late.mkv"), "generated_audio_path": str(tmp_path / "a.wav")})
    assert isinstance(cells["stream_offset"], Skip) and cells["length_mismatch"] == pytest.approx(1, abs=0.002)


def test_frozen_and_black_frames(tmp_path):
    cells = found(film(tmp_path / "a.mkv", [0, 10, 100, 100, 100, 100, 150, 151, 151, 26]))
    assert cells["frozen_frames"] == pytest.approx(4 / 9) and cells["longest_freeze"] == pytest.approx(4 / 25)
    assert cells["black_frames"] == 0.2
    assert found(tmp_path / "a.mkv", black=0.11)["black_frames"] == 0.3 and found(tmp_path / "a.mkv", black=0)["black_frames"] == 0.1
    assert found(tmp_path / "a.mkv", still=0.004)["frozen_frames"] == pytest.approx(5 / 9)
    assert isinstance(cells["silence"], Skip) and isinstance(cells["stream_offset"], Skip) and "no sound" in str(cells["length_mismatch"])


def test_small_changes_count_once_they_add_up(tmp_path):
    creeping = film(tmp_path / "a.mkv", [100] * 10, noise={k: 5 * k for k in range(10)})  # ever more pixels differ by one level
    assert found(creeping)["frozen_frames"] == 1
    assert found(creeping, still=0.00001)["frozen_frames"] < 0.8 and found(creeping, still=0)["frozen_frames"] == 0


def test_a_single_frame_and_a_still_image(tmp_path):
    cells = found(film(tmp_path / "one.mkv", [0]))
    assert isinstance(cells["frozen_frames"], Skip) and isinstance(cells["longest_freeze"], Skip) and cells["black_frames"] == 1
    with av.open(str(tmp_path / "one.png"), "w") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8), format="rgb24")))
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    cells = found({"path": str(tmp_path / "one.png"), "audio_path": str(tmp_path / "a.wav")})
    assert isinstance(cells["length_mismatch"], Skip) and cells["silence"] == 1 and cells["black_frames"] == 0


def test_silence_and_clipping_follow_the_sound_that_is_judged(tmp_path):
    make(tmp_path / "a.mkv", even(25), sound={"rate": RATE, "codec": "pcm_s16le"})
    pair = Pair({"path": str(tmp_path / "a.mkv")}, {})
    assert Health().row(pair)["silence"] == 0
    assert Health().row(pair.with_sound(Sound(np.zeros((RATE, 1), np.float32), RATE)))["silence"] == 1
    assert Health().row(pair.with_sound(Sound(np.ones((RATE, 1), np.float32), RATE)))["clipped"] == 1


def test_a_picture_that_changes_size_is_new(tmp_path):
    from avtools.metrics.health import Stillness
    from avtools.metrics.pictures import Clip

    class Frame:
        def __init__(self, *shape):
            self.gray = np.full(shape, 100, np.uint8)

    seen = Stillness(0.001, 0.1).begin(Clip("a", (Fraction(0), Fraction(1, 2), Fraction(2)), Fraction(5), 25.0, "ffv1"))
    for number, shape in enumerate([(8, 8), (4, 4), (4, 4)]):
        seen.add(number, Frame(*shape))
    assert (seen.result().frozen, seen.result().longest) == (1, 4.5)  # by the frames' own times


def test_wrong_settings():
    with pytest.raises(UsageError, match="health.still=1"):
        Health(still=1.0)
