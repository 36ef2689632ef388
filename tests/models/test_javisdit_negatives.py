"""What the prior's items are made of: negatives of pools as our commands make them, other windows of whole sounds, labels of onsets;
and captions that are too long, which every run counts."""

import json
import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from avtools import features, hub  # noqa: E402
from avtools.augment import negatives as augmenting  # noqa: E402
from avtools.errors import MediaError, RowError, UsageError  # noqa: E402
from avtools.media.soundfiles import write_sound  # noqa: E402
from avtools.models.javisdit import data, prior_losses  # noqa: E402
from avtools.models.javisdit.system import JavisPrior, JavisSound  # noqa: E402
from avtools.models.parts.clips import text_of  # noqa: E402
from avtools.training import config as settings  # noqa: E402
from avtools.training.draws import draw_of  # noqa: E402
from conftest import Program  # noqa: E402

RATE, CLIP = data.RATE, 'buckets={"24x32":{"8":[1,null]}}'  # a second
SMALL = ("prior.dim=32", "prior.heads=2")
ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips of 3 s with two objects each; pools of their objects and of their sounds, as tables, folders and in the originals' form."""
    folder = tmp_path_factory.mktemp("pools")
    program = Program(folder)
    program("synth", "-n", 3, "--seed", 5, "--seconds", 3, "--fps", 24, "--size", "64x48", "--objects", 2, "--absolute", "--no-fsync", "-q", "-j", 1, "-d", "s", "--to", "jsonl", "-o", "t.jsonl")
    program("masklets", "--mask-column", "mask_path", "-d", "objects", "t.jsonl", "-q", "-j", 1, "-o", "objects.jsonl", "--absolute", "--pool-list", "objects/pool_list.txt")
    program("separate", "--method", "nmf", "-d", "parts", "t.jsonl", "-q", "-j", 1, "-o", "parts.csv", "--absolute")
    program("separate", "--method", "nmf", "--legacy-json", "-d", "legacy", "t.jsonl", "-q", "-j", 1, "-o", "legacy.csv", "--pool-list", "legacy/pool_list.txt")
    return folder


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]


@pytest.fixture
def seen(monkeypatch) -> list:
    """What is asked of the augmentations, and what they give."""
    calls, real = [], augmenting.negatives

    def spy(*given, **more):
        calls.append((given, more, real(*given, **more)))
        return calls[-1][-1]

    monkeypatch.setattr(augmenting, "negatives", spy)
    return calls


def prior(*sets, weights=None):
    system = JavisPrior(settings.resolve(JavisPrior.Config, JavisPrior.presets, "tiny", None, [*SMALL, *sets]))
    torch.manual_seed(0)
    system.build(hub.Weights({}), hub.Weights({}), torch.device("cpu"))
    return system


def batch_of(system, rows, step=0) -> dict:
    function, given = system.item_work()
    draws = [draw_of(step, row["id"]) for row in rows]
    return {**system.collate([function(row, draw, given) for row, draw in zip(rows, draws, strict=True)]), "draws": torch.tensor(draws), "keys": [row["id"] for row in rows]}


def sound_file(path, seconds, hertz=440.0) -> str:
    samples = (0.3 * np.sin(np.arange(round(seconds * RATE)) * 2 * np.pi * hertz / RATE)).astype(np.float32)[:, None]
    with write_sound(str(path), ".wav", RATE, 1, "f32", frames=len(samples)) as put:
        put(samples)
    return str(path)


