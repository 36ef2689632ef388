"""VATT through the commands, as real processes: a run and what is sampled from it, features without their encoder, and what is refused."""

import csv
import io
import json
import os
import pathlib

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("peft")

import conftest  # noqa: E402
from avtools import features, hub  # noqa: E402
from avtools.errors import FatalError, MediaError, RowError, UsageError  # noqa: E402
from avtools.models.parts.tiny.sound_codes import SoundCodes  # noqa: E402
from avtools.models.vatt import masking  # noqa: E402
from avtools.models.vatt.config import CONVERTER_PRESETS, PRESETS, Config, ConverterConfig  # noqa: E402
from avtools.models.vatt.system import VattAudio, VattConverter  # noqa: E402
from avtools.models.vta_ldm.checkpoint import digest_of_module  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from fake_hub import FakeHub  # noqa: E402

NET = ("net.dim=32", "net.first_blocks=1", "net.second_blocks=1", "net.first_heads=2", "net.second_heads=2", "net.head_dim=16", "net.feed=2")
SMALL = ["--preset", "tiny", *(word for one in ("train.batch_size=2", "previews=0") for word in ("--set", one)), "--max-steps", "1", "-j", "1"]
AUDIO = [*SMALL, *(word for one in NET for word in ("--set", one))]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> conftest.Program:
    """The program in a folder with six clips, t.csv, their features, f.csv, and the runs conv and run."""
    program = conftest.Program(tmp_path_factory.mktemp("vatt"))
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    program("synth", "-n", 6, "--seconds", 2, "--fps", 24, "--size", "64x48", "--objects", 1, "--no-fsync", "-j", 1, "-d", "s", "-o", "t.csv")
    program("features", "vatt", "t.csv", "--preset", "tiny", "-d", "f", "-o", "f.csv", "-j", 1)
    program("train", "vatt-converter", "f.csv", *SMALL, "-d", "conv")
    program("train", "vatt-audio", "f.csv", *AUDIO, "--weights", "converter=conv", "-d", "run")
    yield program
    os.environ.clear()
    os.environ.update(before)


