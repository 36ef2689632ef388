"""ImageBind as a judge: what it sees and hears of a clip, JavisScore's windows, and the metrics imagebind, avhscore and javisscore."""

import csv
import io
import json
import math
import os
import pathlib
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_imagebind  # noqa: E402
import soundfile  # noqa: E402

import conftest  # noqa: E402
from avtools import hub  # noqa: E402
from avtools.errors import RowError, UsageError  # noqa: E402
from avtools.media.probe import probe  # noqa: E402
from avtools.metrics import Skip, configured  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.metrics.pictures import Clip  # noqa: E402
from avtools.models.judges import bind  # noqa: E402
from avtools.models.parts import imagebind  # noqa: E402
from avtools.models.parts.frames import clip_normalise  # noqa: E402
from avtools.models.parts.imagebind import model  # noqa: E402
from avtools.models.parts.kaldi import mel  # noqa: E402
from fixtures import even, make  # noqa: E402
from small_imagebind import SIZES  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
LEGACY = frozenset({"centring", "windows"})
METRICS = {"imagebind": bind.ImageBindScores, "avhscore": bind.AvhScore, "javisscore": bind.JavisScore}


@pytest.fixture(scope="module")
def towers():
    return small_imagebind.towers()


@pytest.fixture(scope="module")
def weights(towers, tmp_path_factory):
    file = tmp_path_factory.mktemp("imagebind") / "imagebind_huge.pth"
    torch.save(small_imagebind.released(towers), file)
    return file


# --- films ------------------------------------------------------------------------------------------------------------


def clip(count: int, fps, end=None) -> Clip:
    times = tuple(Fraction(k) / Fraction(fps) for k in range(count))
    return Clip("clip.mp4", times, Fraction(end) if end is not None else count / Fraction(fps), float(fps), "h264")


@pytest.mark.parametrize("count, fps", [(102, 24), (96, 24), (300, 30), (50, 24), (251, 25), (301, Fraction(30000, 1001)), (17, 5)])
def test_films_are_where_imagebinds_loader_has_them(count, fps):
    latest = count / Fraction(fps) - 2
    wanted = []
    for k in range(5):
        begin = latest * k / 4
        wanted.append((math.ceil(begin * fps), min(count, math.ceil((begin + 2) * fps)) - 1))
    assert bind.film_frames(clip(count, fps)) == wanted
    assert wanted[0][0] == 0 and wanted[-1][1] == count - 1


def test_films_of_short_and_slow_clips():
    assert bind.film_frames(clip(12, 12)) == [(0, 11)] * 5  # one second
    assert bind.film_frames(clip(1, 1)) == [(0, 0)] * 5
    slow = Clip("slow.mp4", (Fraction(0), Fraction(6), Fraction(10)), Fraction(11), 0.3, "h264")
    assert bind.film_frames(slow) == [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2)]  # films that begin at 0, 2.25, 4.5, 6.75 and 9 s


def test_films_show_these_frames_in_three_squares(tmp_path):
    import av

    for name, size in (("wide", (96, 64)), ("high", (48, 80))):
        make(tmp_path / f"{name}.mp4", even(50, 12), size=size, noise=True, gop=6)
        with av.open(str(tmp_path / f"{name}.mp4")) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        found = Pair({"path": str(tmp_path / f"{name}.mp4")}, {}).watched("video", bind.Films())
        assert found.shape == (15, 2, 224, 224, 3) and found.dtype == np.float32
        wide, high = (336, 224) if name == "wide" else (224, 373)
        for k, both in enumerate(bind.film_frames(clip(50, 12))):
            for side, number in enumerate(both):
                whole = torch.from_numpy(frames[number]).permute(2, 0, 1)[None] / 255
                whole = torch.nn.functional.interpolate(whole, (high, wide), mode="bilinear")[0].permute(1, 2, 0).numpy()
                middle = (wide - 224 + 1) // 2 if name == "wide" else (high - 224 + 1) // 2
                for square, begin in enumerate((0, middle, max(wide, high) - 224)):
                    part = whole[:, begin : begin + 224] if name == "wide" else whole[begin : begin + 224]
                    assert np.array_equal(found[3 * k + square, side], part), (name, k, side, square)


# --- sound ------------------------------------------------------------------------------------------------------------


