"""Features of networks in `score`: shared among metrics, kept by content, the same for any batch and number of ranks."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from avtools.metrics.media import Pair
from fixtures import even, make
from odd_metrics import Colours
from test_score import odd, rows, summary  # noqa: F401 - a fixture

COUNT = 7


@pytest.fixture
def clips(odd):  # noqa: F811
    """Videos with sounds of their own levels, each with another one as its reference."""
    lines = ["id,kind,path,generated_audio_path,audio_path\n"]
    draw = np.random.default_rng(1)
    for k in range(COUNT):
        for name, level in (("made", 0.05 * (k + 1)), ("true", 0.1)):
            soundfile.write(odd.folder / f"{name}{k}.wav", level * draw.standard_normal(4000 + 100 * k).clip(-2, 2), 16000)
        make(odd.folder / f"{k}.mp4", even(12 + k))
        lines.append(f"{k},{'xy'[k % 2]},{k}.mp4,made{k}.wav,true{k}.wav\n")
    (odd.folder / "levels.bin").write_text("2.0")
    (odd.folder / "colours.bin").write_text("1.0")
    (odd.folder / "clips.csv").write_text("".join(lines))
    return odd


WEIGHTS = ("--weights", "levels=levels.bin", "--weights", "colours=colours.bin")


def batches(avtools) -> dict[str, list[int]]:
    """Network -> the sizes of the batches that it ran."""
    found: dict[str, list[int]] = {}
    path = avtools.folder / "batches"
    for name, count in (line.split() for line in path.read_text().splitlines()) if path.exists() else ():
        found.setdefault(name, []).append(int(count))
    path.unlink(missing_ok=True)
    return found


def expected(avtools, k: int) -> tuple[float, float]:
    """The mean levels of a row's sound and of its reference."""
    import soxr

    levels = []
    for name in ("made", "true"):
        sound, _ = soundfile.read(avtools.folder / f"{name}{k}.wav", dtype="float32")
        levels.append(2 * np.mean([np.abs(part).mean() for part in np.array_split(soxr.resample(sound, 16000, 8000), 4)]))
    return tuple(levels)


def test_what_several_metrics_want_is_worked_out_once(clips):
    found = rows(clips("score", "level,share,light", "clips.csv", *WEIGHTS, "--summary", "s.json", "-j2").stdout)
    for k, row in enumerate(found):
        made, true = expected(clips, k)
        assert float(row["level"]) == pytest.approx(made, rel=1e-5) and float(row["share"]) == pytest.approx(made / true, rel=1e-5)
        shown = Pair({"path": str(clips.folder / f"{k}.mp4")}, {}).seen("video", Colours.pictures).pictures
        assert float(row["light"]) == pytest.approx(made * shown.mean(), rel=1e-5)
    assert {name: sum(sizes) for name, sizes in batches(clips).items()} == {"levels": 2 * COUNT, "colours": COUNT}
    told = summary(clips)
    assert told["weights"]["light"].keys() == {"levels", "colours"} and told["weights"]["level"]["levels"] == told["weights"]["light"]["levels"]
    assert {"picture", "sound", "reference sound"} <= told["media"].keys()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_results_do_not_depend_on_the_batch(clips, size):
    whole = clips("score", "level,share,light", "clips.csv", *WEIGHTS, "--summary", "a.json").stdout
    batches(clips)
    assert clips("score", "level,share,light", "clips.csv", *WEIGHTS, "--batch-size", str(size), "--summary", "b.json").stdout == whole
    assert summary(clips, "a.json") == summary(clips, "b.json")
    assert max(size for sizes in batches(clips).values() for size in sizes) <= max(1, size)


