"""The networks around JavisDiT that do not train, each loaded when it is first needed: codecs, encoders of captions.

With cached features none of them is, and none need be there.
"""

import contextlib
import functools

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.javisdit.weights import SOUND, VIDEO, WORDS
from avtools.system import Note
from avtools.training.draws import generator

CHUNKS = {"pixels": (1, 1), "opensora": (17, 5)}  # video codec -> pictures, and the latent frames of them
SOUND_STEP = 0.04  # seconds of a latent frame of either codec of sound


class PriorWords(nn.Module):
    """Captions -> (B, 24, dim) without weights."""

    limit = 24

    def __init__(self, dim: int):
        super().__init__()
        from avtools.models.parts.tiny.words import Words

        self.words, self.dim = Words(dim, self.limit), dim

    def forward(self, texts: list[str]) -> torch.Tensor:
        return self.words(texts)

    def cut(self, text: str) -> int | None:
        """How many words `text` has where these are more than are read; else None."""
        from avtools.models.parts.tiny.words import spelt

        count = len(spelt(text))
        return count if count > self.limit else None


class Frozen:
    """`config`: :class:`.config.Encoders`; `text_dim`, `tokens`: of the network's text; `prior_tower`: tensors of ImageBind's text in a
    prior's own file, with its name.  `notes`: of the captions that were too long; who asks for them sets it to [] first."""

    def __init__(self, config, weights: hub.Weights, device, system: str, text_dim: int = 0, tokens: int = 300, prior_tower=None):
        self.config, self.weights, self.device, self.system = config, weights, device, system
        self.text_dim, self.tokens, self.prior_tower = text_dim, tokens, prior_tower
        self.notes: list[Note] = []

    @functools.cached_property
    def video(self):
        if self.config.video_codec == "pixels":
            from avtools.models.parts.tiny.streams import VideoPixels

            return VideoPixels().to(self.device)
        from avtools.models.javisdit import video_vae

        return self._placed(video_vae.load(hub.locate(self.weights.get(VIDEO.name), VIDEO, self.system)))

    @functools.cached_property
    def sound(self):
        if self.config.sound_codec == "bands":
            from avtools.models.parts.tiny.streams import SoundBands

            return SoundBands().to(self.device)
        from avtools.models.javisdit import sound_codec

        return self._placed(sound_codec.load(hub.locate(self.weights.get(SOUND.name), SOUND, self.system), self.config.padding, self.config.level))

    @functools.cached_property
    def text(self):
        if self.config.text_encoder == "words":
            from avtools.models.parts.tiny.streams import WordStates

            return WordStates(self.text_dim, self.tokens).to(self.device)
        from avtools.models.javisdit import text

        dtype = torch.bfloat16 if torch.device(self.device).type == "cuda" else torch.float32
        made = self._placed(text.load_t5(hub.locate(self.weights.get(WORDS.name), WORDS, self.system), dtype, self.tokens))
        if made.dim != self.text_dim:
            raise UsageError(f"the network reads states {self.text_dim} wide, and the text encoder gives {made.dim}; give the one that it was trained with")
        return made

    @functools.cached_property
    def prior_text(self):
        if self.config.prior_text == "words":
            return PriorWords(self.config.prior_words).to(self.device)
        from avtools.models.javisdit import text

        if self.prior_tower is not None and self.prior_tower[0]:
            return self._placed(text.PriorText(text.tower_of(*self.prior_tower)))
        return self._placed(text.load_prior_text(self.weights))

    def _placed(self, network):
        return network.to(self.device).eval().requires_grad_(False)

    # --- what they make ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def video_latents(self, pictures: torch.Tensor, draws=None, purpose: str = "video") -> torch.Tensor:
        """(B, T, 3, H, W) uint8 -> (B, C, L, h, w) float32; with `draws` samples of the codec's Gaussian, else its mean."""
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return self.video.encode(pictures.to(self.device), _sources(draws, purpose)).float()

    @torch.no_grad()
    def sound_latents(self, waves: torch.Tensor, seconds, draws=None, purpose: str = "sound") -> torch.Tensor:
        """(B, S) -> (B, C, L, M) float32."""
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return self.sound.encode(waves.to(self.device), seconds, _sources(draws, purpose)).float()

    @torch.no_grad()
    def states(self, texts: list[str]) -> list[torch.Tensor]:
        """Captions -> (L, D) each, float32; those that are too long are cut, and noted."""
        self._note(self.text, texts, "the network")
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return [one.float() for one in self.text(texts)]

    @torch.no_grad()
    def prior_states(self, texts: list[str]) -> torch.Tensor:
        """(B, N, D) float32; captions as in :meth:`states`."""
        self._note(self.prior_text, texts, "the prior")
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return self.prior_text(texts).float()

    def _note(self, encoder, texts: list[str], reader: str) -> None:
        for place, text in enumerate(texts):
            if (count := encoder.cut(text)) is not None:
                self.notes.append(Note(place, f"captions beyond the {encoder.limit} tokens that {reader} reads", f"{count}: {text[:60]!r}"))

    # --- identity ------------------------------------------------------------------------------------------------

    def facts(self, video: bool, prior: bool) -> dict[str, str]:
        """Of the encoders that cached features come from; what is not at hand is left out."""
        from avtools.models.parts.imagebind.checkpoint import PART as IMAGEBIND

        config, words = self.config, bool(self.text_dim)
        found = {"sound": config.sound_codec, "padding": config.padding, "level": str(config.level), "fps": f"{config.fps:g}", "multiple": str(config.multiple)}
        if words:
            found["text"] = f"words {self.text_dim} {self.tokens}" if config.text_encoder == "words" else f"{config.text_encoder} {self.tokens}"
        if video:
            found["video"] = config.video_codec
        if prior:
            found["prior_text"] = f"{config.prior_text}{f' {config.prior_words}' if config.prior_text == 'words' else ''}"
        wanted = [(config.sound_codec == "audioldm2", SOUND), (video and config.video_codec == "opensora", VIDEO), (words and config.text_encoder == "t5", WORDS)]
        wanted.append((prior and config.prior_text == "imagebind", IMAGEBIND))
        for needed, part in wanted:
            if needed:
                with contextlib.suppress(FatalError):
                    found[f"{part.name}_digest"] = hub.digest(hub.locate(self.weights.get(part.name), part, self.system))
        return found


def _sources(draws, purpose: str):
    return None if draws is None else [generator(int(draw), f"codec {purpose}") for draw in draws]


def check(config, known: dict[str, tuple[str, ...]]) -> None:
    """UsageError where a setting is none of those there are."""
    for name, values in known.items():
        if getattr(config, name) not in values:
            raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(values)}")
