"""`avtools resample` against a `ffmpeg` for each file, and against sox."""

from . import common
from .common import Result
from .extract_audio import against_ffmpeg


def measure(quick: bool) -> list[Result]:
    with common.folder() as where:
        clips = common.clips(where) if not quick else common.synthetic(where, 2, 1)
        sources = common.waves(clips, where / "wav")
        out = where / "sox.wav"
        sox = [("a `sox` each", lambda path: ["sox", path, "-r", 16000, out])] if common.shutil.which("sox") else []
        return against_ffmpeg("resample", "audio_path", sources, ["--rate", 16000], ["-ar", "16000"], where, quick, sox)
