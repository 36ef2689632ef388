"""Keys and rules: which clip a row is, whose, and which of its captions it gets."""

import csv
import io
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from trees import A, B, C, D, plant  # noqa: E402

from conftest import command  # noqa: E402

from avtools.datasets import Choice, Index, Joiner, locate, named  # noqa: E402
from avtools.datasets.keys import clip_named, stem_of  # noqa: E402
from avtools.errors import RowError  # noqa: E402


def table(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def joiner(root, names, header=("path", "audio_path", "relpath", "id"), **choice) -> Joiner:
    datasets = named(names)
    sources, present, _ = locate(datasets, str(root), {})
    index = Index()
    for source in sources:
        index.load(source)
    index.seal()
    return Joiner(index, present, list(header), Choice(**choice))


def vggsound(folder, *lines) -> pathlib.Path:
    (folder / "VGGSound").mkdir(exist_ok=True)
    (folder / "VGGSound/vggsound.csv").write_text("".join(f"{line}\n" for line in lines))
    return folder


# --- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, clip",
    [
        (A, (A, None)),
        (f"Y{A}", (A, None)),
        (B, (B, None)),  # begins with Y itself
        (f"Y{B}", (B, None)),
        (f"{A}_30", (A, (30_000,))),
        (f"{A}_000030", (A, (30_000,))),
        (f"{A}_30.000_40.000", (A, (30_000,))),
        (f"{A}_30000_40000", (A, (30_000_000, 30_000))),
        (f"Y{B}_008104", (B, (8_104_000,))),
        (f"{D}_0", (D, (0,))),  # the id ends in an underscore
        (f"Y{D}", (D, None)),
        (f"{C}_000002", (C, (2_000,))),  # an id of digits alone
        (f"{A}_40_30", None),
        (f"{A}_000030_000040_1_3", None),
        (f"{A}_fps24", None),
        (f"{A}_٣٠", None),
        (A[:-1], None),
    ],
)
def test_names_of_clips(name, clip):
    assert clip_named(name) == clip


@pytest.mark.parametrize(
    "name, stem",
    [
        ("/a/b.c/00123.mp4", "00123"),
        (" x y .WAV", "x y"),
        ("take.v2", "take.v2"),
        ("x.mp4.wav", "x.mp4"),
        (".mp4", ".mp4"),
        ("a/", ""),
        ("caf\u0065\u0301.wav", "caf\u00e9"),
        ("-x.mp4", "-x"),
    ],
)
def test_stems(name, stem):
    assert stem_of(name) == stem


def test_either_spelling_of_an_accent_and_a_second_suffix(tmp_path):
    plant(tmp_path, "esc50")
    (tmp_path / "ESC-50-master/meta/esc50.csv").write_text("filename,category\ncafe\u0301.wav,x\ncaf\u00e9 2.aif.wav,y\n")
    join = joiner(tmp_path, "esc50")
    assert [join({"audio_path": path})["audio_text"] for path in ("caf\u00e9.wav", "cafe\u0301.mp4.wav", "cafe\u0301 2.aif.flac")] == ["x", "x", "y"]
    assert join({"audio_path": "cafe.wav"}) is None


# --- which cell -----------------------------------------------------------------------------------------------


