"""Whether an MP4's header says all that decoding its first key frame would tell.

FFmpeg decodes a key frame while it opens a file, which takes longer than reading the whole index.  For plain
H.264 and AAC the header has the same facts: :func:`header_tells_all` says where that is sure.
"""

#: What keeps FFmpeg from decoding while it opens a file, and from parsing what the index tells: of the container,
#: and of its streams.
CONTAINER_OPTIONS = {"probesize": "100000", "fflags": "+noparse"}
STREAM_OPTIONS = {"skip_frame": "all"}

_HIGH = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})  # profiles whose SPS tells the chroma
_IMPLICIT_SBR = 24000  # Hz; AAC up to this rate may decode to twice as much, which only decoding tells


def header_tells_all(container) -> bool:
    """Whether what FFmpeg says of a file opened with the options above is what it would say with decoding."""
    videos, sounds = container.streams.video, container.streams.audio
    if not container.format.name.startswith("mov,") or len(videos) != 1 or len(sounds) > 1:
        return False  # of several streams, FFmpeg chooses by what it has seen of each
    for stream in sounds:
        context = stream.codec_context
        if context is None or context.name != "aac" or context.sample_rate <= _IMPLICIT_SBR or not context.layout.nb_channels:
            return False
    video, context = videos[0], videos[0].codec_context
    if context is None or context.name != "h264" or not video.frames or not video.average_rate:
        return False
    return h264_size(context.extradata) == (context.width, context.height)


def h264_size(record: bytes | None) -> tuple[int, int] | None:
    """Return (width, height) by the one SPS of an MP4's decoder configuration record; None where it is not plain."""
    if not record or len(record) < 9 or record[0] != 1 or record[5] & 31 != 1 or record[8] & 31 != 7:
        return None
    sps = record[9 : 8 + int.from_bytes(record[6:8], "big")].replace(b"\0\0\3", b"\0\0")
    bits = _Bits(sps)
    try:
        profile = bits.take(8)
        bits.take(16)
        bits.number()
        chroma = 1
        if profile in _HIGH:
            chroma = bits.number()
            if chroma == 3:
                bits.take(1)
            bits.number(), bits.number(), bits.take(1)
            if bits.take(1):  # scaling matrices
                return None
        bits.number()
        order = bits.number()
        if order == 0:
            bits.number()
        elif order == 1:
            return None
        bits.number(), bits.take(1)
        columns, rows, progressive = bits.number() + 1, bits.number() + 1, bits.take(1)
        if not progressive:
            bits.take(1)
        bits.take(1)
        width, height = 16 * columns, 16 * rows * (2 - progressive)
        if bits.take(1):  # cropping, in units of chroma samples
            left, right, top, bottom = (bits.number() for _ in range(4))
            across, down = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1) * (2 - progressive)
            width, height = width - across * (left + right), height - down * (top + bottom)
        return width, height
    except (ValueError, IndexError):
        return None


class _Bits:
    """Reads a bit string from its beginning."""

    def __init__(self, data: bytes):
        self.bits, self.at = bin(int.from_bytes(b"\1" + data, "big"))[3:], 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)

    def number(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = self.bits.index("1", self.at) - self.at
        self.at += zeros
        return self.take(zeros + 1) - 1
