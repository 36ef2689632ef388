"""VATT as users call it: items, plans, splices, cached states, training steps, files, sampling, captions and features."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("peft")

from avtools import features, hub  # noqa: E402
from avtools.errors import FatalError, MediaError, RowError, UsageError  # noqa: E402
from avtools.metrics.onsets import detect, f1  # noqa: E402
from avtools.models.parts.tiny.sound_codes import SoundCodes  # noqa: E402
from avtools.models.vatt import data, prompts, sampling, training  # noqa: E402
from avtools.models.vatt.config import CONVERTER_PRESETS, PRESETS, Config, ConverterConfig  # noqa: E402
from avtools.models.vatt.decoding import Settings  # noqa: E402
from avtools.models.vatt.system import TRAINED, WRITTEN, Vatt, VattAudio, VattConverter  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402

NONE, CPU = hub.Weights({}), torch.device("cpu")
SMALL = ("net.dim=32", "net.first_blocks=1", "net.second_blocks=1", "net.first_heads=2", "net.second_heads=2", "net.head_dim=16", "net.feed=2")
GIVEN = {"steps": 3, "guidance": None, "scheduler": None}


def synthesise(folder, count, seed=5, seconds=2) -> list[dict]:
    words = ["synth", "-n", count, "--seed", seed, "--seconds", seconds, "--fps", 24, "--size", "64x48", "--objects", 1]
    words += ["--absolute", "--no-fsync", "-q", "-j", 1]
    subprocess.run([sys.executable, "-m", "avtools", *map(str, words), "-d", folder, "--to", "jsonl", "-o", folder / "t.jsonl"], check=True, stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[dict]:
    return synthesise(tmp_path_factory.mktemp("clips"), 6)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> dict:
    return synthesise(tmp_path_factory.mktemp("long"), 1, 7, 5)[0]


def audio(*sets, init=NONE, weights=NONE) -> VattAudio:
    system = VattAudio(settings.resolve(Config, PRESETS, "tiny", None, [*SMALL, *sets]))
    torch.manual_seed(0)
    system.build(weights, init, CPU)
    return system


def converter(*sets, init=NONE) -> VattConverter:
    system = VattConverter(settings.resolve(ConverterConfig, CONVERTER_PRESETS, "tiny", None, sets))
    torch.manual_seed(0)
    system.build(NONE, init, CPU)
    return system


def batch_of(system, rows, step=0) -> dict:
    function, given = system.item_work()
    items = [function(row, draw_of(step, k), given) for k, row in enumerate(rows)]
    draws, keys = torch.tensor([draw_of(step, k) for k in range(len(rows))]), [row["id"] for row in rows]
    return {**system.collate(items), "draws": draws, "keys": keys, "numbers": keys}


def saved(system, folder, tensors=None):
    """A checkpoint of ours, as the trainer writes it."""
    hub.save_checkpoint(folder, {"model.safetensors": (tensors or system.trainable.state_dict(), None)}, system.name, settings.as_dict(system.config))
    return str(folder)


# --- the small codec ----------------------------------------------------------------------------------------


def test_sound_codes_keep_onsets_and_are_sums_of_their_tables(clips):
    codec, found = SoundCodes(), []
    options = data.options_of(audio().config, sound=True)
    for row in clips:
        wave = torch.from_numpy(data.waveform(row, 0.0, 2.0, options))[None]
        tokens = codec.encode(wave)
        assert tokens.shape == (1, 6, 50) and tokens.max() < codec.codes
        patch = sum(codec.tables[level][tokens[0, level]] for level in range(6))
        again = (codec.bases @ patch.T - codec.values[:, :1]) / (codec.values[:, 1] - codec.values[:, 0])[:, None]
        torch.testing.assert_close(again, tokens[0].float(), atol=1e-3, rtol=0)
        sound = codec.decode(tokens)
        assert sound.shape == (1, 50 * codec.hop)
        found.append(f1(detect(sound[0].numpy(), codec.rate), row["event_times"], 0.05)["onset_f1"])
    assert np.mean(found) > 0.8


# --- items and plans ----------------------------------------------------------------------------------------


def test_plans_follow_the_stage_and_the_draw_alone():
    config = settings.resolve(Config, PRESETS, "tiny", None, ["splice=0.5", "roll=0.1", "dummy=0.3", "stage=2"])
    plans = [training.plan(draw, "rain falls", prompts.SOUND_POOL, config, 50) for draw in range(2000)]
    assert plans[7] == training.plan(7, "rain falls", prompts.SOUND_POOL, config, 50)
    dummy = [plan for plan in plans if plan.dummy]
    assert 0.25 < len(dummy) / 2000 < 0.35 and all(plan.instruction in prompts.SOUND_POOL for plan in dummy)
    assert all(plan.instruction == "rain falls" and not plan.cut for plan in plans if not plan.dummy)
    cuts = [plan.cut for plan in dummy if plan.cut]
    assert 0.4 < len(cuts) / len(dummy) < 0.6 and min(cuts) == 5 and max(cuts) == 40
    rolls = [plan.roll for plan in plans if plan.roll]
    assert 0.06 < len(rolls) / 2000 < 0.14 and min(rolls) < -40 and max(rolls) > 40
    config.stage = 1
    assert all(training.plan(draw, "rain falls", prompts.SOUND_POOL, config, 50).dummy for draw in range(50))
    quiet = training.plan(3, "rain falls", prompts.SOUND_POOL, settings.resolve(Config, PRESETS, "tiny", None, ["stage=2", "roll=1"]), 50, train=False)
    assert quiet == ("rain falls", False, 0, 0)  # validation: clips as they are


def test_splices_and_rolls_keep_pictures_and_tokens_together():
    times, rows = torch.arange(10.0)[:, None], torch.arange(100)[None]
    plan = training.Plan("", True, 4, 3)
    seen, heard = training.augmented(times, rows, plan, (times + 100, rows + 1000))
    expected = [107, 108, 109, 0, 1, 2, 3, 104, 105, 106]
    assert seen[:, 0].tolist() == expected
    assert [value // 10 for value in heard[0, ::10].tolist()] == expected
    same, sound = training.augmented(times, rows, training.Plan("", True, 0, 0), None)
    assert torch.equal(same, times) and torch.equal(sound, rows)


def test_items_are_windows_of_one_time(long_clip):
    options = data.options_of(settings.resolve(Config, PRESETS, "tiny", None, ["random_crop=true", "peak=null"]), sound=True)
    starts = set()
    for draw in range(4):
        item = data.training_item(long_clip, draw_of(draw), options)
        start = float(item["start"][0])
        starts.add(start)
        assert item["frames"].shape == (48, 24, 24, 3) and item["waveform"].shape == (32000,) and 0 <= start <= 3
        whole = data.training_item(long_clip, 0, {**options, "random_crop": False, "seconds": 5.0, "frames": 120})
        first = round(start * 24)
        assert np.array_equal(item["frames"], whole["frames"][first : first + 48])
        at = round(start * 16000)
        assert np.abs(item["waveform"] - whole["waveform"][at : at + 32000]).max() < 0.05
    assert len(starts) > 1


def test_what_a_row_lacks_is_told(clips, tmp_path):
    system = audio()
    options = system.item_work()[1]
    with pytest.raises(RowError, match="no path"):
        data.training_item({"id": "a"}, 0, options)
    with pytest.raises(RowError, match="placeholder"):
        data.training_item({"path": "/x/placeholder.mp4"}, 0, options)
    with pytest.raises(RowError, match="no caption.*text_column"):
        data.caption_item({"path": clips[0]["path"]}, 0, converter().item_work()[1])
    np.save(tmp_path / "a.npy", np.zeros((48, 7), np.float32))
    with pytest.raises(MediaError, match="a.npy: features.*2304"):
        data.training_item({"features_path": str(tmp_path / "a.npy")}, 0, options)
    np.save(tmp_path / "u.npy", np.eye(48, 2304, dtype=np.float32))
    with pytest.raises(MediaError, match="u.npy: features of unit length; --set unit_length=true"):
        data.training_item({"features_path": str(tmp_path / "u.npy")}, 0, options)
    np.save(tmp_path / "b.npy", np.zeros((48, 2304), np.float32))
    with pytest.raises(MediaError, match="b.npy: features not of unit length; --set unit_length=false"):
        data.training_item({"features_path": str(tmp_path / "b.npy")}, 0, {**options, "unit_length": True})
    with pytest.raises(RowError, match="b.npy: holds no sound tokens.*tokens_path"):
        data.training_item({"features_path": str(tmp_path / "b.npy")}, 0, options)
    np.save(tmp_path / "t.npy", np.full((50, 6), 16))
    with pytest.raises(MediaError, match="t.npy: sound tokens.*16"):
        data.training_item({"features_path": str(tmp_path / "b.npy"), "tokens_path": str(tmp_path / "t.npy")}, 0, options)
    np.save(tmp_path / "t.npy", np.full((50, 6), 15))
    item = data.training_item({"features_path": str(tmp_path / "b.npy"), "tokens_path": str(tmp_path / "t.npy")}, 0, options)
    assert item["tokens"].shape == (6, 50) and item["features"].shape == (48, 2304)


@pytest.mark.parametrize(
    "sets, message",
    [
        (["encoder=clip"], "encoder"), (["stage=3"], "stage"), (["splice=2"], "splice"), (["net.layout=x"], "layout"), (["window=0"], "window"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(sets, message):
    with pytest.raises(UsageError, match=message):
        Vatt(settings.resolve(Config, PRESETS, "tiny", None, sets))


def test_a_codec_or_language_model_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match="net.codes 99.*the codec sound-codes has 6, 16"):
        audio("net.codes=99")
    with pytest.raises(UsageError, match="net.rate"):
        audio("net.rate=50")
    with pytest.raises(UsageError, match="net.condition=64"):
        audio("net.condition=32")
    with pytest.raises(UsageError, match="text_limit 5"):
        audio("text_limit=5")
    (tmp_path / "empty").mkdir()
    given = {"language": str(tmp_path / "empty")}
    with pytest.raises(FatalError, match="converter=RUN"):
        audio("language=folder", weights=hub.Weights(given))
    run = saved(converter(), tmp_path / "run", converter().trainable_state())
    with pytest.raises(FatalError, match="no config.json"):
        audio("language=folder", weights=hub.Weights({**given, "converter": run}))
    with pytest.raises(UsageError, match="vatt-converter.*vatt-audio"):
        Vatt(settings.resolve(Config, PRESETS, "tiny")).build(NONE, NONE, CPU)


# --- training -----------------------------------------------------------------------------------------------


def test_states_that_come_again_are_not_computed_again(clips):
    system = audio()
    batch = batch_of(system, clips[:3])
    first = system.prepare(batch, True)
    assert system.states.hits == 0
    states, system._states = system._states, None
    again = system.prepare(batch, True)
    system._states = states
    assert system.states.hits == 3
    torch.testing.assert_close(first["states"], again["states"])
    alone = system.prepare(batch_of(audio(), clips[:1]), True)
    torch.testing.assert_close(alone["states"][0], first["states"][0, : alone["states"].shape[1]], atol=1e-5, rtol=1e-4)  # nor do they depend on the batch
    room = training.States(3 * 40 / 2**30)
    for k in range(5):
        room.put((k,), torch.zeros(10))
    assert [room.get((k,)) is None for k in range(5)] == [True, True, False, False, False] and room.used == 120


def test_rows_of_one_key_keep_their_own_states(clips):
    system = audio()
    draw = draw_of("twins")
    batch = {**batch_of(system, clips[:2]), "draws": torch.tensor([draw, draw]), "keys": ["a.mp4", "a.mp4"], "numbers": [0, 1]}  # in two folders, say
    first = system.prepare(batch, True)["states"]
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(system.prepare(batch, True)["states"], first)


def test_spliced_items_hold_another_clip(clips):
    system = audio("splice=1", "roll=1")
    row = clips[0]
    draw = next(draw for draw in map(draw_of, range(99)) if system.partner(row, draw) is not None)
    function, given = system.item_work()
    item = function({**row, "partner": clips[1]}, draw, given)
    assert {"other_frames", "other_waveform"} <= set(item)
    plain = function(clips[2], draw_of(1), given)
    batch = {**system.collate([item, plain]), "draws": torch.tensor([draw, draw_of(1)]), "keys": ["0", "2"], "numbers": [0, 2]}
    ready = system.prepare(batch, True)
    assert not system.states.found  # what is new each time is not kept
    losses = system.training_step(system.net, ready, 0, "main")
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"]) and system.net.visual.weight.grad.abs().sum() > 0
    assert not system.item_is_fixed() and audio().item_is_fixed()


@torch.no_grad()
def test_validation_is_the_same_each_time_and_per_item(clips):
    system = audio()
    system.net.eval()
    together = system.evaluate(system.net, system.prepare(batch_of(system, clips[:3]), False))
    assert together["loss"].shape == (3,) and bool((together["accuracy"] <= 1).all())
    alone = system.evaluate(system.net, system.prepare(batch_of(system, clips[:1]), False))
    torch.testing.assert_close(alone["loss"], together["loss"][:1], atol=1e-4, rtol=1e-4)


def test_stage_two_begins_with_stage_one(clips, tmp_path):
    first = audio("aligned=false")
    folder = saved(first, tmp_path / "one")
    second = audio("stage=2", init=hub.Weights({"": folder}))
    assert torch.equal(second.net.heads.weight, first.net.heads.weight) and not second.net.visual.weight.any()  # what is new adds nothing
    batch = batch_of(second, clips[:2])
    assert batch["text"] == [row["audio_text"] for row in clips[:2]]
    with pytest.raises(UsageError, match="--init"):
        audio(weights=hub.Weights({"": folder}))


def test_training_by_the_trainer_then_sampling(clips, tmp_path, capsys):
    from avtools import rows
    from avtools.training import run as runs

    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in clips))

    def go(steps):
        trains = [f"train.max_steps={steps}", "train.batch_size=2", "train.eval_every=2", "previews=1", "train.schedule=constant"]
        config = settings.resolve(Config, PRESETS, "tiny", None, [*SMALL, *trains, "splice=0.5", "sampling.steps=2"])
        source, valid = rows.open_rows([str(table)]), rows.open_rows([str(table)])
        return runs.train(VattAudio(config), runs.Request(run=str(tmp_path / "run"), weights=NONE, init=NONE, source=source, valid=valid, jobs=1))

    assert go(2) == 0 and go(3) == 0  # and on from its checkpoint
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("valid_accuracy" in line for line in lines) and any("resumed" in line for line in lines)
    assert list((tmp_path / "run" / "samples").glob("*/*.wav"))
    system = Vatt.from_weights(hub.Weights({"": str(tmp_path / "run")}))
    system.load(hub.Weights({"": str(tmp_path / "run")}), CPU, torch.float32)
    assert system.weights_digest(hub.Weights({"": str(tmp_path / "run")})) and "converter" not in capsys.readouterr().err
    other = saved(converter(), tmp_path / "c", converter().trainable_state())
    system.load(hub.Weights({"": str(tmp_path / "run"), "converter": other}), CPU, torch.float32)
    assert "was trained with no converter; what it makes may fit neither" in capsys.readouterr().err


# --- the converter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["proj", "lora"])
def test_the_converter_trains_what_its_stage_says(clips, stage, tmp_path):
    system = converter(f"stage={stage}")
    trained = {name for name, value in system.converter.named_parameters() if value.requires_grad}
    assert all(name.startswith("video_proj.") or ".lora_" in name for name in trained) and any(".lora_" in name for name in trained) == (stage == "lora")
    assert set(system.trainable_state()) == trained
    batch = system.prepare(batch_of(system, clips[:4]), True)
    optimizer = torch.optim.AdamW(system.optimizers()["main"], 1e-2)
    values = []
    for _ in range(12):
        loss = system.training_step(system.trainable, batch, 0, "main")["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert values[-1] < 0.95 * values[0]
    system.converter.eval()
    with torch.no_grad():
        each = system.evaluate(system.trainable, batch)
    assert each["loss"].shape == (4,) and torch.isfinite(each["loss"]).all()
    # what it learned reaches the sound model, and a run of the next stage
    folder = saved(system, tmp_path / "run", system.trainable_state())
    used = audio(weights=hub.Weights({"converter": folder})).converter
    asked = batch["features"], batch["texts"].ids, batch["texts"].mask
    with torch.no_grad():
        wanted = system.converter.states(*asked)
        torch.testing.assert_close(used.states(*asked), wanted, atol=1e-4, rtol=1e-3)
        assert (audio().converter.states(*asked) - wanted).abs().max() > 1e-2
    later = converter("stage=lora", init=hub.Weights({"": folder}))
    assert torch.equal(later.converter.video_proj.weight, system.converter.video_proj.weight)
    with pytest.raises(UsageError, match="a checkpoint of vatt-audio, not of vatt-converter"):
        audio(weights=hub.Weights({"converter": saved(audio(), tmp_path / "other")}))


def test_the_converter_is_asked_with_a_rows_own_instruction(clips, capsys):
    """As VATT's lists have it: questions of their own, and captions of what is seen."""
    system = converter("text_limit=40")
    seen = {"caption": "True", "text": "a red ball", "audio_text": ""}
    rows = [clips[0], {**clips[1], "instruction": "is it a drum?"}, {**clips[2], **seen}, {**clips[3], "caption": "a ball"}, {**clips[4], "instruction": "ring " * 50}]
    batch = batch_of(system, rows)
    for _ in range(2):
        texts = system.prepare(batch, True)["texts"]
    asked = [system.converter.tokenizer.decode(ids[mask.bool() & (labels == -100)]) for ids, mask, labels in zip(texts.ids, texts.mask, texts.labels, strict=True)]

    def of(pool, text):
        return any(system.converter.tokenizer.decode(system.converter.tokenizer(one)["input_ids"][1:]) in text for one in pool)

    assert [of(prompts.SOUND_POOL, one) for one in asked] == [True, False, False, True, False]
    assert [of(prompts.PICTURE_POOL, one) for one in asked] == [False, False, True, False, False]
    assert "is it a drum" in asked[1] and batch["text"][2] == "a red ball"
    assert (texts.labels[4] == -100).all() and capsys.readouterr().err.count("leaves no room for an answer within text_limit 40") == 1
    assert torch.isfinite(system.training_step(system.trainable, system.prepare(batch_of(system, rows[4:]), True), 0, "main")["loss"])


# --- sampling -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory):
    torch.set_num_threads(1)
    return saved(audio(), tmp_path_factory.mktemp("checkpoint") / "run")


def sampler(folder, *sets) -> Vatt:
    weights = hub.Weights({"": folder})
    system = Vatt.from_weights(weights, None, sets)
    system.load(weights, CPU, torch.float32)
    return system


def test_a_batch_is_as_its_clips_alone_whatever_their_length(checkpoint_folder, clips, long_clip):
    system = sampler(checkpoint_folder, "sampling.mask_temperature=1")
    options = system.sample_options(GIVEN)
    items = [system.condition(row, options) for row in (clips[0], long_clip, clips[1])]
    with torch.inference_mode():
        together = system.generate(items, [1, 2, 3], options)
        alone = [system.generate([item], [seed], options)[0] for item, seed in zip(items, (1, 2, 3), strict=True)]
    for one, other, item in zip(together, alone, items, strict=True):
        assert one["rate"] == 16000 and one["sound"].shape == (round(float(item["seconds"]) * 16000), 1)
        assert np.abs(one["sound"]).max() <= 1
        assert np.mean(np.abs(one["sound"] - other["sound"]) > 1e-3) < 0.01  # a draw at a tie may fall otherwise
    assert np.abs(together[0]["sound"] - system.generate(items[:1], [9], options)[0]["sound"]).max() > 1e-3


