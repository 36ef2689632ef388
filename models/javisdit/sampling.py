"""Sound and sounding videos from captions, and from parts of clips (spec JavisDiT models, section 3)."""

from fractions import Fraction

import numpy as np
import torch

from avtools.errors import RowError
from avtools.models.javisdit import flow, masks, text
from avtools.models.javisdit.model import Given, guided
from avtools.models.parts.clips import text_of
from avtools.training.draws import normal

BOTH_MADE = ("t2av", "i2av", "continue")  # tasks of which neither stream is given as a whole


def settings_of(options: dict) -> flow.Settings:
    return flow.Settings(options["steps"], options["guidance"], options["scheduler"])


def prompts(items: list[dict], options: dict) -> list[str]:
    """What T5 is asked of the items' captions."""
    texts = [text_of(item["text"]) for item in items]
    return [text.prompt(one, options["aesthetic"]) for one in texts] if options["clean"] else texts


@torch.no_grad()
def generate(net, frozen, prior, items: list[dict], seeds: list[int], options: dict, device, dtype) -> list[dict]:
    """Results of :meth:`avtools.system.System.generate`; `prior`: None with a network of sound alone."""
    joint, settings = net.size.joint, settings_of(options)
    frames, fps, size = options["frames"], options["fps"], tuple(options["size"])
    seconds = frames / fps
    states, counts = text.padded(frozen.states(prompts(items, options)))
    spatial = temporal = None
    if joint:
        noise = normal(seeds, "prior", (prior.tokens, prior.size.out), device)
        spatial, temporal = prior(frozen.prior_states([text_of(item["text"]) for item in items]), noise)
    given = Given(states.to(device), counts.to(device), spatial, temporal)
    given = net.project(guided(given, settings.rows))

    sound = normal(seeds, "sound noise", (frozen.sound.channels, frozen.sound.latents(seconds), frozen.sound.bins), device)
    video = None
    if joint:
        height, width = (side // frozen.video.factor for side in size)
        video = normal(seeds, "video noise", (frozen.video.channels, frozen.video.latents(frames), height, width), device)
    video, sound, made = _begun(frozen, items, seeds, video, sound, options)
    rates = torch.full((settings.rows * len(items),), float(fps), device=device)

    def velocity(latents, times, active):
        one, two = latents if joint else (None, *latents)
        first, second = (None, None) if active is None else active
        found = net(None if one is None else one.to(dtype), two.to(dtype), times, given, rates, size if joint else None, video_made=first, sound_made=second)
        return [part for part in found if part is not None]

    latents = (video, sound) if joint else (sound,)
    shift = options["shift"] or flow.shift_of(*size, frames)
    found = flow.sample(velocity, latents, shift, settings, made, latents if made is not None else None)
    if joint and options["second_pass"] != "none" and options["task"] in BOTH_MADE:
        kept = 0 if options["second_pass"] == "sound" else 1  # it is given now, the other begins anew from its noise
        made = list(made or [one.new_ones(len(one), one.shape[2]) for one in latents])
        latents, made[kept] = [found[k] if k == kept else one for k, one in enumerate(latents)], torch.zeros_like(made[kept])
        found = flow.sample(velocity, tuple(latents), shift, settings, tuple(made), tuple(latents))
    if any(not torch.isfinite(one).all() for one in found):
        raise RowError("what was sampled is not finite; try --precision fp32")
    return _decoded(frozen, items, found, options, seconds)


def _begun(frozen, items: list[dict], seeds: list[int], video, sound, options: dict):
    """(video, sound, masks or None) that sampling begins with: noise, and what the task gives."""
    task = options["task"]
    if task == "t2av" or video is None:
        return video, sound, None
    seconds, references = options["frames"] / options["fps"], []
    if task == "continue":
        seconds = options["overlap"] / options["fps"]
    for item in items:
        shown = heard = None
        if "pictures" in item:
            shown = frozen.video_latents(torch.from_numpy(item["pictures"])[None])[0]
        if "wave" in item:
            heard = frozen.sound_latents(torch.from_numpy(item["wave"])[None], seconds)[0]
        references.append([(shown, heard)])
    edits = masks.edits_of(task, frozen.video.latents(options["overlap"]))
    begun = masks.begin(video, sound, [edits] * len(items), references, fps=options["fps"], chunk=tuple(options["chunk"]), sound_step=options["sound_step"])
    return begun.video, begun.sound, (begun.video_made, begun.sound_made)


def _decoded(frozen, items, found, options: dict, seconds: float) -> list[dict]:
    """Pictures and sounds of latents; a stream that the task gave as a whole is returned as it was."""
    *video, sound = found
    results, task = [], options["task"]
    for number, item in enumerate(items):
        result = {"rate": frozen.sound.rate}
        if task in ("a2v", "ia2v"):
            waveform = item["wave"]
        else:
            waveform = frozen.sound.decode(sound[number : number + 1], seconds)[0].cpu().numpy()
        result["sound"] = np.clip(waveform, -1, 1).astype(np.float32)[:, None]
        if video:
            if task == "v2a":
                pictures = torch.from_numpy(item["pictures"])
            else:
                pictures = (frozen.video.decode(video[0][number : number + 1], options["frames"])[0] * 255).round().clamp(0, 255).to(torch.uint8).cpu()
            pictures = pictures[..., : pictures.shape[-2] // 2 * 2, : pictures.shape[-1] // 2 * 2]  # as encoders of videos need it
            result |= {"frames": pictures.permute(0, 2, 3, 1).numpy(), "fps": Fraction(options["fps"]).limit_denominator(1000)}
        results.append(result)
    return results