def test_clips_of_sound_spread_over_it():
    assert bind.clip_bounds(51200) == [(0, 32000), (9600, 41600), (19200, 51200)]
    assert bind.clip_bounds(52803) == [(0, 32000), (10401, 42401), (20803, 52803)]
    assert bind.clip_bounds(32000) == [(0, 32000)] * 3 and bind.clip_bounds(9000, 2) == [(0, 9000)] * 2 and bind.clip_bounds(51200, 1) == [(0, 32000)]
    assert bind.clip_bounds(52800, legacy=LEGACY)[-1] == (20799, 52799) and bind.clip_bounds(52800)[-1] == (20800, 52800)  # 3.3 s is no float
    for samples in range(32001, 36000, 7):
        for right, published in zip(bind.clip_bounds(samples), bind.clip_bounds(samples, legacy=LEGACY), strict=True):
            assert right[0] - published[0] in (0, 1) and published[1] - published[0] == 32000


def test_published_clips_lose_their_mean_in_place():
    sound = np.random.default_rng(0).standard_normal(51200).astype(np.float32) + np.linspace(0, 3, 51200, dtype=np.float32)
    kept, bounds = sound.copy(), bind.clip_bounds(len(sound))
    right = bind.cut(sound, bounds)
    assert all(np.array_equal(part, sound[begin:end]) for part, (begin, end) in zip(right, bounds, strict=True))
    published = bind.cut(sound, bounds, LEGACY)
    assert np.array_equal(sound, kept)
    first = sound[:32000] - sound[:32000].mean()
    both = np.concatenate([first[9600:], sound[32000:41600]])
    assert np.allclose(published[0], first, atol=1e-6) and np.allclose(published[1], both - both.mean(), atol=1e-5)
    steps = (bind.mels(np.stack(right)) - bind.mels(np.stack(published))).abs().amax((-3, -2, -1))
    assert steps[0] < 1e-3 and (steps[1:] > 0.1).all()  # the step inside the later clips is heard, the mean is not


def test_same_clips_are_heard_once():
    sound = np.random.default_rng(0).standard_normal(60000).astype(np.float32)
    groups = [[(0, 32000)] * 3, [(8000, 40000)] * 3, [(0, 9), (5, 9)]]
    assert [len(some) for some in bind._once(sound, groups, frozenset())] == [1, 1, 2]
    published = bind._once(sound, groups, LEGACY)
    every = bind.cut(sound, [bounds for group in groups for bounds in group], LEGACY)
    assert [len(some) for some in published] == [1, 1, 2] and np.array_equal(published[1][0], every[3]) and np.array_equal(published[2][1], every[7])


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_are_of_the_same_moments():
    times = np.arange(250) / 25  # of 10 s
    windows = bind.timed_windows(times, 10.0, 160000)
    assert windows.samples.tolist() == [[8000 * k, 8000 * k + 32000] for k in range(17)]
    assert [begin for begin, _ in windows.frames] == [math.ceil(12.5 * k) for k in range(17)] and windows.frames[-1].tolist() == [200, 250]
    published = bind.counted_windows(250, 25.0, 160000)
    assert published.frames[10].tolist() == [130, 180] and published.samples[10].tolist() == [80000, 112000]  # 5.2 s beside 5 s
    longer = bind.timed_windows(times, 10.0, 300000)
    assert np.array_equal(longer.frames, windows.frames) and np.array_equal(longer.samples, windows.samples)


def test_a_last_window_ends_with_the_clip():
    times = np.arange(102) / 24
    windows = bind.timed_windows(times, 4.25, 68000)
    assert windows.samples.tolist()[-2:] == [[32000, 64000], [36000, 68000]] and windows.frames.tolist()[-2:] == [[48, 96], [54, 102]]
    assert len(bind.timed_windows(times, 4.25, 64300).samples) == 5  # 19 ms more than 4 s are none
    assert len(bind.timed_windows(times, 4.25, 65600).samples) == 6


def test_what_has_no_more_than_a_window_is_one():
    assert bind.timed_windows(np.arange(24) / 24, 1.0, 160000)._asdict().keys() == {"frames", "samples"}
    assert [part.tolist() for part in bind.timed_windows(np.arange(24) / 24, 1.0, 160000)] == [[[0, 24]], [[0, 16000]]]
    assert [part.tolist() for part in bind.timed_windows(np.arange(240) / 24, 10.0, 8000)] == [[[0, 12]], [[0, 8000]]]
    assert [part.tolist() for part in bind.timed_windows(np.zeros(1), 1.0, 16000)] == [[[0, 1]], [[0, 16000]]]
    slow = bind.timed_windows(np.array([0.0, 5.0]), 10.0, 160000)  # one frame is shown for 5 s
    assert slow.frames[[0, 3, 6, 7, 10, 16]].tolist() == [[0, 1], [0, 1], [0, 1], [1, 2], [1, 2], [1, 2]]
    assert [part.tolist() for part in bind.counted_windows(240, 24.0, 32000)] == [[[0, 240]], [[0, 32000]]]
    assert [part.tolist() for part in bind.counted_windows(1, 0.0, 99000)] == [[[0, 1]], [[0, 99000]]]