def test_cells_in_their_order(tmp_path):
    join = joiner(vggsound(tmp_path, f"{A},30,one,train", f"{B},0,two,train"), "vggsound")
    one, two = f"{A}_000030", f"{B}_000000"
    assert join({"path": f"x/{one}.mp4", "relpath": f"{two}.mp4", "id": two})["text"] == "one"
    assert join({"path": f"x/{one}_fps24.mp4", "relpath": f"x/{one}_fps24.mp4", "id": one})["text"] == "one"
    assert join({"path": "x/y.mp4", "relpath": f"{two}.mp4", "id": one})["text"] == "two"
    assert join({"path": "", "relpath": None, "id": one}) == {"text": "one", "audio_text": "one", "source": "vggsound", "split": "train"}
    assert join({"path": "placeholder.mp4", "id": "placeholder", "audio_path": f"{two}.wav"}) == {"audio_text": "two", "source": "vggsound", "split": "train"}
    assert join({"path": f"{one}.mp4", "audio_path": f"{one}.wav"})["text"] == "one"
    assert join({"path": f"{one}_fps24.mp4", "audio_path": f"{one}.wav"})["audio_text"] == "one"
    assert join({"video_path": f"{one}.mp4"})["text"] == "one"  # as VTA-LDM calls it
    assert join({}) is None and join({"path": "x/", "id": 7, "relpath": ["x"]}) is None
    with pytest.raises(RowError, match="two clips"):
        join({"path": f"{one}.mp4", "audio_path": f"{two}.wav"})
    by_id = joiner(tmp_path, "vggsound", key="id")
    assert by_id({"path": f"{one}.mp4", "id": two})["text"] == "two"
    assert by_id({"path": f"{one}.mp4", "id": "x"}) is None
    assert joiner(tmp_path, "vggsound", key="path")({"path": f"{one}.mp4", "audio_path": f"{two}.wav"})["text"] == "one"


def test_columns_by_what_a_row_has(tmp_path):
    vggsound(tmp_path, f"{A},30,one,train")
    name = f"{A}_000030"
    assert joiner(tmp_path, "vggsound", ["path"]).columns == ["text", "source", "split"]
    assert joiner(tmp_path, "vggsound", ["audio_path"]).columns == ["audio_text", "source", "split"]
    join = joiner(tmp_path, "vggsound")
    assert join.columns == ["text", "audio_text", "source", "split"]
    assert "audio_text" not in join({"path": f"{name}.mp4", "audio_path": ""})
    assert "text" not in join({"audio_path": f"{name}.wav", "path": ""})
    assert {"text", "audio_text"} <= join({"path": f"{name}.mp4", "audio_path": f"{name}.wav"}).keys()
    join = joiner(tmp_path, "vggsound", column="label")
    assert join.columns == ["label", "source", "split"] and join({"path": f"{name}.mp4"})["label"] == "one"


# --- which segment --------------------------------------------------------------------------------------------


def test_a_start_is_never_another_start(tmp_path):
    join = joiner(vggsound(tmp_path, f"{A},30,one,train", f"{A},100,two,test", f"{B},5,three,train"), "vggsound")
    for name, label in ((f"{A}_000030", "one"), (f"Y{A}_100.000_110.000", "two"), (f"{A}_30000_40000", "one"), (f"{B}", "three"), (f"Y{B}_5", "three")):
        assert join({"path": f"{name}.mp4"})["text"] == label
    for name in (f"{A}_000031", f"{B}_000050", f"{B}_05.5", f"{A}_3", f"Y{A}_30.001"):
        assert join({"path": f"{name}.mp4"}) is None
    with pytest.raises(RowError, match=rf"which of 2 segments of {A} in vggsound is it \({A}_000030, {A}_000100\)"):
        join({"path": f"{A}.mp4"})


def test_seconds_or_milliseconds_where_both_are_there(tmp_path):
    join = joiner(vggsound(tmp_path, f"{A},8,one,train", f"{A},8000,two,train"), "vggsound")
    with pytest.raises(RowError, match="which of 2 segments"):
        join({"path": f"{A}_8000.mp4"})
    assert join({"path": f"{A}_008000.mp4"})["text"] == "two" and join({"path": f"{A}_8.0.mp4"})["text"] == "one"


def test_a_start_that_metadata_do_not_tell(tmp_path):
    """WavCaps names AudioSet's segments by their ids; a file may be another segment, unless something says that it is theirs."""
    plant(tmp_path, "wavcaps")
    join = joiner(tmp_path, "wavcaps")
    name = f"{D}_000100.wav"
    assert join({"audio_path": name}) is None
    assert "1 rows tell a start that wavcaps's metadata do not" in "\n".join(join.report())
    assert join({"audio_path": f"/x/AudioSet_SL/{name}"})["audio_text"] == "AudioSet"
    assert join({"audio_path": name, "source": "WavCaps"})["audio_text"] == "AudioSet"
    # another of AudioSet's tables tells the start, of which an id has one there
    plant(tmp_path, "audioset")
    with open(tmp_path / "audioset/eval_segments.csv", "a") as file:
        file.write(f'{D}, 100.000, 110.000, "/m/09x0r"\n')
    join = joiner(tmp_path, "wavcaps,audioset")
    assert join({"audio_path": name})["source"] == "wavcaps"
    assert join({"audio_path": f"{D}.wav"})["source"] == "wavcaps"
    assert join({"audio_path": f"{D}_90.wav"}) is None