def test_later_windows_go_on_from_the_last():
    system = audio()
    net = system.net.eval()
    seen = []

    def conditions(features, which):
        seen.append((features.shape, list(which)))
        return system._conditions(features, [system.pool[0]] * len(which))

    video = [torch.randn(n, 2304, generator=torch.Generator().manual_seed(n)) for n in (48, 120, 30)]
    made = sampling.tokens_for(net, video, conditions, [1, 2, 3], Settings(steps=2, guidance=1.0), window=48, rows=50, shared=12)
    assert [one.shape for one in made] == [(6, 50), (6, 125), (6, 50)]
    assert [which for _, which in seen] == [[0, 1, 2], [1], [1]]
    assert sampling.begins_of(120, 48, 12) == [0, 36, 72] and sampling.begins_of(48, 48, 12) == [0]
    again = sampling.tokens_for(net, video[1:2], conditions, [2], Settings(steps=2, guidance=1.0), window=48, rows=50, shared=12)
    assert torch.equal(again[0], made[1])


def test_long_sound_is_decoded_in_parts(monkeypatch):
    class Sum:  # as a codec, of which a row's sound depends on the rows beside it
        rate, hop = 10, 2

        def decode(self, tokens):
            mean = torch.nn.functional.avg_pool1d(tokens.float(), 3, 1, 1).mean(1) / 100
            return mean.repeat_interleave(self.hop, 1)

    tokens = torch.randint(90, (3, 37))
    whole = sampling.sounds(Sum(), [tokens], [7.0])[0]
    monkeypatch.setattr(sampling, "CHUNK", 2.0)
    assert np.array_equal(sampling.sounds(Sum(), [tokens], [7.0])[0], whole) and whole.shape == (70,)
    assert sampling.sounds(Sum(), [tokens], [9.0])[0].shape == (90,)


