"""VTA-LDM's lists of clips (spec: VTA-LDM, section 3)."""

import json
import os

from avtools import rows
from avtools.errors import RowError, UsageError
from avtools.exchange import Files, Item, Layout, caption_of, json_items, split_of, told_once
from avtools.rows.keys import PLACEHOLDER, path_of

KEYS = ("video_path", "feature_file", "audio_file", "description")
#: names that its scripts use -> ours
OURS = {"video_path": "path", "audio_file": "audio_path", "location": "audio_path", "description": "text", "captions": "text", "feature_file": "features_path"}


class VtaLdm(Layout):
    """JSON lines, one file for each split.

    `feature_file` is a row's `features_path` where that is a .pt file (frames, as its own tools save them), else the
    video, which its loader decodes; `description` is `text`, else `audio_text`.
    """

    needs = ("path", "video_path")

    def __init__(self, settings):
        super().__init__(settings)
        self.without_text = 0

    def export(self, row, maker):
        path = path_of(row, "path" if row.get("path") or not row.get("video_path") else "video_path")
        if os.path.basename(path) == PLACEHOLDER:
            raise RowError("has no picture, which vta-ldm needs; leave it out: mkmeta filter --where \"path != 'placeholder.mp4'\"")
        if not row.get("audio_path"):
            raise RowError("has no audio_path, which vta-ldm trains on; run 'avtools extract-audio' first")
        text = caption_of(row, "text", "audio_text")
        self.without_text += not text
        features = row.get("features_path")
        features = features if isinstance(features, str) and features.endswith(".pt") else path
        return {}, dict(zip(KEYS, (path, features, path_of(row, "audio_path"), text), strict=True))

    def sink(self, folder, columns, format_):
        return _Lists(folder)

    def read(self, source):
        paths = [source]
        if os.path.isdir(source):
            paths = sorted(os.path.join(source, name) for name in os.listdir(source) if name.endswith((".jsonl", ".json")))
            if not paths:
                raise UsageError(f"{source}: holds no .jsonl or .json")
        columns: dict[str, None] = {}
        for path in paths:
            names: set[str] = set()
            for item, origin in json_items(path):
                if not isinstance(item, dict):
                    raise UsageError(f"{origin}: not an object with video_path, audio_file, description")
                names.update(item)
                columns.update(dict.fromkeys(self._cells(item, origin)))
            if names and not names & OURS.keys():
                raise UsageError(f"{rows.shown(path)}: names no {', '.join(KEYS)}; is it a list of VTA-LDM's?")
        columns = columns or dict.fromkeys(("path", "audio_path", "text"))
        if len(paths) > 1:
            columns["split"] = None
        return list(columns), [self._items(path, len(paths) > 1) for path in paths]

    def _items(self, path, several):
        split = {"split": os.path.splitext(os.path.basename(path))[0]} if several else {}
        for item, origin in json_items(path):
            yield Item(item, {**split, **self._cells(item, origin)}, origin)

    @staticmethod
    def _cells(item: dict, origin: str) -> dict:
        cells: dict = {}
        for key, value in item.items():
            if key == "feature_file" and not str(value).endswith(".pt"):  # the video itself
                key, value = "video_path", item.get("video_path") or value
            column = OURS.get(key, key)
            if value is not None or column not in cells:
                told_once(cells, column, value, key, item, origin)
        return cells

    def notes(self):
        return [f"{self.without_text} rows have no caption; their description is empty"] if self.without_text else []


class _Lists(Files):
    def __init__(self, folder):
        super().__init__(folder, "vta-ldm")

    def prepare(self, record, row):
        split_of(row)

    def write(self, record, row):
        self.file(f"{split_of(row)}.jsonl").write(json.dumps(record).encode() + b"\n")

    def commit(self):
        if not self.files:
            self.file("train.jsonl")  # of a table without rows
        super().commit()
