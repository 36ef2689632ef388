"""The AVSync classifier: its networks, what it reads of a clip, its weights, its metrics, and that it learns."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, MediaError, RowError, UsageError  # noqa: E402
from avtools.media import video  # noqa: E402
from avtools.media.soundfiles import write_sound  # noqa: E402
from avtools.metrics.media import Pair, Sound  # noqa: E402
from avtools.models.avsync import checkpoint, data, evaluation, metrics, training  # noqa: E402
from avtools.models.avsync.config import PRESETS, Config  # noqa: E402
from avtools.models.avsync.model import AudioEncoder, AvSyncNet, Head, VideoEncoder  # noqa: E402
from avtools.models.avsync.system import AvSync  # noqa: E402
from avtools.models.parts import kaldi  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402

NONE = hub.Weights({})
GREY = 30
SMALL = ["audio_widths=[4,4,8,8,8]", "video_widths=[4,8,8,8]", "dim=16", "frame_size=16"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def small(*sets) -> Config:
    return settings.resolve(Config, PRESETS, "tiny", None, [*SMALL, *sets])


def published(*sets) -> Config:
    """As released, but narrow."""
    return settings.resolve(Config, PRESETS, "released", None, ["audio_widths=[4,4,6,8,10]", "video_widths=[4,4,6,8,10]", "dim=10", "frame_size=16", *sets])


def program(*arguments, status=0, ranks=1, env=None):
    many = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(29600 + os.getpid() % 300)] if ranks > 1 else []
    line = [sys.executable, *many, "-m", "avtools", *map(str, arguments)]
    done = subprocess.run(line, env={**ENV, **(env or {})}, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"status {done.returncode}, not {status}\n{done.stderr[-3000:]}"
    return done


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows: list[dict]):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def sound_file(path, samples, rate=16000):
    samples = np.asarray(samples, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    with write_sound(str(path), ".wav", rate, samples.shape[1], "s16") as write:
        write(samples)
    return str(path)


def clip_file(path, seconds=7.0, fps=24, size=(24, 32), sound=True, rate=16000):
    """The greys of a picture's halves tell its number; the sound's samples tell theirs."""
    count = round(seconds * fps)
    frames = np.zeros((count, *size, 3), np.uint8)
    frames[:, :, : size[1] // 2] = (GREY + 12 * (np.arange(count) % 16))[:, None, None, None]
    frames[:, :, size[1] // 2 :] = (GREY + 12 * (np.arange(count) // 16))[:, None, None, None]
    video.write_frames(str(path), ".mp4", frames, Fraction(fps))
    if sound:
        ramp = np.linspace(-0.9, 0.9, round(seconds * rate), dtype=np.float32)
        return {"path": str(path), "audio_path": sound_file(path.with_suffix(".wav"), np.stack([ramp, -ramp], 1), rate)}
    return {"path": str(path)}


def shown(item) -> np.ndarray:
    """(K, 12) numbers of the pictures that clips show."""
    pictures = item["pictures"]
    quarter = pictures.shape[1] // 4
    halves = [np.rint((part.mean((1, 2, 3)) - GREY) / 12).astype(int) for part in (pictures[:, :, :quarter], pictures[:, :, -quarter:])]
    return (halves[0] + 16 * halves[1])[item["index"]]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Rows of 8 synthetic clips of 7 s at 12 frames per second."""
    folder = tmp_path_factory.mktemp("toys")
    program("synth", "-n", 8, "--seconds", 7, "--fps", 12, "--size", "64x48", "--absolute", "-d", folder / "clips", "-o", folder / "t.csv", "--no-fsync", "-q", "-j", 1)
    return [{name: row[name] for name in ("path", "id", "class")} for row in rows_of(folder / "t.csv")]


# --- networks ---------------------------------------------------------------------------------------------------------


def test_the_networks_have_the_published_sizes_and_shapes():
    with torch.device("meta"):
        net = AvSyncNet(Config())
        mel, frames = torch.empty(2, 1, 128, 204), torch.empty(2, 3, 12, 224, 224)
    counts = {name: sum(p.numel() for p in getattr(net, name).parameters()) for name in net.PARTS}
    assert counts == {"audio_encoder": 4_725_696, "video_encoder": 15_379_136, "head": 656_385}
    seen = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, tuple(output.shape[1:])))
    assert net.score(net.audio_encoder(mel), net.video_encoder(frames)).shape == (2,)
    audio = [seen[f"audio_encoder.{name}"] for name in ("conv1", "block1", "block2", "block3", "block4")]
    assert audio == [(64, 64, 102), (64, 32, 51), (128, 16, 26), (256, 8, 13), (512, 8, 13)] and seen["audio_encoder"] == (512,)
    stages = [seen[f"video_encoder.{name}"] for name in ("conv1", "conv2x", "conv3x", "conv4x", "conv5x")]
    assert stages == [(64, 12, 56, 56), (64, 12, 56, 56), (128, 6, 28, 28), (256, 3, 14, 14), (512, 2, 7, 7)] and seen["video_encoder"] == (512,)


