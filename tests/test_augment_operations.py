"""The augmentations over arrays: each changes what it says and nothing else."""

import json
from collections import Counter

import numpy as np
import pytest

from avtools.augment import audio as sounds
from avtools.augment import video as pictures
from avtools.augment.names import GROUPS
from avtools.augment.negatives import negatives
from avtools.augment.operations import OPERATIONS, Clip, augment, redo
from avtools.augment.pool import Masklet, Pools, Stem
from avtools.errors import RowError

RATE = 8000


def film(frames=40, height=37, width=50, dtype=np.uint8):
    """No two frames alike."""
    video = np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), np.uint8)
    return video if dtype == np.uint8 else (video / 127.5 - 1).astype(dtype)


def noise(seconds=2.0, channels=2, quiet=(), dtype=np.float32, level=0.1):
    audio = np.random.default_rng(2).uniform(-level, level, (round(seconds * RATE), channels)).astype(dtype)
    for low, high in quiet:
        audio[round(low * RATE) : round(high * RATE)] = 0
    return audio


class OneMasklet:
    """A pool of one object that moves and is away for a while."""

    path = "pool"

    def __init__(self, frames=30):
        rng = np.random.default_rng(3)
        boxes = np.array([[100 + 10 * k, 50, 60, 80] for k in range(frames)], float)
        visible = np.ones(frames, bool)
        visible[5:8] = False
        masks = np.zeros((frames, 16, 12), np.uint8)
        masks[:, 4:12, 3:9] = 255
        masks[:, :, 0] = 100  # what lossy encoding leaves
        self.item = Masklet("a_masklet_000.mkv", rng.integers(0, 256, (frames, 16, 12, 3), np.uint8), masks, boxes, visible, (640, 480))

    def numbers(self, rng):
        return np.zeros(1, int)

    def length(self, number):
        return len(self.item.frames)

    def load(self, number):
        return self.item


class OneStem:
    path = "pool"

    def __init__(self, file, active, rate=RATE):
        self.stem = Stem(str(file), rate, tuple(active))

    def sounding(self, rng, names=()):
        return self.stem if self.stem.active else None

    def of(self, names):
        return [self.stem] if "this.wav" in names else []


@pytest.fixture
def pools(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "stem.wav", noise(3, 1), RATE, "FLOAT")
    return Pools(OneMasklet(), OneStem(tmp_path / "stem.wav", [(0, RATE), (RATE, 3 * RATE)]))


def clip_of(name, pools, **more):
    video = OPERATIONS[name].medium == "video"
    return Clip(video=film() if video else None, audio=None if video else noise(), rate=RATE, pools=pools, **more)


# --- of all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_is_decided_by_its_seed_alters_no_input_and_can_be_done_again(name, pools):
    clip = clip_of(name, pools)
    before = (clip.video if clip.audio is None else clip.audio).copy()
    seen = set()
    for seed in range(8):
        made, record = augment(name, clip, np.random.default_rng(seed))
        again, same = augment(name, clip, np.random.default_rng(seed))
        assert record == same and np.array_equal(made, again)
        assert made.shape == before.shape and made.dtype == before.dtype and not np.array_equal(made, before)
        assert np.array_equal(redo(json.loads(json.dumps(record)), clip), made)
        seen.add(json.dumps(record))
    assert len(seen) > 4
    assert np.array_equal(clip.video if clip.audio is None else clip.audio, before)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [2, 3, 12, 13])
def test_short_clips_are_changed_or_refused_in_one_line(name, size, pools):
    video = OPERATIONS[name].medium == "video"
    clip = Clip(video=film(size, 5, 3) if video else None, audio=None if video else noise()[: size * 10], rate=RATE, pools=pools)
    for seed in range(6):
        try:
            made, _ = augment(name, clip, np.random.default_rng(seed))
        except RowError as error:
            assert "\n" not in str(error) and not video and size * 10 < 30
        else:
            assert made.shape == (clip.video if video else clip.audio).shape


@pytest.mark.parametrize("name", ["random-mask", "add-masklet"])
def test_pictures_between_minus_one_and_one_are_augmented_like_bytes(name, pools):
    whole = Clip(video=film(), pools=pools)
    parts = Clip(video=film(dtype=np.float32), pools=pools)
    made, record = augment(name, whole, np.random.default_rng(0))
    floats, same = augment(name, parts, np.random.default_rng(0))
    assert record == same and floats.dtype == np.float32
    assert np.abs(np.clip((floats + 1) * 127.5, 0, 255) - made).max() <= 0.51


