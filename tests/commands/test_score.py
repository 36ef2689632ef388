"""`score`, `metrics` and `compare` as real processes."""

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import conftest
from fixtures import even, make

TESTS = pathlib.Path(__file__).resolve().parent.parent
COUNT = 10


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Sounds of 1 s with clicks at known times, as a table; two kinds of rows."""
    folder = tmp_path_factory.mktemp("scored")
    draw = np.random.default_rng(0)
    lines = ["id,audio_path,kind,event_times\n"]
    for k in range(COUNT):
        times = sorted(draw.choice(np.arange(0.1, 0.5, 0.25), 1).tolist() + [0.55 + 0.02 * k])
        samples = 1e-4 * draw.standard_normal(16000)
        for time in times:
            samples[int(time * 16000) :][:800] += (0.1 + 0.05 * k) * np.exp(-np.arange(800) / 200) * np.sin(np.arange(800) / 3)
        soundfile.write(folder / f"{k}.wav", samples, 16000)
        lines.append(f'{k},{folder}/{k}.wav,{"ab"[k % 2]},"{json.dumps(times).replace(chr(34), chr(34) * 2)}"\n')
    return "".join(lines)


@pytest.fixture
def odd(avtools, monkeypatch):
    """The program with the tests' own metrics besides its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("BATCHES", str(avtools.folder / "batches"))
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", "import odd_metrics; odd_metrics.main()", *map(str, arguments)])
    return avtools


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def summary(avtools, name="s.json") -> dict:
    return json.loads((avtools.folder / name).read_text())


def test_cells_and_summary_agree(avtools, clips):
    done = avtools("score", "onset-f1,loudness", "--summary", "s.json", "-j2", input=clips)
    found, told = rows(done.stdout), summary(avtools)
    assert [row["id"] for row in found] == [str(k) for k in range(COUNT)]
    assert list(found[0])[4:] == ["onset_f1", "onset_precision", "onset_recall", "loudness_db", "peak_db", "silent_share", "clipped_share", "broken_samples"]
    for column, entry in told["metrics"].items():
        values = [float(row[column]) for row in found]
        assert entry["mean"] == pytest.approx(np.mean(values)) and entry["count"] == COUNT and entry["skipped"] == {}
        assert entry["std"] == pytest.approx(np.std(values, ddof=1))
        low, high = entry["interval"]
        assert low <= entry["mean"] <= high
    assert told["metrics"]["onset_f1"]["mean"] == 1
    assert told["rows"] == {"judged": COUNT, "bad": 0, "keys": told["rows"]["keys"]}
    assert told["media"] == {"sound": {
        "rate": {"min": 16000, "max": 16000, "values": [[16000, COUNT]]}, "channels": {"min": 1, "max": 1, "values": [[1, COUNT]]},
        "seconds": {"min": 1.0, "max": 1.0, "values": [[1.0, COUNT]]}, "not_finite": {"min": 0, "max": 0, "values": [[0, COUNT]]},
    }}  # fmt: skip
    assert told["definitions"]["onset-f1"]["settings"] == {"tolerance": 0.05} and told["definitions"]["onset-f1"]["protocol"] == "standard"
    assert {"numpy", "av", "soxr"} <= set(told["libraries"])
    assert "onset_f1" in done.stderr and "95 % interval" in done.stderr


def test_nothing_depends_on_workers_order_or_shards(avtools, clips):
    one = avtools("score", "onset-f1", "--canary", "--summary", "1.json", "-j1", input=clips).stdout
    two = avtools("score", "onset-f1", "--canary", "--summary", "2.json", "-j2", input=clips).stdout
    assert one == two and (avtools.folder / "1.json").read_bytes() == (avtools.folder / "2.json").read_bytes()
    header, *lines = clips.splitlines(keepends=True)
    back = avtools("score", "onset-f1", "--exchange", "", "--summary", "b.json", "-j1", input=header + "".join(lines[::-1])).stdout
    forth = avtools("score", "onset-f1", "--exchange", "", "--summary", "f.json", "-j1", input=clips).stdout
    assert rows(back)[::-1] == rows(forth)
    assert summary(avtools, "b.json")["rows"] == summary(avtools, "f.json")["rows"]
    parts = [avtools("score", "onset-f1", "--exchange", "", "--shard", f"{k}/3", "--summary", f"{k}.json", "-j1", input=clips).stdout for k in (1, 2, 3)]
    assert [row for part in parts for row in rows(part)] == rows(forth)
    assert sum(summary(avtools, f"{k}.json")["rows"]["judged"] for k in (1, 2, 3)) == COUNT
    assert all(summary(avtools, f"{k}.json")["rows"]["bad"] == 0 for k in (1, 2, 3))


