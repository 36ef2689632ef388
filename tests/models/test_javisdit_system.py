"""JavisDiT's three stages as users call them: items, losses, what begins with what, tasks, cached features, runs that resume, bad input."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avtools import features, hub  # noqa: E402
from avtools.errors import AvtoolsError, FatalError, MediaError, RowError, UsageError  # noqa: E402
from avtools.media.probe import probe  # noqa: E402
from avtools.media.soundfiles import write_sound  # noqa: E402
from avtools.models.javisdit import data, loading  # noqa: E402
from avtools.models.javisdit.config import MASKS, TASKS  # noqa: E402
from avtools.models.javisdit.masks import RATIOS  # noqa: E402
from avtools.models.javisdit.model import TRAINED  # noqa: E402
from avtools.models.javisdit.system import JavisDit, JavisPrior, JavisSound  # noqa: E402
from avtools.models.parts.clips import text_of  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402

NONE, CPU = hub.Weights({}), torch.device("cpu")
GIVEN = {"steps": 2, "guidance": None, "scheduler": None}
PLACES = ("multiple=8", 'buckets={"24x32":{"16":[1,null]}}', "sampling.resolution=24x32")
NET = ("size.dim=32", "size.depth=2", "size.heads=2", *PLACES)
PRIOR = ("prior.dim=32", "prior.heads=2")
STAGES = ("javisdit-audio", "javisdit-prior", "javisdit")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[dict]:
    """Six clips of 2 s; two of them upright."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for name, count, size in (("wide", 4, "64x48"), ("high", 2, "48x64")):
        words = ["synth", "-n", count, "--seed", 5, "--seconds", 2, "--fps", 24, "--size", size, "--objects", 1, "--absolute", "--no-fsync", "-q", "-j", 1]
        subprocess.run([sys.executable, "-m", "avtools", *map(str, words), "-d", folder / name, "--to", "jsonl", "-o", folder / f"{name}.jsonl"], check=True, stdin=subprocess.DEVNULL)
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            keep = ("path", "duration", "width", "height", "audio_duration", "text", "audio_text")
            found.append({"id": f"{name}-{row['id']}", "stem": row["stem_path"], **{column: row[column] for column in keep}})
    return found


def make(cls, *sets, weights=NONE, init=NONE, awake=True):
    system = cls(settings.resolve(cls.Config, cls.presets, "tiny", None, [*(PRIOR if cls is JavisPrior else NET), *sets]))
    torch.manual_seed(0)
    system.build(weights, init, CPU)
    for parameter in system.trainable.parameters() if awake else ():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.05)  # where networks begin with zeros, so that every part counts
    return system


def keep(system, folder) -> str:
    hub.save_checkpoint(folder, {"model.safetensors": (system.trainable.state_dict(), None)}, system.name, settings.as_dict(system.config))
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> hub.Weights:
    """Small networks at random as checkpoints: the joint one's and the prior's; beside them "audio"."""
    folder = tmp_path_factory.mktemp("weights")
    keep(make(JavisSound), folder / "audio")
    prior = hub.Weights({"prior": keep(make(JavisPrior), folder / "prior")})
    joint = make(JavisDit, weights=prior, init=hub.Weights({"": str(folder / "audio")}))
    return hub.Weights({"": keep(joint, folder / "joint"), **prior.sources})


def beside(weights, name) -> hub.Weights:
    return hub.Weights({"": os.path.join(os.path.dirname(weights.sources[""]), name)})


def prior_of(weights) -> hub.Weights:
    return hub.Weights({"prior": weights.sources["prior"]})


def batch_of(system, rows, step=0) -> dict:
    function, given = system.item_work()
    draws = [draw_of(step, row["id"]) for row in rows]
    return {**system.collate([function(row, draw, given) for row, draw in zip(rows, draws, strict=True)]), "draws": torch.tensor(draws), "keys": [row["id"] for row in rows]}


def losses(system, rows, step=0) -> dict:
    return system.training_step(system.trainable, system.prepare(batch_of(system, rows, step), True), 0, "main")


def sampler(weights, *sets, cls=JavisDit):
    system = cls.from_weights(weights, None, sets)
    system.load(weights, CPU, torch.float32)
    return system


def made_of(system, rows, **given):
    options = system.sample_options({**GIVEN, **given})
    return system.generate([system.condition(row, options) for row in rows], [draw_of("s", row["id"]) for row in rows], options)


