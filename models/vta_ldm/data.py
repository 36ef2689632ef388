"""A row -> the arrays of one training item or of one condition, in worker processes."""

import math
import os
import tempfile

import numpy as np

from avtools.errors import MediaError, RowError
from avtools.models.parts.clips import as_bytes, text_of
from avtools.models.vta_ldm import augment, frames
from avtools.rows import path_of
from avtools.rows.keys import PLACEHOLDER
from avtools.training.draws import draw_of

TEXT_COLUMNS = ("text", "description", "captions", "audio_text")  # the first that is not empty; VTA-LDM's own names among them
VIDEO_COLUMNS = ("path", "video_path")
SOUND_COLUMNS = ("audio_path", "audio_file")


def options_of(config, samples: int) -> dict:
    """Plain options for the functions below; `samples` of sound make a window."""
    return {
        "pictures": config.condition != "text",
        "text": config.condition != "video",
        "frame_rate": config.frame_rate,
        "frame_size": config.frame_size,
        "frame_fit": config.frame_fit,
        "legacy_frames": config.legacy_frames,
        "sample_rate": config.sample_rate,
        "samples": samples,
        "seconds": samples / config.sample_rate,
        "normalise": config.normalise,
        "random_crop": config.random_crop,
        "concat_augment": config.concat_augment,
        "mix_augment": config.mix_augment,
        "facts": None,  # of the features that training may use: VtaLdm.encoder_facts
    }


def augmentation(draw: int, options: dict) -> str | None:
    """Which augmentation an item with this draw gets: "concat", "mix" or None."""
    share = draw_of(draw, "augmentation") / 2**63
    if share < options["concat_augment"]:
        return "concat"
    return "mix" if share < options["concat_augment"] + options["mix_augment"] else None


def training_item(row: dict, draw: int, options: dict) -> dict:
    """waveform (S,) float32; frames (T, size, size, 3) uint8; text as UTF-8 bytes: as far as the condition needs them.

    A row with `features_path` gives features (T, D), mean and std (C, L, F) instead.
    """
    if row.get("features_path"):
        return _cached(row, options)
    item = _window(row, draw, options)
    kind = augmentation(draw, options)
    if kind is None or "partner" not in row:
        return item
    other = _window(row["partner"], draw_of(draw, "partner"), options)
    if kind == "concat":
        return augment.concatenated(item, other, draw_of(draw, "cut"), options["frame_rate"], options["sample_rate"])
    item["waveform"] = augment.mixed(item["waveform"], other["waveform"], options["sample_rate"])
    if "text" in item:
        item["text"] = as_bytes(augment.joined_captions(text_of(item["text"]), text_of(other["text"])))
    if "frames" in item:
        item["other_frames"] = other["frames"]
    return item


def _window(row: dict, draw: int, options: dict) -> dict:
    """One window of a clip: its start (random, or the clip's), pictures and sound of the same time."""
    seconds, item = options["seconds"], {}
    sound, length = _sound_source(row, options["sample_rate"])
    start = 0.0
    if options["random_crop"] and length > seconds:
        latest = math.floor((length - seconds) * options["frame_rate"])  # on a picture's time, so that both stay in step
        start = draw_of(draw, "crop") % (latest + 1) / options["frame_rate"]
    item["waveform"] = waveform(sound, start, options)
    if options["pictures"]:
        item["frames"] = pictures(row, options, start, seconds)
    if options["text"]:
        item["text"] = as_bytes(caption(row))
    return item


def _cached(row: dict, options: dict) -> dict:
    from avtools import features

    if options["facts"] is None:
        raise RowError("has features_path, but the configuration rules cached features out; drop that column")
    found = features.read(path_of(row, "features_path"), options["facts"])
    wanted = ["mean", "std"] + ["features"] * options["pictures"] + ["text_features"] * options["text"]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MediaError(f"{row['features_path']}: has no {', '.join(missing)}; make it anew with 'avtools features'")
    for name in wanted:
        if not np.isfinite(found[name]).all():
            raise MediaError(f"{row['features_path']}: {name} holds values that are no numbers; make it anew with 'avtools features'")
    return {name: found[name].astype(np.float32) for name in wanted}