def test_captions_are_asked_written_and_used(checkpoint_folder, clips):
    system = sampler(checkpoint_folder, "sampling.captions=true", "sampling.caption_tokens=6")
    assert system.makes == () and system.sets == (WRITTEN,)
    options = system.sample_options(GIVEN)
    items = [system.condition(row, options) for row in clips[:2]]
    made = system.generate(items, [1, 2], options)
    assert all(set(one) == {"cells"} and isinstance(one["cells"][WRITTEN], str) for one in made)
    assert system.generate(items[1:], [2], options) == made[1:]
    own = sampler(checkpoint_folder, "sampling.prompt=self", "sampling.caption_tokens=6")
    told = own.generate(items, [1, 2], own.sample_options(GIVEN))
    assert [one["cells"] for one in told] == [one["cells"] for one in made] and all("sound" in one for one in told)
    asked = []
    plain = sampler(checkpoint_folder)
    states = plain._states
    plain._states = lambda features, texts, cut: asked.extend(texts) or states(features, texts, cut)
    plain.generate(items, [1, 2], plain.sample_options(GIVEN))
    assert asked == [row["audio_text"] for row in clips[:2]] and plain.sets == ()
    nothing = sampler(checkpoint_folder, "sampling.prompt=none")
    assert "audio_text" not in nothing.reads and "audio_text" in plain.reads
    with pytest.raises(UsageError, match="prompt"):
        Vatt.from_weights(hub.Weights({"": checkpoint_folder}), None, ["sampling.prompt=x"]).sample_options(GIVEN)
    with pytest.raises(RowError, match="limit is 64"):
        plain.generate([{**items[0], "text": np.frombuffer(b"rain " * 99, np.uint8)}], [1], plain.sample_options(GIVEN))
    with pytest.raises(UsageError, match="--scheduler"):
        plain.sample_options({**GIVEN, "scheduler": "ddim"})


