"""`separate`: stems that have the form of their source, where they sound, what is separated, and the pool of JavisDiT."""

import csv
import io
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile

from avtools.augment.pool import Stems
from avtools.errors import RowError, UsageError
from avtools.models import separating
from avtools.models.separating import activity, pool, queries, spectral
from conftest import Program, files


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def tone(rate: int, seconds: float, pitch: float, level=0.3):
    return level * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)


def heard(path):
    return soundfile.read(path, dtype="float64", always_2d=True)


# --- what to separate ---------------------------------------------------------------------------------------


class TestQueries:
    @pytest.mark.parametrize(
        "caption, phrases",
        [
            ("A dog barks loudly while birds chirp in the trees", ["dog barks", "birds chirp"]),
            ("The sound of rain falling on a tin roof, followed by thunder", ["rain falling", "thunder"]),
            ("three low thumps on the left", ["low thumps"]),
            ("A man speaks and then a car passes by", ["man speaks", "car passes"]),
            ("playing acoustic guitar", ["playing acoustic guitar"]),
            ("A DOG barks. A dog barks!", ["dog barks"]),
            ("Wind with background noise", ["wind"]),
            ("There is a noise in the distance", []),
            ("a fly buzzes", ["fly buzzes"]),
            ("Outside natural noises of insects; a child is speaking and the water is", ["insects", "child speaking", "water"]),
            ("犬が吠える、鳥が鳴く。", ["犬が吠える", "鳥が鳴く"]),
            ("", []),
        ],
    )
    def test_proposed(self, caption, phrases):
        assert queries.propose(caption) == phrases

    def test_at_most_so_many(self):
        assert len(queries.propose(", ".join(f"bell {k} rings" for k in range(40)))) == queries.MOST

    @pytest.mark.parametrize("phrase, dropped", [("dog", False), ("dog (far)", True), ("Background music", True), ("None", True), ("none of them", False)])
    def test_what_the_original_drops(self, phrase, dropped):
        assert queries.is_dropped(phrase) is dropped

    @pytest.mark.parametrize("cell, found", [("rain", ["rain"]), (' rain  falls ', ["rain falls"]), ('["dog", "cat", "dog"]', ["dog", "cat"]), (["a", "b"], ["a", "b"]), ("[inaudible", ["[inaudible"])])
    def test_of_a_cell(self, cell, found):
        assert queries.of_cell(cell, "query") == found

    @pytest.mark.parametrize("cell", ["", "  ", None, [], "[]", "[1]", 7, {"a": 1}])
    def test_no_query_in_a_cell(self, cell):
        with pytest.raises(RowError, match="column query holds no query"):
            queries.of_cell(cell, "query")

    @pytest.mark.parametrize("text, word", [("[1]", "not a JSON object"), ('{"a": [1]}', "'a' has no list of phrases"), ("{", "no JSON")])
    def test_a_bad_file_of_queries(self, tmp_path, text, word):
        (tmp_path / f"{len(text)}.json").write_text(text)
        with pytest.raises(UsageError, match=word):
            queries.file_of_queries(str(tmp_path / f"{len(text)}.json"))

    def test_of_a_row(self, tmp_path):
        none = {"queries": [], "query_column": None, "query_file": None, "propose": False}
        (tmp_path / "q.json").write_text('{"a": ["dog", "background hum", "dog", "bell (far)", "None"], "b": ["background"], "c": "one"}')
        told = none | {"query_file": str(tmp_path / "q.json")}
        assert queries.queries_of({}, "a", told) == ["dog"] and queries.queries_of({}, "c", told) == ["one"]
        for name in ("b", "d"):
            with pytest.raises(RowError, match=f"no phrases for '{name}'"):
                queries.queries_of({}, name, told)
        proposed = none | {"propose": True}
        assert queries.queries_of({"text": "a red ball", "audio_text": "a low thump"}, "a", proposed) == ["low thump"]
        assert queries.queries_of({"text": "rain", "audio_text": ""}, "a", proposed) == ["rain"]
        with pytest.raises(RowError, match="no caption"):
            queries.queries_of({"text": " "}, "a", proposed)
        with pytest.raises(RowError, match="nothing to separate"):
            queries.queries_of({"text": "There is noise."}, "a", proposed)
        with pytest.raises(RowError, match="nothing to separate"):
            queries.queries_of({"text": "None"}, "a", proposed)

    def test_names_tell_queries_apart(self):
        texts = ["dog barking", "Dog barking", "dog-barking", "dog, barking", "a/b", "a b", "犬", "犬!", "!", "?", "residual", "x" * 300, "x" * 301, "../up"]
        names = [separating._in_name(text) for text in texts]
        assert len(set(names)) == len(texts) and names[0] == "dog-barking"
        assert all(len(name.encode()) < 100 and "/" not in name and name not in ("residual", "") for name in names)


    def test_what_rows_of_one_sound_leave_has_a_place_for_each(self):
        options = {"method": "audiosep", "queries": [], "query_column": "q", "query_file": None, "propose": False, "residual": True, "legacy": False}
        places = [[stem.relpath for stem in separating.stems_of({"audio_path": "x.wav", "q": cell}, options)[0]] for cell in ("rain", "dog", "rain")]
        assert places[0] == places[2] and places[0][1].startswith("x__residual-") and places[0][1] != places[1][1]
        stems, _ = separating.stems_of({"audio_path": "x.wav"}, options | {"query_column": None, "queries": ["rain"]})
        assert [stem.relpath for stem in stems] == ["x__rain", "x__residual"]


