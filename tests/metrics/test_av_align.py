"""AV-Align: against the parity cases, and on media that have little to align."""

import json
import math
import os
import pathlib

import numpy as np
import pytest

from avtools.errors import MediaError
from avtools.media.container import open_input
from avtools.media.probe import scan
from avtools.metrics import Skip
from avtools.metrics import av_align as align
from avtools.metrics.media import Pair, Sound
from avtools.metrics.pictures import Pictures, watch
from fixtures import even, make

pytest.importorskip("librosa")
cv2 = pytest.importorskip("cv2")
numpy_files = pytest.importorskip("safetensors.numpy")

GOLDEN = pathlib.Path(os.environ.get("AVTOOLS_GOLDEN") or "/nonexistent") / "javisbench"
CASES = sorted(path.name for path in GOLDEN.glob("av_align_*")) or [pytest.param("none", marks=pytest.mark.skip("AVTOOLS_GOLDEN is not set"))]
PIXELS = 8e6  # of the frames of one clip: what one core's flow does in a few seconds


def load(name: str) -> tuple[dict, dict, dict]:
    folder = GOLDEN / name
    case = json.loads((folder / "case.json").read_text())
    return case, numpy_files.load_file(folder / "inputs.safetensors"), numpy_files.load_file(folder / "outputs.safetensors")


def agrees(case, name, found, stored) -> None:
    tolerance = case.get("tolerance_per_output", {}).get(name, case["tolerance"])
    np.testing.assert_allclose(found, stored, atol=tolerance["atol"], rtol=tolerance["rtol"], err_msg=f"{case['case']}: {name}")


@pytest.mark.parametrize("name", CASES)
def test_parity_from_the_stored_flow_on(name):
    case, inputs, outputs = load(name)
    config, everything = case["config"], {**inputs, **outputs}
    fps = float(config["fps"] if "fps" in config else everything["fps"])
    if "waveform" in inputs:
        agrees(case, "onset_strength", align.onset_strength(inputs["waveform"], config["sample_rate"]), outputs["onset_strength"])
        onsets = align.onset_times(inputs["waveform"], config["sample_rate"])
        agrees(case, "onset_times", onsets, outputs["onset_times"])
    else:
        onsets = inputs["audio_onsets"]
    peaks = align.peak_times(outputs["flow"], fps)
    agrees(case, "video_peaks", peaks, outputs["video_peaks"])
    if "hits" in outputs:
        assert np.array_equal(align.hits(onsets, peaks, fps), outputs["hits"].astype(bool))
    for epsilon in (0.0, 1e-6):
        agrees(case, "score", align.score(onsets, peaks, fps, epsilon), outputs["score"])


@pytest.mark.parametrize("name", CASES)
def test_parity_of_flow_from_given_frames(name):
    case, inputs, outputs = load(name)
    if getattr(inputs.get("frames"), "ndim", 0) != 4:
        pytest.skip("the case has a video file instead")
    flow = align.mean_flow(cv2.cvtColor(frame.astype(np.uint8), cv2.COLOR_BGR2GRAY) for frame in inputs["frames"])
    agrees(case, "flow", flow, outputs["flow"])


def same_flow(name: str, media: pathlib.Path, count: int | None) -> None:
    """Flow of the first `count` frames (None: of all) from the video file itself, and what follows from it."""
    case, inputs, outputs = load(name)
    if "media" not in case["config"]:
        pytest.skip("the case has given frames")
    pair = Pair({"path": str(media / case["config"]["media"])}, {})
    if count is None:
        flow = pair.watched("video", align.Flow())
    else:
        path = pair.file("video")
        with open_input(path, demux_only=True) as container:
            times = scan(container, sound=False)[1]
        (flow,), _ = watch(path, [align.Flow()], 0.0, float((times.ticks[count] - times.ticks[0]) * times.base))
    stored = outputs["flow"][:count]
    assert len(flow) == len(stored)
    # its HD matrix differs between OpenCV 4 and 5, and so by up to this much does the flow
    known = case["config"].get("opencv_4_9_result")
    largest = known["largest_flow_difference"] if known else 0
    np.testing.assert_allclose(flow, stored, rtol=2e-2, atol=case["tolerance"]["atol"] + largest)
    if count is None:
        fps = pair.facts["picture"]["fps"]
        onsets = align.onset_times(inputs["waveform"], case["config"]["sample_rate"])
        found = align.score(onsets, align.peak_times(flow, fps), fps)
        assert min(abs(found - score) for score in (float(outputs["score"]), *([known["score"]] if known else []))) < case["tolerance"]["atol"]


