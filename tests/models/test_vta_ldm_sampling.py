"""Sampling of VTA-LDM: schedulers, guidance, windows over long clips, and randomness that is the item's own."""

import copy
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from avtools.errors import RowError, UsageError  # noqa: E402
from avtools.models.parts import audioldm, mel, spans  # noqa: E402
from avtools.models.vta_ldm import diffusion, sampling  # noqa: E402
from avtools.models.vta_ldm.config import NOISE_SCHEDULE, Config  # noqa: E402
from avtools.models.vta_ldm.model import Condition, Denoiser  # noqa: E402

STEP, WINDOW, BINS, CHANNELS = 0.04, 16, 2, 3
ALPHAS = diffusion.alphas_cumprod(NOISE_SCHEDULE)


class Knowing:
    """A denoiser that knows what the latents are: at each time the value of the picture that is shown then."""

    frame_rate = 5.0  # a picture is shown for five latents
    inner_channels = CHANNELS
    config = types.SimpleNamespace(adapters=False)

    def __init__(self, null: float = 0.0):
        self.projection, self.null, self.passes = types.SimpleNamespace(weight=torch.zeros(1)), null, []

    def condition(self, features, texts):
        tokens = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        times = torch.arange(tokens.shape[1]).expand(len(tokens), -1) / self.frame_rate
        ones = torch.ones(len(tokens), dtype=torch.bool)
        return Condition(tokens, tokens[..., 0] == tokens[..., 0], tokens, times, ones)

    def predict(self, latents, timesteps, condition, step, start):
        self.passes.append(len(latents))
        at = (torch.arange(latents.shape[2]) + 0.5) * step + start[:, None]
        which = (at * self.frame_rate).long().clamp(max=condition.along.shape[1] - 1)
        clean = condition.along[..., 0].gather(1, which)
        clean = torch.where(condition.present[:, None], clean, torch.full_like(clean, self.null))[:, None, :, None].expand_as(latents)
        alphas = ALPHAS[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt() * (latents - alphas.sqrt() * clean) / (1 - alphas).sqrt() - (1 - alphas).sqrt() * clean


def sample(denoiser, features, lengths, seeds, **options):
    given = {"scheduler": "dpmsolver++", "steps": 20, "guidance": 1.0, "schedule": NOISE_SCHEDULE, "window": WINDOW, "overlap": 4, "step": STEP}
    noise = sampling.seeded(seeds, lambda item: (CHANNELS, lengths[item], BINS))
    return sampling.sample_latents(
        denoiser, features, [None] * len(features), lengths, noise, frame_rate=Knowing.frame_rate, **{**given, **options}
    )


@pytest.mark.parametrize("steps", [20, 7])
@pytest.mark.parametrize("scheduler", sampling.SCHEDULERS)
def test_every_scheduler_arrives_where_the_network_points(scheduler, steps):
    pictures = torch.tensor([[0.5], [-1.0], [0.25], [1.0]])
    (made,) = sample(Knowing(), [pictures], [WINDOW], [1], scheduler=scheduler, steps=steps)
    wanted = pictures[((torch.arange(WINDOW) + 0.5) * STEP * Knowing.frame_rate).long(), 0]
    assert torch.allclose(made, wanted[None, :, None].expand_as(made), atol=2e-3)


def test_deterministic_steps_keep_the_noise_that_the_network_says():
    """From a noisy value whose noise is known, any number of steps lands on the clean one with that noise scaled down."""
    clean, noise = torch.randn(4), torch.randn(4)
    now, then = torch.tensor(0.2), torch.tensor(0.7)
    one = [x[None] for x in (now, then)]
    noisy = diffusion.add_noise(clean[None], noise[None], one[0])
    found = sampling.ddim_step(now, then, diffusion.v_target(clean[None], noise[None], one[0]), noisy)
    assert torch.allclose(found, diffusion.add_noise(clean[None], noise[None], one[1]), atol=1e-6)


def test_long_clips_follow_their_pictures_over_all_windows():
    length = 75  # fifteen pictures; windows begin within pictures
    pictures = torch.randn(15, 1, generator=torch.Generator().manual_seed(0))
    (made,) = sample(Knowing(), [pictures], [length], [1], overlap=5)
    wanted = pictures.repeat_interleave(5, 0)[:, 0]
    assert torch.allclose(made, wanted[None, :, None].expand_as(made), atol=2e-3)


def test_guidance_is_one_pass_and_only_above_one():
    denoiser = Knowing(null=0.2)
    (made,) = sample(denoiser, [torch.full((4, 1), 0.6)], [WINDOW], [1], guidance=3.0)
    assert set(denoiser.passes) == {2} and torch.allclose(made, torch.full_like(made, 0.2 + 3 * 0.4), atol=5e-3)
    denoiser = Knowing(null=0.2)
    (made,) = sample(denoiser, [torch.full((4, 1), 0.6)], [WINDOW], [1], guidance=1.0)
    assert set(denoiser.passes) == {1} and torch.allclose(made, torch.full_like(made, 0.6), atol=2e-3)


def test_no_pass_holds_more_windows_than_there_are_items():
    denoiser = Knowing()
    sample(denoiser, [torch.zeros(20, 1), torch.zeros(3, 1)], [100, WINDOW], [1, 2], steps=1)
    assert max(denoiser.passes) <= 2 and sum(denoiser.passes) == 1 + len(spans.starts(100, WINDOW, 4))


@pytest.fixture(scope="module")
def network():
    unet = {
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": [32, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 16,
    }
    torch.manual_seed(0)
    return Denoiser(Config(unet=unet, token_dim=16, feature_dim=12, aligned_channels=4, frame_rate=5.0, window=0.64), 8).eval()


class Codec:
    """Sound that is the mean of the latents at its time."""

    sample_rate, step, bins, latent_channels = 1000, 40, 4, 8

    def samples(self, seconds):
        return round(seconds * self.sample_rate / self.step) * self.step

    def decode(self, latents):
        return latents.mean((1, 3)).repeat_interleave(self.step, 1)


def generate(network, seconds, seeds, scheduler="ddpm", **options):
    generator = torch.Generator().manual_seed(3)
    known = {length: torch.randn(max(1, round(length * 5)), 12, generator=generator) for length in (0.3, 0.64, 2.0)}
    options = {"steps": 3, "guidance": 2.0, "scheduler": scheduler, "overlap": 0.25, **options}
    features = [known[length] for length in seconds]
    return sampling.generate(network, Codec(), features, [None] * len(seconds), seconds, seeds, network.config, options, "cpu", torch.float32)


@pytest.mark.parametrize("scheduler", ["ddpm", "dpmsolver++"])
def test_a_result_depends_on_its_item_and_seed_alone(network, scheduler):
    seconds = [0.3, 2.0, 0.64]
    together = generate(network, seconds, [7, 8, 9], scheduler)
    assert [len(sound) for sound in together] == [300, 2000, 640]
    for k, (length, seed) in enumerate(zip(seconds, [7, 8, 9], strict=True)):
        assert np.allclose(generate(network, [length], [seed], scheduler)[0], together[k], atol=1e-5)
    again = generate(network, [0.64, 0.64], [9, 10], scheduler)
    assert np.allclose(again[0], together[2], atol=1e-5) and not np.allclose(again[0], again[1], atol=1e-3)


def test_half_precision_is_the_network_s_alone(network):
    whole = generate(network, [2.0], [7], "dpmsolver++")[0]
    half = generate(copy.deepcopy(network).bfloat16(), [2.0], [7], "dpmsolver++")[0]
    assert np.abs(half - whole).max() < 0.1 * np.abs(whole).max()


def test_sound_that_is_no_number_is_refused(network):
    with pytest.raises(RowError, match="no number"):
        sampling.generate(
            network, Codec(), [torch.full((3, 12), torch.nan)], [None], [0.64], [1], network.config, {"steps": 1, "guidance": 1.0, "scheduler": "ddim", "overlap": 0}, "cpu", torch.float32
        )


def test_options_that_make_no_sense_are_refused():
    good = {"scheduler": "ddim", "steps": 25, "guidance": 3.0, "overlap": 0.25}
    sampling.check(good)
    for wrong, match in (({"scheduler": "legasy"}, "did you mean 'legacy'"), ({"steps": 0}, "steps 0"), ({"steps": 1001}, "1001"), ({"guidance": float("nan")}, "guidance"), ({"overlap": 1.0}, "overlap")):
        with pytest.raises(UsageError, match=match):
            sampling.check({**good, **wrong})


@pytest.mark.parametrize(("length", "window", "overlap"), [(5, 10, 3), (10, 10, 3), (11, 10, 3), (100, 10, 3), (97, 16, 0), (31, 16, 15)])
def test_windows_cover_all_and_share_it(length, window, overlap):
    begins = spans.starts(length, window, overlap)
    assert begins[0] == 0 and (length <= window or begins[-1] == length - window)
    assert all(right - left <= window - overlap for left, right in zip(begins, begins[1:], strict=False))
    total = torch.zeros(max(length, window))
    for begin, share in zip(begins, spans.weights(begins, window, length), strict=True):
        assert (share >= 0).all()
        total[begin : begin + window] += share
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


# --- the sound's codec -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_ch": 1, "z_channels": 8, "ch": 32, "ch_mult": [1, 2, 4], "num_res_blocks": 1}
    return audioldm.AudioLdmCodec(sizes, {**audioldm.VOCODER, "upsample_initial_channel": 32}).eval()


def test_codec_keeps_to_its_figures(codec):
    assert codec.samples(10.24) == 163840 and codec.step == 640 and codec.bins == 16
    waveform = torch.randn(2, 640 * 12) * 0.1
    waveform[1] = 0  # silence
    with torch.no_grad():
        mean, std = codec.encode(waveform)
        sound = codec.decode(mean)
    assert mean.shape == std.shape == (2, 8, 12, 16) and mean.isfinite().all() and (std > 0).all()
    assert sound.shape == (2, 640 * 12 + 32) and sound.abs().max() <= 1


def test_prepared_sound_has_its_peak_and_silence_stays_silent():
    tone = torch.sin(torch.arange(44100) / 20)[None].repeat(2, 1) * 0.1 + 0.3
    for mix in (True, False):
        made = mel.prepare_waveform(tone, 44100, 16000, 20000, mix)
        assert made.shape == (1, 20000) and abs(made.abs().max() - 0.5) < 1e-6 and not made[0, 16100:].any()
        assert abs(made[0, :16000].mean()) < 1e-3
        assert not mel.prepare_waveform(torch.zeros(1, 100), 16000, 16000, 50, mix).any()
    assert mel.LogMel()(torch.full((1, 2000), torch.nan)).isfinite().all()


def test_long_sound_is_vocoded_in_parts_without_a_seam(codec, monkeypatch):
    log_mel = torch.randn(1, 1, 300, 64)
    with torch.no_grad():
        whole = codec.vocode(log_mel)
        monkeypatch.setattr(audioldm, "CHUNK", 80)
        assert torch.allclose(codec.vocode(log_mel), whole, atol=1e-6)


def test_long_latents_are_decoded_in_windows_that_join(codec, monkeypatch):
    monkeypatch.setattr(audioldm, "SEGMENT", 8)
    monkeypatch.setattr(audioldm, "SHARED", 3)
    latents = torch.randn(2, 8, 21, 16)

    def grow(latents):  # in place of the network, whose attention sees all of a window
        return types.SimpleNamespace(sample=latents.mean(1, keepdim=True).repeat_interleave(4, 2).repeat_interleave(4, 3))

    monkeypatch.setattr(codec.vae, "decode", grow)
    assert torch.allclose(codec.decode_mel(latents), grow(latents / codec.scale).sample, atol=1e-6)


def test_right_weights_for_v():
    """min(SNR, g) / (SNR + 1): what weighting the error of the clean latents by min(SNR, g) gives for v."""
    alphas = torch.tensor([0.01, 0.5, 0.99])
    ratio = diffusion.snr(alphas)
    clean, noise = torch.randn(3, 4), torch.randn(3, 4)
    noisy, v = diffusion.add_noise(clean, noise, alphas), diffusion.v_target(clean, noise, alphas)
    wrong = v + torch.randn(3, 4)
    guess = alphas.sqrt()[:, None] * noisy - (1 - alphas).sqrt()[:, None] * wrong
    error = (guess - clean).square().mean(1) * ratio.clamp(max=5)
    assert torch.allclose((wrong - v).square().mean(1) * diffusion.snr_weight(ratio, 5.0), error, rtol=1e-3)
    assert torch.equal(diffusion.snr_weight(ratio, 5.0, legacy=True), ratio.clamp(max=5) / ratio)
