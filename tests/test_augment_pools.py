"""Pools of objects and of separated sounds: what is read, in which forms, and what is said of damage."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from avtools.augment.pool import Masklets, Stems, kept
from avtools.errors import MediaError, UsageError


def write_video(path, arrays, form, codec):
    """Frames as a video; "mpeg4" (which OpenCV calls mp4v) loses a little, "ffv1" nothing."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=24, options={"qscale": "2"} if codec == "mpeg4" else {})
        stream.height, stream.width = arrays.shape[1:3]
        stream.pix_fmt = "yuv420p" if codec == "mpeg4" else {"gray": "gray", "rgb24": "bgr0"}[form]
        for array in arrays:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, format=form)))
        output.mux(stream.encode(None))


def write_masklet(folder, name, number, frames=20, gap=(), legacy=False):
    """A masklet in the originals' form (`legacy`) or in ours; its crops and masks."""
    crops = np.full((frames, 32, 48, 3), (200, 40, 90), np.uint8)
    crops[:, :, :24] = 20
    masks = np.zeros((frames, 32, 48), np.uint8)
    masks[:, 8:24, 12:36] = 255
    visible = [k not in gap for k in range(frames)]
    boxes = [[10.0 + k, 20.0, 96.0, 64.0] if seen else [0, 0, 0, 0] for k, seen in enumerate(visible)]
    suffix, codecs = (".mp4", ("mpeg4", "mpeg4")) if legacy else (".mkv", ("ffv1", "ffv1"))
    write_video(folder / f"{name}_masklet_{number:03d}{suffix}", crops, "rgb24", codecs[0])
    write_video(folder / f"{name}_mask_{number:03d}{suffix}", masks, "gray", codecs[1])
    meta = {"video_frame_height": 480, "video_frame_width": 640, "visible": visible, "crop_bbox": boxes}
    (folder / f"{name}_meta_{number:03d}.json").write_text(json.dumps(meta))
    return crops, masks


def test_long_absences_are_shortened_to_ten_frames():
    visible = np.ones(40, bool)
    visible[5:30] = False
    assert kept(visible).tolist() == [*range(15), *range(30, 40)]
    visible[15] = True  # two of ten and fourteen
    assert kept(visible).tolist() == [*range(26), *range(30, 40)]
    assert len(kept(np.ones(3, bool))) == 3 and len(kept(np.zeros(0, bool))) == 0


@pytest.mark.parametrize("legacy", [False, True], ids=["lossless", "mp4v"])
def test_a_masklet_is_read_in_both_forms(tmp_path, legacy):
    crops, masks = write_masklet(tmp_path, "a", 0, 40, gap=range(10, 30), legacy=legacy)
    pool = Masklets(str(tmp_path))
    item = pool.load(0)
    assert len(pool) == 1 and pool.length(0) == len(item.frames) == 30 and item.size == (640, 480)
    assert item.visible.tolist() == [True] * 10 + [False] * 10 + [True] * 10
    assert item.boxes[20].tolist() == [40, 20, 96, 64] and item.extent(0, 30) == (10, 20, 49 + 96, 84)
    off = np.abs(item.frames.astype(int) - crops[0])
    if legacy:
        assert off.mean() < 8 and ((item.masks > 127) == (masks[0] > 127)).mean() > 0.97
    else:
        assert off.max() == 0 and np.array_equal(item.masks, masks[:30])


