"""`avtools extract-audio` against a `ffmpeg` for each file, one by one and two at once."""

from . import common
from .common import AVTOOLS, Result


def measure(quick: bool) -> list[Result]:
    with common.folder() as where:
        sources = common.clips(where) if not quick else common.synthetic(where, 2, 1)
        return against_ffmpeg("extract-audio", "path", sources, ["--rate", 16000], ["-ac", "1", "-ar", "16000"], where, quick)


def against_ffmpeg(name, column, sources, options, peer_options, where, quick, peers=()) -> list[Result]:
    """Our command over copies of `sources`, and ffmpeg with `peer_options`; `peers`: (what, command of a file)."""
    count, few, many = (8, 4, 4) if quick else (1000, 100, 200)
    names = common.copies(sources, where / "in", count)
    table, step = common.table(where / "t.csv", column, names), len(sources)
    some, more = common.sample(names, few, step), common.sample(names, many, step)
    out = where / "peer.wav"

    def ours():
        common.emptied(where / "out")
        common.run(*AVTOOLS, name, "-q", *options, table, "-d", where / "out", "-o", where / "o.csv")

    at_once = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", "{}", *peer_options, "{}.out.wav"]
    times = common.in_turn(
        1 if quick else common.ROUNDS,
        ours=ours,
        single=common.one_by_one(some, lambda path: ["ffmpeg", "-v", "error", "-y", "-i", path, *peer_options, out]),
        pairs=common.two_at_once(more, at_once),
        **{what: common.one_by_one(some, command) for what, command in peers},
    )
    mine = times["ours"] / count
    rows = [("a `ffmpeg` each", "single", some, 6), ("`xargs -P2 ffmpeg`", "pairs", more, 2.5), *((what, what, some, None) for what, _ in peers)]
    made = []
    for what, key, files, asked in rows:
        peer = times[key] / len(files)
        made.append(
            Result(
                f"{name}, {count} files; {what} (sample of {len(files)})", f"{1000 * mine:.2f} ms/file", f"{1000 * peer:.2f} ms/file",
                peer / mine, f"{asked}x" if asked else "for information", peer / mine >= asked if asked else None,
            )
        )  # fmt: skip
    return made
