"""SAM 2 (Ravi et al. 2024, arXiv:2408.00714): the masks of all frames from those of some, or from the boxes of what a text names.

The network is transformers' Sam2VideoModel.  Each object has a session of its own; what the encoder makes of a frame is shared
by them, computed for several frames at once, and dropped when they are done, so memory does not grow with the video.
Annotated frames are mask prompts, and of the frames between two, the later one is prompted first: both ends are in memory when
they are reached.  A video is worked on at once, and the encoder's frames are the same whatever the other rows are.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from . import selection
from .annotations import Annotated
from .detecting import Detector, normalised, strictly
from .reading import Shape
from .selection import Found

CONDITIONS = 4  # prompted frames that are remembered: the one ahead, and of those behind the latest
SAME = 0.5  # overlap of a box with an object that is tracked already
BOX = (2, 3)  # labels of a box's corners among SAM's points


class Tracker:
    """SAM 2 from a folder as transformers writes it.

    `batch`: frames encoded at once; halved for good where memory does not suffice, `say` is then told.
    """

    def __init__(self, folder, device, dtype=torch.float32, batch: int = 8, say: Callable[[str], None] | None = None):
        from transformers import Sam2VideoModel

        self.net = strictly(Sam2VideoModel, folder).to(device, dtype)
        self.device, self.dtype, self.batch, self.say = device, dtype, batch, say
        size = self.net.config.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.positions: list[torch.Tensor] | None = None

    @torch.inference_mode()
    def follow(self, objects: list[Annotated], pictures: Iterable[np.ndarray], shape: Shape) -> list[Found]:
        """Annotated objects with masks for all frames; annotated ones stay as they are.  `pictures`: (H, W, 3) uint8 each."""
        view = _View(self, pictures, shape)
        tracks = [_Track(self, view, shape) for _ in objects]
        found = [Found(one.number, [None] * shape.frames) for one in objects]
        for number in order(sorted({frame for one in objects for frame in one.masks}), shape.frames):
            view.need(number)
            for one, track, made in zip(objects, tracks, found, strict=True):
                if number in one.masks:
                    made.masks[number] = mask = one.masks[number]
                    if mask is not None or track.begun:
                        track.prompt(number, mask=selection.unpack(mask, shape.height, shape.width))
                elif track.begun:
                    made.masks[number] = selection.pack(track.step(number))
            view.done(number)
        view.close()
        return found

    @torch.inference_mode()
    def search(self, detector: Detector, queries: list[str], pictures: Iterable[np.ndarray], shape: Shape, *, every: int, threshold: float, most: int) -> list[Found]:
        """The objects that `queries` name: looked for in each `every`-th frame, and followed from where they are first found."""
        view = _View(self, pictures, shape, every)
        tracks: list[_Track] = []
        found: list[Found] = []
        for number in range(shape.frames):
            view.need(number)
            for track, made in zip(tracks, found, strict=True):
                made.masks[number] = selection.pack(track.step(number))
            if number % every == 0 and len(found) < most:
                seen = [made.masks[number].box for made in found if made.masks[number] is not None]
                for one in detector.find(view.pictures[number], queries, threshold):
                    if len(found) == most or any(selection.overlap(one.box, box) >= SAME for box in seen):
                        continue
                    track, made = _Track(self, view, shape), Found(len(found), [None] * shape.frames, one.query)
                    made.masks[number] = mask = selection.pack(track.prompt(number, box=one.box))
                    if mask is None or any(selection.overlap(mask.box, box) >= SAME for box in seen):
                        continue  # nothing, or what is followed already
                    tracks.append(track)
                    found.append(made)
                    seen += [one.box, mask.box]
            view.done(number)
        view.close()
        return found

    def encode(self, pictures: list[np.ndarray]) -> list[dict]:
        """Of each picture, what SAM 2's sessions keep as a frame's features."""
        made: list[dict] = []
        while len(made) < len(pictures):
            some = pictures[len(made) : len(made) + self.batch]
            try:
                made += self._encode(some)
            except (torch.OutOfMemoryError, MemoryError):
                if self.batch == 1:
                    raise
                self.batch //= 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if self.say is not None:
                    self.say(f"out of memory: {self.batch} frame{'s' if self.batch > 1 else ''} encoded at once from now on")
        return made

    def _encode(self, pictures: list[np.ndarray]) -> list[dict]:
        pixels = torch.cat([normalised(picture, *self.size, self.device) for picture in pictures]).to(self.dtype)
        found = self.net.get_image_features(pixels, return_dict=True)
        if self.positions is None:  # the same for all frames
            self.positions = [level[:, :1].clone() for level in found.fpn_position_encoding]
        levels = found.fpn_hidden_states  # (H W, frames, channels)
        return [{"vision_feats": [level[:, k : k + 1] for level in levels], "vision_pos_embeds": self.positions} for k in range(len(pictures))]


def order(keys: list[int], frames: int) -> Iterator[int]:
    """The numbers below `frames`, each of `keys` ahead of those between it and the one before."""
    begin = 0
    for key in keys:
        yield key
        yield from range(begin, key)
        begin = key + 1
    yield from range(begin, frames)


class _View:
    """What the encoder made of the frames that are worked on; as a session's cache, all that transformers asks of one."""

    def __init__(self, tracker: Tracker, pictures: Iterable[np.ndarray], shape: Shape, every: int | None = None):
        self.tracker, self.source, self.shape, self.every = tracker, iter(pictures), shape, every
        self.features: dict[int, dict] = {}
        self.pictures: dict[int, np.ndarray] = {}  # those in which something is looked for
        self.read = 0

    def need(self, number: int) -> None:
        while self.read <= number:
            some = list(itertools.islice(self.source, min(self.tracker.batch, self.shape.frames - self.read)))
            if not some:
                raise RuntimeError(f"no frame {self.read} of {self.shape.frames}")
            for picture, features in zip(some, self.tracker.encode(some), strict=True):
                self.features[self.read] = features
                if self.every is not None and self.read % self.every == 0:
                    self.pictures[self.read] = picture
                self.read += 1

    def get_vision_features(self, number: int) -> dict | None:
        return self.features.get(number)

    def done(self, number: int) -> None:
        self.features.pop(number, None)
        self.pictures.pop(number, None)

    def close(self) -> None:
        """To the source's end, where it says whether it was whole."""
        for _ in self.source:
            pass


