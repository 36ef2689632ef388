"""The text tower of OpenCLIP ViT-H-14, as Stable Diffusion 2.1 and VideoCrafter2 read prompts (spec MAESTRO, section 3).

Computed by transformers' CLIPTextModel.  Weights come from under OpenCLIP's own names (in VideoCrafter2's checkpoint below
`cond_stage_model.model.`), or from a folder as transformers writes it (`text_encoder` of Stable Diffusion 2.1, in which the last of
the 24 blocks is missing, because only the one before it is read).
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError

PREFIX = "cond_stage_model.model."  # in VideoCrafter2's checkpoint
LAYERS = ("penultimate", "last")
CONTEXT = 77
CONFIG = {  # of ViT-H-14's text tower (transformers' CLIPTextConfig)
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": CONTEXT,
    "vocab_size": 49408,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder
HEAD = 64  # width of a head in ViT-H-14; leaves no trace in the weights
MARKS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as old configurations: for the pooled output only; 2 means the largest id
UNUSED = (r"^text_projection(\.weight)?$", r"^logit_scale$", r"(^|\.)position_ids$", r"^attn_mask$")

_RENAMED = (  # OpenCLIP's names -> those of CLIPTextModel
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)


class TextTower(nn.Module):
    """Texts or byte-pair ids (B, 77) -> one state for each place, (B, 77, D), normed by the final LayerNorm, neither pooled nor projected.

    `layer`: after the block before the "last" one, as Stable Diffusion 2.1 and VideoCrafter2 have it, or after all.  `whole`: whether
    the last block is there.  `pad_end`: whether the end, not a zero, fills the places behind it, as in Stable Diffusion 1; they are
    computed like any other, since the networks attend to them too.  `told`: these arguments, as JSON has them.
    """

    def __init__(self, config: dict | None = None, layer: str = "penultimate", whole: bool = True, pad_end: bool = False):
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.settings = {**CONFIG, **{name: value for name, value in (config or {}).items() if name in CONFIG}}
        self.model = CLIPTextModel(CLIPTextConfig(**self.settings, **MARKS))
        self.dim, self.places = self.settings["hidden_size"], self.settings["max_position_embeddings"]
        self.layer, self.whole, self.pad_end = layer, whole, pad_end
        self.told = {"config": self.settings, "layer": layer, "whole": whole, "pad_end": pad_end}
        self.check(layer)

    def check(self, layer: str) -> None:
        """FatalError where what this tower holds does not reach a layer."""
        if layer not in LAYERS:
            raise ValueError(f"no such layer: {layer}")
        if layer == "last" and not self.whole:
            has = self.settings["num_hidden_layers"]
            raise FatalError(
                f"the last block of the text tower is wanted, and these weights lack it (they have {has} blocks, as Stable Diffusion 2.1's); give all of OpenCLIP's ViT-H-14"
            )

    def forward(self, texts, layer: str | None = None) -> torch.Tensor:
        """`texts`: a list of them, or ids (B, 77)."""
        layer = layer or self.layer
        self.check(layer)
        model, ids = self.model, self.ids(texts) if isinstance(texts, (list, tuple)) else texts
        states = model.embeddings(input_ids=ids.to(model.embeddings.token_embedding.weight.device))
        count = len(model.encoder.layers) - (layer == "penultimate" and self.whole)
        mask = _causal(states.shape[1], states.dtype, states.device)
        for block in model.encoder.layers[:count]:
            states = block(states, mask)
        return model.final_layer_norm(states)

    def ids(self, texts: list[str]) -> torch.Tensor:
        """(B, 77) int64, as this tower was trained on them."""
        return token_ids(texts, self.places, self.pad_end)


def _causal(places: int, dtype: torch.dtype, device) -> torch.Tensor:
    """(1, 1, places, places): 0 where a place may look, the least number elsewhere."""
    return torch.full((places, places), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)[None, None]


def token_ids(texts: list[str], places: int = CONTEXT, pad_end: bool = False) -> torch.Tensor:
    """(B, `places`) int64: begin, the ids of a text, its end, zeros, as OpenCLIP has it (`pad_end`: ends); what is too long keeps its end."""
    from avtools.models.parts.imagebind.text import END, tokenize

    ids = tokenize(list(texts))
    if places > CONTEXT:
        raise ValueError(f"{places} places, and texts have {CONTEXT}")
    cut, long = ids[:, :places].clone(), (ids[:, places:] != 0).any(1)
    cut[long, -1] = END
    behind = torch.arange(places) > end_positions(cut)[:, None]
    return cut.masked_fill(behind, END) if pad_end else cut


def end_positions(ids: torch.Tensor) -> torch.Tensor:
    """(B, 77) ids -> (B,) int64: where each text ends, at its largest id; the empty one at 1.  There the tokens of sound begin."""
    return ids.argmax(-1)


# --- weights ---------------------------------------------------------------------------------------------------------


def from_open_clip(state: Mapping[str, torch.Tensor], prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    """OpenCLIP's text tower in `state`, whose names begin with `prefix`, under the names of CLIPTextModel.

    Others than `prefix`'s are passed over, as are the projection and the logit scale; what is unknown keeps its name, so that
    strict loading finds it.  A file of the whole of OpenCLIP may hold its picture tower, `visual.`, too.
    """
    made = {}
    for name, tensor in state.items():
        name = name.removeprefix(prefix) if name.startswith(prefix) else None
        if name is None or name.startswith("visual.") or any(re.search(pattern, name) for pattern in UNUSED):
            continue
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        packed = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if packed:
            made |= {f"{packed[1]}.self_attn.{one}_proj.{packed[2]}": part for one, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            made[name] = tensor
    return made


def load_text(
    source: str | os.PathLike | Mapping[str, torch.Tensor], layer: str | None = None, heads: int | None = None, prefix: str = PREFIX, where: str | None = None
) -> TextTower:
    """The text tower, on the CPU, in eval mode and without gradients.

    `source`: a folder as transformers writes it (or one with such a `text_encoder`); a file with OpenCLIP's names, alone or in all of
    VideoCrafter2; or named tensors like those of such a file, whose names begin with `prefix` or with nothing.  `layer`: by
    default what networks with such weights read: all blocks that a folder has, else the one before the last.  `heads`: of its
    attention; known from the folder, else as many as are 64 wide.  FatalError lists what does not fit.
    """
    if not isinstance(source, Mapping):
        path = pathlib.Path(source)
        if path.is_dir():
            return _from_folder(path / "text_encoder" if (path / "text_encoder").is_dir() else path, layer)
        source, where = _tensors(path), str(path)
    where = where or "these weights"
    tensors = from_open_clip(source, prefix if any(name.startswith(prefix) for name in source) else "")
    config = config_of(tensors, where, heads)
    return _filled(tensors, config, layer or "penultimate", _is_whole(config), where=where)


def config_of(tensors: Mapping[str, torch.Tensor], where: str, heads: int | None = None) -> dict:
    """What the shapes under CLIPTextModel's names tell of its configuration; FatalError where they are of something else."""
    try:
        vocabulary, dim = tensors["embeddings.token_embedding.weight"].shape
        places, wide = tensors["embeddings.position_embedding.weight"].shape[0], tensors["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError):
        raise FatalError(
            f"{where}: has no text tower of OpenCLIP ({PREFIX}token_embedding.weight, or the same without the prefix); give OpenCLIP's ViT-H-14 or VideoCrafter2's model.ckpt"
        ) from None
    blocks = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", name)))
    sizes = {"hidden_size": dim, "intermediate_size": wide, "num_hidden_layers": blocks, "max_position_embeddings": places, "vocab_size": vocabulary}
    return CONFIG | sizes | {"num_attention_heads": heads or max(1, dim // HEAD)}


def _from_folder(folder: pathlib.Path, layer: str | None) -> TextTower:
    from transformers import CLIPTextConfig

    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        given = CLIPTextConfig(**{name: told[name] for name in CONFIG if name in told}, **MARKS)  # it knows what such a file leaves out
    except (OSError, ValueError, TypeError):
        raise FatalError(f"{folder}: has no readable config.json; give a text_encoder folder as transformers writes it") from None
    config = {name: getattr(given, name) for name in CONFIG}
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise FatalError(f"{folder}: has none of {', '.join(WEIGHTS)}; give a text_encoder folder as transformers writes it")
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in hub.tensors(file).items()}
    whole = _is_whole(config)
    layer = layer or ("last" if whole else "penultimate")
    return _filled(tensors, config, layer, whole, _pads_with_end(folder.parent / "tokenizer"), where=file)


def _is_whole(config: dict) -> bool:
    """Stable Diffusion 2's folder ends with the block that it reads: it leaves out one of ViT-H-14's 24."""
    return (config["hidden_size"], config["num_hidden_layers"]) != (CONFIG["hidden_size"], CONFIG["num_hidden_layers"] - 1)


def _pads_with_end(folder: pathlib.Path) -> bool:
    """Whether the tokenizer beside a text_encoder fills up with the end of a text, as CLIP's own does; else with zeros ("!")."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            pad = json.loads((folder / name).read_text(encoding="utf-8"))["pad_token"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        return (pad.get("content") if isinstance(pad, dict) else pad) == "<|endoftext|>"
    return False


def _filled(tensors: Mapping, config: dict, layer: str, whole: bool = True, pad_end: bool = False, *, where) -> TextTower:
    if config["hidden_size"] % config["num_attention_heads"]:
        raise FatalError(f"{where}: a text tower {config['hidden_size']} wide cannot have {config['num_attention_heads']} attention heads; give its config.json")
    with torch.device("meta"):  # takes over the tensors
        made = TextTower(config, layer, whole, pad_end)
    hub.load_strict(made.model, tensors, where, ignore=UNUSED)
    _settle(made)
    return made.eval().requires_grad_(False)


def _settle(tower: TextTower) -> None:
    """Numbers of places are no weights, and not among the tensors that were taken over."""
    held = tower.model.embeddings
    if held.position_ids.is_meta and not held.position_embedding.weight.is_meta:
        held.position_ids = torch.arange(tower.places)[None]


def _tensors(path: pathlib.Path) -> dict:
    """All tensors of a file, at its top level or under `state_dict`."""
    try:
        return hub.tensors(path, "state_dict")
    except FatalError:
        return hub.tensors(path)
