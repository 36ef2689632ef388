"""Which suffix an output gets, decided by names alone; importing this loads no codec."""

import os

#: Containers that hold H.264 with exact timing beside any usual sound.
H264 = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".ts", ".m2ts", ".mts"))
#: Sound files whose samples survive writing; others become WAV unless a suffix is asked for.
LOSSLESS = frozenset((".wav", ".flac", ".aiff", ".aif", ".caf", ".w64"))


def video_suffixes(path: str) -> tuple[str, ...]:
    """What an H.264 version of `path` may be called: its own suffix where that container can hold it, else
    (or where the container turns out to refuse the sound) `.mkv`."""
    suffix = os.path.splitext(path)[1]
    return tuple(dict.fromkeys((suffix, ".mkv"))) if suffix.lower() in H264 else (".mkv",)


def sound_suffixes(path: str, asked: str | None) -> tuple[str, ...]:
    """What a rewritten version of the sound file `path` is called."""
    suffix = os.path.splitext(path)[1]
    if asked is not None:
        return (suffix,) if suffix.lower() == "." + asked else ("." + asked,)
    return (suffix,) if suffix.lower() in LOSSLESS else (".wav",)