def table(program, name: str, change=None, count: int = 6, source: str = "t.csv") -> str:
    """A table of the first rows, each changed by `change(row, number)`."""
    with open(program.folder / source, newline="") as file:
        found = list(csv.DictReader(file))[:count]
    for number, row in enumerate(found):
        (change or (lambda row, number: None))(row, number)
    columns = list(dict.fromkeys(name for row in found for name in row))
    with open(program.folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(found)
    return name


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def bad_of(program, run: str) -> str:
    return (program.folder / run / "bad.jsonl").read_text()


def sample(*more):
    return ["sample", "vatt", "--weights", "run", "--weights", "converter=conv", "--steps", "2", "-j", "1", *more]


# --- what it makes --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_videos_become_sound_and_captions_of_the_models_own_stay_with_it(place):
    mine = sample("t.csv", "--set", "sampling.prompt=self", "--set", "sampling.caption_tokens=6", "--mux", "-d", "made")
    done = place(*mine)
    made = rows(done.stdout)
    assert all(row["generated_caption"] for row in made) and [*made[0]][-3:] == ["generated_audio_path", "generated_path", "generated_caption"]
    sound, rate = soundfile.read(place.folder / made[0]["generated_audio_path"])
    assert rate == 16000 and sound.shape == (32000,) and (place.folder / made[0]["generated_path"]).is_file()
    again = place(*mine)  # from the journal, for nothing was generated
    assert again.stdout == done.stdout and "12 reused" in again.stderr


@pytest.mark.long
def test_captions_alone_write_no_files_and_are_asked_with_the_users_words(place):
    (place.folder / "pool.txt").write_text("what is heard?\n")
    mine = ["--set", "sampling.captions=true", "--set", "sampling.caption_tokens=6"]
    there = sorted(place.folder.rglob("*"))
    made = rows(place(*sample("t.csv", *mine, "--samples-per-row", "2")).stdout)
    assert len(made) == 12 and all(row["generated_caption"] for row in made) and "generated_audio_path" not in made[0]
    assert sorted(place.folder.rglob("*")) == there  # nor is -d asked for
    assert "where to? give -d DIR" in place(*sample("t.csv"), status=2).stderr
    assert len(rows(place(*sample("t.csv", *mine, "--prompt-pool", "pool.txt")).stdout)) == 6
    assert "sound" in place(*sample("t.csv", *mine, "--mux"), status=2).stderr
    (place.folder / "pool.txt").write_text("\n")
    assert "gone.txt: No such file or directory; give a text file of one instruction a line" in place(*sample("t.csv", *mine, "--prompt-pool", "gone.txt"), status=2).stderr
    assert "pool.txt: holds no instruction" in place(*sample("t.csv", *mine, "--prompt-pool", "pool.txt"), status=2).stderr


@pytest.mark.long
def test_a_sample_depends_on_the_instructions(place):
    """Files are made anew where the file of instructions has other words."""
    mine = sample("t.csv", "--set", "sampling.prompt=none", "--prompt-pool", "words.txt", "-d", "pooled", "--why")
    (place.folder / "words.txt").write_text("what is heard?\n")
    place(*mine)
    assert "6 reused" in place(*mine).stderr
    (place.folder / "words.txt").write_text("what sounds?\n")
    assert "6 made" in place(*mine).stderr


@pytest.mark.parametrize("words", [["sample", "vta-ldm", "--prompt-pool", "x.txt"], ["features", "vta-ldm", "--normalize"], ["train", "vta-ldm", "--prompt-pool", "x.txt"]])
def test_options_that_a_system_has_no_use_for_are_refused(avtools, words):
    (avtools.folder / "t.csv").write_text("path\nx.mp4\n")
    assert f"{words[2]}: vta-ldm has nothing of the kind; leave it out" in avtools(*words, "t.csv", "-d", "refused", status=2).stderr


def test_training_needs_no_released_weights():
    assert [part.name for part in VattAudio.parts if not part.optional] == ["language", "eva02", "codec"]


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_normalized_features_are_of_unit_length_and_told_apart(place):
    unit = rows(place("features", "vatt", table(place, "two.csv", count=2), "--preset", "tiny", "--normalize", "-d", "unit", "-j", "1", "-o", "-").stdout)
    table(place, "unit.csv", lambda row, k: row.update(features_path=unit[k]["features_path"]), 2)
    arrays = features.read(place.folder / unit[0]["features_path"])
    np.testing.assert_allclose(np.linalg.norm(arrays["features"].astype(np.float32), axis=1), 1, atol=1e-2)
    for system, words in (("vatt-audio", AUDIO), ("vatt-converter", SMALL)):
        assert "unit_length is True, not False" in place("train", system, "unit.csv", *words, "-d", f"unit-{system}", status=2).stderr
    place("train", "vatt-converter", "unit.csv", *SMALL, "--set", "unit_length=true", "-d", "unit-run")
    table(place, "alone.csv", lambda row, k: [row.pop(name) for name in [*row] if name not in ("id", "features_path")], 1, "f.csv")
    (alone,) = rows(place(*sample("alone.csv", "-d", "alone")).stdout)  # no video: the features' name and length
    assert alone["generated_audio_path"] == "alone/00000.wav" and soundfile.info(place.folder / alone["generated_audio_path"]).frames == 32000
    done = place(*sample("unit.csv", "-d", "unit-made"), status=1)
    assert "unit_length is True, not False" in done.stderr and "2 bad" in done.stderr


EVA_FACTS = {"encoder": "eva02", "features": "768", "frame_rate": "5.0", "frame_size": "336", "unit_length": "False", "encoder_digest": "0123456789abcdef"}
EVA_FACTS |= {"codec": "sound-codes", "sample_rate": "16000", "peak": "0.5", "window": "2.0"}
EVA_SETS = ("encoder=eva02", "features=768", "frame_rate=5.0", "frame_size=336")


def eva_features(path, digest: str = EVA_FACTS["encoder_digest"], **arrays) -> str:
    """A file as the real encoder of pictures and the small codec would leave it."""
    arrays = {"features": np.zeros((10, 768), np.float16), "tokens": np.zeros((6, 50), np.int16)} | arrays
    features.write(path, arrays, {**EVA_FACTS, "codec_digest": digest_of_module(SoundCodes()), "encoder_digest": digest})
    return str(path)


def test_the_first_features_tell_which_encoder_made_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mine, other = eva_features(tmp_path / "a.safetensors"), eva_features(tmp_path / "b.safetensors", "f" * 16)
    longer = eva_features(tmp_path / "c.safetensors", tokens=np.zeros((6, 100), np.int16))
    for kind, presets, config in ((VattAudio, PRESETS, Config), (VattConverter, CONVERTER_PRESETS, ConverterConfig)):
        system = kind(settings.resolve(config, presets, "tiny", None, [*EVA_SETS, *(NET if kind is VattAudio else ())]))
        system.build(hub.Weights({}), hub.Weights({}), torch.device("cpu"))
        with pytest.raises(FatalError, match="EVA02-CLIP"):
            system.check_row({"path": "x.mp4"})
        system.check_row({"features_path": mine})
        function, options = system.item_work()
        assert function({"features_path": mine, "text": "rain"}, 0, options)["features"].shape == (10, 768)
        with pytest.raises(MediaError, match="encoder_digest is ffffffffffffffff, not 0123456789abcdef"):
            function({"features_path": other, "text": "rain"}, 0, options)
        with pytest.raises(RowError, match="x.mp4: the row has no features.*--weights eva02=FILE"):
            function({"path": "x.mp4", "text": "rain"}, 0, options)
        if kind is VattAudio:
            with pytest.raises(RowError, match="c.safetensors: features of 2 s, its sound tokens 4 s"):
                function({"features_path": longer}, 0, options)


@pytest.mark.long
def test_training_on_features_needs_no_encoder_of_pictures(place):
    """Without --weights eva02 the first file tells which it was; others of it are refused, and so are rows without features."""
    (place.folder / "eva").mkdir(exist_ok=True)

    def stored(row, k):
        if k < 5:
            row["features_path"] = f"eva/{k}.safetensors"
            eva_features(place.folder / row["features_path"], "f" * 16 if k == 4 else EVA_FACTS["encoder_digest"])

    table(place, "eva.csv", stored)
    seen = [word for one in EVA_SETS for word in ("--set", one)]
    for system, words in (("vatt-audio", AUDIO), ("vatt-converter", SMALL)):
        run = f"eva-{system}"
        place("train", system, "eva.csv", *words, *seen, "--max-steps", "6", "-d", run)  # six steps of two: every row comes up
        bad = bad_of(place, run)
        assert "encoder_digest is ffffffffffffffff, not 0123456789abcdef" in bad and "the row has no features" in bad and "--weights eva02=FILE" in bad
        assert len(bad.splitlines()) == 2
        table(place, "pictures.csv")
        done = place("train", system, "pictures.csv", *words, *seen, "-d", f"{run}-none", status=3, env={"HF_HUB_CACHE": str(place.folder / "empty")})
        assert "no weights of EVA02-CLIP" in done.stderr and "--weights eva02=" in done.stderr
    table(place, "seen.csv", stored, 4)
    mine = ["--weights", "eva-vatt-audio", "--weights", "converter=eva-vatt-converter", "--steps", "2", "-j", "1", "-d", "eva-made"]
    nowhere = {"HF_HUB_CACHE": str(place.folder / "empty")}
    assert "4 made" in place("sample", "vatt", "seen.csv", *mine, env=nowhere).stderr
    table(place, "half.csv", stored)
    done = place("sample", "vatt", "half.csv", *mine, status=3, env=nowhere)
    assert "no weights of EVA02-CLIP" in done.stderr and "--weights eva02=" in done.stderr
    assert "gone: no such file" in place("sample", "vatt", "half.csv", *mine, "--weights", "eva02=gone", status=3).stderr


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("shape, told", [((48, 7), "features (48, 7), not (48, 2304)"), ((10, 2304), "features (10, 2304), not (48, 2304)")])
def test_features_of_another_length_or_width(place, shape, told):
    np.save(place.folder / "wrong.npy", np.zeros(shape, np.float32))
    np.save(place.folder / "right.npy", np.zeros((48, 2304), np.float32))
    np.save(place.folder / "tokens.npy", np.zeros((50, 6), np.int64))
    np.save(place.folder / "long.npy", np.zeros((100, 6), np.int64))

    def change(row, k, wrong):
        row |= {"features_path": "wrong.npy" if k == wrong else "right.npy", "tokens_path": "long.npy" if k == 5 else "tokens.npy"}

    table(place, "wrong.csv", lambda row, k: change(row, k, 0))
    for system, words in (("vatt-audio", AUDIO), ("vatt-converter", SMALL)):
        assert told in place("train", system, "wrong.csv", *words, "-d", f"wrong-{system}", status=2).stderr  # all rows may be so
    table(place, "wrong.csv", lambda row, k: change(row, k, 3))
    run = f"wrong-one-{shape[1]}"
    place("train", "vatt-audio", "wrong.csv", *AUDIO, "--max-steps", "6", "-d", run)
    bad = bad_of(place, run)
    assert told in bad and "right.npy: features of 2 s, its sound tokens 4 s" in bad and len(bad.splitlines()) == 2
    if shape[1] == 7:
        done = place(*sample(table(place, "one.csv", lambda row, k: change(row, k, 0), 2), "-d", "wrong-made"), status=1)
        assert "features (48, 7), not (F, 2304)" in done.stderr and "1 done" in done.stderr


@pytest.mark.long
def test_a_missing_caption(place):
    def change(row, k):
        if k == 2:
            row |= {"audio_text": " ", "text": ""}

    place("train", "vatt-converter", table(place, "silent.csv", change, source="f.csv"), *SMALL, "--max-steps", "6", "-d", "silent")
    bad = bad_of(place, "silent")
    assert "the row has no caption (columns looked at: audio_text, text" in bad and len(bad.splitlines()) == 1
    assert "1 done" in place(*sample(table(place, "one.csv", lambda row, k: row.update(audio_text="", text=""), 1), "-d", "silent-made")).stderr  # asked as by prompt=none


@pytest.mark.long
def test_a_prompt_beyond_the_limit(place):
    change = lambda row, k: row.update(audio_text="rain " * 99) if k == 1 else None  # noqa: E731
    done = place(*sample(table(place, "wordy.csv", change, 3), "-d", "wordy"), status=1)
    assert "limit is 64" in done.stderr and "3 rows in = 2 done + 0 filtered + 1 bad" in done.stderr


@pytest.mark.long
def test_a_video_without_frames(place):
    heard = next((place.folder / "s").rglob("*.wav"))
    (place.folder / "empty.mp4").write_bytes(b"")
    paths = [str(heard.relative_to(place.folder)), "empty.mp4"]
    table(place, "blind.csv", lambda row, k: row.update(path=paths[k]) if k < 2 else None, 3)
    for words in (sample("blind.csv", "-d", "blind"), ["features", "vatt", "blind.csv", "--preset", "tiny", "-d", "blind-f", "-j", "1"]):
        done = place(*words, status=1)
        assert "3 rows in = 1 done + 0 filtered + 2 bad" in done.stderr and "is no moving picture; give a video" in done.stderr and "empty.mp4: is empty" in done.stderr


@pytest.mark.long
def test_another_codec(place):
    assert "net.codes 99" in place("train", "vatt-audio", "f.csv", *AUDIO, "--set", "net.codes=99", "-d", "codes", status=2).stderr
    done = place("train", "vatt-audio", "f.csv", *AUDIO, "--set", "codec=encodec", "-d", "codes", status=3)
    assert "no weights of AudioGen's EnCodec" in done.stderr and "--weights codec=" in done.stderr
    run = hub.checkpoint_of(place.folder / "run")
    tensors = hub.tensors(run / "model.safetensors")
    hub.save_checkpoint(place.folder / "other", {"model.safetensors": ({**tensors, "codebooks": tensors["codebooks"] + 1}, None)}, "vatt-audio", hub.config_of(run)["config"])
    done = place("sample", "vatt", "t.csv", "--weights", "other", "-d", "codes-made", "-j", "1", status=3)
    assert "codebooks that are not the codec's" in done.stderr


@pytest.mark.long
def test_a_gated_or_missing_language_model(place):
    folder = ["--set", "language=folder"]
    done = place("train", "vatt-converter", "f.csv", *SMALL, *folder, "-d", "wordless", status=3)
    assert "no weights of the language model" in done.stderr and "--weights language=" in done.stderr
    done = place("train", "vatt-converter", "f.csv", *SMALL, *folder, "--weights", "language=nowhere", "-d", "wordless", status=3)
    assert "nowhere: no such file or folder" in done.stderr
    (place.folder / "empty").mkdir(exist_ok=True)
    done = place("train", "vatt-converter", "f.csv", *SMALL, *folder, "--weights", "language=empty", "-d", "wordless", status=3)
    assert "has no config.json" in done.stderr
    server = FakeHub({})
    try:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1", "HF_HOME": str(place.folder / "home"), "HF_TOKEN": ""}
        done = place("train", "vatt-converter", "f.csv", *SMALL, *folder, "--weights", "language=hf:gated/x", "-d", "wordless", status=3, env=env)
    finally:
        server.close()
    assert "access is gated" in done.stderr and "accept its terms" in done.stderr


# --- schedules ---------------------------------------------------------------------------------------------------------


def test_released_presets_train_on_the_published_schedules():
    for name, warmup, cycle in (("llama", 20_000, 300_000), ("llama-stage2", 1000, 300_000), ("gemma-stage2", 40_000, 600_000)):
        system = VattAudio(settings.resolve(Config, PRESETS, name))
        assert system.config.train.schedule == "published" and not system.config.aligned and system.config.stage == (2 if "stage2" in name else 1)
        for step in (0, warmup // 2, warmup - 1, warmup, cycle // 2, cycle - 1):
            assert system.published_rate(step, 7) == masking.audio_rate(step, warmup, cycle)  # whatever the run's length
    system = VattConverter(settings.resolve(ConverterConfig, CONVERTER_PRESETS, "gemma-lora"))
    assert (system.config.stage, system.config.train.batch_size, system.config.train.epochs) == ("lora", 72, 6)
    assert [system.published_rate(step, 300) for step in (0, 50, 100, 200, 300)] == [0, 0.5, 1, 0.5, 0]


@pytest.mark.long
def test_the_published_schedule_is_the_trainers_and_no_other_systems(place):
    run = ["train", "vatt-audio", "f.csv", *AUDIO, "--set", "train.schedule=published", "--set", "train.log_every=1"]
    lines = place(*run, "--set", "train.warmup_steps=2", "--set", "cycle=8", "--max-steps", "5", "-d", "scheduled").stdout.splitlines()
    shares = [line["lr"] / 2e-3 for line in map(json.loads, lines) if "lr" in line]
    assert shares == pytest.approx([masking.audio_rate(step, 2, 8) for step in range(5)])
    refused = place("train", "vta-ldm", "t.csv", "--preset", "tiny", "--set", "train.schedule=published", "--max-steps", "2", "-d", "no", status=2)
    assert "schedule 'published': vta-ldm has none of its own" in refused.stderr
    with pytest.raises(UsageError, match="cycle 0"):
        VattAudio(settings.resolve(Config, PRESETS, "tiny", None, ["cycle=0"]))


# --- the workflow --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_workflow_runs_whole_on_synthetic_clips(tmp_path):
    import subprocess
    import sys

    words = ["SYNTH=24", "PRESET=tiny", "OUT=o", "JOBS=1", "PROJ_STEPS=2", "LORA_STEPS=2", "STAGE1_STEPS=2", "STAGE2_STEPS=2", "PROMPT=self"]
    words += ["SET=--set train.batch_size=4 --set previews=0", "SAMPLE=--steps 2", f"AVTOOLS={sys.executable} -m avtools"]
    make = ["make", "-f", str(pathlib.Path(conftest.ROOT) / "workflows/vatt.mk"), *words]
    done = subprocess.run(make, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "onset_f1" in (tmp_path / "o/scored.csv").read_text().splitlines()[0] and json.loads((tmp_path / "o/score.json").read_text())
    assert "vatt-audio" in (tmp_path / "o/stage2/config.json").read_text() and json.loads((tmp_path / "o/stage2/config.json").read_text())["config"]["stage"] == 2
    again = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout
