"""What the page draws of a row's media, worked out in a worker process: some 5 kB for each clip, however long it is.

A row has one sample, or two where it tells of something generated: what was generated and the true pair
(:mod:`avtools.metrics.media` says which columns hold them).
"""

import base64
import json
import os
import struct
import urllib.parse
import zlib
from fractions import Fraction

from avtools.errors import MediaError, RowError
from avtools.metrics.media import columns_of, file_of
from avtools.rows.keys import PLACEHOLDER, path_of

LONGEST = 600  # seconds of a clip that are drawn, so that memory does not grow with its length
POINTS = 160  # columns of the spectrogram, points of the motion curve
RATE, WINDOW, HOP = 16000, 512, 160  # Hz, samples
BANDS, LOWEST, HIGHEST = 48, 50, 8000  # mel bands of the spectrogram, Hz
RANGE_DB, LEVELS = 60, 32  # what is drawn below the loudest place, and in how many colours
FLOW_SIDE, POSTER_SIDE = 128, 192  # pixels: the longer side of the picture whose flow is measured, and of the poster
#: Dark violet to pale yellow, even in lightness: places of the spectrogram's colour scale
COLOURS = ((6, 5, 20), (46, 14, 84), (104, 24, 110), (163, 44, 96), (214, 77, 66), (244, 130, 36), (250, 192, 60), (252, 253, 191))


def look(row: dict, options: dict) -> dict:
    """The cell `options["cell"]` of `row`: `{"samples": [...], "events": [seconds]}`; RowError where a file cannot be read.

    A sample: `role` ("generated", "true" or ""), `seconds`, `facts` (text), and, where there are such, `video` or
    `image` and `audio` (what is played, see :func:`played`), `poster` (JPEG), `size`, `spectrum` (PNG), `onsets`
    (seconds), `heard` and `seen` ([from, to] seconds that are drawn), `motion` ([largest, values of 0 to 255]),
    `note`.  Binary data are base64.
    """
    named = options["named"]
    shown = _pair(row, "video", "audio", named)
    generated = _given(row, "generated_path") or _given(row, "generated_audio_path")
    pairs = [("generated" if generated else "", shown)]
    if generated or named.get("video") or named.get("audio"):
        true = _pair(row, "reference_video", "reference_audio", named)
        if true not in ((None, None), shown):
            pairs = [("generated", shown), ("true", true)]
    if shown == (None, None):
        raise RowError(f"the row has neither picture nor sound to show (columns looked at: {', '.join(dict.fromkeys((*columns_of('video', named), *columns_of('audio', named), 'image_path')))})")
    return {options["cell"]: {"samples": [sample(role, *pair, options) for role, pair in pairs], "events": _events(row)}}


def _given(row: dict, column: str) -> bool:
    return row.get(column) not in (None, "")


def _pair(row: dict, picture: str, sound: str, named: dict) -> tuple[str | None, str | None]:
    """The files of a pair; its sound is None where it is the picture's own."""
    try:
        seen = file_of(row, picture, named)
    except RowError:
        if any(_given(row, column) and os.path.basename(str(row[column])) != PLACEHOLDER for column in columns_of(picture, named)):
            raise  # there is something, and it is no path
        seen = path_of(row, "image_path") if _given(row, "image_path") else None
    own = {seen, None} if seen else {None}
    for column in columns_of(sound, named):
        if _given(row, column) and os.path.basename(str(row[column])) != PLACEHOLDER:
            heard = path_of(row, column)
            return seen, None if heard in own else heard
    return seen, None


def _events(row: dict) -> list[float]:
    """The times in `event_times`; what is no list of them is not drawn."""
    cell = row.get("event_times")
    try:
        times = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return []
    times = times if isinstance(times, list) else []
    return sorted(round(float(time), 3) for time in times[:500] if isinstance(time, int | float) and not isinstance(time, bool) and 0 <= time < 1e9)


