"""Two seconds of picture and sound: where they begin, which frames, which samples, and the spectrogram that networks hear."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchaudio = pytest.importorskip("torchaudio")
Image = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")

from avtools.errors import MediaError, RowError  # noqa: E402
from avtools.models.parts import frames, kaldi, sync_clips  # noqa: E402

RAMP = 20000  # samples until the ramp of the test sounds begins anew


def film(path, fps=Fraction(25), seconds=3.0, sound=None, rate=16000, late=0.0, packet=1000, **options):
    """A film whose frames are gray by three times their number, with `sound` (samples, channels) int16 that begins `late`."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "veryfast", **options})
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = 48, 32, "yuv420p", 1 / fps
        heard = None
        if sound is not None:
            heard = out.add_stream("pcm_s16le", rate=rate, layout={1: "mono", 2: "stereo"}[sound.shape[1]])
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), number * 3 % 250, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, 1 / fps
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for at in range(0, 0 if sound is None else len(sound), packet):
            part = np.ascontiguousarray(sound[at : at + packet]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=heard.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, at + round(late * rate), Fraction(1, rate)
            out.mux(heard.encode(frame))
        if heard is not None:
            out.mux(heard.encode(None))
    return path


def ramp(seconds, rate=16000, channels=1):
    """A sound whose samples tell their number."""
    return np.repeat((np.arange(round(seconds * rate)) % RAMP + 1).astype(np.int16)[:, None], channels, 1)


def numbers(pictures) -> list[int]:
    return [round(float(picture.mean()) * 255 / 3) for picture in pictures]


def samples(sound) -> np.ndarray:
    return np.rint(sound[0] * 32768).astype(int)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / "25.mkv", sound=ramp(3.0))
    film(folder / "6.mp4", Fraction(6), 4.0)
    film(folder / "6.mkv", Fraction(6), 4.0, ramp(4.0))  # its times are whole milliseconds: 0.167, 0.333
    film(folder / "late.mkv", sound=ramp(2.9), late=0.1)
    stereo = ramp(3.0, channels=2)
    stereo[:, 1] = -500
    film(folder / "stereo.mkv", sound=stereo)
    film(folder / "silent.mkv", sound=np.zeros((48000, 1), np.int16))
    soundfile.write(folder / "ramp.wav", ramp(3.0), 16000, "PCM_16")
    return folder


# --- where clips begin ---------------------------------------------------------------------------------------------


def test_starts_of_each_kind():
    starts = sync_clips.starts
    assert starts("uniform", 8.0) == [3.0] and starts("uniform", 8.0, 3) == [0.0, 3.0, 6.0] and starts("first", 8.0) == [0.0]
    assert starts("center-compact", 4.0, 3, 0.5) == [0.5, 1.0, 1.5]
    assert starts("random-compact", 4.0, 3, 0.5, share=0.25) == [0.25, 0.75, 1.25]
    assert starts("random-compact", 5.0, share=1.0) == [3.0]
    assert len(starts("center-compact", 3.2, 31, 0.04)) == 31


def test_too_short_a_video_is_a_bad_row():
    for kind in sync_clips.KINDS:
        with pytest.raises(RowError, match=r"a\.mp4: has 1\.8 s of picture and sound together, and a clip is 2 s"):
            sync_clips.starts(kind, 1.8, name="a.mp4")
        assert sync_clips.starts(kind, 1.98) == [0.0]  # codecs do not end on time
    with pytest.raises(RowError, match="31 clips of 2 s, 0.04 s apart, need 3.2 s"):
        sync_clips.starts("center-compact", 2.9, 31, 0.04)
    assert sync_clips.starts("uniform", 1.5, 3, legacy={"short"}) == [0.0, -0.25, -0.5]


def test_extent_ends_with_what_ends_first(films):
    assert sync_clips.measure(films / "25.mkv") == (3.0, 25.0)
    assert sync_clips.measure(films / "late.mkv") == (3.0, 25.0)  # 2.9 s of sound that begin 0.1 s late
    assert sync_clips.measure(films / "6.mkv", films / "ramp.wav") == (3.0, 6.0)
    assert sync_clips.measure(films / "25.mkv", films / "6.mkv").seconds == 3.0
    with pytest.raises(MediaError, match="has no sound; give a video that has, or a sound file beside it"):
        sync_clips.measure(films / "6.mp4")
    assert sync_clips.measure(films / "6.mp4", films / "ramp.wav") == (3.0, 6.0)
    with pytest.raises(MediaError, match="has no picture; give a video"):
        sync_clips.measure(films / "ramp.wav")


