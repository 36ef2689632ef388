"""How well picture and sound, and each and text, agree in PE-AV, Meta's Perception Encoder of both.

The networks are transformers' PeAudioVideoModel, whose eye is one of timm's.  Released weights are folders as transformers
writes them: facebook/pe-av-{small,base,large}-16-frame, which know 16 pictures evenly spaced over a clip, and those without
"-16-frame", which know all of a clip's.  Embeddings are compared by their cosine: a model's own logits (their product,
scaled and shifted) have no common scale.
"""

import contextlib
import io
import json
import re
from typing import ClassVar

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.media import TEXTS
from avtools.metrics.pictures import Pictures
from avtools.models.judges.similarity import OfText, mean_cosine

PART = hub.Part(
    "pe-av",
    "PE-AV (a folder like facebook/pe-av-large-16-frame)",
    "hf:facebook/pe-av-large-16-frame",
    ("*.json", "*.safetensors"),
    5_900_000_000,
    "Apache-2.0",
)
RATE, SIZE = 48000, 336  # of sound (Hz), of pictures (pixels): of all released ones
CONTEXT = 512  # tokens
PACKAGES = (("torch", "torch"), ("transformers", "transformers"), ("timm", "timm"), ("torchvision", "torchvision"))
_TEXT_HEADS = {"sound": ("audio_model", "text_audio_head"), "picture": ("video_model", "text_video_head")}


class _OfModel(Extractor):
    """What all share: one model for all extractors of a process."""

    parts = (PART,)
    requires = PACKAGES
    _known: ClassVar[dict] = {}

    def load(self, device, weights):
        path = self.locate(weights)
        key = str(path), str(device)
        if key not in self._known:
            self._known[key] = load(path).to(device)
        self.net, self.device, self.path = self._known[key], device, path


class Sound(_OfModel):
    """PE-AV of the whole sound; filled up to a whole number of its codec's steps with what came before, mirrored."""

    name = "pe-av-sound"
    medium = "sound"
    resampler = "soxr HQ to 48000 Hz mono"
    outputs = {"embedding": "(1, D), not of unit length"}

    def prepare(self, pair, role):
        samples = pair.heard(role, RATE)
        if not len(samples):
            raise Skip("its sound is shorter than a sample")
        return {"samples": samples}

    def run(self, items):
        import numpy as np
        import torch

        # Not of net.config.audio_config: reading that property makes the towers forget their kind of attention, and masks with it.
        hop = self.net.audio_model.audio_encoder.config.dac_config.hop_length
        sounds = [np.pad(item["samples"], (0, -len(item["samples"]) % hop), "reflect") for item in items]
        found = [None] * len(items)
        for numbers in alike([len(sound) for sound in sounds]):
            inputs = torch.from_numpy(np.stack([sounds[k] for k in numbers]))[:, None].to(self.device)
            with torch.no_grad():
                made = self.net.audio_model.get_audio_embeds(inputs)
            for k, one in zip(numbers, made.float().cpu().numpy(), strict=True):
                found[k] = {"embedding": one[None]}
        return found


class Picture(_OfModel):
    """PE-AV of `frames` pictures, evenly spaced from the first to the last (0: of all), squashed to 336 pixels (bilinear)."""

    name = "pe-av-picture"
    medium = "picture"
    settings = {"frames": 16, "size": SIZE}
    requires = (*PACKAGES, ("PIL", "pillow"))
    outputs = {"embedding": "(1, D), not of unit length"}

    @property
    def pictures(self):
        return Pictures(count=self.set["frames"], size=(self.set["size"], self.set["size"]), fit="squash", resize="bilinear")

    def prepare(self, pair, role):
        return {"pictures": pair.seen(role, self.pictures).pictures}

    def load(self, device, weights):
        super().load(device, weights)
        eye = getattr(self.net.video_model.video_encoder.embedder.vision_model, "timm_model", None)
        sees = getattr(getattr(eye, "patch_embed", None), "img_size", None)
        if sees is not None and tuple(sees) != (self.set["size"], self.set["size"]):
            raise UsageError(f"--set pe-av.size={self.set['size']}: this PE-AV sees {sees[1]}x{sees[0]} pixels; --set pe-av.size={sees[0]}")

    def run(self, items):
        import numpy as np
        import torch

        found = [None] * len(items)
        for numbers in alike([len(item["pictures"]) for item in items]):
            inputs = torch.from_numpy(np.stack([items[k]["pictures"] for k in numbers])).to(self.device)
            with torch.no_grad():  # of -1..1, as all released ones have it
                made = self.net.video_model.video_head(self.net.video_model.video_encoder(inputs.permute(0, 1, 4, 2, 3).contiguous() / 127.5 - 1).pooler_output)
            for k, one in zip(numbers, made.float().cpu().numpy(), strict=True):
                found[k] = {"embedding": one[None]}
        return found