def test_groups_draw_each_of_their_operations_whose_pool_there_is(pools):
    for group in GROUPS:
        names = [name for name, operation in OPERATIONS.items() if operation.group == group]
        drawn = {augment(group, clip_of(names[0], pools), np.random.default_rng(seed))[1]["op"] for seed in range(24)}
        assert drawn == set(names)
        drawn = {augment(group, clip_of(names[0], Pools()), np.random.default_rng(seed))[1]["op"] for seed in range(24)}
        assert drawn == {name for name in names if OPERATIONS[name].pool is None}


# --- pictures -------------------------------------------------------------------------------------------


def test_random_mask_covers_the_share_it_says_and_leaves_the_rest_to_the_bit():
    clip, shares = Clip(video=film(6, 96, 128)), []
    for seed in range(60):
        made, record = augment("random-mask", clip, np.random.default_rng(seed))
        covered = (made == 128).all(axis=(0, 3))
        assert np.array_equal(made[:, ~covered], clip.video[:, ~covered])
        assert covered[::16, ::16].sum() == len(record["cells"]) == round(record["ratio"] * 48)  # cells of 16 pixels, 6 x 8
        shares.append(covered.mean())
    assert 0.19 < min(shares) and max(shares) < 0.81 and abs(np.mean(shares) - 0.5) < 0.07
    clip.legacy = True
    legacy = [(augment("random-mask", clip, np.random.default_rng(seed))[0] == 128).all(axis=(0, 3)).mean() for seed in range(60)]
    assert abs(np.mean(legacy) - 0.38) < 0.05  # what drawing with replacement makes of 50 %


def test_a_mask_reaches_the_edges_of_a_frame_that_is_no_multiple_of_its_cells():
    video = film(2, 37, 50)
    _, down, across = pictures.cell_of(video)
    assert (pictures.random_mask(video, list(range(down * across))) == 128).all()


def test_a_pasted_object_changes_the_pixels_under_its_mask_and_no_others(pools):
    clip = Clip(video=np.zeros((40, 120, 160, 3), np.uint8), pools=pools)
    masklet = pools.masklets.item
    for seed in range(20):
        made, r = augment("add-masklet", clip, np.random.default_rng(seed))
        touched = made.any(axis=3)
        assert 12 <= r["frames"] <= 30 and 0 <= r["start"] <= 40 - r["frames"]
        left, top, right, bottom = masklet.extent(r["first"], r["frames"])
        fits = 160 / (right - left), 120 / (bottom - top)
        assert 0.25 <= r["scale"] <= min(fits) + 1e-9
        for k in range(40):
            at = k - r["start"]
            if not 0 <= at < r["frames"] or not masklet.visible[r["first"] + at]:
                assert not touched[k].any()
                continue
            x, y, w, h = masklet.boxes[r["first"] + at]
            x0, y0 = r["x"] + (x - left) * r["scale"], r["y"] + (y - top) * r["scale"]
            rows, columns = np.nonzero(touched[k])
            # The mask is the middle of the box: a quarter to three quarters across and down
            assert abs(columns.min() - (x0 + 0.25 * w * r["scale"])) <= 2 and abs(columns.max() + 1 - (x0 + 0.75 * w * r["scale"])) <= 2
            assert abs(rows.min() - (y0 + 0.25 * h * r["scale"])) <= 2 and abs(rows.max() + 1 - (y0 + 0.75 * h * r["scale"])) <= 2


def test_an_object_that_cannot_be_read_leaves_its_place_to_the_mask_in_a_group_only(pools):
    def broken(number):
        raise RowError("pool/a_masklet_000.mkv: is empty")

    pools.masklets.load = broken
    records = [augment("video-spatial", Clip(video=film(), pools=pools), np.random.default_rng(seed))[1] for seed in range(12)]
    instead = [record for record in records if "instead_of" in record]
    assert 2 < len(instead) < 12 and all(record["op"] == "random-mask" and "is empty" in record["reason"] for record in instead)
    assert np.array_equal(redo(instead[0], Clip(video=film())), pictures.random_mask(film(), instead[0]["cells"]))
    with pytest.raises(RowError, match="is empty"):
        augment("add-masklet", Clip(video=film(), pools=pools), np.random.default_rng(0))


def frames_of(video):
    return Counter(frame.tobytes() for frame in video)


def test_a_shift_keeps_all_frames_and_moves_them_by_a_tenth_to_a_half():
    clip, by = Clip(video=film(40)), set()
    for seed in range(100):
        made, record = augment("video-shift", clip, np.random.default_rng(seed))
        assert frames_of(made) == frames_of(clip.video)
        assert np.array_equal(made[record["frames"]], clip.video[0])
        by.add(record["frames"])
    assert by == set(range(4, 20))


