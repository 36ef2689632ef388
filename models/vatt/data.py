"""A row -> the arrays of a training item, a condition or what features are computed of, in worker processes."""

import math
import os

import numpy as np

from avtools.errors import MediaError, RowError
from avtools.models.parts.clips import as_bytes
from avtools.models.vta_ldm import data as clips
from avtools.rows import path_of
from avtools.rows.keys import PLACEHOLDER
from avtools.training.draws import draw_of

VIDEO_COLUMNS, SOUND_COLUMNS = clips.VIDEO_COLUMNS, clips.SOUND_COLUMNS
TEXT_COLUMNS = ("audio_text", "text", "description", "captions")  # of sounds first; the first that is not empty
PUBLISHED = (".npy", ".h5", ".hdf5")  # features as VATT keeps them
APART = 0.1  # of a window, by which the features and tokens of a clip may differ in length
UNLOADED = "pictures are not encoded without EVA02-CLIP: give --weights eva02=FILE, or make features with 'avtools features vatt'"
AT_ONCE = 60.0  # seconds of pictures that a worker hands over; of longer clips they are read where they are encoded


def options_of(config, *, sound: bool, facts: dict | None = None, encoder: bool = True, training: bool = False) -> dict:
    """Plain options for the functions below; `sound`: items hold it; `facts`: what features that may be used tell (None: anything);
    `encoder`: pictures can be encoded, so that rows need no features; `training`: published features must be of a whole window."""
    made = {
        "encoder": config.encoder,
        "width": config.features,
        "frame_rate": config.frame_rate,
        "frame_size": config.frame_size,
        "seconds": config.window,
        "frames": frames_of(config),
        "random_crop": config.random_crop,
        "text_column": config.text_column,
        "sound": sound,
        "unit_length": config.unit_length,
        "facts": facts,
        "pictures": encoder,
        "length": frames_of(config) if training else None,
    }
    if sound:
        made |= {"sample_rate": config.sample_rate, "rows": rows_of(config), "peak": config.peak, "levels": config.net.levels, "codes": config.net.codes}
    return made


def frames_of(config) -> int:
    """Pictures of a window."""
    return max(1, round(config.window * config.frame_rate))


def rows_of(config) -> int:
    """Frames of sound tokens of a window."""
    return max(1, round(config.window * config.net.rate))


# --- training -------------------------------------------------------------------------------------------------


def training_item(row: dict, draw: int, options: dict) -> dict:
    """One window: frames (F, S, S, 3) uint8 and waveform (samples,) float32, or of features and their tokens those of the window,
    features (F, D) float32 and tokens (K, T) int64; `text`, UTF-8 bytes, maybe none; `start`, seconds.  Of a row's `partner` the same
    as `other_...`.

    RowError: neither video nor features, features of another length or width, tokens that the codec does not know.
    """
    item = _window(row, draw, options)
    if "partner" in row:
        other = _window(row["partner"], draw_of(draw, "partner"), options)
        item |= {f"other_{name}": value for name, value in other.items() if name not in ("text", "start")}
    return item


def caption_item(row: dict, draw: int, options: dict) -> dict:
    """As :func:`training_item`, without sound, of a row that must have a caption; `asked`: its own instruction, UTF-8 bytes, maybe none;
    `pictured`: whether `caption` says, as in VATT's lists, that its text tells what is seen rather than heard."""
    pictured = str(row.get("caption")).lower() in ("1", "1.0", "true")
    if pictured and isinstance(row.get("text"), str) and not options["text_column"]:
        row = {**row, "audio_text": row["text"]}
    own = row.get("instruction")
    item = _window(row, draw, options) | {"asked": as_bytes(own.strip() if isinstance(own, str) else ""), "pictured": np.array([pictured])}
    if not item["text"].size:
        raise RowError(f"the row has no caption (columns looked at: {', '.join(_text_columns(options))}); fill one in, or set text_column")
    return item