# --- where it sounds ----------------------------------------------------------------------------------------


class TestActivity:
    def test_bursts(self):
        rate = 16000
        sound = np.zeros(4 * rate)
        for begin, end in ((0.5, 1.0), (1.1, 1.5), (3.0, 3.4)):
            sound[round(begin * rate) : round(end * rate)] = tone(rate, end - begin, 500)
        sound[round(2.2 * rate)] = 0.9  # a click
        for gain, channels in ((1, 1), (1e-3, 2)):  # whatever its level
            samples = np.repeat(sound[:, None] * gain, channels, axis=1).astype(np.float32)
            found = activity.active(samples, rate, activity.level(samples, rate), -30)
            assert np.allclose(found, [[0.5, 1.5], [3.0, 3.4]], atol=0.026), found

    def test_a_short_sound_in_long_silence_sets_the_level(self):
        sound = np.zeros((160000, 1), np.float32)
        sound[8000:9600, 0] = tone(16000, 0.1, 400)
        assert 10 * np.log10(activity.level(sound, 16000) / 0.045) == pytest.approx(0, abs=1)
        assert activity.active(sound, 16000, activity.level(sound, 16000), -30) == [[0.5, 0.6]]

    @pytest.mark.parametrize("samples", [np.zeros((0, 1)), np.zeros((5, 2)), np.zeros((16000, 1)), np.full((16000, 1), 1e-6)])
    def test_silence(self, samples):
        assert activity.active(samples, 16000, activity.level(samples, 16000), -30) == []

    def test_a_stem_far_below_its_mixture_is_not_active(self):
        stem = tone(16000, 1, 300, 1e-3)[:, None]
        assert activity.active(stem, 16000, 0.05, -30) == [] and activity.active(stem, 16000, 0.05, -60) == [[0.0, 1.0]]


# --- without a network ----------------------------------------------------------------------------------------


def si_sdr(estimate, reference) -> float:
    target = estimate @ reference / (reference @ reference) * reference
    return 10 * np.log10(target @ target / ((estimate - target) @ (estimate - target)))


