"""AudioLDM 2 in batches: texts -> conditions, conditions and seeds -> sounds.

    model = AudioLdm2(folder, device)
    sounds = model.generate([Request("rain", seed=1), Request("a dog barks", seed=2, seconds=4)])

A text goes through CLAP's text tower and Flan-T5's encoder; GPT-2 continues both with eight vectors; the diffusion network attends to
these and to Flan-T5's states.  Networks are those of diffusers and transformers, loaded strictly.  `AudioLDM2Pipeline` itself is not used:
with transformers 5 its GPT-2 (`GPT2Model` in the released folder) cannot generate and its configuration has lost the number of
vectors; its positions depend on the longest text of a batch, and its ranking sorts the sounds of all texts together.  For one text, and
a negative prompt no longer than it, what is made here is what the pipeline makes.
"""

import dataclasses
import json
import math
import pathlib
import re
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from avtools.errors import FatalError
from avtools.models.parts import clap
from avtools.models.parts.audioldm import AudioLdmCodec
from avtools.models.parts.mel import slaney_matrix

TOKENS = 512  # of a text, at most
NEW = 8  # vectors that GPT-2 makes, where the configuration does not say
SPECIAL = 5  # what GPT-2 gets beside Flan-T5's states: CLAP's, and a begin and an end of each
SHORTEST = Fraction(1, 4)  # of the length that the network was trained on: shorter sounds are the begin of one as long as this
MARGIN = Fraction(1, 16)  # seconds that are kept beyond what was asked for, so that a resampler has something to look at
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
REMEDY = "give a folder as diffusers writes it, like cvssp/audioldm2"
_OLD = r"\.attn\.(masked_)?bias$|position_ids$|^lm_head\.|embed_tokens\.weight$"  # what is computed or tied


@dataclasses.dataclass
class Request:
    """One sound: `seconds` None is the length that the network was trained on."""

    text: str
    seed: int
    seconds: Fraction | None = None


@dataclasses.dataclass
class Condition:
    """Of one text: `states` (T, D) of Flan-T5, `mask` (T,), `vectors` (8, D') of GPT-2."""

    states: torch.Tensor
    mask: torch.Tensor
    vectors: torch.Tensor


class Codec(AudioLdmCodec):
    """The autoencoder and the vocoder as they lie in a folder of diffusers."""

    def __init__(self, vae: nn.Module, vocoder: nn.Module):
        nn.Module.__init__(self)
        self.vae, self.vocoder, self.scale = vae, vocoder, vae.config.scaling_factor
        self.sample_rate, self.latent_channels = vocoder.config.sampling_rate, vae.config.latent_channels
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.bins = vocoder.config.model_in_dim // self.factor
        self.hop = math.prod(vocoder.config.upsample_rates)
        self.step = self.hop * self.factor


