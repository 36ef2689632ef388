"""Grounding DINO (Liu et al. 2023, arXiv:2303.05499): the boxes of what texts name."""

from typing import NamedTuple

import numpy as np
import torch

from avtools.errors import FatalError, RowError

from . import selection

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which SAM 2 has too
SHORT, LONG = 800, 1333  # pixels of the sides that it was trained with
SAME = 0.7  # overlap of two boxes of one object


class Box(NamedTuple):
    """What was found: [x, y, width, height] in pixels, the query that it answers, how surely (0 to 1)."""

    box: list[float]
    query: str
    score: float


def strictly(kind, folder, **settings):
    """A network of transformers out of its folder; FatalError where a tensor is missing, unknown or of another shape."""
    hint = "; give a folder as transformers writes it (config.json, model.safetensors)"
    if not folder.is_dir():
        raise FatalError(f"{folder}: is no folder{hint}")
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        network, told = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **settings)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise FatalError(f"{folder}: cannot be loaded as {kind.__name__} ({' '.join(str(error).split())[:200]}){hint}") from None
    faults = [f"{name.removesuffix('_keys')} {', '.join(map(str, sorted(told[name])[:5]))}" for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if told.get(name)]
    if faults:
        raise FatalError(f"{folder}: does not fit {kind.__name__}; {'; '.join(faults)}{hint}")
    return network.eval().requires_grad_(False)


def clean(query: str) -> str:
    """A query as Grounding DINO takes it: lower case, without the full stops that part queries."""
    return " ".join(query.replace(".", " ").lower().split())


class Detector:
    """Grounding DINO and its tokenizer, from a folder as transformers writes it."""

    def __init__(self, folder, device):
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        self.net = strictly(GroundingDinoForObjectDetection, folder).to(device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise FatalError(f"{folder}: has no tokenizer ({' '.join(str(error).split())[:200]}); get the folder anew, with vocab.txt") from None
        known, words = len(self.tokenizer), self.net.config.text_config.vocab_size
        if known > words or known < 8:
            raise FatalError(f"{folder}: its tokenizer has {known} words, and the network knows {words}; get the folder anew, with vocab.txt")
        self.device = device

    @torch.inference_mode()
    def find(self, picture: np.ndarray, queries: list[str], threshold: float) -> list[Box]:
        """What of (H, W, 3) uint8 `picture` one of the `queries` names with a score above `threshold`, the surest first; no object twice."""
        texts = [clean(query) for query in queries]
        tokens = self.tokenizer(" ".join(f"{text} ." for text in texts), return_tensors="pt")
        spans = self._spans(tokens["input_ids"][0].tolist(), len(texts))
        found = self.net(pixel_values=self._pixels(picture), **{name: value.to(self.device) for name, value in tokens.items()})
        scores = found.logits[0].float().sigmoid()
        by_query = torch.stack([scores[:, begin:end].max(1).values for begin, end in spans], 1)
        best, which = by_query.max(1)
        boxes = found.pred_boxes[0].float()
        height, width = picture.shape[:2]
        made: list[Box] = []
        for k in best.argsort(descending=True, stable=True).tolist():
            if best[k] <= threshold:
                break
            x, y, wide, high = boxes[k].tolist()
            left, top = max(0.0, (x - wide / 2) * width), max(0.0, (y - high / 2) * height)
            right, bottom = min(float(width), (x + wide / 2) * width), min(float(height), (y + high / 2) * height)
            box = [left, top, right - left, bottom - top]
            if min(box[2:]) >= 1 and all(selection.overlap(box, one.box) < SAME for one in made):
                made.append(Box(box, queries[which[k]], float(best[k])))
        return made

    def _spans(self, ids: list[int], count: int) -> list[tuple[int, int]]:
        """Which tokens are each query's: between the first token, the stops and the last."""
        stop = self.tokenizer.convert_tokens_to_ids(".")
        spans, begin = [], 1
        for place, token in enumerate(ids):
            if token == stop:
                spans.append((begin, place))
                begin = place + 1
        most = self.net.config.max_text_len
        if len(ids) > most:
            raise RowError(f"the queries have {len(ids)} tokens, and Grounding DINO takes {most}; give fewer or shorter ones")
        if len(spans) != count or any(begin == end for begin, end in spans):
            raise RowError("a query has no word that Grounding DINO could read; give words")
        return spans

    def _pixels(self, picture: np.ndarray) -> torch.Tensor:
        height, width = picture.shape[:2]
        scale = min(SHORT / min(height, width), LONG / max(height, width))
        return normalised(picture, max(1, round(height * scale)), max(1, round(width * scale)), self.device)


def normalised(picture: np.ndarray, height: int, width: int, device) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, height, width) float32: resized (bilinear, antialiased), less ImageNet's mean, by its deviation."""
    pixels = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
    if pixels.shape[-2:] != (height, width):
        pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation

