"""Frozen encoders of transformers, and ImageBind's: a list of pictures per clip, or texts -> features."""

import json
import pathlib
import re

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PICTURES, WINDOWS = 64, 4  # at once: CLIP's pictures, ViViT's windows
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class ClipEncoder(nn.Module):
    """CLIP's projected embedding of each picture (T, 3, S, S) within [0, 1] -> (T, D); not of unit length.

    `normalise`: with CLIP's mean and deviation, as CLIP was trained; VTA-LDM's released weights know it without.
    """

    def __init__(self, config: dict, normalise: bool = True):
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.settings, self.normalise = dict(config), normalise
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        self.dim, self.size = self.model.config.projection_dim, self.model.config.image_size
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(CLIP_DEVIATION).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        weight = self.model.visual_projection.weight
        found = []
        for pictures in torch.cat(frames).split(PICTURES):
            pictures = pictures.to(weight)
            if self.normalise:
                pictures = (pictures - self.mean) / self.deviation
            found.append(self.model(pixel_values=pictures).image_embeds)
        return list(torch.cat(found).split([len(one) for one in frames]))


def clip_config(shapes: dict[str, tuple[int, ...]]) -> dict:
    """The fields of CLIPVisionConfig that the shapes of its weights tell; heads are 64 wide in all of OpenAI's."""
    embeddings = "vision_model.embeddings."
    width, _, patch, _ = shapes[embeddings + "patch_embedding.weight"]
    places = shapes[embeddings + "position_embedding.weight"][0] - 1
    layers = {match[1] for match in (re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name) for name in shapes) if match}
    return {
        "hidden_size": width,
        "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": shapes["visual_projection.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "image_size": patch * round(places**0.5),
        "patch_size": patch,
    }


class VivitEncoder(nn.Module):
    """ViViT (Arnab et al. 2021): windows of its `num_frames` pictures; each tubelet's tokens averaged over space and
    given to each of its pictures: (T, 3, S, S) within [0, 1] -> (T, D).

    The last window ends with the clip; a clip shorter than one is filled up with its last picture.
    """

    def __init__(self, config: dict, processor: dict | None = None):
        from transformers import VivitConfig, VivitModel

        super().__init__()
        self.model = VivitModel(VivitConfig(**config), add_pooling_layer=False)
        found = self.model.config
        self.dim, self.size, self.count, self.depth = found.hidden_size, found.image_size, found.num_frames, found.tubelet_size[0]
        usual = {"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        processor = {**usual, **(processor or {})}
        scale, shift = 255 * processor["rescale_factor"], float(processor["offset"])
        mean, deviation = (processor["image_mean"], processor["image_std"]) if processor["do_normalize"] else ([0.0] * 3, [1.0] * 3)
        self.register_buffer("factor", (scale / torch.tensor(deviation)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((shift + torch.tensor(mean)) / torch.tensor(deviation)).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        return in_windows(frames, self.count, self._windows)

    def _windows(self, pictures: torch.Tensor) -> torch.Tensor:
        """(W, count, 3, S, S) -> (W, count, D)."""
        pictures = pictures.to(self.model.layernorm.weight) * self.factor - self.shift
        tokens = self.model(pixel_values=pictures).last_hidden_state[:, 1:]
        tubelets = tokens.unflatten(1, (self.count // self.depth, -1)).mean(2)
        return tubelets.repeat_interleave(self.depth, 1)


def in_windows(frames: list[torch.Tensor], count: int, encode) -> list[torch.Tensor]:
    """Features (T, D) of clips (T, 3, S, S), whose windows of `count` pictures `encode` knows: (W, count, 3, S, S) -> (W, count, D).

    The last window ends with the clip; a clip shorter than one is filled up with its last picture.
    """
    windows, places, features = [], [], [None] * len(frames)
    for clip, pictures in enumerate(frames):
        filled = torch.cat([pictures, pictures[-1:].expand(max(0, count - len(pictures)), -1, -1, -1)])
        for begin in range(0, len(pictures), count):
            begin = max(0, min(begin, len(filled) - count))
            windows.append(filled[begin : begin + count])
            places.append((clip, begin))
    for at in range(0, len(windows), WINDOWS):
        made = encode(torch.stack(windows[at : at + WINDOWS]))
        for (clip, begin), one in zip(places[at : at + WINDOWS], made, strict=True):
            if features[clip] is None:
                features[clip] = one.new_zeros(len(frames[clip]), one.shape[-1])
            room = features[clip][begin : begin + count]
            room.copy_(one[: len(room)])
    return features


class ImageBindEncoder(nn.Module):
    """ImageBind's joint embedding of each picture (T, 3, 224, 224) within [0, 1] -> (T, D); not of unit length."""

    def __init__(self, tower):
        from avtools.models.parts.imagebind.model import PICTURE

        super().__init__()
        self.model, self.dim, self.size = tower, tower.size.out_dim, PICTURE

    @torch.no_grad()
    def forward(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        from avtools.models.parts.frames import clip_normalise

        weight = next(self.model.parameters())
        found = [self.model.embed(clip_normalise(pictures.to(weight))) for pictures in torch.cat(frames).split(PICTURES)]
        return list(torch.cat(found).split([len(one) for one in frames]))


class LanguageBindEncoder(nn.Module):
    """LanguageBind's picture or video tower (Zhu et al. 2024, arXiv 2310.01852): (T, 3, S, S) within [0, 1] -> (T, D).

    CLIP's picture tower, before each of whose layers every token attends to those of its place in the window's other
    pictures (`count`: `num_frames`; None: a tower of single pictures).  Projected, not of unit length; the mean over a
    window is the published video embedding.
    """

    def __init__(self, config: dict, count: int | None):
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
        from transformers.models.clip.modeling_clip import CLIPAttention

        super().__init__()
        self.model, self.count = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), count
        found = self.model.config
        self.dim, self.size = found.projection_dim, found.image_size
        for layer in self.model.vision_model.encoder.layers if count else ():
            layer.temporal_embedding = nn.Parameter(torch.randn(1, count, found.hidden_size) * found.hidden_size**-0.5)
            layer.temporal_attn = CLIPAttention(found)
            layer.temporal_layer_norm1 = nn.LayerNorm(found.hidden_size, eps=found.layer_norm_eps)
            layer.register_forward_pre_hook(self._over_time)

    def _over_time(self, layer, inputs):
        """(W count, N, D) -> the same, attended over time."""
        hidden, *others = inputs
        places = hidden.unflatten(0, (-1, self.count)).transpose(1, 2)
        if self.count > 1:
            places = places + layer.temporal_embedding
        attended, _ = layer.temporal_attn(layer.temporal_layer_norm1(places).flatten(0, 1), None)
        return (places + attended.view_as(places)).transpose(1, 2).flatten(0, 1), *others

    @torch.no_grad()
    def forward(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.count:
            return in_windows(frames, self.count, lambda windows: self._embeds(windows.flatten(0, 1)).unflatten(0, windows.shape[:2]))
        found = [self._embeds(pictures) for pictures in torch.cat(frames).split(PICTURES)]
        return list(torch.cat(found).split([len(one) for one in frames]))

    def _embeds(self, pictures: torch.Tensor) -> torch.Tensor:
        from avtools.models.parts.frames import clip_normalise

        return self.model(pixel_values=clip_normalise(pictures.to(self.model.visual_projection.weight))).image_embeds


class ClipText(nn.Module):
    """CLIP's projected embedding of each text: [str] -> [(D,)]; texts beyond its context are cut."""

    def __init__(self, config: dict, tokenizer):
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        super().__init__()
        self.model, self.tokenizer = CLIPTextModelWithProjection(CLIPTextConfig(**config)), tokenizer
        self.dim, self.context = self.model.config.projection_dim, self.model.config.max_position_embeddings

    @torch.no_grad()
    def forward(self, texts: list[str]) -> list[torch.Tensor]:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt")
        weight = self.model.text_projection.weight
        embeds = self.model(input_ids=inputs["input_ids"].to(weight.device), attention_mask=inputs["attention_mask"].to(weight.device)).text_embeds
        return list(embeds)


# --- from a folder as transformers writes it ---------------------------------------------------------------


def clip_from(folder: pathlib.Path, normalise: bool = True) -> ClipEncoder:
    """CLIP's picture tower of a folder with config.json, or of one file of its weights."""
    file, settings = _found(folder)
    tensors = {name: t for name, t in hub.tensors(file).items() if name.startswith(("vision_model.", "visual_projection."))}
    if "visual_projection.weight" not in tensors:
        raise FatalError(f"{file}: has no CLIP picture tower (visual_projection.weight); give one like openai/clip-vit-large-patch14")
    try:
        shapes = clip_config({name: tuple(t.shape) for name, t in tensors.items()})
    except (KeyError, ValueError) as error:
        raise FatalError(f"{file}: its CLIP picture tower lacks parts ({error}); get the file anew") from None
    config = {**shapes, **_fields(settings, "vision_config", CLIP_FIELDS)}
    encoder = ClipEncoder(config, normalise)
    hub.load_strict(encoder.model, tensors, file, ignore=(r"position_ids$",))
    return encoder


_COMMON = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
CLIP_FIELDS = (*_COMMON, "image_size", "patch_size")
TEXT_FIELDS = (*_COMMON, "vocab_size", "max_position_embeddings", "eos_token_id", "bos_token_id", "pad_token_id")
VIVIT_FIELDS = (*_COMMON, "image_size", "num_frames", "tubelet_size", "qkv_bias", "num_channels")


def text_from(folder: pathlib.Path) -> ClipText:
    """CLIP's text tower and its tokenizer of a folder as transformers writes it."""
    from transformers import CLIPTokenizer

    file, settings = _found(folder)
    if not settings:
        raise FatalError(f"{folder}: lacks config.json and a tokenizer; give the whole folder of CLIP, as openai/clip-vit-large-patch14")
    tensors = {name: t for name, t in hub.tensors(file).items() if name.startswith(("text_model.", "text_projection."))}
    if "text_projection.weight" not in tensors:
        raise FatalError(f"{file}: has no CLIP text tower (text_projection.weight); give one like openai/clip-vit-large-patch14")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise FatalError(f"{folder}: its tokenizer cannot be read ({' '.join(str(error).split())[:100]}); get the folder anew") from None
    config = {**_fields(settings, "text_config", TEXT_FIELDS), "projection_dim": tensors["text_projection.weight"].shape[0]}
    encoder = ClipText(config, tokenizer)
    if len(tokenizer) != encoder.model.config.vocab_size:  # transformers makes an empty one of a folder without
        known = f"its tokenizer has {len(tokenizer)} ids, and CLIP knows {encoder.model.config.vocab_size}"
        raise FatalError(f"{folder}: {known}; get the folder anew, with vocab.json and merges.txt")
    hub.load_strict(encoder.model, tensors, file, ignore=(r"position_ids$",))
    return encoder


def imagebind_from(path: pathlib.Path) -> ImageBindEncoder:
    """ImageBind's picture tower: imagebind_huge.pth, the same in safetensors, or a folder with either."""
    from avtools.models.parts.imagebind import checkpoint

    return ImageBindEncoder(checkpoint.load(path, ("vision",)).vision)


def language_bind_from(folder: pathlib.Path) -> LanguageBindEncoder:
    """LanguageBind's picture or video tower of a folder as published: CLIP's names, and `temporal_*` in each layer of a video's."""
    file, settings = _found(folder)
    tensors = {name: t for name, t in hub.tensors(file).items() if name.startswith(("vision_model.", "visual_projection."))}
    if any(".lora_" in name for name in tensors):
        raise FatalError(f"{file}: adapters beside the tower, not merged into it; give LanguageBind_Video_FT, or one that ends in _merge")
    layer = "vision_model.encoder.layers.0."
    try:
        config = clip_config({name: tuple(t.shape) for name, t in tensors.items()})
    except (KeyError, ValueError, ZeroDivisionError):
        raise FatalError(f"{file}: has no picture tower as CLIP's (vision_model.*); give a LanguageBind_Video_FT or LanguageBind_Image") from None
    times = tensors.get(layer + "temporal_embedding")
    config = {"hidden_act": "gelu", **config, **_fields(settings, "vision_config", CLIP_FIELDS)}
    encoder = LanguageBindEncoder(config, None if times is None else times.shape[1])
    hub.load_strict(encoder.model, tensors, file, ignore=(r"position_ids$",))
    return encoder


_VIVIT = (  # names as published -> as transformers has them since its version 5
    (r"^vivit\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


def vivit_from(folder: pathlib.Path) -> VivitEncoder:
    """ViViT of a folder as transformers writes it; its preprocessor_config.json, if there, says how pictures are scaled."""
    file, settings = _found(folder)
    processor = _json(folder / "preprocessor_config.json") if folder.is_dir() and (folder / "preprocessor_config.json").is_file() else None
    encoder = VivitEncoder(_fields(settings, "", VIVIT_FIELDS), processor)
    tensors = {}
    for name, tensor in hub.tensors(file).items():
        for pattern, by in _VIVIT:
            name = re.sub(pattern, by, name)
        tensors[name] = tensor
    hub.load_strict(encoder.model, tensors, file, ignore=(r"^classifier\.", r"^pooler\."))
    return encoder


def _found(path: pathlib.Path) -> tuple[pathlib.Path, dict]:
    """(file of the weights, config.json) of a folder, or of a single file."""
    if not path.is_dir():
        return path, {}
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name, _json(path / "config.json")
    raise FatalError(f"{path}: has neither {' nor '.join(WEIGHTS)}; give the folder of a model as transformers writes it")


def _json(path: pathlib.Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; get the folder anew") from None
    except ValueError:
        raise FatalError(f"{path}: broken, no JSON; get the folder anew") from None
    if not isinstance(found, dict):
        raise FatalError(f"{path}: not the configuration of a model; get the folder anew")
    return found


def _fields(settings: dict, part: str, names: tuple[str, ...]) -> dict:
    found = settings.get(part) if isinstance(settings.get(part), dict) else settings
    return {name: found[name] for name in names if name in found}