class AudioLdm2:
    """All networks, ready on `device`, in eval mode and without gradients.

    `ranking`: CLAP's tower of sounds too, for :meth:`scores`.  `precision` fp32, bf16 or fp16 (autocast of the diffusion network; all else
    stays fp32).  `rate`: Hz of what is made; `native`: seconds that the network was trained on.  FatalError: weights that do not fit.
    """

    def __init__(self, folder, device, *, steps: int = 200, guidance: float = 3.5, negative: str = "", precision: str = "fp32", ranking: bool = False):
        import diffusers
        import transformers

        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        folder = pathlib.Path(folder)
        index = _json(folder / "model_index.json")
        if index.get("_class_name") != "AudioLDM2Pipeline" or (index.get("text_encoder_2") or ["", ""])[1] != "T5EncoderModel":
            raise FatalError(f"{folder}: is of {index.get('_class_name')}, not AudioLDM 2 for sounds and music; {REMEDY}")
        self.device, self.steps, self.guidance, self.negative, self.precision = torch.device(device), steps, guidance, negative, precision
        self.clap = clap.text_from(folder / "text_encoder", folder / "tokenizer", TOKENS).to(device)
        self.words = load_part(transformers.T5EncoderModel, folder / "text_encoder_2").to(device)
        self.projection = load_part(diffusers.AudioLDM2ProjectionModel, folder / "projection_model").to(device)
        self.language = load_part(transformers.GPT2Model, folder / "language_model").to(device)
        self.net = load_part(diffusers.AudioLDM2UNet2DConditionModel, folder / "unet").to(device)
        self.codec = Codec(load_part(diffusers.AutoencoderKL, folder / "vae"), load_part(transformers.SpeechT5HifiGan, folder / "vocoder")).to(device)
        self.ranker = clap.sound_of(clap.read(folder / "text_encoder")._replace(front=_front(folder / "feature_extractor"))).to(device) if ranking else None
        self.tokenizer = _tokenizer(folder / "tokenizer_2", self.words.config.vocab_size)
        self.new = _json(folder / "language_model" / "config.json").get("max_new_tokens") or NEW
        self.tokens = min(self.tokenizer.model_max_length, TOKENS, self.language.config.n_positions - self.new - SPECIAL)
        self.scheduler = _scheduler(folder, index)
        self.rate = self.codec.sample_rate
        self.whole = self.net.config.sample_size  # latent steps
        self.multiple = 2 ** (len(self.net.config.block_out_channels) - 1)  # of latent steps, which the network halves so often
        self.native = Fraction(self.whole * self.codec.step, self.rate)
        self.negatives: dict[int, Condition] = {}  # Flan-T5's length -> what is guided away from

    def latents(self, seconds: Fraction | None) -> int:
        """How many latent steps are drawn for a sound of `seconds`."""
        if seconds is None:
            return self.whole
        needed = max(seconds * self.rate / self.codec.step, self.whole * SHORTEST)
        return math.ceil(needed / self.multiple) * self.multiple

    def cut(self, text: str) -> int | None:
        """How many tokens `text` has where these are more than are read; else None."""
        count = len(self.tokenizer(text)["input_ids"])
        return count if count > self.tokens else None

    # --- texts -------------------------------------------------------------------------------------------

    def conditions(self, texts: list[str]) -> list[Condition]:
        """Of each text.  Those with as many tokens as each other share a batch, so that none is filled up and depends on others."""
        lengths: dict[int, list[int]] = {}
        tokens = [self.tokenizer(text, truncation=True, max_length=self.tokens)["input_ids"] for text in texts]
        for at, one in enumerate(tokens):
            lengths.setdefault(len(one), []).append(at)
        found: list = [None] * len(texts)
        for places in lengths.values():
            ids = torch.tensor([tokens[at] for at in places], device=self.device)
            for at, one in zip(places, self._encoded([texts[at] for at in places], ids, torch.ones_like(ids)), strict=True):
                found[at] = one
        return found

    def against(self, length: int) -> Condition:
        """Of the negative prompt, filled up to `length` tokens as the pipeline does; one that is longer is not cut."""
        if length not in self.negatives:
            own = self.tokenizer(self.negative, truncation=True, max_length=self.tokens)["input_ids"]
            fill = max(0, length - len(own))
            ids = torch.tensor([own + [self.tokenizer.pad_token_id] * fill], device=self.device)
            mask = torch.tensor([[1] * len(own) + [0] * fill], device=self.device)
            one = self._encoded([self.negative], ids, mask)[0]
            self.negatives[length] = Condition(one.states[: len(own)].clone(), one.mask[: len(own)].clone(), one.vectors)  # nothing looks at the rest
        return self.negatives[length]

    def _encoded(self, texts: list[str], ids: torch.Tensor, mask: torch.Tensor) -> list[Condition]:
        heard = self.clap(texts)[:, None]
        states = self.words(input_ids=ids, attention_mask=mask).last_hidden_state
        joined = self.projection(heard, states, attention_mask=mask.new_ones(len(texts), 1), attention_mask_1=mask)
        given, seen, past, made = joined.hidden_states, joined.attention_mask, None, []
        for _ in range(self.new):  # each vector is GPT-2's last state, and its next input
            out = self.language(inputs_embeds=given, attention_mask=seen, past_key_values=past, use_cache=True)
            given, past = out.last_hidden_state[:, -1:], out.past_key_values
            seen = torch.cat([seen, seen.new_ones(len(texts), 1)], 1)
            made.append(given)
        return [Condition(*one) for one in zip(states, mask, torch.cat(made, 1), strict=True)]

    # --- sounds ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(self, requests: list[Request]) -> list[np.ndarray]:
        """Of each request float32 (samples,) at `rate` Hz: what it asks for and up to MARGIN more.

        Its draws come from its seed alone.  Requests that need as many latent steps share a batch.
        """
        texts = list(dict.fromkeys(request.text for request in requests))
        conditions = dict(zip(texts, self.conditions(texts), strict=True))
        lengths: dict[int, list[int]] = {}
        for at, request in enumerate(requests):
            lengths.setdefault(self.latents(request.seconds), []).append(at)
        found: list = [None] * len(requests)
        for length, places in lengths.items():
            latents = self._denoised([conditions[requests[at].text] for at in places], [requests[at].seed for at in places], length)
            for at, sound in zip(places, self.codec.decode(latents).float().cpu().numpy(), strict=True):
                seconds = self.native if requests[at].seconds is None else requests[at].seconds + MARGIN
                found[at] = sound[: math.ceil(seconds * self.rate)]
        return found

    def _denoised(self, conditions: list[Condition], seeds: list[int], length: int) -> torch.Tensor:
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = torch.stack([torch.randn(self.net.config.in_channels, length, self.codec.bins, generator=draw) for draw in draws]).to(self.device)
        guided = self.guidance > 1
        asked = [self.against(len(one.mask)) for one in conditions] + conditions if guided else conditions
        longest = max(len(one.mask) for one in asked)
        states = torch.stack([nn.functional.pad(one.states, (0, 0, 0, longest - len(one.mask))) for one in asked])
        mask = torch.stack([nn.functional.pad(one.mask, (0, longest - len(one.mask))) for one in asked])
        vectors = torch.stack([one.vectors for one in asked])
        self.scheduler.set_timesteps(self.steps, device=self.device)
        latents = latents * self.scheduler.init_noise_sigma
        kind = AUTOCAST.get(self.precision)
        extra = _accepted(self.scheduler.step, eta=0.0, generator=draws)
        for time in self.scheduler.timesteps:
            seen = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, time)
            with torch.autocast(self.device.type, kind, enabled=kind is not None):
                noise = self.net(seen, time, encoder_hidden_states=vectors, encoder_hidden_states_1=states, encoder_attention_mask_1=mask, return_dict=False)[0]
            noise = noise.float()
            if guided:
                away, towards = noise.chunk(2)
                noise = away + self.guidance * (towards - away)
            latents = self.scheduler.step(noise, time, latents, **extra).prev_sample
        return latents

    @torch.inference_mode()
    def scores(self, texts: list[str], sounds: list[np.ndarray]) -> list[float]:
        """How well CLAP finds each sound (samples,) at `rate` Hz to go with its text: cosines, of a long sound the mean over its windows."""
        import soxr

        known = list(dict.fromkeys(texts))
        named = dict(zip(known, self.clap(known).float().cpu().numpy(), strict=True))
        heard = [soxr.resample(sound, self.rate, self.ranker.front.rate, quality="VHQ") for sound in sounds]
        found = clap.embed_sounds(self.ranker, heard, self.device)
        return [float((windows @ named[text]).mean()) for windows, text in zip(found, texts, strict=True)]


