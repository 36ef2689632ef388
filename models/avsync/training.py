"""What trains and the loss of a batch (spec section 2): all parameters, by contrast of the clips of each video."""

import torch

from avtools.models.avsync import evaluation
from avtools.models.avsync.data import mels_of, pictures_of
from avtools.training import draws

ITEM = ("pictures", "index", "sound", "begins")


def prepared(batch: dict, config, device, train: bool) -> dict:
    """A batch of items -> `mel` (V, K, 1, F, T) and `frames` (V, K, 3, T, H, W).  Every draw comes from the items' own.

    In training clips are mirrored, and `config.drawn` of each video's are taken.
    """
    pictures, sounds = [], []
    for k, draw in enumerate(batch["draws"].tolist()):
        seen, index, heard, begins = (batch[name][k].to(device) for name in ITEM)
        flips = None
        if train:
            if config.drawn is not None and config.drawn < len(index):
                which = torch.randperm(len(index), generator=draws.generator(draw, "clips"))[: config.drawn].to(device)
                index, begins = index[which], begins[which]
            flips = (torch.rand(len(index), generator=draws.generator(draw, "flip")) < config.flip).to(device)
        pictures.append(pictures_of(seen, index, flips))
        sounds.append(mels_of(heard, begins, config.mel_frames))
    return {"mel": torch.stack(sounds), "frames": torch.stack(pictures), "draws": batch["draws"], "keys": batch["keys"]}


def losses(module, batch: dict, temperature: float) -> dict[str, torch.Tensor]:
    """Per-video (V,) losses and accuracies of a prepared batch."""
    return evaluation.contrast(module(batch["mel"], batch["frames"]), temperature)