class TestSpectral:
    def test_sustained_and_struck(self):
        rate = 22050
        sustained, struck = tone(rate, 3, 700), np.zeros(3 * rate)
        struck[2000::5000] = 0.9
        harmonic, percussive, rest = spectral.hpss(np.float32((sustained + struck)[:, None]), rate)
        assert np.abs(harmonic + percussive + rest - (sustained + struck)[:, None]).max() < 1e-6
        assert si_sdr(harmonic[:, 0], sustained) > 20 and si_sdr(percussive[:, 0], struck) > 8

    def test_medians_are_those_of_librosa(self):
        decompose = pytest.importorskip("librosa.decompose")
        magnitude = np.random.default_rng(0).random((200, 90)).astype(np.float32)
        harmonic, percussive = decompose.hpss(magnitude, margin=spectral.MARGIN, mask=True)
        sustained, struck = spectral.median(magnitude, 1), spectral.median(magnitude, 0)
        assert np.allclose(spectral._soft(sustained, struck * spectral.MARGIN), harmonic, atol=1e-6)
        assert np.allclose(spectral._soft(struck, sustained * spectral.MARGIN), percussive, atol=1e-6)

    def test_notes_that_recur(self):
        rate = 16000
        notes = np.stack([sum(tone(rate, 4, pitch * k, 0.2 / k) for k in (1, 2, 3)) for pitch in (220, 311)])
        on = (np.arange(4 * rate) // 4000) % 3
        notes *= [on != 1, on != 0]  # alone and together
        parts = spectral.nmf(np.float32(notes.sum(0)[:, None]), rate, 2, 5)[:, :, 0]
        order = [0, 1] if si_sdr(parts[0], notes[0]) > si_sdr(parts[1], notes[0]) else [1, 0]
        assert min(si_sdr(parts[k], notes[j]) for j, k in enumerate(order)) > 10
        assert np.abs(parts.sum(0) - notes.sum(0)).max() < 1e-6

    @pytest.mark.parametrize("way", [lambda x: spectral.hpss(x, 8000), lambda x: spectral.nmf(x, 8000, 3, 1)])
    def test_blocks_do_not_show(self, way, monkeypatch):
        samples = np.random.default_rng(1).standard_normal((40000, 2)).astype(np.float32) * 0.1
        monkeypatch.setattr(spectral, "BLOCK", 100_000)
        whole = way(samples)
        monkeypatch.setattr(spectral, "BLOCK", 37)
        assert np.allclose(way(samples), whole, atol=2e-4 * np.abs(whole).max())

    @pytest.mark.parametrize("way", [lambda x: spectral.hpss(x, 8000), lambda x: spectral.nmf(x, 8000, 3, 1)])
    def test_channels_keep_their_place(self, way):
        mono = np.random.default_rng(1).standard_normal(8000).astype(np.float32) * 0.1
        parts = way(np.stack([mono, mono * 0.5, mono * 0], axis=1))
        assert np.allclose(parts[..., 1], parts[..., 0] / 2, atol=1e-6) and not parts[..., 2].any()

    @pytest.mark.parametrize("samples", [np.zeros((4000, 1), np.float32), np.full((1, 1), 0.5, np.float32), np.full((20, 2), 0.5, np.float32)])
    def test_silent_and_short(self, samples):
        for parts in (spectral.hpss(samples, 8000), spectral.nmf(samples, 8000, 2, 0)):
            assert np.isfinite(parts).all() and np.allclose(parts.sum(0), samples, atol=1e-6)

    def test_the_seed_counts(self):
        samples = np.random.default_rng(1).standard_normal((8000, 1)).astype(np.float32)
        one, same, other = (spectral.nmf(samples, 8000, 3, seed) for seed in (1, 1, 2))
        assert np.array_equal(one, same) and not np.allclose(one, other, atol=1e-3)


# --- the command --------------------------------------------------------------------------------------------------


def write(path, samples, rate, subtype="PCM_16"):
    soundfile.write(path, samples, rate, subtype)
    return str(path)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Sounds of several rates, channels and sample formats."""
    folder, draw = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)

    def scene(rate, seconds):
        sound = tone(rate, seconds, 440) + 0.02 * draw.standard_normal(round(rate * seconds))
        sound[:: rate // 4] += 0.5
        return sound

    left = scene(44100, 1.2345)
    write(folder / "stereo.flac", np.stack([left, 0.3 * left + tone(44100, 1.2345, 900)], 1) * 0.7, 44100)
    write(folder / "mono.wav", scene(16000, 1.0), 16000)
    write(folder / "six.wav", np.stack([scene(8000, 0.5)] * 6, 1) * 0.5, 8000, "FLOAT")
    write(folder / "short.wav", scene(48000, 0.02), 48000, "PCM_24")
    write(folder / "silent.wav", np.zeros((22050, 2)), 22050)
    write(folder / "clipped.wav", np.clip(4 * scene(22050, 0.7), -1, 1), 22050)
    broken = scene(16000, 0.5).astype(np.float32)
    broken[100:200] = np.nan
    write(folder / "nan.wav", broken, 16000, "FLOAT")
    return folder


GOOD = ("stereo.flac", "mono.wav", "six.wav", "short.wav", "silent.wav", "clipped.wav", "nan.wav")


def check_sum(folder, row_group: list[dict]):
    """Stems have the form of their source and sum to it."""
    source, rate = heard(row_group[0]["audio_path"])
    total = 0
    for row in row_group:
        stem, own = heard(folder / row["stem_path"])
        assert own == rate and stem.shape == source.shape and np.isfinite(stem).all(), row["stem_path"]
        total = total + stem
    assert np.abs(total - np.nan_to_num(source)).max() < 1e-5, row_group[0]["audio_path"]


def grouped(made: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in made:
        found.setdefault(row["group"], []).append(row)
    return found


def test_parts_of_every_kind_of_sound(sounds, avtools):
    paths = [sounds / name for name in GOOD]
    made = rows(avtools("separate", "--method", "hpss", "-d", "out", *paths).stdout)
    assert list(made[0]) == ["audio_path", "query", "stem_path", "active", "group"]
    assert [row["query"] for row in made] == ["harmonic", "percussive", "residual"] * len(GOOD)
    assert [row["group"] for row in made[::3]] == list(GOOD) and made[1]["stem_path"] == "out/stereo__percussive.wav"
    for group in grouped(made).values():
        check_sum(avtools.folder, group)
    silent = grouped(made)["silent.wav"]
    assert [row["active"] for row in silent] == ["[]"] * 3
    assert json.loads(made[3]["active"])[0][0] == 0 and "float" in soundfile.info(avtools.folder / made[0]["stem_path"]).subtype.lower()
    again = avtools("separate", "--method", "hpss", "-d", "out", *paths)
    assert rows(again.stdout) == made and "files: 0 made, 0 without change, 21 reused" in again.stderr
    strict = avtools("separate", "--method", "hpss", "--active-db", "-1", "-d", "out", sounds / "mono.wav")
    assert "0 made, 0 without change, 3 reused" in strict.stderr
    assert [row["active"] for row in rows(strict.stdout)] != [row["active"] for row in made[3:6]], "measured anew, made no more"


def test_a_sound_beyond_all_bounds_is_bad(tmp_path):
    from avtools.errors import MediaError

    write(tmp_path / "x.wav", np.full(100, 1e30, np.float32), 8000, "FLOAT")
    with pytest.raises(MediaError, match="x.wav: has samples of 1e.30, and 1 is full scale"):
        separating.read(str(tmp_path / "x.wav"))
    write(tmp_path / "x.wav", np.full(100, 32768, np.float32), 8000, "FLOAT")  # integers as floats
    assert separating.read(str(tmp_path / "x.wav")).samples.max() == 32768


def test_components(sounds, avtools):
    line = ["separate", "--method", "nmf", "--components", "3", "--sample-format", "s24", sounds / "stereo.flac", sounds / "mono.wav"]
    made = rows(avtools(*line, "-d", "out").stdout)
    assert [row["query"] for row in made] == ["component 0", "component 1", "component 2"] * 2
    for group in grouped(made).values():
        check_sum(avtools.folder, group)
    avtools(*line, "-d", "alone", "-j1", "--shard", "2/2")
    assert files(avtools.folder / "alone").items() <= files(avtools.folder / "out").items()
    avtools(*line, "-d", "other", "--seed", "1")
    assert not set(files(avtools.folder / "other").values()) & set(files(avtools.folder / "out").values())


def test_killed_run_is_continued(sounds, avtools):
    (avtools.folder / "t.csv").write_text("audio_path,relpath\n" + "".join(f"{sounds}/stereo.flac,{k}.wav\n" for k in range(8)))
    line = ["separate", "--method", "nmf", "t.csv", "-j1"]
    whole = avtools(*line, "-d", "out").stdout
    expected = files(avtools.folder / "out")
    (avtools.folder / "out").rename(avtools.folder / "whole")
    process = avtools.start(*line, "-d", "out")
    deadline = time.monotonic() + 60
    while len(list((avtools.folder / "out").glob("*.wav"))) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    again = avtools(*line, "-d", "out")
    assert again.stdout == whole and files(avtools.folder / "out") == expected
    assert int(again.stderr.split(" reused")[0].split()[-1]) >= 4


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "give one of --query"),
        (["--query", "a", "--propose"], "not --query and --propose"),
        (["--query", " "], "--query is empty"),
        (["--method", "hpss", "--query", "dog"], "leave out --query"),
        (["--method", "nmf", "--residual"], "leave out --residual"),
        (["--method", "hpss", "--weights", "x"], "has no weights"),
        (["--query-file", "none.json"], "No such file"),
        (["--method", "hpss", "x.csv"], "no column 'audio_path' or 'path'"),
    ],
)
def test_wrong_usage(arguments, word, avtools):
    (avtools.folder / "x.csv").write_text("id\nx\n")
    (avtools.folder / "t.csv").write_text("audio_path\nx.wav\n")
    done = avtools("separate", "-d", "o", *arguments, *([] if "x.csv" in arguments else ["t.csv"]), status=2)
    assert word in done.stderr and "Traceback" not in done.stderr and not (avtools.folder / "o").exists()


# --- with a network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of a tiny separator with random weights."""
    torch = pytest.importorskip("torch")
    from avtools import hub
    from avtools.models.audiosep.config import PRESETS, Config
    from avtools.models.audiosep.model import SeparatorNet
    from avtools.training import config as settings

    folder = tmp_path_factory.mktemp("weights") / "run"
    config = settings.resolve(Config, PRESETS, "tiny", None, ["widths=[4,4,4]", "first=4", "middle=4", "condition=8"])
    torch.manual_seed(0)
    net = SeparatorNet(config)
    hub.save_checkpoint(folder, {"model.safetensors": (net.state_dict(), None)}, "audiosep", settings.as_dict(config))
    return folder


class Asked:
    """Stands for a separator: doubles what it gets, and notes it."""

    def __init__(self):
        self.shapes, self.texts = [], []

    def embed(self, texts):
        import torch

        self.texts += texts
        return torch.tensor([[float(len(text))] for text in texts])

    def separate(self, mixtures, conditions):
        self.shapes.append(tuple(mixtures.shape))
        return mixtures * conditions


def test_equal_lengths_go_together_and_short_ones_are_filled_up():
    pytest.importorskip("torch")
    asked = Asked()
    run = separating.separating(asked)
    lengths, texts = [10000, 20, 10000, 9000, 20], ["a", "bb", "bb", "ccc", "a"]
    items = [{"stem": k, "channels": [0], "query": text, "mixture": np.ones(n, np.float32)} for k, (n, text) in enumerate(zip(lengths, texts, strict=True))]
    results = run(items)
    assert sorted(asked.shapes) == [(1, 9000), (2, separating.SHORTEST), (2, 10000)] and asked.texts == ["a", "bb", "ccc"]
    assert [(r["stem"], len(r["sound"]), r["sound"].max(), r["sound"].min()) for r in results] == [(k, n, len(t), len(t)) for k, (n, t) in enumerate(zip(lengths, texts, strict=True))]
    run(items[:1])
    assert asked.texts == ["a", "bb", "ccc"], "a query is encoded once"


@pytest.fixture(scope="module")
def done(sounds, weights, tmp_path_factory):
    """A run over good and bad rows: the program, its line, what came of it."""
    avtools = Program(tmp_path_factory.mktemp("network"))
    cells = {"mono.wav": '["dog/cat", "low hum", "dog/cat"]', "short.wav": "", "nan.wav": "[1]"}
    lines = [json.dumps({"audio_path": f"{sounds}/{name}", "wanted": cells.get(name, "low hum")}) for name in (*GOOD, "none.wav")]
    lines += [json.dumps({"audio_path": None, "path": "placeholder.mp4", "wanted": "x"}), json.dumps({"audio_path": f"{sounds}/short.wav", "wanted": "a click"})]
    (avtools.folder / "t.jsonl").write_text("\n".join(lines) + "\n")
    line = ["separate", "t.jsonl", "--query-column", "wanted", "--residual", "--weights", weights, "--legacy-json"]
    return avtools, line, avtools(*line, "-d", "out", "--pool-list", "out/pool_list.txt", status=1)


def test_ways_of_cutting_a_long_sound(weights):
    """Whatever the windows, a long sound comes back whole, and nearly the same."""
    torch = pytest.importorskip("torch")
    from avtools.hub import Weights

    torch.set_num_threads(1)
    mixture = np.float32(0.2 * np.random.default_rng(0).standard_normal(16000 * 23 + 11))
    item = {"stem": 0, "channels": [0], "query": "rain", "mixture": mixture}
    made = {name: separating._load(Weights.parse([str(weights)]), name, "fp32", 2)([item])[0]["sound"] for name in separating.WINDOWS}
    for name, sound in made.items():
        parts = [np.abs(part).max() for part in np.array_split(sound, 50)]
        assert sound.shape == mixture.shape and min(parts) > 0.2 * max(parts), f"{name}: nothing is silent"
        assert np.corrcoef(sound, made["full"])[0, 1] > 0.9, name


def test_the_benchmarks_plain_windows_are_ours(weights, monkeypatch):
    torch = pytest.importorskip("torch")
    from conftest import ROOT

    monkeypatch.syspath_prepend(str(ROOT))
    from avtools.hub import Weights
    from avtools.models.audiosep.separation import Separator
    from avtools.models.audiosep.windows import LEGACY
    from benchmarks import separate

    separator = Separator.load(Weights.parse([str(weights)]), "cpu", plan=LEGACY)
    mixture = 0.2 * torch.randn(1, 16000 * 12 + 5, generator=torch.Generator().manual_seed(0))
    condition = separator.embed(["rain"])
    ours, plain = separator.separate(mixture, condition), separate.plain(separator.net, mixture, condition, 16000)
    assert torch.allclose(ours, plain, atol=1e-5 * plain.abs().max()) and plain.abs().max() > 1e-3


class TestNetwork:
    def test_stems_and_what_they_leave(self, done, sounds):
        avtools, _, run = done
        made = grouped([json.loads(line) for line in run.stdout.splitlines()])
        assert list(made) == ["stereo.flac", "mono.wav", "six.wav", "silent.wav", "clipped.wav", "short.wav"]
        for group in made.values():
            check_sum(avtools.folder, group)
        assert [row["query"] for row in made["mono.wav"]] == ["dog/cat", "low hum", "residual"]
        for name in ("stereo.flac", "six.wav", "short.wav", "clipped.wav"):
            stem, _ = heard(avtools.folder / made[name][0]["stem_path"])
            assert (np.abs(stem).max(axis=0) > 1e-4).all(), f"{name}: no channel of a stem is empty"
        assert not heard(avtools.folder / made["silent.wav"][0]["stem_path"])[0].any() and made["silent.wav"][0]["active"] == []
        one, two = (heard(avtools.folder / row["stem_path"])[0] for row in made["mono.wav"][:2])
        assert not np.allclose(one, two, atol=1e-5), "queries differ in what they take out"
        six, _ = heard(avtools.folder / made["six.wav"][0]["stem_path"])
        assert (six == six[:, :1]).all(), "equal channels have equal stems"

    def test_bad_rows_are_told_one_by_one(self, done):
        lines = [line for line in done[2].stderr.splitlines() if "t.jsonl:" in line]
        assert ["t.jsonl:4: column wanted holds no query" in lines[0], "t.jsonl:7: column wanted" in lines[1]] == [True, True]
        assert "none.wav" in lines[2] and "t.jsonl:9: the row has no sound" in lines[3] and len(lines) == 4
        assert "10 rows in = 6 done + 0 filtered + 4 bad; 13 rows out" in done[2].stderr

    def test_the_pool_of_the_original(self, done):
        avtools, _, run = done
        made = grouped([json.loads(line) for line in run.stdout.splitlines()])
        assert made["mono.wav"][0]["stem_path"] == "out/mono.wav__sep__000_000_dog_cat.wav"
        intervals = json.loads((avtools.folder / "out/mono.wav.json").read_text())
        assert list(intervals) == ["dog_cat_0_0", "low hum_0_1"]
        for row, spans in zip(made["mono.wav"], intervals.values(), strict=False):
            assert spans == [[round(start * 16000), round(end * 16000)] for start, end in row["active"]]
        listed = (avtools.folder / "out/pool_list.txt").read_text().splitlines()
        assert "mono.wav__sep__000_001_low hum.wav" in listed and not [name for name in listed if "silent" in name or "residual" in name]
        assert all((avtools.folder / "out" / name).is_file() for name in listed)
        for where in ("out/pool_list.txt", "out"):  # as our augmentations read it
            read = Stems(str(avtools.folder / where)).of(("mono.wav",))
            assert [os.path.basename(stem.path) for stem in read] == ["mono.wav__sep__000_000_dog_cat.wav", "mono.wav__sep__000_001_low hum.wav"]
            assert [[list(span) for span in stem.active] for stem in read] == list(intervals.values())

    def test_ranks_share_what_is_missing(self, done):
        """Two ranks make what half of the rows lack, and one stem, and nothing else; files and table are those of one process."""
        avtools, line, run = done
        shutil.copytree(avtools.folder / "out", avtools.folder / "two")
        for path in (avtools.folder / "two").glob("*"):
            if path.name.startswith(("stereo", "six", "short")) or path.name == "mono.wav__sep__000_001_low hum.wav":
                path.unlink()
        kept = {name: os.stat(avtools.folder / "two" / name).st_ino for name in files(avtools.folder / "two")}
        runs = [
            avtools.start(*line, "-d", "two", "-j1", "--why", env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": f"{os.getpid()}p"})
            for rank in (1, 0)
        ]
        outs = [one.communicate(timeout=200) for one in runs]
        assert [one.returncode for one in runs] == [0, 1], outs
        assert outs[1][0].decode().replace("two/", "out/") == run.stdout and outs[0][0] == b""
        assert "files: 10 made, 0 without change, 9 reused" in outs[1][1].decode()
        alone, shared = files(avtools.folder / "out"), files(avtools.folder / "two")
        assert set(shared) == set(alone)
        for name in shared:
            if name in kept:
                assert os.stat(avtools.folder / "two" / name).st_ino == kept[name] and shared[name] == alone[name]
            elif name.endswith(".wav"):
                assert np.allclose(heard(avtools.folder / "two" / name)[0], heard(avtools.folder / "out" / name)[0], atol=1e-6), name
            else:
                assert shared[name] == alone[name]

    def test_no_weights(self, sounds, avtools):
        done = avtools("separate", sounds / "mono.wav", "--query", "dog", "-d", "o", "-o", "t.csv", status=3, env={"HF_HUB_OFFLINE": "1"})
        assert done.stderr.count("\n") == 1 and "--weights" in done.stderr and not (avtools.folder / "t.csv").exists()


def test_names_in_a_pool():
    assert pool.stem_name("x.wav", 5, "a/b") == "x.wav__sep__001_001_a_b" and pool.key(5, "a/b") == "a_b_1_1"
    assert len(pool.stem_name("x.wav", 0, "é" * 300).encode()) < 130 and pool.phrase_in_name("/") == "_"


def test_rows_that_may_ask_for_one_file_are_one_ranks():
    """They have a query in common that is not their first."""
    import types

    from avtools.stream import _Run

    asked = {"method": "audiosep", "queries": (), "query_column": "query", "query_file": None, "propose": False, "residual": False, "legacy": False, "key": None}
    rows = [{"audio_path": f"{folder}/a.wav", "query": json.dumps(queries)} for folder, queries in (("one", ["dog", "rain"]), ("two", ["hum", "rain"]))]
    wanted = [separating.wants(row, asked) for row in rows]
    assert len({want.relpath for wants in wanted for want in wants}) == 3
    run = types.SimpleNamespace(work=types.SimpleNamespace(wants=separating.wants, options=asked), world=types.SimpleNamespace(size=1 << 20))
    assert len({_Run._owner(run, number, row) for number, row in enumerate(rows)}) == 1
