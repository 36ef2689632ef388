"""A row -> the arrays of one training item or of one condition, in worker processes."""

import os
import re

import numpy as np

from avtools.errors import MediaError, RowError
from avtools.models.parts.clips import as_bytes
from avtools.rows import path_of
from avtools.rows.keys import PLACEHOLDER, number
from avtools.training.draws import draw_of

TEXT_COLUMNS, CLASS_COLUMNS = ("text",), ("class", "label")
COLUMNS = ("path", "image_path", "audio_path", *TEXT_COLUMNS, *CLASS_COLUMNS, "start", "end")
LEGACY = {"legacy_stereo": "stereo", "legacy_packets": "packets", "legacy_frames": "frames"}  # ours -> those of parts/sync_clips


def options_of(config) -> dict:
    """Plain options for the functions below."""
    return {
        "size": (config.height, config.width),
        "spectrogram": config.sound_encoder == "imagebind",
        "mix": config.sound_channels == "mix",
        "prompts": dict(config.prompts),
        "random_start": config.random_start,
        "flip": config.flip,
        "legacy": sorted(name for field, name in LEGACY.items() if getattr(config, field)),
    }


def training_item(row: dict, draw: int, options: dict) -> dict:
    """`frames` (12, 3, h, w) float32, 0..1; `sound` as :func:`heard` has it; the prompt as UTF-8 bytes; `free`
    as :func:`condition` has it."""
    from avtools.models.parts import sync_clips

    begin, seconds = scene(row, options)
    share = draw_of(draw, "start") / 2**63 if options["random_start"] else 0.5
    (start,) = sync_clips.starts("random-compact", seconds, share=share, name=_scene_name(row, path_of(row, "path")))
    clip = _clip(row, begin + start, options)
    frames = clip["frames"]
    if draw_of(draw, "flip") / 2**63 < options["flip"]:
        frames = frames[..., ::-1]
    text, free = prompt(row, options)
    told = {"free": as_bytes(free)} if free else {}
    return {"frames": np.ascontiguousarray(frames), "sound": heard(clip["sound"], options), "text": as_bytes(text), **told}


def condition(row: dict, options: dict) -> dict:
    """What animating a row needs: `image` (3, h, w) float32, 0..1, `sound` as :func:`heard` has it, `given` (channels, samples)
    float32 at 16 kHz, the same sound as it is, and the prompt as UTF-8 bytes; `free`: a class that is its own prompt.  `cells`:
    `start` and `end` of the clip in the row's video (without one: in its sound), so that it can be found again and scored.

    The clip is the middle of the row's video (or of its `start` to `end`), its picture the clip's first, its sound the clip's
    own; `image_path` and `audio_path` take their places.  Of several `samples`, sample k is of the k-th of as many clips, from
    the first to the last; an image by itself has no time: its sound file is heard from its beginning.
    """
    from avtools.models.parts import frames, sync_clips

    text, free = prompt(row, options)
    still, beside = _path(row, "image_path"), _path(row, "audio_path")
    seen = _path(row, "path") is not None
    k, count = options.get("sample", 0), options.get("samples", 1)
    if seen and not (still and beside):
        begin, seconds = scene(row, options)
        start = begin + sync_clips.starts("uniform", seconds, count, name=_scene_name(row, row["path"]))[k]
        clip = _clip(row, start, options) if still is None else None
        sound = sync_clips.read_sounds(row["path"], [start], beside, legacy=frozenset(options["legacy"]))[0] if clip is None else clip["sound"]
        image = None if clip is None else clip["frames"][0]
    elif still is None:
        raise RowError("has no picture to animate; give a video (path) or an image (image_path)")
    elif beside is None:
        raise RowError(f"{still}: has no sound to animate it to; give a sound file (audio_path) or a video with sound (path)")
    else:
        start, sound = _beginning(beside, row, options)
        image = None
    if image is None:
        image = frames.crop_to(frames.read_image(still), *options["size"]).numpy()
    cells = {"start": start, "end": start + sync_clips.SECONDS}
    arrays = {"image": np.ascontiguousarray(image), "sound": heard(sound, options), "given": np.ascontiguousarray(sound), "text": as_bytes(text)}
    return {**arrays, **({"free": as_bytes(free)} if free else {}), "cells": cells}