@pytest.mark.parametrize("name", CASES)
def test_parity_of_the_first_frames_of_the_video_itself(name, media):
    _, inputs, outputs = load(name)
    pixels = int(np.prod({**inputs, **outputs}.get("frame_size", [1280, 720])))
    same_flow(name, media, max(3, int(PIXELS / pixels)))


@pytest.mark.learn  # minutes: flow of 10 s clips at their own size
@pytest.mark.parametrize("name", CASES)
def test_parity_of_the_whole_video_itself(name, media):
    same_flow(name, media, None)


def test_a_plateau_and_the_ends_are_no_peaks():
    flow = np.array([9, 1, 2, 2, 1, 5, 1, 0, 3, 0, 9.0])
    assert align.peak_times(flow, 10).tolist() == [0.5, 0.8]


def test_a_hit_is_strictly_within_a_frame_and_counts_once():
    peaks = np.array([0.5, 0.6])
    assert align.hits([0.25, 0.26, 0.5, 0.55, 0.74, 0.85], peaks, 4).tolist() == [False, True, True, True, True, False]
    assert align.score([0.5, 0.55], peaks, 4) == 2 / 2
    assert align.score([0.5, 3.0], peaks, 4) == 1 / 3
    assert align.score([], peaks, 4) == align.score([1.0], np.array([]), 4) == 0


def test_nothing_against_nothing_is_skipped_but_zero_in_javisbench():
    with pytest.raises(Skip):
        align.score([], np.array([]), 4)
    assert align.score([], np.array([]), 4, 1e-6) == 0


def clap(times, rate=16000, seconds=2.0):
    """Clicks at `times`, mono."""
    samples = np.zeros(int(rate * seconds), np.float32)
    for time in times:
        at = int(time * rate)
        samples[at : at + 200] = np.hanning(200) * np.sin(np.arange(200))
    return samples


def jumping(path, jumps, fps=25, count=50):
    """A clip in which a square moves one step at the given times; lossless, for x264's bytes differ now and then, and peaks with them."""
    import av

    frames = np.full((count, 64, 96, 3), 40, np.uint8)
    frames[:, ::4, ::4] = 70
    for k in range(count):
        left = 8 + 6 * sum(k / fps >= time for time in jumps)
        frames[k, 20:44, left : left + 24] = 200
    path = str(path.with_suffix(".mkv"))
    with av.open(path, "w") as out:
        stream = out.add_stream("ffv1", rate=fps)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
    return path


def judged(path, samples, rate=16000, **settings):
    pair = Pair({"path": path}, {})
    pair.sound = Sound(np.asarray(samples, np.float32).reshape(len(samples), -1), rate)
    return align.AvAlign(**settings).row(pair)["av_align"]


def test_sounds_that_begin_as_things_move_score_higher(tmp_path):
    path = jumping(tmp_path / "a.mp4", times := (0.4, 0.92, 1.4))
    together, apart = judged(path, clap(times)), judged(path, clap([t + 0.2 for t in times]))
    assert together > 0.4 > 0.2 > apart


@pytest.mark.parametrize("samples", [np.zeros(16000), np.zeros(30), np.full(3, 0.5)], ids=["silence", "short", "three samples"])
def test_sounds_without_onsets_do_not_fail(tmp_path, samples):
    assert judged(jumping(tmp_path / "a.mp4", (0.4, 1.0)), samples) == 0


def test_one_frame_has_no_flow_and_two_have_no_peak(tmp_path):
    make(tmp_path / "one.mp4", even(1))
    make(tmp_path / "two.mp4", even(2))
    with pytest.raises(Skip, match="one frame"):
        judged(str(tmp_path / "one.mp4"), clap([0.5]))
    assert judged(str(tmp_path / "two.mp4"), clap([0.5])) == 0


def test_turned_pictures_are_judged_upright(tmp_path):
    make(tmp_path / "a.mp4", even(3), rotation=90)
    pair = Pair({"path": str(tmp_path / "a.mp4")}, {})
    assert pair.seen("video", Pictures()).pictures.shape == (3, 64, 48, 3)
    assert pair.facts["picture"] == {"frames": 3, "fps": pytest.approx(25), "decoder": "h264", "size": "48x64"}


def test_a_file_without_picture_is_bad(tmp_path):
    make(tmp_path / "a.mkv", [], sound={})
    with pytest.raises(MediaError, match="no picture"):
        judged(str(tmp_path / "a.mkv"), clap([0.5]))


def test_flow_of_tiny_pictures_is_finite(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 2, 2), np.uint8)
    assert all(math.isfinite(value) for value in align.mean_flow(iter(frames)))