def sound_file(path, seconds, seed=0) -> str:
    samples = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * 16000), 1)).astype(np.float32)
    with write_sound(str(path), ".wav", 16000, 1, "f32", frames=len(samples)) as put:
        put(samples)
    return str(path)


# --- training -------------------------------------------------------------------------------------------------------


def test_an_item_is_of_one_time_and_as_large_as_its_bucket(clips, weights):
    function, given = make(JavisDit, "random_start=true", 'buckets={"24x32":{"8":[1,null]}}', weights=prior_of(weights)).item_work()
    for row, size in ((clips[0], (24, 32)), (clips[4], (32, 24))):
        item = function(row, 7, given)
        assert item["pictures"].shape == (8, 3, *size) and item["wave"].shape == (16000,) and item["pictures"].dtype == np.uint8
        start = data._start(row, 2.0, 1.0, 7, given, "")
        assert 0 < start < 1
        np.testing.assert_array_equal(item["wave"], data.wave(row["path"], start, 1.0))
        assert not np.array_equal(item["wave"], function(row, 8, given)["wave"])
        assert text_of(item["text"]) == row["text"]
    assert text_of(JavisSound(settings.resolve(JavisSound.Config, JavisSound.presets, "tiny")).item_work()[0](clips[0], 1, {**given, "heard": True})["text"]) == clips[0]["audio_text"]


def test_an_item_s_loss_is_its_own_in_any_batch(clips, weights):
    for system in (make(JavisSound), make(JavisPrior), make(JavisDit, 'masks={"image_head":0.5,"audio_to_video":0.4}', weights=prior_of(weights))):
        with torch.no_grad():
            whole = losses(system, clips[:4])
            for which in ([2], [3, 1]):
                found = losses(system, [clips[k] for k in which])
                for name in whole:
                    torch.testing.assert_close(found[name], whole[name][which], atol=1e-4, rtol=1e-3)


def test_what_trains_is_the_stage_s_own(clips, weights):
    joint = make(JavisDit, "all_parameters=false", weights=prior_of(weights), init=weights_main(weights))
    losses(joint, clips[:2])["loss"].mean().backward()
    moved = {name for name, parameter in joint.net.named_parameters() if parameter.grad is not None and parameter.grad.abs().max() > 0}
    assert moved == {name for name, _ in joint.net.named_parameters() if name.startswith(TRAINED["joint"])}
    whole = make(JavisDit, weights=prior_of(weights))
    losses(whole, clips[:2])["loss"].mean().backward()
    assert all(parameter.grad is not None for parameter in whole.net.parameters())  # else several ranks would wait for each other
    sound = make(JavisSound)
    losses(sound, clips[:2])["loss"].mean().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in sound.net.parameters())


def weights_main(weights) -> hub.Weights:
    return hub.Weights({"": weights.sources[""]})


