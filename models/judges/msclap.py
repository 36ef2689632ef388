"""Microsoft's CLAP of 2023 (Elizalde et al. 2023, arXiv:2309.05767): HTS-AT for sound, GPT-2 for text, 1024 numbers.

The released file, CLAP_weights_2023.pth, holds its tensors under `model`: `audio_encoder.base.htsat.*` (HTS-AT under its
own names, with the mel filters it was trained with), `caption_encoder.base.*` (GPT-2 as transformers names it), and to each a
`projection.*`.  Its front end is in no file: windows of 7 s at 44100 Hz, and a step of 320 samples, so 965 steps, of at most
the 1024 that HTS-AT sees.  Sound that is shorter is repeated; of longer sound the original takes a random part, here it is
all heard (:func:`avtools.models.parts.clap.windows`).
"""

import pathlib
from typing import Any

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError
from avtools.models.parts.clap import FrontEnd, htsat, htsat_config, named, tokenizer_from

RATE, SECONDS, HOP = 44100, 7, 320
CONTEXT, END = 77, "<|endoftext|>"
_BUFFERS = (r"relative_position_index$", r"num_batches_tracked$", r"attn\.(masked_)?bias$")  # GPT-2's causal mask, in files of old


class Projection(nn.Module):
    """(..., d) -> (..., D): LayerNorm(a + W gelu(a)), a the first linear map."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(before, after, bias=False), nn.Linear(after, after, bias=False)
        self.layer_norm = nn.LayerNorm(after)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        first = self.linear1(hidden)
        return self.layer_norm(first + self.linear2(nn.functional.gelu(first)))


class Sound(nn.Module):
    """(W, n) windows at 44100 Hz -> (W, 1024), not of unit length."""

    fill = "repeat"

    def __init__(self, config: dict, dim: int, front: FrontEnd):
        from transformers import ClapAudioConfig, ClapAudioModel

        super().__init__()
        self.base, self.front = ClapAudioModel(ClapAudioConfig(**config)).audio_encoder, front
        self.projection, self.dim = Projection(config["hidden_size"], dim), dim

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.projection(self.base(self.front(waveforms)).pooler_output)


class Text(nn.Module):
    """[str] -> (B, 1024), not of unit length: the projected state of a text's last token, an end of text where it is not cut.

    The original takes the place of the last token from the count of ids that are not 0, its padding; as that is also the id
    of "!", a text with n exclamation marks is read n tokens too early there, and at its end here.
    """

    def __init__(self, config: dict, dim: int, tokenizer, context: int = CONTEXT):
        from transformers import GPT2Config, GPT2Model

        super().__init__()
        self.base, self.tokenizer, self.context = GPT2Model(GPT2Config(**config)), tokenizer, context
        self.projection, self.dim = Projection(config["n_embd"], dim), dim

    @torch.no_grad()
    def forward(self, texts: list[str]) -> torch.Tensor:
        ids = [self.tokenizer(f"{text} {END}")["input_ids"][: self.context] for text in texts]
        padded = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)  # behind the end: no token sees what follows
        states = self.base(input_ids=padded.to(self.base.wte.weight.device)).last_hidden_state
        return self.projection(states[torch.arange(len(ids)), [len(one) - 1 for one in ids]])


def sound_from(path) -> Sound:
    """The tower of sounds of CLAP_weights_2023.pth, on the CPU, in eval mode and without gradients; strict."""
    tower, projection = _parts(path, "audio_encoder")
    tensors = {name.removeprefix("htsat."): tensor for name, tensor in tower.items()}
    config = htsat_config(tensors, path)
    if (mel := tensors.get("logmel_extractor.melW")) is None:
        raise FatalError(f"{path}: lacks its mel filters (audio_encoder.base.htsat.logmel_extractor.melW); give CLAP_weights_2023.pth as it was released")
    front = FrontEnd(mel.T, RATE, SECONDS, 2 * (mel.shape[0] - 1), HOP)
    network = Sound(config, projection["projection.linear1.weight"].shape[0], front)
    return _filled(network, {f"base.{name}": tensor for name, tensor in htsat(tensors).items()} | projection, path)


def text_from(path, tokenizer: pathlib.Path, context: int = CONTEXT) -> Text:
    """The tower of texts; `tokenizer`: a folder with GPT-2's (openai-community/gpt2)."""
    tower, projection = _parts(path, "caption_encoder")
    try:
        words, width = tower["wte.weight"].shape
        layers = len({name.split(".")[1] for name in tower if name.startswith("h.")})
        config = {"vocab_size": words, "n_embd": width, "n_layer": layers, "n_head": max(1, width // 64), "n_positions": tower["wpe.weight"].shape[0]}
    except (KeyError, IndexError) as error:
        raise FatalError(f"{path}: its text tower is no GPT-2 ({error}); give CLAP_weights_2023.pth, not that of 2022") from None
    network = Text(config, projection["projection.linear1.weight"].shape[0], tokenizer_from(tokenizer, "GPT2Tokenizer", words), context)
    return _filled(network, {f"base.{name}": tensor for name, tensor in tower.items()} | projection, path)


def _parts(path, encoder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the tower's tensors, the projection's) of one of both encoders."""
    tensors = named(path, "model")
    tower = {name.removeprefix(f"{encoder}.base."): tensor for name, tensor in tensors.items() if name.startswith(f"{encoder}.base.")}
    projection = {name.removeprefix(f"{encoder}."): tensor for name, tensor in tensors.items() if name.startswith(f"{encoder}.projection.")}
    if not tower or "projection.linear1.weight" not in projection:
        begins = ", ".join(list(tensors)[:3])
        raise FatalError(f"{path}: no CLAP of Microsoft ({encoder}.base.*, {encoder}.projection.*; its names begin with {begins}); give CLAP_weights_2023.pth")
    return tower, projection


def _filled(network, tensors: dict[str, Any], path):
    hub.load_strict(network, tensors, path, ignore=_BUFFERS)
    return network.eval().requires_grad_(False)
