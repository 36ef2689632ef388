"""JavisDiT as its users meet it where something is wrong: what is refused, in which words, with which exit status, and what is kept of the rest."""

import json
import os
import re
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import conftest  # noqa: E402
import fixtures as fx  # noqa: E402
from avtools import hub  # noqa: E402
from avtools.models.javisdit.system import JavisDit, JavisPrior, JavisSound  # noqa: E402
from avtools.training import config as settings  # noqa: E402

pytestmark = pytest.mark.rare  # each a process, or several
NET = ("size.dim=32", "size.depth=1", "size.heads=2")
PRIOR = ("prior.dim=32", "prior.heads=2")
STAGES = {"javisdit-audio": (JavisSound, NET), "javisdit-prior": (JavisPrior, PRIOR), "javisdit": (JavisDit, NET)}
LONG = ("objects", "box", "visible", "active", "events", "event_times", "mask_path")  # cells that say nothing here
WITH = ["--weights", "j", "--weights", "prior=p"]
NO_PICTURE = "fits no bucket: it has no picture (a placeholder), and javisdit-audio alone trains on such rows; drop it, or give it a video"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The program in a folder with six clips of 2 s, t.jsonl, and small networks at random: a (sound), p (prior) and j (both streams)."""
    program = conftest.Program(tmp_path_factory.mktemp("javisdit"))
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    program("synth", "-n", 6, "--seconds", 2, "--fps", 24, "--size", "64x48", "--objects", 1, "--no-fsync", "-j", 1, "-d", "s", "-o", "t.jsonl")
    keep(program, "a", "javisdit-audio")
    keep(program, "p", "javisdit-prior")
    keep(program, "j", "javisdit", {"prior": "p"})
    yield program
    os.environ.clear()
    os.environ.update(before)


def keep(program, name: str, kind: str, weights=None) -> None:
    cls, sets = STAGES[kind]
    system = cls(settings.resolve(cls.Config, cls.presets, "tiny", None, sets))
    torch.manual_seed(0)
    system.build(hub.Weights({part: str(program.folder / source) for part, source in (weights or {}).items()}), hub.Weights({}), torch.device("cpu"))
    hub.save_checkpoint(program.folder / name, {"model.safetensors": (system.trainable.state_dict(), None)}, kind, settings.as_dict(system.config))


def table(program, name: str, change=None, count: int = 6) -> str:
    """A table of the first rows, each changed by `change(row, number)`."""
    found = [json.loads(line) for line in (program.folder / "t.jsonl").read_text().splitlines()][:count]
    found = [{column: value for column, value in row.items() if column not in LONG} for row in found]
    for number, row in enumerate(found):
        (change or (lambda row, number: None))(row, number)
    (program.folder / name).write_text("".join(json.dumps(row) + "\n" for row in found))
    return name


def train(kind: str, name: str, run: str, *more) -> list[str]:
    sets = [*STAGES[kind][1], "train.batch_size=2", "train.previews=0", "train.log_every=1", "train.schedule=constant"]
    begun = []
    if kind == "javisdit":
        begun += ["--init", "a"] * ("--init" not in more) + ["--weights", "prior=p"] * (not any(str(word).startswith("prior=") for word in more))
    return ["train", kind, name, "-d", run, "--preset", "tiny", "-j", 1, "--max-steps", 3, *(word for one in sets for word in ("--set", one)), *begun, *more]


def said(done) -> list[str]:
    """The lines on standard error, but for counts, at the end and, where it takes long, on the way."""
    return [line for line in done.stderr.splitlines() if not re.search(r": \d+ rows( in = |, \d+ bad, )", line)]


def listed(program, path: str) -> list[dict]:
    return [json.loads(line) for line in (program.folder / path).read_text().splitlines()]


def steps(program, run: str) -> list[dict]:
    return [line for line in listed(program, f"{run}/log.jsonl") if "loss" in line]


# --- sampling ---------------------------------------------------------------------------------------------------------


def sample(*more) -> list:
    return ["sample", "javisdit", *more, "--steps", 1, "-j", 1, "-d", "made"]


@pytest.mark.parametrize(
    "task, given, line",
    [
        ("v2a", (), "has no video (columns looked at: path, video_path)"),
        ("a2v", (), "has no sound (columns looked at: audio_path, path, video_path)"),
        ("i2av", (), "task i2av: the row has no picture to begin with (columns looked at: image_path, path, video_path)"),
        ("ia2v", ("--video", "silent.mp4"), "silent.mp4: has no sound; give a file that has"),
        ("continue", ("--video", "silent.mp4"), "silent.mp4: has no sound; give a file that has"),
        ("i2av", ("--image", "gone.png"), "gone.png: cannot be read (No such file or directory); check the path"),
    ],
)
def test_a_task_without_what_it_needs(place, task, given, line):
    if not (place.folder / "silent.mp4").exists():
        fx.make(place.folder / "silent.mp4", fx.even(60, fps=24))
    done = place(*sample("--text", "a bell", *given, "--set", f"sampling.task={task}", *WITH), status=1)
    assert said(done) == [f"avtools sample: options: {line}"] and "1 rows in = 0 done + 0 filtered + 1 bad" in done.stderr


def test_bad_rows_are_told_one_by_one_and_their_neighbours_are_sampled(place):
    wrong = {1: {"path": "placeholder.mp4"}, 2: {"path": "gone.mp4"}, 3: {"text": "", "audio_text": " "}, 4: {"path": "short.mp4"}}
    fx.make(place.folder / "short.mp4", fx.even(12, fps=24), sound={"seconds": 0.5})
    name = table(place, "wrong.jsonl", lambda row, number: row.update(wrong.get(number, {})))
    done = place(*sample(name, "--set", "sampling.task=v2a", *WITH, "-o", "made.jsonl"), status=1)
    assert said(done) == [
        "avtools sample: wrong.jsonl:2: its picture is a placeholder, which only javisdit-audio trains on; drop the row, or give it a video",
        "avtools sample: wrong.jsonl:3: gone.mp4: cannot be read (No such file or directory); check the path",
        "avtools sample: wrong.jsonl:4: says nowhere what is seen (columns looked at: text, audio_text); fill one in",
        "avtools sample: wrong.jsonl:5: short.mp4: 0.50 s, and 2.00 s are to be given; choose fewer frames, or a longer clip",
    ]
    made = listed(place, "made.jsonl")
    assert [row["id"] for row in made] == ["00000", "00005"]
    assert all((place.folder / row[column]).stat().st_size for row in made for column in ("generated_path", "generated_audio_path"))


def test_samples_that_are_no_numbers_are_not_written(place):
    shutil.copytree(place.folder / "j", place.folder / "nan")
    path = place.folder / "nan/model.safetensors"
    tensors = hub.tensors(path)
    tensors["final_layer.linear.weight"] = torch.full_like(tensors["final_layer.linear.weight"], torch.nan)
    path.unlink()
    hub.save_checkpoint(place.folder / "nan", {"model.safetensors": (tensors, None)}, "javisdit", json.loads((place.folder / "nan/config.json").read_text())["config"])
    done = place("sample", "javisdit", table(place, "two.jsonl", count=2), "--weights", "nan", "--weights", "prior=p", "--steps", 1, "-j", 1, "-d", "nans", status=1)
    assert len(said(done)) == 2 and all(f"two.jsonl:{k + 1}: what was sampled is not finite" in line for k, line in enumerate(said(done)))
    assert not [path for path in (place.folder / "nans").rglob("*") if path.suffix in (".wav", ".mp4")]


def test_sound_of_a_caption_alone_has_no_picture_to_be_put_onto(place):
    done = place("sample", "javisdit-audio", "--text", "a bell", "--weights", "a", "--mux", "--steps", 1, "-j", 1, "-d", "heard", status=1)
    assert said(done) == ["avtools sample: options: the row has no picture to put the sound onto; leave out --mux"]
    place("sample", "javisdit-audio", "--text", "a bell", "--weights", "a", "--steps", 1, "-j", 1, "-d", "heard")
    assert (place.folder / "heard/a-bell.wav").stat().st_size


@pytest.mark.parametrize(
    "words, status, line",
    [
        (("--weights", "j"), 3, "javisdit needs a prior of space and time: give --weights prior= a run of 'avtools train javisdit-prior', or JavisDiT's own"),
        (("--weights", "j", "--weights", "prior=a"), 3, "a: a checkpoint of javisdit-audio, not of javisdit-prior; give another"),
        (("--weights", "a", "--weights", "prior=p"), 3, "a: a checkpoint of javisdit-audio, not of javisdit; give another, or name that system"),
        (("--weights", "j", "--weights", "priors=p"), 2, "--weights priors=...: no such part; did you mean 'prior'?"),
        (("--weights", "j", "--weights", "prior=gone"), 3, "gone: no such file or folder, wanted for the prior of space and time"),
        ((*WITH, "--preset", "tiny"), 2, "brings its configuration; leave out --preset tiny"),
        ((*WITH, "--video", "s/clips/00000.mp4"), 2, "javisdit, as it is configured, does not read --video; leave it out"),
        ((*WITH, "--set", "sampling.resolution=9p"), 2, "no resolution '9p'"),
        ((*WITH, "--set", "sampling.frames=0"), 2, "sampling.frames 0"),
        ((*WITH, "--set", "sampling.task=continue", "--set", "sampling.overlap=3"), 2, "24 of 16 pictures would be given; make it shorter"),
    ],
)
def test_sampling_refuses_in_one_line(place, words, status, line):
    done = place(*sample("--text", "a bell", *words), status=status)
    assert len(said(done)) == 1 and said(done)[0].startswith("avtools sample: ") and line in said(done)[0]
    assert not (place.folder / "made/a-bell.mp4").exists()


def test_the_prior_makes_nothing_by_itself(place):
    done = place("sample", "javisdit-prior", "--text", "a bell", "--weights", "p", "-j", 1, "-d", "made", status=2)
    assert said(done) == ["avtools sample: javisdit-prior makes nothing by itself; 'avtools sample javisdit --weights RUN --weights prior=RUN' samples with it"]


# --- training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, change, why",
    [
        ("javisdit", {"path": "placeholder.mp4", "width": None, "height": None}, NO_PICTURE),
        ("javisdit-prior", {"path": "placeholder.mp4"}, NO_PICTURE),
        ("javisdit", {"width": None}, "fits no bucket: its duration, width or height is unknown; run 'avtools probe' first"),
        ("javisdit-audio", {"duration": 1.0, "audio_duration": 1.0}, "fits no bucket: 1.00 s, and the shortest is of 2.00 s"),
        ("javisdit-audio", {"duration": None, "audio_duration": None}, "fits no bucket: its audio_duration is unknown; run 'avtools probe' first"),
        ("javisdit", {"width": 8, "height": 6}, "fits no bucket: 48 pixels, and the smallest is of 192 (0.8 of them at least)"),
    ],
)
def test_rows_that_fit_no_bucket_are_counted_and_listed_and_a_table_of_them_alone_is_refused(place, kind, change, why):
    run = f"{kind}-{abs(hash(why)) % 1000}"
    some = table(place, "some.jsonl", lambda row, number: row.update(change if number in (1, 4) else {}))
    done = place(*train(kind, some, run))
    (line,) = [line for line in said(done) if "left out" in line]
    assert line.startswith("avtools train: 2 of 6 rows are left out (") and why in line and line.endswith(f"{run}/left-out.jsonl lists them")
    lost = listed(place, f"{run}/left-out.jsonl")
    assert [(row["row"], row["id"]) for row in lost] == [(1, "00001"), (4, "00004")] and all(why in row["error"] for row in lost)
    assert len(steps(place, run)) == 3 and not (place.folder / run / "bad.jsonl").exists()

    done = place(*train(kind, table(place, "all.jsonl", lambda row, number: row.update(change)), f"{run}-all"), status=2)
    first, last = said(done)
    assert first.startswith("avtools train: 6 of 6 rows are left out (") and last.startswith("avtools train: no row fits a bucket (row 1: ") and why in last
    assert last.endswith("; change buckets, or the table") and not os.listdir(place.folder / f"{run}-all/checkpoints")


def test_clips_shorter_than_the_table_says(place):
    buckets = ("--set", 'buckets={"24x32":{"24":[1,null]}}')  # of 3 s
    told = lambda row, number: row.update(duration=3.0, audio_duration=3.0)  # noqa: E731
    done = place(*train("javisdit", table(place, "told.jsonl", told), "told", *buckets, "--max-bad", "100%"), status=3)
    *each, last = said(done)
    assert {re.sub(r"0000\d|row \d", "N", line) for line in each} == {
        "avtools train: N (clips/N.mp4): s/clips/N.mp4: 2.00 s, shorter than its bucket's 3.00 s, though the table says more; run 'avtools probe' anew; another is taken in its place"
    }
    assert re.fullmatch(r"avtools train: row \d: neither it nor 32 others in its place can be read; told/bad.jsonl says why", last)
    fx.make(place.folder / "long.mp4", fx.even(84, fps=24), sound={"seconds": 3.5})
    one = table(place, "one.jsonl", lambda row, number: row.update(duration=3.0, audio_duration=3.0, **({} if number == 2 else {"path": "long.mp4"})))
    done = place(*train("javisdit", one, "one", *buckets))
    assert len(said(done)) == 1 and "row 3 (clips/00002.mp4): s/clips/00002.mp4: 2.00 s, shorter" in said(done)[0]
    assert [row["row"] for row in listed(place, "one/bad.jsonl")] == [2] and len(steps(place, "one")) == 3


def test_rows_without_caption_or_sound(place):
    if not (place.folder / "silent.mp4").exists():
        fx.make(place.folder / "silent.mp4", fx.even(60, fps=24))
    wrong = {1: {"text": "", "audio_text": "  "}, 3: {"audio_path": "gone.wav"}, 4: {"path": "silent.mp4"}}
    name = table(place, "less.jsonl", lambda row, number: row.update(wrong.get(number, {})))
    for kind, numbers in (("javisdit", (1, 3, 4)), ("javisdit-prior", (1, 3, 4)), ("javisdit-audio", (1, 3, 4))):
        done = place(*train(kind, name, f"less-{kind}"))
        why = {
            1: f"says nowhere what is seen (columns looked at: {'audio_text, text' if kind == 'javisdit-audio' else 'text, audio_text'}); fill one in",
            3: "gone.wav: no such file; check the path and the folder it is relative to",
            4: "silent.mp4: has no sound; give a file that has",
        }
        assert sorted(said(done)) == [f"avtools train: row {k + 1} (clips/0000{k}.mp4): {why[k]}; another is taken in its place" for k in numbers]
        assert sorted((row["row"], row["error"]) for row in listed(place, f"less-{kind}/bad.jsonl")) == [(k, why[k]) for k in numbers]
        assert all(np.isfinite(line["loss"]) for line in steps(place, f"less-{kind}"))
    done = place(*train("javisdit", name, "strict", "--max-bad", 1), status=3)
    assert said(done)[-1] == "avtools train: 2 rows cannot be read, more than --max-bad allows; strict/bad.jsonl lists them"


def test_losses_that_are_no_numbers_are_skipped_and_named_and_end_the_run_in_the_end(place):
    from avtools import features

    sets = [word for one in NET for word in ("--set", one)]
    place("features", "javisdit-audio", table(place, "t6.jsonl"), "--preset", "tiny", *sets, "-j", 1, "-d", "f", "-o", "f.jsonl")
    path = place.folder / listed(place, "f.jsonl")[2]["features_path"]
    arrays, facts = features.read(str(path)), features.told(str(path))
    arrays["sound"] = np.full_like(arrays["sound"], np.nan)
    path.unlink()
    features.write(str(path), arrays, facts)
    done = place(*train("javisdit-audio", "f.jsonl", "skipped"))
    (line,) = said(done)
    assert re.fullmatch(r"avtools train: step \d: the loss or its gradient is not finite, the step is skipped \(items: .*\)", line) and "clips/00002.mp4" in line
    (skipped,) = [line for line in listed(place, "skipped/log.jsonl") if "skipped" in line]
    assert "clips/00002.mp4" in skipped["keys"] and len(skipped["keys"]) == 2
    assert torch.stack([one.isfinite().all() for one in hub.tensors(next((place.folder / "skipped").rglob("model.safetensors"))).values()]).all()
    wild = ("--set", "train.lr=1e30", "--set", "train.clip_norm=0", "--set", "train.warmup_steps=0", "--set", "train.max_nan=2", "--checkpoint-every", 1, "--max-steps", 8)
    done = place(*train("javisdit-audio", "t6.jsonl", "wild", *wild), status=3)
    assert said(done)[-1].startswith("avtools train: 2 steps in a row without a finite loss: lower lr, or look at the items that wild/log.jsonl names; the checkpoint of step ")


@pytest.mark.parametrize(
    "words, status, line",
    [
        (("--weights", "prior=a"), 3, "a: a checkpoint of javisdit-audio, not of javisdit-prior; give another"),
        (("--init", "p"), 3, "p: a checkpoint of javisdit-prior, not of javisdit-audio or javisdit; give another"),
        (("--init", "gone"), 3, "gone: no such file or folder, wanted for JavisDiT-v0.1's stage 1, or a run of javisdit-audio; give --init "),
        (("--init", "a", "--init", "p"), 2, "--init gives the main part twice: a and p"),
        (("--weights", "sounds=x"), 2, "--weights sounds=...: no such part; did you mean 'sound'?"),
        (("--set", "size.spatial_priors=4"), 2, "gives 8 and 8 priors 32 wide, and the network reads 4 and 8 of 32; give the prior that belongs to it"),
        (("--set", "size.depth=2"), 3, "a: does not fit VastDit; "),
        (("--valid", "none.jsonl"), 2, "--valid has no rows"),
        (("--valid", "short.jsonl"), 2, "--valid: none of its rows can be validated on (fits no bucket: 1.00 s, and the shortest is of 2.00 s)"),
    ],
)
def test_training_refuses_in_one_line(place, words, status, line):
    table(place, "short.jsonl", lambda row, number: row.update(duration=1.0, audio_duration=1.0))
    table(place, "none.jsonl", count=0)
    done = place(*train("javisdit", table(place, "t6.jsonl"), "refused", *words), status=status)
    assert len(said(done)) == 1 and said(done)[0].startswith("avtools train: ") and line in said(done)[0]
    assert not list((place.folder / "refused").glob("checkpoints/*"))
    shutil.rmtree(place.folder / "refused")


def test_pools_that_hold_nothing(place):
    for words, line in ((("masklets=nowhere",), "nowhere: the pool cannot be read (No such file or directory); give its folder, "), (("stems=s/masks",), "s/masks: no separated sounds ")):
        done = place(*train("javisdit-prior", table(place, "t6.jsonl"), "pooled", "--set", *words), status=2)
        assert len(said(done)) == 1 and line in said(done)[0]


def test_captions_that_are_too_long_are_counted_over_the_run_and_listed(place):
    name = table(place, "wordy.jsonl", lambda row, number: row.update({"audio_text": "bell " * 40} if number in (0, 2, 5) else {}))
    kind = "captions beyond the 12 tokens that the network reads"
    first, last = said(place(*train("javisdit-audio", name, "wordy")))  # an epoch
    assert re.match(r"avtools train: row \d \(clips/0000\d.mp4\) is one with " + kind + r" \(41: 'bell bell", first)
    assert last == f"avtools train: rows with {kind}: 3; wordy/notes.jsonl lists them"
    assert sorted((row["row"], row["note"]) for row in listed(place, "wordy/notes.jsonl")) == [(number, kind) for number in (0, 2, 5)]
    again = said(place("train", "javisdit-audio", "-d", "wordy", "-j", 1, "--max-steps", 5))
    assert again == [last]  # each row once, whatever the epochs and starts
    done = place("sample", "javisdit-audio", name, "--weights", "wordy", "--steps", 1, "-j", 1, "-d", "worded")
    (line,) = said(done)
    assert line.startswith(f"avtools sample: rows with {kind}: 3 (clips/00000.mp4, clips/00002.mp4, clips/00005.mp4")
