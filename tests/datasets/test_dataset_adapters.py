"""Each data set in its documented layout: found, read, joined; and metadata that are not what they should be."""

import csv
import io
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from trees import FOUND, TREES, A, B, C, plant  # noqa: E402

from avtools.datasets import CATALOGUE  # noqa: E402

SOUND = (".wav", ".flac")


def table(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def test_every_data_set_is_tested():
    assert set(TREES) == set(FOUND) == {dataset.name for dataset in CATALOGUE}


@pytest.mark.parametrize("name", FOUND)
def test_clips_get_their_captions_and_no_other(name, avtools):
    plant(avtools.folder / "data", name)
    column = "audio_path" if FOUND[name][0][0].endswith(SOUND) else "path"
    rows = [[f"media/{file}"] for file, _ in FOUND[name]] + [["media/stranger_000030.mp4"]]
    write(avtools.folder / "t.csv", [column], rows)
    done = avtools("mkmeta", "join", name, "--data-root", "data/", "t.csv")
    got = table(done.stdout)
    assert [row[column] for row in got] == [cell for (cell,) in rows[:-1]]
    for row, (_, wanted) in zip(got, FOUND[name], strict=True):
        assert row == {column: row[column], "source": name, **wanted}
    assert f"{len(rows)} rows in = {len(rows) - 1} done + 1 filtered + 0 bad" in done.stderr
    assert f"{name}: {len(rows) - 1} rows matched" in done.stderr


@pytest.mark.parametrize("spelling", ["data", "data/", "./data//", "../{name}/data", "{folder}/data", "link", "direct"])
def test_spelling_of_the_root_and_of_media_is_irrelevant(spelling, avtools):
    plant(avtools.folder / "data", "esc50")
    (avtools.folder / "link").symlink_to("data")
    spelling = spelling.format(folder=avtools.folder, name=avtools.folder.name)
    if spelling == "direct":  # the data set's own folder, which one may name where it is the only one
        spelling = "data/ESC-50-master"
    paths = ["1-100032-A-0.wav", "/a/b/1-100032-A-0.wav", "./x//1-100032-A-0.flac", "../1-100032-A-0.wav", "link/1-100032-A-0.WAV"]
    write(avtools.folder / "t.csv", ["audio_path"], [[path] for path in paths])
    got = table(avtools("mkmeta", "join", "esc50", "--data-root", spelling, "t.csv").stdout)
    assert [(row["audio_path"], row["audio_text"]) for row in got] == [(path, "door wood knock") for path in paths]


def test_all_at_once(avtools):
    plant(avtools.folder / "data", "clotho", "esc50", "urbansound8k", "avsync15", "gtzan")
    (avtools.folder / "data/unrelated").mkdir()
    files = [(file, cells) for name in ("esc50", "gtzan", "clotho", "urbansound8k") for file, cells in FOUND[name]]
    write(avtools.folder / "t.csv", ["audio_path"], [[file] for file, _ in files])
    done = avtools("mkmeta", "join", "all", "--data-root", "data", "t.csv")
    assert [row["audio_text"] for row in table(done.stdout)] == [cells["audio_text"] for _, cells in files]
    assert "avsync15: 0 rows matched; 3 captions read, 3 of clips in no row" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "no metadata below data of:" in line]
    assert "audiocaps" in line and "wavcaps" in line and "esc50" not in line and "gtzan" not in line
    (avtools.folder / "empty").mkdir()
    assert "holds no data set's metadata" in avtools("mkmeta", "join", "all", "--data-root", "empty", "t.csv", status=2).stderr


def test_after_scanning_the_folders(avtools):
    """Metadata and media in one tree, as downloads leave them."""
    folders = {"wavcaps": "WavCaps/audio_files", "clotho": "clotho/development", "gtzan": "GTZAN/data/genres_original", "urbansound8k": "UrbanSound8K/audio"}
    plant(avtools.folder / "data", *folders)
    wanted = {}
    for name, folder in folders.items():
        for file, cells in FOUND[name]:
            path = avtools.folder / "data" / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            wanted[f"data/{folder}/{file}"] = cells["audio_text"]
    done = avtools.pipe("avtools mkmeta scan audio data | avtools mkmeta join all --data-root data --to jsonl")
    assert {row["audio_path"]: row["audio_text"] for row in map(json.loads, done.stdout.splitlines())} == wanted
    assert f"{len(wanted)} rows in = {len(wanted)} done + 0 filtered + 0 bad" in done.stderr