class _Track:
    """One object on its way through a video."""

    def __init__(self, tracker: Tracker, view: _View, shape: Shape):
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        self.tracker, self.shape, self.begun = tracker, shape, False
        self.session = Sam2VideoInferenceSession(
            video_height=shape.height,
            video_width=shape.width,
            inference_device=tracker.device,
            inference_state_device=tracker.device,
            dtype=tracker.dtype,
        )
        self.session.processed_frames = range(shape.frames)  # how many; none is asked for, as all features are there
        self.session.cache = view
        self.index = self.session.obj_id_to_idx(0)

    def prompt(self, number: int, mask: np.ndarray | None = None, box: list[float] | None = None) -> np.ndarray:
        """Tell where the object is in frame `number`, by its (H, W) mask or its box; the mask that SAM 2 sees there."""
        height, width = self.tracker.size
        if mask is not None:
            whole = torch.from_numpy(mask)[None, None].to(self.tracker.device).float()
            whole = torch.nn.functional.interpolate(whole, (height, width), mode="bilinear", align_corners=False, antialias=True)
            self.session.add_mask_inputs(self.index, number, (whole >= 0.5).float())
        else:
            x, y, wide, high = box
            corners = torch.tensor([[x, y], [x + wide, y + high]]) * torch.tensor([width / self.shape.width, height / self.shape.height])
            points = {"point_coords": corners[None, None].to(self.tracker.dtype), "point_labels": torch.tensor(BOX, dtype=torch.int32)[None, None]}
            self.session.add_point_inputs(self.index, number, points)
        self.session.obj_with_new_inputs = [0]
        self.begun = True
        return self.step(number)

    def step(self, number: int) -> np.ndarray:
        """The object's (H, W) mask in frame `number`."""
        logits = self.tracker.net(self.session, frame_idx=number).pred_masks.float()
        self._forget(number)
        whole = torch.nn.functional.interpolate(logits, (self.shape.height, self.shape.width), mode="bilinear", align_corners=False)
        return (whole[0, 0] > 0).cpu().numpy()

    def _forget(self, number: int) -> None:
        """Drop what no later frame asks for: masks, prompts, and all but the last outputs."""
        outputs, config = self.session.output_dict_per_obj[self.index], self.tracker.net.config
        kept = outputs["cond_frame_outputs"]
        for old in sorted(kept)[:-CONDITIONS]:
            del kept[old]
        near = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        others = outputs["non_cond_frame_outputs"]
        for old in [old for old in others if old < number - near - 1]:
            del others[old]
        for output in (kept.get(number), others.get(number)):
            if output is not None:
                output.pop("high_res_masks", None)
        self.session.point_inputs_per_obj[self.index].pop(number, None)
        self.session.mask_inputs_per_obj[self.index].pop(number, None)
        tracked = self.session.frames_tracked_per_obj[self.index]
        for old in [old for old in tracked if old < number - near - 1]:
            del tracked[old]
