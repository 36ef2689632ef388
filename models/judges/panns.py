"""Cnn14 of PANNs, a classifier of sound over AudioSet's 527 classes (Kong et al. 2020, arXiv:1912.10211).

Names are those of the released Cnn14_mAP=0.431.pth (32 kHz) and Cnn14_16k_mAP=0.438.pth (16 kHz), which differ in their front
ends alone: a power spectrogram (periodic Hann, centred, reflected at the ends), 64 of Slaney's triangles, decibels not below -100.
"""

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError
from avtools.models.parts.mel import slaney_matrix

FRONT_ENDS = {32000: (1024, 320, 50.0, 14000.0), 16000: (512, 160, 50.0, 8000.0)}  # rate, Hz -> window, hop (samples); lowest, highest Hz
BANDS, CLASSES = 64, 527
WIDTHS = (64, 128, 256, 512, 1024, 2048)  # of the blocks; the last is the embedding's
FLOOR = 1e-10  # of a band's power
STEP = 4096  # frames that a block sees at once: memory does not grow with a block's widest layers; even, for blocks halve


class Block(nn.Module):
    """Two convolutions; (B, C, T, F) -> (B, outputs, T / 2, F / 2), or unhalved with `pool` 1."""

    def __init__(self, inputs: int, outputs: int, pool: int = 2):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x):
        frames = x.shape[2]
        return torch.cat([self._piece(x, begin, min(begin + STEP, frames)) for begin in range(0, frames - frames % self.pool, STEP)], 2)

    def _piece(self, x, begin: int, end: int):
        """Of the frames from `begin` to `end`, with the two on either side that both convolutions see."""
        first = max(0, begin - 2)
        x = x[:, :, first : end + 2]
        x = functional.relu_(self.bn1(self.conv1(x)))
        x = functional.relu_(self.bn2(self.conv2(x)))[:, :, begin - first : end - first]
        return functional.avg_pool2d(x, self.pool) if self.pool > 1 else x


class LogMel(nn.Module):
    """(B, samples) -> (B, 1, T, 64) dB, T = 1 + samples // hop; `melW` is taken from the released file where it holds one."""

    def __init__(self, rate: int):
        super().__init__()
        self.window, self.hop, low, high = FRONT_ENDS[rate]
        self.register_buffer("melW", torch.as_tensor(slaney_matrix(rate, self.window, BANDS, low, high)).T.contiguous())
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def forward(self, sound):
        spectrum = torch.stft(sound.float(), self.window, self.hop, self.window, self.hann, center=True, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ self.melW
        return 10 * power.clamp(min=FLOOR).log10()[:, None]


class Cnn14(nn.Module):
    """(B, samples) at `rate` Hz, full scale 1 -> embeddings (B, 2048), which are not negative, and logits (B, 527).

    Of any length; what is shorter than `least` samples (0.31 s) is followed by silence up to there.
    """

    def __init__(self, rate: int = 32000, widths: tuple[int, ...] = WIDTHS, classes: int = CLASSES):
        super().__init__()
        self.rate = rate
        self.logmel_extractor = LogMel(rate)
        self.bn0 = nn.BatchNorm2d(BANDS)
        self.count = len(widths)
        for k, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), 1):
            setattr(self, f"conv_block{k}", Block(inputs, outputs, 1 if k == self.count else 2))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], classes)
        self.least = (2 ** (self.count - 1) - 1) * self.logmel_extractor.hop  # one frame is left after the last halving

    def forward(self, sound):
        x = self.logmel_extractor(functional.pad(sound, (0, max(0, self.least - sound.shape[1]))))
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for k in range(self.count):
            x = getattr(self, f"conv_block{k + 1}")(x)
        x = x.mean(3)
        x = functional.relu(self.fc1(x.amax(2) + x.mean(2)))
        return x, self.fc_audioset(x)


def load(path, rate: int = 32000, device="cpu", widths: tuple[int, ...] = WIDTHS) -> Cnn14:
    """The network with the weights of the released file for `rate`, or the same in safetensors; strict."""
    net = Cnn14(rate, widths)
    tensors = {name.removeprefix("model."): tensor for name, tensor in hub.tensors(path, "").items()}
    matrix = tensors.get("logmel_extractor.melW")
    if matrix is not None and matrix.shape != net.logmel_extractor.melW.shape:
        of = next((other for other, front in FRONT_ENDS.items() if matrix.shape[0] == front[0] // 2 + 1), None)
        raise FatalError(f"{path}: Cnn14 for {f'{of} Hz' if of else 'another front end'}, not for {rate} Hz; give that one, or set panns' rate")
    # The spectrogram's matrices are a Fourier transform's; counts of training are in some copies.
    ignore = (r"^spectrogram_extractor\.", r"^logmel_extractor\.melW$", r"\.num_batches_tracked$", r"^(iteration|sampler|optimizer)\b")
    hub.load_strict(net, tensors, path, ignore)
    return net.eval().requires_grad_(False).to(device)
