"""LAION's CLAP (Wu et al. 2023, arXiv:2211.06687): sound and text in one space, from its released forms.

Networks are transformers' classes (HTS-AT and RoBERTa, each with a projection).  Weights are a folder as transformers
writes it (laion/clap-htsat-unfused, -fused, larger_clap_*), or one file under LAION's own names (630k-audioset-best.pt,
music_speech_audioset_epoch_15_esc_89.98.pt, ...), whose sizes are read from its shapes; loading is strict.

Any length of sound: :func:`windows` of the length that the network was trained with, spread evenly over all of it.
LAION's own tools take a random part instead; a fused network then mixes three random parts in.  Here each window goes
the way of sounds that are no longer than one, so that equal sounds have equal embeddings.
"""

import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError
from avtools.models.parts.mel import slaney_matrix
from avtools.models.parts.video_encoders import WEIGHTS, _json

FRONT = {"rate": 48000, "seconds": 10, "n_fft": 1024, "hop": 480, "bands": 64, "low": 50.0, "high": 14000.0}  # of all released ones
CONTEXT = 77  # tokens that LAION trained with
WINDOWS, TEXTS = 16, 64  # at once
_OF_HTSAT = r"^(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|\.attn_mask$"  # the front end, the classifier, what is computed
_BUFFERS = (r"relative_position_index$", r"num_batches_tracked$", r"embeddings\.(position_ids|token_type_ids)$")
_HTSAT = (  # LAION's and Microsoft's names -> transformers'
    (r"^bn0\.", "batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(relative_position\w+)$", r".attention.self.\1"),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_PROJECTION = {"0": "linear1", "2": "linear2"}
_FIELDS = {  # of config.json; what it leaves out is transformers' default, as it is for transformers
    "audio_config": (
        *("window_size", "num_mel_bins", "spec_size", "hidden_act", "patch_size", "patch_stride", "hidden_size", "projection_dim", "depths"),
        *("num_attention_heads", "enable_fusion", "fusion_type", "patch_embed_input_channels", "flatten_patch_embeds", "patch_embeds_hidden_size"),
        *("enable_patch_layer_norm", "qkv_bias", "mlp_ratio", "aff_block_r", "projection_hidden_act", "layer_norm_eps"),
    ),
    "text_config": (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "max_position_embeddings"),
        *("type_vocab_size", "layer_norm_eps", "projection_dim", "projection_hidden_act", "pad_token_id", "bos_token_id", "eos_token_id"),
    ),
}