def test_the_canary_tells_what_a_metric_notices(avtools, clips):
    done = avtools("score", "onset-f1,loudness", "--canary", "--summary", "s.json", "-j2", input=clips)
    assert rows(done.stdout)[0].keys() == rows(avtools("score", "onset-f1,loudness", "-j2", input=clips).stdout)[0].keys()
    told = summary(avtools)
    assert set(told["canary"]) == {"onset_f1"}  # loudness says nothing of pairs
    controls = told["canary"]["onset_f1"]
    assert set(controls) == {"silence", "noise", "shuffled", "shifted"}
    assert controls["silence"]["mean"] == 0 and controls["silence"]["told_apart"] is True
    assert controls["shifted"]["told_apart"] is True and controls["shuffled"]["mean"] < 1
    assert told["metrics"]["onset_f1"]["mean"] == 1
    assert told["metrics"]["onset_f1"]["chance"]["mean"] == controls["shuffled"]["mean"]
    assert "told apart" in done.stderr


def test_a_metric_that_hears_nothing_of_the_difference_is_named(odd, clips):
    (odd.folder / "t.csv").write_text(clips)
    done = odd("score", "spread", "t.csv", "--canary", "--summary", "s.json", "-j1")
    assert summary(odd)["canary"]["spread"]["shifted"]["told_apart"] is False
    assert "shifted" in done.stderr and "NOT told apart" in done.stderr


def test_sounds_are_exchanged_within_columns(avtools, clips):
    found = rows(avtools("score", "onset-f1", "--exchange", "kind", "--summary", "s.json", "-j1", input=clips).stdout)
    for k, row in enumerate(found):
        other = int(pathlib.Path(row["exchanged_audio_path"]).stem)
        assert other != k and other % 2 == k % 2
    told = summary(avtools)
    assert told["pairs"] == {"sounds exchanged within": ["kind"]} and told["metrics"]["onset_f1"]["mean"] < 1
    alone = avtools("score", "onset-f1", "--exchange", "id", "--summary", "s.json", "-j1", input=clips)
    assert {(row["exchanged_audio_path"], row["onset_f1"]) for row in rows(alone.stdout)} == {("", "")}
    assert summary(avtools)["metrics"]["onset_f1"]["skipped"] == {"no other row to exchange sounds with": COUNT}
    assert "--canary" in avtools("score", "onset-f1", "--exchange", "", "--canary", input=clips, status=2).stderr


def test_a_sets_metric_is_in_the_summary_alone(odd, clips):
    found = rows(odd("score", "spread,loudness", "--summary", "s.json", "-j2", input=clips).stdout)
    levels = [float(row["loudness_db"]) for row in found]
    entry = summary(odd)["metrics"]["spread"]
    assert "spread" not in found[0]
    assert entry["value"] == pytest.approx(np.std(levels), rel=1e-5) and entry["count"] == COUNT
    assert entry["interval"][0] < entry["value"] < entry["interval"][1] and entry["warnings"] == []
    done = odd("score", "spread", "--summary", "s.json", "-j2", input="".join(clips.splitlines(keepends=True)[:4]))
    assert summary(odd)["metrics"]["spread"]["warnings"] == ["the spread of 3 levels tells little"]
    assert done.stderr.count("avtools score: warning: the spread of 3 levels tells little\n") == 1