# --- which frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["6.mp4", "6.mkv"])
def test_a_film_of_6_frames_per_second_loses_none(films, name):
    pictures, index, _ = sync_clips.read_pictures(films / name, [0.0, 1.0], (16, 16))
    assert numbers(pictures[index[0]]) == list(range(12)) and numbers(pictures[index[1]]) == list(range(6, 18))
    assert len(pictures) == 18  # those that both clips show are there once
    pictures, index, _ = sync_clips.read_pictures(films / name, [0.0], (16, 16), legacy=frozenset({"frames"}))
    assert numbers(pictures[index[0]])[:4] == [0, 1, 3, 4]  # as published


def test_frames_of_both_rules(films):
    chosen = {"next": [0, 5, 9, 13, 17, 21, 25, 30, 34, 38, 42, 46], "nearest": [0, 4, 8, 12, 17, 21, 25, 29, 33, 37, 42, 46]}
    for rule, wanted in chosen.items():
        pictures, index, begin = sync_clips.read_pictures(films / "25.mkv", [0.0], (8, 8), rule)
        assert numbers(pictures[index[0]]) == wanted and begin == 0
    nearest = sync_clips.read_pictures(films / "25.mkv", [0.0], (8, 8), "nearest", legacy=frozenset({"frames"}))
    assert numbers(nearest[0][nearest[1][0]])[:3] == [1, 4, 8]  # the first frame comes 0.1 ms too early


def test_of_two_equally_near_frames_the_earlier_is_taken():
    times = [Fraction(k, 12) for k in range(60)]
    middle = 1 / 24  # of two frames
    assert sync_clips.picks(times, [middle], "nearest").tolist() == [list(range(0, 24, 2))]
    assert sync_clips.picks(times, [middle], "next").tolist() == [list(range(1, 25, 2))]
    assert sync_clips.picks(times, [1e-9], "next").tolist() == [list(range(0, 24, 2))]  # a float's rounding moves nothing


def test_few_frames_stand_longer(films):
    times = [Fraction(k, 2) for k in range(6)]  # 2 frames per second
    assert sync_clips.picks(times, [0.0]).tolist() == [[0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]]
    times = [Fraction(k, 25) for k in range(47)]  # ends at 1.88 s; the last slot is at 1.833 s
    assert sync_clips.picks(times, [0.0])[0, -1] == 46
    times = times[:45]
    assert sync_clips.picks(times, [0.0])[0, -2:].tolist() == [42, 44]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("options", [{"g": "40"}, {"g": "40", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}, {"g": "1000"}])
def test_pictures_late_in_a_film_are_those_that_all_of_it_gives(tmp_path, monkeypatch, suffix, options):
    path = film(tmp_path / f"long{suffix}", seconds=14.0, **options)
    seen = []
    see = sync_clips.Picker.see
    monkeypatch.setattr(sync_clips.Picker, "see", lambda self, time: seen.append(time) or see(self, time))
    for start in (4.0, 7.61, 12.0):
        for rule in sync_clips.RULES:
            seen.clear()
            late = sync_clips.read_pictures(path, [start], (16, 24), rule)
            if suffix != ".ts" and options["g"] == "40":  # an index, and key frames
                assert 46 <= len(seen) <= 50 + 25 + 40 + 5
            with monkeypatch.context() as patched:
                patched.setattr(sync_clips, "_FAR", 1e9)
                whole = sync_clips.read_pictures(path, [start], (16, 24), rule)
            assert np.array_equal(late[0], whole[0]) and np.array_equal(late[1], whole[1]) and late[2] == whole[2]
            first = {"next": math.ceil, "nearest": round}[rule](start * 25)
            assert abs(late[0][0].mean() * 255 - first * 3 % 250) < 1.5
    with pytest.raises(MediaError, match="its picture ends at 14 s, before the clip of 2 s from 12.5 s"):
        sync_clips.read_pictures(path, [12.5], (16, 24))


def test_pictures_come_as_wanted(films, media):
    for fit, size in (("crop", (12, 20)), ("squash", (10, 30)), ("short", (16, 16))):
        pictures, _, _ = sync_clips.read_pictures(films / "25.mkv", [0.5], size, fit=fit)
        assert pictures.dtype == np.float32 and pictures.shape[1:] == (3, *size) and pictures.min() >= -0.01 and pictures.max() <= 1.01
    assert sync_clips.read_pictures(films / "25.mkv", [0.5], None)[0].shape[1:] == (3, 32, 48)
    turned, _, _ = sync_clips.read_pictures(media / "odd/nasa_13013_rotated.mp4", [0.0], None, legacy=frozenset({"short"}))
    plain, _, _ = sync_clips.read_pictures(media / "odd/nasa_13013.mp4", [0.0], None)
    assert turned.shape[2:] == plain.shape[:1:-1]  # (w, h) of the other


