"""The codec of sound tokens: EnCodec (Défossez et al. 2022, arXiv:2210.13438) through transformers (spec VATT, section 3, "Waveform").

Read: a checkpoint of audiocraft (`compression_state_dict.bin` of facebook/audiogen-medium: `best_state` and, as YAML, `xp.cfg`), its
tensors alone (.safetensors or a pickle of those names), a folder as transformers writes it, or a file of ours (:meth:`Codec.saved`).
Tokens are parallel: no delay.
"""

import json
import math
import pathlib
import re
from typing import NamedTuple

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError

#: audiocraft's names -> transformers'.
_NAMES = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)
#: What training of the codec alone needs.
BOOKKEEPING = (r"codebook\.(inited|cluster_size|embed_avg)$",)
#: Fields of audiocraft's settings that change what the codec computes, and the only value that is known here.
FIXED = {
    "norm": "weight_norm",
    "causal": False,
    "channels": 1,
    "true_skip": True,
    "activation": "ELU",
    "n_residual_layers": 1,
    "disable_norm_outer_blocks": 0,
}


class Found(NamedTuple):
    """A codec: tensors under transformers' names, settings of its EncodecConfig."""

    tensors: dict
    config: dict
    where: pathlib.Path


class Codec(nn.Module):
    """Waveforms (B, S) at `rate` Hz <-> tokens (B, K, T), a frame for each `hop` samples."""

    def __init__(self, config: dict):
        super().__init__()
        from transformers import EncodecConfig, EncodecModel

        self.config = config
        self.model = EncodecModel(EncodecConfig(**config))
        self.rate, self.hop = self.model.config.sampling_rate, self.model.config.hop_length

    @property
    def tables(self) -> torch.Tensor:
        """(K, V, D) vectors of the codes."""
        return torch.stack([layer.codebook.embed for layer in self.model.quantizer.layers])

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.quantize(self.model.encoder(waveform[:, None]))

    def quantize(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, D, T) -> (B, K, T): of each level the code next to what those before it left."""
        return self.model.quantizer.encode(latents.float()).transpose(0, 1)

    def latents(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, K, T) -> (B, D, T), the sum over the levels."""
        return self.model.quantizer.decode(tokens.transpose(0, 1))

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, K, T) -> (B, T hop), as it comes: not clipped."""
        return self.model.decoder(self.latents(tokens))[:, 0]

    def saved(self) -> tuple[dict, dict[str, str]]:
        """(tensors, metadata) of a file of ours, which :func:`read` knows, for `hub.save_checkpoint`."""
        return self.model.state_dict(), {"config": json.dumps(self.config)}


def read(path, pad_mode: str | None = None) -> Found:
    """A codec in any of the layouts; `pad_mode` ("constant" or "reflect") in place of the stored one.

    FatalError: none, or one that is of another kind.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if (path / "compression_state_dict.bin").is_file():
            path = path / "compression_state_dict.bin"
        else:
            return _transformers(path, pad_mode)
    told = hub.values(path)
    if path.suffix == ".safetensors" and isinstance(told.get("config"), str):
        try:
            config = dict(json.loads(told["config"]))
        except (ValueError, TypeError):
            raise FatalError(f"{path}: its settings cannot be read; get the file anew") from None
        return Found(hub.tensors(path), config | ({"pad_mode": pad_mode} if pad_mode else {}), path)
    tensors = hub.tensors(path, "best_state" if isinstance(told.get("best_state"), dict) or "xp.cfg" in told else None)
    if all(name.startswith("model.") for name in tensors):  # as training itself saves it
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    config = told_by({name: tuple(tensor.shape) for name, tensor in tensors.items()}, path, _settings(told.get("xp.cfg"), path))
    return Found(renamed(tensors), config | ({"pad_mode": pad_mode} if pad_mode else {}), path)


def load(path, pad_mode: str | None = None) -> Codec:
    """The codec, on the CPU, frozen; FatalError where the tensors do not fit."""
    found = read(path, pad_mode)
    return fill(make(found.config, found.where), found)


