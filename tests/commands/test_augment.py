"""avtools augment, as a process on real files."""

import csv
import json
import os
import shutil

import av
import numpy as np
import pytest
import soundfile
from conftest import Program, files

from avtools.augment.clips import read_constant
from avtools.augment.names import GROUPS, OPERATIONS
from avtools.augment.operations import Clip, redo
from avtools.augment.pool import Pools

VIDEO = [name for name, (group, _, _) in OPERATIONS.items() if group.startswith("video")]
AUDIO = [name for name in OPERATIONS if name not in VIDEO]


def rows_of(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def packets(path, kind):
    """The coded packets of a stream."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Two clips of two seconds in toys/; tables with their own sound (clips.csv), with a sound file beside (pairs.csv) and of
    sounds alone (sounds.csv); and pools: stems/ of the clips' sounds, objects.csv."""
    program = Program(tmp_path_factory.mktemp("augment"))
    folder = program.folder
    made = rows_of(program("synth", "-n", 2, "--seconds", 2, "--size", "64x48", "-d", "toys", "--to", "jsonl", "-q"))
    (folder / "stems").mkdir()
    for row in made:
        name = f"{row['id']}.wav"
        samples, rate = soundfile.read(folder / row["stem_path"], dtype="int16", always_2d=True)
        soundfile.write(folder / "stems" / f"{name}__sep__000_000_{row['class']}.wav", samples, rate)
        (folder / "stems" / f"{name}.json").write_text(json.dumps({f"{row['class']}_0_0": [[0, len(samples)]]}))
        meta = {"video_frame_height": 48, "video_frame_width": 64, "visible": row["visible"], "crop_bbox": [[0, 0, 64, 48]] * len(row["box"])}
        (folder / f"{row['id']}_meta_000.json").write_text(json.dumps(meta))

    def write(name, columns, rows):
        with open(folder / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    write("clips.csv", ["path", "id", "duration"], [[row["path"], row["id"], "?"] for row in made])
    write("pairs.csv", ["path", "id", "audio_path", "audio_duration"], [[row["path"], row["id"], row["mixture_path"], "?"] for row in made])
    write("sounds.csv", ["path", "audio_path", "text"], [["placeholder.mp4", row["mixture_path"], f"a, {k}"] for k, row in enumerate(made)])
    # The crop of an object is the whole picture, of which the mask takes what is the object's
    write("objects.csv", ["masklet_path", "mask_path", "meta_path"], [[row["path"], row["mask_path"], f"{row['id']}_meta_000.json"] for row in made])
    return program


def pool_of(name):
    pool = OPERATIONS[name][2]
    return {"masklets": ["--masklets", "objects.csv"], "stems": ["--stems", "stems"], None: []}[pool]


@pytest.mark.parametrize("name", VIDEO)
def test_a_changed_picture_keeps_its_sound_to_the_bit(toys, name, monkeypatch):
    row = rows_of(toys("augment", name, "clips.csv", "-d", f"out-{name}", "--to", "jsonl", "-j", 1, "--shard", "2/2", "--no-fsync", *pool_of(name)))[0]
    assert row["path"] == f"out-{name}/00001.mp4" and row["duration"] == 2.0  # measured anew, for the row has the column
    assert list(row) == ["path", "id", "duration", "augmentation"] and row["augmentation"]["op"] == name
    source, made = toys.folder / "toys/clips/00001.mp4", toys.folder / row["path"]
    assert packets(source, "audio") == packets(made, "audio")
    pictures, fps = read_constant(str(source))
    found, same = read_constant(str(made))
    assert fps == same == 24 and found.shape == pictures.shape
    monkeypatch.chdir(toys.folder)
    wanted = redo(row["augmentation"], Clip(video=pictures, pools=Pools.open("objects.csv")))
    off, changed = np.abs(found.astype(float) - wanted), np.abs(wanted.astype(float) - pictures).max(axis=3) > 60
    assert off.mean() < 3 and off[changed].mean() < 20 and changed.any()  # x264 and its chroma; what is changed is there


@pytest.mark.parametrize("name", AUDIO)
def test_a_changed_sound_is_a_file_and_on_the_picture_as_it_was(toys, name, monkeypatch):
    row = rows_of(toys("augment", name, "pairs.csv", "-d", f"out-{name}", "--to", "jsonl", "-j", 1, "--shard", "2/2", "--no-fsync", *pool_of(name)))[0]
    assert row["audio_path"] == f"out-{name}/00001.wav" and row["path"] == f"out-{name}/00001.mp4" and row["audio_duration"] == 2.0
    assert packets(toys.folder / "toys/clips/00001.mp4", "video") == packets(toys.folder / row["path"], "video")
    samples, rate = soundfile.read(toys.folder / "toys/mixtures/00001.wav", dtype="int16", always_2d=True)
    made, same = soundfile.read(toys.folder / row["audio_path"], dtype="int16", always_2d=True)
    assert soundfile.info(toys.folder / row["audio_path"]).subtype == "PCM_16" and made.shape == samples.shape and rate == same
    monkeypatch.chdir(toys.folder)
    wanted = redo(row["augmentation"], Clip(audio=(samples / 32768).astype(np.float32), rate=rate))
    assert np.array_equal(made, np.clip(np.rint(wanted * 32768), -32768, 32767)) and not np.array_equal(made, samples)
    with av.open(str(toys.folder / row["path"])) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1).T[: len(made)]
    assert np.corrcoef(heard.ravel(), made.ravel()[: heard.size])[0, 1] > 0.9  # through AAC


def test_the_own_source_of_a_sound_is_deleted_and_only_it(toys):
    row = rows_of(toys("augment", "delete-source", "pairs.csv", "-d", "deleted", "--to", "jsonl", "--stems", "stems"))[0]
    told = row["augmentation"]
    assert told["stem"].startswith("stems/00000.wav__sep__000_000_")
    samples, made, stem, ambience = (
        soundfile.read(toys.folder / path, dtype="int16", always_2d=True)[0].astype(int)
        for path in ("toys/mixtures/00000.wav", row["audio_path"], told["stem"], "toys/stems/00000_ambience.wav")
    )
    span = slice(told["start"], told["start"] + told["length"])
    assert np.array_equal(made[span], ambience[span])
    made[span] += stem[span]
    assert np.array_equal(made, samples)


def test_stems_of_another_folders_sound_of_the_same_name_are_left_alone(toys):
    """Where `separate` would have put them: by relpath, whichever of picture and sound names the row."""
    for folder, stem in (("one", 0), ("two", 1)):
        (toys.folder / "tree" / folder).mkdir(parents=True)
        source = next((toys.folder / "stems").glob(f"0000{stem}.wav__sep__*"))
        name = toys.folder / "tree" / folder / "x.wav"
        shutil.copy(source, f"{name}__sep__000_000_a.wav")
        (name.parent / "x.wav.json").write_text(json.dumps({"a_0_0": [[0, 1 << 20]]}))
    (toys.folder / "tree.csv").write_text("audio_path,path,relpath\n" + "".join(f"toys/mixtures/0000{min(k, 1)}.wav,,{folder}/x.mp4\n" for k, folder in enumerate(("one", "two", "three"))) + ",toys/clips/00001.mp4,two/x.mp4\n")
    stems = [row["augmentation"].get("stem") for row in rows_of(toys("augment", "delete-source", "tree.csv", "-d", "deleted2", "--to", "jsonl", "--stems", "tree"))]
    assert stems == ["tree/one/x.wav__sep__000_000_a.wav", "tree/two/x.wav__sep__000_000_a.wav", None, "tree/two/x.wav__sep__000_000_a.wav"]


def test_own_sounds_and_sounds_alone_are_augmented(toys):
    row = rows_of(toys("augment", "audio-temporal", "clips.csv", "-d", "own", "--to", "jsonl"))[0]
    assert list(row) == ["path", "id", "duration", "augmentation"] and row["augmentation"]["op"] in ("audio-shift", "mute", "repeat", "speed")
    assert packets(toys.folder / "toys/clips/00000.mp4", "video") == packets(toys.folder / row["path"], "video")
    rows = list(csv.DictReader(toys("augment", "mute", "sounds.csv", "-d", "alone").stdout.splitlines()))
    assert [list(row.values())[:3] for row in rows] == [["placeholder.mp4", f"alone/0000{k}.wav", f"a, {k}"] for k in range(2)]
    told = json.loads(rows[0]["augmentation"])
    made, _ = soundfile.read(toys.folder / "alone/00000.wav")
    assert told["op"] == "mute" and not made[told["start"] : told["start"] + told["length"]].any()


def test_files_and_rows_depend_on_seed_and_key_alone_and_are_made_once(toys):
    line = ["augment", "audio-spatial", "--stems", "stems", "--to", "jsonl", "-d"]
    first = toys(*line, "a", "pairs.csv", "-j", 1)
    turned = (toys.folder / "pairs.csv").read_text().splitlines()
    (toys.folder / "turned.csv").write_text("\n".join([turned[0], turned[2], turned[1]]) + "\n")
    other = toys(*line, "b", "turned.csv", "-j", 2)
    assert files(toys.folder / "a") == files(toys.folder / "b")
    plain = [{**row, "path": row["path"][2:], "audio_path": row["audio_path"][2:]} for row in rows_of(first)]
    assert [{**row, "path": row["path"][2:], "audio_path": row["audio_path"][2:]} for row in rows_of(other)][::-1] == plain
    (toys.folder / "a/00000.mp4").unlink()
    again = toys(*line, "a", "pairs.csv")
    assert again.stdout == first.stdout and "1 made, 0 without change, 3 reused" in again.stderr  # what was drawn is known of reused files, too
    assert files(toys.folder / "a") == files(toys.folder / "b")
    seeded = toys(*line, "a", "pairs.csv", "--seed", 1)
    assert "4 made" in seeded.stderr and [row["augmentation"] for row in rows_of(seeded)] != [row["augmentation"] for row in rows_of(first)]
    os.utime(toys.folder / "stems/00000.wav.json", (0, 0))
    assert "4 made" in toys(*line, "a", "pairs.csv", "--seed", 1).stderr  # the pool has changed


def test_bad_rows_are_said_in_one_line_and_leave_nothing(toys):
    folder = toys.folder / "bad"
    folder.mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(folder / "short.wav", np.ones(20) / 2, 8000)
    (folder / "damaged.mp4").write_bytes((toys.folder / "toys/clips/00000.mp4").read_bytes()[:500])
    with av.open(str(folder / "still.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"qp": "0"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(20):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    program = Program(folder)
    names = ["silent.wav", "short.wav", "damaged.mp4", "still.mp4", "none.wav"]
    (folder / "t.jsonl").write_text("".join(json.dumps({"path" if name.endswith("4") else "audio_path": name}) + "\n" for name in names))
    for op, said in (
        ("mute", ["silent.wav: its sound is silent", "short.wav: its sound has 20 samples", "damaged.mp4: ", "still.mp4: has no sound", "none.wav: "]),
        ("video-shift", ["silent.wav: has no picture", "short.wav: has no picture", "damaged.mp4: ", "still.mp4: video-shift changes nothing", "none.wav: has no picture"]),
        ("audio-spatial", ["silent.wav: ", "short.wav: ", "damaged.mp4: ", "still.mp4: ", "none.wav: "]),
    ):
        done = program("augment", op, "t.jsonl", "-d", "out", status=1)
        lines = done.stderr.splitlines()
        assert len(lines) == 6 and not done.stdout.strip() and not files(folder / "out")
        for line, words in zip(lines, said, strict=False):
            assert words in line and "t.jsonl" in line, line
    kept = rows_of(program("augment", "mute", "t.jsonl", "-d", "out", "--on-error", "keep"))
    assert len(kept) == 5 and all(row["error"] and "augmentation" not in row for row in kept)


def test_wrong_usage_is_said_before_any_row_is_read(toys):
    listed = toys("augment", "--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(OPERATIONS) and set(GROUPS) <= set(listed.split())
    shown = " ".join(toys("augment", "--help").stdout.split())
    for name, (_, about, _) in OPERATIONS.items():
        assert f"{name} {about}" in shown, name
    for line, words in (
        (["--masklets", "nowhere"], "nowhere: the pool cannot be read"),
        (["--stems", "toys/masks"], "toys/masks: no separated sounds"),
        (["--masklets", "clips.csv"], "no column 'masklet_path'"),
    ):
        done = toys("augment", "stall", "clips.csv", "-d", "wrong", *line, status=2)
        assert words in done.stderr and not (toys.folder / "wrong").exists()
    assert "is not one of" in toys("augment", "reverse", "clips.csv", "-d", "wrong", status=2).stderr
    assert "where to?" in toys("augment", "stall", "clips.csv", status=2).stderr
    assert "give --stems" in toys("augment", "add-source", "clips.csv", "-d", "wrong", status=1).stderr
