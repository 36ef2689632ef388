"""`avtools uni-fps` against `ffmpeg -r 24` for each file: time, likeness to the source, size."""

import csv
import statistics

from . import common
from .common import AVTOOLS, Result
from .likeness import Source, likeness

PIECE = 2.5  # seconds


def measure(quick: bool) -> list[Result]:
    count, few = (4, 2) if quick else (48, 24)
    with common.folder() as where:
        sources = pieces(where, quick)
        names = common.copies(sources, where / "in", count)
        table, some = common.table(where / "t.csv", "path", names), common.sample(names, few, len(sources))
        theirs = common.emptied(where / "peer")

        def ours():
            common.emptied(where / "out")
            common.run(*AVTOOLS, "uni-fps", "-q", "--fps", 24, table, "-d", where / "out", "-o", where / "o.csv")

        times = common.in_turn(
            1 if quick else common.ROUNDS,
            ours=ours,
            peer=common.one_by_one(some, lambda path: ["ffmpeg", "-v", "error", "-y", "-i", path, "-r", 24, theirs / path.name]),
        )
        mine, peer = times["ours"] / count, times["peer"] / len(some)
        with open(where / "o.csv", newline="") as file:
            made = dict(zip((name.name for name in names), (row["path"] for row in csv.DictReader(file)), strict=True))
        picked = {names.index(name) % len(sources): name for name in some}.values()  # one piece of each
        likes, sizes = [], [0, 0]
        for name in picked:
            source = Source(name)
            likes.append((likeness(made[name.name], source, False), likeness(theirs / name.name, source, True)))
            for k, path in enumerate((common.Path(made[name.name]), theirs / name.name)):
                sizes[k] += path.stat().st_size
        one, other = (statistics.mean(column) for column in zip(*likes, strict=True))
        of = f"{len(likes)} clips of {PIECE} s"
        return [
            Result(f"uni-fps, {count} clips of {PIECE} s; a `ffmpeg -r 24` each with its own threads (sample of {len(some)})", f"{mine:.3f} s/file", f"{peer:.3f} s/file", peer / mine, "2x", peer / mine >= 2),
            Result(f"uni-fps: mean SSIM of the luma to the source's frames, {of}", f"{one:.4f}", f"{other:.4f}", None, "at most 0.002 less", one >= other - 0.002),
            Result(f"uni-fps: size, {of}", f"{sizes[0] / 1e6:.2f} MB", f"{sizes[1] / 1e6:.2f} MB", sizes[1] / sizes[0], "at most 1.25 times as large", sizes[0] <= 1.25 * sizes[1]),
        ]  # fmt: skip


def pieces(where, quick):
    """The clips cut into pieces, their packets untouched where cutting allows, else encoded almost without loss."""
    made = []
    for k, path in enumerate(common.clips(where) if not quick else common.synthetic(where, 1, 5)):
        for part in range(2 if quick else 4):
            cut = where / f"piece{k}_{part}.mp4"
            common.run("ffmpeg", "-y", "-ss", part * PIECE, "-i", path, "-t", PIECE, "-c:v", "libx264", "-crf", 14, "-preset", "medium", "-c:a", "aac", "-b:a", "128k", cut)
            made.append(cut)
    return made
