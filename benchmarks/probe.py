"""`avtools probe` against a `ffprobe` for each file."""

from . import common
from .common import AVTOOLS, Result


def measure(quick: bool) -> list[Result]:
    files, few = (8, 4) if quick else (1000, 100)
    with common.folder() as where:
        sources = common.clips(where) if not quick else common.synthetic(where, 2, 1)
        names = common.copies(sources, where / "in", files)
        table, some = common.table(where / "t.csv", "path", names), common.sample(names, few, len(sources))
        command = ["ffprobe", "-v", "error", "-count_packets", "-show_streams", "-show_format", "-of", "json"]
        times = common.in_turn(
            1 if quick else common.ROUNDS,
            ours=lambda: common.run(*AVTOOLS, "probe", "-q", table, "-o", where / "o.csv"),
            counting=common.one_by_one(some, lambda name: [*command, name]),
            header=common.one_by_one(some, lambda name: [*(c for c in command if c != "-count_packets"), name]),
        )
        ours = times["ours"] / files
        made = []
        for name, what in (("counting", "that counts packets, as ours does"), ("header", "that reads headers alone")):
            peer, asked = times[name] / len(some), 20 if name == "header" else None
            made.append(
                Result(
                    f"probe, {files} clips; a `ffprobe` each {what} (sample of {len(some)})",
                    common.per_file(times["ours"], files), common.per_file(times[name], len(some)), peer / ours,
                    f"{asked}x" if asked else "for information", peer / ours >= asked if asked else None,
                )
            )  # fmt: skip
        return made