def heard(sound: np.ndarray, options: dict) -> np.ndarray:
    """What the sound's encoder takes of (channels, samples) at 16 kHz: a spectrogram (1, 128, 204), or samples (32000,)."""
    from avtools.models.parts import sync_clips
    from avtools.models.parts.kaldi import SAMPLES

    if not np.isfinite(sound).all():
        raise MediaError("its sound holds samples beyond all measure; make it anew")
    sound = sound.mean(0, keepdims=True) if options["mix"] else sound
    if options["spectrogram"]:
        return sync_clips.mels([sound])[0]
    mono = sound[0, :SAMPLES]
    return np.pad(mono, (0, SAMPLES - len(mono))).astype(np.float32)


def scene(row: dict, options: dict) -> tuple[float, float]:
    """(where a row's scene begins in its video, how long picture and sound of it last together), seconds."""
    from avtools.models.parts import sync_clips

    return _span(row, sync_clips.measure(path_of(row, "path"), _path(row, "audio_path")).seconds)


def _span(row: dict, seconds: float) -> tuple[float, float]:
    """(where a row's `start` to `end` begins, how long it lasts) in media of so many seconds."""
    begin, end = number(row, "start") or 0.0, number(row, "end")
    if begin < 0 or end is not None and end <= begin:
        raise RowError(f"start {begin:g} and end {'' if end is None else f'{end:g}'} are no span of time; mend them, or leave them empty")
    if begin >= seconds:
        raise RowError(f"start {begin:g}: what is seen and heard ends at {seconds:g} s; mend start, or leave it empty")
    return float(begin), float(min(seconds, seconds if end is None else end) - begin)


def _scene_name(row: dict, path: str) -> str:
    """What an error calls the scene of a row."""
    told = [f"{name} {row[name]}" for name in ("start", "end") if row.get(name) not in (None, "")]
    return f"{path} ({', '.join(told)})" if told else path


def prompt(row: dict, options: dict) -> tuple[str, str]:
    """(a row's text, else the prompt of its class; the class where the mapping does not know it, else "")."""
    for column in TEXT_COLUMNS:
        if text := _words(row, column):
            return text, ""
    for column in CLASS_COLUMNS:
        if name := _words(row, column):
            found = _mapped(name, options["prompts"])
            return (found, "") if found is not None else (re.sub(r"[_\s]+", " ", name).strip(), name if options["prompts"] else "")
    raise RowError("has neither text nor class; fill the column text (or --text): what is seen and heard, as 'dog barking'")


def _words(row: dict, column: str) -> str:
    """A cell's text; "" where that is blank (a class may be the number 0)."""
    text = str("" if row.get(column) is None else row[column])
    return text if re.search(r"[^\s_]", text) else ""


def _mapped(name: str, prompts: dict) -> str | None:
    """The prompt of a class, which may be written as its folder or as its prompt."""
    if name in prompts:
        return prompts[name]
    return name if name in prompts.values() else None


def _clip(row: dict, start: float, options: dict) -> dict:
    from avtools.models.parts import sync_clips

    return sync_clips.read_clip(path_of(row, "path"), start, options["size"], _path(row, "audio_path"), frozenset(options["legacy"]))


def _beginning(path: str, row: dict, options: dict) -> tuple[float, np.ndarray]:
    """The first 2 s of a sound file, or those from the row's `start`, and that."""
    from avtools.media.probe import probe_sound
    from avtools.models.parts import sync_clips

    begin, seconds = _span(row, float(probe_sound(path).duration))
    sync_clips.starts("first", seconds, name=_scene_name(row, path))
    return begin, sync_clips.read_sounds(path, [begin], legacy=frozenset(options["legacy"]))[0]


def _path(row: dict, column: str) -> str | None:
    """The path in a column; None where there is none, or only a stand-in for "no picture"."""
    if row.get(column) in (None, ""):
        return None
    path = path_of(row, column)
    return None if os.path.basename(path) == PLACEHOLDER else path
