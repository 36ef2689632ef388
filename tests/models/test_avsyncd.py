"""AVSyncD in this process: the UNet and its short cuts, the loss, sampling, items, checkpoints, and that it learns."""

import csv
import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from PIL import Image  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, RowError, UsageError  # noqa: E402
from avtools.media import video  # noqa: E402
from avtools.media.soundfiles import write_sound  # noqa: E402
from avtools.models.avsyncd import checkpoint, data, encoders, sampling, training  # noqa: E402
from avtools.models.avsyncd.config import NOISE_SCHEDULE, PRESETS, UNET, Config  # noqa: E402
from avtools.models.avsyncd.model import Block, Condition, Conv, UNet3D, heard_tokens  # noqa: E402
from avtools.models.avsyncd.system import AvSyncD  # noqa: E402
from avtools.models.parts.clips import text_of  # noqa: E402
from avtools.models.parts.imagebind import model as imagebind  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402

NONE, CPU = hub.Weights({}), torch.device("cpu")
SMALL = ["unet.block_out_channels=[16,32]", "unet.norm_num_groups=4"]  # the tiny preset made smaller
TWO_D = {**UNET, "block_out_channels": [16, 24, 32, 32], "norm_num_groups": 8, "attention_head_dim": 4, "cross_attention_dim": 20, "audio_cross_attention_dim": 12}


def small(*sets):
    return settings.resolve(Config, PRESETS, "tiny", None, [*SMALL, *sets])


def awake(module, scale=0.3):
    """`module` with random values where it begins with zeros, so that every part of it counts."""
    for name, parameter in module.named_parameters():
        if "conv_temp" in name or "attn_temp.to_out" in name:
            torch.nn.init.normal_(parameter, 0, scale / math.sqrt(parameter.shape[-1]))
    return module


def built(*sets, seed=0, wake=True):
    torch.manual_seed(seed)
    system = AvSyncD(small(*sets))
    system.build(NONE, NONE, CPU)
    if wake:
        awake(system.unet)
    return system


def tiny_unet(**changes):
    torch.manual_seed(0)
    return awake(UNet3D({**TWO_D, **changes})).eval()


def inputs(unet, batch=2, frames=12, size=(8, 16), seed=1):
    """(sample, timesteps, text, sound, mask of what each frame hears)."""
    made, config = torch.Generator().manual_seed(seed), unet.config
    sample = torch.randn(batch, config["in_channels"], frames, *size, generator=made)
    text, audio = (torch.randn(batch, count, config[name], generator=made) for count, name in ((7, "cross_attention_dim"), (229, "audio_cross_attention_dim")))
    return sample, torch.tensor([10, 700, 33][:batch]), text, audio, imagebind.segment_mask(frames)


def close(one, other, tolerance=2e-5):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


# --- the network ----------------------------------------------------------------------------------------------------


