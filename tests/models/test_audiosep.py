"""AudioSep: windows, separation of any length, weights in each layout, what it trains on, and that it learns."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_clap import TEXT, tokens  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, RowError, UsageError  # noqa: E402
from avtools.media.soundfiles import read_sound, write_sound  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.metrics import separation as judged  # noqa: E402
from avtools.models.audiosep import data, training, windows  # noqa: E402
from avtools.models.audiosep.config import PRESETS, Config  # noqa: E402
from avtools.models.audiosep.model import SeparatorNet  # noqa: E402
from avtools.models.audiosep.queries import WordQueries  # noqa: E402
from avtools.models.audiosep.separation import Separator  # noqa: E402
from avtools.models.audiosep.system import AudioSep  # noqa: E402
from avtools.rows import Record  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training import checkpoint as saved  # noqa: E402
from avtools.training import run  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402

NONE = hub.Weights({})
CPU = torch.device("cpu")
SMALL = ["first=4", "widths=[4,6]", "pools=[[2,2],[1,2]]", "middle=6", "condition=24", "n_fft=64", "hop=16", "rate=1000", "seconds=1"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return tokens(tmp_path_factory.mktemp("roberta"), "RobertaTokenizer", "<s>", "<pad>", "</s>", "<unk>", "<mask>")


def small(*sets) -> Config:
    return settings.resolve(Config, PRESETS, "tiny", None, [*SMALL, *sets])


def random_net(*sets, seed=0) -> SeparatorNet:
    """With statistics and norms that are not trivial."""
    torch.manual_seed(seed)
    net = SeparatorNet(small(*sets))
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
    return net.eval()


def separator(plan=windows.FADE, batch=8, **given) -> Separator:
    return Separator(random_net(), WordQueries(24), CPU, plan=plan, batch=batch, **given)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def sound_file(path, samples, rate=1000):
    samples = np.asarray(samples, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    with write_sound(str(path), ".wav", rate, samples.shape[1], "f32") as write:
        write(samples)
    return str(path)


# --- windows --------------------------------------------------------------------------------------------------------------


OTHERS = [windows.Windows(2, 1, 1), windows.Windows(3, 1, 0.37), windows.Windows(2, 2, 0), windows.Windows(3, 1, 0.5, even=False)]


@pytest.mark.parametrize("plan", [windows.FADE, windows.LEGACY, *OTHERS])
@pytest.mark.parametrize("samples", [1, 999, 2000, 2001, 4999, 5000, 5001, 8000, 10001, 13000, 26777])
def test_windows_cover_every_sample_with_weights_that_sum_to_one(plan, samples):
    spans = plan.spans(samples, 1000)
    assert spans[0][0] == 0 and spans[-1][1] == samples
    assert all(end - begin <= round(plan.length * 1000) for begin, end in spans)
    if plan.even:
        assert len({end - begin for begin, end in spans}) == 1  # one batch serves all
        assert all(later - begin <= round(plan.advance * 1000) for (begin, _), (later, _) in zip(spans, spans[1:], strict=False))
    total = torch.zeros(samples)
    for k, (begin, end) in enumerate(spans):
        first, weights = windows.share(spans, k, round(plan.fade * 1000))
        assert begin <= first and first + len(weights) <= end and (weights >= -1e-6).all()
        total[first : first + len(weights)] += weights
    torch.testing.assert_close(total, torch.ones(samples))


@pytest.mark.parametrize("seconds", [5.001, 7.9, 8, 8.001, 11, 30.5])
def test_legacy_windows_are_the_published_ones(seconds):
    length = round(seconds * 1000)
    begins = [0]
    while begins[-1] + 5000 < length:  # full windows, then what is left
        begins.append(begins[-1] + 3000)
    spans = windows.LEGACY.spans(length, 1000)
    assert [begin for begin, _ in spans] == begins
    kept = [(first, first + int(weights.sum())) for first, weights in (windows.share(spans, k, 0) for k in range(len(spans)))]
    assert kept[0] == (0, 4000) and kept[-1] == (begins[-1] + 1000, length)
    assert all(one == (begin + 1000, begin + 4000) for one, begin in zip(kept[1:-1], begins[1:-1], strict=True))


@pytest.mark.parametrize("given", [(5, 6, 0), (5, 3, 2.1), (5, 0, 0)])
def test_windows_that_leave_gaps_are_refused(given):
    with pytest.raises(ValueError):
        windows.Windows(*given)


def test_a_network_that_changes_nothing_gives_the_mixture_back():
    mixtures = noise(2, 25300)
    for plan in (None, windows.FADE, windows.LEGACY):
        by_three = lambda run, count: [run(k, min(k + 3, count)) for k in range(0, count, 3)]  # noqa: E731
        found = windows.separated(lambda x, _: x, mixtures, torch.zeros(2, 1), 1000, plan, by_three)
        torch.testing.assert_close(found, mixtures)


# --- separating -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 31, 32, 33, 63, 1000, 4999, 5000, 5001, 21234])
@pytest.mark.parametrize("plan", [None, windows.FADE, windows.LEGACY], ids=["full", "fade", "legacy"])
def test_a_sound_of_any_length_gives_a_stem_of_that_length_that_is_not_silent(samples, plan):
    one = separator(plan)
    found = one.separate(noise(1, samples), one.embed(["a dog"]))
    assert found.shape == (1, samples) and found.isfinite().all() and found.dtype == torch.float32
    for begin in range(0, samples, 1000):  # no piece of it is left out
        assert found[0, begin : begin + 1000].abs().max() > 1e-5


def test_what_shares_a_batch_changes_no_stem():
    one, mixtures = separator(batch=8), noise(3, 24000)
    conditions = one.embed(["a dog", "rain", "a dog"])
    together = one.separate(mixtures, conditions)
    for batch in (1, 5):
        one.batch = batch
        torch.testing.assert_close(one.separate(mixtures, conditions), together, atol=1e-6, rtol=1e-5)
    for k in range(3):
        torch.testing.assert_close(one.separate(mixtures[k : k + 1], conditions[k : k + 1])[0], together[k], atol=1e-6, rtol=1e-5)
    one.batch = 1  # then to the bit
    together = one.separate(mixtures, conditions)
    assert all(torch.equal(one.separate(mixtures[k : k + 1], conditions[k : k + 1])[0], together[k]) for k in range(3))
    other = one.separate(mixtures[:1], one.embed(["rain"]))
    assert (other - together[:1]).abs().max() > 1e-4  # the query counts


def test_no_window_is_heard_twice_or_late():
    """Far from the ends of windows a stem is that of the whole sound in one piece."""
    one = separator(windows.FADE)
    mixtures, conditions = noise(1, 26000), one.embed(["rain"])
    faded = one.separate(mixtures, conditions)
    one.plan = None
    whole = one.separate(mixtures, conditions)
    difference = (faded - whole).abs()[0]
    assert difference[:8000].max() < 1e-5 and difference.max() < 0.2 * whole.abs().max()


def test_silence_stays_silent_and_loud_sounds_are_not_clipped():
    one = separator()
    conditions = one.embed(["rain"])
    assert one.separate(torch.zeros(1, 3000), conditions).abs().max() < 1e-4
    assert one.separate(noise(1, 3000) * 100, conditions).abs().max() > 1


def test_memory_that_does_not_suffice_halves_the_windows_for_good():
    told, seen = [], []
    one = separator(batch=8, say=told.append)
    plain = one.net

    def tight(mixtures, conditions):
        seen.append(len(mixtures))
        if len(mixtures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(mixtures, conditions)

    tight.config = plain.config
    mixtures, conditions = noise(2, 24000), one.embed(["a", "b"])
    wanted = one.separate(mixtures, conditions)
    one.net = tight
    torch.testing.assert_close(one.separate(mixtures, conditions), wanted, atol=1e-6, rtol=1e-5)
    assert seen[:3] == [6, 3, 1] and set(seen[3:]) == {1}
    assert told == [f"out of GPU memory: {count} at once from now on" for count in ("3 windows", "1 window")]


def test_a_window_that_does_not_fit_alone_is_the_row_s_failure():
    one = separator()

    def none(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    none.config = one.net.config
    conditions = one.embed(["a"])
    one.net = none
    with pytest.raises(torch.OutOfMemoryError):
        one.separate(noise(1, 500), conditions)


def test_bf16_is_close_to_fp32():
    one = separator()
    mixtures, conditions = noise(1, 3000), one.embed(["rain"])
    wanted = one.separate(mixtures, conditions)
    one.precision = "bf16"
    found = one.separate(mixtures, conditions)
    assert found.dtype == torch.float32 and (found - wanted).norm() < 0.05 * wanted.norm()


def test_equal_queries_are_worked_out_once():
    one = separator()
    seen = []
    texts = one.texts
    one.texts = lambda some: seen.append(some) or texts(some)
    found = one.embed(["rain", "a dog", "rain"])
    assert seen == [["rain"], ["a dog"]] and torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert one.embed([]).shape == (0, 24)


# --- weights --------------------------------------------------------------------------------------------------------------


def clap_text(seed=3) -> dict:
    """The text tower of a tiny CLAP under LAION's names."""
    torch.manual_seed(seed)
    config = transformers.ClapTextConfig(**TEXT, projection_dim=24, layer_norm_eps=1e-5)
    tensors = transformers.ClapTextModelWithProjection(config).state_dict()
    return {name.replace("text_model.", "text_branch.").replace("linear1", "0").replace("linear2", "2"): tensor for name, tensor in tensors.items()}


