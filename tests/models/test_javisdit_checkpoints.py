"""JavisDiT's released weights through the command line: fetched, sampled with, converted, begun with, features of them; and what does not fit."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")

import small_imagebind  # noqa: E402
import small_javisdit  # noqa: E402
from fake_hub import FakeHub  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.media.probe import probe  # noqa: E402
from avtools.media.soundfiles import read_sound  # noqa: E402
from avtools.models.javisdit import checkpoint, loading  # noqa: E402
from avtools.models.javisdit import prior as priors  # noqa: E402
from avtools.models.javisdit.model import TRAINED  # noqa: E402
from avtools.models.javisdit.system import JavisDit, JavisPrior, JavisSound  # noqa: E402
from avtools.models.parts.clips import read_pictures  # noqa: E402
from avtools.training import config as settings  # noqa: E402

SHORT = ["--set", "resolution=24x32", "--set", "aspect=0.75", "--set", "sampling.frames=17", "--steps", 2, "-j", 1]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return small_javisdit.write(tmp_path_factory.mktemp("released") / "of")


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    """Checkpoints of ours of the released ones."""
    folder = tmp_path_factory.mktemp("converted")
    with small_imagebind_sizes():
        for system, name in ((JavisDit, "jav"), (JavisSound, "audio"), (JavisPrior, "prior")):
            assert system.convert(hub.Weights({"": str(released / name)}), str(folder / name)) == str(folder / name)
    return folder


@contextlib.contextmanager
def small_imagebind_sizes():
    from avtools.models.parts.imagebind import model

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.HUGE, "text", small_imagebind.SIZES["text"])
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    words = ["synth", "-n", 2, "--seconds", 1, "--fps", 24, "--size", "64x48", "--objects", 1, "--absolute", "--no-fsync", "-q", "-j", 1]
    program(*words, "-d", folder, "--to", "jsonl", "-o", folder / "t.jsonl")
    return folder / "t.jsonl"


def program(*words, status=0, cwd=None, **env):
    """The command line with a small ImageBind, without a network."""
    start = [sys.executable, "-c", "import small_imagebind; small_imagebind.main()"]
    known = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    env = {**known, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__)), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **env}
    done = subprocess.run([*start, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, cwd=cwd)
    assert done.returncode == status, done.stderr
    return done


def parts(released, *names) -> list:
    where = {"video": "vae", "sound": "audioldm2", "words": "t5", "prior": "prior", "imagebind": "imagebind.safetensors"}
    return [word for name in names for word in ("--weights", f"{name}={released / where[name]}")]


def sampled(released, into, *words) -> pathlib.Path:
    """Sample one prompt with `words`; the folder, in which each file has its name."""
    program("sample", "javisdit", "--text", "A dog barks.", *words, *parts(released, "video", "sound", "words"), *SHORT, "-d", into, "-o", into / "t.csv")
    return into


def heard(path) -> np.ndarray:
    return read_sound(str(path))[0]


def seen(path) -> np.ndarray:
    return read_pictures(str(path), 0.0, 24.0, 17, (24, 32)).astype(int)


# --- released weights ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_released_and_converted_weights_make_the_same(released, converted, tmp_path):
    prior = ["--weights", f"prior={released / 'prior'}"]
    jav, bias = released / "jav" / "model.safetensors", "final_layer.linear.bias"
    one = sampled(released, tmp_path / "one", "--weights", released / "jav", *prior)
    (picture,), (sound,) = one.glob("*.mp4"), one.glob("*.wav")
    found = probe(str(picture)).picture
    assert (found.num_frames, found.width, found.height) == (17, 32, 24)
    ours = ["--weights", converted / "jav", "--weights", f"prior={converted / 'prior'}"]
    bare = ["--weights", jav, "--weights", f"prior={released / 'bare.safetensors'}", *parts(released, "imagebind")]
    for name, words in (("ours", ours), ("bare", bare)):
        again = sampled(released, tmp_path / name, *words)
        np.testing.assert_allclose(heard(again / sound.name), heard(sound), atol=2e-4)  # memory of files that are mapped rounds otherwise
        assert np.abs(seen(again / picture.name) - seen(picture)).mean() < 0.5
    other = sampled(released, tmp_path / "other", "--weights", changed(jav, tmp_path / "x.safetensors", **{bias: hub.tensors(jav)[bias] + 1}), *prior)
    assert np.abs(seen(other / picture.name) - seen(picture)).mean() > 2


@pytest.mark.long
def test_stage_1_samples_too(released, converted, tmp_path):
    made = []
    for name, source in (("released", released / "audio"), ("ours", converted / "audio")):
        words = [*parts(released, "sound", "words"), *SHORT, "-d", tmp_path / name, "-o", tmp_path / f"{name}.csv"]
        program("sample", "javisdit-audio", "--text", "A dog barks.", "--weights", source, *words)
        (sound,) = (tmp_path / name).glob("*.wav")
        made.append(heard(sound))
    np.testing.assert_allclose(made[0], made[1], atol=2e-4)
    assert len(made[0]) == 17 * 16000 // 24 and made[0].std() > 1e-3


@pytest.mark.long
def test_what_was_fetched_needs_not_be_named(released, tmp_path):
    server = FakeHub({name: small_javisdit.files_of(released / folder) for name, folder in small_javisdit.HUB.items()})
    cache = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home" / "hub"), "NO_PROXY": "127.0.0.1"}
    try:
        done = program("fetch", "javisdit", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0", **cache)
    finally:
        server.close()
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == ["main", "prior", "video", "sound", "words"]
    program("sample", "javisdit", "--text", "A dog barks.", *SHORT, "-d", tmp_path / "made", "-o", tmp_path / "t.csv", **cache)
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 1


def test_what_is_to_be_fetched_is_listed(tmp_path):
    rows = [json.loads(line) for line in program("systems", "--to", "jsonl").stdout.splitlines()]
    for row in rows:
        if row["system"].startswith("javisdit"):
            assert all(part["source"].startswith("hf:") for part in row["parts"]), row["system"]
    assert {row["system"] for row in rows} > {"javisdit", "javisdit-audio", "javisdit-prior"}


def test_converted_checkpoints_tell_their_form(released, converted):
    config = hub.config_of(converted / "jav")["config"]
    size = loading.size_of(settings.of_checkpoint(converted / "jav", "javisdit", JavisDit.Config()), True)
    assert size.legacy_cross_batch_prior and size.legacy_final and (size.dim, size.text, size.spatial_priors) == (32, 12, 3)
    assert config["padding"] == "legacy" and config["legacy_loss"]
    assert "joint" not in hub.config_of(converted / "audio")["config"]["size"]
    own = hub.tensors(converted / "prior" / "model.safetensors")
    assert {name for name in hub.tensors(released / "prior" / "model.safetensors")} == set(own)
    assert loading.prior_found(converted / "prior").text and not loading.prior_found(released / "bare.safetensors").text
    assert JavisPrior.from_weights(hub.Weights({"": str(converted / "prior")})).config.prior["dim"] == 16


def trained(run) -> dict:
    return hub.tensors(run / "checkpoints" / "step-00000001" / "model.safetensors")


STEP = ("--max-steps", "1", "-j", "1", "--precision", "fp32", "--set", "train.batch_size=2", "--set", "gradient_checkpointing=false", "--set", "previews=0")
STEP += ("--set", 'buckets={"24x32":{"17":[1,null]}}', "--set", "train.ema=null", "--set", "checkpoint_every=1", "--set", "warmup_steps=0")


@pytest.mark.long
def test_training_begins_with_what_is_released(released, converted, clips, tmp_path):
    """Each stage with the settings that a converted checkpoint holds, and with the folders as the hub has them."""
    own = lambda name: ("--config", converted / name / "config.json")  # noqa: E731
    sound = ("train", "javisdit-audio", clips, *own("audio"), *STEP, *parts(released, "sound", "words"))
    program(*sound, "--init", released / "stdit", "-d", tmp_path / "s1")
    source, found = hub.tensors(released / "stdit" / "model.safetensors"), trained(tmp_path / "s1")
    assert all(torch.equal(tensor, found[name]) for name, tensor in source.items() if name in found)
    copies = {name: source[theirs] for name in found if name not in source and (theirs := name.removeprefix("audio_")) in source and "final_layer" not in name}
    assert len(copies) > 60 and all(torch.allclose(found[name], tensor, atol=3e-4) for name, tensor in copies.items())  # after a step of 1e-4
    assert found["audio_final_layer.linear.weight"].any()  # which begins with zeros
    program(*sound, "--init", released / "audio" / "model.safetensors", "-d", tmp_path / "again")

    prior = ("train", "javisdit-prior", clips, *own("prior"), *STEP, "--set", "lr=1e-3", *parts(released, "video", "sound"))
    program(*prior, "--init", released / "prior", "-d", tmp_path / "s2")  # whose captions are read by the tower in it
    assert not any(name.startswith(priors.TEXT) for name in trained(tmp_path / "s2"))

    joint = ("train", "javisdit", clips, *own("jav"), *STEP, *parts(released, "video", "sound", "words"))
    program(*joint, "--init", tmp_path / "s1", "--init", f"video-stream={released / 'stdit'}", *parts(released, "prior"), "-d", tmp_path / "s3")
    first, found = trained(tmp_path / "s1"), trained(tmp_path / "s3")
    assert all(torch.equal(tensor, found[name]) for name, tensor in {**first, **source}.items() if name in found and not name.startswith(TRAINED["joint"]))
    done = program(*joint, "--init", released / "jav", "--weights", f"prior={tmp_path / 's2'}", *parts(released, "imagebind"), "-d", tmp_path / "s3b")
    was = hub.tensors(released / "jav" / "model.safetensors")
    moved = {name for name, tensor in trained(tmp_path / "s3b").items() if not torch.equal(tensor, was[name])}
    assert moved and all(name.startswith(TRAINED["joint"]) for name in moved) and "loss" in done.stdout

    # a run samples with the prior that it was trained with, and says where it is another
    words = ["--text", "A dog barks.", "--weights", tmp_path / "s3b", *parts(released, "video", "sound", "words", "imagebind"), *SHORT, "-d", tmp_path / "made"]
    assert "another prior" not in program("sample", "javisdit", *words, "--weights", f"prior={tmp_path / 's2'}").stderr
    done = program("sample", "javisdit", *words, *parts(released, "prior"))
    assert done.stderr.count("was trained with another prior than the one that is given, or another state of it; --weights prior= takes the same") == 1
    (line,) = lines(program("sample", "javisdit", *words, status=3))
    assert "needs a prior of space and time: give --weights prior= a run" in line
    (line,) = lines(program(*joint, "-d", tmp_path / "s3b", status=2))
    assert "weights.prior" in line


def lines(done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("avtools")]


@pytest.mark.long
def test_features_of_each_stage(released, converted, clips, tmp_path):
    encoders = {"javisdit": ("video", "sound", "words", "prior"), "javisdit-audio": ("sound", "words"), "javisdit-prior": ("video", "sound")}
    for system, name in (("javisdit", "jav"), ("javisdit-audio", "audio"), ("javisdit-prior", "prior")):
        words = ["--weights", converted / name, *parts(released, *encoders[system]), "--set", "random_start=false", "--set", 'buckets={"24x32":{"17":[1,null]}}']
        out = tmp_path / f"{system}.jsonl"
        program("features", system, clips, *words, "-j", 1, "-d", tmp_path / system, "--to", "jsonl", "-o", out)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(rows) == 2 and all(os.path.getsize(row["features_path"]) for row in rows)
    joint = ("train", "javisdit", tmp_path / "javisdit.jsonl", "--config", converted / "jav" / "config.json", *STEP, "--set", "random_start=false")
    program(*joint, "--init", released / "jav", *parts(released, "prior"), "-d", tmp_path / "run")  # and no encoder is asked for


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_systems_refuse_what_belongs_to_others(released, converted, tmp_path):
    """As processes: a line, a status, nothing written."""
    out = tmp_path / "out"
    for words, status, message in (
        (("sample", "javisdit", "--text", "x", "--weights", released / "audio", *parts(released, "prior")), 3, "first stage, which makes sound alone, not of javisdit; give it to javisdit-audio"),
        (("convert", "javisdit", "--weights", converted / "jav"), 2, "is a checkpoint of ours already"),
    ):
        (line,) = lines(program(*words, "-d", out, status=status))
        assert message in line and not out.exists()
    assert program("convert", "javisdit-audio", "--weights", released / "audio", "-d", out).stdout == f"{out}\n"
    for system, name, message in (
        (JavisSound, "jav", "joint network, not of javisdit-audio; give it to javisdit"),
        (JavisPrior, "jav", r"not JavisDiT's prior \(no in_proj\.weight; it has "),
        (JavisDit, "prior", r"not JavisDiT's network \(no x_embedder\.proj\.weight; it has "),
        (JavisDit, "vae", r"not JavisDiT's network \(no x_embedder\.proj\.weight; it has "),
    ):
        with pytest.raises(FatalError, match=message):
            system.convert(hub.Weights({"": str(released / name)}), str(tmp_path / "other"))
        assert not (tmp_path / "other").exists()


def changed(path, into, **change) -> str:
    """The weights in `path` with tensors changed; None takes one away."""
    tensors = {**hub.tensors(path), **change}
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items() if tensor is not None}, into)
    return str(into)


def test_missing_extra_and_other_tensors_are_named(released, tmp_path):
    out, jav, prior = tmp_path / "out", released / "jav" / "model.safetensors", released / "prior" / "model.safetensors"
    for system, source, change, message in (
        (JavisDit, jav, {"va_cross_blocks.1.gamma_m1": None}, r"1 missing: va_cross_blocks\.1\.gamma_m1"),
        (JavisDit, jav, {"extra.weight": torch.ones(1)}, r"1 unexpected: extra\.weight"),
        (JavisDit, jav, {"t_block.1.bias": torch.ones(3)}, r"1 of another shape: t_block\.1\.bias \(3,\), not \(192,\)"),
        (JavisDit, jav, {checkpoint.FREQS: torch.ones(8)}, r"rope\.freqs are not the standard rotary positions"),
        (JavisDit, jav, {"y_embedder.y_embedding": None}, r"no y_embedder\.y_embedding; it has "),
        (JavisPrior, prior, {"in_proj.bias": None}, r"1 missing: in_proj\.bias"),
        (JavisPrior, prior, {"text_encoder.modality_trunks.text.blocks.0.norm_1.bias": None}, r"1 missing: trunk\.blocks\.0\.norm_1\.bias"),
        (JavisPrior, prior, {"text_encoder.modality_trunks.text.blocks.0.norm_9.bias": torch.ones(1)}, r"1 unexpected: \S*norm_9\.bias"),
    ):
        with pytest.raises(FatalError, match=message), small_imagebind_sizes():
            system.convert(hub.Weights({"": changed(source, tmp_path / "x.safetensors", **change)}), str(out))
        assert not out.exists()


@pytest.mark.parametrize("joint", [True, False])
def test_the_folder_of_a_trainer(released, tmp_path, joint):
    """The network in `model`, in pieces, beside its moving average and state; several folders are asked about."""
    source = released / ("jav" if joint else "audio") / "model.safetensors"
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    items = sorted(hub.tensors(source).items())
    for number in (0, 1):
        torch.save(dict(items[number::2]), run / "model" / f"pytorch_model-0000{number}.bin")
    torch.save({"last_epoch": 3}, run / "lr_scheduler.pt")
    assert checkpoint.read(run).tensors.keys() == checkpoint.read(source).tensors.keys()
    shutil.copytree(run, tmp_path / "all" / "240p")
    shutil.copytree(run, tmp_path / "all" / "full")
    with pytest.raises(FatalError, match="name one of its folders that have: 240p, 240p/model, full, full/model"):
        checkpoint.read(tmp_path / "all")
    (tmp_path / "both").mkdir()
    for name in ("a", "b"):  # a network and its moving average, say
        shutil.copy(source, tmp_path / "both" / f"{name}.safetensors")
    with pytest.raises(FatalError, match=r"a\.safetensors and b\.safetensors both hold \S+, as .*; name one of the files"):
        checkpoint.read(tmp_path / "both")
    assert checkpoint.read(tmp_path / "both" / "b.safetensors").tensors
    (tmp_path / "none").mkdir()
    with pytest.raises(FatalError, match=r"has no \*\.safetensors, .*; give JavisDiT's stage-1 or stage-3 checkpoint"):
        checkpoint.read(tmp_path / "none")


def built(cls, init=None, weights=None, *sets):
    system = cls(settings.resolve(cls.Config, cls.presets, "tiny", None, sets))
    system.build(hub.Weights(weights or {}), hub.Weights(init or {}), torch.device("cpu"))


def test_what_training_takes_is_checked_before_anything_is_made(released, tmp_path):
    prior = {"prior": str(released / "prior")}
    jav, audio, stdit = (str(released / name) for name in ("jav", "audio", "stdit"))
    for cls, init, weights, kind, message in (
        (JavisSound, {}, {"": audio}, UsageError, "javisdit-audio's own network trains: leave out --weights SOURCE"),
        (JavisPrior, {}, {"": prior["prior"]}, UsageError, "or start from it with --init"),
        (JavisDit, {}, {"": jav, **prior}, UsageError, "javisdit's own network trains"),
        (JavisDit, {"video-stream": stdit}, prior, UsageError, "--init video-stream= goes with --init"),
        (JavisDit, {"": stdit}, prior, UsageError, "OpenSora's STDiT-v3; the joint stage begins with the first one's network"),
        (JavisDit, {"": jav, "video-stream": stdit}, prior, UsageError, "the joint network has its video stream"),
        (JavisSound, {"": jav}, {}, FatalError, "joint network; its first stage begins with"),
        (JavisSound, {"": "nowhere"}, {}, FatalError, "nowhere: no such file or folder, wanted for OpenSora's .*; give --init FILE"),
        (JavisDit, {"": audio, "video-stream": "nowhere"}, prior, FatalError, "give --init video-stream=FILE"),
        (JavisSound, {"video-stream": stdit}, {}, UsageError, "--init video-stream=...: no such part"),
        (JavisSound, {}, prior, UsageError, "no such part"),
        (JavisDit, {}, {}, FatalError, "needs a prior"),
        (JavisSound, {"": audio}, {}, FatalError, "of another shape"),
    ):
        with pytest.raises(kind, match=message):
            built(cls, init, weights)


def test_a_training_that_begins_with_released_weights_in_our_form_says_so(released, capfd):
    size = [f"size.{name}={value}" for name, value in {**small_javisdit.NET}.items()]
    prior = {"prior": str(released / "prior")}
    for preset, names in ((None, "size.time_positions none, here rotary; size.legacy_cross_batch_prior true, here false; padding legacy, here silence"), ("released", "")):
        system = JavisDit(settings.resolve(JavisDit.Config, JavisDit.presets, preset, None, size))
        with small_imagebind_sizes():
            system.build(hub.Weights(prior), hub.Weights({"": str(released / "jav")}), torch.device("cpu"))
        told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("avtools")]
        assert len(told) == bool(names) and all(line.endswith(names) and str(released / "jav") in line for line in told)


def test_a_folder_of_another_library_is_none_of_ours(released, converted, tmp_path):
    """config.json and model.safetensors are OpenSora's names, too."""
    for name in ("jav", "audio", "prior", "stdit"):
        for path in (released / name, released / name / "model.safetensors"):
            assert hub.own_folder(path) is None
    assert hub.own_folder(converted / "jav") == converted / "jav"
    assert hub.own_folder(converted / "jav" / "model.safetensors") == converted / "jav"


def test_a_preset_gives_what_a_released_file_does_not_tell(released, converted):
    found = JavisDit.from_weights(hub.Weights({"": str(released / "jav")}), "tiny").config
    assert found.video_codec == "pixels" and found.size["dim"] == 32 and found.size["legacy_final"] and "square" not in found.size
    with pytest.raises(UsageError, match="leave out --preset tiny"):
        JavisDit.from_weights(hub.Weights({"": str(converted / "jav")}), "tiny")


def test_a_prior_is_known_by_its_run_or_its_checkpoint(converted, tmp_path):
    run = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(converted / "prior", run / "checkpoints" / f"step-{step:08d}")
    (run / "checkpoints" / "step-00000001" / "config.json").write_text((converted / "prior" / "config.json").read_text() + "\n")
    whole = {str(one): loading.identities(str(one)) for one in (run, run / "checkpoints" / "step-00000001", run / "checkpoints" / "step-00000002")}
    assert hub.digest(run) in whole[str(run / "checkpoints" / "step-00000002")] and hub.digest(run / "checkpoints" / "step-00000002") in whole[str(run)]
    assert hub.digest(run) not in whole[str(run / "checkpoints" / "step-00000001")]
