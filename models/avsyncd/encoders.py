"""The frozen networks: the pictures' codec, the sound's and the text's tokens (spec ASVA, sections 1.2, 1.3)."""

import torch
from torch import nn

from avtools.models.parts.tiny.mel_bands import MelBands
from avtools.models.parts.tiny.space_to_depth import SpaceToDepth
from avtools.models.parts.tiny.words import Words

SECONDS, RATE = 2.0, 16000  # of the sound that a clip has
AT_ONCE = 16  # pictures that the VAE decodes together
CLIP = {  # CLIP ViT-L/14's text tower (transformers' CLIPTextConfig)
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
VAE = {  # Stable Diffusion 1.5's (diffusers' AutoencoderKL)
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "scaling_factor": 0.18215,
}


class Vae(nn.Module):
    """Stable Diffusion's: pictures (N, 3, h, w) within 0..1 <-> scaled latents (N, 4, h / 8, w / 8)."""

    def __init__(self, config: dict | None = None):
        from diffusers import AutoencoderKL

        super().__init__()
        self.settings = {**VAE, **{name: value for name, value in (config or {}).items() if name in VAE}}
        self.model = AutoencoderKL(**self.settings)
        self.scale, self.channels = self.settings["scaling_factor"], self.settings["latent_channels"]
        self.factor = 2 ** (len(self.settings["block_out_channels"]) - 1)

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the latents, single precision."""
        weight = self.model.quant_conv.weight
        moments = [self.model.encode(some * 2 - 1).latent_dist for some in pictures.to(weight).split(AT_ONCE)]
        return tuple(torch.cat([getattr(one, name) for one in moments]).float() * self.scale for name in ("mean", "std"))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        weight = self.model.quant_conv.weight
        made = [self.model.decode(some).sample.float() for some in (latents / self.scale).to(weight).split(AT_ONCE)]
        return (torch.cat(made) / 2 + 0.5).clamp(0, 1)


class ClipTokens(nn.Module):
    """CLIP's text tower as Stable Diffusion uses it: texts -> its last hidden states (B, 77, 768)."""

    def __init__(self, config: dict | None = None):
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.settings = {**CLIP, **{name: value for name, value in (config or {}).items() if name in CLIP}}
        self.model = CLIPTextModel(CLIPTextConfig(**self.settings))
        self.dim = self.settings["hidden_size"]

    @torch.no_grad()
    def forward(self, texts: list[str]) -> torch.Tensor:
        ids = token_ids(texts, self.settings["max_position_embeddings"]).to(next(self.model.parameters()).device)
        return self.model(input_ids=ids).last_hidden_state


def token_ids(texts: list[str], context: int = 77) -> torch.Tensor:
    """(B, `context`) CLIP's ids, the end repeated to the last place, as Stable Diffusion knows them."""
    from avtools.models.parts.imagebind.text import END, tokenize

    ids = tokenize(texts)[:, :context]
    over = torch.arange(context) >= (ids == END).long().argmax(1, keepdim=True)
    return torch.where(over & (ids == END).any(1, keepdim=True), END, ids).index_fill_(1, torch.tensor([context - 1]), END)


class ImageBindTokens(nn.Module):
    """ImageBind's audio tower: spectrograms (B, 1, 128, 204) of :func:`..parts.kaldi.mel` -> tokens (B, 229, 768), the class
    token first."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.dim = tower, tower.size.dim

    @torch.no_grad()
    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return self.tower(spectrogram.to(self._weight.dtype))

    @torch.no_grad()
    def null(self) -> torch.Tensor:
        """(1, 229, 768) of no sound: a spectrogram of the mean level all over, which is not silence."""
        from avtools.models.parts.imagebind.model import BANDS, TIMES

        return self(torch.zeros(1, 1, BANDS, TIMES, device=self._weight.device))

    @property
    def _weight(self) -> torch.Tensor:
        return self.tower.final_layer_norm.weight

    def mask(self, frames: int) -> torch.Tensor:
        """(frames, 229) bool: what each frame hears."""
        from avtools.models.parts.imagebind.model import segment_mask

        return segment_mask(frames)


class BandTokens(nn.Module):
    """Without weights: sound (B, 32000) -> (B, 200, 48), 50 times by 4 ranges of frequency, time by time: the packed
    mel bands of :class:`MelBands`, and where they are."""

    dim = 48

    def __init__(self):
        super().__init__()
        self.bands = MelBands()
        self.times, self.bins = self.bands.samples(SECONDS) // self.bands.step, self.bands.bins
        at = torch.linspace(0, 1, self.times)[:, None, None] * torch.arange(1, 7) * torch.pi
        place = torch.cat([at.cos(), at.sin()], -1).expand(-1, self.bins, -1)
        row = torch.eye(self.bins).expand(self.times, -1, -1)
        self.register_buffer("place", torch.cat([place, row], -1).flatten(0, 1), persistent=False)

    @torch.no_grad()
    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return self._tokens(self.bands.encode(sound.float())[0])

    def null(self) -> torch.Tensor:
        """(1, 200, 48) of no sound: the mean level all over."""
        return self._tokens(torch.zeros(1, self.bands.latent_channels, self.times, self.bins, device=self.place.device))

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        found = latents.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([found.to(self.place.dtype), self.place.expand(len(found), -1, -1)], -1)

    def mask(self, frames: int) -> torch.Tensor:
        """(frames, 200) bool: each frame hears ceil(50 / frames) times, their starts evenly spread."""
        count = -(-self.times // frames)
        starts = torch.linspace(0, self.times - count, frames).round().long()
        time = torch.arange(self.times)
        heard = (time >= starts[:, None]) & (time < starts[:, None] + count)
        return heard[:, :, None].expand(-1, -1, self.bins).flatten(1)


def weightless(config) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Codec, sound and text encoder of the configuration, as far as they need no weights."""
    codec = SpaceToDepth() if config.codec == "space-to-depth" else None
    sound = BandTokens() if config.sound_encoder == "bands" else None
    text = Words(config.unet["cross_attention_dim"]) if config.text_encoder == "words" else None
    return codec, sound, text
