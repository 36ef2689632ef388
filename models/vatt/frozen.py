"""The parts that do not train: the encoder of pictures, the codec, the language model with its projection."""

import contextlib
import pathlib

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.vatt import codec as codecs
from avtools.models.vatt import converter, language, prompts
from avtools.models.vatt import features as published
from avtools.models.vatt.config import CODEBOOK, CODEC, CONVERTER, EVA, LANGUAGE

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SYSTEM = "vatt"
#: What the tiny language model knows beside the instructions: the words of synthetic clips' captions.
WORDS = (
    "a an the and of one two three four once twice times on in left right middle then while is are , . ; with from side",
    "red green blue yellow purple pink cyan orange white gray grey brown black",
    "ball drum bell horn siren bird rattle woodblock flaps bounces rings swings blows howls shakes claps hit chirps chirp",
    "thud thuds beat beats drumbeat ring chime chimes toot toots wail wails honk honks clap clack clacks click clicks rattles bang bangs hits shake",
)


def picture_encoder(config, weights: hub.Weights):
    """An encoder whose `features(frames)` gives (F, D) of (F, S, S, 3) uint8."""
    if config.encoder == "pixels":
        from avtools.models.parts.tiny.pixels import Pixels

        made = Pixels(config.frame_size)
    else:
        made = published.load(hub.locate(weights.get(EVA.name), EVA, SYSTEM))
        if made.size != config.frame_size:
            raise UsageError(f"frame_size {config.frame_size}: the encoder sees pictures of {made.size}; --set frame_size={made.size}")
    if made.dim != config.features:
        raise UsageError(f"features {config.features}: the encoder {config.encoder} gives {made.dim}; --set features={made.dim}")
    return made


def sees(config, weights: hub.Weights) -> bool:
    """Whether there is an encoder of pictures: one that needs no weights, or is given, or in the hub's cache."""
    if config.encoder != "eva02" or weights.get(EVA.name) is not None:
        return True
    with contextlib.suppress(FatalError):
        return bool(hub.locate(None, EVA, SYSTEM))
    return False


def sound_codec(config, weights: hub.Weights):
    """The codec; FatalError or UsageError where it is not the one that the configuration, or a file of codebooks, is made for."""
    if config.codec == "sound-codes":
        from avtools.models.parts.tiny.sound_codes import SoundCodes

        made = SoundCodes()
    else:
        made = codecs.load(hub.locate(weights.get(CODEC.name), CODEC, SYSTEM))
    if weights.get(CODEBOOK.name) is not None:
        path = hub.locate(weights.get(CODEBOOK.name), CODEBOOK, SYSTEM)
        codecs.check_codebooks(codecs.read_codebooks(path), made, path)
    net, shape = config.net, tuple(made.tables.shape)
    if shape != (net.levels, net.codes, net.latent):
        told = f"net.levels {net.levels}, net.codes {net.codes}, net.latent {net.latent}"
        raise UsageError(f"{told}: the codec {config.codec} has {shape[0]}, {shape[1]} and {shape[2]}; choose another preset, or another codec")
    if made.rate != config.sample_rate or made.rate / made.hop != net.rate:
        raise UsageError(
            f"sample_rate {config.sample_rate}, net.rate {net.rate:g}: the codec {config.codec} works at {made.rate} Hz, {made.rate / made.hop:g} rows a second"
        )
    return made


def the_converter(config, weights: hub.Weights, device, *, released=None, merge: bool = True, given: bool = True) -> converter.Converter:
    """The language model with its projection, on the CPU, frozen.

    `released`: (what a release's .ckpt holds, where).  `given`: FatalError where a language model of a folder would come without a
    trained projection.  Without weights (tiny) the projection is random, and always the same.
    """
    dtype = PRECISIONS[config.language_precision] if torch.device(device).type == "cuda" else torch.float32
    options = {"rate": config.frame_rate, "tokens_per_second": config.video_tokens_per_second}
    source = weights.get(CONVERTER.name)
    own = _run(source) if source is not None else None
    found, where = released or (None, None)
    if source is not None and own is None:
        found, where = converter.read(hub.locate(source, CONVERTER, SYSTEM))
    if config.language == "tiny":
        from avtools.models.parts.tiny.llama import tiny_llama

        net, tokenizer = tiny_llama((*WORDS, *prompts.SOUND_POOL, *prompts.PICTURE_POOL, prompts.TEMPLATES["alpaca"]("")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = converter.Converter(language.Language(net, tokenizer, "alpaca"), config.features, **options)
        if found is not None:
            converter.load_delta(made, found, where)
    else:
        path = hub.locate(weights.get(LANGUAGE.name), LANGUAGE, SYSTEM)
        if given and found is None and own is None:
            remedy = "give --weights converter=RUN of 'avtools train vatt-converter', or a released one"
            raise FatalError(f"{path}: comes without a trained projection of video; {remedy}")
        made = converter.load(path, found, where, dtype=dtype, merge=False, features=config.features, **options)
    if own is not None:
        load_run(made, own)
    made.eval().requires_grad_(False)
    if merge:
        made.merge()
    return made.to(dtype)


def _run(source: str) -> pathlib.Path | None:
    """The checkpoint folder of a run of vatt-converter; None: `source` is something else."""
    path = pathlib.Path(source)
    if not path.is_dir():
        return None
    with contextlib.suppress(FatalError):
        folder = hub.checkpoint_of(path)
        system = hub.config_of(folder)["system"]
        if system != "vatt-converter":
            raise UsageError(f"{folder}: a checkpoint of {system}, not of vatt-converter; give another")
        return folder
    return None


def load_run(made: converter.Converter, folder: pathlib.Path) -> None:
    """Put what a run of vatt-converter trained into `made`, which gets adapters where the run has some; strict."""
    told = hub.config_of(folder)["config"]
    file = hub.own_weights(folder)
    tensors = hub.tensors(file)
    if any(".lora_" in name for name in tensors) and not language.adapters(made.net):
        language.adapt(made.net, told["rank"], told["alpha"], 0.0, told["targets"])
    hub.load_strict(made, tensors, file, ignore=(r"^net\.(?!.*\.lora_)",))


def digests(config, weights: hub.Weights, names: tuple[str, ...]) -> list[str]:
    """What identifies the frozen parts of these names that the configuration asks for."""
    wanted = {EVA.name: (EVA, config.encoder == "eva02"), LANGUAGE.name: (LANGUAGE, config.language == "folder")}
    wanted[CODEC.name] = (CODEC, getattr(config, "codec", "") == "encodec")
    found = []
    for name in names:
        if name == CONVERTER.name:
            source = weights.get(name)
            folder = _run(source) if source is not None else None
            if source is not None:
                found.append(f"{name}={hub.digest(folder or hub.locate(source, CONVERTER, SYSTEM))}")
        elif wanted[name][1]:
            found.append(f"{name}={hub.digest(hub.locate(weights.get(name), wanted[name][0], SYSTEM))}")
    return found