def test_the_lowest_cosines():
    values = np.arange(10) / 10
    assert bind.lowest_mean(values, 0.4) == pytest.approx(0.15) and bind.lowest_mean(values, 5) == pytest.approx(0.2)
    assert bind.lowest_mean(values[:2], 0.4) == 0 and bind.lowest_mean(values[:2], 9) == pytest.approx(0.05)  # one at least, all at most
    assert bind.cosines(np.ones((2, 3)), np.zeros(3)).tolist() == [0, 0]
    frames = np.eye(4)[[0, 0, 1, 2]]
    assert bind.javis_score(frames, np.eye(4)[:2], [[0, 2], [1, 4]], 1) == pytest.approx((1 + 0) / 2)


def test_sound_that_is_shifted_scores_less():
    """With embeddings that tell scenes of a second apart, as a perfect judge's would."""
    times = (np.arange(200) + 0.5) / 25
    windows = bind.timed_windows(times, 8.0, 128000)
    frames = np.eye(12)[2 + times.astype(int)]

    def score(shift):
        moments = [begin / 16000 + (np.arange(200) + 0.5) / 100 + shift for begin, _ in windows.samples]
        return bind.javis_score(frames, np.stack([np.eye(12)[2 + np.floor(some).astype(int)].mean(0) for some in moments]), windows.frames)

    scores = {shift: score(shift) for shift in (0, 0.2, 0.4, 1, -0.2, -0.4, -1)}
    assert scores[0] > 1.1 * scores[0.2] > 1.2 * scores[0.4] > 1.3 * scores[1] and scores[0] > 1.1 * scores[-0.2] > 1.2 * scores[-0.4] > 1.3 * scores[-1], scores


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of 4.2 s at 25 fps and one of 1.5 s, with sound of 3.3 s that is off zero."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,text,audio_text,audio_path\n"]
    for k, count in enumerate((105, 105, 18)):
        make(folder / f"{k}.mp4", even(count, 25 if count > 20 else 12), size=(96, 64), noise=True, gop=6)
        rate = 16000
        noise = np.random.default_rng(k).standard_normal(int(3.3 * rate)) * np.linspace(0.05, 0.2, int(3.3 * rate)) ** (1 + k) + np.linspace(0.3, -0.3, int(3.3 * rate))
        soundfile.write(folder / f"{k}.wav", noise, rate, subtype="FLOAT")
        lines.append(f"{folder}/{k}.mp4,a picture {k},{'a sound' if k else ''},{folder}/{k}.wav\n")
    return "".join(lines)