def sample(role: str, picture_file: str | None, sound_file: str | None, options: dict) -> dict:
    """What is shown of a picture file and a sound file (None: the picture's own sound)."""
    from avtools.media.probe import probe
    from avtools.reporting.embedding import played

    infos = {path: probe(path) for path in (picture_file, sound_file) if path}
    picture = infos[picture_file].picture if picture_file else None
    if picture_file and picture is None:
        if sound_file is None:  # a sound file in the picture's column
            picture_file, sound_file = None, picture_file
        else:
            raise MediaError(f"{picture_file}: has no picture; name its column with --video-column")
    heard = sound_file or picture_file
    sound = infos[heard].sound if heard else None
    if sound_file and sound is None:
        raise MediaError(f"{sound_file}: has no sound; name its column with --audio-column")
    moving = picture is not None and not picture.is_image
    made = {"role": role, **played(picture_file, picture, sound_file, sound, options)}
    late = 0.0
    if sound is not None and moving and sound_file is None:
        late = float(sound.start - picture.start)  # its own sound is on the picture's clock
    ends = [float(picture.duration)] if moving else []
    if picture is not None:
        made["size"] = [picture.width, picture.height]
        made |= _seen(picture_file, picture)
    if sound is not None and sound.duration:
        ends.append(float(sound.duration) + late)
        made |= _heard(heard, late)
    made["seconds"] = round(max(ends, default=0.0), 4)
    made["facts"] = _facts(picture, sound, moving)
    return made


def _facts(picture, sound, moving: bool) -> str:
    told = []
    if picture is not None:
        told.append(f"{picture.width}×{picture.height}")
        if moving:
            told.append(f"{float(picture.duration):.4g} s, {picture.num_frames} frames" + (f" at {float(picture.fps):.5g} Hz" if picture.fps else "") + f", {picture.codec}")
    if sound is not None:
        channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
        told.append(f"sound {float(sound.duration):.4g} s, {sound.rate / 1000:g} kHz {channels}, {sound.codec}")
    return " · ".join(told) or "nothing"


# --- the picture ----------------------------------------------------------------------------------------


def _seen(path: str, picture) -> dict:
    """`poster`, and of a video `motion` and `seen`, in one pass over its frames."""
    from avtools.media.container import best_video, open_input
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    made, times = {}, []
    flow = None
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:  # a still picture that FFmpeg takes for a cover
            return made
        skip_others(container, [stream])
        shown = shown_frames(container, stream)

        def gray():
            size = None
            for time, frame in shown:
                if not made:
                    made["poster"] = _text(_poster(frame, picture.rotation))
                if time > LONGEST:
                    return
                size = size or _within(frame.width, frame.height, FLOW_SIDE)
                times.append(float(time))
                yield frame.reformat(width=size[0], height=size[1], format="gray", interpolation="AREA").to_ndarray()

        frames = gray()
        if picture.is_image or not can_flow():
            next(frames, None)
        else:
            from avtools.metrics.av_align import mean_flow

            flow = mean_flow(frames)
    if flow is not None:
        scale = max(picture.width, picture.height) / max(_within(picture.width, picture.height, FLOW_SIDE))
        end = min(float(picture.duration), LONGEST)
        curve = _curve(times, flow * scale, end)
        largest = float(curve.max())
        made["motion"] = [round(largest, 3), _text((curve * (255 / largest) if largest else curve).round().astype("uint8").tobytes())]
        made["seen"] = [0, round(end, 4)]
    return made


def can_flow() -> bool:
    import importlib.util

    return importlib.util.find_spec("cv2") is not None


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(width, height))
    return max(16, round(width * scale)), max(16, round(height * scale))  # Farneback's window needs some pixels


def _curve(times, values, end: float):
    """`values` at `times` as POINTS of them, evenly spaced over `end` seconds: the largest of each span, linear where a span has none."""
    import numpy as np

    places = np.minimum((np.asarray(times) / max(end, 1e-9) * POINTS).astype(int), POINTS - 1)
    curve = np.full(POINTS, -1.0)
    np.maximum.at(curve, places, values)
    there = np.flatnonzero(curve >= 0)
    return np.interp(np.arange(POINTS), there, curve[there])