# --- pools ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("objects, sounds", [("objects.jsonl", "parts.csv"), ("objects", "legacy"), ("objects/pool_list.txt", "legacy/pool_list.txt")])
def test_negatives_come_from_pools_as_the_commands_make_them(objects, sounds, folder, rows, seen):
    function, given = prior(CLIP, "random_start=true", "negatives=4", f"masklets={folder / objects}", f"stems={folder / sounds}").item_work()
    found: dict[str, list] = {}
    for draw in range(6):
        for row in rows:
            item = function(row, draw_of(draw, row["id"]), given)
            assert item["there"].all() and not item["lost"].size
            for kind in data.KINDS:
                for number, one in enumerate([one for one in seen[-1][-1] if one.group == kind]):
                    made = item[f"negative {kind}"][number]
                    np.testing.assert_array_equal(made, one.video.transpose(0, 3, 1, 2) if one.video is not None else one.audio[:, 0])
                    own = item["pictures" if kind.startswith("video") else "wave"]
                    assert not np.array_equal(made, own)
                    found.setdefault(one.op, []).append((row, one.parameters, made, own))
    for _, told, made, own in found["add-masklet"]:
        changed = (made != own).any(1)
        assert os.path.dirname(told["masklet"]).endswith("clips") and changed.any() and not changed.all() and not (made[np.broadcast_to(changed[:, None], made.shape)] == 128).all()
    for row, told, made, own in found["add-source"]:
        length = min(told["length"], 8)
        assert "00000" in told["stem"] or "0000" in told["stem"]
        assert os.path.basename(told["stem"])[:5] != row["id"], "a sound was added to itself"
        assert length and np.abs(made - own).max() > 0
    taken = [(row, told) for row, told, *_ in found["delete-source"] if "stem" in told]
    assert taken and all(os.path.basename(told["stem"])[:5] == row["id"] for row, told in taken), "no source of the sound itself was taken out"


def test_a_source_is_taken_out_of_the_clip_s_own_time(folder, rows, seen):
    """The stems are of the whole sound, the clip begins anywhere in it."""
    from avtools.augment.pool import Stem

    function, given = prior(CLIP, "random_start=true", "negatives=4", f"stems={folder / 'parts.csv'}").item_work()
    taken = 0
    for draw in range(12):
        item = function(rows[draw % 3], draw, given)
        at = seen[-1][1]["at"]
        assert 0 < at < 2 * RATE
        for number, one in enumerate([one for one in seen[-1][-1] if one.group == "audio-spatial"]):
            if one.op == "delete-source" and "stem" in one.parameters:
                told, taken = one.parameters, taken + 1
                assert told["begin"] * RATE // told["stem_rate"] == pytest.approx(at + told["start"], abs=2)
                stem = Stem(told["stem"], told["stem_rate"], ()).read(told["begin"], told["end"], RATE).mean(1)
                gone = (item["wave"] - item["negative audio-spatial"][number])[told["start"] : told["start"] + told["length"]]
                assert np.corrcoef(gone, stem[: len(gone)])[0, 1] > 0.99
    assert taken


def test_features_are_made_anew_where_a_pool_has_changed(folder, tmp_path):
    shutil.copytree(folder / "objects", tmp_path / "objects")
    system = prior(f"masklets={tmp_path / 'objects'}", f"stems={folder / 'parts.csv'}")
    before = system.feature_options()
    assert set(before["pools"]) == {"masklets", "stems"} and system.feature_options() == before and prior().feature_options()["pools"] == {}
    os.utime(next((tmp_path / "objects").rglob("*_mask_*")), (1, 1))
    assert system.feature_options()["pools"]["masklets"] != before["pools"]["masklets"]


def test_other_windows_are_of_the_whole_sound(rows, seen):
    function, given = prior(CLIP, "random_start=true", "negatives=4").item_work()
    windows = []
    for draw in range(8):
        item = function(rows[0], draw, given)
        for number, one in enumerate([one for one in seen[-1][-1] if one.group == "audio-temporal"]):
            if one.op == "audio-shift":
                at = one.parameters["window"]
                windows.append(at)
                assert abs(at - seen[-1][1]["at"]) >= RATE // 10
                np.testing.assert_allclose(item["negative audio-temporal"][number], data.wave(rows[0]["path"], at / RATE, 1.0), atol=1e-6)
    assert len(set(windows)) > 3


def test_of_a_long_sound_only_what_is_drawn_is_read(tmp_path, monkeypatch):
    from avtools.media import soundfiles

    whole, read = data.Whole(sound_file(tmp_path / "long.wav", 600)), []
    real = soundfiles.read_sound
    monkeypatch.setattr(soundfiles, "read_sound", lambda path, start, end: read.append(float(end - start)) or real(path, start, end))
    assert len(whole) == 600 * RATE and not read
    part = whole[RATE : 3 * RATE]
    assert part.shape == (2 * RATE, 1) and read == [2.0] and part.std() > 0.1
    assert not whole[600 * RATE : 601 * RATE].any() and whole[5:5].shape == (0, 1)


