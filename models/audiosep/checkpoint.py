"""Weights in and out: AudioSep's Lightning file and our own checkpoints, all strict (spec section 8.4).

Released: one pickle; under `state_dict` there are ss_model.base.* and ss_model.film.*, the kernels of its transforms (dropped),
and maybe CLAP under query_encoder.model.*.  The same names at the top level will do as well, and a folder with the one file.
Ours: config.json and model.safetensors (names without ss_model.; with query_encoder.model.* where it was converted with CLAP).
"""

import hashlib
import pathlib
from typing import NamedTuple

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.models.audiosep.config import CLAP, MAIN, QUERY_TOKENS, TOKENIZER, Config
from avtools.models.audiosep.model import SeparatorNet
from avtools.models.parts import clap
from avtools.training import config as settings

NET, KERNELS, QUERY = "ss_model.", ("base.stft.", "base.istft."), "query_encoder.model."
TEXT = ("text_branch.", "text_projection.")  # what queries need of CLAP
COUNTERS = (r"num_batches_tracked$",)  # of batch norm; nothing reads them
SUFFIXES = ("*.ckpt", "*.safetensors", "*.bin", "*.pt", "*.pth")


class Found(NamedTuple):
    """A checkpoint: tensors of :class:`SeparatorNet`; those of CLAP's text tower under LAION's names, or none; and its settings."""

    net: dict
    clap: dict
    config: Config
    where: pathlib.Path


def locate(source: str | None) -> pathlib.Path:
    """Where AudioSep's weights are; FatalError: none given, and where to get them."""
    if source is None:
        raise FatalError(
            f"no weights of {MAIN.what} (part '{hub.MAIN}', {MAIN.size / 1e9:.1f} GB, {MAIN.licence}): none given, and nothing to fetch them from; "
            f"download them by hand ({MAIN.source} says where), and give --weights FILE; or a RUN of 'avtools train audiosep'"
        )
    return hub.locate(source, MAIN, "audiosep")


# --- what it is --------------------------------------------------------------------------------------------


def _own_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: no such thing."""
    if path.is_file():
        return path.parent if path.name in hub.OWN_FILES and (path.parent / "config.json").is_file() else None
    return None if _released_file(path) else hub.checkpoint_of(path)


def _released_file(folder: pathlib.Path) -> pathlib.Path | None:
    """The one file of weights of a folder that is no checkpoint of ours."""
    if (folder / "checkpoints").is_dir() or any((folder / name).is_file() for name in hub.OWN_FILES):
        return None
    found = [file for pattern in SUFFIXES for file in sorted(folder.glob(pattern))]
    if len(found) > 1:
        raise FatalError(f"{folder}: holds {len(found)} files of weights ({', '.join(file.name for file in found[:4])}); give the one that is AudioSep's")
    return found[0] if found else None


def read(path) -> Found:
    """A checkpoint in any of the layouts; FatalError where it is none of AudioSep's."""
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is not None:
        file = hub.own_weights(own)
        tensors = hub.tensors(file)
        net = {name: tensor for name, tensor in tensors.items() if not name.startswith(QUERY)}
        return Found(net, texts_of(tensors), settings.of_checkpoint(own, "audiosep", Config()), file)
    file = _released_file(path) if path.is_dir() else path
    tensors = clap.named(file, "state_dict")
    net = {name.removeprefix(NET): tensor for name, tensor in tensors.items() if not name.startswith("query_encoder.")}
    net = {name: tensor for name, tensor in net.items() if not name.startswith(KERNELS)}
    return Found(net, texts_of(tensors), told({name: tuple(tensor.shape) for name, tensor in net.items()}, file), file)


def texts_of(tensors: dict) -> dict:
    """CLAP's text tower in an AudioSep checkpoint, under LAION's names."""
    inner = {name.removeprefix(QUERY).removeprefix("module."): tensor for name, tensor in tensors.items() if name.startswith(QUERY)}
    return {name: tensor for name, tensor in inner.items() if name.startswith(TEXT)}


def config_of(path) -> Config:
    """The settings of a checkpoint: its own, or what the released one's shapes tell (rate and hop as published)."""
    return read(path).config