def test_a_stall_holds_one_frame_and_delays_the_rest():
    clip = Clip(video=film(40))
    for seed in range(50):
        made, r = augment("stall", clip, np.random.default_rng(seed))
        start, end = r["start"], r["start"] + r["frames"]
        assert 12 <= r["frames"] <= 40 and end <= 40
        assert np.array_equal(made[: start + 1], clip.video[: start + 1])
        assert (made[start:end] == clip.video[start]).all()
        assert np.array_equal(made[end:], clip.video[start + 1 : start + 1 + 40 - end])


@pytest.mark.parametrize("op", ["video-shift", "stall", "video-temporal"])
def test_a_still_picture_is_refused_because_nothing_would_change(op):
    with pytest.raises(RowError, match="changes nothing"):
        augment(op, Clip(video=np.repeat(film(1), 20, axis=0)), np.random.default_rng(0))
    with pytest.raises(RowError, match="1 frame"):
        augment(op, Clip(video=film(1)), np.random.default_rng(0))


# --- sounds ---------------------------------------------------------------------------------------------


def outside(made, audio, record):
    low, high = record["start"], record["start"] + record["length"]
    return np.array_equal(made[:low], audio[:low]) and np.array_equal(made[high:], audio[high:])


def test_volume_is_a_gain_inside_of_its_span():
    clip, shapes = Clip(audio=noise(level=0.9), rate=RATE), set()
    n = len(clip.audio)
    for seed in range(40):
        made, r = augment("volume", clip, np.random.default_rng(seed))
        assert n / 3 <= r["length"] <= n - 10 and 0.5 <= r["gain"] <= 2 and outside(made, clip.audio, r)
        assert np.abs(made).max() <= 1
        span = slice(r["start"], r["start"] + r["length"])
        gain = r["gain"] * sounds.curve(r["shape"], r["length"])[:, None]
        assert np.allclose(made[span], np.clip(clip.audio[span] * gain, -1, 1), atol=1e-6)
        shapes.add(r["shape"])
    assert shapes == set(sounds.CURVES)
    ends = {name: sounds.curve(name, 101)[[0, 50, 100]].round(6).tolist() for name in sounds.CURVES}
    assert ends == {"sine": [0, 1, 0], "cosine": [1, 0, -1], "up": [0, 0.5, 1], "down": [1, 0.5, 0]}


def test_an_added_source_is_what_the_stem_has_while_it_is_active(pools, tmp_path):
    import soundfile

    stem, _ = soundfile.read(tmp_path / "stem.wav", dtype="float32", always_2d=True)
    clip = Clip(audio=noise(level=0.95), rate=RATE, pools=pools)
    for seed in range(20):
        made, r = augment("add-source", clip, np.random.default_rng(seed))
        assert outside(made, clip.audio, r) and any(low <= r["begin"] and r["end"] <= high for low, high in pools.stems.stem.active)
        added = (made - clip.audio)[r["start"] : r["start"] + r["length"]]
        assert np.allclose(added, stem[r["begin"] : r["end"]], atol=1e-6)  # mono to both channels, and nothing clipped
    assert np.abs(made).max() > 1


def test_a_source_of_another_rate_is_resampled(tmp_path):
    import soundfile

    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "tone.wav", tone, 44100, "FLOAT")
    clip = Clip(audio=np.zeros((2 * RATE, 1), np.float32), rate=RATE, pools=Pools(None, OneStem(tmp_path / "tone.wav", [(0, 44100)], 44100)))
    made, r = augment("add-source", clip, np.random.default_rng(0))
    assert r["length"] <= RATE
    part = made[r["start"] : r["start"] + r["length"], 0]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    assert abs(spectrum.argmax() * RATE / len(part) - 440) < 2


def test_a_deleted_source_leaves_the_others_and_without_a_stem_everything_goes(pools, tmp_path):
    import soundfile

    rest = noise(2, 2, level=0.3)
    stem = noise(3, 1)[: 2 * RATE]
    soundfile.write(tmp_path / "own.wav", stem, RATE, "FLOAT")
    known = Pools(None, OneStem(tmp_path / "own.wav", [(0, 2 * RATE)]))
    clip = Clip(audio=rest + stem, rate=RATE, pools=known, names=("this.wav",))
    for seed in range(10):
        made, r = augment("delete-source", clip, np.random.default_rng(seed))
        span = slice(r["start"], r["start"] + r["length"])
        assert outside(made, clip.audio, r) and np.allclose(made[span], rest[span], atol=1e-6)
    late = Clip(audio=(rest + stem)[4000:12000], rate=RATE, pools=known, names=("this.wav",), at=4000)  # a window of the file
    made, r = augment("delete-source", late, np.random.default_rng(0))
    assert np.allclose(made[r["start"] : r["start"] + r["length"]], rest[4000:12000][r["start"] : r["start"] + r["length"]], atol=1e-6)
    for other in (Clip(audio=clip.audio, rate=RATE, pools=known, names=("other.wav",)), Clip(audio=clip.audio, rate=RATE)):
        made, r = augment("delete-source", other, np.random.default_rng(0))
        assert "stem" not in r and outside(made, other.audio, r) and not made[r["start"] : r["start"] + r["length"]].any()


