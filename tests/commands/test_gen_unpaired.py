"""`gen-unpaired`: AudioLDM 2 of its real classes, tiny and random; lengths, rates, rows that depend on nothing else than themselves."""

import csv
import io
import json
import math
import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import soxr

from avtools.errors import FatalError, RowError
from conftest import Program, files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from avtools.models.audioldm2 import making  # noqa: E402

RATE, STEPS = 4000, 3  # of the tiny networks: Hz; denoising steps
SAME = 2e-3  # of the peak: random networks make much of rounding (in double precision it is 1e-12)
SCHEDULE = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


# --- tiny networks ------------------------------------------------------------------------------------------


def tokenizers(folder):
    """Of RoBERTa's kind, of the letters that stand for bytes; of T5's, of ASCII."""
    from avtools.models.parts.imagebind.text import _letters

    words = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *_letters(), "Ġd", "Ġdo", "Ġdog", "<mask>"])
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ d\nĠd o\nĠdo g\n")
    roberta = transformers.RobertaTokenizer.from_pretrained(str(folder), model_max_length=36)
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(code), -3.0) for code in range(33, 127)), ("▁dog", -1.0)]
    return roberta, transformers.T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=24)


def small(folder):
    """An AudioLDM 2 that makes 0.64 s at 4 kHz in 16 latent steps, as a folder of diffusers."""
    roberta, t5 = tokenizers(folder / "tokens")
    torch.manual_seed(0)
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16, "max_position_embeddings": 40, "vocab_size": len(roberta)}
    sound = {"patch_embeds_hidden_size": 4, "hidden_size": 32, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    blocks = {"cross_attention_dim": ([None, 16, 12], [None, 16, 12]), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "block_out_channels": (8, 8, 8)}
    rates = {"upsample_rates": [5, 8], "upsample_kernel_sizes": [15, 16], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    networks = {
        "text_encoder": transformers.ClapModel(transformers.ClapConfig(text_config=text | {"projection_dim": 8}, audio_config=sound | {"projection_dim": 8}, projection_dim=8)),
        "text_encoder_2": transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(t5) + 3, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)),
        "language_model": transformers.GPT2Model(transformers.GPT2Config(vocab_size=2, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)),
        "projection_model": diffusers.AudioLDM2ProjectionModel(8, 12, 16),
        "unet": diffusers.AudioLDM2UNet2DConditionModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4, **blocks),
        "vae": diffusers.AutoencoderKL(in_channels=1, out_channels=1, latent_channels=4, layers_per_block=1, norm_num_groups=4, **levels),
        "vocoder": transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(model_in_dim=8, sampling_rate=RATE, upsample_initial_channel=16, normalize_before=False, **rates)),
    }
    draw = torch.Generator().manual_seed(1)
    for network in networks.values():
        for name, parameter in network.named_parameters():  # as they begin, they make silence of any text
            if parameter.ndim > 1:
                parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * (1.5 / max(1, parameter[0].numel()) ** 0.5))
    scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    front = transformers.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=20)
    made = diffusers.AudioLDM2Pipeline(**networks, tokenizer=roberta, tokenizer_2=t5, feature_extractor=front, scheduler=scheduler)
    made.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.set_num_threads(1)
    return small(tmp_path_factory.mktemp("audioldm2"))


def loaded(folder, **settings):
    from avtools.models.audioldm2.generating import AudioLdm2

    return AudioLdm2(folder, "cpu", **{"steps": STEPS, **settings})


def request(text, seed, seconds=None):
    from avtools.models.audioldm2.generating import Request

    return Request(text, seed, seconds)


# --- what a row asks for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, found",
    [
        ({"text": "A red car", "audio_text": "an engine hums"}, "an engine hums"),
        ({"text": " rain\n falls ", "audio_text": ""}, "rain falls"),
        ({"text": '["", "rain", "wind"]'}, "rain"),
        ({"text": ["rain", "wind"]}, "rain"),
        ({"text": "[music]"}, "[music]"),
        ({"text": None, "description": "hum"}, "hum"),
    ],
)
def test_caption(row, found):
    assert making.caption_of(row, None) == found