# --- whose ----------------------------------------------------------------------------------------------------


def test_numbers_belong_to_the_folder_that_they_lie_in(tmp_path):
    plant(tmp_path, "wavcaps", "esc50")
    join = joiner(tmp_path, "wavcaps,esc50")
    folders = {"BBC_Sound_Effects": "BBC 7", "bbc sound effects_FLAC/x": "BBC 7", "FreeSound_flac": "FreeSound 7", "FreeSound/SoundBible": "SoundBible 7"}
    for folder, caption in folders.items():
        assert join({"audio_path": f"/data/WavCaps/{folder}/7.flac"})["audio_text"] == caption
    with pytest.raises(RowError, match=r"wavcaps \(bbc\) and wavcaps \(sb\) and wavcaps \(fsd\).*fill column source"):
        join({"audio_path": "/data/WavCaps/7.flac"})
    assert join({"audio_path": "x/7.flac", "source": "wavcaps/fsd"})["audio_text"] == "FreeSound 7"
    assert join({"audio_path": "x/7.flac", "source": "FreeSound"})["audio_text"] == "FreeSound 7"
    assert join({"audio_path": "new/7.flac", "relpath": "WavCaps/SoundBible/7.flac"})["audio_text"] == "SoundBible 7"
    # 12 is FreeSound's alone, but not what lies in another's folder
    assert join({"audio_path": "x/12.flac"})["audio_text"] == "FreeSound 12"
    assert join({"audio_path": "WavCaps/SoundBible/12.flac"}) is None
    assert join({"audio_path": "/data/ESC-50/audio/12.wav"}) is None
    assert join({"audio_path": "x/12.flac", "source": "clotho"}) is None
    # nor by the row's number in the table
    assert join({"audio_path": "x/other.flac", "id": "12"}) is None
    assert join({"id": "12"})["audio_text"] == "FreeSound 12"


def test_links_lead_to_the_folder(tmp_path):
    plant(tmp_path, "wavcaps")
    (tmp_path / "WavCaps/SoundBible").mkdir()
    (tmp_path / "mine").symlink_to("WavCaps/SoundBible")
    assert joiner(tmp_path, "wavcaps")({"audio_path": str(tmp_path / "mine/7.flac")})["audio_text"] == "SoundBible 7"


def test_one_clip_in_two_data_sets(tmp_path):
    plant(tmp_path, "audiocaps", "vggsound", "audioset")
    clip = {"audio_path": f"x/{A}_000030.wav"}
    join = joiner(tmp_path, "audiocaps,vggsound,audioset")
    assert join(clip)["audio_text"] == "A dog barks, twice"
    assert joiner(tmp_path, "vggsound,audiocaps")(clip)["audio_text"] == "dog, barking"  # the order that they are named in
    report = "\n".join(join.report())
    assert "1 rows are clips of audiocaps and vggsound; took audiocaps's captions" in report
    assert "1 rows are clips of audiocaps and audioset; took audiocaps's captions" in report
    assert join({**clip, "source": "vggsound"})["audio_text"] == "dog, barking"  # the cell source
    assert join({**clip, "source": "youtube"})["source"] == "audiocaps"  # that names none of them
    assert join({"audio_path": f"/data/AudioCaps/VGG-Sound/{A}_30.wav"})["audio_text"] == "dog, barking"  # the deepest folder
    assert join({"audio_path": f"/data/vggsound/audiocaps/{A}_30.wav"})["source"] == "audiocaps"
    assert join({"audio_path": f"/data/vggsound/{A}_30.wav", "source": "AudioCaps"})["source"] == "audiocaps"
    # picture and sound in folders of two are one clip still
    assert join({"path": f"/data/vggsound/{A}_000030.mp4", "audio_path": f"/data/audiocaps/Y{A}.wav"})["source"] == "vggsound"