def test_one_frame_without_sound_is_stable_diffusion(tmp_path):
    """A 2-D UNet of diffusers, loaded as Stable Diffusion's is, and ours on a clip of one frame."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    fields = {name: value for name, value in TWO_D.items() if name != "audio_cross_attention_dim"}
    flat = UNet2DConditionModel(**fields).eval()
    flat.save_pretrained(tmp_path / "unet")
    ours = UNet3D(TWO_D).eval()
    checkpoint.init_unet(ours, str(tmp_path))
    assert set(flat.state_dict()) == {name for name in ours.state_dict() if name not in set(ours.added())}
    for name, parameter in ours.named_parameters():
        if "attn_audio.to_out" in name or "attn_temp.to_out" in name:
            torch.nn.init.zeros_(parameter)
    sample, timestep, text, audio, mask = inputs(ours, frames=1)
    with torch.no_grad():
        wanted = flat(sample[:, :, 0], timestep, text).sample
        close(ours(sample, timestep, text, audio, mask)[:, :, 0], wanted, 1e-5)
        clip = inputs(ours)[0]
        clip[:, :, 0] = sample[:, :, 0]
        apart = ours(clip, timestep, text, audio, imagebind.segment_mask(12))[:, :, 0]
    assert (apart - wanted).abs().max() > 1e-3  # group statistics are those of all frames


def plain_conv(conv, x):
    """A convolution as the specification writes it: (B, F, h, w, C), frame by frame, of three frames side by side."""
    made = [torch.nn.functional.conv2d(frame.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, conv.padding).permute(0, 2, 3, 1) for frame in x.unbind(1)]
    return torch.stack([y + conv.conv_temp(torch.cat([made[0], made[max(0, i - 1)], y], -1)) for i, y in enumerate(made)], 1)


def plain_block(block, x, text, audio, mask):
    """The transformer as the specification writes it: conditions repeated for each frame, keys of frame 0 for each, all
    tokens of the sound behind a mask."""
    batch, frames, pixels, width = x.shape

    def attend(attention, queries, source, allowed=None):
        split = lambda t: t.unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(attention.to_q(queries)), split(attention.to_k(source)), split(attention.to_v(source))
        score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if allowed is not None:
            score = score.masked_fill(~allowed[:, None, None], -math.inf)
        return attention.to_out[0]((score.softmax(-1) @ v).transpose(1, 2).flatten(2))

    x = x.flatten(0, 1)
    normed = block.norm1(x)
    first = normed.unflatten(0, (batch, frames))[:, :1].repeat(1, frames, 1, 1).flatten(0, 1)
    x = x + attend(block.attn1, normed, first)
    allowed = None if mask is None else mask.bool().repeat(batch, 1)
    x = x + attend(block.attn_audio, block.norm_audio(x), audio.repeat_interleave(frames, 0), allowed)
    x = x + attend(block.attn2, block.norm2(x), text.repeat_interleave(frames, 0))
    h = x.view(batch, frames, pixels, width).transpose(1, 2).flatten(0, 1)
    h = block.norm_temp(h + block.pos_embedding_temp(torch.arange(frames)))
    x = x + attend(block.attn_temp, h, h).view(batch, pixels, frames, width).transpose(1, 2).flatten(0, 1)
    return (x + block.ff(block.norm3(x))).view(batch, frames, pixels, width)


@pytest.mark.parametrize("frames", [1, 2, 12])
@pytest.mark.parametrize("stride, kernel", [(1, 3), (2, 3), (1, 1)])
def test_a_convolution_looks_at_the_first_and_the_previous_frame(frames, stride, kernel):
    torch.manual_seed(0)
    conv, x = awake(Conv(5, 6, kernel, stride)), torch.randn(2, frames, 6, 8, 5)
    with torch.no_grad():
        close(conv(x), plain_conv(conv, x))
        changed = x.clone()
        changed[:, frames // 2] += 1
        differs = (conv(changed) - conv(x)).abs().amax((0, 2, 3, 4)) > 1e-6
    middle = frames // 2
    assert differs.tolist() == [True] * frames if middle == 0 else [i in (middle, middle + 1) for i in range(frames)]


def uneven():
    """Frames that hear 1, 2, ... 12 tokens, not side by side."""
    return torch.stack([torch.randperm(229, generator=torch.Generator().manual_seed(k)) <= k for k in range(12)])


@pytest.mark.parametrize("mask", [imagebind.segment_mask(12), uneven(), None], ids=["published", "uneven", "none"])
def test_short_cuts_of_a_transformer_change_nothing(mask):
    torch.manual_seed(0)
    block, x = awake(Block(32, 4, 20, 12)), torch.randn(2, 12, 15, 32)
    text, audio = torch.randn(2, 7, 20), torch.randn(2, 229, 12)
    given = Condition(text, audio, *heard_tokens(mask))
    with torch.no_grad():
        wanted = plain_block(block, x, text, audio, mask)
        close(block(x, given), wanted)
        close(block(x, block.project(given, 12)), wanted)


def test_what_a_frame_does_not_hear_does_not_count():
    unet = tiny_unet()
    sample, timestep, text, audio, mask = inputs(unet)
    other = audio.clone()
    other[:, ~mask.any(0)] += 5.0  # the second column of each pair overlaps; some columns nobody hears
    with torch.no_grad():
        assert torch.equal(unet(sample, timestep, text, audio, mask), unet(sample, timestep, text, other, mask))
        other[:, mask[3]] += 5.0
        assert not torch.equal(unet(sample, timestep, text, audio, mask), unet(sample, timestep, text, other, mask))


def test_each_frame_hears_25_of_229_tokens():
    heard, real = heard_tokens(imagebind.segment_mask(12))
    assert heard.shape == (12, 25) and real is None and (heard[:, 0] == 0).all() and (heard.diff(dim=1) > 0).all()
    assert ((heard[:, 1] - 1) % 19).tolist() == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17]
    with pytest.raises(ValueError, match="hears nothing"):
        heard_tokens(torch.zeros(2, 4, dtype=torch.bool))


def test_a_condition_is_projected_once_and_its_rows_are_chosen():
    unet = tiny_unet()
    sample, timestep, text, audio, mask = inputs(unet)
    with torch.no_grad():
        both = unet.condition(text, audio, mask, 12)
        close(unet(sample, timestep, both), unet(sample, timestep, text, audio, mask))
        crossed = both.rows(torch.tensor([1, 0]), torch.tensor([0, 0]))
        close(unet(sample, timestep, crossed), unet(sample, timestep, text.flip(0), audio[:1].expand(2, -1, -1), mask))
    calls = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn_audio.to_v", "pos_embedding_temp")):
            module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        unet(sample, timestep, both)
    assert not calls


def test_any_picture_size_and_recomputed_gradients():
    unet = tiny_unet()
    sample, timestep, text, audio, mask = inputs(unet, size=(10, 6))  # halves are not whole
    assert unet(sample, timestep, text, audio, mask).shape == sample.shape
    found = []
    for again in (False, True):
        unet.train().gradient_checkpointing = again
        unet.zero_grad()
        unet(sample, timestep, text, audio, mask).square().mean().backward()
        found.append({name: p.grad.clone() for name, p in unet.named_parameters()})
    assert all(grad.abs().max() > 0 for name, grad in found[0].items() if not name.endswith("to_k.bias"))
    for name, grad in found[0].items():
        close(found[1][name], grad, 1e-5)


# --- the loss ---------------------------------------------------------------------------------------------------------


def fake_batch(system, count=4, draws=None, seed=0):
    """A prepared batch without files."""
    made, config = torch.Generator().manual_seed(seed), system.config
    latents = torch.randn(count, config.unet["in_channels"], 12, 3, 4, generator=made)
    audio = torch.randn(count, 200, 48, generator=made)
    text = torch.randn(count, 16, 32, generator=made)
    draws = torch.tensor([draw_of("fake", k) for k in range(count)] if draws is None else draws)
    given = {"mean": latents, "std": None, "audio": audio, "text": text, "mask": system.mask, "null_audio": system.null_audio, "null_text": system.null_text}
    return {**given, "draws": draws, "keys": [str(k) for k in range(count)]}


def part(batch, which):
    shared = ("mask", "null_audio", "null_text")
    return {name: value[which] if isinstance(value, torch.Tensor) and name not in shared else value for name, value in batch.items()}


class Recorder:
    """In the place of the network: predicts zero, and remembers what it was given."""

    def __call__(self, sample, timesteps, text, audio, mask):
        self.sample, self.timesteps, self.text, self.audio = sample, timesteps, text, audio
        return torch.zeros_like(sample)


def test_frame_0_is_clean_and_does_not_count():
    system, seen = built(), Recorder()
    batch = fake_batch(system, 3)
    found = system.training_step(seen, batch, 0, "main")["loss"]
    assert torch.equal(seen.sample[:, :, 0], batch["mean"][:, :, 0])
    alphas = system.noise[seen.timesteps].view(-1, 1, 1, 1, 1)
    noise = (seen.sample - alphas.sqrt() * batch["mean"])[:, :, 1:] / (1 - alphas).sqrt()
    close(found, noise.square().mean((1, 2, 3, 4)), 1e-3)
    assert abs(float(noise.std()) - 1) < 0.05 and len(set(seen.timesteps.tolist())) > 1


def test_conditions_are_dropped_as_often_as_promised_and_never_in_validation():
    system, seen = built("sound_dropout=0.2", "text_dropout=0.1"), Recorder()
    batch = fake_batch(system, 1)
    many = {**batch, **{name: batch[name].expand(4000, *batch[name].shape[1:]) for name in ("audio", "text")}, "mean": batch["mean"][:, :, :2, :1, :1].expand(4000, -1, -1, -1, -1)}
    many["draws"] = torch.arange(4000)
    system.training_step(seen, many, 0, "main")
    silent = (seen.audio == system.null_audio).all(2).all(1)
    untold = (seen.text == system.null_text).all(2).all(1)
    assert abs(float(silent.float().mean()) - 0.2) < 0.025 and abs(float(untold.float().mean()) - 0.1) < 0.02
    assert abs(float((silent & untold).float().mean()) - 0.02) < 0.01  # drawn apart
    assert abs(float(seen.timesteps.float().mean()) - 499.5) < 20 and seen.timesteps.min() <= 5 and seen.timesteps.max() >= 994
    system.evaluate(seen, many)
    assert torch.equal(seen.audio, many["audio"]) and torch.equal(seen.text, many["text"])


def test_an_item_s_loss_is_its_own_in_any_batch_and_order():
    system = built("sound_dropout=0.5")
    batch = fake_batch(system, 5)
    with torch.no_grad():
        whole = system.training_step(system.trainable, batch, 0, "main")["loss"]
        order = [4, 1, 0, 3, 2]
        torch.testing.assert_close(system.training_step(system.trainable, part(batch, order), 7, "main")["loss"], whole[order], atol=1e-5, rtol=1e-4)
        for k in range(5):
            torch.testing.assert_close(system.training_step(system.trainable, part(batch, [k]), 0, "main")["loss"][0], whole[k], atol=1e-5, rtol=1e-4)


def test_only_what_is_added_trains():
    unet = tiny_unet()
    training.freeze(unet, "added")
    trained = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert trained == unet.added() and all("_temp" in name or "_audio" in name for name in trained)
    training.freeze(unet, "all")
    assert all(p.requires_grad for p in unet.parameters())


def test_a_posterior_is_sampled_with_its_deviation():
    system, seen, plain = built(), Recorder(), Recorder()
    batch = fake_batch(system)
    system.evaluate(plain, batch)
    system.evaluate(seen, {**batch, "std": torch.full_like(batch["mean"], 0.5)})
    added = (seen.sample - plain.sample)[:, :, 0]  # frame 0 is clean
    assert abs(float(added.std()) - 0.5) < 0.05 and abs(float(added.mean())) < 0.05


# --- sampling ---------------------------------------------------------------------------------------------------------------


def sampled(unet, which, scheduler="dpmsolver++", steps=4, guidance=(3.0, 1.0), dtype=torch.float32):
    """Latents of the items `which` of three."""
    made = torch.Generator().manual_seed(5)
    image = torch.randn(3, 4, 4, 4, generator=made)
    text, audio = torch.randn(3, 7, 20, generator=made), torch.randn(3, 229, 12, generator=made)
    null = torch.randn(1, 7, 20, generator=made), torch.randn(1, 229, 12, generator=made)
    noise, generators = sampling.seeded([100 + k for k in which], (4, 5, 4, 4))
    return image[which], sampling.sample_latents(
        unet, image[which], noise, text[which], null[0], audio[which], null[1], imagebind.segment_mask(6), guidance=sampling.Guidance(*guidance),
        scheduler=scheduler, steps=steps, schedule=NOISE_SCHEDULE, generators=generators, dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("scheduler", sampling.SCHEDULERS)
def test_any_scheduler_leaves_frame_0_alone_and_makes_each_item_alike_in_any_batch(scheduler):
    unet = tiny_unet()
    image, found = sampled(unet, [0, 1, 2], scheduler, guidance=(3.0, 2.0))
    assert torch.equal(found[:, :, 0], image) and found.isfinite().all() and found.shape == (3, 4, 6, 4, 4)
    for k in range(3):
        close(sampled(unet, [k], scheduler, guidance=(3.0, 2.0))[1], found[k : k + 1], 1e-3)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    "scales, rows",
    [((1, 1), [(1, 1)]), ((0, 0.5), [(1, 1)]), ((4, 1), [(1, 0), (1, 1)]), ((1, 2), [(0, 1), (1, 1)]), ((4, 2), [(0, 0), (1, 0), (1, 1)])],
)
def test_guidance_is_the_published_sum(scales, rows):
    guidance = sampling.Guidance(*scales)
    assert [tuple(map(int, row)) for row in guidance.rows] == rows
    made = torch.randn(len(rows), 2, 3)
    e = {row: made[k] for k, row in enumerate(rows)}
    audio, text = scales
    wanted = {
        1: lambda: e[1, 1],
        2: lambda: e[1, 0] + audio * (e[1, 1] - e[1, 0]) if audio > 1 else e[0, 1] + text * (e[1, 1] - e[0, 1]),
        3: lambda: e[0, 0] + text * (e[1, 0] - e[0, 0]) + audio * (e[1, 1] - e[1, 0]),
    }[len(rows)]()
    torch.testing.assert_close(guidance(made.flatten(0, 1)), wanted)


def test_guidance_is_one_pass_a_step():
    unet, sizes = tiny_unet(), []
    unet.conv_in.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    for guidance, passes in (((1.0, 1.0), 1), ((4.0, 1.0), 2), ((4.0, 2.0), 3)):
        sizes.clear()
        sampled(unet, [0, 1], steps=3, guidance=guidance)
        assert sizes == [2 * passes] * 3
    sizes.clear()
    sampled(unet, [0], "pndm", 50, (1.0, 1.0))
    assert len(sizes) == 51


def test_the_original_s_second_pass_steps_on():
    """PNDM repeats its first step with a better prediction; the original made it a step of its own (parity cases hold its numbers)."""
    unet = tiny_unet()
    assert (sampled(unet, [0], "pndm")[1] - sampled(unet, [0], "legacy")[1]).abs().max() > 0.1


def test_half_precision_stays_near():
    exact = sampled(tiny_unet(), [0, 1])[1]
    assert (sampled(tiny_unet().to(torch.bfloat16), [0, 1], dtype=torch.bfloat16)[1] - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_levels_are_rounded_and_the_original_s_are_cut():
    values = torch.tensor([-1.0, 0.0, 0.5 / 255, 1.6 / 255, 254.7 / 255, 1.0, 2.0])
    assert sampling.levels(values).tolist() == [0, 0, 0, 2, 255, 255, 255]
    assert sampling.levels(values, True).tolist() == [0, 0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize(
    "given, told", [({"scheduler": "pndmm"}, "did you mean 'pndm'"), ({"steps": 1001}, "--steps 1001"), ({"steps": 1000, "scheduler": "pndm"}, "from 1 to 999"), ({"guidance": math.nan}, "--guidance nan"), ({"guidance": -1.0}, "--guidance -1")]
)
def test_options_that_make_no_sense(given, told):
    with pytest.raises(UsageError, match=told):
        AvSyncD(small()).sample_options({"steps": None, "guidance": None, "scheduler": None, **given})


def test_steps_are_those_of_the_noise_schedule():
    few = small("noise_schedule.num_train_timesteps=10")
    with pytest.raises(UsageError, match="from 1 to 10"):
        AvSyncD(few).sample_options({"steps": 11, "guidance": None, "scheduler": None})
    with pytest.raises(UsageError, match="from 1 to 10"):  # a run's previews could not be made
        AvSyncD(few).build(NONE, NONE, CPU)
    for scheduler, most in (("pndm", 9), ("legacy", 9), ("ddim", 10)):
        AvSyncD(few).sample_options({"steps": most, "guidance": None, "scheduler": scheduler})
        solver = sampling.scheduler_for(scheduler, few.noise_schedule, most)
        for timestep in solver.timesteps:
            solver.step(torch.zeros(1), timestep, torch.zeros(1))


# --- rows ----------------------------------------------------------------------------------------------------------------------


def picture_of_time(seconds=4.0, fps=24, size=(48, 64)):
    """Pictures that grow brighter from left to right, and with time."""
    count = round(seconds * fps)
    across = np.linspace(0, 100, size[1])[None, None, :, None]
    return (across + np.linspace(0, 120, count)[:, None, None, None] + np.zeros((1, size[0], 1, 3))).astype(np.uint8)


def tone_of_time(seconds=4.0, rate=16000, channels=1):
    """Samples that grow with time, so that a sample tells its time."""
    samples = np.linspace(0, 0.8, round(seconds * rate), dtype=np.float32)
    return np.repeat(samples[:, None], channels, 1)


def sound_file(path, samples, rate=16000):
    with write_sound(str(path), ".wav", rate, samples.shape[1], "s16") as write:
        write(samples)
    return str(path)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """film.mp4 (4 s, picture and sound), silent.mp4 (picture), tone.wav (4 s), short.wav, still.png."""
    folder = tmp_path_factory.mktemp("media")
    video.write_frames(str(folder / "silent.mp4"), ".mp4", picture_of_time(), Fraction(24))
    sound_file(folder / "tone.wav", tone_of_time())
    sound_file(folder / "short.wav", tone_of_time(1.5))
    sound_file(folder / "nothing.wav", np.zeros((48000, 1), np.float32))
    video.mux(str(folder / "silent.mp4"), str(folder / "tone.wav"), str(folder / "film.mp4"), ".mp4")
    Image.fromarray(np.full((30, 90, 4), (200, 100, 50, 255), np.uint8), "RGBA").save(folder / "still.png")
    return folder


def options(*sets):
    return data.options_of(small(*sets))


def item(row, draw=0, *sets):
    return data.training_item(row, draw_of("d", draw), options(*sets))


def test_a_training_item_is_two_seconds_of_both(media):
    row = {"path": str(media / "film.mp4"), "text": "a tone"}
    made = item(row)
    assert made["frames"].shape == (12, 3, 24, 32) and made["frames"].dtype == np.float32 and made["sound"].shape == (32000,)
    level = made["frames"].mean((1, 2, 3)) * 255 - 50  # picture i tells that it is shown at 1 + i / 6 s
    np.testing.assert_allclose(level, 120 * (1 + np.arange(12) / 6) / 4, atol=4)
    assert abs(made["sound"][16000] - 0.4) < 0.03  # and the sound in its middle that it is heard at 2 s
    assert text_of(made["text"]) == "a tone"
    mirrored = item(row, 0, "flip=1.0")["frames"]
    np.testing.assert_array_equal(mirrored, made["frames"][..., ::-1])
    spectrogram = data.heard(tone_of_time(2.0).T, data.options_of(Config()))
    assert spectrogram.shape == (1, 128, 204) and spectrogram.dtype == np.float32


def test_random_starts_come_from_the_draw_and_keep_both_in_step(media):
    row, begins = {"path": str(media / "film.mp4"), "text": "a tone"}, []
    for draw in range(12):
        made = item(row, draw, "random_start=true")
        seen, heard = (made["frames"][0].mean() * 255 - 50) / 120 * 4, made["sound"][8000] / 0.8 * 4 - 0.5
        assert abs(seen - heard) < 0.15
        begins.append(heard)
    assert min(begins) < 0.6 and max(begins) > 1.4 and max(begins) < 2.1
    np.testing.assert_array_equal(item(row, 3, "random_start=true")["sound"], item(row, 3, "random_start=true")["sound"])


def test_a_row_may_be_a_scene(media):
    row = {"path": str(media / "film.mp4"), "text": "a tone", "start": "1.5", "end": "3.5"}
    for k in range(3):
        assert abs(item(row, k, "random_start=true")["sound"][16000] - 0.8 * 2.5 / 4) < 0.03
    with pytest.raises(RowError, match="2 s"):
        item({**row, "end": "3"})
    with pytest.raises(RowError, match="no span"):
        item({**row, "end": "1"})


def condition(row, *sets, **more):
    return data.condition({"text": "a tone", **{name: str(value) for name, value in row.items()}}, {**options(*sets), **more})


def when(sound):
    """The time of a clip's beginning by its samples (channels, n)."""
    return sound[0, 8000] / 0.8 * 4 - 0.5


