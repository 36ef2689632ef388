"""PaSST-S, a transformer that tells AudioSet's 527 classes (Koutini et al. 2022, arXiv:2110.05069).

Names are those of the released passt-s-f128-p16-s10-ap.476-swa.pt: patches of 16 x 16 each 10 frames and bands, two tokens of the
whole (class, distillation), time and frequency embedded apart.  Nothing is left out of its input: that is for training.
Its front end: pre-emphasis by 0.97; the power spectrum of 25 ms (symmetric Hann, centred) each 10 ms in 1024 points; 128 triangles
even on the mel scale 1127 ln(1 + f / 700) from 0 to 15000 Hz; (ln(x + 1e-5) + 4.5) / 5.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.models.judges.vggish import triangles

RATE = 32000  # Hz
SAMPLES = 10 * RATE  # of a window, the most that its time embedding holds
FFT, WINDOW, HOP = 1024, 800, 320
BANDS, LOW, HIGH, EMPHASIS = 128, 0.0, 15000.0, 0.97
PATCH, STRIDE = 16, 10
ROWS = (BANDS - PATCH) // STRIDE + 1
LEAST = (PATCH - 1) * HOP + 1  # samples that give a column of patches (0.15 s)


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the transformer."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    columns: int = 99  # of patches, that 10 s give
    classes: int = 527


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Passt(nn.Module):
    """(B, samples) at 32 kHz, full scale 1, of 10 s at most -> embeddings (B, 768), the mean of both tokens, and logits (B, 527).

    Shorter sound has fewer patches, at the begin of the time embedding; below 0.15 s silence follows it up to there.
    """

    def __init__(self, size: Size = Size()):
        super().__init__()
        width = size.width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, STRIDE)})
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, ROWS, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, size.columns))
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size.classes))
        self.head_dist = nn.Linear(width, size.classes)  # in the released file; not used
        self.register_buffer("matrix", triangles(RATE, FFT, BANDS, LOW, HIGH), persistent=False)
        self.register_buffer("hann", torch.hann_window(WINDOW, periodic=False), persistent=False)

    def mel(self, sound):
        """(B, samples) -> (B, 128, T), T = 1 + (samples - 1) // 320."""
        sound = functional.pad(sound.float(), (0, max(0, LEAST - sound.shape[1])))
        sound = sound[:, 1:] - EMPHASIS * sound[:, :-1]
        spectrum = torch.stft(sound, FFT, HOP, WINDOW, self.hann, center=True, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return ((self.matrix.T @ power + 1e-5).log() + 4.5) / 5

    def forward(self, sound):
        x = self.patch_embed["proj"](self.mel(sound)[:, None])
        x = x + self.time_new_pos_embed[..., : x.shape[-1]] + self.freq_new_pos_embed
        whole = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        x = torch.cat([whole.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, :2].mean(1)
        return x, self.head(x)


def windows(sound: torch.Tensor) -> torch.Tensor:
    """(samples,) at 32 kHz -> (K, samples of each): the fewest windows of 10 s that hear all of it, evenly spaced from its begin
    to its end, so that all are full; what is not longer than 10 s is one window as long as itself."""
    last = len(sound) - SAMPLES
    if last <= 0:
        return sound[None]
    count = -(-len(sound) // SAMPLES)
    return torch.stack([sound[begin : begin + SAMPLES] for begin in (round(last * k / (count - 1)) for k in range(count))])


def load(path, device="cpu", size: Size = Size()) -> Passt:
    """The network with the weights of passt-s-f128-p16-s10-ap.476-swa.pt, or the same in safetensors; strict."""
    net = Passt(size)
    tensors = {name.removeprefix("net."): tensor for name, tensor in hub.tensors(path, "").items()}
    hub.load_strict(net, tensors, path, ignore=(r"^mel\.",))  # a front end's buffers, where both were saved together
    return net.eval().requires_grad_(False).to(device)