# --- which sound ---------------------------------------------------------------------------------------------------


def test_sound_begins_with_the_very_sample(films):
    for source in ("25.mkv", "ramp.wav"):
        for start in (0.0, 0.25, 0.98765, 1.0):
            (sound,) = sync_clips.read_sounds(films / source, [start])
            assert sound.shape == (1, 32000) and sound.dtype == np.float32
            assert samples(sound)[0] == int(start * 16000) % RAMP + 1, (source, start)
            assert (np.diff(samples(sound)) == 1).sum() >= 31997


def test_sound_that_begins_late_comes_after_silence(films):
    begin, later = sync_clips.read_sounds(films / "late.mkv", [0.0, 0.5])
    assert not samples(begin)[:1600].any() and samples(begin)[1600] == 1
    assert samples(later)[0] == 0.4 * 16000 + 1


def test_all_clips_of_a_pass_are_those_of_single_passes(films):
    begins = [0.7, 0.0, 0.0625, 1.0]
    together = sync_clips.read_clips(films / "25.mkv", begins, (8, 8))
    for k, start in enumerate(begins):
        alone = sync_clips.read_clip(films / "25.mkv", start, (8, 8))
        assert np.array_equal(alone["frames"], together["pictures"][together["index"][k]])
        assert np.array_equal(alone["sound"], together["sounds"][k])


def test_clips_far_apart_are_read_without_what_lies_between(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(-9000, 9000, (200 * 8000, 2), np.int16)
    soundfile.write(tmp_path / "long.flac", noise, 8000)
    begins = [0.0, 197.9, 31.25, 33.0]
    monkeypatch.setattr(sync_clips, "_LIMIT", 10 * 8000 * 2 * 4)  # bytes of ten seconds
    whole = torchaudio.functional.resample(torch.from_numpy(noise.T / np.float32(32768)), 8000, 16000).numpy()
    for start, sound in zip(begins, sync_clips.read_sounds(tmp_path / "long.flac", begins), strict=True):
        np.testing.assert_allclose(sound, whole[:, round(start * 16000) :][:, :32000], atol=2e-6)
    with pytest.raises(MediaError, match="long.flac: 2 channels at 8000 Hz are too much to hold"):
        sync_clips.read_sounds(tmp_path / "long.flac", list(range(0, 190, 3)))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 11111])
def test_other_rates(tmp_path, rate):
    time = np.arange(3 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "tone.wav", tone, rate, "FLOAT")
    for start in (0.0, 0.3, 15999 / 16000):
        (sound,) = sync_clips.read_sounds(tmp_path / "tone.wav", [start])
        at = start + np.arange(32000) / 16000
        inner = slice(200, -200)  # of the filter's own edges
        error = np.abs(sound[0] - 0.5 * np.sin(2 * np.pi * 440 * at))[inner].max()
        assert sound.shape == (1, 32000) and error < 1e-3  # 1 % of a sample


def test_legacy_packets_begin_late(films):
    legacy = frozenset({"packets"})
    (sound,) = sync_clips.read_sounds(films / "25.mkv", [0.1], legacy=legacy)
    assert samples(sound)[0] == 2001  # the first packet of 1000 samples that begins inside the clip
    assert sound.shape[1] == 32000  # 0.125 to 2.063 s: all packets that begin inside
    (sound,) = sync_clips.read_sounds(films / "25.mkv", [0.125], legacy=legacy)
    assert sound.shape[1] == 33000  # both ends count
    (sound,) = sync_clips.read_sounds(films / "25.mkv", [0.125], legacy=legacy, rule="nearest")
    assert sound.shape[1] == 31000  # the classifier's reader keeps off both
    (sound,) = sync_clips.read_sounds(films / "ramp.wav", [0.1], legacy=legacy)
    assert samples(sound)[0] == 1601  # a sound file is not affected