def lightning(path, net, clap=None, where="state_dict"):
    """As a Lightning run saves it, kernels and the tower of sounds included."""
    tensors = {f"ss_model.{name}": tensor for name, tensor in net.state_dict().items()}
    tensors |= {"ss_model.base.stft.conv_real.weight": torch.zeros(33, 1, 64), "ss_model.base.istft.ola_window": torch.zeros(64)}
    for name, tensor in (clap or {}).items():
        tensors[f"query_encoder.model.{name}"] = tensor
    if clap:
        tensors["query_encoder.model.audio_branch.bn0.weight"] = torch.zeros(64)
    torch.save({"state_dict": tensors, "optimizer_states": [{"state": {}}]} if where else tensors, path)
    return str(path)


def net_of_release(seed=0) -> SeparatorNet:
    return random_net("rate=32000", "hop=320", "n_fft=1024", 'query="clap"', seed=seed)


def test_a_released_file_is_read_whole_with_the_clap_inside(tmp_path, roberta):
    net, clap = net_of_release(), clap_text()
    path = lightning(tmp_path / "a.ckpt", net, clap)
    weights = hub.Weights({"": path, "clap-tokenizer": str(roberta)})
    one = Separator.load(weights, CPU)
    assert (one.sample_rate, one.dim, Separator.rate_of(weights), one.batch) == (32000, 24, 32000, 1)
    assert (one.net.config.widths, one.net.config.pools, one.net.config.middle, one.net.config.n_fft) == ([4, 6], [[2, 2], [1, 2]], 6, 1024)
    conditions = one.embed(["a dog barks", "rain"])
    torch.testing.assert_close(conditions.norm(dim=1), torch.ones(2))
    mixtures = noise(2, 4000)
    with torch.inference_mode():
        wanted = net(mixtures, conditions)
    torch.testing.assert_close(one.separate(mixtures, conditions), wanted, atol=1e-6, rtol=1e-4)
    # the same with CLAP beside it, names at the top level, in a folder
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in clap.items()}}, tmp_path / "clap.pt")
    (tmp_path / "folder").mkdir()
    lightning(tmp_path / "folder" / "pytorch_model.bin", net, where=None)
    beside = hub.Weights({"": str(tmp_path / "folder"), "clap": str(tmp_path / "clap.pt"), "clap-tokenizer": str(roberta)})
    other = Separator.load(beside, CPU)
    torch.testing.assert_close(other.embed(["a dog barks", "rain"]), conditions)
    torch.testing.assert_close(other.separate(mixtures, conditions), wanted, atol=1e-6, rtol=1e-4)
    # given beside, it counts before the one inside
    torch.save(clap_text(seed=4), tmp_path / "other.pt")
    changed = hub.Weights({**weights.sources, "clap": str(tmp_path / "other.pt")})
    assert (Separator.load(changed, CPU).embed(["rain"]) - conditions[1]).abs().max() > 0.01
    assert len({Separator.digest(one) for one in (weights, beside, changed)}) == 3
    # and converted
    folder = AudioSep.convert(weights, str(tmp_path / "ours"))
    again = hub.Weights({"": folder, "clap-tokenizer": str(roberta)})
    assert hub.config_of(folder)["system"] == "audiosep"
    third = Separator.load(again, CPU)
    torch.testing.assert_close(third.embed(["a dog barks", "rain"]), conditions)
    torch.testing.assert_close(third.separate(mixtures, conditions), wanted, atol=1e-6, rtol=1e-4)
    assert Separator.digest(again) != Separator.digest(weights)
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        AudioSep.convert(weights, folder)