@pytest.mark.parametrize("row", [{}, {"text": "  "}, {"text": []}, {"text": '["", null]'}, {"text": {"a": 1}}])
def test_no_caption(row):
    with pytest.raises(RowError, match="no caption|holds no text"):
        making.caption_of(row, None)


def test_caption_of_a_column():
    assert making.caption_of({"text": "a", "say": "b"}, "say") == "b"
    with pytest.raises(RowError, match=r"looked at: say\)"):
        making.caption_of({"text": "a", "say": ""}, "say")


@pytest.mark.parametrize(
    "row, seconds",
    [
        ({"num_frames": "48", "fps": "24", "duration": "9"}, Fraction(2)),
        ({"num_frames": "240", "fps": "23.976"}, Fraction(240000, 23976)),
        ({"num_frames": "", "fps": "24", "duration": "1.5", "audio_duration": "3"}, Fraction(3, 2)),
        ({"path": "placeholder.mp4", "num_frames": 47, "fps": 24, "audio_duration": 1.99}, Fraction("1.99")),
        ({"audio_length_s": "2.25"}, Fraction(9, 4)),
    ],
)
def test_seconds(row, seconds):
    assert making.seconds_of(row) == seconds


@pytest.mark.parametrize("row, word", [({}, "does not say"), ({"num_frames": "0", "fps": "24"}, "num_frames: 0 is not above"), ({"duration": "nan"}, "duration"), ({"duration": "-1"}, "not above")])
def test_no_seconds(row, word):
    with pytest.raises(RowError, match=word):
        making.seconds_of(row)


def test_rate():
    assert making.rate_of({"audio_fps": "44100"}, None) == 44100 and making.rate_of({"audio_fps": "44100"}, 8000) == 8000
    assert making.rate_of({"audio_fps": "16000.0"}, None) == 16000 and making.rate_of({"audio_fps": ""}, None) is None
    for cell in ("0", "-1", "8000.5", "fast"):
        with pytest.raises(RowError, match="audio_fps"):
            making.rate_of({"audio_fps": cell}, None)


@pytest.mark.parametrize(
    "row, found",
    [
        ({"path": "v/a.mp4", "relpath": "x/a.mp4"}, "x/a"),
        ({"path": "v/a.mp4"}, "a"),
        ({"path": "placeholder.mp4", "relpath": "placeholder.mp4", "audio_path": "s/b.flac"}, "b"),
        ({"id": "take.v2", "text": "rain"}, "take.v2"),
    ],
)
def test_place(row, found):
    assert making.relpath_of(row) == found


@pytest.mark.parametrize("row", [{"id": "../x"}, {"relpath": "../x.mp4", "path": "x.mp4"}, {"text": "rain"}])
def test_no_place(row):
    with pytest.raises(RowError):
        making.relpath_of(row)


class TestFitted:
    @pytest.mark.parametrize("rate, seconds, count", [(4000, Fraction("0.5"), 2000), (11025, Fraction("0.33333333333333"), 3675), (8000, Fraction(10, 24), 3334), (44100, Fraction(1, 100000), 1)])
    def test_length(self, rate, seconds, count):
        assert len(making.fitted(np.zeros(2400, np.float32), 4000, rate, seconds)) == count

    def test_pitch_and_level_stay(self):
        times = np.arange(2400) / 4000
        made = making.fitted(np.float32(0.5 * np.sin(2 * np.pi * 500 * times)), 4000, 16000, Fraction("0.5"))
        wanted = 0.5 * np.sin(2 * np.pi * 500 * np.arange(8000) / 16000)
        assert made.dtype == np.float32 and np.abs(made - wanted)[200:].max() < 1e-3, "its end too, with what comes after it"

    def test_the_same_rate_is_not_touched(self):
        sound = np.random.default_rng(0).standard_normal(2400).astype(np.float32)
        assert np.array_equal(making.fitted(sound, 4000, 4000, Fraction("0.5")), sound[:2000])


