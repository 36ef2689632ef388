"""What an independent decoder (the programs ffprobe and ffmpeg) says of media files."""

import json
import shutil
import subprocess
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

needed = pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg is not installed")


def _out(*arguments) -> bytes:
    done = subprocess.run([str(a) for a in arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def _name(path) -> str:
    return f"file:{path}"


@cache
def streams(path) -> list[dict]:
    """ffprobe's description of each stream."""
    return json.loads(_out("ffprobe", "-v", "error", "-show_streams", "-of", "json", _name(path)))["streams"]


def index(path, kind: str) -> int | None:
    """The stream that FFmpeg would play, by the rule of av_find_best_stream: of the default ones the one of highest bit rate."""
    found = [s for s in streams(path) if s["codec_type"] == kind and not s["disposition"]["attached_pic"]]
    order = lambda s: (s["disposition"]["default"], int(s.get("bit_rate", 0)), -s["index"])  # noqa: E731
    return max(found, key=order)["index"] if found else None


@cache
def frames(path, kind: str = "video", stream: int | None = None) -> list[tuple[Fraction, Fraction]]:
    """(time, length) of each decoded frame, seconds; of `stream`, by default that which FFmpeg would play."""
    stream = index(path, kind) if stream is None else stream
    fields = "frame=best_effort_timestamp,pkt_duration,duration,nb_samples"
    line = ["ffprobe", "-v", "quiet", "-select_streams", stream, "-show_entries", f"{fields}:stream=time_base", "-of", "json", _name(path)]
    answer = json.loads(_out(*line))
    base = Fraction(answer["streams"][0]["time_base"])
    return [(int(f["best_effort_timestamp"]) * base, int(f.get("duration", f.get("pkt_duration", 0))) * base) for f in answer["frames"]]


@cache
def times(path) -> list[Fraction]:
    """The times of the shown frames from the first on, seconds."""
    found = sorted(time for time, _ in frames(path))
    return [time - found[0] for time in found]


@cache
def duration(path) -> Fraction:
    """Seconds from the first frame to the end of the last."""
    found = sorted(frames(path))
    step = 1 / Fraction(streams(path)[index(path, "video")]["r_frame_rate"])
    return found[-1][0] + (found[-1][1] or step) - found[0][0]


@cache
def shades(path) -> list[float]:
    """The mean luma of each frame, in the order of display, without rotation; of 0 to 255."""
    stream = streams(path)[index(path, "video")]
    size = stream["width"] * stream["height"]
    line = ["ffmpeg", "-v", "quiet", "-noautorotate", "-i", _name(path), "-map", f"0:{stream['index']}", "-vsync", "passthrough"]
    data = np.frombuffer(_out(*line, "-pix_fmt", "gray", "-f", "rawvideo", "-"), np.uint8)
    return [float(frame.mean()) for frame in data.reshape(-1, size)]


@cache
def samples(path, rate: int | None = None) -> np.ndarray:
    """The decoded sound, mono, as it follows; at its own rate, or at `rate`."""
    more = ["-ar", rate] if rate else []
    return np.frombuffer(_out("ffmpeg", "-v", "quiet", "-i", _name(path), "-map", f"0:{index(path, 'audio')}", "-ac", 1, *more, "-f", "f32le", "-"), "f4")


@cache
def channels(path, kind: str = "s16le") -> bytes:
    """The decoded sound, all channels, as raw samples."""
    return _out("ffmpeg", "-v", "quiet", "-i", _name(path), "-map", f"0:{index(path, 'audio')}", "-f", kind, "-c:a", f"pcm_{kind}", "-")


def sound_start(path) -> Fraction:
    """When the first sample is heard, seconds after the first frame is seen."""
    return frames(path, "audio")[0][0] - min(frames(path))[0]


@cache
def heard(path, rate: int = 48000) -> np.ndarray:
    """The sound from the first frame on, silence where there is none yet; contiguous from its first sample."""
    wave, start = samples(path, rate), round(sound_start(path) * rate)
    return wave[-start:] if start < 0 else np.concatenate([np.zeros(start, "f4"), wave])


def lag(one: np.ndarray, other: np.ndarray, rate: int, most: float = 0.1) -> float:
    """By how many seconds `other` comes later than `one`, looked for within `most` seconds."""
    count = min(len(one), len(other))
    one, other = one[:count] - one[:count].mean(), other[:count] - other[:count].mean()
    size = 1 << (2 * count).bit_length()
    cross = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)), size)
    reach = int(most * rate)
    near = np.concatenate([cross[-reach:], cross[: reach + 1]])
    return (int(near.argmax()) - reach) / rate


@cache
def packets(path, kind: str) -> list[str]:
    """The hash of each packet's content, in the order of the file."""
    line = ["ffprobe", "-v", "error", "-select_streams", index(path, kind), "-show_packets", "-show_data_hash", "md5"]
    answer = json.loads(_out(*line, "-show_entries", "packet=data_hash", "-of", "json", _name(path)))
    return [packet["data_hash"] for packet in answer["packets"]]


def bitstream(path, kind: str) -> str:
    """The hash of a stream as it lies in the file, however it is cut into packets."""
    line = ["ffmpeg", "-v", "error", "-i", _name(path), "-map", f"0:{index(path, kind)}", "-c", "copy", "-copyts", "-f", "md5", "-"]
    return _out(*line).decode().strip()