def test_conditions_of_all_kinds_of_rows(media):
    film, still, tone = media / "film.mp4", media / "still.png", media / "tone.wav"
    own = condition({"path": film})
    assert own["image"].shape == (3, 24, 32) and own["given"].shape == (1, 32000) and "free" not in own
    assert abs(when(own["given"]) - 1.0) < 0.05 and abs(own["image"].mean() * 255 - 80) < 4  # the middle, both
    beside = condition({"path": media / "silent.mp4", "audio_path": tone})
    assert abs(when(beside["given"]) - 1.0) < 0.05 and abs(beside["image"].mean() * 255 - 80) < 4
    other = condition({"path": film, "image_path": still})
    np.testing.assert_allclose(other["image"].mean((1, 2)) * 255, [200, 100, 50], atol=1)
    assert abs(when(other["given"]) - 1.0) < 0.05
    alone = condition({"image_path": still, "audio_path": tone})
    assert abs(when(alone["given"])) < 0.05
    later = condition({"image_path": still, "audio_path": tone, "start": 1.5})
    assert abs(when(later["given"]) - 1.5) < 0.05 and later["cells"] == {"start": 1.5, "end": 3.5}
    quiet = condition({"image_path": still, "audio_path": media / "nothing.wav"})
    assert not quiet["given"].any() and np.isfinite(quiet["sound"]).all()


