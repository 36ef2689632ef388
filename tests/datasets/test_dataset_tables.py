"""All rows of real metadata: each clip in each spelling finds its own caption, and nothing else finds one."""

import csv
import os
import pathlib

import pytest

from avtools.datasets import Choice, Index, Joiner, locate, named
from avtools.errors import RowError


@pytest.fixture(scope="module")
def tables():
    folder = pathlib.Path(os.environ.get("AVTOOLS_MEDIA", "nowhere")).parent / "datasets"
    if not folder.is_dir():
        pytest.skip("there are no real metadata tables beside AVTOOLS_MEDIA")
    return folder


def joiner(root, names, header=("path",), files=None, **choice) -> Joiner:
    datasets = named(names)
    sources, present, _ = locate(datasets, str(root), files or {})
    index = Index()
    for source in sources:
        index.load(source)
    index.seal()
    return Joiner(index, present, list(header), Choice(**choice))


def spellings(video: str, start: int) -> list[str]:
    """Of a clip of 10 s: how its file may be called."""
    end = start + 10
    stems = [f"{video}_{start}", f"{video}_{start:06d}", f"{video}_{start}.000_{end}.000", f"{video}_{start:06d}_{end:06d}", f"{video}_{start}_{end}"]
    stems += [f"{video}_{start * 1000}_{end * 1000}"] if start else []
    return [f"x/{y}{stem}.mp4" for stem in stems for y in ("", "Y")] + [f"{video}_{start:06d}.mp4.wav"]


def check(join: Joiner, wanted: dict, columns=("text",)) -> None:
    """`wanted`: (id, start) -> cells; every clip is found in all spellings, other starts and bare ids only where they may be."""
    starts: dict[str, set[int]] = {}
    for video, start in wanted:
        starts.setdefault(video, set()).add(start)
    for (video, start), cells in wanted.items():
        for path in spellings(video, start):
            got = join({"path": path})
            assert got is not None and {column: got[column] for column in cells} == cells, (path, got, cells)
        other = next(s for s in range(start + 1, start + 9999) if s not in starts[video])
        assert join({"path": f"{video}_{other:06d}.mp4"}) is None
    for video, several in starts.items():
        for path in (f"{video}.mp4", f"x/Y{video}.wav"):
            if len(several) == 1:
                got = join({"path": path})
                assert {column: got[column] for column in wanted[video, *several]} == wanted[video, *several]
            else:
                with pytest.raises(RowError, match=f"which of {len(several)} segments"):
                    join({"path": path})
    assert not list(join.unused())


def read(path, delimiter=",") -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def test_vggsound_names(tables):
    rows = read(tables / "vggsound/test.csv")
    wanted = {(name[:11], int(name[12:18])): {"text": label, "split": "test"} for name, label in rows}
    assert len(wanted) == len(rows) > 15_000
    check(joiner(tables, "vggsound", files={"vggsound": [str(tables / "vggsound/test.csv")]}), wanted)


@pytest.mark.parametrize("split", ["test", "val"])
def test_vggsound_tsv(split, tables):
    path = tables / f"vggsound/vgg-{split}.tsv"
    wanted = {(name[:11], int(name[12:18])): {"text": label, "split": split} for name, label in read(path, "\t")[1:]}
    assert len(wanted) > 2000
    check(joiner(tables, "vggsound", files={"vggsound": [str(path)]}), wanted)


def test_vggsound_folder(tables):
    """All of it at once: the lists repeat each other, and other tables beside them are left alone."""
    join = joiner(tables, "vggsound")
    files = {os.path.basename(source.path) for source in join.index.sources}
    assert files == {"test.csv", "vgg-test.tsv", "vgg-val.tsv"}
    labels = {name.removesuffix(".mp4"): label for name, label in read(tables / "vggsound/test.csv")}
    for name, label in labels.items():
        assert join({"path": f"{name}.mp4"})["text"] == label


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_audiocaps(split, tables):
    rows = read(tables / f"audiocaps/{split}.csv")[1:]
    captions: dict[tuple, list[str]] = {}
    for _, video, start, caption in rows:
        captions.setdefault((video, int(start)), []).append(caption.strip())
    number = 1 if split == "train" else 5
    assert {len(several) for several in captions.values()} == {number}
    wanted = {clip: {"audio_text": several[-1], "split": split} for clip, several in captions.items()}
    join = joiner(tables, "audiocaps", files={"audiocaps": [str(tables / f"audiocaps/{split}.csv")]}, which=number)
    check(join, wanted)
    every = joiner(tables, "audiocaps", files={"audiocaps": [str(tables / f"audiocaps/{split}.csv")]}, which="all")
    for (video, start), several in captions.items():
        assert [row["audio_text"] for row in every({"audio_path": f"Y{video}_{start}.wav"})] == several


def test_landscapes(tables):
    rows = read(tables / "landscapes/landscape.csv")[1:]
    wanted = {(video, int(start)): {"text": label, "split": split} for video, start, label, split in rows}
    assert len(wanted) == 1171
    check(joiner(tables, "landscapes"), wanted)


def test_audioset_labels(tables, tmp_path):
    """Real names, 120 of them with commas, under segments in Google's form (which are synthetic)."""
    names = {mid: name.lower() for _, mid, name in read(tables / "audioset/audioset_labels.csv")}
    assert len(names) == 527
    (tmp_path / "audioset").mkdir()
    (tmp_path / "audioset/class_labels_indices.csv").write_bytes((tables / "audioset/audioset_labels.csv").read_bytes())
    mids = list(names)
    clips = {(f"{k:010d}-", 30 * k): [mids[k], mids[k * 7 % 527]] for k in range(527)}
    with open(tmp_path / "audioset/balanced_train_segments.csv", "w") as file:
        file.write("# Segments\n# num_ytids=527\n# YTID, start_seconds, end_seconds, positive_labels\n")
        file.writelines(f'{video}, {start}.000, {start + 10}.000, "{",".join(labels)}"\n' for (video, start), labels in clips.items())
    check(joiner(tmp_path, "audioset"), {clip: {"audio_text": ", ".join(names[mid] for mid in labels)} for clip, labels in clips.items()})


def test_all_real_tables_at_once(tables):
    """Clips of one data set alone get its captions under `all`, too; those that two may mean are bad, and none is lost."""
    join = joiner(tables, "audiocaps,landscapes,vggsound", header=("path", "audio_path"))
    bad = 0
    for name, label in read(tables / "vggsound/test.csv"):
        try:
            got = join({"path": name})
        except RowError:
            bad += 1
            continue
        assert got["text"] == label if got["source"] == "vggsound" else got["source"] in ("audiocaps", "landscapes")
    assert bad == 0  # names with a start are of one clip