def condition(row: dict, options: dict) -> dict:
    """What generating for a row needs: frames of the whole clip, its text, and `seconds`, how long the sound shall be."""
    item = {}
    if options["pictures"]:
        item["frames"] = pictures(row, options, 0.0, None)
        item["seconds"] = np.float64(_length(_path(row, VIDEO_COLUMNS)))
    else:
        path = _path(row, VIDEO_COLUMNS, missing="")
        seen = path and os.path.basename(path) != PLACEHOLDER
        item["seconds"] = np.float64(_length(path) if seen else options["seconds"])
    if options["text"]:
        item["text"] = as_bytes(caption(row))
    return item


def _length(path: str) -> float:
    """How long a clip's picture is shown, seconds."""
    from avtools.media.probe import probe

    picture = probe(path).picture
    if picture is None or not picture.duration:
        raise MediaError(f"{path}: is no moving picture; give a video")
    return float(picture.duration)


def feature_item(row: dict, options: dict) -> dict:
    """The first window of a clip, as features are computed of it."""
    return _window(row, 0, {**options, "random_crop": False})


def pictures(row: dict, options: dict, start: float, seconds: float | None) -> np.ndarray:
    """(T, size, size, 3) uint8 at the encoder's frame rate."""
    path = _path(row, VIDEO_COLUMNS)
    if os.path.basename(path) == PLACEHOLDER:
        raise RowError("the row has no picture (placeholder.mp4)")
    return frames.read_frames(
        path, options["frame_rate"], options["frame_size"], legacy=options["legacy_frames"], fit=options["frame_fit"], start=start, seconds=seconds
    )


def waveform(path: str, start: float, options: dict) -> np.ndarray:
    """(samples,) of a sound file from `start` on: mono, at the model's rate, padded with zeros, mean removed and peak 0.5."""
    import soxr

    from avtools.media.soundfiles import read_sound

    samples, rate = read_sound(path, start, start + options["seconds"] + 0.05)
    if not len(samples):
        raise MediaError(f"{path}: has no sound from {start:g} s on")
    mono = samples.mean(1, dtype=np.float32)
    if rate != options["sample_rate"]:
        mono = soxr.resample(mono, rate, options["sample_rate"]).astype(np.float32)
    mono = mono[: options["samples"]]
    if options["normalise"]:
        mono = mono - mono.mean()
        peak = np.abs(mono).max()
        if peak > 1e-8:  # a silent clip stays silent
            mono = mono * np.float32(0.5 / peak)
    if not np.isfinite(mono).all():  # what is no number is read as silence; this is too large to compute with
        raise MediaError(f"{path}: holds samples beyond all measure; make the sound anew")
    return np.pad(mono, (0, options["samples"] - len(mono))).astype(np.float32)


def caption(row: dict) -> str:
    for column in TEXT_COLUMNS:
        if row.get(column):
            return str(row[column])
    raise RowError(f"the row has no caption: column {' or '.join(TEXT_COLUMNS[:2])}")


def _sound_source(row: dict, rate: int) -> tuple[str, float]:
    """(path, seconds) of a row's sound; a video's own sound is first put under its picture, in a temporary file at `rate`."""
    from avtools.media.probe import probe_sound

    path = _path(row, SOUND_COLUMNS, missing="") or _own_sound(_path(row, VIDEO_COLUMNS), rate)
    return path, float(probe_sound(path).duration)


_extracted: dict[str, tempfile._TemporaryFileWrapper] = {}


def _own_sound(video: str, rate: int) -> str:
    from avtools.media.sound import extract_sound

    _extracted.clear()  # the one before
    file = tempfile.NamedTemporaryFile(suffix=".wav")
    extract_sound(video, file.name, rate, 1)
    _extracted[video] = file
    return file.name


def _path(row: dict, columns: tuple[str, ...], missing: str | None = None) -> str:
    for column in columns:
        if row.get(column):
            return path_of(row, column)
    if missing is not None:
        return missing
    raise RowError(f"column {columns[0]} holds no path")