def test_three_samples_are_of_three_clips(media):
    made = [condition({"path": media / "film.mp4"}, sample=k, samples=3) for k in range(3)]
    np.testing.assert_allclose([when(one["given"]) for one in made], [0, 1, 2], atol=0.06)
    for one in made:  # which clip it was is told, and gives it again
        again = condition({"path": media / "film.mp4", **one["cells"]})
        assert again["cells"] == one["cells"]
        np.testing.assert_array_equal(again["given"], one["given"])
        np.testing.assert_array_equal(again["image"], one["image"])


@pytest.mark.parametrize(
    "row, told",
    [
        ({"audio_path": "tone.wav"}, "no picture to animate"),
        ({"path": "placeholder.mp4", "audio_path": "tone.wav"}, "no picture to animate"),
        ({"image_path": "still.png"}, "no sound to animate"),
        ({"path": "silent.mp4"}, "has no sound"),
        ({"path": "tone.wav"}, "has no picture"),
        ({"image_path": "still.png", "audio_path": "short.wav"}, "short.wav.*1.5 s"),
        ({"path": "film.mp4", "start": 2.5}, "film.mp4.*1.5 s"),
        ({"path": "film.mp4", "start": 9}, "start 9.*ends at 4 s"),
        ({"path": "film.mp4", "start": 1, "end": 2}, r"film.mp4 \(start 1, end 2\).*1 s"),
        ({"image_path": "still.png", "audio_path": "tone.wav", "start": -1}, "start -1"),
        ({"image_path": "still.png", "audio_path": "tone.wav", "start": 1, "end": 2}, "tone.wav.*1 s"),
        ({"image_path": "still.png", "audio_path": "tone.wav", "start": 9}, "start 9"),
        ({"path": "film.mp4", "text": ""}, "neither text nor class"),
        ({"path": "film.mp4", "text": " \n"}, "neither text nor class"),
        ({"path": "film.mp4", "text": "", "class": "__"}, "neither text nor class"),
        ({"path": "film.mp4", "start": "x"}, "not a number"),
        ({"image_path": "absent.png", "audio_path": "tone.wav"}, "absent.png"),
    ],
)
def test_rows_that_cannot_be_animated(media, row, told):
    row = {name: media / value if name.endswith("path") else value for name, value in row.items()}
    with pytest.raises(RowError, match=told):
        condition(row)