def test_what_may_be_two_clips_is_bad(tmp_path):
    plant(tmp_path, "audiocaps", "clotho", "macs")
    vggsound(tmp_path, f"{A},100,dog,train")
    with pytest.raises(RowError, match=f"'{A}' is a clip of audiocaps and vggsound; fill column source, or join one at a time"):
        joiner(tmp_path, "audiocaps,vggsound")({"audio_path": f"{A}.wav"})  # 30 s there, 100 s here
    with open(tmp_path / "clotho/clotho_captions_evaluation.csv", "a") as file:
        file.write("airport-a.wav,A,B,C,D,E\n")
    join = joiner(tmp_path, "clotho,macs")
    with pytest.raises(RowError, match="clotho and macs"):
        join({"audio_path": "airport-a.wav"})
    assert join({"audio_path": "clotho/airport-a.wav"})["source"] == "clotho"


def test_tavgbench_names_are_youtube_clips(tmp_path):
    plant(tmp_path, "tavgbench", "audiocaps")
    join = joiner(tmp_path, "audiocaps,tavgbench")
    assert join({"path": f"{A}_30_40.mp4"})["source"] == "audiocaps"
    assert joiner(tmp_path, "tavgbench,audiocaps")({"path": f"{A}_30_40.mp4"}) == {"text": "A dog, in words.", "source": "tavgbench"}
    assert joiner(tmp_path, "tavgbench")({"path": f"F/{A}_30_40_fps24.mp4", "id": f"{A}_30_40"})["text"] == "A dog, in words."


# --- doubles --------------------------------------------------------------------------------------------------


def test_doubles(tmp_path):
    vggsound(tmp_path, f"{A},30,one,train", f"{B},0,x,train", f"{A},30,two,train", f"{B},0,x,train", f"{A},30,three,train")
    (tmp_path / "VGGSound/test.csv").write_text(f"{B}_000000.mp4,x\n")
    join = joiner(tmp_path, "vggsound")
    with pytest.raises(RowError, match=rf"'{A}_000030' stands twice in vggsound with different captions \(.*vggsound.csv:1 and .*vggsound.csv:3\)"):
        join({"path": f"{A}_000030.mp4"})
    assert join({"path": f"{B}.mp4"}) == {"text": "x", "source": "vggsound", "split": "train"}
    report = "\n".join(join.report())
    assert "vggsound.csv: 1 lines caption a clip again; others do so differently already" in report
    assert "2 doubles" in report and "test.csv: 1 clips stand in another split of vggsound" in report


def test_captions_keep_their_numbers_and_files_may_repeat_them(tmp_path):
    plant(tmp_path, "audiocaps")
    data = [{"wav": f"Y{B}.wav", "caption": f"Caption {k}"} for k in (3, 1)]
    (tmp_path / "AudioCaps/audiocaps_test_nonrepeat_subset_2.json").write_text(json.dumps({"data": data}))
    rows = joiner(tmp_path, "audiocaps", which="all")({"audio_path": f"{B}.wav"})
    assert [row["audio_text"] for row in rows] == [f"Caption {k}" for k in range(1, 6)]


# --- which caption --------------------------------------------------------------------------------------------


def test_caption_by_number(tmp_path):
    plant(tmp_path, "audiocaps")
    row = {"audio_path": f"{B}.wav"}
    assert [joiner(tmp_path, "audiocaps", which=k)(row)["audio_text"] for k in range(1, 6)] == [f"Caption {k}" for k in range(1, 6)]
    with pytest.raises(RowError, match=f"there is no caption 6 of '{B}_000000' in audiocaps; it has 5"):
        joiner(tmp_path, "audiocaps", which=6)(row)


