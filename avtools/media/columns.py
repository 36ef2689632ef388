"""The table columns that describe media, by what they describe; importing this loads no codec."""

PICTURE_COLUMNS = ("num_frames", "height", "width", "aspect_ratio", "resolution", "fps", "duration")
SOUND_COLUMNS = ("audio_fps", "audio_channels", "audio_duration")
VIDEO_COLUMNS = (*PICTURE_COLUMNS, *SOUND_COLUMNS, "av_offset")


def present(row: dict, cells: dict, always: tuple[str, ...] = ()) -> dict:
    """Of the measured `cells`, those that the row has (they would be stale) and those that it always gets."""
    return {column: value for column, value in cells.items() if column in row or column in always}


def of_picture(row: dict, cells: dict) -> dict:
    """Of a video file's measured `cells`, those of its row that describe it: where the row has an
    `audio_path`, the sound columns describe that file instead."""
    own = cells if not row.get("audio_path") else {c: v for c, v in cells.items() if c not in SOUND_COLUMNS}
    return present(row, own)