def test_each_stage_begins_with_the_one_before(weights):
    audio, joint = beside(weights, "audio"), make(JavisDit, weights=prior_of(weights), init=beside(weights, "audio"), awake=False)
    first = hub.tensors(os.path.join(audio.sources[""], "model.safetensors"))
    state = joint.net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in first.items()) and len(state) > len(first)
    again = make(JavisDit, weights=prior_of(weights), init=weights_main(weights), awake=False)
    saved = hub.tensors(os.path.join(weights.sources[""], "model.safetensors"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in again.net.state_dict().items())
    with pytest.raises(UsageError, match="video stream would keep random values"):
        make(JavisDit, "all_parameters=false", weights=prior_of(weights), init=audio)
    with pytest.raises(UsageError, match="begins with the first one's"):
        make(JavisDit, "all_parameters=false", weights=prior_of(weights))
    with pytest.raises(UsageError, match="STDiT-v3"):
        make(JavisSound, "all_parameters=false")
    with pytest.raises(FatalError, match="needs a prior"):
        make(JavisDit)
    with pytest.raises(FatalError, match="a checkpoint of javisdit-prior, not of"):
        make(JavisDit, weights=prior_of(weights), init=hub.Weights({"": weights.sources["prior"]}))
    with pytest.raises(UsageError, match="the network reads 4 and 8 of 32"):
        make(JavisDit, "size.spatial_priors=4", weights=prior_of(weights))
    assert loading.prior_found(weights.sources["prior"]).size.heads == 2


def test_the_masks_are_the_published_ones():
    assert MASKS == dict(RATIOS)


def test_cached_features_train_as_the_clips_do(clips, weights, tmp_path):
    for system in (make(JavisSound), make(JavisPrior), make(JavisDit, weights=prior_of(weights))):
        given, facts = system.feature_options(), system.encoder_facts()
        rows = []
        for row in clips[:2]:
            path = str(tmp_path / f"{system.name}-{row['id']}.safetensors")
            features.write(path, system.encode([system.feature_item(row, given)])[0], facts)
            rows.append({**row, "features_path": path})
        if system.name != "javisdit-prior":  # whose negatives are drawn
            for name, value in losses(system, clips[:2]).items():
                torch.testing.assert_close(losses(system, rows)[name], value, atol=1e-5, rtol=1e-4)
        else:
            assert losses(system, rows)["loss"].isfinite().all()
        other = make(type(system), "fps=10", **({"weights": prior_of(weights)} if type(system) is JavisDit else {}))
        with pytest.raises(MediaError, match="made by other encoders"):
            batch_of(other, rows)


def test_negatives_are_of_each_kind_and_differ_from_the_clip(clips, tmp_path):
    system = make(JavisPrior, "negatives=2")
    unpaired = {**clips[0], data.UNPAIRED: sound_file(tmp_path / "u.wav", 1.5)}
    batch = batch_of(system, [clips[0], unpaired])
    assert batch["there"].all() and batch["there"].shape == (2, 4, 2)
    for kind in data.KINDS:
        own = batch["pictures" if kind.startswith("video") else "wave"]
        made = batch[f"negative {kind}"]
        assert made.shape == (2, 2, *own.shape[1:])
        assert all(not torch.equal(made[k, n], own[k]) for k in range(2) for n in range(2))
    told = [batch_of(system, [{**unpaired, "id": str(k)}]) for k in range(6)]
    assert any((one["negative audio-spatial"][0, :, 24000:] == 0).all(1).any() or (one["negative audio-temporal"][0, :, 24000:] == 0).all(1).any() for one in told)


# --- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_its_own_in_any_batch_and_keeps_what_is_given(task, clips, weights):
    system = sampler(weights, f"task={task}")
    rows = clips[:3]
    whole = made_of(system, rows)
    for one in whole:
        assert one["frames"].shape == (16, 24, 32, 3) and one["fps"] == 8 and one["sound"].shape == (32000, 1) and one["rate"] == 16000
    single = made_of(system, rows[1:2])[0]
    assert np.abs(single["frames"].astype(int) - whole[1]["frames"]).max() <= 1
    np.testing.assert_allclose(single["sound"], whole[1]["sound"], atol=2e-3)
    options = system.sample_options(GIVEN)
    item = system.condition(rows[1], options)
    if task == "v2a":
        np.testing.assert_array_equal(single["frames"], item["pictures"].transpose(0, 2, 3, 1))
    if task in ("a2v", "ia2v"):
        np.testing.assert_array_equal(single["sound"][:, 0], item["wave"].clip(-1, 1))
    if task in ("i2av", "ia2v"):
        assert np.abs(single["frames"][0].astype(int) - item["pictures"][0].transpose(1, 2, 0)).max() <= 1
    if task == "continue":
        assert item["pictures"].shape[0] == 4  # half a second
        assert np.abs(single["frames"][:4].astype(int) - item["pictures"].transpose(0, 2, 3, 1)).max() <= 1
    other = made_of(system, [{**rows[1], "id": "other"}])[0]
    assert not np.array_equal(other["frames"], single["frames"]) or task == "v2a"


def test_any_bucket_and_every_solver(clips, weights):
    for sets, given, shape in (
        (("resolution=32x32", "aspect=1.0", "frames=5"), {"scheduler": "heun"}, (5, 32, 32, 3)),
        (("frames=9",), {"guidance": 1.0}, (9, 24, 32, 3)),
    ):
        one = made_of(sampler(weights, *sets), clips[:1], **given)[0]
        assert one["frames"].shape == shape and len(one["sound"]) == 16000 * shape[0] // 8
    with pytest.raises(UsageError, match="no scheduler"):
        sampler(weights).sample_options({**GIVEN, "scheduler": "hein"})
    with pytest.raises(UsageError, match="no resolution"):
        JavisDit.from_weights(weights, None, ["resolution=9p"]).sample_options(GIVEN)


@pytest.mark.parametrize("task", ["t2av", "i2av", "continue"])
def test_a_second_pass_makes_one_stream_anew_for_the_other(task, clips, weights, monkeypatch):
    once = made_of(sampler(weights, f"task={task}", "second_pass=none"), clips[:2])
    for stream, kept, anew in (("sound", "frames", "sound"), ("picture", "sound", "frames")):
        again = made_of(sampler(weights, f"task={task}", f"second_pass={stream}"), clips[:2])
        for one, other in zip(once, again, strict=True):
            np.testing.assert_array_equal(one[kept], other[kept])
            assert not np.array_equal(one[anew], other[anew])
        alone = made_of(sampler(weights, f"task={task}", f"second_pass={stream}"), clips[1:2])[0]
        np.testing.assert_allclose(alone[anew].astype(float), again[1][anew], atol=1 if anew == "frames" else 2e-3)
    for task, stream in (("v2a", "sound"), ("a2v", "picture")):  # its other stream is given
        found = [made_of(sampler(weights, f"task={task}", f"second_pass={way}"), clips[:1])[0] for way in ("none", stream)]
        assert all(np.array_equal(found[0][name], found[1][name]) for name in ("frames", "sound"))
    with pytest.raises(UsageError, match="second_pass"):
        sampler(weights, "second_pass=both")


@pytest.mark.parametrize(
    "sets, size",
    [
        ((), (24, 32)),
        (("sampling.resolution=32x16",), (32, 16)),  # its own aspect
        (("sampling.resolution=32x32", "aspect=0.25"), (16, 56)),  # the nearest, 3:8
        (("sampling.resolution=144p",), (144, 256)),
        (("sampling.resolution=512", "aspect=1"), (512, 512)),  # a name, though a number
    ],
)
def test_how_large_samples_are(sets, size, weights):
    options = JavisDit.from_weights(weights, None, sets).sample_options(GIVEN)
    assert options["size"] == size


def test_an_image_is_upright_and_on_white(tmp_path, weights):
    """As its EXIF says, where it is transparent, in 16 bits."""
    from PIL import Image

    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :, 0] = picture[24:, :, 2] = 255  # red above blue
    turned = Image.Exif()
    turned[274] = 3
    Image.fromarray(picture[::-1, ::-1].copy()).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(np.dstack([picture, np.repeat(np.array([0, 255], np.uint8), 24)[:, None].repeat(64, 1)])).save(tmp_path / "clear.png")
    Image.fromarray(np.repeat(np.array([40000, 10000], np.uint16), 24)[:, None].repeat(64, 1)).save(tmp_path / "gray.png")
    options = sampler(weights, "task=i2av").sample_options(GIVEN)
    for name, above, below in (("turned.jpg", (254, 0, 0), (0, 0, 254)), ("clear.png", (255, 255, 255), (0, 0, 255)), ("gray.png", (156,) * 3, (39,) * 3)):
        found = data.condition({"id": "x", "text": "a bell", "image_path": str(tmp_path / name)}, options)["pictures"]
        assert found.shape == (1, 3, 24, 32) and found.dtype == np.uint8
        np.testing.assert_allclose(found[0, :, 2, 5], above, atol=3)
        np.testing.assert_allclose(found[0, :, -3, 5], below, atol=3)