def test_what_is_missing_or_foreign_is_named(tmp_path, roberta, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    net = net_of_release()
    with pytest.raises(FatalError, match="no weights of AudioSep.*--weights FILE; or a RUN"):
        Separator.digest(NONE)
    bare = lightning(tmp_path / "bare.ckpt", net)
    for call in (Separator.digest, lambda weights: Separator.load(weights, CPU)):
        with pytest.raises(FatalError, match=r"no weights of LAION's CLAP.*part 'clap'"):
            call(hub.Weights({"": bare, "clap-tokenizer": str(roberta)}))
        with pytest.raises(FatalError, match="part 'clap-tokenizer'"):
            call(hub.Weights({"": lightning(tmp_path / "a.ckpt", net, clap_text())}))
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(FatalError, match="foreign.ckpt: not AudioSep"):
        Separator.digest(hub.Weights({"": str(tmp_path / "foreign.ckpt")}))
    tensors = net.state_dict()
    torch.save({"state_dict": {f"ss_model.{name}": tensor for name, tensor in tensors.items() if "decoder_block1.bn1" not in name}}, tmp_path / "cut.ckpt")
    with pytest.raises(FatalError, match=r"cut.ckpt: does not fit SeparatorNet; 4 missing: base.decoder_block1.bn1"):
        Separator.load(hub.Weights({"": str(tmp_path / "cut.ckpt")}), CPU)
    with pytest.raises(FatalError, match="holds 4 files of weights"):
        Separator.digest(hub.Weights({"": str(tmp_path)}))
    narrow = random_net("rate=32000", "hop=320", "n_fft=1024", 'query="clap"', "condition=20")
    with pytest.raises(FatalError, match="its embeddings have 24 numbers, and AudioSep takes 20"):
        Separator.load(hub.Weights({"": lightning(tmp_path / "n.ckpt", narrow, clap_text()), "clap-tokenizer": str(roberta)}), CPU)


# --- what it trains on ----------------------------------------------------------------------------------------------------


def options(*sets) -> dict:
    return data.options_of(small(*sets))


def test_a_row_gives_a_piece_of_its_sound_and_its_text(tmp_path):
    stereo = np.stack([np.linspace(0, 1, 4000), np.zeros(4000)], 1)
    row = {"audio_path": sound_file(tmp_path / "a.wav", stereo), "class": "dog_barking", "text": " a dog "}
    first = data.item(row, 1, options("crop=first"))
    np.testing.assert_allclose(first["sound"], stereo[:1000].mean(1), atol=1e-7)
    assert bytes(first["text"]).decode() == "a dog"
    drawn = [data.item(row, draw, options("crop=random"))["sound"] for draw in (1, 2, 1)]
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])
    short = data.item({**row, "audio_path": sound_file(tmp_path / "b.wav", np.ones(300) * 0.5)}, 1, options())["sound"]
    assert short.shape == (1000,) and (short[:300] == 0.5).all() and not short[300:].any()
    slow = data.item({**row, "audio_path": sound_file(tmp_path / "c.wav", np.sin(np.arange(8000) * 2 * np.pi / 40), 2000)}, 1, options("crop=first"))["sound"]
    np.testing.assert_allclose(slow[100:900], np.sin(np.arange(1000) * 2 * np.pi / 20)[100:900], atol=2e-3)  # 50 Hz at either rate


