"""What the language model is asked: templates, pools of instructions, token ids, labels and batches (spec: VATT, section 2, "Prompt").

Ten video tokens, which are no ids, stand before all text: masks of batches begin with them, and pads lie between them and the text.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from avtools.errors import RowError

if TYPE_CHECKING:
    import torch

IGNORED = -100  # a label that is no target
MULTIPLE = 8  # to which the converter's batches were padded
CAPTION_PREFIX = "audio caption:"  # what the published captions begin with

SOUND_POOL = (  # own wording: what is heard
    "Which sounds would go with this silent video?",
    "Describe the soundtrack that belongs to this clip.",
    "Name what one would hear while watching this.",
    "What does this scene sound like?",
    "List the audible events of this video.",
    "Imagine the microphone of this camera: what did it record?",
    "Put the audio of these pictures into words.",
    "What should be heard when this video is played?",
    "Tell which noises, voices or music fit what is shown.",
    "Guess the sound from the pictures and describe it briefly.",
)
PICTURE_POOL = (  # own wording: what is seen
    "What can be seen in this video?",
    "Describe the pictures of this clip.",
    "Sum up what is shown in one sentence.",
    "Which objects and actions appear in this scene?",
    "Tell what happens in front of the camera.",
    "Put what you see into words.",
    "What is going on in this video?",
    "Name who or what is visible, and what it does.",
    "Write a short caption for these pictures.",
    "Describe the place and the events shown.",
)


# --- pools ------------------------------------------------------------------------------------------------


def instruction_of(caption: str | None, pool: Sequence[str], rng: random.Random, dummy: float = 0.3) -> tuple[str, bool]:
    """(what to ask for a clip, whether it was drawn from the pool): its caption, or with probability `dummy`, or without caption, the pool's.

    Stage 1 of the sound model is `dummy` 1.  Drawn anew at every fetch; the original froze the draw across epochs.
    """
    drawn = not caption or rng.random() < dummy
    return (rng.choice(pool) if drawn else caption), drawn


def bare(caption: str) -> str:
    """A caption without the words that the published ones begin with."""
    caption = caption.strip()
    return caption[len(CAPTION_PREFIX) :].lstrip() if caption.lower().startswith(CAPTION_PREFIX) else caption


# --- templates --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Template:
    """What stands around an instruction; the answer follows `after` at once."""

    before: str
    after: str

    def __call__(self, instruction: str) -> str:
        return f"{self.before}{instruction}{self.after}"


TEMPLATES = {
    "alpaca": Template("### Instruction:\n", "\n\n### Response:\n"),  # Vicuna's, and that of any other language model
    # the tokenizer puts <bos> in front of all text, so released weights know it doubled; no newline before the answer
    "gemma": Template("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model"),
}


def template_for(model_type: str) -> str:
    """The template's name of a language model of this `model_type` (config.json)."""
    return "gemma" if model_type.startswith("gemma") else "alpaca"


# --- ids --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ids:
    """The ids of a text, and how many of them are the prompt's."""

    ids: list[int]
    prompt: int

    @property
    def labels(self) -> list[int]:
        """Targets of the answer alone, as in the paper; the published training scripts take all `ids` as targets."""
        return [IGNORED] * self.prompt + self.ids[self.prompt :]


def pad_id(tokenizer) -> int:
    """The id for padding: of the tokenizer, else its unknown token's (Vicuna's 0), else its end's."""
    return next((found for name in ("pad", "unk", "eos") if (found := getattr(tokenizer, f"{name}_token_id", None)) is not None), 0)


def encode(tokenizer, template: Template, instruction: str, answer: str = "", *, limit: int | None = None, end: bool = True, cut: bool = False) -> Ids:
    """The ids of an instruction and its answer; `end`: an end token follows where there is room.

    An answer beyond `limit` is cut; where its first letters would join the prompt's last token, it is encoded by itself, so
    that what is learnt is what captions begin with.  RowError where the prompt alone is beyond it, which would lose the place of the
    answer; `cut` cuts that too, as the original did.
    """
    prompt = _ids(tokenizer, template(instruction))
    if limit is not None and len(prompt) > limit and not cut:
        raise RowError(f"the instruction makes a prompt of {len(prompt)} tokens, and the limit is {limit}; shorten it: {instruction[:60]!r}")
    ids = _ids(tokenizer, template(instruction) + answer) if answer else prompt
    if ids[: len(prompt)] != prompt:
        own = _ids(tokenizer, answer)
        ids = prompt + own[own[:1] == [tokenizer.bos_token_id] :]
    ids = ids[:limit]
    stop = tokenizer.eos_token_id
    if end and stop is not None and (limit is None or len(ids) < limit) and ids[-1:] != [stop]:
        ids = [*ids, stop]
    return Ids(ids, min(len(prompt), len(ids)))


def _ids(tokenizer, text: str) -> list[int]:
    ids = list(tokenizer(text)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(getattr(tokenizer, "eos_token", None) or "\0"):
        del ids[-1]  # of a tokenizer that ends every text
    return ids


# --- batches ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Batch:
    """Texts of one length, padded on the left."""

    ids: "torch.Tensor"  # (B, T) int64
    mask: "torch.Tensor"  # (B, T) int64, 1 = a token
    labels: "torch.Tensor"  # (B, T) int64, -100 = no target

    def to(self, device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in (self.ids, self.mask, self.labels)))

    def joint_mask(self, video: int):
        """(B, video + T): the mask with the video tokens', which are always seen."""
        import torch

        return torch.cat([self.mask.new_ones(len(self.mask), video), self.mask], 1)


def collate(texts: Sequence[Ids], pad: int, *, mask_prompt: bool = True, multiple: int = 1) -> Batch:
    """Texts -> a batch, as long as the longest and a multiple of `multiple`; `mask_prompt`: only answers are targets."""
    import torch

    longest = max(len(text.ids) for text in texts)
    length = -(-longest // multiple) * multiple
    ids, mask, labels = (torch.full((len(texts), length), value) for value in (pad, 0, IGNORED))
    for n, text in enumerate(texts):
        begin = length - len(text.ids)
        ids[n, begin:] = torch.tensor(text.ids)
        mask[n, begin:] = 1
        labels[n, begin:] = torch.tensor(text.labels if mask_prompt else text.ids)
    return Batch(ids, mask, labels)