def test_what_a_run_of_before_does_not_say_is_as_it_was(weights, tmp_path):
    """Runs have no setting that came later, and hold all that differs from XL/2 in one object."""
    shutil.copytree(weights.sources[""], tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    facts = json.loads(path.read_text())
    del facts["config"]["shift"], facts["config"]["sampling"]["second_pass"], facts["config"]["sampling"]["aspect"], facts["config"]["size"]["time_positions"]
    path.write_text(json.dumps(facts))
    config = JavisDit.from_weights(hub.Weights({**weights.sources, "": str(tmp_path / "old")})).config
    assert config.shift is None and config.sampling.second_pass == "none" and loading.size_of(config, True).time_positions == "none"


def test_sound_alone(clips, weights):
    system = sampler(beside(weights, "audio"), cls=JavisSound)
    whole = made_of(system, clips[:2])
    np.testing.assert_allclose(made_of(system, clips[1:2])[0]["sound"], whole[1]["sound"], atol=2e-3)
    assert "frames" not in whole[0] and whole[0]["sound"].std() > 0


def test_a_sample_does_not_see_the_priors_of_others_unless_asked(clips, weights):
    released = sampler(weights, 'size={**}'.replace("{**}", json.dumps({**settings.as_dict(JavisDit.from_weights(weights).config)["size"], "legacy_cross_batch_prior": True})), "guidance=3")
    one, both = made_of(released, clips[:1])[0], made_of(released, clips[:2])[0]
    np.testing.assert_allclose(one["frames"].astype(float), both["frames"], atol=2)  # of its own null pass alone
    ours = made_of(sampler(weights, "guidance=3"), clips[:1])[0]
    assert not np.array_equal(one["frames"], ours["frames"])


# --- settings -------------------------------------------------------------------------------------------------------


def test_all_of_a_shape_can_be_set_by_name():
    """Also what a configuration does not hold, being as usual."""
    for cls, setting, field in ((JavisDit, "size.dim=64", "size"), (JavisSound, "size.depth=2", "size"), (JavisPrior, "prior.heads=2", "prior"), (JavisPrior, "weights.kl=0", "weights")):
        config = settings.resolve(cls.Config, cls.presets, None, None, [setting])
        inner, value = setting.split(".")[1].split("=")
        assert getattr(config, field)[inner] == int(value)
    assert settings.resolve(JavisDit.Config, JavisDit.presets, "tiny", None, ["masks.random=0.2"]).masks["random"] == 0.2
    for setting in ("size.dims=64", "size.joint=true", "size.chunk=[1,1]"):
        with pytest.raises(UsageError, match=r"size has no '\w+' \(it has: time_positions, .*dim, depth"):
            settings.resolve(JavisDit.Config, JavisDit.presets, None, None, [setting])


def test_weights_of_another_form_are_told_once(weights, capsys, monkeypatch):
    """What tensors' names and shapes do not tell."""

    def told(cls, *sets, **more) -> str:
        make(cls, *sets, **more)
        return capsys.readouterr().err

    own = {"weights": prior_of(weights), "init": weights_main(weights)}
    assert told(JavisDit, **own) == told(JavisSound, init=beside(weights, "audio")) == told(JavisPrior, init=hub.Weights({"": weights.sources["prior"]})) == ""
    sets = ("size.time_positions=none", "size.legacy_cross_batch_prior=true", "padding=legacy")
    (line,) = told(JavisDit, *sets, **own).splitlines()
    assert line.startswith(f"avtools: {weights.sources['']}: was made with other settings")
    assert line.endswith(": size.time_positions rotary, here none; size.legacy_cross_batch_prior false, here true; padding silence, here legacy")
    first = {**own, "init": beside(weights, "audio")}  # which has nothing between streams
    assert told(JavisDit, *sets, **first).endswith("to unlearn: padding silence, here legacy\n")
    assert told(JavisSound, "level=false", init=beside(weights, "audio")).endswith(": level true, here false\n")
    assert told(JavisPrior, "prior.heads=4", init=hub.Weights({"": weights.sources["prior"]})).endswith(": prior.heads 2, here 4\n")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told(JavisDit, *sets, **own) == ""


@pytest.mark.parametrize(
    "sets, message",
    [
        (("task=continue", "overlap=NaN"), "sampling.overlap nan"),
        (("overlap=-1",), "sampling.overlap -1"),
        (("overlap=1e308",), "sampling.overlap 1e"),
        (("aspect=Infinity",), "sampling.aspect inf"),
        (("aspect=NaN",), "sampling.aspect nan"),
        (("fps=1e-9",), "0.1 to 1000 pictures a second"),
        (("multiple=6",), "give a multiple of 4"),
    ],
)
def test_samples_that_cannot_be(sets, message, weights):
    with pytest.raises(UsageError, match=message):
        JavisDit.from_weights(weights, None, sets).sample_options(GIVEN)


def test_pictures_smaller_than_a_latent_are_refused():
    config = settings.resolve(JavisDit.Config, JavisDit.presets, "xl", None, ["sampling.resolution=4x4"])
    with pytest.raises(UsageError, match="pictures of 4x4, and a latent is of 8 x 8 pixels"):
        JavisDit(config).sample_options(GIVEN)


def test_a_prior_that_reads_other_captions(weights):
    with pytest.raises(UsageError, match="reads captions 48 wide, and prior_text is words, prior_words 32"):
        make(JavisDit, "prior_words=32", weights=prior_of(weights))


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_rows(clips, weights, tmp_path):
    system = make(JavisDit, weights=prior_of(weights))
    function, given = system.item_work()
    for change, message in (
        ({"path": "placeholder.mp4"}, "placeholder"),
        ({"duration": 1.0}, "fits no bucket: 1.00 s"),
        ({"text": " ", "audio_text": ""}, "says nowhere"),
        ({"audio_path": str(tmp_path / "none.wav")}, "none.wav"),
    ):
        with pytest.raises((RowError, MediaError), match=message):
            function({**clips[0], **change}, 1, given)
    long = make(JavisDit, 'buckets={"24x32":{"24":[1,null]}}', weights=prior_of(weights)).item_work()
    with pytest.raises(RowError, match=r"2.00 s, shorter than its bucket's 3.00 s"):
        long[0]({**clips[0], "duration": 3.0, "audio_duration": 3.0}, 1, long[1])
    options = sampler(weights, "task=v2a", "frames=40").sample_options(GIVEN)
    with pytest.raises(RowError, match="5.00 s are to be given"):
        data.condition(clips[0], options)
    options = sampler(weights, "task=i2av").sample_options(GIVEN)
    with pytest.raises(RowError, match="no picture to begin with"):
        data.condition({"id": "x", "text": "a bell"}, options)


@pytest.mark.parametrize(
    "cls, setting, message",
    [
        (JavisDit, "task=v2v", "sampling.task 'v2v'"),
        (JavisDit, "dropout=2", "a share"),
        (JavisDit, 'masks={"image_heads":0.1}', "no mask 'image_heads'"),
        (JavisDit, "video_codec=vae", "video_codec 'vae'"),
        (JavisDit, "times=normal", "logit-normal or uniform"),
        (JavisPrior, "negatives=0", "one of each kind"),
        (JavisSound, "fps=0", "pictures a second"),
        (JavisSound, 'size={"width":3}', "size: has no width"),
        (JavisSound, "size.time_positions=seconds", "time_positions"),
    ],
)
def test_settings_that_make_no_sense(cls, setting, message):
    with pytest.raises(UsageError, match=message):
        make(cls, setting)


def test_preset_and_checkpoint_are_not_both(weights):
    with pytest.raises(UsageError, match="brings its configuration"):
        JavisDit.from_weights(weights, "tiny")


# --- commands -------------------------------------------------------------------------------------------------------


def program(*words, status=0, ranks=1):
    launch = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(29800 + os.getpid() % 150), "-m"] if ranks > 1 else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", *launch, "avtools", *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env)
    assert done.returncode == status, done.stderr
    return done


def small(cls, *sets) -> list[str]:
    sets = [*(PRIOR if cls is JavisPrior else NET), "train.batch_size=2", "accumulate=2", "previews=0", "log_every=1", "checkpoint_every=2", "keep=9", *sets]
    return ["--preset", "tiny", "--max-steps", "4", "-j", "1", *(word for one in sets for word in ("--set", one))]


@pytest.fixture(scope="module")
def stages(clips, tmp_path_factory):
    """The folder of the runs of all three stages, and what each was called with; of clips of two aspects, an upright one that is not there, and one
    that fits no bucket."""
    folder = tmp_path_factory.mktemp("stages")
    table, calls = folder / "t.jsonl", {}
    table.write_text("".join(json.dumps(row) + "\n" for row in [*clips, {**clips[5], "id": "gone", "path": "gone.mp4"}, {**clips[0], "id": "short", "duration": 1.0, "audio_duration": 1.0}]))
    for name, cls in (("javisdit-audio", JavisSound), ("javisdit-prior", JavisPrior), ("javisdit", JavisDit)):
        more = ["--init", folder / "javisdit-audio", "--weights", f"prior={folder / 'javisdit-prior'}"] if cls is JavisDit else []
        calls[name] = ["train", name, table, *small(cls), "--valid", table, "--set", "eval_every=4", *more]
        done = program(*calls[name], "-d", folder / name)
        assert "1 of 8 rows are left out (fits no bucket: 1.00 s" in done.stderr
    return folder, calls