def test_a_class_becomes_its_prompt_or_is_told_to_be_none(media, capsys):
    given = data.options_of(Config())
    assert data.prompt({"class": "playing_violin__fiddle"}, given) == ("playing violin fiddle", "")
    assert data.prompt({"label": "dog barking"}, given) == ("dog barking", "")
    assert data.prompt({"class": "blue_whale__singing"}, given) == ("blue whale singing", "blue_whale__singing")
    assert data.prompt({"class": "dog_barking", "text": "a dog"}, given) == ("a dog", "")
    assert data.prompt({"class": "anything_else"}, options()) == ("anything else", "")  # no mapping, nothing to say
    assert data.prompt({"text": " ", "label": 0}, options()) == ("0", "")
    system, film = AvSyncD(small('prompts={"dog_barking": "dog barking"}')), str(media / "film.mp4")
    function, given = system.item_work()
    items = [function({"path": film, "class": name}, 0, given) for name in ("dog_barking", "blue_whale__singing")]  # not the table's first row
    for _ in range(2):
        assert system.collate(items)["text"] == ["dog barking", "blue whale singing"]
    assert capsys.readouterr().err.count("blue_whale__singing") == 1


# --- checkpoints -------------------------------------------------------------------------------------------------------------------


SIZE = imagebind.Size(12, 1, 2, 8)  # of ImageBind's sound tower, made small


