"""Sources heard, and a prompt -> a video in which each has its place (spec MAESTRO, sections 2 and 5)."""

import dataclasses
import json

import numpy as np
import torch

from avtools.errors import RowError, UsageError
from avtools.models.avsyncd.sampling import levels
from avtools.models.maestro import codec as pictures
from avtools.models.maestro import data, diffusion
from avtools.models.maestro.context import contexts
from avtools.models.maestro.mosaic import LEGACY, Mosaic, Scene
from avtools.models.parts.clips import text_of


@dataclasses.dataclass
class Source:
    """What is heard of an item: its prompt, and of each source its clips' tokens (K, q, D) and each frame's clip (T,)."""

    text: str
    tokens: list[torch.Tensor]
    picks: list[torch.Tensor]
    regions: object | None  # :class:`.regions.Regions`, where there are several


def settings_of(options: dict) -> diffusion.Settings:
    return diffusion.Settings(options["steps"], options["scheduler"], options["guidance"], options["eta"], options["legacy_times"])


def check_size(config) -> None:
    """UsageError where a video model's pictures cannot be made."""
    factor = 8 if config.codec == "kl" else 4
    for name in ("height", "width"):
        if getattr(config, name) < factor or getattr(config, name) % factor:
            raise UsageError(f"{name} {getattr(config, name)}: a multiple of {factor}, by which the codec {config.codec} makes pictures smaller")
    if config.frames < 1 or not config.fps > 0:
        raise UsageError(f"frames {config.frames}, fps {config.fps:g}: a frame at least, at more than 0 per second")


def encode(tower, texts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """(states (B, P, D) of texts, single precision, and where each text ends)."""
    if hasattr(tower, "ids"):
        from avtools.models.maestro.text import end_positions

        ids = tower.ids(texts)
        return tower(ids).float(), end_positions(ids).tolist()
    return tower(texts).float(), tower.ends(texts)


def separated(items: list[dict], separator, options: dict) -> list[dict]:
    """Items whose mixtures are separated, each into its `queries`: with `sound`, `counts` and `picks` in the mixtures' place.

    RowError: a source of which nothing is heard.
    """
    from avtools.models.separating import SHORTEST

    made = []
    for item in items:
        if "mixture" not in item:
            made.append(item)
            continue
        queries = json.loads(text_of(item["queries"]))
        mixture = np.pad(item["mixture"], (0, max(0, SHORTEST - len(item["mixture"]))))
        stems = separator.separate(torch.from_numpy(mixture)[None].expand(len(queries), -1), separator.embed(queries)).cpu().numpy()
        stems = stems[:, : len(item["mixture"])]
        if not np.isfinite(stems).all():
            raise RowError("what the separator makes of its sound is not finite; try --precision fp32")
        how = separator.sample_rate, float(item["before"]), options
        clips = int(item["clips"]) if "clips" in item else None
        found = [data.hear_samples(stem, *how, f"{query} (separated)", clips) for stem, query in zip(stems, queries, strict=True)]
        made.append({**item, **data.sounds_of(found, options)})
    return made


@torch.no_grad()
def heard(items: list[dict], encoder, resampler, options: dict, device) -> list[Source]:
    """What is heard of items, all clips of all sources through the networks together."""
    sound = torch.from_numpy(np.concatenate([item["sound"] for item in items])).to(device)
    tokens = resampler(encoder(sound).to(next(resampler.parameters())))
    made, begin = [], 0
    for item in items:
        own = []
        for count in item["counts"].tolist():
            own.append(tokens[begin : begin + count])
            begin += count
        told = json.loads(text_of(item["regions"]))
        places = data.regions(told, options["frames"]) if len(own) > 1 else None
        made.append(Source(text_of(item["text"]), own, [torch.from_numpy(picks) for picks in item["picks"]], places))
    return made


@torch.no_grad()
def generate(base, noise: diffusion.Noise, sources: list[Source], seeds: list[int], options: dict, device, dtype: torch.dtype) -> np.ndarray:
    """(B, T, H, W, 3) uint8.  Those with several sources have a mosaic; those with one are generated as they are."""
    made: list = [None] * len(sources)
    for several in (True, False):
        which = [k for k, one in enumerate(sources) if (one.regions is not None) == several]
        if which:
            found = _generate(base, noise, [sources[k] for k in which], [seeds[k] for k in which], options, device, dtype)
            for k, frames in zip(which, found, strict=True):
                made[k] = frames
    return np.stack(made)


def _generate(base, noise, sources, seeds, options, device, dtype):
    states, firsts = encode(base.text, [one.text for one in sources])
    null = encode(base.text, [""])[0]
    pairs = [contexts(state, one.tokens, one.picks, first) for state, one, first in zip(states, sources, firsts, strict=True)]
    context = torch.stack([both[1] for both in pairs]).to(device)
    shape = latent_shape(base, options)
    start, generators = diffusion.seeded(seeds, shape)
    settings = settings_of(options)

    def run(begin=None):
        return diffusion.sample(
            base.unet, start.to(device), context, null, noise, settings, fps=float(options["fps"]), generators=generators, begin=begin, dtype=dtype
        )  # fmt: skip

    if sources[0].regions is None:
        latents = run()
    else:
        count = sources[0].tokens[0].shape[1]
        scenes = [Scene(one.regions, first, count) for one, first in zip(sources, firsts, strict=True)]
        mosaic = Mosaic(
            scenes, states.to(device, dtype), options["frames"], shape[2:], strengthen=options["strengthen"], weaken=options["weaken"],
            soft_steps=options["soft_steps"], legacy=LEGACY if options["legacy_mosaic"] else frozenset(),
        )  # fmt: skip
        with mosaic.on(base.unet, len(sources) if settings.guided else 0):
            latents = run(mosaic.at)
    return shown(base.codec, latents)


def latent_shape(base, options: dict) -> tuple[int, int, int, int]:
    """(C, T, h, w)."""
    height, width = options["size"]
    return base.codec.channels, options["frames"], height // base.codec.factor, width // base.codec.factor


def shown(codec, latents: torch.Tensor) -> np.ndarray:
    """Latents (B, C, T, h, w) -> (B, T, H, W, 3) uint8; RowError where they are no numbers."""
    if not latents.isfinite().all():
        raise RowError("the pictures came out as no numbers; try --precision fp32, or less --guidance")
    return levels(pictures.decode(codec, latents)).permute(0, 1, 3, 4, 2).cpu().numpy()


@torch.no_grad()
def from_text(base, noise: diffusion.Noise, texts: list[str], seeds: list[int], options: dict, device, dtype: torch.dtype) -> np.ndarray:
    """Videos of texts alone: (B, T, H, W, 3) uint8."""
    start, generators = diffusion.seeded(seeds, latent_shape(base, options))
    null = encode(base.text, [""])[0]
    latents = diffusion.sample(
        base.unet, start.to(device), encode(base.text, texts)[0], null, noise, settings_of(options), fps=float(options["fps"]), generators=generators, dtype=dtype
    )  # fmt: skip
    return shown(base.codec, latents)