def test_random_captions_depend_on_seed_and_key_alone(avtools):
    plant(avtools.folder / "data", "clotho")
    with open(avtools.folder / "data/clotho/clotho_captions_development.csv", "a") as file:
        file.writelines(f"{k}.wav,1,2,3,4,5\n" for k in range(200))
    rows = [f"x/{k}.wav" for k in range(200)]

    def drawn(order, seed=0):
        line = ["--caption", "random", "--seed", seed, "--data-root", "data"]
        done = avtools("mkmeta", "join", "clotho", *line, input="audio_path\n" + "\n".join(order) + "\n")
        return {row["audio_path"]: row["audio_text"] for row in table(done.stdout)}

    first = drawn(rows)
    assert drawn(rows[::-1]) == first and drawn(rows[50:60]) == {row: first[row] for row in rows[50:60]}
    assert drawn(rows, 1) != first
    counts = [list(first.values()).count(str(k)) for k in range(1, 6)]
    assert sum(counts) == 200 and min(counts) > 20


def test_a_row_for_each_caption(avtools):
    plant(avtools.folder / "data", "audiocaps")
    line = ["--caption", "all", "--data-root", "data", "--keep-unmatched"]
    done = avtools("mkmeta", "join", "audiocaps", *line, input=f"audio_path,id\n{B}.wav,b\nno.wav,n\n{A}.wav,a\n")
    rows = table(done.stdout)
    assert [(row["id"], row["audio_text"], row["group"]) for row in rows] == [
        *(("b", f"Caption {k}", "b") for k in range(1, 6)),
        ("n", "", ""),
        ("a", "A dog barks, twice", "a"),
    ]
    assert "3 rows in = 3 done + 0 filtered + 0 bad; 7 rows out" in done.stderr


def test_visual_captions_are_text(tmp_path):
    plant(tmp_path, "v2a-instruction")
    join = joiner(tmp_path, "v2a-instruction", which="all")
    assert join({"path": f"{A}_000030.mp4"}) == [{"audio_text": "Barking", "text": "A dog is seen", "source": "v2a-instruction", "split": "train"}]
    join = joiner(tmp_path, "v2a-instruction", which="all", column="caption")  # one column: each has its row
    assert [row["caption"] for row in join({"path": f"{A}_000030.mp4"})] == ["Barking", "A dog is seen"]
    path = tmp_path / "vatt/vggsound_v2a_instruction.json"
    path.write_text(json.dumps({f"{A}_000030": "One", f"{B}_000000": ["Two", "Three"]}))
    join = joiner(tmp_path, "v2a-instruction", which="all")
    assert join.columns == ["audio_text", "source", "group"]
    assert [row["audio_text"] for row in join({"path": f"{B}_000000.mp4"})] == ["Two", "Three"]


# --- cleaning, language ---------------------------------------------------------------------------------------


def test_clean_captions(avtools):
    (avtools.folder / "vggsound.csv").write_text(f'{A},30,"dog &amp;  cat",train\n{B},0,cafÃ©,train\n{C},1,&nbsp;,train\n', encoding="utf-8")
    text = f"path\n{A}_000030.mp4\n{B}_000000.mp4\n{C}_000001.mp4\n"
    plain = avtools("mkmeta", "join", "vggsound", "--captions", "vggsound.csv", input=text)
    clean = avtools("mkmeta", "join", "vggsound", "--captions", "vggsound.csv", "--clean-captions", input=text)
    assert [row["text"] for row in table(plain.stdout)] == ["dog &amp;  cat", "cafÃ©", "&nbsp;"]
    assert [row["text"] for row in table(clean.stdout)] == ["dog & cat", "café"]
    assert "1 captions are empty once cleaned" in clean.stderr and "1 filtered" in clean.stderr


def test_language(avtools):
    pytest.importorskip("lingua")
    captions = ["A dog barks while birds are singing in the trees", "Ein Hund bellt, während die Vögel in den Bäumen singen"]
    (avtools.folder / "vggsound.csv").write_text(f'{A},30,"{captions[0]}",train\n{B},0,"{captions[1]}",train\n', encoding="utf-8")
    line = ["mkmeta", "join", "vggsound", "--captions", "vggsound.csv", "--unmatched", "u.csv", "--language"]
    text = f"path\n{A}_000030.mp4\n{B}_000000.mp4\n"
    done = avtools(*line, "en", input=text)
    assert [row["text"] for row in table(done.stdout)] == captions[:1]
    assert "1 filtered" in done.stderr and "1 captions are in another language" in done.stderr
    assert table((avtools.folder / "u.csv").read_text()) == []  # they have a partner
    assert [row["text"] for row in table(avtools(*line, "en,de", input=text).stdout)] == captions


