"""JavisDiT's mel front end against the numbers of the original, which fills up with 0."""

import torch

from avtools.models.javisdit import sound_codec
from avtools.models.parts.mel import LogMel


@torch.no_grad()
def front_end(case, _):
    config, mel = case.config, LogMel()
    told = (mel.rate, mel.n_fft, sound_codec.HOP, mel.length, mel.bands)
    assert told == tuple(config[name] for name in ("sampling_rate", "n_fft", "hop", "win", "mels")) and mel.hop == sound_codec.HOP
    waveform = case.inputs["waveform"]
    level = sound_codec.levelled(waveform[None])
    case.check("normalised_head", level[0, : len(case.outputs["normalised_head"])])
    spectrum = torch.stft(level, mel.n_fft, mel.hop, mel.length, mel.hann, center=True, pad_mode="reflect", return_complex=True).abs()[0]
    case.check("magnitude_frame_50", spectrum[:, 50])
    case.check("frame_energy", spectrum.norm(dim=0))
    for number, seconds in enumerate(config["durations_s"]):
        made = sound_codec.log_mel(mel, waveform[None], seconds, "legacy")
        case.check(f"log_mel.{number}", made)
        real = min(made.shape[1], spectrum.shape[1])  # elsewhere ours is silence
        ours = sound_codec.log_mel(mel, waveform[None], seconds)
        assert torch.equal(ours[:, :real], made[:, :real]) and (ours[:, real:] < -11.5).all() and not made[:, real:].any()


KINDS = {"mel_front_end": front_end}