def test_the_best_candidate_is_chosen():
    good, bad = np.zeros(3, np.float32), np.array([0, np.nan], np.float32)
    of = lambda *rows: making.chosen([{"index": k, "sound": sound, "score": score} for k, sound, score in rows])["index"]  # noqa: E731
    assert of((0, good, 0.1), (1, good, 0.3), (2, good, 0.2)) == 1
    assert of((2, good, 0.3), (1, good, 0.3)) == 1 and of((0, bad, 0.9), (1, good, -0.5)) == 1 and of((0, good, math.nan), (1, good, -1)) == 1
    with pytest.raises(RowError, match="not finite"):
        of((0, bad, 0.9))


# --- the networks -------------------------------------------------------------------------------------------


def pipelines(folder):
    """diffusers' own pipeline, with what transformers 5 took from it put back: a GPT-2 that generates."""
    language = transformers.GPT2LMHeadModel.from_pretrained(folder / "language_model")
    made = diffusers.AudioLDM2Pipeline.from_pretrained(folder, local_files_only=True, language_model=language)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("guidance, negative", [(3.5, ""), (2.0, "hum"), (1.0, "")])
def test_a_single_text_gives_what_the_pipeline_gives(weights, guidance, negative):
    pipeline = pipelines(weights)
    model = loaded(weights, guidance=guidance, negative=negative)
    for seed, (text, seconds) in enumerate([("a dog barks", None), ("rain on a tin roof", Fraction(3, 5))]):
        made = model.generate([request(text, seed, seconds)])[0]
        noise = torch.randn(4, 16, 2, generator=torch.Generator().manual_seed(seed))[None]
        wanted = pipeline(
            text, negative_prompt=negative or None, guidance_scale=guidance, num_inference_steps=STEPS, max_new_tokens=8, latents=noise, audio_length_in_s=float(seconds or model.native)
        ).audios[0]
        assert np.abs(wanted).max() > 0.01 and len(wanted) == (2560 if seconds is None else 2400)
        assert np.allclose(made[: len(wanted)], wanted, atol=1e-4 * np.abs(wanted).max()), np.abs(made[: len(wanted)] - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_sound_depends_on_its_request_alone(weights, tmp_path, scheduler):
    """Whatever lengths of text and of sound are beside it, and with schedulers that draw or remember."""
    folder = shutil.copytree(weights, tmp_path / "w")
    getattr(diffusers, scheduler)(**SCHEDULE).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", scheduler]}))
    model = loaded(folder, negative="a longer text than some")
    requests = [request("rain", 1), request("a dog barks at rain", 2), request("rain", 3), request("wind", 1), request("rain", 1, Fraction(1))]
    together = model.generate(requests)
    assert [len(sound) for sound in together] == [2560] * 4 + [4160], "all that was made, and no more than a sixteenth of a second too much"
    for one, sound in zip(requests, together, strict=True):
        assert np.allclose(loaded(folder, negative="a longer text than some").generate([one])[0], sound, atol=SAME * np.abs(sound).max())
    assert [np.allclose(together[0], together[k], atol=0.05 * np.abs(together[0]).max()) for k in (2, 3)] == [False, False], "seed and text count"


def test_lengths_and_tokens(weights):
    model = loaded(weights)
    assert model.native == Fraction(16, 25) and model.rate == RATE and model.new == 8 and model.tokens == 24
    assert [model.latents(seconds) for seconds in (None, Fraction(1, 1000), Fraction(1, 25), Fraction(4, 25), Fraction(16, 25), Fraction(17, 25))] == [16, 4, 4, 4, 16, 18]
    assert model.cut("rain") is None and model.cut("x" * 40) == 42
    assert np.isfinite(model.generate([request("x" * 400, 0, Fraction(1, 10))])[0]).all()


def test_half_precision_is_of_the_diffusion_network_alone(weights):
    one, other = (loaded(weights, precision=precision) for precision in ("fp32", "bf16"))
    assert {parameter.dtype for parameter in other.net.parameters()} == {torch.float32}, "autocast"
    exact, near = (model.generate([request("rain", 1)])[0] for model in (one, other))
    assert near.dtype == np.float32 and np.isfinite(near).all() and not np.array_equal(exact, near) and np.corrcoef(exact, near)[0, 1] > 0.5


def test_ranking_is_that_of_clap(weights):
    model = loaded(weights, ranking=True)
    draw = np.random.default_rng(0)
    sounds, texts = [np.float32(0.1 * draw.standard_normal(RATE * 10)) for _ in range(3)], ["rain", "a dog", "rain"]
    found = model.scores(texts, sounds)
    own = transformers.ClapModel.from_pretrained(weights / "text_encoder").eval()
    tokenizer = transformers.RobertaTokenizer.from_pretrained(weights / "tokenizer")
    front = transformers.ClapFeatureExtractor.from_pretrained(weights / "feature_extractor")

    for text, sound, score in zip(texts, sounds, found, strict=True):
        heard = front(soxr.resample(sound, RATE, 48000, quality="VHQ"), sampling_rate=48000, return_tensors="pt")
        with torch.no_grad():
            made = own(**tokenizer(text, return_tensors="pt"), input_features=heard["input_features"], is_longer=heard["is_longer"])
        assert score == pytest.approx((made.logits_per_text / own.logit_scale_t.exp()).item(), abs=1e-3)


def test_half_the_batch_where_memory_does_not_suffice(weights, monkeypatch):
    from avtools.engine import Model, Task, local
    from avtools.models.audioldm2 import generating

    sizes, denoised = [], generating.AudioLdm2._denoised

    def scarce(self, conditions, seeds, length):
        sizes.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoised(self, conditions, seeds, length)

    options = {"steps": 2, "guidance": 2.0, "negative": "", "candidates": 1}
    items = [{"text": text, "seed": k, "seconds": None, "key": text, "index": 0} for k, text in enumerate(["a", "bb", "c", "dd", "e"])]
    monkeypatch.setattr(generating.AudioLdm2, "_denoised", scarce)
    stage = local._Stage(Model(lambda: making.load(str(weights), "fp32", options), 4, None))
    for number, one in enumerate(items):
        stage.add(Task(number, None, None), [one])
    found = {}
    while stage.pending:
        for task, results, failure in stage.run():
            assert failure is None
            found[task.number] = results[0]["sound"]
    assert sizes == [4, 2, 2, 1] and len(found) == 5
    alone = making.load(str(weights), "fp32", options)(items[3:4])[0]["sound"]
    assert np.allclose(found[3], alone, atol=SAME * np.abs(alone).max())


@pytest.mark.parametrize(
    "spoil, word",
    [
        (lambda w: _without(w / "unet/diffusion_pytorch_model.safetensors", "conv_in.weight"), "does not fit AudioLDM2UNet2DConditionModel; 1 missing: conv_in.weight"),
        (lambda w: _without(w / "language_model/model.safetensors", "h.1.attn.c_attn.bias"), "does not fit GPT2Model; 1 missing"),
        (lambda w: _without(w / "text_encoder/model.safetensors", "text_projection.linear1.bias"), "1 missing: text_projection.linear1.bias"),
        (lambda w: shutil.rmtree(w / "vocoder"), "vocoder: no such folder"),
        (lambda w: (w / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "vae: cannot be loaded as AutoencoderKL"),
        (lambda w: (w / "tokenizer_2/tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda w: (w / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'), "is of StableDiffusionPipeline, not AudioLDM 2"),
        (lambda w: (w / "model_index.json").unlink(), "model_index.json: No such file"),
    ],
)
def test_weights_that_do_not_fit(weights, tmp_path, spoil, word):
    folder = shutil.copytree(weights, tmp_path / "w")
    spoil(folder)
    with pytest.raises(FatalError) as error:
        loaded(folder)
    assert word in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def _without(path, name):
    from safetensors.torch import load_file, save_file

    save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path, {"format": "pt"})


def test_a_language_model_of_either_form(weights, tmp_path):
    """Under GPT2LMHeadModel's names too, as some copies have it."""
    folder = shutil.copytree(weights, tmp_path / "w")
    transformers.GPT2LMHeadModel.from_pretrained(weights / "language_model").save_pretrained(folder / "language_model")
    one, other = (loaded(where).generate([request("rain", 1)])[0] for where in (weights, folder))
    assert np.array_equal(one, other)


# --- the command ----------------------------------------------------------------------------------------------


TABLE = """relpath,path,text,audio_text,num_frames,fps,duration,audio_duration,audio_fps
a/dog.mp4,v/dog.mp4,A lawn,a dog barks,24,24,,,8000
rain.mp4,v/rain.mp4,rain falls,,10,23.976,,,
none.mp4,v/none.mp4,,,10,24,,,8000
zero.mp4,v/zero.mp4,hum,,0,24,,,8000
long.mp4,v/long.mp4,hum,,99999,24,,,8000
placeholder.mp4,placeholder.mp4,placeholder,wind,8,24,,0.3501,44100
rain.mp4,v/rain.mp4,snow falls,,10,24,,,
talk.mp4,v/talk.mp4,"on and on and on and on and on",,7,24,,,11025
"""


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    """A run over good and bad rows: the program, its line, what came of it."""
    avtools = Program(tmp_path_factory.mktemp("run"))
    (avtools.folder / "t.csv").write_text(TABLE)
    line = ["gen-unpaired", "t.csv", "--match-duration", "--candidates", "2", "--steps", "2", "--weights", weights, "--key", "path", "--sample-format", "f32"]
    return avtools, line, avtools(*line, "-d", "out", "--batch-size", "3", status=1)


def test_sounds_of_the_rows_length_and_rate(done):
    avtools, _, run = done
    made = rows(run.stdout)
    assert list(made[0])[-1] == "unpaired_audio_path" and "8 rows in = 4 done + 0 filtered + 4 bad" in run.stderr
    assert [row["unpaired_audio_path"] for row in made] == ["out/a/dog.wav", "out/rain.wav", "out/placeholder.wav", "out/talk.wav"]
    wanted = [(8000, 8000), (RATE, math.ceil(10 / 23.976 * RATE)), (44100, math.ceil(0.3501 * 44100)), (11025, math.ceil(7 / 24 * 11025))]
    for row, (rate, count) in zip(made, wanted, strict=True):
        info = soundfile.info(avtools.folder / row["unpaired_audio_path"])
        sound, _ = soundfile.read(avtools.folder / row["unpaired_audio_path"])
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (rate, count, 1, "FLOAT")
        assert np.abs(sound).max() > 0.01 and sound[-count // 10 :].any(), row["relpath"]
    assert set(files(avtools.folder / "out")) == {row["unpaired_audio_path"].removeprefix("out/") for row in made}, "nothing of bad rows"


def test_bad_rows_are_told_one_by_one(done):
    lines = [line.partition("t.csv:")[2] for line in done[2].stderr.splitlines() if "t.csv:" in line]
    words = ("4: the row has no caption", "5: column num_frames: 0", "6: asks for a sound of 4166.6", "8: rain: its output out/rain.wav is that of another row (row 2)")
    assert len(lines) == 4 and all(line.startswith(word) for line, word in zip(lines, words, strict=True)), lines
    assert "v/talk.mp4: its caption has" in done[2].stderr and "the network reads 24" in done[2].stderr


@pytest.mark.long
def test_only_what_is_missing_is_made(done):
    avtools, line, run = done
    before = files(avtools.folder / "out")
    (avtools.folder / "out/rain.wav").unlink()
    again = avtools(*line, "-d", "out", status=1)
    assert again.stdout == run.stdout and "files: 1 made, 0 without change, 3 reused" in again.stderr
    after = files(avtools.folder / "out")
    assert after.keys() == before.keys() and all(after[name] == content for name, content in before.items() if name != "rain.wav")
    one, other = (np.frombuffer(found["rain.wav"][-4000:], np.float32) for found in (before, after))
    assert np.allclose(one, other, atol=SAME * np.abs(one).max()), "alone, as in a batch"


@pytest.mark.long
def test_ranks_share_the_rows(done):
    avtools, line, run = done
    runs = [
        avtools.start(*line, "-d", "two", "-j1", env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": f"{os.getpid()}u"})
        for rank in (1, 0)
    ]
    outs = [one.communicate(timeout=200) for one in runs]
    assert [one.returncode for one in runs] == [0, 1], outs
    assert outs[1][0].decode().replace("two/", "out/") == run.stdout and outs[0][0] == b""
    assert set(files(avtools.folder / "two")) == set(files(avtools.folder / "out"))
    for row in rows(run.stdout):
        one, other = (soundfile.read(avtools.folder / row["unpaired_audio_path"].replace("out/", f"{where}/"))[0] for where in ("out", "two"))
        assert np.allclose(one, other, atol=SAME * np.abs(one).max()), row["relpath"]


@pytest.mark.long
def test_captions_alone(done, weights):
    """A table without clips, JSONL, 16 bits, the model's own rate."""
    avtools = done[0]
    (avtools.folder / "words.jsonl").write_text('{"id": "x/1", "say": ["rain", "wind"]}\n{"id": "2", "say": "a dog"}\n')
    line = ["gen-unpaired", "words.jsonl", "--text-column", "say", "--steps", "2", "--seconds", "0.3", "--weights", weights]
    made = [json.loads(row) for row in avtools(*line, "-d", "words").stdout.splitlines()]
    assert [row["unpaired_audio_path"] for row in made] == ["words/x/1.wav", "words/2.wav"] and made[0]["say"] == ["rain", "wind"]
    info = soundfile.info(avtools.folder / "words/2.wav")
    assert (info.samplerate, info.frames, info.subtype) == (RATE, 1200, "PCM_16")


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--match-duration", "--seconds", "3"], "leave out --seconds"),
        (["--seconds", "121"], "no more than 120 s"),
        (["--negative-prompt", "hum", "--guidance", "1"], "--negative-prompt has no effect"),
        (["--text-column", "say"], "no column 'say'"),
        (["x.csv"], "no column 'audio_text' or 'text'"),
        (["--weights", "clap=x"], "no such part"),
    ],
)
def test_wrong_usage(arguments, word, avtools):
    (avtools.folder / "x.csv").write_text("id\nx\n")
    (avtools.folder / "t.csv").write_text("id,text\nx,rain\n")
    (avtools.folder / "w").mkdir()
    weights = [] if "--weights" in arguments else ["--weights", "w"]
    given = [] if "x.csv" in arguments else ["t.csv"]
    done = avtools("gen-unpaired", "-d", "o", *arguments, *given, *weights, status=2)
    assert word in done.stderr and "Traceback" not in done.stderr and not (avtools.folder / "o").exists()


def test_no_weights(avtools):
    (avtools.folder / "t.csv").write_text("id,text\nx,rain\n")
    done = avtools("gen-unpaired", "t.csv", "-d", "o", "-o", "u.csv", status=3, env={"HF_HUB_OFFLINE": "1"})
    assert done.stderr.count("\n") == 1 and "CC BY-NC-SA 4.0" in done.stderr and "avtools fetch gen-unpaired" in done.stderr and not (avtools.folder / "u.csv").exists()