def test_pools_that_cannot_be_read_are_told(folder, rows, tmp_path, seen):
    with pytest.raises(UsageError, match="no masklets"):
        (tmp_path / "empty").mkdir()
        prior(CLIP, f"masklets={tmp_path / 'empty'}")
    shutil.copytree(folder / "objects", tmp_path / "objects")
    for file in (tmp_path / "objects").rglob("*_mask_*"):
        file.write_bytes(b"damaged")
    function, given = prior(CLIP, "negatives=4", f"masklets={tmp_path / 'objects'}").item_work()
    item = function(rows[0], 3, given)
    assert item["there"].all() and "_mask_" in text_of(item["lost"])  # something else takes its place


# --- onsets ---------------------------------------------------------------------------------------------------------


def test_labels_are_where_something_begins_to_sound(rows):
    function, given = prior(CLIP, "random_start=true", "prior.onset=true").item_work()
    hit = misses = 0
    for draw in range(12):
        row = rows[draw % 3]
        item = function(row, draw, given)
        assert item["onsets"].shape == (100,) and item["onsets"].dtype == np.uint8
        start = data._start(row, 3.0, 1.0, draw, given, "")
        events = [time - start for one in row["objects"] for time in one["event_times"]]
        for at in np.flatnonzero(item["onsets"]) / 100:
            near = min(abs(at - event) for event in events) < 0.06
            hit, misses = hit + near, misses + (not near)
    assert hit > 5 * misses and hit > 8
    assert not data.onsets(np.zeros(RATE, np.float32)).any() and data.onsets(np.zeros(10, np.float32)).shape == (1,)
    assert "onsets" not in prior(CLIP).item_work()[0](rows[0], 1, prior(CLIP).item_work()[1])


def test_onsets_train_what_tells_them(rows, tmp_path):
    system = prior("prior.onset=true")
    prepared = system.prepare(batch_of(system, rows), True)
    values = system.training_step(system.trainable, prepared, 0, "main")
    logits = system.net(prepared["prior_states"])[1]
    assert values["onset"].shape == (3,) and (values["onset"] > 0).all() and logits.shape[1] == 8
    values["loss"].mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for name, parameter in system.net.named_parameters() if name.startswith("onset_predictor"))
    plain = prior()
    assert "onset" not in plain.training_step(plain.trainable, plain.prepare(batch_of(plain, rows), True), 0, "main")
    alone = system.training_step(system.trainable, system.prepare(batch_of(system, rows[1:2]), True), 0, "main")
    torch.testing.assert_close(alone["onset"], values["onset"][1:2], atol=1e-5, rtol=1e-4)
    heavier = prior("prior.onset=true", 'weights={"onset":3.0}')
    other = heavier.training_step(heavier.trainable, heavier.prepare(batch_of(heavier, rows), True), 0, "main")
    torch.testing.assert_close(other["onset"], 3 * values["onset"])
    # what cached features hold
    path, facts = str(tmp_path / "f.safetensors"), system.encoder_facts()
    features.write(path, system.encode([system.feature_item(rows[0], system.feature_options())])[0], facts)
    batch = batch_of(system, [{**rows[0], "features_path": path}])
    assert torch.equal(batch["onsets"], batch_of(system, rows[:1])["onsets"]) and batch["onsets"].any()
    assert "onsets" not in batch_of(plain, [{**rows[0], "features_path": path}])  # files with and without may be in one batch
    features.write(path, plain.encode([plain.feature_item(rows[0], plain.feature_options())])[0], facts)
    with pytest.raises(RowError, match="has no onsets; make it anew with 'avtools features'"):
        batch_of(system, [{**rows[0], "features_path": path}])
    with pytest.raises(RowError, match="holds 1 negatives of each kind, and negatives is 2; make it anew"):
        batch_of(prior("negatives=2"), [{**rows[0], "features_path": path}])


@pytest.mark.long
def test_the_temporal_tokens_learn_where_sounds_begin():
    """Of captions that say it."""
    from avtools.models.javisdit import prior as priors

    size = priors.Size(text=8, dim=16, heads=2, encoder_layers=1, decoder_layers=1, feed=2, out=8, spatial=2, temporal=4, pair_heads=2, onset=True)
    torch.manual_seed(0)
    net, states = priors.TrainedPrior(size), torch.randn(4, 3, 8)
    onsets = torch.zeros(4, 20)
    onsets[torch.arange(4), torch.arange(4) * 5 + 2] = 1  # caption k: in the k-th quarter
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    clips = priors.Clips(torch.randn(4, 4, 3, 4, 4), torch.randn(4, 8, 6, 4), {kind: torch.randn(4, 1, *((4, 3, 4, 4) if kind.startswith("video") else (8, 6, 4))) for kind in data.KINDS}, (32, 32))
    first = None
    for _ in range(300):
        made = net(states, clips=clips)
        found = prior_losses.losses(made, onsets)
        first = first or found.terms["onset"].mean().item()
        optimizer.zero_grad()
        found.total.mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert prior_losses.losses(net(states, clips=clips), onsets).terms["onset"].mean() < first / 2
        assert net(states, clips=clips).onsets.argmax(1).tolist() == [0, 1, 2, 3]