# --- rows without a partner -----------------------------------------------------------------------------------


def test_unmatched_media_and_captions_are_listed(avtools):
    plant(avtools.folder / "data", "vggsound", "clotho")
    text = f"id,path,source\n1,{A}_000030.mp4,\n2,x/no.mp4,mine\n3,,\n"
    done = avtools("mkmeta", "join", "vggsound,clotho", "--data-root", "data", "--unmatched", "u.csv", input=text)
    assert "3 rows in = 1 done + 2 filtered + 0 bad" in done.stderr
    rows = table((avtools.folder / "u.csv").read_text())
    assert list(rows[0]) == ["id", "path", "source", "unmatched", "key", "text", "audio_text"]
    assert [(row["id"], row["path"], row["source"], row["unmatched"], row["key"]) for row in rows[:2]] == [
        ("2", "x/no.mp4", "mine", "media", "no"),
        ("3", "", "", "media", "3"),
    ]
    captions = [(row["unmatched"], row["key"], row["source"], row["text"] or row["audio_text"]) for row in rows[2:]]
    assert captions == [
        ("caption", f"{B}_000000", "vggsound", "NA"),
        ("caption", f"{C}_000177", "vggsound", "nan"),
        ("caption", f"{D}_000005", "vggsound", "playing violin, fiddle"),
        *(("caption", "00123", "clotho", caption) for caption in ("One", "Two, too", "Three", "Four", "Five")),
        *(("caption", "Bird & Bee.aif", "clotho", caption) for caption in "ABCDE"),
    ]


def test_kept_rows_keep_what_they_have(avtools):
    plant(avtools.folder / "data", "vggsound")
    text = f"path,text,split,source\n{A}_000030.mp4,old,mine,\nx.mp4,old,mine,theirs\n"
    done = avtools("mkmeta", "join", "vggsound", "--data-root", "data", "--keep-unmatched", input=text)
    assert done.stdout == f'path,text,split,source\n{A}_000030.mp4,"dog, barking",train,vggsound\nx.mp4,old,mine,theirs\n'
    assert "1 rows have no caption" in done.stderr
    bad = avtools("mkmeta", "join", "vggsound", "--data-root", "data", "--require-match", input=text, status=1)
    assert "<stdin>:3: no caption of 'x' in vggsound" in bad.stderr and bad.stdout.count("\n") == 2


def test_join_table_lists_unused_rows_and_keeps_cells(avtools):
    (avtools.folder / "l.csv").write_text("clip,label\na,1\nb,2\n")
    line = ["mkmeta", "join", "table", "--with", "l.csv", "--on", "id=clip", "--take", "label", "--keep-unmatched", "--unmatched", "u.csv"]
    done = avtools(*line, input="id,label\na,old\nc,old\n")
    assert done.stdout == "id,label\na,1\nc,old\n"
    assert (avtools.folder / "u.csv").read_text() == "id,label,unmatched,key\nc,old,media,c\n,2,caption,b\n"


def test_nothing_is_left_behind_by_a_failure(avtools):
    plant(avtools.folder / "data", "vggsound")
    avtools("mkmeta", "join", "vggsound", "--data-root", "data", "--unmatched", "u.csv", "-o", "o.csv", input="path,x\na\n", status=2)
    assert sorted(path.name for path in avtools.folder.iterdir()) == ["data"]


def test_rows_are_conserved(avtools):
    plant(avtools.folder / "data")
    names = [f"{A}_000030.mp4", f"{A}.mp4", "no.mp4", "", f"{B}.wav", "7.flac", f"{C}.wav", f"{D}.wav", "airport-a.wav", "blues.00001.wav"] * 20
    line = ["--data-root", "data", "--errors", "e.jsonl", "--unmatched", "u.csv"]
    done = avtools("mkmeta", "join", "all", *line, input="path,id\n" + "".join(f"{n},\n" for n in names), status=1)
    out, bad = table(done.stdout), [json.loads(line) for line in (avtools.folder / "e.jsonl").read_text().splitlines()]
    lost = [row for row in table((avtools.folder / "u.csv").read_text()) if row["unmatched"] == "media"]
    assert sorted(row["path"] for row in [*out, *bad, *lost]) == sorted(names)
    assert f"200 rows in = {len(out)} done + {len(lost)} filtered + {len(bad)} bad" in done.stderr


