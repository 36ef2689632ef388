"""What is seen of a clip: which pictures, in what form, and in one decode for all that ask."""

import json
import pathlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from avtools.errors import MediaError, RowError, UsageError
from avtools.metrics import pictures as module
from avtools.metrics.av_align import Flow
from avtools.metrics.media import Pair
from avtools.metrics.pictures import Clip, Pictures, Seen
from fixtures import even, make


def clip(times, end) -> Clip:
    return Clip("clip", tuple(map(Fraction, times)), Fraction(end), 10.0, "none")


def test_what_is_shown_at_even_times():
    numbers, times = Pictures(fps=4).picks(clip(["0", "0.1", "0.6", "0.7"], "1.2"))
    assert times == [0, 0.25, 0.5, 0.75, 1.0] and numbers == [0, 1, 1, 3, 3]
    assert Pictures(fps=10).picks(clip([Fraction(k, 10) for k in range(5)], "0.5"))[0] == [0, 1, 2, 3, 4]
    rounded = [Fraction(round(k / 30 * 1000), 1000) for k in range(6)]  # a container's milliseconds
    assert Pictures(fps=30).picks(clip(rounded, "0.2"))[0] == [0, 1, 2, 3, 4, 5]


def test_evenly_spaced_pictures_are_those_of_linspace():
    for frames, count in ((97, 48), (48, 48), (10, 48), (1, 5), (300, 1)):
        numbers, _ = Pictures(count=count).picks(clip([Fraction(k, 24) for k in range(frames)], Fraction(frames, 24)))
        assert numbers == np.linspace(0, frames - 1, count).astype(int).tolist()


def test_only_the_first_seconds():
    frames = clip([Fraction(k, 10) for k in range(30)], 3)
    assert len(Pictures(seconds=1.0).picks(frames)[0]) == 10
    assert Pictures(seconds=1.0, count=3).picks(frames)[0] == [0, 4, 9]
    assert len(Pictures(fps=5, seconds=1.0).picks(frames)[0]) == 5
    assert len(Pictures(seconds=99.0).picks(frames)[0]) == 30


def test_pictures_are_fitted_whole_cropped_or_squashed():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20] = (255, 0, 0)
    wide[:, 60:] = (0, 0, 255)
    assert not Pictures(size=(20, 20)).fitted(wide)[:, 2:-2].any(), "the middle half is black"
    padded = Pictures(size=(20, 20), fit="pad").fitted(wide)
    assert padded.shape == (20, 20, 3) and not padded[:4].any() and not padded[-4:].any() and padded[10, 1, 0] > 250 and padded[10, -2, 2] > 250
    squashed = Pictures(size=(20, 20), fit="squash", resize="bilinear").fitted(wide)
    assert squashed[0, 0, 0] > 250 and squashed[-1, -1, 2] > 250
    assert Pictures().fitted(wide) is not None and Pictures().fitted(wide).shape == wide.shape
    with pytest.raises(UsageError):
        Pictures(fit="stretch")


def test_one_decode_serves_all_that_was_expected(tmp_path, monkeypatch):
    make(tmp_path / "a.mp4", even(12))
    pair = Pair({"path": str(tmp_path / "a.mp4")}, {})
    decodes = []
    decoded = module._decoded
    monkeypatch.setattr(module, "_decoded", lambda *arguments: decodes.append(1) or decoded(*arguments))
    wanted = [Pictures(fps=2, size=(8, 8)), Pictures(count=3), Flow()]
    for one in wanted:
        pair.expect("video", one)
    found = [pair.watched("video", one) for one in wanted]
    assert len(decodes) == 1 and pair.watched("video", Pictures(count=3)) is found[1]
    assert isinstance(found[1], Seen) and found[1].pictures.shape[0] == 3 and found[1].frames == 12 and found[1].fps == 25
    alone = Pair({"path": str(tmp_path / "a.mp4")}, {})
    assert np.array_equal(alone.watched("video", Flow()), found[2])
    assert np.array_equal(alone.seen("video", Pictures(fps=2, size=(8, 8))).pictures, found[0].pictures)


def test_agrees_with_what_samples_are_made_of(tmp_path):
    frames = pytest.importorskip("avtools.models.vta_ldm.frames")
    make(tmp_path / "a.mp4", even(20, size=(48, 96)) if "size" in even.__code__.co_varnames else even(20))
    seen = Pair({"path": str(tmp_path / "a.mp4")}, {}).seen("video", Pictures(fps=7, size=(32, 32)))
    assert np.array_equal(seen.pictures, frames.read_frames(str(tmp_path / "a.mp4"), 7, 32))


