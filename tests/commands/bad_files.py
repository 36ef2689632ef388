"""Files as they come from the wild: damaged, lying, odd, or no media at all.

`write(folder)` makes them all.  `REJECTED` lists, for each command, those that it must refuse; the rest must
come out right.
"""

import os
import pathlib
import struct
import zlib
from fractions import Fraction

import av
import numpy as np

import fixtures as fx

HUM = {"seconds": 1, "hz": 37}  # a period longer than any lag that is looked for


def wav(path, data=b"\0\0" * 1600, rate=16000, channels=1, bits=16, claim=None):
    """A WAV file whose header says what it is told to."""
    size, block = len(data) if claim is None else claim, channels * bits // 8
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    riff = struct.pack("<I", min(36 + size, 0xFFFFFFFF))
    path.write_bytes(b"RIFF" + riff + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data)


def png(path, width, height, rows=None):
    """A PNG file of this size, with so many rows of grey really there (default: all)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = zlib.compress((b"\0" + b"\x80" * 3 * width) * (height if rows is None else rows))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def patched(source, out, box: bytes, offset: int, value: bytes, after: bytes = b"ftyp"):
    """A copy of an MP4 with `value` written `offset` bytes behind the name of its first `box` after `after`."""
    data = bytearray(source.read_bytes())
    at = data.index(box, data.index(after)) + 4 + offset
    data[at : at + len(value)] = value
    out.write_bytes(data)


def remuxed(source, out, container="mp4", keep=lambda packet: True, **options):
    """The packets of `source` that `keep` approves of, in another container."""
    with av.open(str(source)) as reading, av.open(str(out), "w", format=container, options=options) as writing:
        streams = {s.index: writing.add_stream_from_template(s, opaque=True) for s in reading.streams}
        for packet in reading.demux():
            if packet.size and keep(packet):
                packet.stream = streams[packet.stream.index]
                writing.mux(packet)


def cover(path):
    """A song with a picture on its sleeve, in a container that clips come in."""
    with av.open(str(path), "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=48000, layout="mono")
        sleeve = out.add_stream("png", rate=1)
        sleeve.width, sleeve.height, sleeve.pix_fmt = 32, 32, "rgb24"
        sleeve.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8))
        frame.pts, frame.time_base = 0, Fraction(1)
        for packet in [*sleeve.encode(frame), *sleeve.encode(None)]:
            out.mux(packet)
        for frame in fx.tone(**HUM):
            for packet in sound.encode(frame):
                out.mux(packet)
        for packet in sound.encode(None):
            out.mux(packet)


def write(folder: pathlib.Path) -> None:
    at = folder.joinpath
    clip = {"noise": True, "size": (160, 120)}
    fx.make(at("good.mp4"), fx.even(25), sound=HUM, **clip)
    good = at("good.mp4")
    # no media
    at("empty.mp4").write_bytes(b"")
    at("text.mp4").write_text("this is no film\n" * 99)
    at("folder.mp4").mkdir()
    os.mkfifo(at("fifo.mp4"))
    os.symlink("loop.mp4", at("loop.mp4"))
    os.symlink("nothing.mp4", at("dangling.mp4"))
    os.symlink("/dev/zero", at("zero.mp4"))
    at("playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\n{good}\n#EXT-X-ENDLIST\n")
    at("script.mp4").write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    cover(at("cover.mp4"))
    # damaged
    fx.truncate(good, 0.5, at("half.mp4"))
    fx.moov_first(good, at("moov.mp4"))
    fx.truncate(at("moov.mp4"), 0.5, at("half-moov.mp4"))
    fx.flip_bits(good, at("flipped-picture.mp4"), [0.3, 0.6], width=8)
    # lying
    patched(good, at("giga-entry.mp4"), b"avc1", 24, struct.pack(">HH", 60000, 60000), after=b"stsd")
    patched(good, at("many-frames.mp4"), b"stts", 8, struct.pack(">I", 0x7FFFFFFF))
    patched(good, at("many-sizes.mp4"), b"stsz", 8, struct.pack(">I", 0x0FFFFFFF))
    patched(good, at("fast-sound.mp4"), b"mp4a", 24, struct.pack(">I", 0xFFFF0000), after=b"stsd")
    png(at("giga.png"), 60000, 60000, rows=1)
    png(at("giga.mp4"), 60000, 60000, rows=1)
    # odd, and all right
    fx.make(at("silent.mp4"), fx.even(25), **clip)
    fx.make(at("deaf.mp4"), [], sound=HUM)
    remuxed(good, at("mute.mkv"), container="matroska", keep=lambda packet: packet.stream.type == "video")
    at("UPPER.MP4").write_bytes(good.read_bytes())
    remuxed(good, at("fragments.mp4"), movflags="frag_keyframe+empty_moov+default_base_moof")
    fx.make(at("many-channels.mkv"), fx.even(25), sound={**HUM, "codec": "pcm_s16le", "layout": "hexadecagonal"})
    fx.make(at("deep.mp4"), fx.even(25), pix_fmt="yuv420p10le", sound=HUM)
    fx.make(at("odd-444.mp4"), fx.even(25), pix_fmt="yuv444p", size=(63, 47), sound=HUM)
    fx.make(at("odd-420.mkv"), fx.even(25), codec="ffv1", size=(63, 47), sound=HUM)
    fx.make(at("turned.mp4"), fx.even(25), rotation=90, sound=HUM)
    fx.make(at("two.mp4"), fx.even(25), videos=2, sound=HUM)
    fx.make(at("one.mp4"), fx.even(1), sound=HUM)
    fx.make(at("uneven.mp4"), fx.vfr(20), sound={**HUM, "seconds": 3})
    fx.make(at("sound-first.mp4"), fx.even(25, start=Fraction(1, 2)), sound={**HUM, "seconds": 2})
    fx.make(at("sound-later.mp4"), fx.even(25), sound={**HUM, "start": Fraction(3, 10), "seconds": Fraction(1, 2)})
    fx.make(at("b-frames.mkv"), fx.even(25), bframes=2, sound=HUM)
    # sounds
    hum = (np.sin(np.arange(16000) * 2 * np.pi * 37 / 16000) * 20000).astype("<i2").tobytes()
    wav(at("good.wav"), hum)
    wav(at("claims-4-GB.wav"), hum, claim=0xFFFFFFF0)
    wav(at("2-GHz.wav"), hum, rate=2**31)
    wav(at("65535-channels.wav"), b"\0" * 131070 * 2, channels=65535)
    wav(at("no-rate.wav"), hum, rate=0)
    wav(at("nothing.wav"), b"")
    wav(at("8-bit.wav"), bytes(range(0, 256, 2)) * 125, bits=8)
    wav(at("16-channels.wav"), hum * 16, channels=16)
    wav(at("half-a-sample.wav"), hum + b"\1")
    at("text.wav").write_text("this is no sound\n" * 99)
    at("empty.wav").write_bytes(b"")


#: Those that no command over pictures can do anything with.
NO_MEDIA = {
    "empty.mp4", "text.mp4", "folder.mp4", "fifo.mp4", "loop.mp4", "dangling.mp4", "zero.mp4", "playlist.mp4", "script.mp4",
    "half.mp4", "many-sizes.mp4", "giga.png", "giga.mp4",
}  # fmt: skip
NO_PICTURE = {"deaf.mp4", "cover.mp4"}
NO_SOUND = {"silent.mp4", "mute.mkv"}

CLIPS = sorted(
    {
        "good.mp4", "half-moov.mp4", "flipped-picture.mp4", "giga-entry.mp4", "many-frames.mp4", "fast-sound.mp4", "UPPER.MP4",
        "fragments.mp4", "many-channels.mkv", "deep.mp4", "odd-444.mp4", "odd-420.mkv", "turned.mp4", "two.mp4", "one.mp4",
        "uneven.mp4", "sound-first.mp4", "sound-later.mp4", "b-frames.mkv",
    }
    | NO_MEDIA | NO_PICTURE | NO_SOUND
)  # fmt: skip

NO_SOUND_FILE = {"2-GHz.wav", "65535-channels.wav", "no-rate.wav", "text.wav", "empty.wav", "fifo.mp4", "folder.mp4", "zero.mp4", "silent.mp4"}
SOUNDS = sorted(
    {"good.wav", "claims-4-GB.wav", "8-bit.wav", "16-channels.wav", "half-a-sample.wav", "nothing.wav", "UPPER.MP4"} | NO_SOUND_FILE
)  # fmt: skip