def test_legacy_stereo_takes_both_channels_by_turns(films):
    (right,) = sync_clips.read_sounds(films / "stereo.mkv", [0.125])
    assert right.shape == (2, 32000) and samples(right)[:2].tolist() == [2001, 2002] and (np.rint(right[1] * 32768) == -500).all()
    for legacy in ({"stereo"}, {"stereo", "packets"}):
        (heard,) = sync_clips.read_sounds(films / "stereo.mkv", [0.125], legacy=frozenset(legacy))
        assert samples(heard)[:4].tolist() == [2001, -500, 2002, -500]  # of the packet's first half
        assert np.rint(heard[1] * 32768)[:2].tolist() == [2501, -500]  # and of its second
    packet = np.arange(6).reshape(3, 2)
    assert sync_clips.reread(packet).T.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_sound_beside_the_video(films):
    clip = sync_clips.read_clip(films / "6.mp4", 0.5, (8, 8), films / "ramp.wav")
    assert samples(clip["sound"])[0] == 8001 and numbers(clip["frames"]) == list(range(3, 15))
    late = sync_clips.read_clip(films / "6.mp4", 0.5, (8, 8), films / "late.mkv")  # another video's: by its own clock
    assert samples(late["sound"])[0] == 0.4 * 16000 + 1


# --- what is bad ---------------------------------------------------------------------------------------------------


def test_clips_that_are_not_whole_are_bad_rows(films, tmp_path):
    with pytest.raises(MediaError, match=r"25\.mkv: its picture ends at 3 s, before the clip of 2 s from 1\.5 s is over; choose an earlier start"):
        sync_clips.read_clip(films / "25.mkv", 1.5, (8, 8))
    soundfile.write(tmp_path / "short.wav", ramp(1.5), 16000, "PCM_16")
    with pytest.raises(MediaError, match=r"short\.wav: its sound ends at 1\.5 s"):
        sync_clips.read_clip(films / "25.mkv", 0.0, (8, 8), tmp_path / "short.wav")
    soundfile.write(tmp_path / "nearly.wav", ramp(1.95), 16000, "PCM_16")
    sound = sync_clips.read_clip(films / "25.mkv", 0.0, (8, 8), tmp_path / "nearly.wav")["sound"]
    assert sound.shape == (1, 32000) and sound[0, 31199] and not sound[0, 31200:].any()
    with pytest.raises(MediaError, match="ramp.wav: has no picture"):
        sync_clips.read_clip(films / "ramp.wav", 0.0, (8, 8))
    with pytest.raises(MediaError, match="6.mp4: has no sound"):
        sync_clips.read_clip(films / "6.mp4", 0.0, (8, 8))
    with pytest.raises(MediaError, match="6.mp4: has no sound"):
        sync_clips.read_clip(films / "6.mp4", 0.0, (8, 8), legacy=frozenset({"packets"}))
    Image.new("RGB", (20, 20)).save(tmp_path / "still.png")
    with pytest.raises(MediaError, match="still.png: is a still image"):
        sync_clips.measure(tmp_path / "still.png")
    with pytest.raises(MediaError, match="still.png: its picture ends"):
        sync_clips.read_clip(tmp_path / "still.png", 0.0, (8, 8), films / "ramp.wav")
    whole = (films / "6.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="cut.mp4"):
        sync_clips.read_clip(tmp_path / "cut.mp4", 0.0, (8, 8), films / "ramp.wav")
    with pytest.raises(MediaError, match="none.mp4: no such file"):
        sync_clips.read_clip(tmp_path / "none.mp4", 0.0, (8, 8))


def test_silent_sound_is_heard_as_the_lowest_level(films):
    mel = sync_clips.mels(sync_clips.read_sounds(films / "silent.mkv", [0.0, 0.5]))
    assert mel.shape == (2, 1, 128, 204) and mel.dtype == np.float32
    assert np.allclose(mel[..., :198], (np.log(np.finfo(np.float32).eps) + 4.268) / 9.138)
    assert np.allclose(mel[..., 198:], 4.268 / 9.138)  # what is missing is not silence


# --- the spectrogram -----------------------------------------------------------------------------------------------


def test_mel_is_kaldis(media):
    from torchaudio.compliance.kaldi import fbank

    sound, rate = soundfile.read(media / "sources/dog.wav", dtype="float32")
    sound = torchaudio.functional.resample(torch.from_numpy(sound.T.copy()), rate, 16000)[:, :32000]
    settings = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0}
    wanted = fbank(sound[:1] - sound.mean(), sample_frequency=16000, **settings)
    found = kaldi.mel(sound)[0, :, :198] * kaldi.DEVIATION + kaldi.MEAN
    assert wanted.shape == (198, 128)
    torch.testing.assert_close(found.T, wanted, atol=1e-4, rtol=1e-5)


def test_mel_of_many_clips_is_each_ones():
    sound = torch.randn(2, 5, 2, 32000, generator=torch.Generator().manual_seed(0))
    mel = kaldi.mel(sound)
    assert mel.shape == (2, 5, 1, 128, 204)
    for row, clips in zip(mel, sound, strict=True):
        for one, clip in zip(row, clips, strict=True):
            torch.testing.assert_close(one, kaldi.mel(clip), atol=1e-4, rtol=0)
    loud = kaldi.mel(sound * 1000)  # no band is beyond what the type holds, also where the rest is in half precision
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kaldi.mel(sound * 1000), loud)


