"""avtools synth, as processes on real files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

SMALL = ["--seconds", "1", "--size", "64x48"]


def avtools(*arguments, cwd=None, status=0):
    result = subprocess.run([sys.executable, "-m", "avtools", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result


def synth(cwd, *arguments):
    out = avtools("synth", "-d", "toys", "--to", "jsonl", *arguments, cwd=cwd).stdout
    return [json.loads(line) for line in out.splitlines()]


def files(folder):
    found = sorted(p for p in Path(folder).rglob("*") if p.is_file() and ".avtools" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def pictures(path, format):
    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray(format=format) for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight clips, one of each main class, with two objects each: folder, rows."""
    folder = tmp_path_factory.mktemp("synth")
    return folder, synth(folder, "-n", 8, "--seconds", 2, "--objects", 2)


def test_files_are_the_same_whatever_the_jobs_the_number_and_the_shards(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    a = synth(folders[0], "-n", 6, "-j", 1, *SMALL)
    b = synth(folders[1], "-n", 9, "-j", 2, *SMALL)
    c = [row for part in (1, 2) for row in synth(folders[2], "-n", 6, "--shard", f"{part}/2", *SMALL)]
    assert a == b[:6] == c
    assert [row["id"] for row in b] == [f"{i:05d}" for i in range(9)]
    one, more, shards = map(files, folders)
    assert one == shards and len(one) == 6 * 5
    assert one.items() <= more.items() and len(more) == 9 * 5


def test_running_again_makes_nothing_and_another_seed_makes_other_clips(tmp_path):
    first = synth(tmp_path, "-n", 3, *SMALL)
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "toys").rglob("*.*") if path.is_file() and ".avtools" not in path.parts}
    again = avtools("synth", "-n", 3, *SMALL, "-d", "toys", "--to", "jsonl", cwd=tmp_path)
    assert "0 made" in again.stderr and "15 reused" in again.stderr
    assert [json.loads(line) for line in again.stdout.splitlines()] == first
    assert before == {path: os.stat(path).st_mtime_ns for path in before}
    (tmp_path / first[1]["stem_path"]).unlink()
    assert "1 made" in avtools("synth", "-n", 3, *SMALL, "-d", "toys", cwd=tmp_path).stderr
    other = synth(tmp_path, "-n", 3, *SMALL, "--seed", "1")
    assert [row["event_times"] for row in other] != [row["event_times"] for row in first]


def test_killed_and_run_again_gives_the_files_of_an_undisturbed_run(tmp_path):
    command = [sys.executable, "-m", "avtools", "synth", "-n", "30", "-j", "1", *SMALL, "-d", "toys", "-o", "t.csv"]
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    running = subprocess.Popen(command, cwd=tmp_path / "killed", start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "killed").glob("toys/clips/*.mp4"))) < 5 and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    for folder in ("killed", "whole"):
        subprocess.run(command, cwd=tmp_path / folder, check=True, capture_output=True)
    assert files(tmp_path / "killed/toys") == files(tmp_path / "whole/toys")
    assert (tmp_path / "killed/t.csv").read_bytes() == (tmp_path / "whole/t.csv").read_bytes()


def test_columns_are_measured_and_known(made):
    folder, rows = made
    assert sorted(row["class"] for row in rows) == ["ball", "bell", "bird", "drum", "horn", "rattle", "siren", "woodblock"]
    for i, row in enumerate(rows):
        assert row["id"] == f"{i:05d}" and row["relpath"] == f"clips/{i:05d}.mp4" and row["path"] == f"toys/clips/{i:05d}.mp4"
        assert (row["num_frames"], row["fps"], row["duration"], row["width"], row["height"]) == (48, 24.0, 2.0, 128, 96)
        assert (row["audio_fps"], row["audio_channels"], row["av_offset"]) == (16000, 2, 0)
        assert 2 <= row["audio_duration"] < 2 + 1024 / 16000
        assert len(row["objects"]) == 2
        assert {column: row[column] for column in row["objects"][0]} == row["objects"][0]
        for thing in row["objects"]:
            assert all(time * 16000 == round(time * 16000) for time in thing["event_times"])
            assert [span[0] for span in thing["active"]][0] == thing["event_times"][0]
    header = avtools("synth", "-n", 0, "-d", "none", cwd=folder).stdout.strip().split(",")
    assert header[:3] == ["path", "id", "relpath"] and set(header) == set(rows[0])
    again = avtools("synth", "-n", 8, "--seconds", 2, "--objects", 2, "-d", "toys", "-o", "t.csv", cwd=folder)
    assert "0 made" in again.stderr
    probed = avtools("probe", "t.csv", cwd=folder).stdout
    assert probed == (folder / "t.csv").read_text()