@pytest.fixture
def small(avtools, monkeypatch):
    """The program with a small ImageBind."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    named = {name: f"avtools.models.judges.bind:{cls.__name__}" for name, cls in METRICS.items()}
    code = f"import small_imagebind; from avtools.models import registry; registry.METRICS |= {named}; small_imagebind.main()"
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", code, *map(str, arguments)])
    return avtools


def rows(done) -> list[dict]:
    return list(csv.DictReader(io.StringIO(done.stdout)))


def stills(path: str) -> torch.Tensor:
    """Every frame (T, 3, 224, 224), scaled with PIL: 96 x 64 made 336 x 224, and the middle of it."""
    import av
    from PIL import Image

    with av.open(path) as file:
        frames = [frame.to_image().resize((336, 224), Image.BICUBIC).crop((56, 0, 280, 224)) for frame in file.decode(video=0)]
    return clip_normalise(torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2) / 255)


def cosine(one, other) -> float:
    return float(imagebind.cosines(one, other))


def heard(towers, samples, bounds):
    return towers.audio(mel(torch.stack([torch.from_numpy(samples[begin:end]) for begin, end in bounds])[:, None])[None])[0]


@pytest.mark.long
def test_scores_are_what_the_towers_say(small, clips, weights, towers):
    done = small("score", ",".join(METRICS), "--weights", weights, "--summary", "s.json", "-j1", "--batch-size", "8", input=clips)
    found = rows(done)
    for row in found:
        film = torch.from_numpy(Pair(row, {}).watched("video", bind.Films())).permute(0, 1, 4, 2, 3)
        seen = towers.vision(clip_normalise(film).transpose(1, 2)[None])[0]  # the mean of 15 is the tower's own
        samples, _ = soundfile.read(row["audio_path"], dtype="float32")
        whole = heard(towers, samples, [(0, 32000), (10400, 42400), (20800, 52800)])
        texts = towers.text(imagebind.tokenize([row["text"], row["audio_text"] or row["text"]]))
        wanted = {"ib_av": (seen, whole), "ib_tv": (texts[0], seen), "ib_ta": (texts[1], whole)}
        for column, pair in wanted.items():
            assert float(row[column]) == pytest.approx(cosine(*pair), abs=1e-4), column
        frames = towers.vision(stills(row["path"]))
        assert float(row["avhscore"]) == pytest.approx(float(imagebind.cosines(frames, whole).mean()), abs=1e-4)
        scores, fps, until = [], 25 if len(frames) > 20 else 12, min(3.3, float(probe(row["path"]).picture.duration))
        for moment in (0, 0.5, 1, 1.3) if until > 2 else (0,):
            inside = frames[[k for k in range(len(frames)) if moment - 1e-6 <= k / fps < min(until, moment + 2) - 1e-6]]
            values = imagebind.cosines(inside, heard(towers, samples, [(round(moment * 16000), int(min(until, moment + 2) * 16000))])).sort().values
            scores.append(float(values[: int(0.4 * len(values))].mean()))
        assert float(row["javisscore"]) == pytest.approx(np.mean(scores), abs=1e-4)
    told = json.loads((small.folder / "s.json").read_text())
    assert told["metrics"]["ib_av"]["mean"] == pytest.approx(np.mean([float(row["ib_av"]) for row in found]), abs=1e-6)
    assert set(told["weights"]["javisscore"].values()) == {hub.digest(weights)}
    assert len({row["javisscore"] for row in found}) == 3
    one = rows(small("score", ",".join(METRICS), "--weights", f"imagebind={weights}", "-j1", "--batch-size", "1", input=clips))
    for row, alone in zip(found, one, strict=True):
        for column in ("ib_av", "ib_tv", "ib_ta", "avhscore", "javisscore"):
            assert float(row[column]) == pytest.approx(float(alone[column]), abs=2e-6), column


@pytest.mark.long
def test_protocol_javisbench_is_as_published(small, clips, weights, towers):
    clips = "".join(clips.splitlines(keepends=True)[:2])
    (row,) = rows(small("score", ",".join(METRICS), "--protocol", "javisbench", "--weights", weights, "-j1", input=clips))
    samples, _ = soundfile.read(row["audio_path"], dtype="float32")
    frames = towers.vision(stills(row["path"]))
    bounds = bind.clip_bounds(len(samples), legacy=LEGACY)
    whole = towers.audio(bind.mels(np.stack(bind.cut(samples, bounds, LEGACY)))[None])[0]
    assert float(row["avhscore"]) == pytest.approx(float(imagebind.cosines(frames, whole).mean()), abs=1e-4)
    scores, waveform = [], samples.copy()
    for begin, first in zip((0, 8000, 16000, 20800), (0, 13, 26, 39), strict=True):
        views = []
        for _ in range(3):
            waveform[begin : begin + 32000] -= waveform[begin : begin + 32000].mean()
            views.append(waveform[begin : begin + 32000].copy())
        sound = towers.audio(bind.mels(np.stack(views))[None])[0]
        values = imagebind.cosines(frames[first : first + 50], sound).sort().values
        scores.append(float(values[:20].mean()))
    assert float(row["javisscore"]) == pytest.approx(np.mean(scores), abs=1e-4)
    (right,) = rows(small("score", ",".join(METRICS), "--weights", weights, "-j1", input=clips))
    assert all(abs(float(right[name]) - float(row[name])) > 1e-5 for name in ("ib_av", "ib_ta", "avhscore", "javisscore")) and right["ib_tv"] == row["ib_tv"]


@pytest.mark.long
def test_pairs_that_need_no_text_are_judged_without(small, clips, weights):
    wordless = "".join(",".join([line.split(",")[0], line.split(",")[3]]) for line in clips.splitlines(keepends=True))
    done = small("score", "imagebind", "--set", "pairs=av", "--weights", weights, "-j1", input=wordless)
    assert all(row["ib_av"] and "ib_tv" not in row for row in rows(done))
    done = small("score", "imagebind", "--weights", weights, "-j1", input=wordless, status=2)
    assert "imagebind needs a column audio_text or text or" in done.stderr
    assert bind.ImageBindScores(pairs="tv").needs == ("picture", "text") and bind.ImageBindScores(pairs="ta").needs == ("sound", "text")


@pytest.mark.long
def test_what_cannot_be_heard_is_skipped_or_told(small, clips, weights, tmp_path):
    path = clips.splitlines()[1].split(",")[0]
    soundfile.write(tmp_path / "click.wav", np.ones(300), 16000)
    make(tmp_path / "mute.mp4", even(30, 12), size=(96, 64))
    make(tmp_path / "one.mp4", even(1, 12), size=(96, 64))
    sound = clips.splitlines()[1].split(",")[3]
    table = f"path,text,audio_path\n{path},x,{tmp_path}/click.wav\n{tmp_path}/mute.mp4,x,\n{tmp_path}/one.mp4,x,{sound}\n{path},,{sound}\n"
    done = small("score", ",".join(METRICS), "--weights", weights, "-j1", input=table, status=1)
    told = " ".join(done.stderr.split())
    assert "its sound is 0.0187 s, too short for a spectrum" in told and "mute.mp4: has no sound" in told and "no text to judge by" in told
    found = rows(done)
    assert all(found[-1][name] for name in ("ib_av", "avhscore", "javisscore"))  # of one frame


@pytest.mark.parametrize(
    "metric, option, told",
    [
        ("imagebind", "pairs=av+vt", "of av, tv, ta"), ("imagebind", "pairs=", "of av, tv, ta"), ("imagebind", "legacy=windows", "of centring, joined"),
        ("avhscore", "legacy=center", "of centring"), ("javisscore", "legacy=x", "of centring, windows"), ("javisscore", "lowest=0", "a share above 0"),
        ("javisscore", "lowest=2.5", "a whole number"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(metric, option, told):
    with pytest.raises(UsageError, match=told):
        configured([METRICS[metric]], None, (option,))


def test_extractors_are_known_by_their_settings_and_travel():
    assert bind.BindSound(legacy="centring").key != bind.BindSound().key == pickle.loads(pickle.dumps(bind.BindSound())).key
    assert pickle.loads(pickle.dumps(bind.BindWindows(legacy="centring+windows"))).legacy == LEGACY
    for metric in METRICS.values():
        made = pickle.loads(pickle.dumps(metric()))
        assert {one.key for one, _ in made.wants().values()} == {one.key for one, _ in metric().wants().values()}
        assert {type(one) for one, _ in made.wants().values()} <= set(metric.extractors)
    frames = {extractor.key for metric in (bind.AvhScore, bind.JavisScore) for extractor, role in metric().wants().values() if role == "video"}
    assert len(frames) == 1  # seen once for both


@pytest.mark.long
def test_controls_hear_other_sounds(small, clips, weights):
    done = small("score", "javisscore,imagebind", "--weights", weights, "--canary", "--summary", "c.json", "-j1", input=clips)
    told = json.loads((small.folder / "c.json").read_text())
    assert set(told["canary"]) == {"javisscore", "ib_av"}
    for column, controls in told["canary"].items():
        assert set(controls) == {"silence", "noise", "shuffled", "shifted"} and all(entry["count"] == 3 for entry in controls.values())
        assert told["metrics"][column]["mean"] == pytest.approx(np.mean([float(row[column]) for row in rows(done)]), abs=1e-6)
        assert len({entry["mean"] for entry in controls.values()} | {told["metrics"][column]["mean"]}) == 5


def test_too_short_a_sound_is_nothing_to_judge():
    class Heard:
        def heard(self, role, rate):
            return np.zeros(399, np.float32)

    with pytest.raises(Skip, match="0.0249 s"):
        bind.heard(Heard(), "audio")


def test_text_is_the_rows(towers):
    assert bytes(bind.BindText().prepare(Pair({"text": "a", "audio_text": "b"}, {}), "audio_text")["text"]) == b"b"
    assert bytes(bind.BindText().prepare(Pair({"text": "a", "audio_text": ""}, {}), "audio_text")["text"]) == b"a"
    with pytest.raises(RowError, match="no text"):
        bind.BindText().prepare(Pair({"audio_text": "b"}, {}), "text")
    assert set(SIZES) == set(model.HUGE)