@pytest.mark.long
def test_two_ranks_give_what_one_process_gives(clips):
    line = ("score", "level,share,light", "clips.csv", *WEIGHTS, "--by", "kind", "--intervals", "bootstrap", "--cache", "kept")
    alone = clips(*line, "--summary", "one.json").stdout
    shutil.rmtree(clips.folder / "kept")
    ranks = [
        clips.start(*line, "--summary", "two.json", env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": f"{os.getpid()}f"})
        for rank in (1, 0)
    ]
    outs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outs
    out = outs[1][0]
    assert (out.decode() if isinstance(out, bytes) else out) == alone and not outs[0][0]
    assert summary(clips, "one.json") == summary(clips, "two.json")


@pytest.mark.long
def test_features_are_kept_by_content_and_reused(clips):
    line = ("score", "level,share,light", "clips.csv", *WEIGHTS, "--cache", "kept", "--summary")
    first = clips(*line, "a.json").stdout
    assert batches(clips)["levels"]
    shutil.copy(clips.folder / "made3.wav", clips.folder / "other.wav")  # the same content under another name
    table = (clips.folder / "clips.csv").read_text().replace("made3.wav", "other.wav")
    (clips.folder / "clips.csv").write_text(table)
    assert clips(*line, "b.json").stdout == first.replace("made3.wav", "other.wav")
    assert batches(clips) == {}
    assert summary(clips, "a.json") == summary(clips, "b.json"), "the media are told of though they were not read"
    (clips.folder / "levels.bin").write_text("3.0")  # other weights: other features
    changed = rows(clips(*line, "c.json").stdout)
    assert float(changed[0]["level"]) == pytest.approx(1.5 * float(rows(first)[0]["level"]))
    assert sum(batches(clips)["levels"]) == 2 * COUNT
    sound, rate = soundfile.read(clips.folder / "made0.wav")
    soundfile.write(clips.folder / "made0.wav", sound / 2, rate)  # other content under the same name
    assert float(rows(clips(*line, "d.json").stdout)[0]["level"]) == pytest.approx(float(changed[0]["level"]) / 2, rel=1e-3)
    assert batches(clips) == {"levels": [1]}


def test_a_broken_file_of_the_cache_counts_as_none(clips):
    line = ("score", "level", "clips.csv", *WEIGHTS[:2], "--cache", "kept")
    first = clips(*line).stdout
    batches(clips)
    files = sorted((clips.folder / "kept").rglob("*.npz"))
    assert len(files) == COUNT
    files[0].write_bytes(files[0].read_bytes()[:50])
    damaged = bytearray(files[1].read_bytes())
    damaged[200] ^= 1
    files[1].write_bytes(damaged)
    files[2].write_bytes(b"")
    assert clips(*line).stdout == first and sum(batches(clips)["levels"]) in (2, 3)  # a bit may fall where nothing is read
    assert not list((clips.folder / "kept").rglob("*.tmp"))


def test_a_cache_that_cannot_be_written_ends_the_run(clips):
    (clips.folder / "kept").write_text("a file")
    done = clips("score", "level", "clips.csv", *WEIGHTS[:2], "--cache", "kept/inner", status=3)
    assert "--cache kept/inner: Not a directory" in done.stderr


def test_controls_are_judged_by_shared_features_too(clips):
    clips("score", "level,light", "clips.csv", *WEIGHTS, "--canary", "--cache", "kept", "--summary", "s.json")
    told = summary(clips)["canary"]
    assert told["level"]["silence"]["skipped"] == {"silence has no levels": COUNT}
    assert told["level"]["shuffled"]["mean"] == pytest.approx(summary(clips)["metrics"]["level"]["mean"], rel=1e-6)
    assert sum(batches(clips)["colours"]) == COUNT  # one picture for all sounds


def test_variants_of_a_metric_stand_side_by_side(clips):
    found = rows(clips("score", "level,level:eight,level:four", "clips.csv", *WEIGHTS[:2], "--summary", "s.json").stdout)
    assert [row["level"] for row in found] == [row["level_four"] for row in found] and sum(batches(clips)["levels"]) == 2 * COUNT
    assert float(found[0]["level_eight"]) == pytest.approx(float(found[0]["level"]), rel=1e-2)
    told = summary(clips)
    assert told["definitions"]["level:eight"]["settings"] == {"model": "eight"} and told["metrics"]["level_eight"]["metric"] == "level:eight"
    assert rows(clips("score", "level", "clips.csv", *WEIGHTS[:2], "--protocol", "paper").stdout)[1]["level"] == found[1]["level_eight"]
    assert "has no variant 'six' (it has four, eight)" in clips("score", "level:six", "clips.csv", status=2).stderr
    assert "has no variant" in clips("score", "peak:six", "clips.csv", status=2).stderr
    assert "say" in clips("score", "level:four", "clips.csv", "--set", "level.model=eight", status=2).stderr


def test_results_of_each_part_of_the_set(clips):
    done = clips("score", "level,mean-peak", "clips.csv", *WEIGHTS[:2], "--by", "kind", "--summary", "s.json")
    found, told = rows(done.stdout), summary(clips)
    for kind in "xy":
        levels = [float(row["level"]) for row in found if row["kind"] == kind]
        part = told["by"]["kind"][kind]
        assert part["level"]["mean"] == pytest.approx(np.mean(levels)) and part["level"]["count"] == len(levels) == part["mean_peak"]["count"]
    assert "kind = x" in done.stderr
    assert "--by sort: the table has no such column" in clips("score", "level", "clips.csv", *WEIGHTS[:2], "--by", "sort", status=2).stderr


@pytest.mark.long
def test_a_bootstrap_resamples_clips_not_their_samples(clips):
    """Ten copies of each row say no more than one: the interval over keys stays, that over rows shrinks."""
    header, *lines = (clips.folder / "clips.csv").read_text().splitlines()
    (clips.folder / "ten.csv").write_text("\n".join([header, *(line for line in lines for _ in range(10))]) + "\n")
    spans = {}
    for name in ("clips", "ten"):
        for how in ("t", "bootstrap"):
            clips("score", "level", f"{name}.csv", *WEIGHTS[:2], "--intervals", how, "--summary", "s.json", "--key", "id")
            low, high = summary(clips)["metrics"]["level"]["interval"]
            spans[name, how] = high - low
    assert spans["ten", "t"] < 0.4 * spans["clips", "t"]
    assert spans["ten", "bootstrap"] == pytest.approx(spans["clips", "bootstrap"], rel=1e-6)


def test_bad_rows_and_missing_weights(clips):
    table = (clips.folder / "clips.csv").read_text().splitlines()
    table.append("alone,x,0.mp4,true0.wav,true0.wav")
    table.append("none,x,0.mp4,missing.wav,true0.wav")
    soundfile.write(clips.folder / "nan.wav", np.full(4000, 0.1), 16000)
    (clips.folder / "clips.csv").write_text("\n".join(table) + "\n")
    done = clips("score", "share", "clips.csv", *WEIGHTS[:2], status=1)
    assert "true0.wav: would be judged by itself; give generated_audio_path" in done.stderr and "missing.wav" in done.stderr
    assert len(rows(done.stdout)) == COUNT
    (clips.folder / "levels.bin").write_text("nan")
    done = clips("score", "level", "clips.csv", *WEIGHTS[:2], "--cache", "kept", status=1)
    assert "level: levels gives no finite numbers for its audio; are these its weights?" in done.stderr
    assert not list((clips.folder / "kept").rglob("*.npz"))
    assert "give --weights levels=FILE|DIR" in clips("score", "level", "clips.csv", status=3).stderr
    assert "no such part" in clips("score", "level", "clips.csv", "--weights", "colour=x", status=2).stderr


def test_a_reference_begins_where_its_row_says(clips):
    (clips.folder / "long.wav").unlink(missing_ok=True)
    sound, rate = soundfile.read(clips.folder / "made2.wav")
    soundfile.write(clips.folder / "long.wav", np.concatenate([np.full(8000, 0.9), sound, np.full(8000, 0.9)]), rate)
    (clips.folder / "t.jsonl").write_text(json.dumps({"generated_audio_path": "made2.wav", "audio_path": "long.wav", "reference_start": 0.5}) + "\n")
    (found,) = (json.loads(line) for line in clips("score", "share", "t.jsonl", *WEIGHTS[:2]).stdout.splitlines())
    assert found["share"] == pytest.approx(1, abs=0.03)
    (clips.folder / "t.jsonl").write_text(json.dumps({"generated_audio_path": "made2.wav", "audio_path": "long.wav", "reference_start": 5}) + "\n")
    assert "has no sound from 5 s on" in clips("score", "share", "t.jsonl", *WEIGHTS[:2], status=1).stderr


def test_the_cache_does_not_let_a_sound_be_its_own_reference(clips):
    (clips.folder / "alone.csv").write_text("path\nmade0.wav\nmade1.wav\n")
    line = ("alone.csv", *WEIGHTS[:2], "--cache", "kept")
    assert "would be judged by itself" in clips("score", "share", *line, status=1).stderr
    clips("score", "level", *line)  # their features are known from here on
    assert "would be judged by itself" in clips("score", "share", *line, status=1).stderr


def test_any_damage_to_a_file_of_the_cache_makes_it_none(tmp_path):
    from avtools.metrics.extracting import Cache

    place, cache = tmp_path / "kept" / "x.npz", Cache(str(tmp_path / "kept"), {})
    cache.write(place, {"levels": np.arange(3, dtype=np.float32)}, {"sound": {"rate": 1}})
    data = place.read_bytes()
    arrays, facts = cache.read(place)
    for number in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[number // 8] ^= 1 << number % 8
        place.write_bytes(damaged)
        found = cache.read(place)
        assert found is None or found[1] == facts and found[0].keys() == arrays.keys() and np.array_equal(found[0]["levels"], arrays["levels"])


def test_parts_of_the_set_are_named_as_csv_writes_their_cells(clips):
    cells = [0, None, "", False, ["a", "b"], 0.5]
    (clips.folder / "t.jsonl").write_text("".join(json.dumps({"path": f"made{k}.wav", "kind": cell}) + "\n" for k, cell in enumerate(cells)))
    clips("score", "level", "t.jsonl", *WEIGHTS[:2], "--by", "kind", "--summary", "s.json")
    assert {value: part["level"]["count"] for value, part in summary(clips)["by"]["kind"].items()} == {"0": 1, "": 2, "false": 1, '["a","b"]': 1, "0.5": 1}


def test_a_bootstrap_needs_three_keys(clips):
    for keys, there in (("aaaa", False), ("abab", False), ("abca", True)):
        (clips.folder / "t.csv").write_text("id,path\n" + "".join(f"{key},made{k}.wav\n" for k, key in enumerate(keys)))
        clips("score", "level", "t.csv", *WEIGHTS[:2], "--intervals", "bootstrap", "--key", "id", "--summary", "s.json")
        assert (summary(clips)["metrics"]["level"]["interval"] is not None) == there, keys


def test_a_variant_is_not_judged_under_a_protocol_that_has_another(clips):
    done = clips("score", "level:four", "clips.csv", *WEIGHTS[:2], "--protocol", "paper", status=2)
    assert "level:four: --protocol paper fixes the model, eight; write level" in done.stderr
    assert clips("score", "level:eight", "clips.csv", *WEIGHTS[:2], "--protocol", "paper").stdout
    assert "fixes the model, passt" in clips("score", "kld:panns", "clips.csv", "--protocol", "vatt", status=2).stderr


def test_summaries_of_some_of_the_metrics_can_be_compared(clips):
    for names in ("level", "level,share,light,loudness"):
        weights = WEIGHTS if "light" in names else WEIGHTS[:2]
        clips("score", names, "clips.csv", *weights, *(("--by", "kind") if "light" in names else ()), "--summary", f"{len(names)}.json")
    (found,) = rows(clips("compare", "5.json", "26.json").stdout)
    assert found["column"] == "level" and float(found["difference"]) == 0
    (clips.folder / "levels.bin").write_text("3.0")
    clips("score", "level", "clips.csv", *WEIGHTS[:2], "--summary", "other.json")
    assert "weights level levels" in clips("compare", "other.json", "26.json", status=2).stderr


def test_why_a_set_has_no_result_is_told(clips):
    (clips.folder / "t.csv").write_text("path\nmade0.wav\n")
    done = clips("score", "spread", "t.csv", "--summary", "s.json")
    assert "none: one level has no spread" in done.stderr
    assert summary(clips)["metrics"]["spread"]["value"] is None and summary(clips)["metrics"]["spread"]["reason"] == "one level has no spread"


@pytest.mark.parametrize("metric", ["desync", "cavp", "audiobox-aesthetics"])
def test_what_a_metric_cannot_do_without_is_fetched(avtools, monkeypatch, metric):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(avtools.folder / "hub"))
    assert "is not in the hub's cache" in avtools("fetch", metric, status=3).stderr