def test_gtzan_needs_no_metadata(avtools):
    done = avtools("mkmeta", "join", "gtzan", input="audio_path\nx/blues.00042.au.wav\nrock.1.wav\nfolk.00001.wav\nrock.99999.wav\n")
    assert done.stdout == "audio_path,audio_text,source\nrock.99999.wav,music rock,gtzan\n"
    assert "4 rows in = 1 done + 3 filtered + 0 bad" in done.stderr


def test_list_needs_no_table(avtools):
    rows = table(avtools("mkmeta", "join", "--list").stdout)
    assert [row["name"] for row in rows] == [dataset.name for dataset in CATALOGUE]
    assert all(all(row.values()) for row in rows)
    assert [row["name"] for row in table(avtools("mkmeta", "join", "--list", "esc50,gtzan").stdout)] == ["esc50", "gtzan"]


def test_an_unlisted_data_set_is_one_entry(tmp_path):
    from avtools.datasets import DataSet, File, Index, Joiner, locate

    mine = DataSet("mine", "Mine", "here", "mine", "labels.csv", ("mine",), ("text",), (File("music_instrument", ("labels.csv",), "all"),))
    (tmp_path / "Mi-Ne").mkdir()
    (tmp_path / "Mi-Ne/labels.csv").write_text("FileName,Class\nx.mp4,a_label\n")
    sources, present, absent = locate([mine], str(tmp_path), {})
    index = Index()
    for source in sources:
        index.load(source)
    index.seal()
    assert present == [mine] and not absent
    assert Joiner(index, [mine], ["path"])({"path": "q/x.mkv"}) == {"text": "a label", "source": "mine", "split": "all"}


# --- by hand, missing -----------------------------------------------------------------------------------------


def test_missing_metadata_name_the_files_the_place_and_the_source(avtools):
    (avtools.folder / "data/AudioCaps").mkdir(parents=True)
    (avtools.folder / "t.csv").write_text("path\nx.mp4\n")
    line = avtools("mkmeta", "join", "audiocaps", "--data-root", "data", "t.csv", status=2).stderr
    assert "data/AudioCaps" in line and "train.csv" in line and "github.com/cdjkim/audiocaps" in line and line.count("\n") == 1
    line = avtools("mkmeta", "join", "esc50,vggsound", "--data-root", "data", "t.csv", status=2).stderr
    assert line.startswith("avtools mkmeta join: esc50:") and line.count("\n") == 1
    line = avtools("mkmeta", "join", "esc50", "--data-root", "nowhere", "t.csv", status=2).stderr
    assert "nowhere: No such file" in line
    assert "--data-root" in avtools("mkmeta", "join", "esc50", "t.csv", status=2).stderr


def test_companions_are_needed(avtools):
    plant(avtools.folder / "data", "audioset", "macs")
    (avtools.folder / "data/audioset/class_labels_indices.csv").unlink()
    (avtools.folder / "data/MACS/MACS_competence.csv").unlink()
    (avtools.folder / "t.csv").write_text("path\nx.mp4\n")
    for name, file in (("audioset", "class_labels_indices.csv"), ("macs", "MACS_competence.csv"), ("all", ".csv")):
        assert file in avtools("mkmeta", "join", name, "--data-root", "data", "t.csv", status=2).stderr


def test_metadata_by_hand(avtools):
    plant(avtools.folder / "data")
    (avtools.folder / "mine.csv").write_text(f"audiocap_id,youtube_id,start_time,caption\n1,{A},7,By hand\n")
    write(avtools.folder / "t.csv", ["audio_path"], [[f"{A}_7.wav"], [f"{A}_30.wav"]])
    for line in (["audiocaps", "--captions", "mine.csv"], ["audiocaps,esc50", "--data-root", "data", "--captions", "audiocaps=mine.csv"]):
        rows = table(avtools("mkmeta", "join", *line, "t.csv").stdout)
        assert [(row["audio_path"], row["audio_text"]) for row in rows] == [(f"{A}_7.wav", "By hand")]
    assert "of which data set" in avtools("mkmeta", "join", "audiocaps,esc50", "--captions", "mine.csv", "t.csv", status=2).stderr
    assert "which part" in avtools("mkmeta", "join", "wavcaps", "--captions", "mine.csv", "t.csv", status=2).stderr
    assert "no.csv" in avtools("mkmeta", "join", "vggsound", "--captions", "no.csv", "t.csv", status=2).stderr