class FrontEnd(nn.Module):
    """(W, n) waveforms -> (W, 1, n / hop + 1, bands) mel spectrogram in dB: power of a periodic Hann window, floor 1e-10.

    `matrix`: (bands, n_fft / 2 + 1) mel filters.
    """

    def __init__(self, matrix, rate: int, seconds: float, n_fft: int, hop: int):
        super().__init__()
        self.rate, self.length, self.n_fft, self.hop = rate, round(rate * seconds), n_fft, hop
        self.register_buffer("matrix", torch.as_tensor(matrix, dtype=torch.float32), persistent=False)
        self.register_buffer("hann", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(waveforms, self.n_fft, self.hop, self.n_fft, self.hann, center=True, pad_mode="reflect", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (self.matrix @ power).clamp(min=1e-10).log10().transpose(1, 2)[:, None]


def windows(samples: np.ndarray, length: int, fill: str = "zeros") -> np.ndarray:
    """(n,) -> (W, length) float32: as few as cover all of it, the first at its begin, the last at its end, the others between.

    A sound shorter than one is repeated: as often as it fits, then silence (`fill` zeros; LAION), or cut (repeat; Microsoft).
    """
    samples = np.asarray(samples, np.float32)
    if len(samples) < length:
        times = length / len(samples)
        whole = np.tile(samples, int(times) if fill == "zeros" else math.ceil(times))[:length]
        return np.pad(whole, (0, length - len(whole)))[None]
    count = math.ceil(len(samples) / length)
    begins = np.linspace(0, len(samples) - length, count).round().astype(int)
    return np.stack([samples[begin : begin + length] for begin in begins])


class ClapSound(nn.Module):
    """HTS-AT (Chen et al. 2022, arXiv:2202.00874) and its projection: (W, n) windows at `front.rate` Hz -> (W, D) of unit length."""

    fill = "zeros"

    def __init__(self, config: dict, front: FrontEnd):
        from transformers import ClapAudioConfig, ClapAudioModelWithProjection

        super().__init__()
        self.model, self.front = ClapAudioModelWithProjection(ClapAudioConfig(**config)), front
        self.dim = self.model.config.projection_dim

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        whole = waveforms.new_zeros(len(waveforms), 1, dtype=torch.bool)  # no longer than a window: a fused network adds nothing
        return nn.functional.normalize(self.model(input_features=self.front(waveforms), is_longer=whole).audio_embeds, dim=-1)


class ClapText(nn.Module):
    """RoBERTa and its projection: [str] -> (B, D) of unit length; what is beyond `context` tokens is cut."""

    def __init__(self, config: dict, tokenizer, context: int = CONTEXT):
        from transformers import ClapTextConfig, ClapTextModelWithProjection

        super().__init__()
        self.model, self.tokenizer = ClapTextModelWithProjection(ClapTextConfig(**config)), tokenizer
        found = self.model.config
        self.dim, self.context = found.projection_dim, min(context, found.max_position_embeddings - found.pad_token_id - 1)

    @torch.no_grad()
    def forward(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt").to(self.model.device)
        return nn.functional.normalize(self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds, dim=-1)


def embed_sounds(network, sounds: list[np.ndarray], device) -> list[np.ndarray]:
    """Of each sound (n,) at `network.front.rate` Hz, its windows' embeddings (W, D); however they share batches."""
    cut = [windows(samples, network.front.length, network.fill) for samples in sounds]
    every = torch.from_numpy(np.concatenate(cut))
    found = torch.cat([network(some.to(device)).float().cpu() for some in every.split(WINDOWS)])
    return [one.numpy() for one in found.split([len(one) for one in cut])]


# --- released forms ------------------------------------------------------------------------------------------


class Released(NamedTuple):
    """Weights under transformers' names, what they are, and how sound comes to them."""

    tensors: dict[str, Any]
    audio: dict  # of ClapAudioConfig; empty: has no sound
    text: dict  # of ClapTextConfig; empty: has no text
    front: dict  # of FrontEnd
    folder: pathlib.Path | None  # with the tokenizer
    where: str


def sound_from(path) -> ClapSound:
    """The tower of sounds of a folder or file, on the CPU, in eval mode and without gradients.  FatalError lists what does not fit."""
    return sound_of(read(path))


def text_from(path, tokenizer=None, context: int = CONTEXT) -> ClapText:
    """The tower of texts; `tokenizer`: a folder with that of RoBERTa, for a single file of weights."""
    found = read(path)
    folder = found.folder if tokenizer is None else tokenizer
    if "text_model.embeddings.word_embeddings.weight" not in found.tensors:
        raise FatalError(f"{path}: has no texts of CLAP (text_branch.* or text_model.*); give a checkpoint of LAION's CLAP")
    if folder is None:
        raise FatalError(f"{path}: one file of weights, without a tokenizer; give the folder of roberta-base's beside it")
    words = found.tensors["text_model.embeddings.word_embeddings.weight"].shape[0]
    return text_of(found, tokenizer_from(folder, "RobertaTokenizer", words), context)


def sound_of(found: Released) -> ClapSound:
    """As :func:`sound_from`, of weights that were read already."""
    if not found.audio:
        raise FatalError(f"{found.where}: has no sounds of CLAP (audio_branch.* or audio_model.*); give a checkpoint of LAION's CLAP")
    network = ClapSound(found.audio, FrontEnd(**found.front))
    return _filled(network, found, ("audio_model.", "audio_projection."))


def text_of(found: Released, tokenizer, context: int = CONTEXT) -> ClapText:
    """As :func:`text_from`, of weights that were read already and hold texts, with a tokenizer of transformers."""
    return _filled(ClapText(found.text, tokenizer, context), found, ("text_model.", "text_projection."))


def _filled(network, found: Released, begins: tuple[str, ...]):
    tensors = {name: tensor for name, tensor in found.tensors.items() if name.startswith(begins)}
    hub.load_strict(network.model, tensors, found.where, ignore=_BUFFERS)
    return network.eval().requires_grad_(False)


def read(path) -> Released:
    """Of a folder as transformers writes it, or a file under LAION's names (in its `state_dict`, or at its top level)."""
    path = pathlib.Path(path)
    if not path.is_dir():
        tensors = named(path, "state_dict")
        return laion(tensors, path)
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise FatalError(f"{path}: has neither {' nor '.join(WEIGHTS)}; give the folder of CLAP as transformers writes it, or LAION's file")
    settings = _json(path / "config.json")
    if settings.get("model_type") != "clap":
        raise FatalError(f"{path}: config.json is of '{settings.get('model_type')}', not of clap; give a folder like laion/clap-htsat-unfused")
    shared = {name: settings[name] for name in ("projection_dim", "projection_hidden_act") if name in settings}
    parts = {}
    for part, names in _FIELDS.items():
        inner = settings.get(part) or {}
        parts[part] = {name: inner[name] for name in names if inner.get(name) is not None} | shared
    return Released(hub.tensors(file), parts["audio_config"], parts["text_config"], _front_of(path), path, str(file))


def named(path, inner: str) -> dict[str, Any]:
    """The tensors of a file, of its mapping `inner` where it has that; without the `module.` of a parallel run."""
    try:
        tensors = hub.tensors(path, inner)
    except FatalError as error:
        try:
            tensors = hub.tensors(path)
        except FatalError:
            raise error from None
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def laion(tensors: dict[str, Any], where) -> Released:
    """LAION's names (audio_branch.*, text_branch.*, *_projection.{0,2}.*) -> transformers'; either branch may be missing.

    The others, of training alone (*_transform.*, logit_scale_*), are left out.
    """
    of = {"audio_branch": {}, "text_branch": {}}
    found = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if first in of:
            of[first][rest] = tensor
        elif first in ("audio_projection", "text_projection"):
            layer, _, rest = rest.partition(".")
            found[f"{first}.{_PROJECTION.get(layer, layer)}.{rest}"] = tensor
    if not any(of.values()):
        begins = ", ".join(list(tensors)[:3])
        raise FatalError(f"{where}: no CLAP of LAION (its names begin with {begins}); give one of its checkpoints, or a folder of transformers")
    audio, front = {}, {}
    if of["audio_branch"]:
        audio, mel = htsat_config(of["audio_branch"], where), of["audio_branch"].get("logmel_extractor.melW")
        front = _front(FRONT, fused=audio["enable_fusion"]) if mel is None else {**_front(FRONT), "matrix": mel.T}
        found |= {f"audio_model.audio_encoder.{name}": tensor for name, tensor in htsat(of["audio_branch"]).items()}
    text = _roberta_config(of["text_branch"], where) if of["text_branch"] else {}
    found |= {f"text_model.{name}": tensor for name, tensor in of["text_branch"].items()}
    for config, part in ((audio, "audio"), (text, "text")):
        if config and f"{part}_projection.linear2.weight" in found:
            config["projection_dim"] = found[f"{part}_projection.linear2.weight"].shape[0]
    return Released(found, audio, text, front, None, str(where))


def htsat(tensors: dict[str, Any]) -> dict[str, Any]:
    """HTS-AT's own names -> those of transformers' ClapAudioEncoder; its front end and classifier are left out."""
    found = {}
    for name, tensor in tensors.items():
        if re.search(_OF_HTSAT, name):
            continue
        if match := re.fullmatch(r"(.+)\.attn\.qkv\.(weight|bias)", name):
            for part, one in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{match[1]}.attention.self.{part}.{match[2]}"] = one
            continue
        for pattern, by in _HTSAT:
            name = re.sub(pattern, by, name)
        found[name] = tensor
    return found


def htsat_config(tensors: dict[str, Any], where) -> dict:
    """The fields of ClapAudioConfig that the shapes of HTS-AT's weights tell, under its own names."""
    try:
        width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
        blocks = [match for match in (re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight", name) for name in tensors) if match]
        depths = [len({match[2] for match in blocks if match[1] == str(layer)}) for layer in range(len({match[1] for match in blocks}))]
        tables = [tensors[f"layers.{layer}.blocks.0.attn.relative_position_bias_table"].shape for layer in range(len(depths))]
        return {
            "patch_size": patch,
            "patch_stride": [patch, patch],
            "patch_embeds_hidden_size": width,
            "hidden_size": tensors["norm.weight"].shape[0],
            "num_mel_bins": tensors["bn0.weight"].shape[0],
            "spec_size": tensors["bn0.weight"].shape[0] * 4,
            "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
            "depths": depths,
            "num_attention_heads": [heads for _, heads in tables],
            "num_hidden_layers": len(depths),
            "mlp_ratio": tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
            "enable_fusion": "patch_embed.mel_conv2d.weight" in tensors,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise FatalError(f"{where}: its HTS-AT lacks parts ({error}); get the file anew") from None


def _roberta_config(tensors: dict[str, Any], where) -> dict:
    """The fields of ClapTextConfig; heads are 64 wide and the floor of norms 1e-5, as in roberta-base."""
    try:
        words, width = tensors["embeddings.word_embeddings.weight"].shape
        return {
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
            "num_attention_heads": max(1, width // 64),
            "intermediate_size": tensors["encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": tensors["embeddings.position_embeddings.weight"].shape[0],
            "type_vocab_size": tensors["embeddings.token_type_embeddings.weight"].shape[0],
            "layer_norm_eps": 1e-5,
        }
    except (KeyError, ValueError) as error:
        raise FatalError(f"{where}: its RoBERTa lacks parts ({error}); get the file anew") from None


def _front_of(folder: pathlib.Path) -> dict:
    """Of preprocessor_config.json: mel filters are HTK's, not normalised, where a network is fused, else Slaney's."""
    file = folder / "preprocessor_config.json"
    settings = _json(file) if file.is_file() else {}
    names = {"rate": "sampling_rate", "seconds": "max_length_s", "n_fft": "fft_window_size", "hop": "hop_length", "bands": "feature_size"}
    names |= {"low": "frequency_min", "high": "frequency_max"}
    fused = (_json(folder / "config.json").get("audio_config") or {}).get("enable_fusion", False)
    return _front({name: settings.get(key, FRONT[name]) for name, key in names.items()}, settings.get("truncation", "fusion" if fused else "") == "fusion")


def _front(facts: dict, fused: bool = False) -> dict:
    make = htk_matrix if fused else slaney_matrix
    matrix = make(facts["rate"], facts["n_fft"], facts["bands"], facts["low"], facts["high"])
    return {"matrix": matrix, **{name: facts[name] for name in ("rate", "seconds", "n_fft", "hop")}}


def htk_matrix(rate: int, n_fft: int, bands: int, low: float, high: float) -> np.ndarray:
    """(bands, n_fft / 2 + 1) triangular filters of height 1, evenly spaced on HTK's mel scale 2595 log10(1 + f / 700)."""
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([low, high]) / 700)), bands + 2) / 2595) - 1)
    at = np.linspace(0, rate // 2, n_fft // 2 + 1)
    rising, falling = (at - edges[:-2, None]) / np.diff(edges)[:-1, None], (edges[2:, None] - at) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def tokenizer_from(folder, kind: str, words: int):
    """A tokenizer of transformers (`kind`: its class) of `words` ids from a folder; FatalError where it is none, or another one."""
    import transformers

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file() and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise FatalError(f"{folder}: has no tokenizer (tokenizer.json, or vocab.json and merges.txt)")  # transformers makes an empty one of it
    try:
        made = getattr(transformers, kind).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # of several libraries
        raise FatalError(f"{folder}: its tokenizer cannot be read ({' '.join(str(error).split())[:100]}); get the folder anew") from None
    if len(made) != words:
        raise FatalError(f"{folder}: a tokenizer of {len(made)} ids, and the network knows {words}; give the one that it was trained with")
    return made