def test_a_stem_is_described_by_its_class_and_a_sound_by_its_caption(tmp_path):
    captions = {"class": "fire_truck", "audio_text": "a siren over rain", "text": "a street"}
    both = {"stem_path": "s.wav", "audio_path": "a.wav", **captions}
    assert data.text_of(both, "stem_path") == "fire truck"
    assert data.text_of({**both, "query": "siren"}, "stem_path") == "siren"
    assert data.text_of(captions, "audio_path") == "a siren over rain"
    assert data.text_of(captions, "audio_path", "text") == "a street"
    with pytest.raises(RowError, match="has no text for its sound"):
        data.text_of({"text": " _ ", "class": None}, "audio_path")


def test_a_piece_is_not_silent_where_the_sound_is_not(tmp_path):
    samples = np.zeros(60000)
    samples[41000:41200] = 0.5
    row = {"audio_path": sound_file(tmp_path / "a.wav", samples), "text": "x"}
    for draw in range(12):
        assert np.abs(data.item(row, draw, options("crop=random"))["sound"]).max() > 0.4
    assert np.abs(data.item(row, 1, options("crop=first"))["sound"]).max() > 0.4


@pytest.mark.parametrize(("samples", "reason"), [(np.zeros(2000), "is silent"), (np.full(2000, np.nan), "is silent"), (np.zeros(0), "a.wav")])
def test_sounds_that_hold_nothing_are_bad_rows(tmp_path, samples, reason):
    soundfile.write(tmp_path / "a.wav", samples.astype(np.float32), 1000, "FLOAT")
    with pytest.raises(RowError, match=reason):
        data.item({"audio_path": str(tmp_path / "a.wav"), "text": "x"}, 1, options())


