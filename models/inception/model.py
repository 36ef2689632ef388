"""Inception v3 (Szegedy et al. 2015, arXiv:1512.00567) as FID has it: TensorFlow's release of 2015-12-05.

Names are those of torchvision's documented layout, which the released weights have.  It differs from torchvision's
network in that means over windows leave padding out, that the last block takes maxima in their place, and in having 1008 classes.
"""

import torch
from torch import nn
from torch.nn import functional

from avtools import hub

FEATURES, CLASSES = 2048, 1008


class Conv(nn.Module):
    """Convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Paths beside each other, of which the last pools; their channels one after another.

    `paths`: lists of steps; a step: (name, width, kernel) or several of these beside each other.  What is `halved` has stride 2
    and no padding in each path's last step.  `pool`: "mean" or "max" of 3 x 3, before a convolution of `pooled` channels.
    """

    def __init__(self, inputs: int, *paths: list, pooled: int = 0, pool: str = "mean", halved: bool = False):
        super().__init__()
        self.pool, self.halved, self.paths, self.width = pool, halved, [], 0
        for path in paths:
            width, names = inputs, []
            for k, step in enumerate(path):
                layers = step if isinstance(step[0], tuple) else (step,)
                for name, outputs, kernel in layers:
                    last = halved and k == len(path) - 1
                    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
                    setattr(self, f"branch{name}", Conv(width, outputs, kernel, *((2, 0) if last else (1, tuple(side // 2 for side in kernel)))))
                names.append([f"branch{name}" for name, _, _ in layers])
                width = sum(outputs for _, outputs, _ in layers)
            self.paths.append(names)
            self.width += width
        if pooled:
            self.branch_pool = Conv(inputs, pooled, 1)
        self.width += pooled or inputs

    def forward(self, x):
        found = []
        for path in self.paths:
            y = x
            for names in path:
                y = torch.cat([getattr(self, name)(y) for name in names], 1) if len(names) > 1 else getattr(self, names[0])(y)
            found.append(y)
        if self.halved:
            found.append(functional.max_pool2d(x, 3, 2))
        else:
            found.append(self.branch_pool(mean_pool(x) if self.pool == "mean" else functional.max_pool2d(x, 3, 1, 1)))
        return torch.cat(found, 1)


def mean_pool(x):
    """The mean of each 3 x 3 neighbourhood, of what lies inside alone."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _five(inputs: int, pooled: int) -> Mixed:
    return Mixed(
        inputs,
        [("1x1", 64, 1)],
        [("5x5_1", 48, 1), ("5x5_2", 64, 5)],
        [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)],
        pooled=pooled,
    )


def _seven(inputs: int, width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    return Mixed(
        inputs,
        [("1x1", 192, 1)],
        [("7x7_1", width, 1), ("7x7_2", width, row), ("7x7_3", 192, column)],
        [("7x7dbl_1", width, 1), ("7x7dbl_2", width, column), ("7x7dbl_3", width, row), ("7x7dbl_4", width, column), ("7x7dbl_5", 192, row)],
        pooled=192,
    )


def _wide(inputs: int, pool: str) -> Mixed:
    def fork(name):
        return (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))

    return Mixed(
        inputs,
        [("1x1", 320, 1)],
        [("3x3_1", 384, 1), fork("3x3_2")],
        [("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3), fork("3x3dbl_3")],
        pooled=192,
        pool=pool,
    )


class Inception(nn.Module):
    """(B, 3, H, W) of -1..1, 75 pixels or more each way (FID: 299) -> (B, 2048), the last block's mean over the picture."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        blocks = {
            "5b": lambda inputs: _five(inputs, 32),
            "5c": lambda inputs: _five(inputs, 64),
            "5d": lambda inputs: _five(inputs, 64),
            "6a": lambda inputs: Mixed(inputs, [("3x3", 384, 3)], [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)], halved=True),
            "6b": lambda inputs: _seven(inputs, 128),
            "6c": lambda inputs: _seven(inputs, 160),
            "6d": lambda inputs: _seven(inputs, 160),
            "6e": lambda inputs: _seven(inputs, 192),
            "7a": lambda inputs: Mixed(
                inputs,
                [("3x3_1", 192, 1), ("3x3_2", 320, 3)],
                [("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, 3)],
                halved=True,
            ),
            "7b": lambda inputs: _wide(inputs, "mean"),
            "7c": lambda inputs: _wide(inputs, "max"),
        }
        self.blocks, width = [f"Mixed_{name}" for name in blocks], 192
        for name, make in zip(self.blocks, blocks.values(), strict=True):
            block = make(width)
            setattr(self, name, block)
            width = block.width
        self.fc = nn.Linear(width, CLASSES)  # in the released file; not used

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return x.mean((2, 3))


def load(path, device="cpu") -> Inception:
    """The network with the weights of pt_inception-2015-12-05-6726825d.pth, or the same in safetensors; strict."""
    net = Inception()
    hub.load_strict(net, hub.tensors(path), path, ignore=(r"\.num_batches_tracked$",))  # counts of training, in some copies
    return net.eval().requires_grad_(False).to(device)
