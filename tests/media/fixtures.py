"""Odd media, made with PyAV at test time.

Frame k of a made picture is flat grey of level `level(k)`, so that a test can tell which frame it sees.
"""

import math
import random
from fractions import Fraction

import av
import numpy as np

BASE = Fraction(1, 90000)


def level(k: int) -> int:
    """Luma of frame k; distinct for k < 36, coarse enough to survive encoding."""
    return 20 + 6 * (k % 36)


def index_of(frame) -> int:
    """Return which frame `frame` is, from its luma."""
    deep = frame.format.components[0].bits > 8
    grey = frame.reformat(format="gray10le" if deep else "gray", src_color_range=2, dst_color_range=2).to_ndarray()
    return round((grey.mean() / (4 if deep else 1) - 20) / 6)


def even(count: int, fps=25, start=0) -> list[Fraction]:
    """Return the times of `count` frames at a constant rate."""
    return [Fraction(start) + k / Fraction(fps) for k in range(count)]


def vfr(count: int) -> list[Fraction]:
    """Return `count` frame times that are nowhere even, with a gap of one second in the middle."""
    times, at = [], Fraction(0)
    for k in range(count):
        times.append(at)
        at += Fraction((3, 1, 5, 2)[k % 4], 60) + (1 if k == count // 2 else 0)
    return times


def make(
    path, times, *, size=(64, 48), pix_fmt="yuv420p", codec="libx264", bframes=0, gop=12, rotation=0, sound=None,
    container=None, videos=1, noise=False, sar=None, full_range=False, last=None, base=BASE, crf=10,
):  # fmt: skip
    """Write a clip whose frames are shown at `times` (seconds); `sound` is a dict for :func:`tone`'s arguments."""
    path = str(path)
    with av.open("file:" + path, "w", format=container) as out:
        streams = []
        for _ in range(videos if times else 0):
            stream = out.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.time_base = base
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1
            if codec == "libx264":
                stream.options = {"bf": str(bframes), "crf": str(crf), "preset": "veryfast", "b-adapt": "0", "sc_threshold": "0"}
            if rotation:
                stream.set_display_rotation(rotation)
            if sar:
                stream.codec_context.sample_aspect_ratio = sar
            if full_range:
                stream.codec_context.color_range = 2
            streams.append(stream)
        heard = None
        if sound is not None:
            heard = out.add_stream(sound.get("codec", "aac"), rate=sound.get("rate", 48000))
            heard.codec_context.layout = sound.get("layout", "mono")
        lengths = [b - a for a, b in zip(times, times[1:], strict=False)]
        lengths.append(last if last is not None else (lengths[-1] if lengths else Fraction(1, 25)))
        packets = []
        for number, stream in enumerate(streams):
            for k, time in enumerate(times):
                frame = picture(k if number == 0 else 35 - k, size, pix_fmt, noise, rotation=0)
                if full_range:
                    frame.color_range = 2
                frame.time_base, frame.pts = base, round(time / base)
                frame.duration = round(lengths[k] / base)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        if heard is not None:
            for frame in tone(**{k: v for k, v in sound.items() if k != "codec"}):
                packets += heard.encode(frame)
            packets += heard.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def picture(k: int, size, pix_fmt="yuv420p", noise=False, rotation=0):
    """Return frame k: flat grey, or (`noise`) a busy picture that makes packets large."""
    width, height = size
    grey = np.full((height, width), level(k), np.uint8)
    if noise:
        grey = np.random.default_rng(k).integers(16, 235, (height, width), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(grey, format="gray")
    frame.color_range = 2
    return frame.reformat(format=pix_fmt, src_color_range=2, dst_color_range=2) if pix_fmt != "gray" else frame


def tone(start=0, seconds=1, rate=48000, layout="mono", hz=440, value=0.5):
    """Yield frames of a sine that begins with a click, its first sample at `start` seconds."""
    channels = av.AudioLayout(layout).nb_channels
    count = round(Fraction(seconds) * rate)
    wave = value * np.sin(2 * math.pi * hz * np.arange(count) / rate)
    wave[:8] = 0.99
    samples = np.repeat((wave * 32767).astype(np.int16)[:, None], channels, 1)
    for at in range(0, count, 1000):
        part = samples[at : at + 1000].reshape(1, -1).copy()
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(Fraction(start) * rate) + at
        yield frame


def truncate(path, fraction: float, out):
    """Write the first part of `path` to `out`."""
    data = open(path, "rb").read()
    open(out, "wb").write(data[: int(len(data) * fraction)])
    return str(out)


def flip_bits(path, out, places, seed=0, width=40):
    """Write `path` to `out` with some bytes damaged at each of `places` (fractions of the file)."""
    data, draw = bytearray(open(path, "rb").read()), random.Random(seed)
    for place in places:
        at = int(len(data) * place)
        for k in range(width):
            data[at + k] ^= draw.randrange(1, 256)
    open(out, "wb").write(data)
    return str(out)


def moov_first(path, out):
    """Rewrite an MP4 with its index at the front, as downloads have it."""
    with av.open("file:" + str(path)) as source, av.open("file:" + str(out), "w", format="mp4", options={"movflags": "faststart"}) as sink:
        streams = {s.index: sink.add_stream_from_template(s, opaque=True) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                sink.mux(packet)
    return str(out)
