"""VGGish, the network of the Fréchet audio distance (Hershey et al. 2017, arXiv:1609.09430; Kilgour et al. 2019, arXiv:1812.08466).

Names are those of the released vggish-10086976.pth.  Its front end: frames of 25 ms every 10 ms, whole ones only; magnitudes of a
periodic Hann window in 512 points; 64 triangles even on the mel scale 1127 ln(1 + f / 700) from 125 to 7500 Hz; ln(x + 0.01).
"""

import math

import torch
from torch import nn
from torch.nn import functional

from avtools import hub

RATE = 16000  # Hz
WINDOW, HOP, FFT = 400, 160, 512
BANDS, LOW, HIGH, OFFSET = 64, 125.0, 7500.0, 0.01
FRAMES = 96  # of an example
STRIDE, SAMPLES = FRAMES * HOP, (FRAMES - 1) * HOP + WINDOW  # from one example to the next (0.96 s); what an example hears (0.975 s)
WIDTHS, HIDDEN, EMBEDDING = (64, 128, 256, 256, 512, 512), 4096, 128
POOLED = (0, 1, 3, 5)  # convolutions behind which the maximum of 2 x 2 is taken
AT_ONCE = 64  # examples


def triangles(rate: int, n_fft: int, bands: int, low: float, high: float) -> torch.Tensor:
    """(n_fft / 2 + 1, bands) of peak 1, even and straight on the mel scale 1127 ln(1 + f / 700) between `low` and `high` Hz.

    In single precision, as published.
    """
    begin, end = (1127 * math.log(1 + hertz / 700) for hertz in (low, high))
    step, band = (end - begin) / (bands + 1), torch.arange(bands)
    left, peak, right = (begin + (band + k) * step for k in range(3))
    at = 1127 * (1 + rate / n_fft * torch.arange(n_fft // 2 + 1) / 700).log()[:, None]
    return torch.minimum((at - left) / (peak - left), (right - at) / (right - peak)).clamp(min=0)


def examples(sound: torch.Tensor) -> torch.Tensor:
    """(samples,) at 16 kHz -> (N, 15600): one each 0.96 s, whole ones only; what is shorter than one is followed by silence."""
    return functional.pad(sound, (0, max(0, SAMPLES - len(sound)))).unfold(0, SAMPLES, STRIDE)


class Vggish(nn.Module):
    """(N, 15600) at 16 kHz, full scale 1 -> embeddings (N, 128).

    `activation`: with the rectifier behind the last layer.  The common packages of the Fréchet audio distance
    (frechet_audio_distance, fadtk) leave it out.
    The PCA and the 8 bits of AudioSet's published features are not applied.
    """

    def __init__(self, activation: bool = False, widths: tuple[int, ...] = WIDTHS, hidden: int = HIDDEN, embedding: int = EMBEDDING):
        super().__init__()
        self.activation = activation
        layers: list[nn.Module] = []
        for k, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            if k in POOLED:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = widths[-1] * (FRAMES // 16) * (BANDS // 16)
        relu = nn.ReLU(inplace=True)
        self.embeddings = nn.Sequential(nn.Linear(flat, hidden), relu, nn.Linear(hidden, hidden), relu, nn.Linear(hidden, embedding))
        self.register_buffer("matrix", triangles(RATE, FFT, BANDS, LOW, HIGH), persistent=False)
        self.register_buffer("hann", torch.hann_window(WINDOW), persistent=False)

    def mel(self, sound):
        """(N, 15600) -> (N, 96, 64)."""
        spectrum = torch.fft.rfft(sound.float().unfold(-1, WINDOW, HOP) * self.hann, FFT)
        return (spectrum.abs() @ self.matrix + OFFSET).log()

    def forward(self, sound):
        return torch.cat([self._embed(part) for part in sound.split(AT_ONCE)])

    def _embed(self, sound):
        x = self.features(self.mel(sound)[:, None])
        x = self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # channels last: the weights are TensorFlow's
        return x.relu() if self.activation else x


def load(path, activation: bool = False, device="cpu", **sizes) -> Vggish:
    """The network with the weights of vggish-10086976.pth, or the same in safetensors; strict.  Of the PCA nothing is used."""
    net = Vggish(activation, **sizes)
    hub.load_strict(net, hub.tensors(path, ""), path, ignore=(r"^(pproc\.)?pca_(eigen_vectors|means)$",))
    return net.eval().requires_grad_(False).to(device)
