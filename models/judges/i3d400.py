"""Inflated Inception v1 (Carreira and Zisserman 2017, arXiv:1705.07750) with its classifier of Kinetics' 400 actions.

Names are those of the widely used PyTorch layout of the released TensorFlow weights: `i3d_pretrained_400.pt`, and `rgb_imagenet.pt` alike.
Windows are placed as TensorFlow's "SAME" does, which puts more zeros behind than before where their number is odd.
"""

import torch
from torch import nn
from torch.nn import functional

from avtools import hub

CLASSES = 400
LEAST, SIZE = 9, 224  # pictures of a clip and their side, below which the last mean's window (2, 7, 7) does not fit
MIXED = {  # block -> widths: 1x1; 1x1, 3x3; 1x1, 3x3; 1x1 after the maximum
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def same(x, kernel, stride):
    """`x` (B, C, T, H, W) with as many zeros around it as "SAME" windows need."""
    padding = []
    for size, window, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # the last dimension first
        lacking = max(window - (step if size % step == 0 else size % step), 0)
        padding += [lacking // 2, lacking - lacking // 2]
    return functional.pad(x, padding) if any(padding) else x


def maxima(x, kernel, stride):
    """Of what is not negative, for which zeros around it change nothing."""
    return functional.max_pool3d(same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution, then batch norm and ReLU; `last`: the convolution alone, with a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, last: bool = False):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, self.kernel, self.stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=0.001)

    def forward(self, x):
        x = self.conv3d(same(x, self.kernel, self.stride))
        return x if self.bn is None else functional.relu(self.bn(x), inplace=True)


class Mixed(nn.Module):
    """Four paths beside each other, their channels one after another."""

    def __init__(self, inputs: int, one: int, narrow: int, wide: int, narrow2: int, wide2: int, pooled: int):
        super().__init__()
        self.b0 = Unit(inputs, one)
        self.b1a, self.b1b = Unit(inputs, narrow), Unit(narrow, wide, 3)
        self.b2a, self.b2b = Unit(inputs, narrow2), Unit(narrow2, wide2, 3)
        self.b3b = Unit(inputs, pooled)
        self.width = one + wide + wide2 + pooled

    def forward(self, x):
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(maxima(x, (3, 3, 3), (1, 1, 1)))], 1)


class I3d(nn.Module):
    """(B, 3, T, H, W) of -1..1, T 9 or more, H and W 224 -> logits (B, classes), their mean over time."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        width = 192
        for name, widths in MIXED.items():
            block = Mixed(width, *widths)
            setattr(self, f"Mixed_{name}", block)
            width = block.width
        self.logits = Unit(width, classes, last=True)

    def forward(self, x):
        x = maxima(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = maxima(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "4b":
                x = maxima(x, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                x = maxima(x, (2, 2, 2), (2, 2, 2))
            x = getattr(self, f"Mixed_{name}")(x)
        x = self.logits(functional.avg_pool3d(x, (2, 7, 7), 1))
        return x.mean((2, 3, 4))


def load(path, device="cpu", classes: int = CLASSES) -> I3d:
    """The network with the weights of i3d_pretrained_400.pt, or the same in safetensors; strict."""
    net = I3d(classes)
    hub.load_strict(net, hub.tensors(path), path, ignore=(r"\.num_batches_tracked$",))  # counts of training, in some copies
    return net.eval().requires_grad_(False).to(device)