def _poster(frame, rotation: int) -> bytes:
    """The frame upright and small, JPEG."""
    import av
    import numpy as np

    from avtools.media.probe import clockwise

    width, height = _within(frame.width, frame.height, POSTER_SIDE)
    turn = clockwise(frame) or rotation
    pixels = np.ascontiguousarray(np.rot90(frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray(), -turn // 90))
    small = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p", dst_colorspace="ITU601", dst_color_range="JPEG")
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = small.width, small.height, "yuvj420p", Fraction(1)
    codec.thread_count, codec.options = 1, {"qmin": "8", "qmax": "8"}
    small.pts = 0
    return b"".join(bytes(packet) for packet in [*codec.encode(small), *codec.encode(None)])


# --- the sound ------------------------------------------------------------------------------------------


def _heard(path: str, late: float) -> dict:
    """`spectrum`, `onsets` and `heard` of the sound of `path`, whose first sample is `late` seconds after the first frame."""
    import numpy as np
    import soxr

    from avtools.media.soundfiles import open_sound, to_float
    from avtools.metrics.onsets import detect

    parts, count = [], 0
    with open_sound(path) as sound:
        rate = sound.format.rate
        for chunk in sound:
            parts.append(to_float(chunk, "float32").mean(axis=1))
            count += len(chunk)
            if count > LONGEST * rate:
                break
    samples = np.nan_to_num(np.concatenate(parts)[: LONGEST * rate], posinf=0, neginf=0) if parts else np.zeros(0, np.float32)
    samples = samples[round(max(-late, 0) * rate) :]  # what comes before the first frame is not played
    if not len(samples):
        return {}
    length, late = len(samples) / rate, max(late, 0)
    if rate != RATE:
        samples = soxr.resample(np.asarray(samples, np.float64), rate, RATE)
    onsets = [round(float(time) + late, 3) for time in detect(samples, RATE)]
    return {"spectrum": _text(_png(_spectrum(samples))), "onsets": onsets, "heard": [round(late, 4), round(length + late, 4)]}


def _spectrum(samples):
    """Loudness of mono `samples` (n,) at RATE, (BANDS, POINTS) uint8 from 0 to LEVELS - 1, high bands first."""
    import numpy as np

    half = WINDOW // 2
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (half, half + HOP)), WINDOW)[::HOP]
    window, bands = np.hanning(WINDOW + 1)[:-1], _bands()
    power = np.empty((len(frames), BANDS), np.float32)
    for at in range(0, len(frames), 4096):
        power[at : at + 4096] = np.square(np.abs(np.fft.rfft(frames[at : at + 4096] * window))) @ bands.T
    db = 10 * np.log10(np.maximum(power, 1e-9))
    edges = np.linspace(0, len(db), POINTS + 1)
    places = np.minimum(edges[:-1].astype(int), len(db) - 1)
    db = np.maximum.reduceat(db, places, axis=0)  # the loudest of each span, so that short sounds stay
    db -= max(db.max(), 10 * np.log10(1e-4))  # near silence is drawn dark, not as bright noise
    return np.clip((db / RANGE_DB + 1) * LEVELS, 0, LEVELS - 1).astype(np.uint8).T[::-1]


def _bands():
    """Triangles (BANDS, bins) evenly spaced in mel, each with the area 1, so that noise is of one colour."""
    import numpy as np

    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bands = np.maximum(0, np.minimum(up, down))
    middle = np.abs(bins - (edges[1:-1, None])).argmin(axis=1)
    bands[np.arange(BANDS), middle] = np.maximum(bands[np.arange(BANDS), middle], 0.5)  # no narrow band falls between two bins
    return bands / bands.sum(axis=1, keepdims=True)


def _png(places) -> bytes:
    """A palette PNG of `places` (height, width) uint8 on the colour scale COLOURS."""
    import numpy as np

    scale = np.array(COLOURS, float)
    at = np.linspace(0, len(scale) - 1, LEVELS)
    palette = np.stack([np.interp(at, np.arange(len(scale)), scale[:, k]) for k in range(3)], axis=1).round().astype(np.uint8)
    height, width = places.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), places], axis=1)  # a filter byte before each line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette.tobytes()), chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def link(path: str, folder: str) -> str:
    """The URL of `path`, relative to the page's `folder`: every byte that could mean something else is percent-encoded."""
    relative = os.path.relpath(os.path.abspath(path), os.path.abspath(folder or "."))
    return urllib.parse.quote(os.fsencode(relative), safe="/")
