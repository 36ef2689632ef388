"""VATT's lists of instructions (spec: VATT, sections 1 and 2, "Data")."""

import json
import os

from avtools import rows
from avtools.errors import RowError, UsageError
from avtools.exchange import Files, Item, Layout, caption_of, json_items, split_of, told_once
from avtools.outputs import Want, link_or_copy, strip_suffix
from avtools.rows.formats import VIDEO_INPUT, suffix_of
from avtools.rows.keys import PLACEHOLDER, path_of

LIST = "v2a_instruction.json"
OPTIONAL = ("instruction", "task", "caption")


class Vatt(Layout):
    """A JSON list `v2a_instruction.json`, and `features/ID.npy` where a row's `features_path` is a .npy file.

    `video_path` is the row's id (`id`, else its file's name: VGGSound's are `<YouTube id>_<start, 6 digits>`); where
    features_path is an .h5 file, as VATT keeps AudioSet, it is that path.  `output` is `audio_text`, else `text`;
    where the cell `caption` marks a description of the picture, `text`.  `dataset` is `source` where that is audioset or
    vggsound, else by the features (vggsound: one .npy for each id).
    """

    options = ("media_root",)
    needs = ("id", "path", "audio_path")
    makes_files = True

    def wants(self, row):
        features = row.get("features_path")
        if not isinstance(features, str) or suffix_of(features) != "npy":
            return []
        return [Want("features", (features,), (), may_keep=True, relpath=os.path.join("features", self._id(row)))]

    def export(self, row, maker):
        features = row.get("features_path")
        by_path = isinstance(features, str) and suffix_of(features) == "h5"
        seen = _yes(row.get("caption"))
        output = caption_of(row, *["text"] * seen, "audio_text", "text")
        if not output:
            raise RowError("has no caption in audio_text or text, which is what vatt trains on; join captions first")
        if maker is not None and "features" in maker.slots:
            maker.make("features", lambda tmp, _: link_or_copy(features, tmp), lambda path: {}, conforms=lambda: True)
        source = row.get("source")
        record = {
            "input": row.get("input") or "",
            "video_path": features if by_path else self._id(row),
            "dataset": source if source in ("vggsound", "audioset") else "audioset" if by_path else "vggsound",
            "output": output,
            "split": split_of(row),
        }
        record.update({key: row[key] for key in OPTIONAL if row.get(key) not in (None, "")})
        return {}, record

    @staticmethod
    def _id(row: dict) -> str:
        name = row.get("id")
        if not name:
            name = strip_suffix(os.path.basename(_clip_of(row)))
        name = str(name)
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise RowError(f"id {rows.shown(name)!r} names no features file; give the row an id such as 0a1b2c3d4e5_000030")
        return name

    def sink(self, folder, columns, format_):
        return _List(folder)

    def read(self, source):
        path = os.path.join(source, LIST) if os.path.isdir(source) else source
        if not os.path.isfile(path):
            raise UsageError(f"{source}: holds no {LIST}; name the list itself")
        keys: dict[str, None] = {}
        for item, origin in json_items(path):
            if not isinstance(item, dict) or not isinstance(item.get("video_path"), str) or not isinstance(item.get("output"), str):
                raise UsageError(f"{origin}: not an object with video_path and output")
            keys.update(dict.fromkeys(self._cells(item, {}, origin)))
        media = self._media()
        if media:
            keys["path"] = None
        first = [column for column in ("path", "id", "features_path", "audio_text", "text", "source", "split") if column in keys]
        return [*first, *(column for column in keys if column not in first)], self._items(path, media)

    def _items(self, path, media):
        self.lost = 0
        for item, origin in json_items(path):
            cells = self._cells(item, media, origin)
            self.lost += bool(media) and not cells.get("path")
            yield Item(item, cells, origin)

    def _media(self) -> dict[str, str]:
        """Videos below --media-root by their names without suffix."""
        root = self.settings.get("media_root")
        if not root:
            return {}
        if not os.path.isdir(root):
            raise UsageError(f"--media-root {root}: no such folder")
        found: dict[str, str] = {}
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                if suffix_of(name) in VIDEO_INPUT:
                    other = found.setdefault(strip_suffix(name), os.path.join(folder, name))
                    if other != os.path.join(folder, name):
                        raise UsageError(f"--media-root {root}: {other} and {os.path.join(folder, name)} have the same id; which is meant?")
        if not found:
            raise UsageError(f"--media-root {root}: holds no video")
        return found

    @staticmethod
    def _cells(item: dict, media: dict[str, str], origin: str) -> dict:
        name = item["video_path"]
        by_path = suffix_of(name) == "h5"
        cells = {"id": os.path.splitext(os.path.basename(name))[0] if by_path else name}
        if by_path:
            cells["features_path"] = name
        if cells["id"] in media:
            cells["path"] = media[cells["id"]]
        cells["text" if _yes(item.get("caption")) else "audio_text"] = item["output"]
        cells.update({"source": item.get("dataset"), "split": item.get("split")})
        for key, value in item.items():
            if key not in ("video_path", "output", "dataset", "split") and value not in (None, ""):
                told_once(cells, key, value, key, item, origin)
        return cells

    def notes(self):
        lost = getattr(self, "lost", 0)
        return [f"{lost} ids have no video below --media-root; their path is empty"] if lost else []


def _clip_of(row: dict) -> str:
    """The file that a row is about: its picture, else its sound; "" for none."""
    for column in ("path", "audio_path"):
        if row.get(column) and os.path.basename(path := path_of(row, column)) != PLACEHOLDER:
            return path
    return ""


def _yes(cell) -> bool:
    """Whether a flag is set: in CSV it is text."""
    return cell not in (None, "", False, 0, "0", "false", "False")


class _List(Files):
    """One JSON list, an item a line."""

    def __init__(self, folder):
        super().__init__(folder, "vatt")
        self.clips: dict[int, int] = {}

    def prepare(self, record, row):
        clip = _clip_of(row)
        if clip and self.clips.setdefault(hash(record["video_path"]), hash(clip)) != hash(clip):
            raise RowError(f"id {rows.shown(record['video_path'])} is that of another clip too; VATT tells clips apart by id alone: give the rows different ids")

    def write(self, record, row):
        begun = LIST in self.files
        self.file(LIST).write((b",\n" if begun else b"[\n") + json.dumps(record).encode())

    def commit(self):
        begun = LIST in self.files
        self.file(LIST).write(b"\n]\n" if begun else b"[]\n")
        super().commit()