def test_a_checkpoint_keeps_its_instructions(tmp_path):
    """Wherever it is sampled from: the file that they came from is not asked for again."""
    run = saved(audio('prompt_pool=["what rings?", "what is heard?"]'), tmp_path / "run")
    assert sampler(run).pool == ("what rings?", "what is heard?")
    with pytest.raises(UsageError, match="prompt_pool.*--prompt-pool FILE"):
        audio("prompt_pool=[1]")


def test_a_checkpoint_tells_what_it_is(checkpoint_folder, tmp_path):
    with pytest.raises(UsageError, match="--preset"):
        Vatt.from_weights(hub.Weights({"": checkpoint_folder}), "tiny")
    other = saved(converter(), tmp_path / "c", converter().trainable_state())
    with pytest.raises(FatalError, match="a checkpoint of vatt-converter, not of vatt-audio"):
        Vatt.from_weights(hub.Weights({"": other}))
    system = audio()
    tensors = {**system.net.state_dict(), "codebooks": system.net.codebooks + 1}
    with pytest.raises(FatalError, match="codebooks that are not the codec's"):
        sampler(saved(system, tmp_path / "d", tensors))
    with pytest.raises(UsageError, match="part of vatt"):
        VattConverter.from_weights(NONE)


def test_released_weights_are_sampled_converted_and_their_layout_measured(clips, tmp_path, capsys):
    """A small .ckpt under released names, with the tiny language model's projection."""
    from avtools.models.vatt import checkpoint
    from avtools.models.vatt import converter as converters

    wide = ("aligned=false", "net.head_dim=64", "net.first_heads=1", "net.second_heads=1")  # released files have heads of 64
    system = audio(*wide, "net.layout=legacy")
    delta = {f"encoder.{name}": 2 * value for name, value in converters.delta_of(system.converter).items()}
    path = tmp_path / "vatt.ckpt"
    torch.save({"state_dict": {**{name: value.clone() for name, value in checkpoint.released(system.net).items()}, **delta}}, path)
    tiny = ["language=tiny", "codec=sound-codes", "encoder=pixels", "features=2304", "frame_rate=24.0", "frame_size=24", "window=2.0"]
    tiny += ["net.rate=25.0", "video_tokens_per_second=4.0"]
    weights = hub.Weights({"": str(path)})
    made = Vatt.from_weights(weights, None, [*tiny, f'layout_clips=["{clips[0]["path"]}"]'])
    assert made.config.net.layout == "legacy" and made.config.net.positions == "own" and not made.config.aligned
    made.load(weights, CPU, torch.float32)
    told = capsys.readouterr().err
    assert "layout of logits: " in told and "masked cross-entropy aligned " in told and ", legacy " in told and "1 clips" in told
    torch.testing.assert_close(made.converter.video_proj.weight, 2 * system.converter.video_proj.weight)
    options = made.sample_options(GIVEN)
    sound = made.generate([made.condition(clips[0], options)], [1], options)[0]["sound"]
    assert sound.shape == (32000, 1)
    plain = Vatt.from_weights(weights, None, tiny)
    plain.load(weights, CPU, torch.float32)
    assert "layout of logits: legacy; not measured" in capsys.readouterr().err


