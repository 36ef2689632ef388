"""Sound <-> the latents of JavisDiT (spec JavisDiT models, section 3, "Codecs"): AudioLDM 2's autoencoder of log-mel and its vocoder.

16 kHz mono, 100 frames of 64 bands a second, a latent for each 4 frames and 4 bands.  The number of frames is a multiple of 32.
"""

import math
import pathlib
from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional

from avtools.errors import FatalError
from avtools.models.parts.audioldm import AudioLdmCodec
from avtools.models.parts.mel import LogMel

HOP, MULTIPLE = 160, 32  # samples of a mel frame; what the number of frames is a multiple of
PEAK = 0.5
SLACK = Fraction(1, 1_000_000)  # of a frame or sample: what a length in decimals may be off
PADDINGS = ("silence", "legacy")  # behind a sound's end: ln(1e-5), or 0, which is as loud as a tone and was published
GIVE = "give a folder as diffusers writes it, like cvssp/audioldm2"


def mel_frames(seconds: float | Fraction) -> int:
    """100 for each second, rounded down, then up to a multiple of 32."""
    return -(-max(1, _whole(seconds, 100)) // MULTIPLE) * MULTIPLE


def samples(seconds: float | Fraction, rate: int = 16000) -> int:
    """Of a sound as long as this, rounded down."""
    return _whole(seconds, rate)


def _whole(seconds, rate: int) -> int:
    return math.floor(Fraction(seconds) * rate + SLACK)


def levelled(waveform: torch.Tensor) -> torch.Tensor:
    """(..., S) -> the same without its mean, with a peak of 1/2; the loudness is lost, as published.  Silence stays so."""
    waveform = waveform - waveform.mean(-1, keepdim=True)
    return (waveform / (waveform.abs().amax(-1, keepdim=True) + 1e-8) * PEAK).clamp(-1, 1)


def log_mel(mel: LogMel, waveform: torch.Tensor, seconds: float | Fraction, padding: str = "silence", level: bool = True) -> torch.Tensor:
    """(B, S) at 16 kHz -> (B, :func:`mel_frames`, 64), cut, or filled up behind the last frame that the sound has.

    `level`: :func:`levelled` first.
    """
    if padding not in PADDINGS:
        raise ValueError(f"no such padding: {padding}")
    waveform = functional.pad(waveform.float(), (0, max(0, mel.n_fft - waveform.shape[-1])))  # the first window reflects so much
    frames, found = mel_frames(seconds), mel(levelled(waveform) if level else waveform)
    found = found[:, :frames]
    return functional.pad(found, (0, 0, 0, frames - found.shape[1]), value=0.0 if padding == "legacy" else math.log(mel.floor))


class SoundCodec(nn.Module):
    """Waveforms (B, S) at `rate` Hz <-> scaled latents (B, 8, :meth:`latents`, 16), float32, on the device of its weights, which are single precision."""

    def __init__(self, codec: AudioLdmCodec, padding: str = "silence", level: bool = True):
        super().__init__()
        if padding not in PADDINGS:
            raise ValueError(f"no such padding: {padding}")
        self.codec, self.mel, self.padding, self.level = codec, LogMel(), padding, level
        self.rate, self.channels, self.bins = codec.sample_rate, codec.latent_channels, codec.bins

    def latents(self, seconds: float | Fraction) -> int:
        return mel_frames(seconds) // self.codec.factor

    @torch.no_grad()
    def encode(self, waveform: torch.Tensor, seconds: float | Fraction, draws: list[torch.Generator] | None = None) -> torch.Tensor:
        """The mean; with `draws`, one generator on the CPU for each sound, samples."""
        weight = self.codec.vae.quant_conv.weight
        spectrum = log_mel(self.mel, waveform.to(weight.device), seconds, self.padding, self.level)
        mean, logvar = (one.float() for one in self.codec.moments(spectrum[:, None].to(weight.dtype)))
        if draws is not None:
            mean = mean + torch.exp(0.5 * logvar) * torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws]).to(mean)
        return mean * self.codec.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, seconds: float | Fraction) -> torch.Tensor:
        """(B, :func:`samples`) within [-1, 1], float32."""
        made = self.codec.decode(latents.to(self.codec.vae.quant_conv.weight.device))[:, : samples(seconds, self.rate)]
        return made.float().clamp(-1, 1)


def load(path, padding: str = "silence", level: bool = True) -> SoundCodec:
    """Out of a folder with `vae` and `vocoder` as diffusers and transformers write them; on the CPU, single precision, frozen."""
    import diffusers
    import transformers

    from avtools.models.audioldm2.generating import Codec, load_part

    folder = pathlib.Path(path)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    codec = Codec(load_part(diffusers.AutoencoderKL, folder / "vae"), load_part(transformers.SpeechT5HifiGan, folder / "vocoder"))
    mel = LogMel()
    told, wanted = (codec.sample_rate, codec.hop, codec.vocoder.config.model_in_dim, codec.factor), (mel.rate, HOP, mel.bands, 4)
    if told != wanted:
        raise FatalError(f"{folder}: a codec of {told[0]} Hz, {told[1]} samples a frame, {told[2]} bands, {told[3]} frames a latent, not {wanted}; {GIVE}")
    return SoundCodec(codec, padding, level).eval().requires_grad_(False)