class Text(_OfModel, OfText):
    """PE-AV of a text, as it is compared with sounds and with pictures."""

    name = "pe-av-text"
    requires = PACKAGES
    outputs = {"sound": "to compare with sounds, (1, D), not of unit length", "picture": "the same to compare with pictures"}

    def load(self, device, weights):
        from transformers import PreTrainedTokenizerFast

        super().load(device, weights)
        if not (self.path / "tokenizer.json").is_file():
            raise FatalError(f"{self.path}: has no tokenizer.json; get the folder anew")
        try:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self.path), local_files_only=True)
        except Exception as error:  # of several libraries
            raise FatalError(f"{self.path}: its tokenizer cannot be read ({' '.join(str(error).split())[:100]}); get the folder anew") from None

    def embed(self, texts):
        import torch

        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt").to(self.device)
        with torch.no_grad():
            first = self.net.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[:, 0]
            made = {name: getattr(getattr(self.net, part), head)(first).float().cpu().numpy() for name, (part, head) in _TEXT_HEADS.items()}
        return [dict(zip(made, pair, strict=True)) for pair in zip(*made.values(), strict=True)]


class PeAv(OfFeatures):
    """Cosine of the clip's picture with its sound, both whole, in PE-AV.

    `frames`: pictures, evenly spaced (0: all): 16 for weights that end in -16-frame, the default, 0 for the others
    (`--weights pe-av=hf:facebook/pe-av-large --set pe-av.frames=0`).  `size`: pixels that the network sees.
    """

    name = "pe-av"
    title = "PE-AV similarity of picture and sound"
    source = "Vyas et al. 2025, Perception Encoder Audiovisual (arXiv:2512.19687)"
    columns = {"pe_av": "cosine of picture and sound, -1 to 1"}
    ranges = {"pe_av": (-1.0, 1.0)}
    direction = "higher"
    needs = ("picture", "sound")
    settings = dict(Picture.settings)
    extractors = (Picture, Sound)

    def wants(self):
        return {"picture": (Picture(**self.set), "video"), "sound": (Sound(), "audio")}

    def row(self, item):
        return {"pe_av": mean_cosine(item["picture"]["embedding"], item["sound"]["embedding"])}


class PeText(OfFeatures):
    """Cosines of the clip's picture with its caption, and of its sound with what is said of it (`audio_text`, else the caption)."""

    name = "pe-text"
    title = "PE-AV similarity of picture and text, and of sound and text"
    source = PeAv.source
    columns = {"pe_tv": "cosine of picture and text, -1 to 1", "pe_ta": "cosine of sound and text, -1 to 1"}
    ranges = {"pe_tv": (-1.0, 1.0), "pe_ta": (-1.0, 1.0)}
    direction = "higher"
    needs = ("picture", "sound", "text")
    texts = TEXTS["audio_text"]
    settings = dict(Picture.settings)
    extractors = (Picture, Sound, Text)

    def wants(self):
        return {**PeAv(**self.set).wants(), "caption": (Text(), "text"), "heard": (Text(), "audio_text")}

    def row(self, item):
        return {
            "pe_tv": mean_cosine(item["picture"]["embedding"], item["caption"]["picture"]),
            "pe_ta": mean_cosine(item["sound"]["embedding"], item["heard"]["sound"]),
        }


def alike(sizes: list[int]) -> list[list[int]]:
    """The numbers of those of each size: batches need no padding then, which networks would hear and see."""
    groups: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        groups.setdefault(size, []).append(number)
    return list(groups.values())


def load(folder):
    """transformers' PeAudioVideoModel of a folder, on the CPU, in eval mode and float32; strict: FatalError lists what does not fit.

    Not by its `from_pretrained`, which stumbles over a buffer of timm's.  Towers that share weights are saved once, under whichever name.
    """
    from transformers import PeAudioVideoConfig, PeAudioVideoModel
    from transformers.initialization import no_init_weights

    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files or not (folder / "config.json").is_file():
        raise FatalError(f"{folder}: not a folder with config.json and *.safetensors; give one as transformers writes it, like facebook/pe-av-large-16-frame")
    try:
        if (kind := json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")) != "pe_audio_video":
            raise FatalError(f"{folder}: config.json is of '{kind}', not of pe_audio_video; give a folder like facebook/pe-av-large-16-frame")
        with contextlib.redirect_stdout(io.StringIO()), no_init_weights():  # it prints what its authors forgot to document
            net = PeAudioVideoModel(PeAudioVideoConfig.from_pretrained(str(folder), local_files_only=True)).float()
            net.tie_weights()
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise FatalError(f"{folder}: no configuration of PE-AV ({' '.join(str(error).split())[:200]}); get the folder anew") from None
    found = {re.sub(r"\.vision_model\.(?!timm_model\.)", ".vision_model.timm_model.", name): t for file in files for name, t in hub.tensors(file).items()}
    shared: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    for names in shared.values():
        if (saved := next((name for name in names if name in found), None)) is not None:
            found |= dict.fromkeys(names, found[saved])
    hub.load_strict(net, found, folder)
    return net.eval().requires_grad_(False)