def test_released_weights_are_converted_whole(clips, tmp_path):
    """As a folder of ours they sound as before, with EnCodec and the projection that were beside them."""
    from avtools.models.vatt import checkpoint, codec
    from avtools.models.vatt import converter as converters
    from avtools.models.vatt.model import AudioNet, Size

    torch.manual_seed(0)
    config = {"sampling_rate": 1600, "num_filters": 2, "hidden_size": 8, "codebook_size": 16, "upsampling_ratios": [4, 2, 2, 2], "levels": 3}
    encodec = codec.make(codec._finished(config) | {"pad_mode": "constant"}, "small")
    for layer in encodec.model.quantizer.layers:
        layer.codebook.embed.normal_()
    hub.save_tensors(tmp_path / "codec.safetensors", *encodec.saved())
    torch.save([table.clone() for table in encodec.tables], tmp_path / "codebook.pt")
    size = Size(dim=32, first_blocks=1, second_blocks=1, first_heads=1, second_heads=1, feed=2, latent=8, levels=3, codes=16, condition=64)
    made = converter()
    delta = {f"encoder.{name}": 2 * value for name, value in converters.delta_of(made.converter).items()}
    released = {name: value.clone() for name, value in checkpoint.released(AudioNet(size)).items()}
    torch.save({"state_dict": {**released, **delta}}, tmp_path / "vatt.ckpt")
    beside = {"codec": str(tmp_path / "codec.safetensors"), "codebook": str(tmp_path / "codebook.pt")}
    tiny = ["sample_rate=1600", "language=tiny", "encoder=pixels", "features=2304", "frame_rate=24.0", "frame_size=24", "window=2.0", "video_tokens_per_second=4.0"]

    def sound(source):
        weights = hub.Weights({"": source, **beside})
        system = Vatt.from_weights(weights, None, tiny)
        system.load(weights, CPU, torch.float32)
        options = system.sample_options(GIVEN)
        found = system.generate([system.condition(clips[0], options)], [1], options)[0]
        assert found["rate"] == 1600 and found["sound"].shape == (3200, 1)
        return found["sound"]

    folder = tmp_path / "ours"
    before = sound(str(tmp_path / "vatt.ckpt"))
    assert Vatt.convert(hub.Weights({"": str(tmp_path / "vatt.ckpt"), **beside}), str(folder)) == str(folder)
    assert (folder / "converter.safetensors").is_file()
    assert np.array_equal(sound(str(folder)), before)
    with pytest.raises(UsageError, match="ours already"):
        Vatt.convert(hub.Weights({"": str(folder)}), str(tmp_path / "again"))
    torch.save([table + 1 for table in encodec.tables], tmp_path / "codebook.pt")
    with pytest.raises(FatalError, match="codebook.pt: codebooks that are not the codec's"):
        sound(str(folder))


