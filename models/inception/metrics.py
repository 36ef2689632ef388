"""FID: how far pictures are from real ones, in the features of Inception v3."""

from avtools import hub
from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.frechet import SIDES, columns_of
from avtools.models.i3d.pictures import OfPictures, batches, signed

FILE = "pt_inception-2015-12-05-6726825d.pth"
PART = hub.Part("inception", f"Inception v3 as FID has it ({FILE})", "", (FILE,), 96_000_000, "Apache-2.0")
AT_ONCE = 32  # pictures
LEAST = 75  # pixels: what is left of them has a size


class Fid(OfPictures):
    __doc__ = f"""Fréchet Inception distance: a vector of Inception v3 for each picture, all pictures of all clips together.

    Standard: what is shown at k / `fps` seconds through the whole clip (0: each frame), `size` pixels square.  `skip`: so many
    pictures, from the first, are not judged, and none of their references'.  Protocol asva: 229 pixels, as its published
    scores have it, and all but the first picture, which the generator was given.

    {OfPictures.__doc__}"""

    name = "fid"
    title = "Fréchet distance of judged pictures from their references, features of Inception v3"
    source = "Heusel et al. 2017 (arXiv:1706.08500), weights of TensorFlow's release 2015-12-05; protocol asva: Zhang et al. 2024 (arXiv:2403.05659)"
    unit = "pictures"
    columns = columns_of("fid", "Fréchet distance; 0: alike", unit)
    ranges = dict.fromkeys(columns, (0.0, float("inf")))
    settings = {"pictures": "shown", "fps": 2.0, "size": 299, "resize": "bilinear", "skip": 0, "legacy": ""}
    protocols = {"asva": {"pictures": "asva", "fps": 6.0, "size": 229, "resize": "bicubic", "skip": 1}}
    part = PART
    parts = (PART,)

    def __init__(self, **settings):
        super().__init__(**settings)
        if not LEAST <= self.set["size"] <= 2048:
            raise UsageError(f"--set {self.name}.size={self.set['size']}: {LEAST} to 2048")

    def prepare(self, pair):
        made = {side: clip[self.set["skip"] :] for side, clip in self.clips(pair, self.set["size"]).items()}
        if not len(made["judged"]):
            raise Skip(f"has no picture beside the first {self.set['skip']}, which are not judged")
        return made

    def load(self, device, weights):
        from avtools.models.inception.model import load

        self.net, self.device = load(self.weights_file(weights), device), device

    def run(self, items):
        import torch

        clips = [item[side] for item in items for side in SIDES]
        features = [torch.cat([self.net(signed(some, self.device)) for some in batches(clip, AT_ONCE)]).float().cpu().numpy() for clip in clips]
        return [dict(zip(SIDES, pair, strict=True)) for pair in zip(features[::2], features[1::2], strict=True)]
