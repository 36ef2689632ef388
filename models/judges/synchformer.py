"""Synchformer (Iashin et al. 2024, arXiv:2401.16423): by how much sound and picture are apart, one of 21 classes from -2 to 2 s.

Segments of 0.64 s, one each 0.32 s, are encoded apart: pictures by Motionformer with attention divided between space and
time, sound by AST; a layer with a token of its own sums up each moment's places or bands.  A transformer then reads the 14
segments of a decision, first what is seen, then what is heard.

Names are those of `synchformer_state_dict.pth`.  Sizes are read from the shapes of the tensors, heads being 64 wide in
the encoders, and 8 in what reads them.
"""

import dataclasses
import functools
import math
import re

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError

FPS, RATE = 25, 16000  # of pictures and of sound, Hz
PICTURES, PICTURE_STEP = 16, 8  # of a segment, and from one to the next
SAMPLES, SAMPLE_STEP = 10240, 5120
SEGMENT, STEP = PICTURES / FPS, PICTURE_STEP / FPS  # seconds
N_FFT, WINDOW, HOP, BANDS = 1024, 400, 160, 128
MEAN, DEVIATION = -4.2677393, 4.5689974  # of log-mel values over AudioSet
LONGEST = 2.0  # seconds: the grid of offsets goes from -LONGEST to LONGEST
HEADS = 8  # of what decides
UNUSED = (r"^vfeat_extractor\.(patch_embed|head|head_drop|pre_logits)\.", r"^afeat_extractor\.(ast\.pooler|classifier)\.")  # of the encoders' own training


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the networks; the defaults are the released ones."""

    width: int = 768
    picture_layers: int = 12
    sound_layers: int = 12
    layers: int = 3
    picture: int = 224  # pixels a side
    patch: int = 16  # of pictures
    pictures: int = PICTURES  # of a segment; two of them are one moment
    sound_patch: int = 16
    sound_step: int = 10
    frames: int = 66  # of a segment's log-mel spectrogram
    segments: int = 14  # of a decision
    classes: int = 21

    @property
    def places(self) -> int:
        return (self.picture // self.patch) ** 2

    @property
    def moments(self) -> int:
        return self.pictures // 2

    @property
    def heard(self) -> tuple[int, int]:
        """Patches of a segment's sound: (bands, moments)."""
        return tuple((length - self.sound_patch) // self.sound_step + 1 for length in (BANDS, self.frames))

    @classmethod
    def of(cls, shapes: dict[str, tuple[int, ...]]) -> "Size":
        """From the shapes of released tensors; KeyError, ValueError or IndexError where they are others."""
        width, _, _, patch, _ = shapes["vfeat_extractor.patch_embed_3d.proj.weight"]
        moments, sound_patch = shapes["vfeat_extractor.temp_embed"][1], shapes["afeat_extractor.ast.embeddings.patch_embeddings.projection.weight"][2]
        side = math.isqrt(shapes["vfeat_extractor.pos_embed"][1] - 1)
        bands = (BANDS - sound_patch) // cls.sound_step + 1
        heard = (shapes["afeat_extractor.ast.embeddings.position_embeddings"][1] - 2) // bands
        return cls(
            width,
            *(_layers(shapes, begin) for begin in ("vfeat_extractor.blocks.", "afeat_extractor.ast.encoder.layer.", "transformer.blocks.")),
            picture=side * patch,
            patch=patch,
            pictures=2 * moments,
            sound_patch=sound_patch,
            frames=(heard - 1) * cls.sound_step + sound_patch,
            segments=(shapes["transformer.pos_emb.pos_emb"][1] - 2) // (moments + heard),
            classes=shapes["transformer.off_head.weight"][0],
        )


def _layers(shapes: dict, begin: str) -> int:
    return len({match[1] for match in (re.match(re.escape(begin) + r"(\d+)\.", name) for name in shapes) if match})


# --- the encoders ---------------------------------------------------------------------------------------------------


class Summary(nn.TransformerEncoderLayer):
    """(B, N, D) -> (B, D): a token of its own that has looked at all N."""

    def __init__(self, width: int):
        super().__init__(width, max(1, width // 64), 4 * width, 0.0, nn.GELU(), layer_norm_eps=1e-6, batch_first=True, norm_first=True)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, tokens):
        return super().forward(torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1))[:, 0]


class Divided(nn.Module):
    """Attention of the patches of one moment to each other (over space), or of one place's over time; all see the class token,
    and it sees all."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(1, width // 64)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens, moments: int, over_time: bool):
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, B, heads, N, d
        first = functional.scaled_dot_product_attention(parts[0, :, :, :1], parts[1], parts[2])
        grouped = parts[:, :, :, 1:].unflatten(3, (moments, -1))  # 3, B, heads, moments, places, d
        grouped = (grouped.transpose(3, 4) if over_time else grouped).transpose(2, 3)  # 3, B, groups, heads, members, d
        classes = parts[1:, :, None, :, :1].expand(-1, -1, grouped.shape[2], -1, -1, -1)
        keys, values = torch.cat([classes, grouped[1:]], 4).flatten(1, 2)
        others = functional.scaled_dot_product_attention(grouped[0].flatten(0, 1), keys, values)
        others = others.unflatten(0, grouped.shape[1:3]).transpose(1, 2)  # B, heads, groups, members, d
        others = (others.transpose(2, 3) if over_time else others).flatten(2, 3)
        return self.proj(torch.cat([first, others], 2).transpose(1, 2).flatten(2))


class DividedBlock(nn.Module):
    """Over time, over space, then each token alone."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn, self.timeattn = Divided(width), Divided(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, tokens, moments: int):
        tokens = tokens + self.timeattn(self.norm3(tokens), moments, True)
        tokens = tokens + self.attn(self.norm1(tokens), moments, False)
        return tokens + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(tokens))))


