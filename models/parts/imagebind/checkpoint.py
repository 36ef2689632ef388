"""ImageBind's weights: imagebind_huge.pth, the same in safetensors, and AVSyncD's `audio_encoder` folder; all strict.

Modalities that are not asked for (depth, thermal, imu among them) are passed over.
"""

import pathlib
import re

from avtools import hub
from avtools.errors import FatalError

PART = hub.Part(
    "imagebind",
    "ImageBind (imagebind_huge.pth, or the same in safetensors)",
    "hf:nielsr/imagebind-huge",
    ("model.safetensors",),
    4_800_000_000,
    "CC-BY-NC-SA-4.0 (non-commercial)",
    optional=True,
)
FILES = ("imagebind_huge.pth", "model.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin")  # in a folder
MASK = r"^preprocessor\.mask$"  # the causal mask of the released text tower, which is computed here
NORM = "final_layer_norm."
_NAME = re.compile(r"modality_(preprocessor|trunk|head|postprocessor)s\.(\w+)\.(.+)")


def locate(weights: hub.Weights, *names: str, system: str = "SYSTEM") -> pathlib.Path:
    """The file or folder: of the first of the parts `names` (none: "imagebind") that is given, else what was fetched."""
    given = (weights.get(name) for name in names or (PART.name,))
    return hub.locate(next((source for source in given if source is not None), None), PART, system)


def load(weights, modalities=("vision", "audio", "text"), sizes=None):
    """The towers of these modalities on the CPU, in eval mode and without gradients: :class:`.model.ImageBind`.

    `weights`: a file, a folder that holds one of :data:`FILES`, or hub.Weights (:func:`locate`).  `sizes`: modality ->
    :class:`.model.Size`, imagebind_huge's by default.  FatalError lists what does not fit.
    """
    import torch

    from avtools.models.parts.imagebind.model import ImageBind

    file, tensors = _tensors(weights)
    with torch.device("meta"):  # takes over the file's tensors
        towers = ImageBind(sizes, modalities)
    for modality in modalities:
        hub.load_strict(getattr(towers, modality), _of(tensors, modality, file), f"{file} ({modality})", ignore=(MASK, "^" + re.escape(NORM)))
    return towers.eval().requires_grad_(False)


def load_segment(weights, size=None, drop_path: float = 0.0):
    """AVSyncD's frozen sound encoder, on the CPU and in eval mode: :class:`.model.SegmentAudio`.

    `weights` as for :func:`load`: of ImageBind itself, whose tokens then get a fresh LayerNorm, or the `audio_encoder`
    that AVSyncD's trainer writes, which has one.
    """
    import torch

    from avtools.models.parts.imagebind.model import HUGE, SegmentAudio

    file, tensors = _tensors(weights)
    found, size = _of(tensors, "audio", file), size or HUGE["audio"]
    fresh = {NORM + "weight": torch.ones(size.dim), NORM + "bias": torch.zeros(size.dim)}
    if not any(name.startswith(NORM) for name in found):
        found = found | fresh
    with torch.device("meta"):
        tower = SegmentAudio(size, drop_path)
    hub.load_strict(tower, found, file)
    return tower.eval().requires_grad_(False)


def digest(weights: hub.Weights, *names: str, system: str = "SYSTEM") -> str:
    """What identifies the weights that :func:`locate` finds."""
    return hub.digest(file_of(locate(weights, *names, system=system)))


def file_of(path) -> pathlib.Path:
    """The file of weights that `path` means; FatalError where a folder holds none."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise FatalError(f"{path}: has none of {', '.join(FILES)}; give imagebind_huge.pth, or the folder of an audio_encoder")


def released(name: str, modality: str) -> str:
    """A tower's name -> that of imagebind_huge.pth."""
    first, _, rest = name.partition(".")
    return f"modality_{first}s.{modality}.{rest}"


def _tensors(weights) -> tuple[pathlib.Path, dict]:
    file = file_of(locate(weights) if isinstance(weights, hub.Weights) else weights)
    return file, hub.tensors(file)


def _of(tensors: dict, modality: str, file) -> dict:
    """One tower's tensors under its own names."""
    found, others = {}, set()
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match and match[2] == modality:
            found[f"{match[1]}.{match[3]}"] = tensor
        elif match:
            others.add(match[2])
    if found:
        return found
    if modality == "audio" and "preprocessor.cls_token" in tensors:
        return dict(tensors)
    has = f"it has {', '.join(sorted(others))}" if others else f"its names begin with {', '.join(list(tensors)[:3])}"
    raise FatalError(f"{file}: has no {modality} tower of ImageBind (modality_trunks.{modality}.*; {has}); give imagebind_huge.pth or the same in safetensors")