def make(config: dict, where) -> Codec:
    try:
        return Codec(config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise FatalError(f"{where}: no codec can be made of its settings ({' '.join(str(error).split())[:200]}); give AudioGen's codec") from None


def fill(codec: Codec, found: Found) -> Codec:
    hub.load_strict(codec.model, found.tensors, found.where, ignore=BOOKKEEPING)
    return codec.eval().requires_grad_(False)


def renamed(tensors: dict) -> dict:
    """audiocraft's names -> transformers'."""
    made = {}
    for name, tensor in tensors.items():
        for pattern, by in _NAMES:
            name = re.sub(pattern, by, name)
        made[name] = tensor
    return made


def told_by(shapes: dict[str, tuple[int, ...]], where, stored: dict | None = None) -> dict:
    """The settings of EncodecConfig that the shapes of audiocraft's tensors tell, and those `stored` beside them.

    What neither tells is as in audiocraft by default: 16 kHz, padding with zeros.
    """
    try:
        up = re.compile(r"decoder\.model\.(\d+)\.convtr\.convtr\.weight_v")
        steps = sorted((int(match[1]), shape[2] // 2) for name, shape in shapes.items() if (match := up.fullmatch(name)))
        levels = len({match[1] for name in shapes if (match := re.fullmatch(r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed", name))})
        codes, latent = shapes["quantizer.vq.layers.0._codebook.embed"]
        filters, _, kernel = shapes["encoder.model.0.conv.conv.weight_v"]
        last = max(int(match[1]) for name in shapes if (match := re.match(r"encoder\.model\.(\d+)\.conv\.conv", name)))
        narrow, wide, residual = shapes["encoder.model.1.block.1.conv.conv.weight_v"]
        config = {
            "sampling_rate": 16000,
            "num_filters": filters,
            "kernel_size": kernel,
            "last_kernel_size": shapes[f"encoder.model.{last}.conv.conv.weight_v"][2],
            "residual_kernel_size": residual,
            "compress": wide // narrow,
            "upsampling_ratios": [ratio for _, ratio in steps],
            "hidden_size": latent,
            "codebook_size": codes,
            "num_lstm_layers": len([name for name in shapes if re.fullmatch(rf"encoder\.model\.{last - 2}\.lstm\.weight_ih_l\d+", name)]),
            "levels": levels,
        }
    except (KeyError, ValueError, ZeroDivisionError) as error:
        remedy = "give AudioGen's compression_state_dict.bin, or a folder as transformers writes it"
        raise FatalError(f"{where}: no codec of audiocraft ({error}); {remedy}") from None
    return _finished({"pad_mode": "constant", **config, **(stored or {})})


def _finished(config: dict) -> dict:
    """With what is alike in all codecs here.  transformers counts levels by the bandwidth that they need, kbit/s."""
    levels, rate = config.pop("levels"), math.ceil(config["sampling_rate"] / math.prod(config["upsampling_ratios"]))
    bits = levels * rate * math.ceil(math.log2(config["codebook_size"]))
    return config | {"target_bandwidths": [(bits + 0.5) / 1000], "use_causal_conv": False, "use_conv_shortcut": False, "norm_type": "weight_norm"}


def _settings(text, where) -> dict:
    """What audiocraft's stored settings say, in EncodecConfig's names; none where there are none."""
    if not isinstance(text, str):
        return {}
    import yaml

    try:
        told = yaml.safe_load(text)
        net = told["seanet"]
    except (yaml.YAMLError, TypeError, KeyError):
        raise FatalError(f"{where}: its settings (xp.cfg) cannot be read; get the file anew") from None
    net = {**net, **{name: value for name, value in (net.get("decoder") or {}).items() if name in FIXED}}
    other = [f"{name} {net[name]!r}, not {value!r}" for name, value in FIXED.items() if name in net and net[name] != value]
    if net.get("pad_mode", "constant") not in ("constant", "reflect", "replicate"):
        other.append(f"pad_mode {net['pad_mode']!r}")
    if (told.get("encodec") or {}).get("renormalize"):
        other.append("renormalize True, not False")
    if other:
        raise FatalError(f"{where}: a codec of another kind ({'; '.join(other)}); give AudioGen's")
    names = {"ratios": "upsampling_ratios", "pad_mode": "pad_mode", "dilation_base": "dilation_growth_rate"}
    found = {ours: net[theirs] for theirs, ours in names.items() if theirs in net}
    return found | ({"sampling_rate": told["sample_rate"]} if isinstance(told.get("sample_rate"), int) else {})


def _transformers(folder: pathlib.Path, pad_mode: str | None) -> Found:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FatalError(f"{folder}: no codec (neither compression_state_dict.bin nor a config.json that can be read); give AudioGen's codec") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "encodec":
        raise FatalError(f"{folder}: its config.json is that of {kind}, not of encodec; give the codec's folder")
    if config.get("normalize") or config.get("chunk_length_s") or config.get("audio_channels", 1) != 1:
        raise FatalError(f"{folder}: a codec in chunks, of normalised or of stereo sound; give one that is mono and whole, as AudioGen's")
    file = next((folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), None)
    if file is None:
        raise FatalError(f"{folder}: has neither model.safetensors nor pytorch_model.bin; give the whole folder")
    kept = {name: value for name, value in config.items() if name not in ("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")}
    return Found(renamed(hub.tensors(file)), kept | ({"pad_mode": pad_mode} if pad_mode else {}), file)


# --- the codebooks, as VATT publishes them ----------------------------------------------------------------------


def read_codebooks(path) -> torch.Tensor:
    """(K, V, D) of a file that holds a tensor, a list of the levels' tensors, or a mapping of them; FatalError where it holds no such thing."""
    from avtools import pickles

    path = pathlib.Path(path)
    try:
        levels = list(hub.tensors(path).items())
        levels = [tensor for _, tensor in sorted(levels, key=lambda one: [int(n) for n in re.findall(r"\d+", one[0])])]
    except FatalError as error:
        if "not named tensors" not in str(error) and "no tensors" not in str(error):
            raise
        checkpoint = pickles.Checkpoint(path)
        root = checkpoint.root
        if isinstance(root, dict):
            root = [root[key] for key in sorted(root, key=lambda key: (len(str(key)), str(key)))]
        views = list(root) if isinstance(root, (list, tuple)) else [root]
        if not views or not all(isinstance(view, pickles.View) for view in views):
            remedy = "give meta_pretrain_vgg_encodec_embed.pt, or leave it out: the codec has them"
            raise FatalError(f"{path}: no codebooks (tables of a codec's vectors, one for each level); {remedy}") from None
        try:
            levels = [checkpoint.tensor(view) for view in views]
        except (ValueError, KeyError, TypeError, OverflowError, RuntimeError):
            raise FatalError(f"{path}: damaged; get the file anew") from None
    if len(levels) == 1 and levels[0].dim() == 3:
        levels = list(levels[0])
    if len({tuple(level.shape) for level in levels}) != 1 or levels[0].dim() != 2:
        shapes = ", ".join(str(tuple(level.shape)) for level in levels[:6])
        raise FatalError(f"{path}: no codebooks, which are tables of one shape (it has {shapes}); give meta_pretrain_vgg_encodec_embed.pt")
    return torch.stack([level.float() for level in levels])


def check_codebooks(codebooks: torch.Tensor, codec: Codec, where) -> None:
    """FatalError where codebooks (K, V, D) are not those of the codec: its tokens would mean something else to the network."""
    tables = codec.tables.to(codebooks)
    if codebooks.shape != tables.shape:
        found = f"codebooks of shape {tuple(codebooks.shape)}, and the codec's are {tuple(tables.shape)}"
        raise FatalError(f"{where}: {found}; give the codec that they were made with")
    off = (codebooks - tables).abs().amax((1, 2))
    scale = tables.abs().amax((1, 2)).clamp(min=1e-6)
    bad = [str(level) for level in range(len(off)) if not off[level] <= 1e-3 * scale[level]]
    if bad:
        raise FatalError(f"{where}: codebooks that are not the codec's (level{'s' * (len(bad) > 1)} {', '.join(bad)}); give the codec that they were made with")
