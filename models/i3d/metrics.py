"""FVD: how far the clips are from real ones, in the features of I3D."""

import warnings

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.metrics.frechet import SIDES, columns_of
from avtools.models.i3d.pictures import OfPictures, batches, signed

PART = hub.Part("i3d", "I3D of Kinetics-400 as TorchScript (i3d_torchscript.pt)", "", ("i3d_torchscript.pt",), 51_000_000, "Apache-2.0")
SIZE = 224  # of its pictures
AT_ONCE = 8  # clips
ARGUMENTS = ("rescale", "resize", "return_features")  # of the file's forward, behind the clips


class Fvd(OfPictures):
    __doc__ = f"""Fréchet video distance: one vector of I3D for each clip, of its first `frames` frames.

    `fps` 0: frames as they follow each other; else what is shown at k / `fps` s.  Clips with fewer are bad rows.

    {OfPictures.__doc__}

    Protocol javisbench has another network and other pictures: avtools.models.judges.distances.FvdOfLogits.
    """

    name = "fvd"
    title = "Fréchet distance of judged clips from their references, features of I3D"
    source = (
        "Unterthiner et al. 2018 (arXiv:1812.01717), as Skorokhodov et al. 2021 (arXiv:2112.14683) have it; "
        "protocol asva: Zhang et al. 2024 (arXiv:2403.05659)"
    )
    unit = "clips"
    columns = columns_of("fvd", "Fréchet distance; 0: alike", unit)
    ranges = dict.fromkeys(columns, (0.0, float("inf")))
    settings = {"pictures": "shown", "frames": 16, "fps": 0.0, "resize": "bilinear", "legacy": ""}
    protocols = {"asva": {"pictures": "asva", "frames": 12, "fps": 6.0, "resize": "bicubic"}, "javisbench": {}}
    part = PART
    parts = (PART,)

    @classmethod
    def under(cls, protocol):
        if protocol != "javisbench":
            return cls
        from avtools.models.judges.distances import FvdOfLogits

        return FvdOfLogits

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["frames"] < 1:
            raise UsageError(f"--set {self.name}.frames={self.set['frames']}: 1 or more; the released I3D needs 9")
        if self.asva and self.set["frames"] != 12:
            raise UsageError(f"--set {self.name}.frames={self.set['frames']}: the protocol asva has 12")

    def prepare(self, pair):
        return self.clips(pair, SIZE, self.set["frames"])

    def load(self, device, weights):
        self.net = Network(self.weights_file(weights), device)

    def run(self, items):
        import torch

        clips = [item[side] for item in items for side in SIDES]  # of one shape all
        found = torch.cat([self.net(signed_clips(some, self.net.device)) for some in batches(clips, AT_ONCE)]).cpu().numpy()
        return [{side: found[k * len(SIDES) + s][None] for s, side in enumerate(SIDES)} for k in range(len(items))]


def signed_clips(clips: list, device):
    """Arrays (T, 3, H, W) -> (B, 3, T, H, W) of -1..1."""
    import numpy as np

    return signed(np.stack(clips), device).transpose(1, 2)


class Network:
    """The TorchScript file on a device; the one kind of weights that is run as it comes, not loaded into a network of ours.

    Of TorchScript only its own operations run, no Python.  FatalError where it is no such file, or not called as I3D is.
    """

    def __init__(self, path, device):
        import torch

        self.path, self.device = path, device
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that TorchScript is old
                self.script = torch.jit.load(str(path), map_location="cpu").eval().to(device)
            arguments = [argument.name for argument in self.script.forward.schema.arguments]
        except (RuntimeError, ValueError, AttributeError) as error:
            why = " ".join(str(error).split())[:100]
            raise FatalError(f"{path}: no TorchScript network ({why}); give i3d_torchscript.pt as it was released") from None
        if missing := [name for name in ARGUMENTS if name not in arguments]:
            raise FatalError(f"{path}: a TorchScript network without {', '.join(missing)} (it takes {', '.join(arguments[1:])}); give i3d_torchscript.pt")

    def __call__(self, clips):
        """(B, 3, T, 224, 224) of -1..1 -> (B, D) features."""
        features = self.script(clips, **dict(zip(ARGUMENTS, (False, False, True), strict=True)))
        if features.dim() != 2 or len(features) != len(clips):
            raise FatalError(f"{self.path}: gives {tuple(features.shape)} for {len(clips)} clips, not a vector for each; give i3d_torchscript.pt")
        return features.float()