def released(folder, unet, suffix="bin", audio=False, **changes):
    """A released checkpoint as the original's trainer writes it; its folder."""
    where = folder / "exp" / "ckpts" / "checkpoint-37000"
    fields = {**unet.config, "_class_name": checkpoint.RELEASED, "_diffusers_version": "0.22.0", "mid_block_type": "FFSpatioAudioTempCrossAttnUNetMidBlock3D", **changes}
    fields["down_block_types"] = ["FFSpatioAudioTempCrossAttnDownBlock3D" if "Cross" in kind else "FFSpatioTempResDownBlock3D" for kind in unet.config["down_block_types"]]
    fields["up_block_types"] = ["FFSpatioAudioTempCrossAttnUpBlock3D" if "Cross" in kind else "FFSpatioTempResUpBlock3D" for kind in unet.config["up_block_types"]]
    for name, module, told in (("unet", unet, fields), ("audio_encoder", imagebind.SegmentAudio(SIZE), {"_class_name": "ImageBindSegmaskAudioEncoder"})):
        if name == "unet" or audio:
            (where / "modules" / name).mkdir(parents=True)
            (where / "modules" / name / "config.json").write_text(json.dumps(told))
            if suffix == "bin":
                torch.save(module.state_dict(), where / "modules" / name / "diffusion_pytorch_model.bin")
            else:
                hub.save_tensors(where / "modules" / name / "diffusion_pytorch_model.safetensors", module.state_dict())
    return where


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_released_weights_load_from_any_folder_of_their_path(tmp_path, suffix):
    unet = tiny_unet()
    where = released(tmp_path, unet, suffix)
    for path in (tmp_path / "exp", where, where / "modules", where / "modules" / "unet"):
        config = checkpoint.config_of(path)
        assert config.unet == {**TWO_D, "norm_eps": 1e-5} and config.sampling.scheduler == "pndm" and not config.legacy_stereo
        made = checkpoint.make_unet(config)
        checkpoint.load_unet(made, path)
        found = made.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in unet.state_dict().items())
    assert checkpoint.config_of(where, "greatest-hits").height == 128 and checkpoint.config_of(where, None, ["steps=7"]).sampling.steps == 7