def test_sounds_sum_up_and_the_clip_carries_them_in_place(made):
    folder, rows = made
    for row in rows:
        stems = [soundfile.read(folder / thing["stem_path"], dtype="int16")[0].astype(int) for thing in row["objects"]]
        ambience, rate = soundfile.read(folder / row["ambience_path"], dtype="int16")
        mixture, _ = soundfile.read(folder / row["mixture_path"], dtype="int16")
        assert rate == 16000 and mixture.shape == (32000, 2)
        assert np.array_equal(sum(stems) + ambience, mixture)
        for thing, stem in zip(row["objects"], stems, strict=True):
            loud = np.abs(stem).max(1)
            for span in thing["active"]:
                onset = round(span[0] * rate)
                assert not loud[max(0, onset - 160) : onset].any() and loud[onset]
                assert loud[onset : onset + 80].max() > 1000
            assert set(round(s[0] * rate) for s in thing["active"]) <= set(round(t * rate) for t in thing["event_times"])
        with av.open(str(folder / row["path"])) as container:
            decoded = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)[:, :32000]
        heard, wanted = decoded.sum(0), mixture.sum(1) / 32768
        shifts = [np.dot(heard[200:-200], np.roll(wanted, s)[200:-200]) for s in range(-100, 101)]
        assert np.argmax(shifts) == 100
        assert np.corrcoef(heard, wanted)[0, 1] > 0.95


def test_masks_and_flashes_in_the_files(made):
    folder, rows = made
    for row in rows:
        luma = pictures(folder / row["path"], "gray").astype(int)
        for thing in row["objects"]:
            masks = pictures(folder / thing["mask_path"], "gray")
            assert masks.shape == (48, 96, 128) and set(np.unique(masks)) == {0, 255}
            assert len(thing["box"]) == 48 and thing["visible"] == [True] * 48
            for mask, (x, y, width, height) in zip(masks, thing["box"], strict=True):
                inside = mask[y : y + height, x : x + width] > 0
                assert inside.sum() == (mask > 0).sum()
                assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            light = np.array([frame[mask > 0].mean() for frame, mask in zip(luma, masks, strict=True)])
            events = [int(time * 24) for time in thing["event_times"]]
            for event in events:
                assert np.argmax(light[max(0, event - 3) : event + 4]) == min(event, 3)
            assert light[events].min() > np.delete(light, events).max()


def test_other_rates_and_sizes(tmp_path):
    (row,) = synth(tmp_path, "-n", 1, "--seconds", 1, "--fps", "30000/1001", "--size", "96x128", "--rate", 48000)
    assert (row["num_frames"], row["width"], row["height"], row["audio_fps"], row["av_offset"]) == (30, 96, 128, 48000, 0)
    assert row["fps"] == 30000 / 1001 and row["duration"] == pytest.approx(30 * 1001 / 30000, abs=1e-9)
    assert soundfile.info(tmp_path / row["mixture_path"]).frames == round(30 * 1001 / 30000 * 48000)


def test_wrong_usage(tmp_path):
    assert "even" in avtools("synth", "-n", 1, "-d", "x", "--size", "65x48", cwd=tmp_path, status=2).stderr
    assert "-d DIR" in avtools("synth", "-n", 1, cwd=tmp_path, status=2).stderr
    assert "--seconds" in avtools("synth", "-n", 1, "-d", "x", "--seconds", "0.2", cwd=tmp_path, status=2).stderr
    assert not list(tmp_path.iterdir())
