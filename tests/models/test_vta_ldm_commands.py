"""VTA-LDM through the commands, as real processes: training that resumes, sampling of all kinds of rows, what is refused."""

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

SMALL = [
    "frame_size=8",
    "feature_dim=256",
    "token_dim=32",
    "aligned_channels=8",
    "unet.cross_attention_dim=32",
    "unet.block_out_channels=[32,64]",
    'unet.down_block_types=["DownBlock2D","CrossAttnDownBlock2D"]',
    'unet.up_block_types=["CrossAttnUpBlock2D","UpBlock2D"]',
]
SETTINGS = [word for one in [*SMALL, "keep=9", "log_every=1", "warmup_steps=2", "previews=1"] for word in ("--set", one)]
STEPS = 6
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments, ranks=1):
    many = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(29000 + os.getpid() % 500)] if ranks > 1 else []
    return [sys.executable, *many, "-m", "avtools", *map(str, arguments)]


def program(*arguments, status=0, ranks=1, env=None):
    done = subprocess.run(command(*arguments, ranks=ranks), env={**ENV, **(env or {})}, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"status {done.returncode}, not {status}\n{done.stderr[-3000:]}"
    return done


def training(table, run, *more):
    return ["train", "vta-ldm", table, "-d", run, "--preset", "tiny", *SETTINGS, "--max-steps", STEPS, "--checkpoint-every", 2, "-j", 1, *more]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def state_of(run, step=STEPS):
    """Everything of a checkpoint that training goes on from."""
    tensors, optimizer, state = checkpoint.load(str(run), step)
    flat = {f"{file}.{name}": tensor for file, found in tensors.items() for name, tensor in found.items()}
    for number, values in optimizer["main"]["state"].items():
        flat |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
    return flat, state


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A table of 12 clips of 2 s, and of one each of 5 s and of 1.5 s."""
    folder = tmp_path_factory.mktemp("clips")
    for name, words in {"t": ["-n", 12, "--seconds", 2], "long": ["-n", 1, "--seconds", 5, "--seed", 9], "short": ["-n", 1, "--seconds", 1.5, "--seed", 8]}.items():
        program("synth", *words, "--fps", 24, "-d", folder / name, "-o", folder / f"{name}-toys.csv", "--absolute", "--no-fsync", "-j", 1, "-q")
    program("extract-audio", "--rate", 16000, "--absolute", "-d", folder / "wav", folder / "t-toys.csv", "-o", folder / "t.csv", "--no-fsync", "-j", 1, "-q")
    return folder


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A whole run; its batch of 16 is larger than the table of 12."""
    run = tmp_path_factory.mktemp("runs") / "run"
    done = program(*training(clips / "t.csv", run, "--valid", clips / "t.csv"))
    return run, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def table(clips, tmp_path_factory):
    """Rows to sample: clips of 2, 5 and 1.5 s, and one without picture."""
    path = tmp_path_factory.mktemp("table") / "some.csv"
    rows = [*rows_of(clips / "t.csv")[:2], *rows_of(clips / "long-toys.csv"), *rows_of(clips / "short-toys.csv")]
    names = ["two.mp4", "other.mp4", "long.mp4", "short.mp4"]
    rows = [{"path": row["path"], "relpath": name} for row, name in zip(rows, names, strict=True)]
    rows.insert(2, {"path": rows_of(clips / "t.csv")[0]["audio_path"], "relpath": "sound.wav"})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "relpath"])
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- training --------------------------------------------------------------------------------------------------------