class Motionformer(nn.Module):
    """Segments (N, 16, 3, 224, 224) of -1..1 -> (N, 8, 768): a vector for each two pictures."""

    def __init__(self, size: Size):
        super().__init__()
        self.size, width = size, size.width
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, size.places + 1, width) * 0.02)
        self.temp_embed = nn.Parameter(torch.randn(1, size.moments, width) * 0.02)
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, width, (2, size.patch, size.patch), (2, size.patch, size.patch))})
        self.blocks = nn.ModuleList(DividedBlock(width) for _ in range(size.picture_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.spatial_attn_agg = Summary(width)

    def forward(self, segments):
        tokens = self.patch_embed_3d["proj"](segments.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)  # N, moments, places, D
        tokens = (tokens + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]).flatten(1, 2)
        tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens, self.size.moments)
        moments = self.norm(tokens[:, 1:]).unflatten(1, (self.size.moments, -1))
        return self.spatial_attn_agg(moments.flatten(0, 1)).unflatten(0, moments.shape[:2])


class AstLayer(nn.Module):
    """A layer of a vision transformer that normalises first, under the names of transformers before its version 5."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(1, width // 64)
        inner = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"attention": inner, "output": nn.ModuleDict({"dense": nn.Linear(width, width)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * width, width)})
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, tokens):
        normed = self.layernorm_before(tokens)
        parts = (self.attention["attention"][name](normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        tokens = tokens + self.attention["output"]["dense"](functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return tokens + self.output["dense"](functional.gelu(self.intermediate["dense"](self.layernorm_after(tokens))))


class Ast(nn.Module):
    """AST (Gong et al. 2021): log-mel (N, frames, 128) -> tokens (N, bands, moments, D), without its two class tokens."""

    def __init__(self, size: Size):
        super().__init__()
        width, (bands, moments) = size.width, size.heard
        self.embeddings = nn.Module()
        self.embeddings.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.embeddings.distillation_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.embeddings.position_embeddings = nn.Parameter(torch.randn(1, bands * moments + 2, width) * 0.02)
        self.embeddings.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, width, size.sound_patch, size.sound_step)})
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(AstLayer(width) for _ in range(size.sound_layers))})
        self.layernorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, mel):
        own = self.embeddings
        patches = own.patch_embeddings["projection"](mel.transpose(1, 2)[:, None])
        classes = torch.cat([own.cls_token, own.distillation_token], 1).expand(len(mel), -1, -1)
        tokens = torch.cat([classes, patches.flatten(2).transpose(1, 2)], 1) + own.position_embeddings
        for layer in self.encoder["layer"]:
            tokens = layer(tokens)
        return self.layernorm(tokens)[:, 2:].unflatten(1, patches.shape[2:])


class SoundSegments(nn.Module):
    """Segments' log-mel (N, 66, 128) -> (N, 6, 768): a vector for each 0.1 s."""

    def __init__(self, size: Size):
        super().__init__()
        self.ast, self.freq_attn_agg = Ast(size), Summary(size.width)

    def forward(self, mel):
        moments = self.ast(mel).transpose(1, 2)  # N, moments, bands, D
        return self.freq_attn_agg(moments.flatten(0, 1)).unflatten(0, moments.shape[:2])