def test_a_row_without_a_sound_is_bad():
    with pytest.raises(RowError, match="has no sound"):
        data.item({"path": "placeholder.mp4", "text": "x"}, 1, options())
    with pytest.raises(RowError, match="no_placeholder.mp4"):  # read, not passed over
        data.item({"path": "no_placeholder.mp4", "text": "x"}, 1, options())


def test_interferers_have_other_texts_and_the_drawn_levels():
    texts = ["dog", "dog", "rain", "dog", "bell"]
    config = small("sources=3", "lowest=-3", "highest=5")
    plans = training.mixes(range(5), texts, config)
    for n, plan in enumerate(plans):
        assert all(texts[other] != texts[n] for other in plan.others) and 1 <= len(plan.others) <= 2 and len(plan.gains) == len(plan.others)
        assert all(-3 <= gain <= 5 for gain in (*plan.gains, plan.last))
    assert plans == training.mixes(range(5), texts, config)  # of the items' draws alone
    assert {len(training.mixes([k], ["x", "y", "z"], config)[0].others) for k in range(20)} == {1, 2}
    sounds = noise(5, 500) * 0.1
    mixtures, targets = training.mixed(sounds, plans)
    rest = mixtures - targets
    for n, plan in enumerate(plans):
        level = 20 * (rest[n].square().mean() / targets[n].square().mean()).sqrt().log10()
        assert level.item() == pytest.approx(plan.last, abs=1e-3)
    torch.testing.assert_close(targets, sounds)
    loud, targets = training.mixed(sounds * 40, plans)
    torch.testing.assert_close(loud.abs().amax(1), torch.full((5,), 0.9))
    torch.testing.assert_close(targets, sounds * 40 * (targets[:, :1] / (sounds[:, :1] * 40)))  # the target is scaled alike


def batch_of(system, texts, seed=0, draw=0):
    sounds = noise(len(texts), 1000, seed=seed)
    return {"sound": sounds, "text": texts, "draws": torch.tensor([draw_of(draw, n) for n in range(len(texts))]), "keys": texts}


def built(*sets) -> AudioSep:
    system = AudioSep(small(*sets))
    torch.manual_seed(0)
    system.build(NONE, NONE, CPU)
    return system


def test_what_nothing_can_be_mixed_with_gets_noise():
    system = built()
    for texts in (["dog"], ["dog", "dog"]):
        found = system.prepare(batch_of(system, texts), False)
        assert ((found["mixture"] - found["target"]).square().mean(1) > 1e-5).all()
        again = system.prepare(batch_of(system, texts), False)
        assert torch.equal(found["mixture"], again["mixture"])