def _window(row: dict, draw: int, options: dict) -> dict:
    item = {"text": as_bytes(text_of(row, options))}
    if row.get("features_path") not in (None, ""):
        return item | _cached(row, draw, options)
    seconds, start = options["seconds"], 0.0
    path = video_of(row)
    if not options["pictures"]:
        raise RowError(f"{path}: the row has no features, and {UNLOADED}")
    if options["random_crop"]:
        latest = int((clips._length(path) - seconds) * options["frame_rate"] + 1e-6)
        start = draw_of(draw, "crop") % (latest + 1) / options["frame_rate"] if latest > 0 else 0.0
    item["start"] = np.array([start])
    item["frames"] = fit(_pictures(path, start, seconds, options), options["frames"])
    if options["sound"]:
        item["waveform"] = waveform(row, start, seconds, options)
    return item


def _cached(row: dict, draw: int, options: dict) -> dict:
    """Features and tokens of a file: of ours, whose windows lie one behind the other, or as published, of one clip."""
    found = stored(row, options)
    features, tokens = found["features"], found.get("tokens")
    if options["sound"] and tokens is None:
        raise RowError(f"{row['features_path']}: holds no sound tokens; give tokens_path, or make it anew with 'avtools features vatt'")
    frames, begin = options["frames"], 0
    if options["sound"] and abs(tokens.shape[1] / options["rows"] - len(features) / frames) > APART:
        lasts = f"{len(features) / frames * options['seconds']:g} s, its sound tokens {tokens.shape[1] / options['rows'] * options['seconds']:g} s"
        raise RowError(f"{row['features_path']}: features of {lasts}; make them anew with 'avtools features vatt'")
    if options["random_crop"] and len(features) > frames:
        begin = draw_of(draw, "crop") % (len(features) - frames + 1)
    item = {"features": fit(features[begin:], frames), "start": np.array([begin / options["frame_rate"]])}
    if options["sound"]:
        first = round(begin * options["rows"] / frames)
        tokens = tokens[:, first : first + options["rows"]]
        if tokens.shape[1] < options["rows"]:
            where = row.get("tokens_path") or row["features_path"]
            raise RowError(f"{where}: {tokens.shape[1]} sound tokens, fewer than {options['rows']} of a window; make it anew")
        item["tokens"] = tokens
    return item


def stored(row: dict, options: dict) -> dict:
    """features (F, D) float32 and maybe tokens (K, T) int64 of the row's `features_path` (and `tokens_path`)."""
    from avtools.models.vatt import features as published

    path = path_of(row, "features_path")
    if path.lower().endswith(PUBLISHED):
        read = published.read_hdf5 if path.lower().endswith(PUBLISHED[1:]) else lambda *asked: (published.read(*asked),)
        found = dict(zip(("features", "tokens"), read(path, options["length"], options["width"]), strict=False))
        if published.unit_length(found["features"]) != options["unit_length"]:
            told, value = ("not ", "false") if options["unit_length"] else ("", "true")
            raise MediaError(f"{path}: features {told}of unit length; --set unit_length={value} where all are like that")
    else:
        from avtools import features

        found = features.read(path, options["facts"], whole=False)
        if "features" not in found or found["features"].ndim != 2 or found["features"].shape[1] != options["width"]:
            shape = found["features"].shape if "features" in found else "none"
            raise MediaError(f"{path}: features {shape}, not (F, {options['width']}); make it anew with 'avtools features vatt'")
        found = {name: found[name].astype({"features": np.float32, "tokens": np.int64}[name]) for name in ("features", "tokens") if name in found}
        if not np.isfinite(found["features"]).all():
            raise MediaError(f"{path}: features that are not finite; make it anew with 'avtools features vatt'")
    if options["sound"] and row.get("tokens_path") not in (None, ""):
        found["tokens"] = published.read_tokens(path_of(row, "tokens_path"), options["levels"])
    tokens = found.get("tokens") if options["sound"] else None
    if tokens is not None and (tokens.ndim != 2 or len(tokens) != options["levels"] or tokens.max(initial=0) >= options["codes"]):
        raise MediaError(
            f"{row.get('tokens_path') or path}: sound tokens {tokens.shape} up to {tokens.max(initial=0)}, and the codec has {options['levels']} levels of"
            f" {options['codes']}; make them anew with 'avtools features vatt'"
        )
    return found


def fit(features: np.ndarray, frames: int) -> np.ndarray:
    """(F, ...) -> (frames, ...): its beginning, or filled up by repeating the last."""
    return np.concatenate([features[:frames], np.repeat(features[-1:], max(0, frames - len(features)), 0)])