def test_networks_run_in_batches_beside_plain_metrics(odd, clips):
    pytest.importorskip("torch")
    text = clips.replace("\n3,", "\nskipped,")
    found = rows(odd("score", "peak,onset-f1,mean-peak", "--weights", "peak=here.bin", "--summary", "s.json", "-j2", input=text).stdout)
    told = summary(odd)
    assert found[3]["peak"] == "" and found[3]["onset_f1"] == "1.0"
    peaks = []
    for row in found[:3] + found[4:]:
        sound, _ = soundfile.read(row["audio_path"], dtype="float32")
        peaks.append(float(np.abs(sound[:1000]).max()))
    assert [float(row["peak"]) for row in found[:3] + found[4:]] == peaks
    assert told["metrics"]["peak"]["skipped"] == {"asked to": 1} == told["metrics"]["mean_peak"]["skipped"]
    assert told["metrics"]["mean_peak"]["value"] == pytest.approx(np.mean(peaks)) == pytest.approx(told["metrics"]["peak"]["mean"])
    assert told["weights"] == {"peak": "digest of here.bin", "mean-peak": "digest of None"}
    batches = [line.split() for line in (odd.folder / "batches").read_text().splitlines()]
    assert sum(int(count) for name, count in batches if name == "peak") == COUNT - 1 and len(batches) < 2 * (COUNT - 1)


def test_bad_rows_are_named_and_counted_and_their_neighbours_scored(avtools, clips):
    soundfile.write(avtools.folder / "empty.wav", np.zeros(0), 16000)
    soundfile.write(avtools.folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(avtools.folder / "tiny.wav", np.ones(7) / 2, 16000)
    broken = np.zeros(16000, np.float32)
    broken[:3] = np.nan
    soundfile.write(avtools.folder / "nan.wav", broken, 16000, subtype="FLOAT")
    text = clips + 'e,empty.wav,a,[]\nm,missing.wav,a,[]\ns,silent.wav,a,[]\nt,tiny.wav,a,[0.5]\nn,nan.wav,a,"[0.5, 0.7]"\nx,tiny.wav,a,soon\n'
    done = avtools("score", "onset-f1,loudness", "--summary", "s.json", "-j2", input=text, status=1)
    for words in ("empty.wav: holds no samples", "missing.wav: no such file", "event_times: 'soon'"):
        assert words in done.stderr
    found = {row["id"]: row for row in rows(done.stdout)}
    assert len(found) == COUNT + 3
    assert found["s"]["onset_f1"] == found["s"]["loudness_db"] == "" and found["s"]["silent_share"] == "1.0"
    assert found["t"]["onset_f1"] == found["n"]["onset_f1"] == "0.0" and found["n"]["broken_samples"] == "3"
    told = summary(avtools)
    assert told["rows"]["bad"] == 3 and told["rows"]["judged"] == COUNT + 3
    assert told["metrics"]["onset_f1"]["skipped"] == {"no event and no onset": 1}
    assert told["metrics"]["loudness_db"]["skipped"] == {"digital silence": 2}


def test_av_align_of_clips_and_of_what_has_no_picture(avtools):
    pytest.importorskip("librosa")
    make(avtools.folder / "a.mp4", even(20), sound={}, noise=True)
    make(avtools.folder / "one.mp4", even(1), sound={})
    make(avtools.folder / "mute.mp4", even(5))
    make(avtools.folder / "dark.mkv", [], sound={})
    done = avtools("score", "av-align", "a.mp4", "one.mp4", "mute.mp4", "dark.mkv", "--summary", "s.json", "-j1", status=1)
    found = rows(done.stdout)
    assert [row["path"] for row in found] == ["a.mp4", "one.mp4"]
    assert 0 <= float(found[0]["av_align"]) <= 1 and found[1]["av_align"] == ""
    assert "mute.mp4: has no sound" in done.stderr and "dark.mkv: has no picture" in done.stderr
    told = summary(avtools)
    assert told["metrics"]["av_align"]["skipped"] == {"the picture has one frame, so nothing moves": 1}
    assert told["media"]["picture"]["fps"]["values"] == [[25.0, 2]] and told["media"]["picture"]["frames"]["max"] == 20
    assert {"librosa", "cv2"} <= set(told["libraries"])
    published = avtools("score", "av-align", "a.mp4", "--protocol", "javisbench", "--summary", "p.json", "-j1")
    assert float(rows(published.stdout)[0]["av_align"]) == pytest.approx(float(found[0]["av_align"]), abs=1e-5)
    assert summary(avtools, "p.json")["definitions"]["av-align"]["protocol"] == "javisbench"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["onset-f2"], "did you mean 'onset-f1'"),
        (["onset-f1,onset-f1"], "twice"),
        (["av-align"], "needs a column generated_path or path"),
        (["onset-f1", "--audio-column", "sound"], "--audio-column sound: the table has no such column"),
        (["onset-f1", "--exchange", "kind,colour"], "--exchange colour: the table has no such column"),
        (["onset-f1", "--protocol", "vatt"], "standard definition"),
        (["onset-f1", "--set", "width=3"], "onset-f1.tolerance"),
        (["onset-f1", "--summary", "nowhere/s.json"], "no directory nowhere"),
        (["onset-f1", "--summary", "."], "name of a file"),
        (["onset-f1", "--weights", "net=x"], "no such part"),
    ],
)
def test_wrong_usage(avtools, clips, arguments, words):
    assert words in avtools("score", *arguments, "-j1", input=clips, status=2).stderr