# --- a sound's place in time ------------------------------------------------------------------------------------------


def film(path, picture: float, sound: np.ndarray, late: float) -> str:
    """Grey pictures at 8 fps for so many seconds, and a sound that begins `late` seconds after the first."""
    with av.open(str(path), "w") as output:
        shown, heard = output.add_stream("ffv1", rate=8), output.add_stream("pcm_f32le", rate=RATE)
        shown.width, shown.height, shown.pix_fmt, heard.layout = 64, 48, "bgr0", "mono"
        for k in range(round(picture * 8)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * k % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 8)
            output.mux(shown.encode(frame))
        for at in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, at : at + 1024], np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, at + round(late * RATE), Fraction(1, RATE)
            output.mux(heard.encode(frame))
        output.mux(shown.encode(None))
        output.mux(heard.encode(None))
    return str(path)


def test_a_video_s_sound_is_on_its_picture_s_clock(tmp_path):
    click = np.zeros(2 * RATE, np.float32)
    click[RATE // 2 : RATE // 2 + 400] = 0.5  # 0.5 s after the sound begins
    path = film(tmp_path / "late.mkv", 3.0, click, 0.75)
    assert np.flatnonzero(data.wave(path, 0.0, 2.0) > 0.2)[0] == pytest.approx(1.25 * RATE, abs=20)
    assert np.flatnonzero(data.wave(path, 1.0, 1.0) > 0.2)[0] == pytest.approx(0.25 * RATE, abs=20)
    assert data._heard_seconds(path) == pytest.approx(2.75, abs=0.01) and len(data.Whole(path)) == pytest.approx(2.75 * RATE, abs=200)
    row = {"id": "a", "path": path, "duration": 3.0, "width": 64, "height": 48, "text": "a click"}
    item = data.pair_item(row, 1, prior('buckets={"24x32":{"24":[1,null]}}').item_work()[1])
    assert np.flatnonzero(item["wave"] > 0.2)[0] == pytest.approx(1.25 * RATE, abs=20)


def test_clips_begin_where_there_still_is_a_sound(tmp_path, rows):
    """A picture of 3 s with a sound of 1.2 s: clips of a second are of the first 1.2 s."""
    row = {**rows[0], "audio_path": sound_file(tmp_path / "short.wav", 1.2), "audio_duration": 1.2}
    function, given = prior(CLIP, "random_start=true").item_work()
    for draw in range(20):
        assert (np.abs(data.pair_item(row, draw, given)["wave"][-RATE // 100 :]) > 0).any(), "a clip ends in silence, though the sound is long enough"
    heard = JavisSound(settings.resolve(JavisSound.Config, JavisSound.presets, "tiny", None, [CLIP])).item_work()
    assert len(heard[0]({**row, "audio_text": "a tone"}, 1, heard[1])["wave"]) == RATE


def test_a_sound_beyond_all_measure_is_told(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(RATE, 1e30, np.float32), RATE, "FLOAT")
    with pytest.raises(MediaError, match="beyond all measure"):
        data.wave(str(path), 0.0, 1.0)


# --- captions that are too long -------------------------------------------------------------------------------------------

LONG = "bell " * 40
CUT, CUT_PRIOR = "captions beyond the 12 tokens that the network reads", "captions beyond the 24 tokens that the prior reads"
NET = ("size.dim=32", "size.depth=1", "size.heads=2")


def sets(*given) -> list[str]:
    return [word for one in given for word in ("--set", one)]


@pytest.fixture(scope="module")
def captions(folder, rows) -> Program:
    """Where t3.jsonl is: five rows, the second and the last with a caption that is too long, the last one's for the network alone."""
    made = [{**rows[k % 3], "id": f"row{k}", "relpath": f"{k}.mp4", "text": "a bell", "audio_text": "a bell"} for k in range(5)]
    for k, text in ((1, LONG), (4, "drum " * 14)):
        made[k] |= {"text": text, "audio_text": text}
    (folder / "t3.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    return Program(folder)


def test_what_is_read_of_captions_that_are_too_long_is_noted(rows):
    system, long = prior(), {**rows[1], "text": LONG}
    assert system.prepare(batch_of(system, [rows[0], long]), True) and system.notes() == [(1, CUT_PRIOR, f"40: '{LONG[:60]}'")]
    assert system.prepare(batch_of(system, rows[:1]), False) and system.notes() == []
    given = system.feature_options()
    assert len(system.encode([system.feature_item(row, given) for row in (rows[0], long, rows[2], long)])) == 4
    assert [note.place for note in system.notes()] == [1, 3]


def test_imagebind_s_tower_cuts_behind_75_tokens():
    import small_imagebind

    from avtools.models.javisdit.text import PriorText

    reader = PriorText(small_imagebind.towers().text)
    assert reader.cut("rain " * 75) is None and reader.cut("rain " * 76) == 76
    assert torch.equal(reader(["rain " * 75]), reader(["rain " * 76])) and not torch.equal(reader(["rain " * 74]), reader(["rain " * 75]))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_notes_are_told_once_and_outlive_a_run_that_was_killed(tmp_path):
    from types import SimpleNamespace

    from avtools.system import Note
    from avtools.training.notes import Notes
    from avtools.training.table import Table

    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"id": f"r{k}", "note": "own"}) + "\n" for k in range(4)))
    table, path, said = Table(str(tmp_path / "t.jsonl")), tmp_path / "notes.jsonl", []

    def begun():
        return Notes(str(path), SimpleNamespace(size=1, first=lambda work: work()), said.append)

    notes = begun()
    assert notes.counts() == {} and notes.share(table) is None and not path.exists()
    notes.add({"numbers": [3, 1], "keys": ["r3", "r1"]}, [Note(1, "spots", "two"), Note(0, "spots", "one"), Note(0, "stripes", "many")])
    assert notes.counts() == {"spots": 2, "stripes": 1} and not path.exists()
    notes.share(table)
    notes.add({"numbers": [1, 0], "keys": ["r1", "r0"]}, [Note(0, "spots", "two"), Note(1, "spots", "three")])  # lost with the run
    path.write_text(path.read_text() + '{"row": 2, "no')
    again = begun()
    assert again.counts() == {"spots": 2, "stripes": 1}
    again.add({"numbers": [1, 0], "keys": ["r1", "r0"]}, [Note(0, "spots", "two"), Note(1, "spots", "three")])
    again.share(table)
    assert begun().counts() == again.counts() == {"spots": 3, "stripes": 1}
    told = [json.loads(line) for line in path.read_text().splitlines() if not line.startswith('{"row": 2')]
    assert [(one["row"], one["note"], one["detail"], one["id"]) for one in told] == [(1, "spots", "two", "r1"), (3, "spots", "one", "r3"), (3, "stripes", "many", "r3"), (0, "spots", "three", "r0")]
    assert said == [f"row 2 (r1) is one with spots (two); {path} is to list all", f"row 4 (r3) is one with stripes (many); {path} is to list all"]


def test_rows_are_named_as_far_as_they_can_be():
    from avtools.sampling import NOTES, Told, why

    told = Told(None)
    for row in ({"id": "a"}, {"text": "no key"}, {"id": "c"}, {"id": "d"}):
        told.see({**row, NOTES: {"spots": "two"}})
    told.see({"id": "e"})
    assert told.lines() == ["rows with spots: 4 (a, a row without a key, c, ...)"] and why({"text": "b"}, {NOTES: {"spots": "two"}}) == ["a row without a key: one with spots (two)"]


@pytest.mark.long
def test_a_training_run_counts_them_and_lists_them_once(captions):
    folder = captions.folder
    line = ["train", "javisdit-audio", "t3.jsonl", "--preset", "tiny", *sets(*NET, "train.batch_size=2", "previews=0", "log_every=1", "schedule=constant"), "-j", 1, "-d", "run", "--checkpoint-every", 2, "--valid", "t3.jsonl"]
    first = captions(*line, "--max-steps", 3, env=ENV)  # all of an epoch
    assert first.stderr.count(f"is one with {CUT} (") == 2  # of the table, and of that to validate on
    assert f"avtools train: rows with {CUT}: 2; run/notes.jsonl lists them" in first.stderr and f"rows with {CUT}: 2; run/notes-valid.jsonl lists them" in first.stderr
    told = lines(folder / "run/notes.jsonl")
    assert sorted((one["row"], one["note"], one["detail"][:9], one["id"]) for one in told) == [(1, CUT, "41: 'bell", "row1"), (4, CUT, "15: 'drum", "row4")]
    assert lines(folder / "run/log.jsonl")[-1]["notes"] == {CUT: 2}
    again = captions(*line, "--max-steps", 6, env=ENV)
    assert f"rows with {CUT}: 2; run/notes.jsonl" in again.stderr and "is one with" not in again.stderr and lines(folder / "run/notes.jsonl") == told


@pytest.mark.long
def test_a_run_with_pools_and_onsets(captions):
    folder = captions.folder
    shutil.copytree(folder / "objects", folder / "damaged")
    for file in (folder / "damaged").rglob("*_mask_*"):
        file.write_bytes(b"damaged")
    given = sets(*SMALL, "negatives=3", "masklets=damaged", "stems=parts.csv", "prior.onset=true", "train.batch_size=3", "log_every=1")
    made = captions("train", "javisdit-prior", "t.jsonl", "--preset", "tiny", *given, "-j", 1, "-d", "prior", "--max-steps", 2, env=ENV)
    assert all(line["onset"] > 0 for line in lines(folder / "prior/log.jsonl") if "loss" in line)
    assert "avtools train: rows with negatives that lack what a pool should give: 3; prior/notes.jsonl lists them" in made.stderr
    assert all("_mask_" in one["detail"] for one in lines(folder / "prior/notes.jsonl"))


@pytest.mark.long
def test_features_and_samples_count_them_too(captions):
    folder = captions.folder
    for again in ("0 reused", "5 reused"):  # those that are there count too
        made = captions("features", "javisdit-prior", "t3.jsonl", "--preset", "tiny", *sets(*SMALL), "-j", 1, "-d", "cached", "-o", "cached.jsonl", env=ENV)
        assert again in made.stderr and f"avtools features: rows with {CUT_PRIOR}: 1 (1.mp4)" in made.stderr
        assert all("\0notes" not in row and "features_path" in row for row in lines(folder / "cached.jsonl"))
    captions("train", "javisdit-audio", "t3.jsonl", "--preset", "tiny", *sets(*NET, "previews=0"), "-j", 1, "-d", "audio", "--max-steps", 1, env=ENV)
    line = ["sample", "javisdit-audio", "t3.jsonl", "--weights", "audio", "--steps", 1, "-j", 1, "--samples-per-row", 2]
    made = captions(*line, "-d", "made", "--why", "-o", "made.jsonl", env=ENV)
    assert f"avtools sample: rows with {CUT}: 2 (1.mp4, 4.mp4)" in made.stderr and f"1.mp4: one with {CUT} (41: 'bell" in made.stderr
    assert len(lines(folder / "made.jsonl")) == 10 and all("\0notes" not in row for row in lines(folder / "made.jsonl"))
    assert not captions(*line, "-d", "made", "-q", env=ENV).stderr


@pytest.mark.long
def test_ranks_count_together(captions):
    import subprocess
    import sys

    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(29500 + os.getpid() % 150), "-m", "avtools"]
    env = {**os.environ, **ENV}
    line = ["train", "javisdit-audio", "t3.jsonl", "--preset", "tiny", *sets(*NET, "train.batch_size=1", "previews=0"), "-j", "1", "-d", "two", "--max-steps", "5"]
    done = subprocess.run([*start, *line], cwd=captions.folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert f"rows with {CUT}: 2; two/notes.jsonl lists them" in done.stderr and len(lines(captions.folder / "two/notes.jsonl")) == 2
    line = ["sample", "javisdit-audio", "t3.jsonl", "--weights", "two", "--steps", "1", "-j", "1", "-d", "both", "-o", "both.jsonl"]
    done = subprocess.run([*start, *line], cwd=captions.folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stderr.count(f"avtools sample: rows with {CUT}: 2 (1.mp4, 4.mp4)") == 1, done.stderr