@pytest.mark.long
def test_the_stages_train_one_after_another_and_sample(stages, tmp_path):
    folder, calls = stages
    for name in calls:
        (lost,) = [json.loads(line) for line in (folder / name / "left-out.jsonl").read_text().splitlines()]
        assert lost["row"] == 7 and lost["id"] == "short"
        lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        assert len([line for line in lines if "loss" in line]) == 4 and any(np.isfinite(line.get("valid_loss", np.nan)) for line in lines)
        for file in ("bad.jsonl", "bad-valid.jsonl"):  # another upright clip stands in, where it was drawn at all
            bad = [json.loads(line) for line in (folder / name / file).read_text().splitlines()] if (folder / name / file).exists() else []
            assert [one["id"] for one in bad] in ([], ["gone"]) and (bad or file == "bad.jsonl") and all("place" not in one for one in bad)
    given = ["--weights", folder / "javisdit", "--weights", f"prior={folder / 'javisdit-prior'}", "--steps", 2, "--mux", "-j", 1, "--to", "jsonl"]
    program("sample", "javisdit", folder / "t.jsonl", *given, "-d", tmp_path / "made", "-o", tmp_path / "made.jsonl")
    made = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert len(made) == 8
    for row in made:
        info = probe(row["generated_path"])
        assert info.picture.num_frames == 16 and info.sound is not None and os.path.getsize(row["generated_audio_path"])


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(name, stages, tmp_path):
    """Behind step 2, 8 of 16 items, of an epoch of 7; between them rows of both aspects wait for a batch of theirs to be full."""
    folder, calls = stages
    shutil.copytree(folder / name, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert '"resumed"' in program(*calls[name], "-d", tmp_path / "run").stdout
    last = folder / name / "checkpoints" / "step-00000004"
    for file in ("model.safetensors", "ema.safetensors") if (last / "ema.safetensors").exists() else ("model.safetensors",):
        one, other = (hub.tensors(at / "checkpoints" / "step-00000004" / file) for at in (folder / name, tmp_path / "run"))
        assert set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)
    assert len((tmp_path / "run" / "left-out.jsonl").read_text().splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_are_one_rank_within_tolerance(name, stages, tmp_path):
    folder, calls = stages
    done = program(*calls[name], "--set", "accumulate=1", "-d", tmp_path / "run", ranks=2)
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    found = [json.loads(line)["loss"] for line in done.stdout.splitlines() if '"loss"' in line]
    assert len(found) == 4 and found == pytest.approx([line["loss"] for line in lines if "loss" in line], rel=2e-3)
    one, other = (hub.tensors(at / "checkpoints" / "step-00000004" / "model.safetensors") for at in (folder / name, tmp_path / "run"))
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, atol=2e-3, rtol=1e-2, msg=lambda text, key=key: f"{key}: {text}")


