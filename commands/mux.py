"""avtools mux"""


from avtools.cli import row_command


@row_command(files=True)
def command(shared):
    """Put a row's sound ('audio_path') onto its picture ('path') without encoding the picture anew.

    The sound's first sample comes with the first displayed frame.  'path' becomes the muxed file.

    \b
        avtools mux table.csv -d muxed > t.csv
    """
    from avtools.stream import Work

    return Work(mux_row, {}, needs=("path",), wants=wants, operation="mux/1", preload=("avtools.media.video",))


def wants(row: dict, options: dict):
    import os

    from avtools.errors import RowError
    from avtools.media.suffixes import video_suffixes
    from avtools.outputs import Want
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    picture, sound = path_of(row, "path"), path_of(row, "audio_path")
    if os.path.basename(picture) == PLACEHOLDER:
        raise RowError(f"{sound}: the row has no picture to put it onto")
    return [Want("path", (picture, sound), video_suffixes(picture))]


def mux_row(row: dict, maker, options: dict) -> dict:
    from avtools.media import video
    from avtools.media.columns import of_picture
    from avtools.media.probe import probe, video_columns

    made = maker.make(
        "path",
        build=lambda out, suffix: video.mux(row["path"], row["audio_path"], out, suffix),
        measure=lambda path: video_columns(probe(path)),
    )
    return {"path": made.path, **of_picture(row, made.columns)}
