"""What suffixes and codecs' names say of a file, decided by names alone; importing this loads no codec."""

import os
import re

#: Containers that hold H.264 with B-frames and exact offsets between picture and sound.
H264 = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".ts", ".m2ts", ".mts"})

#: Sound files that can be read, by what their samples become; and those that can be written.
LOSSY = frozenset({".mp3", ".aac", ".m4a", ".ogg", ".opus", ".wma"})
LOSSLESS = frozenset({".wav", ".flac", ".aiff", ".aif", ".caf", ".w64", ".wv"})
WRITABLE = (LOSSY | LOSSLESS) - {".wma", ".wv"}

#: libsndfile's names of sample formats that it reads exactly -> ours.
SNDFILE_SUBTYPES = {
    "PCM_S8": "u8", "PCM_U8": "u8", "PCM_16": "s16", "PCM_24": "s24", "PCM_32": "s32", "FLOAT": "f32", "DOUBLE": "f64",
}  # fmt: skip

_LOSSLESS_CODEC = re.compile(r"pcm_(?!mulaw|alaw|vidc)|flac|alac|wavpack|tta|ape|truehd|mlp|tak|shorten|wmalossless")


def is_lossless(codec: str) -> bool:
    """Whether the sound codec that FFmpeg calls `codec` keeps every bit."""
    return bool(_LOSSLESS_CODEC.match(codec))


def video_suffixes(path: str) -> tuple[str, ...]:
    """What an H.264 version of `path` may be called: its own suffix where that container can hold it, else
    (or where the container turns out to refuse the sound) `.mkv`, which takes everything."""
    suffix = os.path.splitext(path)[1]
    if suffix.lower() == ".mkv":
        return (suffix,)
    return (suffix, ".mkv") if suffix.lower() in H264 else (".mkv",)


def sound_suffixes(path: str, asked: str | None) -> tuple[str, ...]:
    """What a rewritten version of the sound file `path` is called."""
    suffix = os.path.splitext(path)[1]
    if asked is not None:
        return (suffix,) if suffix.lower() == "." + asked else ("." + asked,)
    return (suffix,) if suffix.lower() in LOSSLESS & WRITABLE else (".wav",)