# --- what a row has -------------------------------------------------------------------------------------------


def video_of(row: dict) -> str:
    path = clips._path(row, VIDEO_COLUMNS)
    if os.path.basename(path) == PLACEHOLDER:
        raise RowError("the row has no picture (placeholder.mp4)")
    return path


def _text_columns(options: dict) -> tuple[str, ...]:
    return (options["text_column"],) if options["text_column"] else TEXT_COLUMNS


def text_of(row: dict, options: dict) -> str:
    """The row's caption; "" where there is none."""
    return next((str(row[column]).strip() for column in _text_columns(options) if isinstance(row.get(column), str) and row[column].strip()), "")


def _pictures(path: str, start: float, seconds: float | None, options: dict) -> np.ndarray:
    from avtools.models.vta_ldm.frames import read_frames

    fit_ = "squash" if options["encoder"] == "pixels" else "crop"
    return read_frames(path, options["frame_rate"], options["frame_size"], fit=fit_, start=start, seconds=seconds)


def waveform(row: dict, start: float, seconds: float, options: dict) -> np.ndarray:
    """(samples,) float32 from `start` on: mono at the codec's rate, followed by silence where it is shorter; scaled to a peak where one is set."""
    import soxr

    from avtools.media.soundfiles import read_sound

    path = clips._sound_source(row, options["sample_rate"])[0]
    samples, rate = read_sound(path, start, start + seconds + 0.05)
    if not len(samples) and not start:
        raise MediaError(f"{path}: has no sound")
    mono = samples.mean(1, dtype=np.float32) if len(samples) else np.zeros(0, np.float32)
    if rate != options["sample_rate"] and len(mono):
        mono = soxr.resample(mono, rate, options["sample_rate"]).astype(np.float32)
    wanted = round(seconds * options["sample_rate"])
    if not np.isfinite(mono).all():
        raise MediaError(f"{path}: holds samples beyond all measure; make the sound anew")
    mono = mono[:wanted]
    loudest = np.abs(mono).max(initial=0.0)
    if options["peak"] and loudest > 1e-8:  # a silent clip stays silent
        mono = mono * np.float32(options["peak"] / loudest)
    return np.pad(mono, (0, wanted - len(mono))).astype(np.float32, copy=False)


# --- sampling and features --------------------------------------------------------------------------------------


def condition(row: dict, options: dict) -> dict:
    """What generating for a row needs: `frames` of the whole clip, or its `features`, or of long clips the `path` alone; `text`;
    `seconds`, how long the sound shall be.  FatalError where pictures are to be encoded and the encoder's weights are missing."""
    item = {"text": as_bytes(text_of(row, options))}
    if row.get("features_path") not in (None, ""):
        features = stored(row, options)["features"]
        seen = any(row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER for column in VIDEO_COLUMNS)
        seconds = clips._length(video_of(row)) if seen and os.path.isfile(video_of(row)) else len(features) / options["frame_rate"]
        return item | {"features": features, "seconds": np.float64(min(seconds, len(features) / options["frame_rate"]))}
    if not options["pictures"]:
        _seek_encoder()
    return item | _whole(row, options)


def _seek_encoder() -> None:
    """FatalError that tells where EVA02-CLIP was looked for, and how to get it."""
    from avtools import hub
    from avtools.models.vatt.features import PART

    hub.locate(None, PART, "vatt")


def _whole(row: dict, options: dict) -> dict:
    path = video_of(row)
    seconds = clips._length(path)
    if seconds > AT_ONCE:
        return {"path": as_bytes(path), "seconds": np.float64(seconds)}
    return {"frames": _pictures(path, 0.0, None, options), "seconds": np.float64(seconds)}


def feature_item(row: dict, options: dict) -> dict:
    """The pictures of a whole clip, as :func:`condition` gives them, and its sound, whole windows long."""
    item = _whole(row, options)
    return item | {"waveform": waveform(row, 0.0, window_count(float(item["seconds"]), options["seconds"]) * options["seconds"], options)}


def window_count(length: float, window: float) -> int:
    """Windows one behind the other that cover a clip."""
    return max(1, math.ceil(length / window - 1e-3))