def test_every_trained_parameter_has_a_gradient_and_validation_gives_figures():
    system = built()
    prepared = system.prepare(batch_of(system, ["dog", "rain", "bell"]), True)
    system.training_step(system.net, prepared, 0, "main")["loss"].mean().backward()
    without = [name for name, p in system.net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
    assert not without
    frozen = {name for name, p in system.net.named_parameters() if not p.requires_grad}
    assert frozen and all(".bn2." in name or "->beta2." in name for name in frozen) and not any("conv_block" in name for name in frozen)
    system.net.eval()
    with torch.no_grad():
        values = system.evaluate(system.net, prepared)
        stems = system.net(prepared["mixture"], prepared["condition"])
    assert {"loss", "sdr", "si_sdr", "sdri", "si_sdri"} == set(values) and all(value.shape == (3,) for value in values.values())
    for k in range(3):
        stem, target, mixture = (one[k].double().numpy() for one in (stems, prepared["target"], prepared["mixture"]))
        assert values["sdr"][k].item() == pytest.approx(judged.sdr(stem, target), abs=1e-3)
        assert values["si_sdri"][k].item() == pytest.approx(judged.si_sdr(stem, target) - judged.si_sdr(mixture, target), abs=1e-3)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["query=bert"], "query 'bert': clap, words"),
        (["sources=1"], "sources 1: at least 2"),
        (["lowest=3", "highest=1"], "no range of gains"),
        (["widths=[4]"], "widths and pools"),
        (["n_fft=66"], "a multiple of 4"),
        (["hop=40"], "overlap by half"),
        (["pools=[[2,2],[0,2]]"], "whole numbers from 1 on"),
        (["crop=middle"], "crop 'middle': random, first"),
        (["seconds=0"], "seconds 0: more than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(sets, said):
    with pytest.raises(UsageError, match=said):
        AudioSep(small(*sets))


def test_a_training_starts_from_a_release(tmp_path, roberta):
    net = net_of_release()
    path = lightning(tmp_path / "a.ckpt", net, clap_text())
    config = small("rate=32000", "hop=320", "n_fft=1024", 'query="clap"')
    system = AudioSep(config)
    system.build(hub.Weights({"clap-tokenizer": str(roberta)}), hub.Weights({"": path}), CPU)
    assert all(torch.equal(one, other) for one, other in zip(system.net.state_dict().values(), net.state_dict().values(), strict=True))
    assert system.prepare({**batch_of(system, ["dog", "rain"]), "sound": noise(2, 4000)}, True)["condition"].shape == (2, 24)
    with pytest.raises(UsageError, match="start from them with --init"):
        system.build(hub.Weights({"": path}), NONE, CPU)
    with pytest.raises(UsageError, match="no such part"):
        system.build(hub.Weights({"clip": path}), NONE, CPU)


def test_the_short_way_outside_of_training_gives_the_same():
    net, mixtures = random_net(), noise(2, 2000)
    conditions = torch.nn.functional.normalize(noise(2, 24), dim=1)
    with torch.no_grad():
        short = net(mixtures, conditions)
    torch.testing.assert_close(short, net(mixtures, conditions).detach(), atol=1e-6, rtol=1e-4)


def test_a_run_is_trained_resumed_and_separates(tmp_path):
    names = ["dog", "rain", "bell", "dog"]
    rows = [{"id": str(n), "audio_path": sound_file(tmp_path / f"{n}.wav", noise(1500, seed=n)), "class": name} for n, name in enumerate(names)]
    rows.append({"id": "silent", "audio_path": sound_file(tmp_path / "silent.wav", np.zeros(1500)), "class": "dog"})
    records = [Record(row, f"row {n}") for n, row in enumerate(rows)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        for steps in (2, 3):
            config = small("train.batch_size=2", f"train.max_steps={steps}", "train.eval_every=2", "train.schedule=constant", "train.log_every=1", "crop=random")
            run.train(AudioSep(config), run.Request(str(tmp_path / "run"), NONE, NONE, iter(records), iter(records[:3]), jobs=1, max_bad=("rows", 1)))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    figures = next(line for line in lines if "valid_loss" in line)
    assert {"valid_sdr", "valid_si_sdr", "valid_sdri", "valid_si_sdri"} < set(figures)
    one = Separator.load(hub.Weights({"": str(tmp_path / "run")}), CPU)
    found = one.separate(noise(1, 2500), one.embed(["dog"]))
    assert one.sample_rate == 1000 and found.shape == (1, 2500) and found.isfinite().all()
    _, optimizer, _ = saved.load(str(tmp_path / "run"), 3)
    assert all("max_exp_avg_sq" in values for values in optimizer["main"]["state"].values())  # AMSGrad


def test_it_makes_nothing():
    with pytest.raises(UsageError, match="avtools separate"):
        AudioSep.from_weights(NONE)


# --- it learns ------------------------------------------------------------------------------------------------------------


def synthesise(folder, count, seed) -> list[dict]:
    words = ["synth", "-n", count, "--seed", seed, "--seconds", 2, "--fps", 12, "--size", "64x48", "--objects", 2, "--absolute", "--no-fsync", "-q", "-j", 1]
    subprocess.run([sys.executable, "-m", "avtools", *map(str, words), "-d", folder, "--to", "jsonl", "-o", folder / "t.jsonl"], check=True, stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]


@pytest.mark.learn
def test_tiny_takes_sounds_out_of_mixtures_that_it_never_heard(tmp_path):
    """Trained on stems of 96 clips, mixed anew in each step; judged on the mixtures of 24 others, through the windows of `separate`.

    Two sounds of a clip may be of very different strength: where the weaker one is asked for and missed, SI-SDR falls far.
    """
    for name in ("train", "held"):
        (tmp_path / name).mkdir()
    clips = synthesise(tmp_path / "train", 96, 5)
    held = synthesise(tmp_path / "held", 24, 6)
    config = settings.resolve(Config, PRESETS, "tiny")
    system = AudioSep(config)
    torch.manual_seed(0)
    system.build(NONE, NONE, CPU)
    net, (function, given) = system.net, system.item_work()
    items = [function({"stem_path": one["stem_path"], "class": one["class"]}, 0, given) for clip in clips for one in clip["objects"]]
    steps, size, lr = config.train.max_steps, config.train.batch_size, config.train.lr
    optimizer = torch.optim.AdamW(system.optimizers()["main"], lr=lr, weight_decay=config.train.weight_decay)
    rng, order = np.random.default_rng(0), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / config.train.warmup_steps) * 0.5 * (1 + np.cos(np.pi * step / steps))
        order = order if len(order) >= size else rng.permutation(len(items)).tolist()
        which, order = order[:size], order[size:]
        batch = {**system.collate([items[n] for n in which]), "draws": torch.tensor([draw_of(step, n) for n in which]), "keys": [""] * size}
        with torch.no_grad():
            batch = system.prepare(batch, True)
        system.training_step(net, batch, step, "main")["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    one = Separator(net.eval(), system.queries, CPU, plan=windows.Windows(1.6, 1.2, 0.2))  # each clip in two
    gains = []
    for clip in held:
        mixture, rate = read_sound(clip["mixture_path"])
        assert rate == one.sample_rate
        mixture = mixture.mean(1)
        names = [thing["class"] for thing in clip["objects"]]
        stems = one.separate(torch.from_numpy(mixture).expand(len(names), -1), one.embed(names)).double().numpy()
        for thing, stem in zip(clip["objects"], stems, strict=True):
            reference = read_sound(thing["stem_path"])[0].mean(1).astype(np.float64)
            found = [[of(one, reference) for of in (judged.si_sdr, judged.sdr)] for one in (stem, mixture.astype(np.float64))]
            found = [[-30.0 if isinstance(value, Skip) else value for value in one] for one in found]  # silence, where something should be heard
            gains.append(np.subtract(*found))
    gains = np.array(gains)
    better = (gains[:, 0] > 0).mean()
    print(f"SI-SDRi: mean {gains[:, 0].mean():.2f}, median {np.median(gains[:, 0]):.2f} dB, better in {better:.0%}; SDRi: mean {gains[:, 1].mean():.2f} dB")
    assert gains[:, 0].mean() > 1 and np.median(gains[:, 0]) > 4, gains[:, 0]
    assert gains[:, 1].mean() > 5, gains[:, 1]
    assert better > 0.6, gains[:, 0]