def test_a_pool_is_its_folder_its_list_inside_or_above_or_a_table(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(3):
        write_masklet(folder, "clip one", number)
    walked = Masklets(str(folder))
    assert [walked.files(k)[0] for k in range(3)] == [str(folder / f"clip one_masklet_00{k}.mkv") for k in range(3)]
    names = ["clip one_masklet_002.mp4\n", "\n", "clip one_masklet_000.mp4\r\n", "clip one_mask_000.mp4\n"]  # as mp4v, though they are not any more
    for place in (folder, tmp_path):
        (place / "pool_list.txt").write_text("".join(names))
        listed = Masklets(str(folder))
        assert [listed.files(k)[2][-8:] for k in range(len(listed))] == ["002.json", "000.json"]
        assert listed.load(0).size == (640, 480)
        if place == folder:
            assert Masklets(str(folder / "pool_list.txt")).items == listed.items
            (folder / "pool_list.txt").unlink()
    (tmp_path / "t.csv").write_text("masklet_path,mask_path,meta_path,error\n" + ",".join(walked.files(1)) + ",\n,,,lost\n")
    table = Masklets(str(tmp_path / "t.csv"))
    assert len(table) == 1 and table.files(0) == walked.files(1) and table.load(0).size == (640, 480)


def test_nothing_is_read_before_it_is_drawn(tmp_path):
    write_masklet(tmp_path, "a", 0)
    (tmp_path / "b_masklet_000.mkv").write_text("damaged")
    pool = Masklets(str(tmp_path))
    assert len(pool) == 2 and pool.length(0) == 20
    with pytest.raises(MediaError, match="b_meta_000.json: cannot be read"):
        pool.length(1)


def test_files_that_do_not_fit_each_other_are_named(tmp_path):
    write_masklet(tmp_path, "a", 0)
    meta = json.loads((tmp_path / "a_meta_000.json").read_text())

    def told(change) -> str:
        (tmp_path / "a_meta_000.json").write_text(change if isinstance(change, str) else json.dumps({**meta, **change}))
        with pytest.raises(MediaError) as caught:
            Masklets(str(tmp_path)).load(0)
        assert "a_m" in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "19 boxes" in told({"visible": [True] * 19, "crop_bbox": meta["crop_bbox"][:19]})
    assert "no description" in told({"visible": [True] * 19})
    assert "no description" in told({"crop_bbox": [[0, 0, float("nan"), 1]] * 20})
    assert "no description" in told({"video_frame_width": None})
    assert "no description" in told("[]")
    assert "no JSON" in told("{")
    assert "never visible" in told({"crop_bbox": [[0, 0, 0, 0]] * 20})


def write_stems(folder, sound, phrases, rate=8000, spans=((0, 8000),)):
    """Stems and their JSON as the originals write them: chunks of four phrases."""
    said = {}
    for k, phrase in enumerate(phrases):
        chunk, place = divmod(k, 4)
        wave = np.full(2 * rate, (k + 1) / 16, np.float32)
        soundfile.write(folder / f"{sound}__sep__{chunk:03d}_{place:03d}_{phrase.replace('/', '_')}.wav", wave, rate, "FLOAT")
        said[f"{phrase}_{chunk}_{place}"] = [list(span) for span in spans]
    (folder / f"{sound}.json").write_text(json.dumps(said))


def test_stems_are_found_by_their_json_and_read_where_they_sound(tmp_path):
    write_stems(tmp_path, "x.wav", ["a dog_barks", "rain", "AC/DC", "bells", "wind"], spans=[(0, 4000), (8000, 16000), (5, 5)])
    pool = Stems(str(tmp_path))
    stems = pool.load(0)
    assert [stem.path.rpartition("__")[2] for stem in stems] == ["000_000_a dog_barks.wav", "000_001_rain.wav", "000_002_AC_DC.wav", "000_003_bells.wav", "001_000_wind.wav"]
    assert all(stem.active == ((0, 4000), (8000, 16000)) and stem.rate == 8000 for stem in stems)
    assert np.allclose(stems[1].read(8000, 8100, 8000), 2 / 16) and stems[1].read(0, 4000, 16000).shape == (8000, 1)
    assert pool.of(("elsewhere/x.wav",)) == stems == pool.of(("none", "x.wav")) and pool.of(("y.wav",)) == []
    assert {pool.sounding(np.random.default_rng(seed)).path for seed in range(40)} == {stem.path for stem in stems}


def test_sounds_of_one_name_in_two_folders_are_not_mistaken(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_stems(tmp_path / name, "x.wav", [name])
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"group": f"{name}/x.wav", "stem_path": str(next((tmp_path / name).glob("*.wav")))}) + "\n" for name in "ab"))
    for pool in (Stems(str(tmp_path)), Stems(str(tmp_path / "t.jsonl"))):
        assert [[stem.path[-5:] for stem in pool.of((f"{name}/x.wav", "x.wav"))] for name in "abc"] == [["a.wav"], ["b.wav"], []]
        assert pool.of(("x.wav",)) == [], "which of the two is not told"


def test_a_list_names_each_file_once_from_its_own_folder(tmp_path, capsys):
    from avtools.augment.pool import PoolList

    writer = PoolList(str(tmp_path / "new/pool_list.txt"), lambda row: row.get("stem_path"))
    writer.open([], [], "csv")
    for path in ("new/ x.wav", "new/ x.wav", "y.wav", None):
        writer.write({"stem_path": path and str(tmp_path / path)})
    writer.write({"stem_path": "bad.wav", "error": "no"})
    writer.write({"stem_path": "a\nb.wav"})
    assert not list(tmp_path.glob("new/*.txt"))
    writer.commit()
    assert "lacks 1 files, whose names have line breaks" in capsys.readouterr().err
    assert (tmp_path / "new/pool_list.txt").read_text() == " x.wav\n../y.wav\n"
    write_stems(tmp_path / "new", " x.wav", ["rain"])
    shutil.copy(next(tmp_path.glob("new/*.wav")), tmp_path / "new/ x.wav")
    assert Stems(str(tmp_path / "new")).items[0] == str(tmp_path / "new/ x.wav.json")
    with pytest.raises(UsageError, match="--pool-list .* is a directory"):
        PoolList(str(tmp_path / "new"), str).open([], [], "csv")


def test_an_added_sound_is_another_one_where_there_is_one(tmp_path):
    write_stems(tmp_path, "x.wav", ["rain"])
    write_stems(tmp_path, "y.wav", ["wind"])
    pool = Stems(str(tmp_path))
    drawn = [{pool.sounding(np.random.default_rng(seed), names).path[-8:] for seed in range(20)} for names in ((), ("here/x.wav",))]
    assert drawn == [{"rain.wav", "wind.wav"}, {"wind.wav"}]
    next(tmp_path.glob("y.wav__sep__*")).unlink()
    assert Stems(str(tmp_path)).sounding(np.random.default_rng(0), ("x.wav",)).path.endswith("rain.wav")


def test_a_pool_of_stems_is_a_list_of_any_of_its_names_or_our_table(tmp_path):
    write_stems(tmp_path, "x.wav", ["rain"])
    write_stems(tmp_path, "y.wav", ["wind"], spans=[])
    for lines in (["x.wav"], ["x.wav.json"], ["x.wav__sep__000_000_rain.wav"], [str(tmp_path / "x.wav")]):
        (tmp_path / "pool_list.txt").write_text("\n".join(lines))
        pool = Stems(str(tmp_path))
        assert len(pool) == 1 and pool.load(0)[0].active == ((0, 8000),)
    (tmp_path / "pool_list.txt").write_text("y.wav\n")
    assert Stems(str(tmp_path)).sounding(np.random.default_rng(0)) is None  # silent all over
    files = [str(next(tmp_path.glob(f"{name}__sep__*"))) for name in ("x.wav", "y.wav")]
    rows = [{"group": "x.mp4", "stem_path": path, "active": [[0.25, 1.5]]} for path in files]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.csv").write_text("group,stem_path,active\n" + "".join(f'x.mp4,{path},"[[0.25, 1.5]]"\n' for path in files))
    for table in ("t.csv", "t.jsonl"):
        pool = Stems(str(tmp_path / table))
        assert len(pool) == 1 and [stem.active for stem in pool.of(("x.mp4",))] == [((2000, 12000),)] * 2


def test_what_is_wrong_with_stems_is_said(tmp_path):
    write_stems(tmp_path, "x.wav", ["rain"])
    said = tmp_path / "x.wav.json"

    def told(text):
        said.write_text(text)
        with pytest.raises(MediaError) as caught:
            Stems(str(tmp_path)).load(0)
        return str(caught.value)

    assert "no JSON" in told("{")
    assert "does not map" in told("[]")
    assert "not PHRASE_CHUNK_POSITION" in told('{"rain": []}')
    assert "no such file" in told('{"snow_0_7": []}')
    assert "are no spans" in told('{"rain_0_0": [[1]]}')
    assert "are no spans" in told('{"rain_0_0": 5}')


@pytest.mark.parametrize("kind", [Masklets, Stems])
def test_no_pool_is_wrong_usage(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("path\na.mp4\n")
    for path, words in (("none", "cannot be read"), ("empty", "no "), ("t.csv", "has no column")):
        with pytest.raises(UsageError, match=words):
            kind(str(tmp_path / path))
    (tmp_path / "pool_list.txt").write_text("x.mp4\n")
    with pytest.raises(UsageError, match="not the name of a masklet"):
        Masklets(str(tmp_path / "pool_list.txt"))


def test_a_pool_tells_when_its_files_change(tmp_path):
    write_masklet(tmp_path, "a", 0)
    write_stems(tmp_path, "x.wav", ["rain"])
    before = [kind(str(tmp_path)).digest() for kind in (Masklets, Stems)]
    assert before == [kind(str(tmp_path)).digest() for kind in (Masklets, Stems)]
    shutil.copy(tmp_path / "a_meta_000.json", tmp_path / "b_meta_000.json")
    shutil.copy(tmp_path / "a_masklet_000.mkv", tmp_path / "b_masklet_000.mkv")
    (tmp_path / "x.wav.json").write_text("{}")
    after = [kind(str(tmp_path)).digest() for kind in (Masklets, Stems)]
    assert before[0] != after[0] and before[1] != after[1]
    next(tmp_path.glob("x.wav__sep__*")).write_bytes(b"")
    assert Stems(str(tmp_path)).digest() != after[1]
    (tmp_path / "pool_list.txt").write_text("gone/x.wav\n")
    assert Stems(str(tmp_path)).digest()


def test_segments_are_read_at_exact_samples(tmp_path):
    ramp = np.arange(44100, dtype=np.float32) / 44100
    soundfile.write(tmp_path / "x.wav", ramp, 44100, "FLOAT")
    from avtools.augment.pool import Stem

    part = Stem(str(tmp_path / "x.wav"), 44100, ()).read(1001, 30011, 44100)
    assert np.array_equal(part[:, 0], ramp[1001:30011]) and Fraction(1001, 44100) * 44100 == 1001