def test_wrong_checkpoints_are_refused_with_what_does_not_fit(tmp_path):
    where = released(tmp_path, tiny_unet())
    with pytest.raises(FatalError, match=r"missing: .*conv_temp.*of another shape: .*conv_in"):
        checkpoint.load_unet(UNet3D({**TWO_D, "block_out_channels": [16, 24, 32, 64], "layers_per_block": 3, "in_channels": 5}), where)
    for number, (changes, told) in enumerate([({"use_linear_projection": True}, "use_linear_projection True"), ({"act_fn": "gelu"}, "act_fn 'gelu'"), ({"attention_head_dim": [4, 8]}, "attention_head_dim"), ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type UNetMidBlock2D")]):
        with pytest.raises(FatalError, match=f"another kind.*{told}"):
            checkpoint.config_of(released(tmp_path / str(number), tiny_unet(), **changes))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FatalError, match="neither a checkpoint"):
        checkpoint.config_of(tmp_path / "empty")
    with pytest.raises(FatalError, match="Google Drive"):
        AvSyncD.from_weights(NONE)
    other = tmp_path / "other"
    other.mkdir()
    hub.save_tensors(other / "model.safetensors", {"x": torch.zeros(1)})
    (other / "config.json").write_text('{"system": "vta-ldm", "config": {}}')
    with pytest.raises(FatalError, match="a checkpoint of vta-ldm"):
        checkpoint.config_of(other)


def test_stable_diffusion_of_another_size_is_refused(tmp_path):
    from diffusers import UNet2DConditionModel

    fields = {name: value for name, value in TWO_D.items() if name != "audio_cross_attention_dim"}
    UNet2DConditionModel(**{**fields, "cross_attention_dim": 24}).save_pretrained(tmp_path / "unet")
    with pytest.raises(FatalError, match="cross_attention_dim 24"):
        checkpoint.init_unet(UNet3D(TWO_D), str(tmp_path))


def stable_diffusion(folder, old_names=False):
    """A small Stable Diffusion 1.5 as diffusers writes it; `old_names`: its VAE's attention as published in 2022."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1)
    vae.save_pretrained(folder / "vae")
    text = CLIPTextModel(CLIPTextConfig(hidden_size=20, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2))
    text.save_pretrained(folder / "text_encoder")
    if old_names:
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = {name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.").replace(".to_out.0.", ".proj_attn."): t for name, t in hub.tensors(file).items()}
        torch.save(tensors, folder / "vae" / "diffusion_pytorch_model.bin")
        file.unlink()
        torch.save({f"text_model.{name}": t for name, t in text.state_dict().items()}, folder / "text_encoder" / "pytorch_model.bin")
        (folder / "text_encoder" / "model.safetensors").unlink()
    return vae.eval(), text.eval()


@pytest.mark.parametrize("old_names", [False, True])
def test_stable_diffusion_s_parts_load_under_old_and_new_names(tmp_path, old_names):
    vae, text = stable_diffusion(tmp_path, old_names)
    ours, pictures = checkpoint.load_vae(tmp_path / "vae"), torch.rand(17, 3, 16, 16)
    with torch.no_grad():
        mean, std = ours.encode(pictures)
        wanted = vae.encode(pictures * 2 - 1).latent_dist
        close(mean, wanted.mean * 0.18215)
        close(std, wanted.std * 0.18215)
        close(ours.decode(mean), (vae.decode(wanted.mean).sample / 2 + 0.5).clamp(0, 1), 1e-4)
        ids = encoders.token_ids(["a photo of a cat", ""])
        assert ids.shape == (2, 77) and ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] and (ids[0, 6:] == 49407).all() and (ids[1, 1:] == 49407).all()
        close(checkpoint.load_text(tmp_path / "text_encoder")(["a photo of a cat", ""]), text(input_ids=ids).last_hidden_state)


def test_converted_is_complete_and_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(imagebind.HUGE, "audio", SIZE)
    where = released(tmp_path, tiny_unet(), audio=True)
    stable_diffusion(tmp_path / "sd")
    given = hub.Weights({"": str(where), "sd": str(tmp_path / "sd")})
    out = AvSyncD.convert(given, str(tmp_path / "ours"))
    results, digests = [], []
    for weights in (given, hub.Weights({"": out})):
        system = AvSyncD.from_weights(weights, None, ["height=16", "width=16", "steps=2"])
        system.load(weights, CPU, torch.float32)
        digests.append(system.weights_digest(weights))
        chosen = system.sample_options({"steps": None, "guidance": None, "scheduler": None})
        image, sound = np.linspace(0, 1, 768, dtype=np.float32).reshape(3, 16, 16), np.random.default_rng(0).normal(0, 0.1, (1, 32000)).astype(np.float32)
        one = {"image": image, "given": sound, "sound": data.heard(sound, chosen), "text": np.frombuffer(b"dog barking", np.uint8)}
        results += system.generate([one], [7], chosen)
    assert np.array_equal(results[0]["frames"], results[1]["frames"]) and results[0]["frames"].shape == (12, 16, 16, 3) and results[0]["frames"].std() > 1
    assert results[0]["fps"] == 6 and results[0]["sound"].shape == (32000, 1) and results[0]["rate"] == 16000
    assert len(set(digests)) == 2
    with pytest.raises(UsageError, match="leave out --preset"):
        checkpoint.config_of(out, "tiny")
    with pytest.raises(UsageError, match="choose another folder"):
        AvSyncD.convert(given, out)
    other = stable_diffusion(tmp_path / "other")[0]
    torch.nn.init.ones_(other.post_quant_conv.bias)
    other.save_pretrained(tmp_path / "other" / "vae")
    changed = hub.Weights({"": str(where), "sd": str(tmp_path / "other")})
    assert AvSyncD.from_weights(changed).weights_digest(changed) != digests[0]


def test_training_begins_with_stable_diffusion(tmp_path, monkeypatch):
    from diffusers import UNet2DConditionModel

    monkeypatch.setitem(imagebind.HUGE, "audio", SIZE)
    stable_diffusion(tmp_path)
    flat = UNet2DConditionModel(**{name: value for name, value in TWO_D.items() if name != "audio_cross_attention_dim"})
    flat.save_pretrained(tmp_path / "unet")
    tower = imagebind.Audio(SIZE)
    torch.save({f"modality_{n.partition('.')[0]}s.audio.{n.partition('.')[2]}": t for n, t in tower.state_dict().items()}, tmp_path / "imagebind_huge.pth")
    config = settings.resolve(Config, PRESETS, None, None, ["height=16", "width=16"])
    config.unet = dict(TWO_D)
    system = AvSyncD(config)
    weights = hub.Weights({"sd": str(tmp_path), "imagebind": str(tmp_path / "imagebind_huge.pth")})
    system.build(weights, NONE, CPU)
    assert torch.equal(system.unet.conv_in.weight, flat.conv_in.weight) and not system.unet.conv_in.conv_temp.weight.any()
    given = [{"frames": np.random.rand(12, 3, 16, 16).astype(np.float32), "sound": np.random.randn(1, 128, 204).astype(np.float32), "text": np.frombuffer(text, np.uint8)} for text in (b"dog barking", b"thunder", b"thunder")]
    batch = system.prepare({**system.collate(given), "draws": torch.arange(3), "keys": ["", "", ""]}, True)
    assert batch["mean"].shape == (3, 4, 12, 8, 8) and batch["audio"].shape == (3, 229, 12) and batch["text"].shape == (3, 77, 20)
    assert torch.equal(batch["text"][1], batch["text"][2]) and batch["null_text"].shape == (1, 77, 20)
    system.training_step(system.trainable, batch, 0, "main")["loss"].mean().backward()
    trained = {name for name, p in system.unet.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert trained and trained <= set(system.unet.added())


@pytest.mark.parametrize(
    "sets, told",
    [
        (["codec=vq"], "codec 'vq'"),
        (["height=30"], "height 30: a multiple of 4"),
        (["sound_dropout=1.5"], "sound_dropout 1.5"),
        (["unet.out_channels=4"], "in_channels and unet.out_channels alike"),
        (['noise_schedule.prediction_type="v_prediction"'], "epsilon"),
        (["trains=some"], "trains 'some'"),
    ],
)
def test_settings_that_do_not_fit(sets, told):
    with pytest.raises(UsageError, match=told):
        AvSyncD(small(*sets))


def test_networks_that_do_not_fit_together():
    for sets, told in ((["unet.audio_cross_attention_dim=50"], "bands gives 48"), (["unet.norm_num_groups=5"], "no UNet can be made"), (["unet.attention_head_dim=5"], "5 heads"), (["unet.in_channels=12", "unet.out_channels=12"], "space-to-depth gives 48")):
        with pytest.raises(UsageError, match=told):
            AvSyncD(small(*sets)).build(NONE, NONE, CPU)


# --- the parts without weights --------------------------------------------------------------------------------------------------------


def test_packed_pixels_come_back():
    from avtools.models.parts.tiny.space_to_depth import SpaceToDepth

    codec, pictures = SpaceToDepth(), torch.rand(3, 3, 24, 32)
    latents, std = codec.encode(pictures)
    assert latents.shape == (3, codec.channels, 6, 8) and std is None
    close(codec.decode(latents), pictures, 1e-5)


def test_words_are_the_same_wherever_they_stand():
    from avtools.models.parts.tiny.words import Words

    found = Words(32)(["a red ball", "A  Ball, red", "", "x " * 40])
    assert found.shape == (4, 16, 32) and torch.equal(found[0, 1], found[1, 2]) and not torch.equal(found[0, 1], found[0, 2])
    assert not found[2].any() and not found[0, 3:].any() and found[3].all()


def test_bands_are_heard_when_they_sound():
    tokens = encoders.BandTokens()
    mask, (heard, real) = tokens.mask(12), heard_tokens(tokens.mask(12))
    assert mask.shape == (12, 200) and (mask.sum(1) == 20).all() and mask.any(0).all() and real is None
    for frame in range(12):
        click = torch.zeros(1, 32000)
        at = round((frame / 6 + 0.06) * 16000)
        click[0, at : at + 400] = torch.sin(torch.arange(400) * 0.4)
        found, silence = tokens(click)[0], tokens(torch.zeros(1, 32000))[0]
        assert found.shape == (200, 48)
        assert int((found - silence).abs().sum(1)[heard].sum(1).argmax()) == frame
    assert tokens.null().shape == (1, 200, 48) and not torch.equal(tokens.null()[0], silence)


# --- learning ----------------------------------------------------------------------------------------------------------------------------


def synthesise(folder, count, seed):
    words = ["synth", "-n", count, "--seed", seed, "--seconds", 2, "--fps", 12, "--size", "64x48", "--absolute", "--no-fsync", "-q", "-j", 1, "-d", folder, "-o", folder / "t.csv"]
    subprocess.run([sys.executable, "-m", "avtools", *map(str, words)], check=True, stdin=subprocess.DEVNULL)
    csv.field_size_limit(10**8)
    with open(folder / "t.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.learn  # longer than a tiny training may take in each run of the tests
def test_it_learns_what_is_heard(tmp_path):
    """After 300 steps of 6 small clips, held-out pictures are told better with the clip's own sound than with another's.

    The noise is weak enough to leave the error to what moves.  Measured once
    (seed 0, 8 clips a step): 0.5, 0.8 and 0.7 % more error with another's sound, in 14, 15 and 14 clips of 16.
    """
    rows = synthesise(tmp_path, 72, 4)
    steps = 300
    system = built("height=12", "width=16", "unet.block_out_channels=[48,64]", "unet.norm_num_groups=8", "sound_dropout=0", "noise_schedule.beta_end=0.002", wake=False)
    unet, (function, given) = system.unet, system.item_work()
    batch = {**system.collate([function(row, 0, given) for row in rows]), "draws": torch.zeros(len(rows), dtype=torch.int64), "keys": [""] * len(rows)}
    whole = system.prepare(batch, True)
    trained, held = part(whole, list(range(56))), part(whole, list(range(56, 72)))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3, betas=(0.9, 0.99))
    rng = np.random.default_rng(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * min(1, (steps - step) / 150)
        which = rng.permutation(56)[:6].tolist()
        some = {**part(trained, which), "draws": torch.tensor([draw_of(step, n) for n in which])}
        system.training_step(unet, some, step, "main")["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    unet.eval()

    def loss(shift):
        """Of each held-out clip, over four noises."""
        found = []
        for again in range(4):
            given = {**held, "audio": held["audio"].roll(shift, 0), "draws": torch.tensor([draw_of("held", again, n) for n in range(16)])}
            with torch.no_grad():
                found.append(system.evaluate(unet, given)["loss"])
        return torch.stack(found).mean(0)

    own = loss(0)
    worse = torch.stack([loss(shift) for shift in (1, 3, 5)]).mean(0) - own
    assert int((worse > 0).sum()) >= 12, worse  # of 16: by chance 4 times in 100
    assert worse.mean() > 0.002 * own.mean(), (worse.mean(), own.mean())
