"""AVSyncD through the commands, as real processes: training that resumes, sampling of all kinds of rows, what is refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
av = pytest.importorskip("av")

from avtools.media.soundfiles import read_sound  # noqa: E402
from avtools.training import checkpoint  # noqa: E402

SMALL = ["height=12", "width=16", "unet.block_out_channels=[16,32]", "unet.norm_num_groups=4", "keep=9", "log_every=1", "warmup_steps=2", "previews=1", "train.batch_size=4", "cache_gb=0"]
SETTINGS = [word for one in SMALL for word in ("--set", one)]
STEPS = 4
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments):
    return [sys.executable, "-m", "avtools", *map(str, arguments)]


def program(*arguments, status=0):
    done = subprocess.run(command(*arguments), env=ENV, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"status {done.returncode}, not {status}\n{done.stderr[-3000:]}"
    return done


def training(table, run, *more):
    return ["train", "avsyncd", table, "-d", run, "--preset", "tiny", *SETTINGS, "--set", "random_start=true", "--set", "flip=0.5", "--max-steps", STEPS, "--checkpoint-every", 2, "-j", 1, *more]


def rows_of(text):
    csv.field_size_limit(10**8)
    return list(csv.DictReader(text.splitlines()))


def state_of(run, step=STEPS):
    """Everything of a checkpoint that training goes on from."""
    tensors, optimizer, state = checkpoint.load(str(run), step)
    flat = {f"{file}.{name}": tensor for file, found in tensors.items() for name, tensor in found.items()}
    for number, values in optimizer["main"]["state"].items():
        flat |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
    return flat, state


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """t.csv: 8 clips of 3 s; some.csv: rows to sample, some of them bad; files beside them."""
    folder = tmp_path_factory.mktemp("clips")
    program("synth", "-n", 8, "--seconds", 3, "--fps", 12, "--size", "64x48", "-d", folder, "-o", folder / "t.csv", "--absolute", "--no-fsync", "-j", 1, "-q")
    program("synth", "-n", 1, "--seconds", 1.5, "--seed", 8, "-d", folder / "short", "-o", folder / "short.csv", "--absolute", "--no-fsync", "-j", 1, "-q")
    rows = rows_of((folder / "t.csv").read_text())
    film, sound = rows[0]["path"], rows[1]["mixture_path"]
    with av.open(film) as container:
        next(container.decode(video=0)).to_image().save(folder / "still.png")
    wanted = [
        {"path": film, "text": "a ball", "relpath": "film.mp4"},
        {"path": film, "class": "a_ball", "audio_path": sound, "relpath": "beside.mp4"},
        {"image_path": folder / "still.png", "audio_path": sound, "text": "a ball", "relpath": "still.png"},
        {"path": rows_of((folder / "short.csv").read_text())[0]["path"], "text": "a ball", "relpath": "short.mp4"},
        {"audio_path": sound, "text": "a ball", "relpath": "sound.wav"},
        {"image_path": folder / "still.png", "text": "a ball", "relpath": "mute.png"},
        {"path": film, "relpath": "untold.mp4"},
    ]
    with open(folder / "some.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "image_path", "audio_path", "text", "class", "relpath"])
        writer.writeheader()
        writer.writerows(wanted)
    return folder


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    done = program(*training(clips / "t.csv", run, "--valid", clips / "t.csv"))
    return run, [json.loads(line) for line in done.stdout.splitlines()]


def test_training_logs_validates_and_makes_previews(trained):
    run, lines = trained
    assert checkpoint.steps(str(run)) == [2, 4]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS and all(np.isfinite(losses))
    assert any(0 < line.get("valid_loss", 0) < 10 for line in lines)
    (preview,) = (run / "samples").glob(f"*{STEPS:08d}/*.mp4")
    with av.open(str(preview)) as container:
        assert container.streams.audio and sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit(trained, clips, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command(*training(clips / "t.csv", run, "--valid", clips / "t.csv")), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if json.loads(line).get("step") == 3:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}", ignore_errors=True)  # if it was quicker than the signal
    program(*training(clips / "t.csv", run, "--valid", clips / "t.csv"))
    (one, at), (other, there) = state_of(trained[0]), state_of(run)
    assert at["samples"] == there["samples"] == 4 * STEPS and set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def sampled(trained, clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    arguments = ["sample", "avsyncd", clips / "some.csv", "--weights", trained[0], "-d", out, "--absolute", "--steps", 3, "--mux", "--no-fsync", "-j", 1, "--errors", out / "bad.jsonl"]
    return out, arguments, program(*arguments, status=1)


def test_rows_of_all_kinds_are_animated_and_bad_ones_named(sampled):
    out, _, done = sampled
    rows = rows_of(done.stdout)
    assert [row["relpath"] for row in rows] == ["film.mp4", "beside.mp4", "still.png"]
    for row in rows:
        with av.open(row["generated_path"]) as container:
            pictures, sound = container.streams.video[0], container.streams.audio[0]
            assert (pictures.width, pictures.height, pictures.average_rate, sound.rate) == (16, 12, 6, 16000)
            assert sum(1 for _ in container.decode(pictures)) == 12
        samples, rate = read_sound(row["generated_audio_path"])
        assert (len(samples), rate) == (32000, 16000) and samples.any()
    bad = [json.loads(line) for line in (out / "bad.jsonl").read_text().splitlines()]
    reasons = " ".join(json.dumps(one) for one in bad)
    assert len(bad) == 4
    for told in ("a clip is 2 s", "no picture to animate", "no sound to animate it to", "neither text nor class"):
        assert told in reasons, reasons


@pytest.mark.long
def test_the_same_again_makes_nothing_and_one_by_one_the_same(sampled, tmp_path):
    out, arguments, done = sampled
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert program(*arguments, status=1).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == before
    alone = [str(tmp_path) if word == out else word for word in arguments]
    program(*alone, "--batch-size", 1, status=1)
    for path in before:
        with av.open(str(path)) as one, av.open(str(tmp_path / path.relative_to(out))) as other:
            for a, b in zip(one.decode(video=0), other.decode(video=0), strict=True):
                assert np.abs(a.to_ndarray(format="gray").astype(int) - b.to_ndarray(format="gray")).max() <= 2


@pytest.mark.long
def test_a_row_by_hand_and_other_options_give_others(trained, clips, tmp_path):
    made = []
    sound = rows_of((clips / "t.csv").read_text())[1]["mixture_path"]
    for more in ([], ["--seed", 1], ["--guidance", 1, "--scheduler", "legacy", "--set", "text_guidance=2"]):
        folder = tmp_path / str(len(made))
        words = ["--image", clips / "still.png", "--audio", sound, "--text", "a ball", "--weights", trained[0], "-d", folder, "--steps", 3, "--no-fsync", "--absolute"]
        done = program("sample", "avsyncd", *words, *more)
        (row,) = rows_of(done.stdout)
        made.append(folder / row["generated_path"])
    found = []
    for path in made:
        with av.open(str(path)) as container:
            found.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    assert all(not np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.long
def test_what_is_refused(clips, tmp_path, trained):
    done = program("sample", "avsyncd", clips / "some.csv", "-d", tmp_path, status=3)
    assert "Google Drive" in done.stderr and "Traceback" not in done.stderr
    done = program("sample", "avsyncd", clips / "some.csv", "-d", tmp_path, "--weights", trained[0], "--scheduler", "dpm", status=2)
    assert "no scheduler 'dpm'" in done.stderr
    done = program("train", "avsyncd", clips / "t.csv", "-d", tmp_path / "run", "--max-steps", 1, status=3)
    assert "Stable Diffusion" in done.stderr and "--weights sd=" in done.stderr and "Traceback" not in done.stderr
    done = program("features", "avsyncd", clips / "t.csv", "-d", tmp_path / "f", "--weights", trained[0], status=2)
    assert "nothing to compute once" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_three_samples_of_a_row_are_of_three_clips(clips, tmp_path, trained):
    """The paper's protocol: from the beginning, the middle and the end of each video, each with the sound of its own time."""
    words = ["sample", "avsyncd", "--video", rows_of((clips / "t.csv").read_text())[0]["path"], "--text", "a ball", "--weights", trained[0], "-d", tmp_path, "--absolute", "--steps", 1, "--no-fsync"]
    rows = rows_of(program(*words, "--samples-per-row", 3).stdout)
    assert len({row["group"] for row in rows}) == 1 and [float(row["start"]) for row in rows] == pytest.approx([0, 0.5, 1], abs=0.05)
    sounds = [read_sound(row["generated_audio_path"])[0] for row in rows]
    assert np.abs(sounds[0][8000:] - sounds[1][:-8000]).max() < 0.01  # of 3 s: they begin at 0, 0.5 and 1 s
    assert np.abs(sounds[1][8000:] - sounds[2][:-8000]).max() < 0.01 and not np.array_equal(sounds[0], sounds[1])
