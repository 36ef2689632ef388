"""JavisDiT's tables from real metadata by pipes alone: stage 1 over several data sets at once, stage 3 over clips.

The media are small and made here; their names, and all captions but ESC-50's (a file of its documented form), are real.
"""

import csv
import io
import pathlib
import shutil
import sys

import numpy
import pytest
import soundfile

import fixtures as fx
from conftest import ROOT


@pytest.fixture(scope="module")
def datasets(request) -> pathlib.Path:
    media = request.getfixturevalue("media")
    if not (media.parent / "datasets/vggsound").is_dir():
        pytest.skip("no folder of metadata tables beside AVTOOLS_MEDIA")
    return media.parent / "datasets"


def table(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def sound(path: pathlib.Path, seconds=0.5, rate=22050):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, numpy.sin(numpy.arange(round(seconds * rate)) / 9) * 0.3, rate, format="FLAC" if path.suffix == ".flac" else "WAV")


@pytest.fixture
def root(tmp_path, datasets):
    """Three data sets as they came, with clips that none of them knows; and what each clip's caption should be."""
    folder, wanted = tmp_path / "data", {}
    shutil.copytree(datasets / "audiocaps", folder / "AudioCaps/dataset")
    clips = table(datasets / "audiocaps/train.csv")[:400:40]
    for k, clip in enumerate(clips):
        name = (f"Y{clip['youtube_id']}", f"{clip['youtube_id']}_{clip['start_time']}", f"{clip['youtube_id']}_{int(clip['start_time']):06d}")[k % 3]
        sound(folder / f"AudioCaps/audio/{k % 2}/{name}.flac")
        wanted[name] = ("audiocaps", clip["caption"], "train")
    (folder / "VGG-Sound").mkdir()
    shutil.copy(datasets / "vggsound/test.csv", folder / "VGG-Sound/test.csv")
    with open(datasets / "vggsound/test.csv", newline="") as file:
        for name, label in list(csv.reader(file))[5:400:50]:
            sound(folder / "VGG-Sound/audio" / f"{name[:-4]}.wav")
            wanted[name[:-4]] = ("vggsound", label, "test")
    (folder / "ESC-50/meta").mkdir(parents=True)
    lines = ["filename,fold,target,category,esc10,src_file,take", "1-100032-A-0.wav,1,0,dog,True,100032,A", "1-17367-A-10.wav,1,10,water_drops,True,17367,A"]
    (folder / "ESC-50/meta/esc50.csv").write_text("\r\n".join(lines) + "\r\n")
    for name, caption in (("1-100032-A-0", "dog"), ("1-17367-A-10", "water drops")):
        sound(folder / f"ESC-50/audio/{name}.wav")
        wanted[name] = ("esc50", caption, "")
    sound(folder / "VGG-Sound/audio/nobodyknows_000000.wav")
    sound(folder / "elsewhere/hum.wav")
    return folder, wanted


def check(rows, wanted):
    assert len(rows) == len(wanted)
    for row in rows:
        stem = pathlib.Path(row["audio_path"]).stem
        source, caption, split = wanted[stem]
        assert (row["source"], row["audio_text"]) == (source, caption) and row["split"] in (split, "")
        assert row["path"] == "placeholder.mp4" and int(row["num_frames"]) == 12
        assert soundfile.info(row["audio_path"]).samplerate == 16000


PREPARE = "avtools mkmeta scan audio data | avtools probe | avtools trim --max-seconds 30 -d trimmed | avtools resample --rate 16000 --channels 1 -d wav16"


def test_stage_1_of_several_data_sets_by_a_pipe(avtools, root, monkeypatch):
    folder, wanted = root
    monkeypatch.chdir(avtools.folder)
    for names in ("all", "vggsound,esc50,audiocaps"):
        done = avtools.pipe(f"{PREPARE} | avtools mkmeta join {names} --data-root data --unmatched lost.csv | avtools mkmeta dummy-video -o t.csv")
        check(table("t.csv"), wanted)
        lost = [row for row in table("lost.csv") if row["unmatched"] == "media"]
        assert sorted(row["id"] for row in lost) == ["hum", "nobodyknows_000000"]
        captions = {name: sum(1 for _, (source, *_) in wanted.items() if source == name) for name in ("audiocaps", "vggsound", "esc50")}
        for name, count in captions.items():
            assert f"{name}: {count} rows matched" in done.stderr
        assert f"{len(wanted) + 2} rows in = {len(wanted)} done + 2 filtered + 0 bad" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_stage_1_by_the_workflow_and_as_javisdit_reads_it(avtools, root, monkeypatch):
    import pandas

    folder, wanted = root
    monkeypatch.chdir(avtools.folder)
    avtools.pipe(f"make -f {ROOT}/workflows/javisdit.mk stage1 DATA_ROOT=data/ OUT=out MAX_BAD=0 AVTOOLS='{sys.executable} -m avtools'")
    check(table("out/stage1.csv"), wanted)
    training = pandas.concat([pandas.read_csv(path) for path in sorted(pathlib.Path("out/stage1").glob("*.csv"))])  # as its loader does
    assert len(training) == len(wanted) and {"path", "num_frames", "height", "width", "audio_path", "audio_fps", "audio_text"} <= set(training)
    assert (training.id == "placeholder").all() and (training.text == "placeholder").all() and (training.speech == -1).all() and (training.num_frames == 12).all()
    assert sorted(training.audio_text) == sorted(caption for _, caption, _ in wanted.values())


def test_stage_3_by_a_pipe(avtools, datasets):
    with open(datasets / "vggsound/test.csv", newline="") as file:
        chosen = dict(list(csv.reader(file))[:3])
    (avtools.folder / "clips").mkdir()
    for name in [*chosen, "unknownclip_000030.mp4"]:
        fx.make(avtools.folder / "clips" / name, fx.even(30, fps=30), sound={"seconds": 1})
    done = avtools.pipe(
        "avtools mkmeta scan video clips/ | avtools probe --fmin 10 | avtools uni-fps --fps 24 -d fps24 | avtools extract-audio --rate 16000 -d wav"
        f" | avtools mkmeta join vggsound --data-root {datasets} | avtools mkmeta export javisdit -d stage3"
    )
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["relpath"]: row["text"] for row in rows} == chosen
    (written,) = (avtools.folder / "stage3").glob("*.csv")
    for row, exported in zip(rows, table(written), strict=True):
        assert (exported["num_frames"], exported["fps"], exported["audio_fps"], exported["text"]) == ("24", "24.0", "16000", row["text"])
    assert "4 rows in = 3 done + 1 filtered + 0 bad" in done.stderr


def pooled(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that a pool's list names, all of which are there."""
    found = [folder / line for line in (folder / "pool_list.txt").read_text().splitlines()]
    assert found and all(path.is_file() for path in found)
    return found


@pytest.mark.long
def test_stage_2_by_the_workflow_on_synthetic_clips_without_weights(avtools, monkeypatch):
    monkeypatch.chdir(avtools.folder)
    avtools("synth", "-n", "3", "--seconds", "1", "-d", "toys", "-o", "toys.csv")
    line = f"make -f {ROOT}/workflows/javisdit.mk stage2 PAIRS=toys.csv OUT=out UNPAIRED=no MAX_BAD=0 AVTOOLS='{sys.executable} -m avtools'"
    avtools.pipe(f"{line} SEPARATE='--method hpss' OBJECTS=toys.csv MASKLETS='--mask-column mask_path'")
    stems, masklets = table("out/stems.csv"), table("out/masklets.csv")
    assert {row["query"] for row in stems} == {"harmonic", "percussive", "residual"} and len(stems) == 9 and len(masklets) == 3
    assert len(pooled(pathlib.Path("out/masklets"))) == 3
    assert {path.name.split("__")[0] for path in pooled(pathlib.Path("out/stems"))} <= {f"0000{k}.mp4" for k in range(3)}
    assert [row["path"] for row in table("out/stage2.csv")] == [row["path"] for row in table("toys.csv")]
    seen = avtools.pipe("avtools augment audio-spatial toys.csv --stems out/stems -d seen | avtools augment add-masklet --masklets out/masklets -d both")
    assert seen.stdout.count("add-masklet") == 3


def test_stage_2_on_real_clips(avtools, media, monkeypatch):
    """A clip cut short, its sound separated, its objects carried by optical flow between annotated frames."""
    import json

    monkeypatch.chdir(avtools.folder)
    source = sorted((media / "vggsound").glob("*.mp4"))[-1]
    avtools.pipe(f"avtools trim --max-seconds 1 -d clips {source} | avtools probe -o short.csv")
    (row,) = table("short.csv")
    count, height, width = (int(row[name]) for name in ("num_frames", "height", "width"))
    box = numpy.zeros((height, width), bool)
    box[height // 4 : height // 2, width // 4 : width // 2] = True
    runs = numpy.diff(numpy.flatnonzero(numpy.concatenate([[True], numpy.diff(box.ravel("F")) != 0, [True]])))
    masks = [[{"size": [height, width], "counts": [int(run) for run in runs]}] for _ in range(-(-count // 4))]
    told = {"video_frame_count": count, "video_resolution": height * width, "masklet": masks, "masklet_size_bucket": ["large"], "masklet_size_rel": [0.06]}
    pathlib.Path(row["path"]).with_name(pathlib.Path(row["path"]).stem + "_manual.json").write_text(json.dumps(told))
    line = f"make -f {ROOT}/workflows/javisdit.mk stage2 PAIRS=short.csv OUT=out UNPAIRED=no MAX_BAD=0 AVTOOLS='{sys.executable} -m avtools'"
    avtools.pipe(f"{line} SEPARATE='--method nmf' OBJECTS=clips MASKLETS='--method interpolate'")
    assert len(pooled(pathlib.Path("out/masklets"))) == 1 and len(pooled(pathlib.Path("out/stems"))) >= 1
    assert len(table("out/stage2.csv")) == 1