def test_the_split_first_layer_gives_every_pair_its_own_score_and_gradient():
    torch.manual_seed(0)
    head = Head(32).double()
    audio, video = torch.randn(3, 5, 32, dtype=torch.float64, requires_grad=True), torch.randn(3, 7, 32, dtype=torch.float64, requires_grad=True)
    split = head.pairs(audio, video)
    plain = torch.stack([torch.stack([head(audio[:, a], video[:, b]) for b in range(7)], 1) for a in range(5)], 1)
    torch.testing.assert_close(split, plain)
    weight = torch.randn_like(split)
    leaves = (audio, video, *head.parameters())
    for one, other in zip(torch.autograd.grad((split * weight).sum(), leaves), torch.autograd.grad((plain * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pool", ["mean", "time"])
def test_every_stride_is_known_to_the_projection(pool):
    for strides, times in (((1, 2), (1, 1)), ((2, 2), (2, 2)), ((1, 1), (3, 2))):
        encoder = VideoEncoder((4, 6, 8), strides, times, 1, pool, 8 if pool == "mean" else 5, 12).eval()
        assert encoder(torch.randn(2, 3, 12, 20, 16)).shape == (2, 8 if pool == "mean" else 5)
    for strides in ((2, 2), (1, 3), (2, 1)):
        encoder = AudioEncoder((4, 6, 8), strides, pool, 8 if pool == "mean" else 5, 204).eval()
        assert encoder(torch.randn(2, 1, 128, 204)).shape == (2, 8 if pool == "mean" else 5)


# --- numbers of scores -----------------------------------------------------------------------------------------------


def test_the_loss_is_of_each_video_by_itself():
    scores = torch.eye(6).repeat(2, 1, 1) * 5
    scores[1] = scores[1].roll(1, 1)  # each sound prefers the next picture
    found = evaluation.contrast(scores, 0.1)
    assert float(found["loss"][0]) < 1e-6 and float(found["loss"][1]) == pytest.approx(50, abs=1e-3)
    assert found["audio_to_video_acc"].tolist() == [1, 0] and found["video_to_audio_acc"].tolist() == [1, 0]
    assert float(evaluation.contrast(torch.zeros(1, 21, 21))["loss"]) == pytest.approx(math.log(21))
    shifted = evaluation.contrast(scores + torch.tensor([3.0, -200.0]).view(2, 1, 1), 0.1)
    torch.testing.assert_close(shifted["loss"], found["loss"])


def test_both_ways_of_the_loss_are_told_apart():
    scores = torch.zeros(1, 3, 3)
    scores[0, :, 0] = 9  # every sound takes the first picture; every picture has no preference
    found = evaluation.contrast(scores, 1.0)
    assert float(found["video_to_audio_loss"]) == pytest.approx(math.log(3)) and float(found["audio_to_video_loss"]) > 5


def test_a_shift_counts_up_to_the_tolerance_and_of_equals_the_first():
    scores = torch.zeros(4, 31, 31)
    scores[0, 15, 20] = scores[0, 10, 15] = 1
    scores[1, 15, 21] = scores[1, 9, 15] = 1
    scores[2, 15, 10] = 1
    found = evaluation.shifts(scores, 5)
    assert found["audio_to_video_prediction"].tolist() == [20, 21, 10, 0] and found["video_to_audio_prediction"].tolist() == [10, 9, 0, 0]
    assert found["audio_to_video_correct"].tolist() == [1, 0, 1, 0] and found["video_to_audio_correct"].tolist() == [1, 0, 0, 0]


def test_chance_is_the_share_within_the_tolerance():
    assert metrics.chance(31, 5) == pytest.approx(11 / 31) and metrics.chance(4, 1) == 0.75 and metrics.chance(5, 9) == 1
    assert metrics.SyncAccuracy().chance == pytest.approx(11 / 31) == pytest.approx(metrics.SyncAccuracy.chance)
    assert metrics.SyncAccuracy(clips=21, step=0.1, tolerance=0.2).chance == pytest.approx(5 / 21)


def test_a_pair_against_itself_is_half_and_aligned_a_quarter():
    score, same = torch.tensor([3.7, -20.0]), torch.full((2, 11), 0.31)
    relative = evaluation.relsync(score, score)
    assert relative.tolist() == [0.5, 0.5]
    assert evaluation.alignsync(relative, same, torch.tensor([0.31, 0.31])).tolist() == pytest.approx([0.25, 0.25])
    assert float(evaluation.relsync(torch.tensor(900.0), torch.tensor(-900.0))) == 1


# --- clips ------------------------------------------------------------------------------------------------------------


def test_clips_share_pictures_and_sound_and_are_in_time(tmp_path):
    row = clip_file(tmp_path / "a.mp4", 7, 24, rate=16000)
    options = data.options_of(published())
    assert options["clips"] == 21 and options["step"] == 0.2
    for draw in (1, 2**62, 2**63 - 1):
        item = data.item(row, draw, options)
        heard = item["sound"][item["begins"]]
        begin = (heard[0] + 0.9) / 1.8 * 7  # seconds, as the sound tells
        assert begin == pytest.approx(draw_of(draw, "start") / 2**63, abs=2e-3)
        assert np.diff(item["begins"]).tolist() == [3200] * 20 and len(item["sound"]) == 20 * 3200 + 32000
        assert len(item["pictures"]) < 150 < item["index"].size
        wanted = begin + 0.2 * np.arange(21)[:, None] + np.arange(12) / 6
        assert np.abs(shown(item) / 24 - wanted).max() <= 0.5 / 24 + 2e-3
        np.testing.assert_allclose(heard, np.linspace(-0.9, 0.9, 7 * 16000)[np.rint((begin + 0.2 * np.arange(21)) * 16000).astype(int)], atol=2e-3)


def test_starts_are_random_by_the_draw_alone_or_in_the_middle(tmp_path):
    row = clip_file(tmp_path / "a.mp4", 8, 24)
    begins = [data.item(row, draw, data.options_of(published()))["sound"][0] for draw in (5, 5, 6, 7, 8)]
    assert begins[0] == begins[1] and len(set(begins)) == 4
    middle = [data.item(row, draw, data.options_of(published("crop=middle")))["sound"][0] for draw in (5, 6)]
    assert middle[0] == middle[1] == pytest.approx(-0.9 + 1.8 * 1 / 8, abs=1e-3)
    assert AvSync(published("crop=middle")).item_is_fixed() and not AvSync(published()).item_is_fixed()


def test_a_scene_of_a_file_is_kept_to(tmp_path):
    row = clip_file(tmp_path / "a.mp4", 10, 24) | {"start": "2.5", "end": "8.5"}
    item = data.item(row, 77, data.options_of(published()))
    assert item["sound"][0] == pytest.approx(-0.9 + 1.8 * 0.25, abs=1e-3) and shown(item)[0, 0] == 60
    with pytest.raises(RowError, match="6 s|need"):
        data.item(row | {"end": "7"}, 77, data.options_of(published()))
    for name in ("start", "end"):
        with pytest.raises(RowError, match=f"column {name}: 'soon' is not a number"):
            data.item(row | {name: "soon"}, 77, data.options_of(published()))
    for cells, told in (({"start": "-1"}, "no span of .*a.mp4"), ({"start": "3", "end": "3"}, "no span of .*a.mp4"), ({"start": "20", "end": ""}, "a.mp4: start 20.*ends at 10 s")):
        with pytest.raises(RowError, match=told):
            data.item(row | cells, 77, data.options_of(published()))


def test_what_cannot_be_trained_on_is_named(tmp_path):
    options = data.options_of(published())
    good = clip_file(tmp_path / "good.mp4", 7, 24)
    cases = {
        "short": (clip_file(tmp_path / "short.mp4", 5, 24), "21 clips.*need 6 s"),
        "silent": ({"path": good["path"], "audio_path": sound_file(tmp_path / "s.wav", np.zeros(7 * 16000))}, "s.wav: its sound is silent"),
        "soundless": ({"path": good["path"]}, "good.mp4: has no sound"),
        "slow": (clip_file(tmp_path / "slow.mp4", 7, 10), "slow.mp4: 10 frames per second, and 12 are needed"),
        "no picture": ({"path": good["audio_path"]}, "no picture"),
        "no path": ({"id": "x"}, "column path holds no path"),
        "not there": ({"path": str(tmp_path / "none.mp4")}, "none.mp4"),
    }
    for name, (row, told) in cases.items():
        with pytest.raises((RowError, MediaError), match=told):
            data.item(row, 3, options)
            pytest.fail(name)
    assert data.item({"video_path": good["path"], "audio_file": good["audio_path"]}, 3, options)["index"].shape == (21, 12)


def test_a_spectrogram_for_all_clips_is_that_of_each():
    torch.manual_seed(0)
    sound = torch.randn(16000 * 6) * torch.linspace(0, 0.3, 96000) + 0.2
    for begins in ([0, 3200, 6400, 64000], [0, 640, 1280], [0, 3201, 12345]):
        plain = kaldi.mel(torch.stack([sound[begin : begin + kaldi.SAMPLES] for begin in begins])[:, None])
        torch.testing.assert_close(data.mels_of(sound, torch.tensor(begins)), plain, atol=2e-4, rtol=1e-4)
    assert data.mels_of(sound, torch.tensor([0, 160]), 150).shape == (2, 1, 128, 150)


def test_pictures_are_normalised_and_mirrored_where_told():
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    index = torch.randint(0, 5, (3, 12))
    seen = data.pictures_of(pictures, index, torch.tensor([False, True, False]))
    assert seen.shape == (3, 3, 12, 8, 8)
    plain = data.pictures_of(pictures.permute(0, 3, 1, 2).float() / 255, index)
    torch.testing.assert_close(seen, torch.stack([plain[0], plain[1].flip(-1), plain[2]]))
    value = (float(pictures[index[2, 4], 3, 5, 1]) / 255 - 0.4578275) / 0.26130258
    assert float(plain[2, 1, 4, 3, 5]) == pytest.approx(value, abs=1e-5)


# --- training -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def items(toys):
    options = data.options_of(small())
    return [data.item(row, 0, options) for row in toys[:3]]


def batch_of(system, items, draws):
    return {**system.collate(items), "draws": torch.tensor(draws), "keys": [str(k) for k in draws]}


def built(*sets, seed=0) -> AvSync:
    torch.manual_seed(seed)
    system = AvSync(small(*sets))
    system.build(NONE, NONE, torch.device("cpu"))
    return system


def test_a_step_takes_some_clips_and_validation_all(items):
    system = built("drawn=5", "flip=0")
    batch = batch_of(system, items, [1, 2, 3])
    whole, some, again = system.prepare(batch, False), system.prepare(batch, True), system.prepare(batch, True)
    assert whole["mel"].shape == (3, 21, 1, 128, 204) and whole["frames"].shape == (3, 21, 3, 12, 16, 16)
    assert some["mel"].shape[:2] == (3, 5) and torch.equal(some["mel"], again["mel"])
    for k in range(3):  # sound and picture of the same clips, each drawn once
        sounds = [int((whole["mel"][k] - one).abs().flatten(1).sum(1).argmin()) for one in some["mel"][k]]
        assert len(set(sounds)) == 5
        torch.testing.assert_close(some["frames"][k], whole["frames"][k][sounds])
    other = system.prepare(batch_of(system, items, [4, 5, 6]), True)
    assert not torch.equal(other["mel"], some["mel"])


def test_each_clip_is_mirrored_by_itself_and_none_in_validation(items):
    system = built("drawn=null", "flip=0.5")
    batch = batch_of(system, items, [1, 2, 3])
    plain, drawn = system.prepare(batch, False)["frames"], system.prepare(batch, True)["frames"]
    mirrored = [[torch.equal(drawn[v, k], plain[v, k].flip(-1)) for k in range(21)] for v in range(3)]
    same = [[torch.equal(drawn[v, k], plain[v, k]) for k in range(21)] for v in range(3)]
    assert all(m != s for ms, ss in zip(mirrored, same, strict=True) for m, s in zip(ms, ss, strict=True))
    assert all(3 < sum(one) < 18 for one in mirrored) and mirrored[0] != mirrored[1]


def test_gradients_reach_all_that_trains_and_videos_do_not_meet(items):
    system = built("drawn=4")
    batch = system.prepare(batch_of(system, items, [1, 2, 3]), True)
    system.training_step(system.trainable, batch, 0, "main")["loss"].mean().backward()
    assert not [name for name, p in system.trainable.named_parameters() if p.grad is None or not p.grad.any()]
    system.trainable.eval()
    with torch.no_grad():
        whole = system.evaluate(system.trainable, batch)["loss"]
        for k in range(3):
            one = {name: value[k : k + 1] for name, value in batch.items()}
            torch.testing.assert_close(system.evaluate(system.trainable, one)["loss"][0], whole[k], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "sets, told",
    [
        (["pool=max"], "mean, time"),
        (["clips=1"], "clips 1: at least 2"),
        (["drawn=1"], "drawn 1: at least 2"),
        (["crop=left"], "random, middle"),
        (["flip=2"], "flip 2: a share"),
        (["temperature=0"], "temperature 0: more than 0"),
        (["step=-0.2"], "step -0.2: more than 0"),
        (["audio_strides=[2,2]"], "one entry more than strides"),
        (["video_time_strides=[2,2]"], "one entry more than strides"),
        (["pool=mean"], "dim 16: .*audio_widths, 8"),
    ],
)
def test_settings_that_cannot_be_are_refused(sets, told):
    with pytest.raises(UsageError, match=told):
        AvSync(small(*sets))


def test_it_has_no_frozen_parts_and_makes_nothing():
    with pytest.raises(UsageError, match="no frozen parts"):
        AvSync(small()).build(hub.Weights({"": "x"}), NONE, torch.device("cpu"))
    with pytest.raises(UsageError, match="judges.*avtools score avsync"):
        AvSync.from_weights(NONE, "tiny")


# --- weights --------------------------------------------------------------------------------------------------------------


def random_net(config, seed=0) -> AvSyncNet:
    torch.manual_seed(seed)
    net = AvSyncNet(config)
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    with torch.no_grad():  # so that no layer is deaf
        for one in (net.audio_encoder, net.video_encoder):
            for name, parameter in one.named_parameters():
                if name.endswith("weight") and parameter.dim() > 1:
                    parameter.normal_(0, 1.4 / math.sqrt(parameter[0].numel()))
        for layer in net.head.fc:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(0, 2 / math.sqrt(layer.in_features))
    return net.eval()


def released(net, folder, suffix="bin", counters=True):
    for part in net.PARTS:
        tensors = {name: tensor.clone() for name, tensor in getattr(net, part).state_dict().items() if counters or not name.endswith("num_batches_tracked")}
        (folder / part).mkdir(parents=True)
        save = torch.save if suffix == "bin" else save_file
        save(tensors, folder / part / f"diffusion_pytorch_model.{suffix}")
        (folder / part / "config.json").write_text('{"pretrained": true}')
    return folder


def same(one, other) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items() if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("suffix, counters, below", [("bin", True, ""), ("safetensors", False, "modules"), ("bin", False, "ckpts/checkpoint-40000/modules")])
def test_released_folders_load_strictly_and_tell_their_sizes(tmp_path, suffix, counters, below):
    net = random_net(published())
    released(net, tmp_path / below, suffix, counters)
    if "checkpoint" in below:
        released(random_net(published(), 1), tmp_path / "ckpts/checkpoint-2500/modules")
    config = checkpoint.config_of(tmp_path)
    assert (config.audio_widths, config.video_widths, config.dim, config.blocks_per_stage) == ([4, 4, 6, 8, 10], [4, 4, 6, 8, 10], 10, 2)
    other = AvSyncNet(config)
    checkpoint.load_net(other, tmp_path)
    assert same(net, other)


def test_a_checkpoint_that_does_not_fit_lists_its_names(tmp_path):
    net = random_net(published())
    folder = released(net, tmp_path / "good")
    file = folder / "head" / "diffusion_pytorch_model.bin"
    torch.save({"fc.0.weight": torch.zeros(10, 20), "fc.9.bias": torch.zeros(1)}, file)
    with pytest.raises(FatalError, match="missing: head.fc.0.bias.*unexpected: head.fc.9.bias"):
        checkpoint.load_net(AvSyncNet(published()), folder)
    file.unlink()
    with pytest.raises(FatalError, match="head: has neither diffusion_pytorch_model"):
        checkpoint.load_net(AvSyncNet(published()), folder)
    (tmp_path / "x.safetensors").touch()
    save_file({"something": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(FatalError, match="not AVSync's classifier.*RUN of 'avtools train avsync'"):
        checkpoint.config_of(tmp_path / "x.safetensors")
    with pytest.raises(FatalError, match="83 MB.*by hand.*--weights DIR"):
        checkpoint.locate(None)
    with pytest.raises(FatalError, match="no such file or folder"):
        checkpoint.locate(str(tmp_path / "none"))


def avid_file(net, path, head=True, top="model"):
    tensors = {}
    for begin, ours in checkpoint.AVID.items():
        tensors |= {begin + name.removeprefix(ours): tensor for name, tensor in net.state_dict().items() if name.startswith(ours)}
    if head:
        tensors |= {"module.video_proj.projection.0.weight": torch.zeros(3, 3), "module.audio_proj.projection.0.weight": torch.zeros(3, 3)}
    torch.save({top: tensors, "optimizer": {"lr": 0.1}, "epoch": 400, "train_criterion": {"memory": torch.zeros(4)}}, path)
    return str(path)


def test_training_starts_from_avid_cma_without_its_projection_heads(tmp_path):
    net, new = random_net(published()), random_net(published(), 1)
    head = {name: tensor.clone() for name, tensor in new.head.state_dict().items()}
    assert checkpoint.init_net(new, avid_file(net, tmp_path / "avid.pth.tar")) == ["head", "audio_encoder.pool", "video_encoder.pool"]
    assert same(net.audio_encoder, new.audio_encoder) and same(net.video_encoder, new.video_encoder)
    assert all(torch.equal(tensor, new.head.state_dict()[name]) for name, tensor in head.items())
    wide = AvSyncNet(published("audio_widths=[4,4,6,8,12]"))
    with pytest.raises(FatalError, match="of another shape: .*audio_encoder.block4"):
        checkpoint.init_net(wide, str(tmp_path / "avid.pth.tar"))
    broken = random_net(published())
    del broken.audio_encoder.block2
    with pytest.raises(FatalError, match="missing: audio_encoder.block2"):
        checkpoint.init_net(random_net(published()), avid_file(broken, tmp_path / "broken.pth"))
    with pytest.raises(FatalError, match="no tensors|does not fit"):
        checkpoint.init_net(random_net(published()), avid_file(net, tmp_path / "other.pth", top="weights"))


@pytest.mark.parametrize("part", ["", "avid"])
def test_a_run_takes_either_kind_of_init(tmp_path, part):
    net = random_net(published())
    source = avid_file(net, tmp_path / "avid.pth") if part else str(released(net, tmp_path / "released"))
    system = AvSync(published())
    system.build(NONE, hub.Weights({part: source}), torch.device("cpu"))
    assert same(net.audio_encoder, system.net.audio_encoder) and same(net.head, system.net.head) == (not part)


@pytest.mark.long
def test_conversion_gives_the_same_network(tmp_path):
    net = random_net(published())
    folder = released(net, tmp_path / "released", counters=False)
    made = program("convert", "avsync", "--weights", folder, "-d", tmp_path / "ours").stdout.strip()
    assert made == str(tmp_path / "ours") and sorted(os.listdir(made)) == ["config.json", "model.safetensors"]
    assert set(load_file(tmp_path / "ours" / "model.safetensors")) == set(net.state_dict())
    config = checkpoint.config_of(made)
    other = AvSyncNet(config)
    checkpoint.load_net(other, made)
    assert same(net, other)
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        AvSync.convert(hub.Weights({"": str(folder)}), made)
    errors = program("convert", "avsync", "-d", tmp_path / "none", status=3).stderr
    assert "by hand" in errors and "Traceback" not in errors and not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="score avsync"):
        AvSync.from_weights(hub.Weights({"": made}))


# --- metrics ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of ours that has learned nothing."""
    folder = tmp_path_factory.mktemp("weights")
    net = random_net(small())
    save_file(net.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"system": "avsync", "config": settings.as_dict(small())}))
    return folder


def prepared(metric, row, named=None, sound=None):
    return metric.prepare(Pair(row, named or {}, sound))


def results(metric, items, weights):
    metric.load(torch.device("cpu"), hub.Weights({"avsync": str(weights)}))
    with torch.inference_mode():
        return [metric.row(item) for item in metric.run(items)]


def test_long_clips_are_judged_in_parts_and_short_ones_not_at_all(tmp_path):
    metric = metrics.AvSyncScore()
    row = clip_file(tmp_path / "long.mp4", 7, 24)
    item = prepared(metric, row)
    assert item["index"].shape == (3, 12) and item["pictures"].dtype == np.uint8 and item["pictures"].shape[1:] == (224, 224, 3)
    assert shown(item)[:, 0].tolist() == [0, 60, 120] and shown(item)[0].tolist() == [4 * k for k in range(12)]
    np.testing.assert_allclose(metrics.windows(item)[:, 0], -0.9 + 1.8 * np.array([0, 2.5, 5]) / 7, atol=2e-3)
    assert prepared(metrics.AvSyncScore(windows=2), row)["index"].shape == (2, 12)
    assert prepared(metrics.AvSyncScore(windows=1, pictures="asva"), row)["pictures"].shape == (12, 3, 224, 224)
    assert prepared(metric, clip_file(tmp_path / "two.mp4", 2, 24))["index"].shape == (1, 12)
    for seconds in (1.0, 1.6):
        with pytest.raises(RowError, match="a clip is 2 s"):
            prepared(metric, clip_file(tmp_path / f"{seconds}.mp4", seconds, 24))
    with pytest.raises(RowError, match="no moving picture"):
        prepared(metric, {"path": row["audio_path"], "audio_path": row["audio_path"]})


def test_sound_of_any_rate_begins_where_its_clip_does():
    for rate in (8000, 16000, 22050, 44100, 48000, 44101):  # the last shares no factor with 16 kHz
        time = np.arange(7 * rate) / rate
        sound = Sound(np.stack([np.sin(2 * np.pi * 440 * time), 0 * time], 1).astype(np.float32), rate)
        for starts in ((0.0, 0.04, 0.08), (0.0, 2.5, 5.0), (1.23,)):
            found = metrics.windows(metrics.heard(sound, starts))
            wanted = np.stack([np.sin(2 * np.pi * 440 * (start + np.arange(32000) / 16000)) for start in starts])
            assert found.shape == (len(starts), 32000)
            assert np.abs(found - wanted)[:, 100:-200].max() < 0.02
    short = metrics.windows(metrics.heard(Sound(np.ones((16000, 1), np.float32), 16000), (0.0,)))
    assert short[0, 8000] == 1 and not short[0, 16001:].any()


def test_a_row_against_its_own_truth_is_half(toys, weights):
    metric = metrics.RelSync()
    (found,) = results(metric, [prepared(metric, toys[0])], weights)
    assert found == {"relsync": 0.5}
    score = metrics.AvSyncScore()
    own = prepared(score, toys[0])
    judge = metrics.Judge.of(weights, torch.device("cpu"))
    with torch.inference_mode():
        (told,) = results(score, [own], weights)
        pictures, sounds = data.pictures_of(torch.from_numpy(own["pictures"]), torch.from_numpy(own["index"])), torch.from_numpy(metrics.windows(own))
        reduced = torch.nn.functional.interpolate(pictures.transpose(1, 2).flatten(0, 1), (16, 16), mode="bicubic", antialias=True)
        small_ones = reduced.unflatten(0, (3, 12)).transpose(1, 2)
        wanted = judge.net.score(judge.net.audio_encoder(kaldi.mel(sounds[:, None])), judge.net.video_encoder(small_ones))
    assert told["avsync"] == pytest.approx(float(wanted.mean()), abs=1e-4)


def test_a_judged_sound_or_picture_is_compared_with_the_true_pair(toys, weights):
    row = {"path": toys[0]["path"], "generated_path": toys[1]["path"], "audio_path": toys[0]["path"]}
    relative, score = metrics.RelSync(), metrics.AvSyncScore()
    (found,) = results(relative, [prepared(relative, row)], weights)
    made, true = results(score, [prepared(score, {"path": toys[1]["path"], "audio_path": toys[0]["path"]}), prepared(score, toys[0])], weights)
    item = prepared(relative, row)
    with torch.inference_mode():
        one, other = relative.judge.scores(item), relative.judge.scores(metrics.of_truth(item))
    assert float(one.mean()) == pytest.approx(made["avsync"], abs=1e-5) and float(other.mean()) == pytest.approx(true["avsync"], abs=1e-5)
    assert found["relsync"] == pytest.approx(float(torch.sigmoid(one - other).mean())) and found["relsync"] != 0.5


def test_the_truth_of_a_clip_begins_where_its_row_says(tmp_path):
    whole = clip_file(tmp_path / "whole.mp4", 9, 24)
    part = clip_file(tmp_path / "part.mp4", 2, 24)
    row = {"path": whole["path"], "audio_path": whole["audio_path"], "generated_path": part["path"], "generated_audio_path": part["audio_path"]}
    metric = metrics.RelSync()
    for cells, begin in (({}, 0), ({"start": "3"}, 3), ({"start": "3", "reference_start": "5.5"}, 5.5)):
        item = metrics.of_truth(prepared(metric, {**row, **cells}))
        assert shown(item)[0, 0] == begin * 24
        assert metrics.windows(item)[0, 0] == pytest.approx(-0.9 + 1.8 * begin / 9, abs=2e-3)
    with pytest.raises(RowError, match="a clip is 2 s"):
        prepared(metric, {**row, "reference_start": "8"})
    with pytest.raises(RowError, match="reference_start -1: give seconds"):
        prepared(metric, {**row, "reference_start": "-1"})


def test_asva_crops_the_truth_to_the_judged_picture_first(tmp_path):
    wide, square = clip_file(tmp_path / "wide.mp4", 2, 24, size=(32, 64)), clip_file(tmp_path / "square.mp4", 2, 24, size=(32, 32))
    frames = np.zeros((48, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 200  # the middle, which is all that a square shows
    video.write_frames(str(tmp_path / "wide.mp4"), ".mp4", frames, Fraction(24))
    metric = metrics.RelSync(windows=1, pictures="asva")
    item = prepared(metric, {"path": wide["path"], "audio_path": wide["audio_path"], "generated_path": square["path"]})
    assert item["true_pictures"].shape == item["pictures"].shape and item["true_pictures"][:, :, :, :60].mean() > 0.7
    item = prepared(metric, wide)
    assert item["pictures"][:, :, :, :40].mean() < 0.1 and item["pictures"][:, :, :, 90:130].mean() > 0.7  # squashed, not cropped


class Similar:
    """In ImageBind's place: embeddings that tell the level of sound, or picture's brightness, as an angle."""

    def __init__(self):
        self.heard = []

    def pictures(self, clips):
        brightness = [torch.from_numpy(clip.astype(np.float32)).flatten(1).mean(1) / (255 if clip.dtype == np.uint8 else 1) for clip in clips]
        return [torch.stack([torch.cos(b), torch.sin(b)], 1) for b in brightness]

    def sounds(self, sounds):
        self.heard += sounds
        return [torch.tensor([1.0, 0.0]) for _ in sounds]


def test_aligned_synchrony_leaves_the_first_picture_out(tmp_path, weights):
    true, made = clip_file(tmp_path / "true.mp4", 2, 24), clip_file(tmp_path / "made.mp4", 2, 12)
    row = {"path": true["path"], "audio_path": true["audio_path"], "generated_path": made["path"], "generated_audio_path": made["audio_path"]}
    metric = metrics.AlignSync()
    item = prepared(metric, row)
    metrics._Judged.load(metric, torch.device("cpu"), hub.Weights({"": str(weights)}))
    metric.imagebind = Similar()
    with torch.inference_mode():
        (found,) = [metric.row(one) for one in metric.run([item])]
        relative = torch.sigmoid(metric.judge.scores(item) - metric.judge.scores(metrics.of_truth(item)))
    brightness = [one["pictures"].mean((1, 2, 3))[one["index"][0]] / 255 for one in (item, metrics.of_truth(item))]
    factor = (1 / (1 + np.exp(-(np.cos(brightness[0][1:]) - np.cos(brightness[1][0]))))).mean()
    assert found["alignsync"] == pytest.approx(float(relative) * factor, abs=1e-3)
    assert [one.shape for one in metric.imagebind.heard] == [(1, 32000), (1, 32000)]


def test_legacy_forms_are_the_protocol_s_alone():
    assert metrics.AvSyncScore(windows=1, pictures="asva", legacy="stereo+frames").legacy == {"stereo", "frames"}
    wrong = {"--protocol asva": {"legacy": "stereo"}, "stereo": {"legacy": "echo", "pictures": "asva"}, "trained or asva": {"pictures": "all"}, "1 or more": {"windows": 0}}
    for told, settings_ in wrong.items():
        with pytest.raises(UsageError, match=told):
            metrics.AvSyncScore(**settings_)
    for settings_ in ({"clips": 1}, {"step": 0.0}):
        with pytest.raises(UsageError, match="sync-accuracy"):
            metrics.SyncAccuracy(**settings_)


def test_legacy_stereo_is_heard_by_the_true_pair_and_not_by_controls(toys):
    metric = metrics.AvSyncScore(windows=1, pictures="asva", legacy="stereo")
    pair = Pair(toys[0], {})
    plain, legacy = prepared(metrics.AvSyncScore(windows=1, pictures="asva"), toys[0]), metric.prepare(pair)
    assert plain["sound"].shape == legacy["sound"].shape and not np.allclose(plain["sound"], legacy["sound"], atol=1e-3)
    control = metric.prepare(pair.with_sound(Sound(np.zeros_like(pair.sound.samples), pair.sound.rate)))
    assert not control["sound"].any()


def test_weights_are_looked_for_under_three_names(weights):
    for name in ("relsync", "avsync", ""):
        assert metrics.classifier(hub.Weights({name: str(weights)}), "relsync") == weights
    assert metrics.classifier(hub.Weights({"relsync": str(weights), "avsync": "none"}), "relsync") == weights
    for metric in (metrics.AvSyncScore(), metrics.SyncAccuracy()):
        assert metric.weights_digest(hub.Weights({"avsync": str(weights)})) == hub.digest(weights)


@pytest.mark.long
def test_scoring_by_command_with_its_protocol_and_canary(toys, weights, tmp_path):
    table = write_rows(tmp_path / "t.csv", toys[:3])
    errors = program("score", "avsync,relsync", table, "--weights", weights, "--summary", tmp_path / "s.json", "-o", tmp_path / "o.csv", "--canary", "-j", 1).stderr
    scored, told = rows_of(tmp_path / "o.csv"), json.loads((tmp_path / "s.json").read_text())
    assert [float(row["relsync"]) for row in scored] == [0.5] * 3 and len({row["avsync"] for row in scored}) == 3
    assert told["metrics"]["avsync"]["count"] == 3 and set(told["canary"]["avsync"]) == {"silence", "noise", "shuffled", "shifted"}
    assert told["weights"]["avsync"] == hub.digest(weights) and "told apart" in errors
    done = program("score", "avsync", table, "--weights", weights, "--protocol", "asva", "--summary", tmp_path / "a.json", "-o", tmp_path / "a.csv", "-j", 1)
    assert json.loads((tmp_path / "a.json").read_text())["definitions"]["avsync"]["settings"] == {"windows": 1, "pictures": "asva", "legacy": ""}
    assert rows_of(tmp_path / "a.csv")[0]["avsync"] != scored[0]["avsync"] and "Traceback" not in done.stderr
    errors = program("score", "sync-accuracy", table, "--weights", weights, "--summary", tmp_path / "c.json", "-o", tmp_path / "c.csv", "-j", 1).stderr
    entry = json.loads((tmp_path / "c.json").read_text())["metrics"]["sync_accuracy"]
    assert entry["chance"]["value"] == pytest.approx(11 / 31) and entry["count"] == 3 and "0.355" in errors


@pytest.mark.long
def test_rows_that_cannot_be_judged_are_named_and_others_are_judged(toys, weights, tmp_path):
    mute = [clip_file(tmp_path / f"{name}.mp4", seconds, 24, sound=False) for name, seconds in (("short", 1), ("mute", 3))]
    rows = [{"path": toys[0]["path"]}, *mute, {"path": toys[1]["path"]}]
    errors = program("score", "sync-accuracy", write_rows(tmp_path / "t.csv", rows), "--weights", weights, "-o", tmp_path / "o.csv", "-j", 1, status=1).stderr
    assert len(rows_of(tmp_path / "o.csv")) == 2 and "t.csv:3" in errors and "t.csv:4" in errors and "Traceback" not in errors
    broken = {name: tensor.fill_(math.nan) if name.startswith("head") else tensor for name, tensor in load_file(weights / "model.safetensors").items()}
    (tmp_path / "nan").mkdir()
    save_file(broken, tmp_path / "nan" / "model.safetensors")
    (tmp_path / "nan" / "config.json").write_text((weights / "config.json").read_text())
    table = write_rows(tmp_path / "b.csv", rows[:1])
    errors = program("score", "avsync,sync-accuracy", table, "--weights", tmp_path / "nan", "--summary", tmp_path / "s.json", "-j", 1, status=1).stderr
    assert "b.csv:2: avsync is no finite number; are these its weights?" in errors and "unexpected" not in errors
    errors = program("score", "sync-accuracy", table, "--weights", tmp_path / "nan", "-j", 1, status=1).stderr
    assert "b.csv:2: sync_accuracy is no finite number" in errors
    errors = program("score", "avsync", tmp_path / "t.csv", "-o", tmp_path / "n.csv", "-j", 1, status=3).stderr
    assert "by hand" in errors and not (tmp_path / "n.csv").exists()


# --- it learns ----------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_goes_on_bit_for_bit_with_its_statistics_on_one_rank_or_two(toys, tmp_path):
    table = write_rows(tmp_path / "t.csv", toys)
    sets = [word for one in [*SMALL, "batch_size=2", "keep=9", "drawn=4", "schedule=constant", "log_every=1"] for word in ("--set", one)]
    common = ["--preset", "tiny", *sets, "--checkpoint-every", 2, "-j", 1]
    program("train", "avsync", table, "-d", tmp_path / "one", *common, "--max-steps", 4)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000004")
    program("train", "avsync", "-d", tmp_path / "two")
    one, other = (load_file(tmp_path / run / "checkpoints" / "step-00000004" / "model.safetensors") for run in ("one", "two"))
    assert any("running_var" in name for name in one) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    ranked = program("train", "avsync", table, "-d", tmp_path / "ranks", *common, "--max-steps", 2, ranks=2)
    lines = [json.loads(line) for line in ranked.stdout.splitlines() if '"loss"' in line]
    assert [line["samples"] for line in lines] == [4, 8] and all(0.5 < line["loss"] < 3 for line in lines)
    assert '"rehearsal": true' in program("train", "avsync", table, "-d", tmp_path / "three", *common, "--max-steps", 4, "--rehearse").stdout


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """(run, its log, table of clips that it never saw): the preset tiny, trained on 160 synthetic clips."""
    folder = tmp_path_factory.mktemp("learned")
    program("synth", "-n", 200, "--seconds", 6, "--fps", 12, "--size", "64x48", "--absolute", "-d", folder / "clips", "-o", folder / "t.csv", "--no-fsync", "-q", "-j", 2)
    rows = [{name: row[name] for name in ("path", "id", "class")} for row in rows_of(folder / "t.csv")]
    train, test = write_rows(folder / "train.csv", rows[:160]), write_rows(folder / "test.csv", rows[160:])
    done = program("train", "avsync", train, "--preset", "tiny", "--valid", test, "-d", folder / "run", "-j", 2)
    return folder / "run", [json.loads(line) for line in done.stdout.splitlines()], test


@pytest.mark.long
def test_tiny_learns_which_of_21_shifts_is_in_time(learned):
    _, log, _ = learned
    (told,) = [line for line in log if "valid_loss" in line]
    assert told["valid_loss"] < 0.7 * math.log(21)
    for way in ("audio_to_video", "video_to_audio"):
        assert told[f"valid_{way}_acc"] > 0.35, told  # by guessing 1 / 21


@pytest.mark.long
def test_what_was_learned_tells_true_pairs_from_shifted_and_exchanged_ones(learned, tmp_path):
    run, _, test = learned
    program("score", "sync-accuracy,avsync", test, "--weights", run, "--canary", "--summary", tmp_path / "s.json", "-o", tmp_path / "o.csv", "-j", 2)
    told = json.loads((tmp_path / "s.json").read_text())
    for way in ("sync_a2v", "sync_v2a"):
        assert told["metrics"][way]["mean"] > 0.55, told["metrics"]
    canary = told["canary"]["sync_accuracy"]
    assert told["metrics"]["sync_accuracy"]["interval"][0] > 11 / 31 + 0.1 and canary["shuffled"]["mean"] < 0.55
    assert canary["shifted"]["mean"] < 0.3  # matched with what is 0.4 s away, beyond the tolerance
    assert all(canary[control]["told_apart"] for control in ("shuffled", "shifted")), canary
    assert all(told["canary"]["avsync"][control]["told_apart"] for control in ("shuffled", "shifted", "silence")), told["canary"]["avsync"]