def test_memory_does_not_grow_with_the_rows(tmp_path):
    plant(tmp_path, "vggsound")
    name = f"{A}_000030"

    def most(rows: int) -> int:
        """KiB at most that a join of so many rows takes."""
        (tmp_path / "t.csv").write_text("path,id\n" + f"clips/{name}.mp4,{name}\n" * rows)
        with open(os.devnull, "w") as nothing:
            process = subprocess.Popen(command("mkmeta", "join", "vggsound", "--data-root", "data", "t.csv"), cwd=tmp_path, stdout=nothing, stderr=nothing)
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return usage.ru_maxrss

    (tmp_path / "data").mkdir()
    (tmp_path / "VGGSound").rename(tmp_path / "data/VGGSound")
    assert most(200_000) < most(2_000) + 4096


@pytest.mark.parametrize("seed", range(8))
def test_no_clip_is_ever_called_another(seed, tmp_path):
    """Random data sets that share a few ids: each caption tells its clip, and a row's caption tells the row's."""
    from test_dataset_tables import spellings

    draw = random.Random(seed)
    ids = [A, B, C, D, "Y" + A[:10], B[1:] + "_"]
    clips = [(video, start) for video in ids for start in draw.sample([0, 3, 30, 60, 100, 4000, 50000], 3)]  # no two are alike as seconds and milliseconds
    caps, vgg = draw.sample(clips, 9), draw.sample(clips, 9)
    (tmp_path / "audiocaps").mkdir()
    caption_lines = [f"1,{video},{start},audiocaps {video} {start}\n" for video, start in caps]
    (tmp_path / "audiocaps/train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n" + "".join(caption_lines))
    vggsound(tmp_path, *(f"{video},{start},vggsound {video} {start},train" for video, start in vgg))
    names = draw.choice(["audiocaps,vggsound", "vggsound,audiocaps"])
    join = joiner(tmp_path, names)
    found = 0
    for video, start in clips:
        for path in spellings(video, start):
            folder = draw.choice(["", "VGGSound/", "audiocaps/x/"])
            row = {"path": folder + path, "source": draw.choice(["", "", "vggsound", "AudioCaps", "mine"])}
            knows = {name for name, several in (("audiocaps", caps), ("vggsound", vgg)) if (video, start) in several}
            got = join(row)
            if not knows:
                assert got is None, (row, got)
                continue
            by_source, by_folder = row["source"].lower(), folder.split("/")[0].lower()
            wanted = next(name for name in (by_source, by_folder, *names.split(",")) if name in knows)
            assert got["source"] == wanted and (got.get("text") or got["audio_text"]) == f"{wanted} {video} {start}", (row, got)
            found += 1
    assert found > 100


def test_the_list_of_unmatched_is_not_mixed_into_the_table(avtools):
    vggsound(avtools.folder, f"{A},30,dog,train")
    done = avtools("mkmeta", "join", "vggsound", "--data-root", ".", "--unmatched", "-", input=f"id\n{A}\nx\n", status=2)
    assert done.stdout == "" and "--unmatched needs a file" in done.stderr


def test_a_row_that_the_list_of_unmatched_cannot_hold(avtools):
    vggsound(avtools.folder, f"{A},30,dog,train")
    line, text = ["mkmeta", "join", "vggsound", "--data-root", ".", "--unmatched"], '{"id": "x"}\n{"id": "y", "late": 1}\n'
    assert "<stdin>:2: --unmatched u.csv: column late" in (done := avtools(*line, "u.csv", input=text, status=1)).stderr and "call it .jsonl" in done.stderr
    avtools(*line, "u.jsonl", input=text)
    assert [json.loads(row)["key"] for row in (avtools.folder / "u.jsonl").read_text().splitlines()] == ["x", "y", f"{A}_000030"]