def test_a_stem_that_is_silent_for_part_of_the_segment_is_not_taken(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "own.wav", noise(2, 1), RATE, "FLOAT")
    clip = Clip(audio=noise(), rate=RATE, pools=Pools(None, OneStem(tmp_path / "own.wav", [(0, 3000)])), names=("this.wav",))
    assert all("stem" not in augment("delete-source", clip, np.random.default_rng(seed))[1] for seed in range(10))


def test_a_sound_is_rolled_or_another_window_of_its_file_is_taken():
    whole = noise(5)
    alone = Clip(audio=whole[:16000], rate=RATE)
    for seed in range(20):
        made, r = augment("audio-shift", alone, np.random.default_rng(seed))
        assert 1600 <= r["samples"] < 8000 and np.array_equal(made, np.roll(alone.audio, r["samples"], axis=0))
    for at in (0, 9000, 24000):  # to the file's end, too
        clip = Clip(audio=whole[at : at + 16000], rate=RATE, whole=whole, at=at)
        starts = [augment("audio-shift", clip, np.random.default_rng(seed)) for seed in range(60)]
        for made, r in starts:
            assert abs(r["window"] - at) >= 1600 and 0 <= r["window"] <= 24000
            assert np.array_equal(made, whole[r["window"] : r["window"] + 16000])
        if at == 9000:
            assert any(r["window"] < at for _, r in starts) and any(r["window"] > at for _, r in starts)
    assert "samples" in augment("audio-shift", Clip(audio=whole[:39000], rate=RATE, whole=whole), np.random.default_rng(0))[1]  # no room


def test_mute_and_repeat_delay_the_rest():
    clip = Clip(audio=noise(), rate=RATE)
    n = len(clip.audio)
    for seed in range(20):
        made, r = augment("mute", clip, np.random.default_rng(seed))
        start, end = r["start"], r["start"] + r["length"]
        assert n / 5 <= r["length"] <= n / 2
        assert np.array_equal(made[:start], clip.audio[:start]) and not made[start:end].any() and np.array_equal(made[end:], clip.audio[start : start + n - end])
        made, r = augment("repeat", clip, np.random.default_rng(seed))
        start, length = r["start"], r["length"]
        part = clip.audio[start : start + length]
        whole = np.concatenate([clip.audio[:start], part, part, part, clip.audio[start + length :]])
        assert n / 5 <= length <= n / 2 and np.array_equal(made, whole[:n])


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_speed_keeps_pitch_and_changes_duration(factor):
    rate = 16000
    time = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 500 * time))[:, None].astype(np.float32)
    made = sounds.stretch(tone, factor)
    assert made.shape == (round(rate / factor), 1)
    middle = made[len(made) // 4 : -len(made) // 4, 0]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * rate / len(middle) - 500) < 4
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02  # at its loudness
    bursts = np.zeros((rate, 1), np.float32)
    for at in (4000, 12000):
        bursts[at : at + 800] = noise(0.1, 1)
    found = sounds.stretch(bursts, factor)[:, 0] ** 2
    half = len(found) // 2
    for part, first, at in ((found[:half], 0, 4400), (found[half:], half, 12400)):
        assert abs(first + (part * np.arange(half)).sum() / part.sum() - at / factor) < 256  # the middle of each


def test_speed_takes_what_follows_from_the_file_else_silence():
    whole = noise(4)
    clip = Clip(audio=whole[: 2 * RATE], rate=RATE, whole=whole)
    alone = Clip(audio=clip.audio, rate=RATE)
    seen = set()
    for seed in range(16):
        made, r = augment("speed", clip, np.random.default_rng(seed))
        bare, _ = augment("speed", alone, np.random.default_rng(seed))
        end, n = r["start"] + r["length"], len(clip.audio)
        after = r["start"] + round(r["length"] / r["factor"])
        assert np.array_equal(made[: r["start"]], whole[: r["start"]])
        if after < n:
            assert np.array_equal(made[after:], whole[end : end + n - after])
            assert np.array_equal(bare[after : after + n - end], clip.audio[end : end + n - after]) and not bare[after + n - end :].any()
        seen.add(r["factor"])
    assert seen == {0.5, 2.0}


def test_segments_begin_where_something_sounds_however_soft_it_is():
    quiet = noise(quiet=[(0, 0.8), (1.2, 2)], level=0.002)  # far below the originals' threshold
    assert sounds.sounding(quiet) == [(6400, 9600)] and sounds.sounding(quiet, legacy=True) == []
    clip = Clip(audio=quiet, rate=RATE)
    for seed in range(20):
        for name in ("mute", "repeat", "speed", "volume", "delete-source"):
            made, r = augment(name, clip, np.random.default_rng(seed))
            # In the sounding part, or, where the segment is too long for that, as late as it can be
            assert 6400 <= r["start"] < 9600 or r["start"] == 16000 - r["length"] < 6400
    clip.legacy = True
    with pytest.raises(RowError, match="silent"):
        augment("mute", clip, np.random.default_rng(0))


def test_silence_is_given_another_sound_or_refused(pools):
    silent = np.zeros((2 * RATE, 2), np.float32)
    assert augment("audio-spatial", Clip(audio=silent, rate=RATE, pools=pools), np.random.default_rng(0))[1]["op"] == "add-source"
    for name in ("volume", "delete-source", "mute", "repeat", "speed", "audio-shift", "audio-temporal"):
        with pytest.raises(RowError, match="silen"):
            augment(name, Clip(audio=silent, rate=RATE), np.random.default_rng(0))
    whole = np.concatenate([silent, noise()])
    record = augment("audio-temporal", Clip(audio=silent, rate=RATE, whole=whole), np.random.default_rng(0))[1]
    assert record["op"] == "audio-shift" and record["window"] >= 3200


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="samples, channels"):
        Clip(audio=np.zeros(100, np.float32))
    with pytest.raises(ValueError, match="T, H, W, 3"):
        Clip(video=np.zeros((4, 5, 6), np.uint8))