# --- the decision ---------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.heads = HEADS if width % HEADS == 0 else 1
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens):
        parts = (layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens):
        tokens = tokens + self.attn(self.ln1(tokens))
        return tokens + self.mlp(self.ln2(tokens))


class Decision(nn.Module):
    """Vectors seen (B, Tv, D) and heard (B, Ta, D) of 14 segments -> logits (B, 21)."""

    def __init__(self, size: Size):
        super().__init__()
        width = size.width
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.OFF_tok, self.MOD_tok = (nn.Parameter(torch.randn(1, 1, width)) for _ in range(2))
        self.pos_emb = nn.Module()
        self.pos_emb.pos_emb = nn.Parameter(torch.randn(1, 2 + size.segments * (size.moments + size.heard[1]), width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(size.layers)))
        self.ln_f, self.off_head = nn.LayerNorm(width), nn.Linear(width, size.classes)

    def forward(self, seen, heard):
        off, between = (token.expand(len(seen), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        tokens = torch.cat([off, self.vis_in_lnorm(seen), between, self.aud_in_lnorm(heard)], 1) + self.pos_emb.pos_emb
        return self.off_head(self.ln_f(self.blocks(tokens))[:, 0])


class Synchformer(nn.Module):
    """All of it: pictures (B, S, 16, 3, 224, 224) of -1..1 and log-mel (B, S, 66, 128) of S = 14 segments -> logits (B, 21).

    Class k stands for `grid()[k]` seconds: by so much the sound was taken from later in the source than the picture, so
    that it is heard too early; negative: too late.
    """

    def __init__(self, size: Size = Size()):
        super().__init__()
        self.size = size
        self.vfeat_extractor, self.afeat_extractor = Motionformer(size), SoundSegments(size)
        self.vproj, self.aproj = nn.Linear(size.width, size.width), nn.Linear(size.width, size.width)
        self.transformer = Decision(size)

    def see(self, segments):
        """(N, 16, 3, 224, 224) -> (N, 8, D)."""
        return self.vproj(self.vfeat_extractor(segments))

    def hear(self, mel):
        """(N, 66, 128) -> (N, 6, D)."""
        return self.aproj(self.afeat_extractor(mel))

    def decide(self, seen, heard):
        """(B, S, 8, D), (B, S, 6, D) -> (B, 21)."""
        return self.transformer(seen.flatten(1, 2), heard.flatten(1, 2))

    def forward(self, pictures, mel):
        seen, heard = self.see(pictures.flatten(0, 1)), self.hear(mel.flatten(0, 1))
        return self.decide(seen.unflatten(0, pictures.shape[:2]), heard.unflatten(0, mel.shape[:2]))

    @torch.no_grad()
    def judge(self, pictures, sound):
        """Pictures (T, H, W, 3) uint8 at 25 per second and sound (n,) at 16 kHz from the same moment -> logits (decisions, 21).

        Each segment is encoded once, 14 at a time; memory beyond the arguments does not grow with the clip.
        """
        segments = count(len(pictures), len(sound))
        if not segments:
            raise ValueError(f"{len(pictures)} pictures and {len(sound)} samples are shorter than a segment")
        seen, heard, device = [], [], self.vproj.weight.device
        for begin in range(0, segments, self.size.segments):
            numbers = range(begin, min(begin + self.size.segments, segments))
            some = torch.stack([pictures[k * PICTURE_STEP : k * PICTURE_STEP + PICTURES] for k in numbers]).to(device)
            seen.append(self.see(some.permute(0, 1, 4, 2, 3).float() / 127.5 - 1))
            some = torch.stack([sound[k * SAMPLE_STEP : k * SAMPLE_STEP + SAMPLES] for k in numbers]).to(device)
            heard.append(self.hear(log_mel(some, self.size.frames).transpose(1, 2)))
        seen, heard = torch.cat(seen), torch.cat(heard)
        return torch.cat([self.decide(seen[one][None], heard[one][None]) for one in groups(segments, self.size.segments)])


# --- what it is given -----------------------------------------------------------------------------------------------


def grid(classes: int = 21) -> torch.Tensor:
    """What the classes stand for, seconds."""
    return torch.linspace(-LONGEST, LONGEST, classes)


def count(pictures: int, samples: int) -> int:
    """Segments that fit into both."""
    return max(0, min((pictures - PICTURES) // PICTURE_STEP, (samples - SAMPLES) // SAMPLE_STEP) + 1)


def groups(segments: int, size: int = 14) -> torch.Tensor:
    """Numbers (decisions, size) of the segments that each decision sees: of fewer than `size`, all over and over; else one group
    after the other, the last of which ends with the clip."""
    if segments <= size:
        return (torch.arange(size) % segments)[None]
    begins = [*range(0, segments - size, size), segments - size]
    return torch.tensor(begins)[:, None] + torch.arange(size)


def sound_segments(sound: torch.Tensor) -> torch.Tensor:
    """(n,) at 16 kHz -> (S, 10240), one each 0.32 s."""
    return sound.unfold(0, SAMPLES, SAMPLE_STEP)


def log_mel(segments: torch.Tensor, frames: int = 66) -> torch.Tensor:
    """(N, 10240) at 16 kHz -> (N, 128, `frames`) standardised: ln of power in 128 HTK bands, a frame each 10 ms.

    The frames that a segment lacks (the last one) are 0 before it is standardised, as released weights know it.
    """
    window = torch.hann_window(WINDOW, device=segments.device)
    with torch.autocast(segments.device.type, enabled=False):
        spectrum = torch.stft(segments.float(), N_FFT, HOP, WINDOW, window, center=True, pad_mode="reflect", return_complex=True)
        mel = (_bands().to(segments.device) @ spectrum.abs().square() + 1e-6).log()
    mel = functional.pad(mel[..., :frames], (0, max(0, frames - mel.shape[-1])))
    return (mel - MEAN) / (2 * DEVIATION)


@functools.cache
def _bands() -> torch.Tensor:
    """(128, 513): triangles of height 1, evenly spaced from 0 to 8 kHz on HTK's mel scale, 2595 log10(1 + f / 700)."""
    at = torch.linspace(0, RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    rising = (at - edges[:-2, None]) / edges.diff()[:-1, None]
    falling = (edges[2:, None] - at) / edges.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


# --- the file -------------------------------------------------------------------------------------------------------


def load(path) -> Synchformer:
    """The network of `synchformer_state_dict.pth`, of the same in safetensors, or of a checkpoint of its training ("model").

    On the CPU, in eval mode and without gradients.  FatalError lists what does not fit; parts that only the training of
    the encoders used may be there or not.
    """
    tensors = hub.tensors(path, "")
    for prefix in ("model.", "module."):
        if not any(name.startswith("transformer.") for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        size = Size.of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    except (KeyError, ValueError, IndexError) as error:
        raise FatalError(f"{path}: is no whole Synchformer ({error} is missing or of another kind); give synchformer_state_dict.pth") from None
    with torch.device("meta"):  # takes over the file's tensors
        net = Synchformer(size)
    hub.load_strict(net, tensors, path, ignore=UNUSED)
    return net.eval().requires_grad_(False)