# --- features -------------------------------------------------------------------------------------------------


def test_features_are_what_training_would_compute(clips, long_clip, tmp_path):
    system = Vatt(settings.resolve(Config, PRESETS, "tiny"))
    system.load_encoders(NONE, CPU, torch.float32)
    options = system.feature_options()
    made = system.encode([system.feature_item(row, options) for row in (clips[0], long_clip)])
    assert [one["features"].shape for one in made] == [(48, 2304), (120, 2304)]  # as long as the clip
    assert [one["tokens"].shape for one in made] == [(6, 50), (6, 125)]
    trainer = audio()
    path = tmp_path / "a.safetensors"
    features.write(path, made[0], system.encoder_facts())
    row = {**clips[0], "features_path": str(path)}
    trainer.check_row(row)
    cached, plain = trainer.prepare(batch_of(trainer, [row]), False), audio().prepare(batch_of(audio(), clips[:1]), False)
    assert torch.equal(cached["tokens"], plain["tokens"])
    torch.testing.assert_close(cached["visual"], plain["visual"], atol=2e-3, rtol=2e-3)
    features.write(path, made[0], {**system.encoder_facts(), "frame_size": "25"})
    with pytest.raises(UsageError, match="frame_size"):
        trainer.check_row(row)
    features.write(tmp_path / "long.safetensors", made[1], system.encoder_facts())
    cropped = audio("random_crop=true")
    item = cropped.item_work()[0]({**long_clip, "features_path": str(tmp_path / "long.safetensors")}, 3, cropped.item_work()[1])
    assert item["features"].shape == (48, 2304) and item["tokens"].shape == (6, 50)
    heard = {**system.sample_options(GIVEN), "sound": False}
    assert float(system.condition({**long_clip, "features_path": str(tmp_path / "long.safetensors")}, heard)["seconds"]) == 5.0
    brief = system.encode([{"frames": np.zeros((10, 24, 24, 3), np.uint8), "waveform": np.zeros(32000, np.float32)}])[0]
    assert brief["features"].shape == (48, 2304) and brief["tokens"].shape == (6, 50)  # at least a window
    assert system.encoders_digest(NONE) == "without weights"


def test_pictures_of_long_clips_are_read_where_they_are_encoded(long_clip, monkeypatch):
    system = audio()
    options = system.sample_options(GIVEN)
    whole = system._seen([system.condition(long_clip, options)])[0]
    monkeypatch.setattr(data, "AT_ONCE", 1.0)
    item = system.condition(long_clip, options)
    assert "frames" not in item and "path" in item
    torch.testing.assert_close(system._seen([item])[0], whole)
