"""`avtools trim` of WAV files against a `ffmpeg` for each file."""

from . import common
from .common import AVTOOLS, Result


def measure(quick: bool) -> list[Result]:
    count, few = (8, 4) if quick else (1000, 100)
    with common.folder() as where:
        clips = common.clips(where) if not quick else common.synthetic(where, 2, 2)
        sources = common.waves(clips, where / "wav")
        names = common.copies(sources, where / "in", count)
        table, some = common.table(where / "t.csv", "audio_path", names), common.sample(names, few, len(sources))
        peer_out = where / "peer.wav"

        def ours(*options):
            common.emptied(where / "out")
            common.run(*AVTOOLS, "trim", "-q", *options, "--max-seconds", 1, table, "-d", where / "out", "-o", where / "o.csv")

        times = common.in_turn(
            1 if quick else common.ROUNDS,
            ours=ours,
            unsynced=lambda: ours("--no-fsync"),
            peer=common.one_by_one(some, lambda path: ["ffmpeg", "-v", "error", "-y", "-i", path, "-t", 1, peer_out]),
        )
        mine, unsynced, peer = times["ours"] / count, times["unsynced"] / count, times["peer"] / len(some)
        theirs = f"{1000 * peer:.2f} ms/file"
        return [
            Result(f"trim, {count} WAV; a `ffmpeg -t 1` each (sample of {few})", f"{1000 * mine:.2f} ms/file", theirs, peer / mine, "30x", peer / mine >= 30),
            Result("trim --no-fsync; the same", f"{1000 * unsynced:.2f} ms/file", theirs, peer / unsynced, "for information"),
        ]