def test_training_logs_validates_and_makes_previews(trained):
    run, lines = trained
    assert checkpoint.steps(str(run)) == [2, 4, 6]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS and all(np.isfinite(losses))
    assert any(0 < line.get("valid_loss", 0) < 10 for line in lines)
    begun = next(line for line in lines if "rows" in line)
    assert begun["rows"] == 12 and begun["batch"] == 16
    (preview,) = (run / "samples").glob(f"*{STEPS:08d}/*.wav")
    assert read_sound(str(preview))[0].shape == (32000, 1)
    assert not (run / "bad.jsonl").exists() or not (run / "bad.jsonl").read_text()
    flat, state = state_of(run)
    assert state["samples"] == 16 * STEPS and any(not torch.equal(flat[name], flat["ema" + name[5:]]) for name in flat if name.startswith("model."))


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit(trained, clips, tmp_path):
    run, _ = trained
    process = subprocess.Popen(command(*training(clips / "t.csv", tmp_path / "run", "--valid", clips / "t.csv")), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 5:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 in checkpoint.steps(str(tmp_path / "run")) and STEPS not in checkpoint.steps(str(tmp_path / "run"))
    done = program("train", "vta-ldm", "-d", tmp_path / "run", "--preset", "tiny", *SETTINGS, "--max-steps", STEPS, "--checkpoint-every", 2, "-j", 1)
    assert '"resumed"' in done.stdout
    (one, state), (other, state2) = state_of(run), state_of(tmp_path / "run")
    assert state == state2 and set(one) == set(other)
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.long
def test_two_ranks_are_one_rank_within_tolerance(trained, clips, tmp_path):
    run, lines = trained
    done = program(*training(clips / "t.csv", tmp_path / "run", "--set", "train.batch_size=8"), ranks=2)
    (one, state), (other, state2) = state_of(run), state_of(tmp_path / "run")
    assert state["samples"] == state2["samples"]
    ranked = [json.loads(line)["loss"] for line in done.stdout.splitlines() if '"loss"' in line]
    assert ranked == pytest.approx([line["loss"] for line in lines if "loss" in line], rel=2e-3)
    for name in one:
        if name.startswith(("model.", "ema.")):
            # Adam divides small gradients by themselves: what rounding does to those is as large as a step
            assert (one[name] - other[name]).abs().max() < 2e-3, name
            assert (one[name] - other[name]).abs().mean() < 1e-4, name


def test_another_table_or_configuration_is_refused(trained, clips, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    changed = tmp_path / "changed.csv"
    rows = rows_of(clips / "t.csv")
    rows[3]["audio_path"] = rows[4]["audio_path"]
    with open(changed, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    errors = program(*training(changed, tmp_path / "run"), status=2).stderr
    assert "row 4" in errors and "audio_path" in errors and "--allow-changes" in errors
    errors = program(*training(clips / "t.csv", tmp_path / "run", "--set", "condition_dropout=0.3"), status=2).stderr
    assert "condition_dropout: 0.1 -> 0.3" in errors and "Traceback" not in errors


@pytest.mark.long
def test_cached_features_are_computed_and_refused_where_they_do_not_fit(clips, tmp_path):
    sets = [word for one in SMALL for word in ("--set", one)]
    program("features", "vta-ldm", clips / "t.csv", "--preset", "tiny", *sets, "-d", tmp_path / "f", "--absolute", "-o", tmp_path / "f.csv", "-j", 1, "-q")
    assert all(os.path.getsize(row["features_path"]) > 10_000 for row in rows_of(tmp_path / "f.csv"))
    lines = program(*training(tmp_path / "f.csv", tmp_path / "run", "--max-steps", 2)).stdout.splitlines()
    assert any('"loss"' in line for line in lines)
    errors = program(*training(tmp_path / "f.csv", tmp_path / "r3", "--set", "frame_rate=12"), status=2).stderr
    assert "frame_rate is 24.0, not 12.0" in errors and "avtools features" in errors


# --- sampling -----------------------------------------------------------------------------------------------------------


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


@pytest.fixture(scope="module")
def sampled(trained, table, tmp_path_factory):
    """(folder, rows, errors): the table sampled three at a time, and put under its pictures."""
    folder = tmp_path_factory.mktemp("sampled")
    done = program("sample", "vta-ldm", table, "--weights", trained[0], "--steps", 3, "--batch-size", 3, "--mux", "-d", folder / "out", "-o", folder / "t.csv", "-j", 1, status=1)
    return folder / "out", rows_of(folder / "t.csv"), done.stderr


def test_sound_is_as_long_as_its_picture(sampled):
    folder, rows, errors = sampled
    assert [row["relpath"] for row in rows] == ["two.mp4", "other.mp4", "long.mp4", "short.mp4"]
    for name, seconds in {"two": 2, "other": 2, "long": 5, "short": 1.5}.items():
        sound, rate = read_sound(str(folder / f"{name}.wav"))
        assert rate == 16000 and sound.shape == (round(seconds * 16000), 1)
        assert np.isfinite(sound).all() and np.abs(sound).max() > 0
    assert not np.array_equal(read_sound(str(folder / "two.wav"))[0], read_sound(str(folder / "other.wav"))[0])


def test_a_row_without_picture_is_named_and_its_neighbours_are_made(sampled):
    folder, rows, errors = sampled
    assert errors.count("has no picture; give a video") == 1 and "some.csv:4" in errors and "Traceback" not in errors
    assert not (folder / "sound.wav").exists() and len(rows) == 4


def test_the_picture_under_new_sound_is_the_picture_that_was(sampled, table):
    folder, rows, _ = sampled
    for row in rows:
        assert packets(row["path"]) == packets(folder / row["relpath"])
        with av.open(str(folder / row["relpath"])) as container:
            picture = float(container.streams.video[0].duration * container.streams.video[0].time_base)
            sound = sum(frame.samples for frame in container.decode(audio=0)) / 16000
        assert abs(sound - picture) < 0.13  # AAC's last block


@pytest.mark.long
def test_a_row_s_sound_does_not_depend_on_its_batch(sampled, trained, table, tmp_path):
    folder, _, _ = sampled
    reverse = tmp_path / "reverse.csv"
    rows = [row for row in rows_of(table) if row["relpath"] != "sound.wav"][::-1]
    with open(reverse, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    program("sample", "vta-ldm", reverse, "--weights", trained[0], "--steps", 3, "--batch-size", 1, "-d", tmp_path / "out", "-o", tmp_path / "t.csv", "-j", 1)
    for row in rows:
        name = row["relpath"].replace(".mp4", ".wav")
        one, other = read_sound(str(folder / name))[0], read_sound(str(tmp_path / "out" / name))[0]
        # the networks' rounding differs with the batch, and Griffin-Lim makes it some hundred times larger
        assert one.shape == other.shape and np.sqrt(np.mean((one - other) ** 2)) < 0.03 * np.sqrt(np.mean(one**2)), name


@pytest.mark.long
def test_guidance_of_one_and_zero_are_none_and_samples_differ(trained, table, tmp_path):
    one = tmp_path / "one.csv"
    one.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    common = ["sample", "vta-ldm", one, "--weights", trained[0], "--steps", 1, "-j", 1]
    program(*common, "--guidance", 0, "--samples-per-row", 2, "-d", tmp_path / "zero", "-o", tmp_path / "zero.csv")
    program(*common, "--guidance", 1, "-d", tmp_path / "one", "-o", tmp_path / "one-made.csv")
    rows = rows_of(tmp_path / "zero.csv")
    assert len(rows) == 2 and len({row["group"] for row in rows}) == 1 and len({row["generated_audio_path"] for row in rows}) == 2
    zero = [read_sound(str(tmp_path / "zero" / f"two_{k}.wav"))[0] for k in (0, 1)]
    single = read_sound(str(tmp_path / "one" / "two.wav"))[0]
    assert all(len(found) == 32000 and np.isfinite(found).all() for found in (*zero, single))
    assert np.sqrt(np.mean((single - zero[0]) ** 2)) < 0.03 * np.sqrt(np.mean(single**2))  # the row's first seed
    assert np.sqrt(np.mean((zero[0] - zero[1]) ** 2)) > 0.3 * np.sqrt(np.mean(single**2))  # seeds of their own


def test_wrong_options_are_refused_before_anything_is_made(trained, table, tmp_path):
    errors = program("sample", "vta-ldm", table, "--weights", trained[0], "--scheduler", "dimm", "-d", tmp_path / "out", "-o", tmp_path / "t.csv", status=2).stderr
    assert "did you mean 'ddim'" in errors and "Traceback" not in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "t.csv").exists() and not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize("how", ["truncated", "of another shape", "without its configuration"])
def test_a_broken_checkpoint_is_one_clear_line(trained, table, tmp_path, how):
    folder = tmp_path / "step"
    shutil.copytree(trained[0] / "checkpoints" / f"step-{STEPS:08d}", folder)
    path = folder / "ema.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "of another shape":
        facts = json.loads((folder / "config.json").read_text())
        facts["config"]["unet"]["block_out_channels"] = [64, 64]
        (folder / "config.json").write_text(json.dumps(facts))
    else:
        (folder / "config.json").unlink()
    errors = program("sample", "vta-ldm", table, "--weights", folder, "-d", tmp_path / "out", "-o", tmp_path / "t.csv", "-j", 1, status=3).stderr
    assert "Traceback" not in errors and str(folder) in errors
    assert len([line for line in errors.splitlines() if line.startswith("avtools")]) == 1


def test_missing_weights_are_named_with_size_licence_and_how_to_get_them(table, tmp_path):
    errors = program("sample", "vta-ldm", table, "-d", tmp_path / "out", "-o", tmp_path / "t.csv", status=3, env={"HF_HOME": str(tmp_path / "hf")}).stderr
    for told in ("ariesssxu/vta-ldm-clip4clip-v-large", "4.0 GB", "CC-BY-4.0", "non-commercial", "avtools fetch vta-ldm", "--weights", "HF_HUB_OFFLINE"):
        assert told in errors, told
    assert "Traceback" not in errors and len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