def told(shapes: dict[str, tuple[int, ...]], where) -> Config:
    """The settings that the shapes of a network's tensors tell."""
    config = Config()
    try:
        count = len([name for name in shapes if name.startswith("base.encoder_block") and name.endswith(".conv_block1.conv1.weight")])
        values = {
            "n_fft": 2 * (shapes["base.bn0.weight"][0] - 1),
            "first": shapes["base.pre_conv.weight"][0],
            "widths": [shapes[f"base.encoder_block{k}.conv_block1.conv1.weight"][0] for k in range(1, count + 1)],
            "pools": [list(shapes[f"base.decoder_block{k}.conv1.weight"][2:]) for k in range(count, 0, -1)],
            "middle": shapes[f"base.conv_block{count + 1}a.conv_block1.conv1.weight"][0],
            "condition": shapes["film.encoder_block1->conv_block1->beta1.weight"][1],
        }
    except (KeyError, IndexError) as error:
        raise FatalError(f"{where}: not AudioSep (no {error}); give audiosep_base_4M_steps.ckpt, or a RUN of 'avtools train audiosep'") from None
    settings.merge(config, values, str(where))
    return config


# --- loading -------------------------------------------------------------------------------------------------


def load(weights: hub.Weights) -> tuple[SeparatorNet, torch.nn.Module]:
    """(separator, encoder of queries: [str] -> (N, D) of unit length), on the CPU; FatalError: missing, or does not fit."""
    found = read(locate(weights.get("")))
    net = SeparatorNet(found.config)
    hub.load_strict(net, found.net, found.where, ignore=COUNTERS)
    return net, query_encoder(found.config, weights, found)


def query_encoder(config: Config, weights: hub.Weights, found: Found | None = None):
    """What makes conditions of texts: CLAP of the part `clap` where that is given, else of the checkpoint, else of the part's own source."""
    if config.query == "words":
        from avtools.models.audiosep.queries import WordQueries

        return WordQueries(config.condition)
    inside = found is not None and bool(found.clap) and weights.get(CLAP.name) is None
    if inside:
        released = clap.laion(found.clap, found.where)
    else:
        path = hub.locate(weights.get(CLAP.name), CLAP, "audiosep")
        released = clap.read(_clap_file(path))
    if not released.text:
        raise FatalError(f"{released.where}: has no texts of CLAP (text_branch.* or text_model.*); give --weights clap=FILE, a checkpoint of LAION's CLAP")
    words = released.tensors["text_model.embeddings.word_embeddings.weight"].shape[0]
    folder = released.folder
    if folder is None or weights.get(TOKENIZER.name) is not None:
        folder = hub.locate(weights.get(TOKENIZER.name), TOKENIZER, "audiosep")
    made = clap.text_of(released, clap.tokenizer_from(folder, "RobertaTokenizer", words), QUERY_TOKENS)
    if made.dim != config.condition:
        raise FatalError(f"{released.where}: its embeddings have {made.dim} numbers, and AudioSep takes {config.condition}; give the CLAP that it was trained with")
    return made


def _clap_file(path: pathlib.Path) -> pathlib.Path:
    """A file of LAION's CLAP, or a folder as transformers writes it; a folder of the hub's cache holds the one file."""
    return path / CLAP.files[0] if path.is_dir() and not (path / "config.json").is_file() and (path / CLAP.files[0]).is_file() else path


def digest(weights: hub.Weights) -> str:
    """What identifies the weights that :func:`load` would read; FatalError where some are missing."""
    path = locate(weights.get(""))
    found = read(path)
    digests = [hub.digest(_own_folder(path) or found.where)]
    if found.config.query == "clap":
        outside = not found.clap or weights.get(CLAP.name) is not None
        beside = _clap_file(hub.locate(weights.get(CLAP.name), CLAP, "audiosep")) if outside else None
        if beside is not None:
            digests.append(hub.digest(beside))
        if beside is None or not beside.is_dir() or weights.get(TOKENIZER.name) is not None:
            digests.append(hub.digest(hub.locate(weights.get(TOKENIZER.name), TOKENIZER, "audiosep")))
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


# --- writing ---------------------------------------------------------------------------------------------------


def convert(path, out) -> pathlib.Path:
    """Write a released checkpoint, with the text tower that it holds, as one of ours; config.json last."""
    path, out = pathlib.Path(path), pathlib.Path(out)
    hub.check_no_checkpoint(out)
    found = read(path)
    with torch.device("meta"):
        net = SeparatorNet(found.config)
    counters = {name: torch.zeros((), dtype=torch.long) for name in net.state_dict() if name.endswith("num_batches_tracked")}
    hub.load_strict(net, {**counters, **found.net}, found.where)
    tensors = {**net.state_dict(), **{QUERY + name: tensor for name, tensor in found.clap.items()}}
    hub.save_checkpoint(out, {"model.safetensors": (tensors, None)}, "audiosep", settings.as_dict(found.config))
    return out