@pytest.mark.long
def test_real_media_are_seen_as_an_independent_decoder_shows_them(media, monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).resolve().parent.parent / "commands")
    import judge

    files = sorted([*(media / "vggsound").glob("*.mp4"), *(path for path in (media / "odd").iterdir() if path.suffix in (".mp4", ".mov", ".mkv", ".webm"))])
    checked = 0
    for path in files:
        times = judge.times(str(path))
        if len(times) > 400:
            continue
        seen = Pair({"path": str(path)}, {}).seen("video", Pictures(size=(8, 8), fit="squash"))
        assert seen.frames == len(times) == len(seen.pictures), path
        np.testing.assert_allclose(seen.times, [float(time) for time in times], atol=2e-3)
        checked += 1
    assert checked >= 4


def test_references_begin_where_the_row_says_and_last_as_long(tmp_path):
    make(tmp_path / "long.mp4", even(50))
    make(tmp_path / "short.mp4", even(10))
    row = {"path": str(tmp_path / "long.mp4"), "generated_path": str(tmp_path / "short.mp4"), "reference_start": "1.0"}
    seen = Pair(row, {}).seen("reference_video", Pictures())
    whole = Pair({"path": row["path"]}, {}).seen("video", Pictures())
    assert len(seen.pictures) == 10 and np.array_equal(seen.pictures, whole.pictures[25:35])
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "still.png")
    beside_still = Pair({**row, "generated_path": str(tmp_path / "still.png")}, {}).seen("reference_video", Pictures())
    assert np.array_equal(beside_still.pictures, whole.pictures[25:]), "a still image has no length"
    with pytest.raises(RowError, match="shows nothing from 9 s on"):
        Pair({**row, "reference_start": "9"}, {}).seen("reference_video", Pictures())
    with pytest.raises(RowError, match="judged by itself"):
        Pair({"path": row["path"]}, {}).seen("reference_video", Pictures())


def test_frames_that_cannot_be_decoded_are_not_counted(tmp_path):
    make(tmp_path / "a.mp4", even(40))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    begin = data.index(b"mdat")
    size = int.from_bytes(data[begin - 4 : begin], "big")
    data[begin + size // 3 : begin + size // 2] = bytes(begin + size // 2 - (begin + size // 3))
    (tmp_path / "a.mp4").write_bytes(data)
    seen = Pair({"path": str(tmp_path / "a.mp4")}, {}).seen("video", Pictures())
    assert 0 < len(seen.pictures) == seen.frames <= 40


def test_a_part_behind_lost_frames_is_of_the_right_ones(tmp_path):
    import av

    for start in (0, 100):
        with av.open(str(tmp_path / "a.mkv"), "w") as file:
            stream = file.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
            packets = []
            for k in range(30):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * k, np.uint8), format="rgb24").reformat(format="yuvj420p")
                frame.pts, frame.time_base = start + k, Fraction(1, 25)
                packets += stream.encode(frame)
            for k, packet in enumerate([*packets, *stream.encode()]):
                if k == 3:
                    broken = av.Packet(bytes(50))
                    broken.pts, broken.dts, broken.time_base, broken.stream = packet.pts, packet.dts, packet.time_base, packet.stream
                    packet = broken
                file.mux(packet)
        for begin, end, numbers in ((0.0, None, [*range(3), *range(4, 30)]), (0.4, 0.6, range(10, 15)), (0.0, 0.2, (0, 1, 2, 4)), (0.12, 0.2, (2, 4))):
            (seen,), _ = module.watch(str(tmp_path / "a.mkv"), [Pictures()], begin, end)
            assert (seen.pictures.mean((1, 2, 3)) / 8).round().tolist() == list(numbers), (start, begin)


def test_a_file_without_pictures_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaError):
        Pair({"path": str(tmp_path / "a.mp4")}, {}).seen("video", Pictures())


def test_words_of_a_row():
    assert Pair({"text": "", "description": "a dog"}, {}).words("text") == "a dog"
    assert Pair({"text": "a dog", "audio_text": "barking"}, {}).words("audio_text") == "barking"
    assert Pair({"captions": ["one", "two"]}, {}).words("text") == "one"
    assert Pair({"captions": ["", None, "two"]}, {}).words("text") == "two"
    assert Pair({"captions": '["one", "two"]'}, {}).words("text") == "one", "as CSV has a list"
    assert Pair({"text": "[]", "class": "dog"}, {}).words("text") == "dog"
    assert Pair({"text": "[sic] a dog"}, {}).words("text") == "[sic] a dog"
    with pytest.raises(RowError, match="columns looked at: text"):
        Pair({"path": "a"}, {}).words("text")
    with pytest.raises(RowError, match="mapping"):
        Pair({"text": json.loads('{"a": 1}')}, {}).words("text")
