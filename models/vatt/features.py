"""What VATT sees: EVA02-CLIP's embedding of five pictures a second, made here or read from published files (spec: VATT, section 1)."""

import pathlib
import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError, MediaError

RATE, SIZE, WIDTH = 5, 336, 768  # pictures a second, pixels, features
BATCH = 32  # pictures encoded at once

PART = hub.Part(
    "eva02",
    "EVA02-CLIP L/14 at 336 pixels (merged2b_s6b_b61k), the encoder of pictures",
    "hf:timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
    ("open_clip_model.safetensors",),
    856_000_000,
    "MIT",
)
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")

#: Names of EVA-CLIP's own release -> timm's.  open_clip's file has timm's below `visual.trunk.`.
_NAMES = (
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_STRAY = (r"(^|\.)rope\.",)  # tables that are computed


# --- the encoder ------------------------------------------------------------------------------------------


class EvaClip(nn.Module):
    """Pictures (N, 3, S, S) within 0..1 -> (N, D): the class token's projection, not of unit length.

    `sizes`: arguments for timm's Eva where it is no EVA02-L/14 at 336 pixels.
    """

    def __init__(self, width: int = WIDTH, **sizes):
        super().__init__()
        try:
            import timm
        except ImportError:
            raise FatalError("timm is not installed, which EVA02-CLIP needs; pip install 'avtools[models]'") from None
        self.trunk = timm.create_model("eva02_large_patch14_clip_336", num_classes=width, **sizes)
        self.dim, self.size = width, self.trunk.patch_embed.img_size[0]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        from avtools.models.parts.frames import clip_normalise

        return self.trunk(clip_normalise(pictures.to(self.trunk.head.weight)))


def load(path, **sizes) -> EvaClip:
    """EVA02-CLIP's picture tower of a file, or a folder with one: open_clip's, EVA-CLIP's own or timm's; frozen, in eval mode.

    FatalError that lists what is missing, unexpected or of another shape.
    """
    file = _file(path)
    tensors = tower(hub.tensors(file), file)
    made = EvaClip(tensors["head.weight"].shape[0], **sizes)
    hub.load_strict(made.trunk, tensors, file, ignore=_STRAY)
    return made.eval().requires_grad_(False)


def _file(path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise FatalError(f"{path}: has none of {', '.join(FILES)}; give the file of EVA02-CLIP")
    return found


def tower(tensors: dict[str, torch.Tensor], where) -> dict[str, torch.Tensor]:
    """The picture tower's tensors under timm's names; the text tower is left out."""
    prefix = next((one for one in ("visual.trunk.", "visual.", "trunk.", "") if f"{one}patch_embed.proj.weight" in tensors), None)
    if prefix is None:
        raise FatalError(f"{where}: has no EVA02-CLIP picture tower (visual.trunk.patch_embed.proj.weight); give open_clip's EVA02-L-14-336")
    made = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            for pattern, by in _NAMES:
                name = re.sub(pattern, by, name)
            made[name] = tensor
    if "head.weight" not in made:
        raise FatalError(f"{where}: its picture tower has no projection (head.weight); give the one trained with text, merged2b_s6b_b61k")
    return made


# --- from a video -----------------------------------------------------------------------------------------


def pictures(path, rate: float = RATE, size: int = SIZE, start: float = 0.0, seconds: float | None = None) -> Iterator[np.ndarray]:
    """(size, size, 3) uint8 RGB of what is shown at `start` + k / `rate`, until `start` + `seconds` or the end; one at a time.

    Upright, the shorter side bicubically made `size`, the middle of it, as open_clip prepares pictures.  MediaError: no
    picture, or none in that span.
    """
    from avtools.media.container import best_video, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames
    from avtools.models.vta_ldm.frames import shown_at

    begin = Fraction(start).limit_denominator(1_000_000)
    end = None if seconds is None else begin + Fraction(seconds).limit_denominator(1_000_000)
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        usual = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
        before = picture = None
        for frame in shown_at(shown_frames(container, stream), begin, end, Fraction(rate).limit_denominator(1000), usual):
            if frame is not before:  # one that stays is made small once
                before, picture = frame, _picture(frame, size)
            yield picture
    if before is None:
        raise MediaError(f"{show(path)}: no picture from {float(begin):g} s on; choose an earlier start")


def _picture(frame, size: int) -> np.ndarray:
    from PIL import Image

    from avtools.media.probe import clockwise
    from avtools.models.vta_ldm.frames import fitted

    turned = np.rot90(frame.to_ndarray(format="rgb24"), -clockwise(frame) // 90)
    return fitted(Image.fromarray(np.ascontiguousarray(turned)), size)


@torch.no_grad()
def encode(
    net: EvaClip, path, *, rate: float = RATE, start: float = 0.0, seconds: float | None = None, normalise: bool = False, batch: int = BATCH
) -> np.ndarray:
    """(F, D) float32 features of a video of any length; memory holds `batch` pictures.  `normalise`: to unit length.

    Whether the authors' were is not known; published files tell (:func:`unit_length`).
    """
    found, waiting = [], []
    device = net.trunk.head.weight.device

    def flush():
        stacked = torch.from_numpy(np.stack(waiting)).to(device).permute(0, 3, 1, 2).float() / 255
        found.append(net(stacked).float().cpu())
        waiting.clear()

    for picture in pictures(path, rate, net.size, start, seconds):
        waiting.append(picture)
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    features = torch.cat(found)
    return (nn.functional.normalize(features, dim=1) if normalise else features).numpy()


def unit_length(features: np.ndarray, tolerance: float = 1e-2) -> bool:
    """Whether features have been normalised to unit length."""
    return bool((np.abs(np.linalg.norm(features.astype(np.float64), axis=1) - 1) < tolerance).all())


# --- published files --------------------------------------------------------------------------------------


def read(path, frames: int | None = None, width: int = WIDTH) -> np.ndarray:
    """(F, width) float32 features of a published `.npy`, or an AudioSet `.h5` (:func:`read_hdf5`).

    `frames`: as many as they must be.  MediaError: unreadable, of another shape, empty or with values that are not finite.
    """
    if str(path).lower().endswith((".h5", ".hdf5")):
        return read_hdf5(path, frames, width)[0]
    return _checked(path, _npy(path), frames, width)


def read_hdf5(path, frames: int | None = None, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """(features (F, width) float32, sound tokens (codebooks, T) int64) of an AudioSet clip's HDF5 file as published.

    Its features are one a second; each is repeated, which makes `RATE` a second.  FatalError where h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise FatalError(f"{path}: h5py is not installed, which HDF5 files need; pip install 'avtools[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            features, tokens = (np.asarray(file[name]) for name in ("clip", "audio_tokens"))
    except KeyError:
        raise MediaError(f"{path}: lacks 'clip' or 'audio_tokens'; give an AudioSet clip's file as VATT keeps them") from None
    except (OSError, TypeError, ValueError) as error:
        raise MediaError(f"{path}: no HDF5 file, or a damaged one ({' '.join(str(error).split())[:100]}); get it anew") from None
    if features.ndim == 2:
        features = np.repeat(features, RATE, 0)
    return _checked(path, features, frames, width), _tokens(path, tokens)


def read_tokens(path, codebooks: int = 4) -> np.ndarray:
    """(codebooks, T) int64 sound tokens of a `.npy`: as VATT trains on them, (T, codebooks), or as it generates, (codebooks, T); or of an `.h5`."""
    if str(path).lower().endswith((".h5", ".hdf5")):
        return read_hdf5(path)[1]
    found = _npy(path)
    if found.ndim == 2 and found.shape[0] != codebooks and found.shape[1] == codebooks:
        found = found.T
    return _tokens(path, found, codebooks)


def _npy(path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or 'no .npy file'}); check the path") from None
    except (ValueError, EOFError):
        raise MediaError(f"{path}: no .npy file of numbers, or a damaged one; get it anew") from None


def _checked(path, found, frames: int | None, width: int) -> np.ndarray:
    if not isinstance(found, np.ndarray):
        raise MediaError(f"{path}: several arrays; give one .npy file for each clip")
    if found.dtype.kind not in "fiu":
        raise MediaError(f"{path}: holds {found.dtype} values, not numbers; give features as VATT keeps them")
    if found.ndim != 2 or not len(found) or found.shape[1] != width or frames not in (None, len(found)):
        wanted = f"({'F' if frames is None else frames}, {width})"
        raise MediaError(f"{path}: features {found.shape}, not {wanted}; make them anew with 'avtools features vatt'")
    found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise MediaError(f"{path}: features that are not finite; make them anew with 'avtools features vatt'")
    return found


def _tokens(path, found, codebooks: int = 4) -> np.ndarray:
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[0] != codebooks or not found.shape[1]:
        told = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "not an array"
        raise MediaError(f"{path}: sound tokens {told}, not whole numbers ({codebooks}, T) or (T, {codebooks}); make them anew")
    if found.min() < 0:
        raise MediaError(f"{path}: sound tokens below 0; make them anew")
    return found.astype(np.int64)