# --- loading ---------------------------------------------------------------------------------------------


def _json(path: pathlib.Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; {REMEDY}") from None
    except ValueError as error:
        raise FatalError(f"{path}: no JSON ({error}); get the folder anew") from None
    if not isinstance(found, dict):
        raise FatalError(f"{path}: not a JSON object; get the folder anew")
    return found


def load_part(kind, folder: pathlib.Path) -> nn.Module:
    """A network of transformers or diffusers out of its folder; FatalError where a tensor is missing, unknown or of another shape."""
    if not folder.is_dir():
        raise FatalError(f"{folder}: no such folder; {REMEDY}")
    try:
        network, told = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    except Exception as error:  # of several libraries
        raise FatalError(f"{folder}: cannot be loaded as {kind.__name__} ({' '.join(str(error).split())[:200]}); {REMEDY}") from None
    faults = []
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in told.get(what) or () if not re.search(_OLD, str(name)))
        if names:
            faults.append(f"{len(names)} {what.removesuffix('_keys')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    if faults:
        raise FatalError(f"{folder}: does not fit {kind.__name__}; {'; '.join(faults)}; {REMEDY}")
    return network.float().eval().requires_grad_(False)


def _tokenizer(folder: pathlib.Path, words: int):
    """That of Flan-T5, whose network knows a few more ids than it."""
    from transformers import T5Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise FatalError(f"{folder}: has no tokenizer.json; get the folder anew")  # transformers makes an empty one of it
    try:
        made = T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # of several libraries
        raise FatalError(f"{folder}: its tokenizer cannot be read ({' '.join(str(error).split())[:100]}); get the folder anew") from None
    if not 3 < len(made) <= words:
        raise FatalError(f"{folder}: a tokenizer of {len(made)} ids, and the network knows {words}; give the one that it was trained with")
    return made


def _front(folder: pathlib.Path) -> dict:
    """What CLAP's sounds come through (the arguments of `clap.FrontEnd`), which diffusers keeps in a folder of its own."""
    settings = _json(folder / "preprocessor_config.json")
    names = {"rate": "sampling_rate", "n_fft": "fft_window_size", "bands": "feature_size", "low": "frequency_min", "high": "frequency_max"}
    facts = {name: settings.get(key, clap.FRONT[name]) for name, key in names.items()}
    matrix = (clap.htk_matrix if settings.get("truncation") == "fusion" else slaney_matrix)(*facts.values())
    rest = {"seconds": settings.get("max_length_s", clap.FRONT["seconds"]), "hop": settings.get("hop_length", clap.FRONT["hop"])}
    return {"matrix": matrix, "rate": facts["rate"], "n_fft": facts["n_fft"], **rest}


def _scheduler(folder: pathlib.Path, index: dict):
    import diffusers

    name = (index.get("scheduler") or ["", ""])[1]
    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if kind is None:
        raise FatalError(f"{folder}: model_index.json names no scheduler that diffusers has ({name}); {REMEDY}")
    try:
        return kind.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    except Exception as error:  # of several libraries
        raise FatalError(f"{folder}/scheduler: cannot be read ({' '.join(str(error).split())[:100]}); {REMEDY}") from None


def _accepted(function, **settings) -> dict:
    """Those of the settings that `function` knows."""
    import inspect

    return {name: value for name, value in settings.items() if name in inspect.signature(function).parameters}