def test_mel_of_any_length():
    tone = torch.sin(torch.arange(40000) * 0.2)[None]
    assert torch.equal(kaldi.mel(tone), kaldi.mel(tone[:, 4000:36000]))  # the middle
    assert kaldi.mel(tone, samples=None).shape == (1, 128, 204) and not torch.equal(kaldi.mel(tone, samples=None), kaldi.mel(tone))
    assert kaldi.mel(tone, frames=100).shape == (1, 128, 100)
    for length in (0, 1, 399):
        assert torch.allclose(kaldi.mel(tone[:, :length]), torch.tensor(4.268 / 9.138))
    assert kaldi.filterbank(tone[0, :400]).shape == (1, 128)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_cropped_or_squashed():
    wide = torch.zeros(2, 5, 3, 20, 60)
    wide[..., 20:40] = 1  # the middle third
    assert frames.crop_to(wide, 10, 10).shape == (2, 5, 3, 10, 10) and frames.crop_to(wide, 10, 10).min() > 0.99
    assert frames.short_side(wide, 10).shape == (2, 5, 3, 10, 10) and frames.short_side(wide, 10)[..., 2:-2].min() > 0.99
    squashed = frames.squash(wide, 10, 12)
    assert squashed.shape == (2, 5, 3, 10, 12) and squashed[..., :3].max() < 0.1 and squashed[..., 5:7].min() > 0.9
    tall = wide.transpose(-1, -2)
    assert torch.equal(frames.crop_to(tall, 10, 10), frames.crop_to(wide, 10, 10).transpose(-1, -2))
    assert torch.equal(frames.crop_to(wide, 20, 60), wide)
    assert frames.crop_to(torch.rand(3, 1000, 1), 8, 64).shape == (3, 8, 64)  # never less than one line
    same = frames.clip_normalise(torch.tensor(frames.CLIP_MEAN).view(3, 1, 1).expand(3, 2, 2))
    assert torch.allclose(same, torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_they_say(tmp_path, kind, orientation):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :, 0], picture[:, :30, 1] = 255, 200  # red above, green on the left
    names = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270".split()
    stored = {number: Image.Transpose[name] for number, name in enumerate(names, 2)}
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.transpose(stored[orientation]) if orientation in stored else image
    image.save(tmp_path / f"turned.{kind}", exif=exif, **({} if kind == "png" else {"quality": 95}))
    found = frames.read_image(tmp_path / f"turned.{kind}")
    assert found.shape == (3, 40, 60) and found.dtype == torch.float32
    assert (found - torch.from_numpy(picture.transpose(2, 0, 1) / 255)).abs().mean() < 0.03


def test_images_with_alpha_lie_on_white(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[..., 0], pixels[:, :10, 3], pixels[:, 10:15, 3] = 255, 255, 51
    image = Image.fromarray(pixels)
    image.save(tmp_path / "rgba.png")
    image.save(tmp_path / "rgba.webp", lossless=True)
    image.quantize(4).save(tmp_path / "palette.png")
    for name in ("rgba.png", "rgba.webp", "palette.png"):
        found = frames.read_image(tmp_path / name)[:, 5]
        wanted = torch.tensor([[1, 1, 1], [0, 0.8, 1], [0, 0.8, 1]])
        torch.testing.assert_close(found[:, [5, 12, 17]], wanted, atol=0.01, rtol=0)


def test_images_of_other_kinds(tmp_path, films, media):
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "gray16.png")
    torch.testing.assert_close(frames.read_image(tmp_path / "gray16.png"), torch.full((3, 4, 6), 40000 / 65535))
    assert numbers(frames.read_image(films / "25.mkv")[None]) == [0]  # a video's first frame
    lion = np.asarray(Image.open(media / "lion_and_gun.png"), np.float32).transpose(2, 0, 1) / 255
    assert np.array_equal(frames.read_image(media / "lion_and_gun.png").numpy(), lion)


def test_images_that_cannot_be_read_are_bad_rows(tmp_path, films):
    Image.new("RGB", (300, 300), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.png").touch()
    for name, what in (("cut.png", "complete"), ("text.png", "text.png"), ("empty.png", "empty"), ("none.png", "no such file")):
        with pytest.raises(MediaError, match=what) as caught:
            frames.read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="ramp.wav: has no picture"):
        frames.read_image(films / "ramp.wav")