# --- negatives ------------------------------------------------------------------------------------------


def test_each_round_has_a_negative_of_each_group_and_unpaired_sound_comes_once_at_most(pools):
    video, audio, unpaired = film(), noise(), noise(1, 1, level=0.5)
    places = Counter()
    for seed in range(80):
        made = negatives(video, audio, RATE, pools, np.random.default_rng(seed), 2, unpaired=unpaired)
        assert [one.group for one in made] == [*GROUPS, *GROUPS]
        for k, one in enumerate(made):
            assert (one.video is None) != (one.audio is None) and (one.audio is None) == one.group.startswith("video")
            assert not np.array_equal(*((one.video, video) if one.audio is None else (one.audio, audio)))
            if one.op == "unpaired":
                places[k] += 1
                assert np.array_equal(one.audio[:RATE], np.repeat(unpaired, 2, axis=1)) and not one.audio[RATE:].any()
        assert sum(one.op == "unpaired" for one in made) <= 1
    # 1/2, 1/4, 1/8 and 1/16 of the samples, in the order in which they are tried
    assert places[2] > places[3] > places[6] > 0 and abs(places[2] / 80 - 0.5) < 0.15 and sum(places.values()) / 80 > 0.85
    assert not any(one.op == "unpaired" for one in negatives(video, audio, RATE, pools, np.random.default_rng(0), 4))


def test_negatives_are_decided_by_the_generator_and_leave_out_what_cannot_be_made():
    video, silent = film(), np.zeros((RATE, 1), np.float32)
    one, other = (negatives(video, silent, RATE, Pools(), np.random.default_rng(5), 2) for _ in range(2))
    assert [(n.group, n.op, n.parameters) for n in one] == [(n.group, n.op, n.parameters) for n in other]
    assert [n.group for n in one] == ["video-spatial", "video-temporal"] * 2
    still = np.repeat(film(1), 20, axis=0)
    assert [n.group for n in negatives(still, None, 0, Pools(), np.random.default_rng(0))] == ["video-spatial"]


@pytest.mark.parametrize("name", ["mute", "repeat", "speed", "volume", "delete-source"])
def test_a_sound_at_the_very_end_is_changed_too(name):
    audio = np.zeros((1000, 1), np.float32)
    audio[930:, 0] = np.random.default_rng(0).standard_normal(70) / 4
    for seed in range(30):
        made, record = augment(name, Clip(audio=audio, rate=100), np.random.default_rng(seed))
        assert np.abs(made - audio).max() > 0.01, record