def test_a_column_that_no_row_has_is_wrong_usage_but_jsonl_rows_may_differ(avtools, clips):
    text = "".join(",".join(line.split(",")[:3]) + "\n" for line in clips.splitlines())
    assert "event_times, or a reference sound" in avtools("score", "onset-f1", input=text, status=2).stderr
    first = json.dumps({"id": "a", "audio_path": "none.wav"})
    second = json.dumps({"id": "b", "audio_path": rows(clips)[0]["audio_path"], "event_times": json.loads(rows(clips)[0]["event_times"])})
    done = avtools("score", "onset-f1", "-j1", input=f"{first}\n{second}\n", status=1)
    assert json.loads(done.stdout)["onset_f1"] == 1.0 and "by itself" in done.stderr


def test_an_interrupted_or_failed_run_leaves_no_summary(avtools, clips):
    done = avtools("score", "onset-f1", "--summary", "s.json", "-o", "nowhere/t.csv", input=clips, status=2)
    assert "nowhere" in done.stderr and os.listdir(avtools.folder) == []
    (avtools.folder / "s.json.another-1-1.tmp").touch()  # maybe a living run of another machine
    running = avtools.start("score", "onset-f1", "--summary", "s.json", "-", stdin=subprocess.PIPE)
    running.stdin.write(clips.encode())
    running.stdin.flush()
    assert [running.stdout.readline()[:3] for _ in range(2)][0] == b"id,"  # and a row: all is open
    assert any(name.startswith("s.json.") and "another" not in name for name in os.listdir(avtools.folder))
    running.terminate()
    assert running.wait(30) == -signal.SIGTERM
    avtools.wait_for_workers()
    assert os.listdir(avtools.folder) == ["s.json.another-1-1.tmp"]


def test_compare_sets_like_ones_side_by_side_and_refuses_others(avtools, clips):
    avtools("score", "onset-f1,loudness", "--summary", "a.json", "-j1", "-q", input=clips)
    avtools("score", "onset-f1", "--exchange", "", "--summary", "b.json", "-j1", "-q", input=clips)
    avtools("score", "onset-f1", "--set", "tolerance=0.1", "--summary", "c.json", "-j1", "-q", input=clips)
    avtools("score", "onset-f1", "--summary", "d.json", "-j1", "-q", input="".join(clips.splitlines(keepends=True)[:-1]))
    done = avtools("compare", "a.json", "b.json")
    first, *others = rows(done.stdout)
    assert (first["column"], first["better"], first["a"], first["a_count"]) == ("onset_f1", "a", "1.0", str(COUNT))
    assert [row["column"] for row in others] == ["onset_precision", "onset_recall"]
    assert float(first["difference"]) == pytest.approx(float(first["b"]) - 1)
    assert "sounds exchanged" in done.stderr
    assert "onset-f1 settings tolerance: 0.05 and 0.1" in avtools("compare", "a.json", "c.json", status=2).stderr
    unlike = avtools("compare", "a.json", "d.json", status=2).stderr
    assert f"rows judged: {COUNT} and {COUNT - 1}" in unlike and "--anyway" in unlike
    anyway = avtools("compare", "a.json", "d.json", "--anyway")
    assert len(rows(anyway.stdout)) == 3 and "unlike: rows judged" in anyway.stderr


def test_metrics_lists_what_there_is(avtools):
    found = {row["metric"]: row for row in rows(avtools("metrics").stdout)}
    assert {"av-align", "onset-f1", "loudness"} <= set(found)
    for row in found.values():
        assert row["title"] and row["source"] and row["direction"] in ("higher", "lower", "none") and json.loads(row["needs"])
    assert json.loads(found["av-align"]["requires"]) == ["librosa", "opencv-python-headless"]
    assert json.loads(found["av-align"]["protocols"]) == ["javisbench"]