def test_bad_weights_are_avtools_errors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(AvtoolsError):
        JavisDit.from_weights(hub.Weights({"": str(tmp_path / "x.safetensors")}))


@pytest.mark.long
def test_the_tiny_prior_tells_clips_from_negatives(tmp_path):
    """On clips that it has not seen; chance is 1/2."""
    words = ["synth", "-n", 40, "--seed", 3, "--seconds", 2, "--fps", 24, "--size", "64x48", "--objects", 1, "--absolute", "--no-fsync", "-q", "-j", 1]
    subprocess.run([sys.executable, "-m", "avtools", *map(str, words), "-d", tmp_path / "s", "--to", "jsonl", "-o", tmp_path / "t.jsonl"], check=True, stdin=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    system = JavisPrior(settings.resolve(JavisPrior.Config, JavisPrior.presets, "tiny"))
    torch.manual_seed(0)
    system.build(NONE, NONE, CPU)
    batches = [system.prepare(batch_of(system, rows[k : k + 8], epoch), True) for epoch in range(2) for k in range(0, 32, 8)]
    optimizer = torch.optim.AdamW(system.net.parameters(), system.config.train.lr)
    for step in range(160):
        optimizer.zero_grad()
        system.training_step(system.net, batches[step % len(batches)], step, "main")["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = system.evaluate(system.net, system.prepare(batch_of(system, rows[32:], 9), False))
    assert found["spatial_contrast"].mean() > 0.8 and found["temporal_contrast"].mean() > 0.6