@pytest.mark.parametrize(
    "line, words",
    [
        (["tavgbnch"], "did you mean 'tavgbench'?"),
        (["esc50", "--take", "x"], "--take"),
        (["table", "--column", "x"], "--column"),
        (["esc50", "--seed", "3"], "--caption random"),
        (["esc50", "--caption", "0"], "'0'"),
        (["esc50", "--column", "source"], "--column"),
        (["esc50", "--column", "path"], "--column"),
        (["esc50,all"], "'all' stands alone"),
        (["all"], "--data-root"),
        ([], "which data set?"),
        (["esc50", "--data-root", "data", "--key", "nothing"], "nothing"),
        (["esc50", "--keep-unmatched", "--require-match"], "not both"),
    ],
)
def test_wrong_usage(line, words, avtools):
    plant(avtools.folder / "data", "esc50")
    done = avtools("mkmeta", "join", *line, input="path\nx.mp4\n", status=2)
    assert words in done.stderr and not done.stdout and "Traceback" not in done.stderr


# --- damaged metadata -----------------------------------------------------------------------------------------

BROKEN = {
    "a ragged line": ("vggsound", "vggsound.csv", f"{A},30,label,train\n{B},0,label, with a comma,test\n", ":2: 5 cells"),
    "a cell too few": ("esc50", "esc50.csv", "filename,category\na.wav\n", ":2: 1 cells"),
    "no such column": ("esc50", "esc50.csv", "file,category\na.wav,x\n", "'filename'"),
    "an empty file": ("esc50", "esc50.csv", "", "'filename'"),
    "a header alone": ("esc50", "esc50.csv", "filename,category\n", "holds no captions"),
    "no id": ("vggsound", "vggsound.csv", f"{A},30,label,train\nshort,30,label,train\n", ":2: 'short' is no YouTube id"),
    "no start": ("vggsound", "vggsound.csv", f"{A},NaN,label,train\n", ":1: 'NaN' is no start"),
    "no split": ("vggsound", "vggsound.csv", f"{A},3,label,Train\n", ":1: 'Train' is no split"),
    "an open quote": ("vggsound", "vggsound.csv", f'{A},3,"label,train\n', ":1: "),
    "no name": ("esc50", "esc50.csv", "filename,category\n  ,x\n", ":2: no file is named"),
    "a NUL": ("esc50", "esc50.csv", "filename,category\na.wav,x\0y\n", ":2: "),
    "cut JSON": ("wavcaps", "fsd_final.json", '{"data": [{"id": "1", "caption": "x"},\n {"id"', ":2: is no JSON"),
    "JSON of another kind": ("wavcaps", "fsd_final.json", "[]", '"data"'),
    "no caption": ("wavcaps", "fsd_final.json", '{"data": [{"id": "1", "caption": "x"}, {"id": "2"}]}', "item 2: has no 'caption'"),
    "a caption that is NaN": ("wavcaps", "fsd_final.json", '{"data": [{"id": "1", "caption": NaN}]}', "item 1"),
    "half a character": ("wavcaps", "fsd_final.json", '{"data": [{"id": "1", "caption": "\\ud800"}]}', "item 1"),
    "a list without classes": ("avsync15", "train.txt", "dog/a.mp4\nb.mp4\n", ":2: 'b.mp4' has no folder"),
    "a list of other things": ("avsync15", "train.txt", "dog barking\n", ":1: 'dog barking' is no path"),
    "a code without a slash": ("audioset", "eval_segments.csv", f'{A}, 30.000, 40.000\n', ":1: 3 cells"),
    "yaml": ("macs", "MACS.yaml", "files:\n- filename: a\n  annotations: [", ": is no YAML"),
    "an unknown annotator": ("macs", "MACS.yaml", "files:\n- filename: a.wav\n  annotations:\n  - annotator_id: 9\n    sentence: x\n", "annotator 9"),
    "a map with a name twice": ("v2a-instruction", "v.json", f'{{"{A}_000030": "x", "{A}_000030": "y"}}', f"'{A}_000030' stands twice"),
    "no captions of tavgbench": ("tavgbench", "c.txt", "path,id\n", "no line reads NAME.mp4"),
    "an instruction without output": ("v2a-instruction", "v.json", json.dumps([{"video_path": f"{A}_000030"}]), "item 1: has no 'output'"),
    "utf-16": ("esc50", "esc50.csv", "filename,category\na.wav,x\n".encode("utf-16"), "esc50.csv"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_file_is_named_with_its_line(case, avtools):
    name, file, content, words = BROKEN[case]
    plant(avtools.folder / "data", "audioset", "macs")  # for what these need beside them
    folder = avtools.folder / "data" / {"audioset": "audioset", "macs": "MACS"}.get(name, "x")
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    captions = f"{folder.relative_to(avtools.folder)}/{file}"
    done = avtools("mkmeta", "join", name, "--captions", captions, input="path\nx.mp4\n", status=2)
    assert captions in done.stderr and words in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout


def test_byte_order_mark_crlf_quotes_and_long_cells(avtools):
    long = "word " * 2_000_000 + "end"
    content = f'﻿{A},30,"a ""quoted"", label",train\r\n{B},0,"two\r\nlines",test\r\n{C},177,{long},test\r\n'
    (avtools.folder / "vggsound.csv").write_bytes(content.encode())
    write(avtools.folder / "t.csv", ["path"], [[f"{A}_000030.mp4"], [f"{B}_000000.mp4"], [f"{C}_000177.mp4"]])
    csv.field_size_limit(2**31 - 1)
    with io.StringIO(avtools("mkmeta", "join", "vggsound", "--captions", "vggsound.csv", "t.csv", text=False).stdout.decode(), newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["text"] for row in rows] == ['a "quoted", label', "two\r\nlines", long]


def test_empty_captions_are_counted_and_label_nothing(avtools):
    (avtools.folder / "vggsound.csv").write_text(f"{A},30,,train\n{B},0,  ,test\n{C},177,NA,test\n")
    write(avtools.folder / "t.csv", ["path"], [[f"{A}_000030.mp4"], [f"{B}_000000.mp4"], [f"{C}_000177.mp4"]])
    done = avtools("mkmeta", "join", "vggsound", "--captions", "vggsound.csv", "t.csv")
    assert [row["text"] for row in table(done.stdout)] == ["NA"]
    assert "3 captions read, 0 of clips in no row, 2 empty" in done.stderr


def test_a_label_without_a_name_makes_its_clips_bad(avtools):
    plant(avtools.folder / "data", "audioset")
    write(avtools.folder / "t.csv", ["audio_path"], [[f"Y{C}.wav"], [f"Y{A}.wav"]])
    done = avtools("mkmeta", "join", "audioset", "--data-root", "data", "t.csv", status=1)
    assert [row["audio_path"] for row in table(done.stdout)] == [f"Y{A}.wav"]
    assert "t.csv:2" in done.stderr and "/m/unknown" in done.stderr and "eval_segments.csv:2" in done.stderr
    assert "2 rows in = 1 done + 0 filtered + 1 bad" in done.stderr


def test_labels_without_a_header_and_competence_with_one(avtools):
    plant(avtools.folder / "data", "audioset", "macs")
    labels = avtools.folder / "data/audioset/class_labels_indices.csv"
    labels.rename(labels.with_name("audioset_labels.csv")).write_text('0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n')
    (avtools.folder / "data/MACS/MACS_competence.csv").write_text("annotator_id\tcompetence\n3\t0.1\n44\t0.95\n5\t0.93\n")
    write(avtools.folder / "t.csv", ["audio_path"], [[f"{A}.wav"], ["airport-a.wav"]])
    got = table(avtools("mkmeta", "join", "audioset,macs", "--data-root", "data", "t.csv").stdout)
    assert [row["audio_text"] for row in got] == ["speech, male speech, man speaking", "no"]
