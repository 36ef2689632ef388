"""Buckets: which row goes where, batches of one shape, and no row that is lost in silence."""

import collections
import dataclasses
import json
import math

import numpy as np
import pytest

from avtools.errors import UsageError
from avtools.models.javisdit.buckets import ASPECTS, Buckets, Place, frames_of, measures, nearest, resolution, size_of
from avtools.models.javisdit.config import BUCKETS, SOUND_BUCKETS
from avtools.training.data import Plan
from avtools.training.draws import draw_of
from avtools.training.table import Table
from conftest import Program

SIMPLE = {"144p": {"51": [1.0, 3], "102": [[1.0, 0.5], 2]}, "240p": {"51": [0.5, None]}}


def row(number: int, seconds: float, height: int = 360, width: int = 640, **more) -> dict:
    return {"id": f"r{number}", "path": f"{number}.mp4", "duration": seconds, "height": height, "width": width, **more}


def table(folder, rows) -> Table:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return Table(str(path))


def chosen(buckets, seconds, pixels, count=4000):
    """The buckets of so many clips of this kind, each with its own draw."""
    draws = np.array([draw_of(k) for k in range(count)], np.uint64)
    return buckets.chosen(np.array([[seconds, pixels]] * count), draws)


def taken(source, count):
    return [next(source) for _ in range(count)]


def test_sizes_are_those_of_the_resolution_in_the_nearest_aspect():
    assert size_of(resolution("240p"), nearest(9 / 16)) == (240, 426) and size_of(resolution("144p"), nearest(0.56)) == (144, 256)
    assert size_of(resolution("480p"), nearest(16 / 9)) == (854, 480) and size_of(resolution("256"), nearest(1.02)) == (256, 256)
    for aspect in range(len(ASPECTS)):
        for name in BUCKETS:
            height, width = size_of(resolution(name), aspect)
            assert height % 2 == width % 2 == 0 and height * width == pytest.approx(resolution(name), rel=0.03)
            assert nearest(height / width) == aspect or resolution(name) < 100_000
    assert size_of(resolution("24x32"), nearest(0.75), 8) == (24, 32) and frames_of("4s") == 102


def test_a_clip_goes_to_the_largest_and_longest_that_it_has_and_draws_let_it():
    buckets = Buckets(BUCKETS, 24.0)
    names = {(one.name, one.frames): place for place, one in enumerate(buckets.all)}
    fits = buckets.fits(np.array([[4.25, 144 * 256], [2.125, 0.79 * 144 * 256], [2.0, 1e7]]))
    assert {names[one] for one in [("144p", 51), ("144p", 102)]} == set(np.flatnonzero(fits[0])) and not fits[1:].any()
    found = collections.Counter(buckets[place].name for place in chosen(buckets, 20.0, 1920 * 1080))
    share = {}
    left = 1.0
    for name, own in (("1024", 0.03), ("720p", 0.03), ("480p", 0.2), ("512", 0.2), ("360p", 0.3)):
        considered = 1 - (0.0 if any(not isinstance(gate, list) for gate, _ in BUCKETS[name].values()) else 1.0)
        share[name] = left * own * considered
        left *= 1 - own * considered
        assert found[name] / 4000 == pytest.approx(share[name], abs=0.025), name
    assert found["256"] + found["240p"] + found["144p"] == pytest.approx(4000 * left, rel=0.1)


def test_a_length_is_considered_in_its_share():
    buckets = Buckets(SOUND_BUCKETS, 24.0, heard=True)
    found = collections.Counter(buckets[place].frames for place in chosen(buckets, 30.0, math.nan))
    for frames, share in ((408, 0.5), (204, 0.5 * 0.3), (102, 0.5 * 0.7 * 0.7), (51, 0.5 * 0.7 * 0.3)):
        assert found[frames] / 4000 == pytest.approx(share, abs=0.03)


def test_where_draws_refuse_all_a_clip_is_not_lost():
    buckets = Buckets({"144p": {"51": [0.2, 4]}, "240p": {"51": [0.1, 4]}}, 24.0)
    found = collections.Counter(buckets[place].name for place in chosen(buckets, 3.0, 1e6, 500))
    assert sum(found.values()) == 500 and found["144p"] > 400


def test_each_row_comes_once_in_an_epoch_and_batches_are_of_one_shape(tmp_path):
    rows = [row(k, 2.2 + 3 * (k % 2), *((360, 640) if k % 3 else (1280, 720))) for k in range(23)]
    rows[4] |= {"duration": 1.0}
    found = table(tmp_path, rows)
    buckets = Buckets(SIMPLE, 24.0)
    source, seen, sizes = buckets.batches(found, 5, 4), collections.Counter(), set()
    for batch in taken(source, 200):
        (place,) = {place for _, _, place in batch}
        own = buckets[place.bucket]
        assert len(batch) == (own.batch or 4)
        sizes.add((own.name, own.frames, place.aspect))
        for _, number, _ in batch:
            assert rows[number]["duration"] + 0.03 >= own.frames / 24
            assert nearest(rows[number]["height"] / rows[number]["width"]) == place.aspect
        seen.update((epoch, number) for epoch, number, _ in batch)
    assert max(seen.values()) == 1 and len(sizes) == 6
    whole = [epoch for epoch in range(max(epoch for epoch, _ in seen) - 3)]
    assert len(whole) > 10 and all((epoch, number) in seen for epoch in whole for number in range(23) if number != 4)
    assert buckets.left_out(found) == [(4, "fits no bucket: 1.00 s, and the shortest is of 2.12 s")]
    mean = sum(seen.values()) / 200
    assert buckets.mean(found, 5, 4) == pytest.approx(mean * 23 / 22, rel=0.05)


def test_the_order_is_the_same_after_a_stop_and_for_any_number_of_ranks(tmp_path):
    from avtools.models.javisdit.system import JavisDit
    from avtools.training import config as settings

    found = table(tmp_path, [row(k, 2.2 + 3 * (k % 2), *((360, 640) if k % 3 else (1280, 720))) for k in range(17)])
    config = settings.resolve(JavisDit.Config, JavisDit.presets, "tiny", None, [f"buckets={json.dumps(SIMPLE)}", "fps=24"])
    system = JavisDit(config)

    def plan(rank=0, size=1, batches=0):
        return Plan(system, found, 4, 9, rank, size, 0, batches)

    one = plan()
    whole = [one.next() for _ in range(24)]
    assert [batch for batch in whole] == taken(system.batch_sampler(found, 9, 4), 24)
    ranks = [plan(rank, 3) for rank in range(3)]
    assert [batch for _ in range(8) for batch in [each.next() for each in ranks]] == whole
    later = plan(1, 2, 10)
    assert [later.next() for _ in range(7)] == whole[11::2]


def test_what_fits_none_is_told_with_its_reason(tmp_path):
    rows = [row(0, 3.0), row(1, 3.0, 100, 100), row(2, 1.5), {"id": "x", "path": "placeholder.mp4", "audio_path": "a.wav", "audio_duration": 9}, {"id": "y", "path": "y.mp4"}]
    rows.append(row(5, 3.0, audio_duration=1.0))  # what is heard ends too early
    rows.append(row(6, 3.0, 150, 240, duration="many"))
    found = dict(Buckets(SIMPLE, 24.0).left_out(table(tmp_path, rows)))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert "10000 pixels" in found[1] and "1.50 s" in found[2] and "placeholder" in found[3] and "avtools probe" in found[4] and "1.00 s" in found[5]
    heard = Buckets(SOUND_BUCKETS, 24.0, heard=True)
    assert heard.why(*measures(rows[3], True)[:2]) is None and "audio_duration is unknown" in heard.why(*measures(rows[4], True)[:2])
    with pytest.raises(UsageError, match="no row fits a bucket"):
        next(Buckets(SIMPLE, 24.0).batches(table(tmp_path, rows[1:3]), 0, 2))


def test_who_stands_in_is_of_the_same_bucket(tmp_path):
    rows = [row(k, 2.2, *((360, 640) if k % 2 else (640, 360))) for k in range(6)] + [row(6, 1.0), row(7, 9.0, 300, 400, features_path="f")]
    found = table(tmp_path, rows)
    buckets = Buckets(SIMPLE, 24.0)
    place = buckets.place_of(buckets.facts(found)[0])
    assert {buckets.substitute(found, drawn, place) for drawn in range(20)} == {0, 2, 4}
    cached = buckets.place_of(buckets.facts(found)[7])
    assert cached.cached and buckets.substitute(found, 3, cached) == 7
    assert buckets.substitute(found, 3, Place(place.bucket, 0, False)) in range(6)  # none of that aspect: of another


def test_validation_has_each_row_once_in_the_first_bucket(tmp_path):
    rows = [row(k, 2.2 + 3 * (k % 2)) for k in range(9)] + [row(9, 0.5)]
    batches = Buckets(SIMPLE, 24.0).valid(table(tmp_path, rows), 4)
    assert sorted(number for batch in batches for _, number, _ in batch) == list(range(9))
    assert all(len(batch) <= 4 and len({place for _, _, place in batch}) == 1 for batch in batches)


def test_gates_do_not_depend_on_other_rows():
    buckets = Buckets(BUCKETS, 24.0)
    facts, draws = np.array([[9.0, 1e6], [3.0, 2e5]] * 25), np.arange(50, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    whole = buckets.chosen(facts, draws)
    assert len(set(whole)) > 3 and all(buckets.chosen(facts[k : k + 1], draws[k : k + 1])[0] == whole[k] for k in range(50))


def test_an_epoch_s_places_are_other_ones_in_the_next_and_rows_are_drawn_by_themselves():
    buckets, facts = Buckets(BUCKETS, 24.0), np.array([[20.0, 1920 * 1080, 0, 0.5625]] * 4000)
    one, other = (buckets.places(facts, 3, epoch)[:, 0] for epoch in (0, 1))
    assert 0.1 < (one == other).mean() < 0.5 and 0.1 < (one[1:] == one[:-1]).mean() < 0.5  # a chance of about 1/6 in such shares
    assert np.array_equal(one, buckets.places(facts, 3, 0)[:, 0])
    joint = collections.Counter(zip((one < 8).tolist(), np.roll(one < 8, 1).tolist(), strict=True))
    share = (one < 8).mean()
    assert joint[True, True] / 4000 == pytest.approx(share**2, abs=0.02)


def test_aspects_of_many_rows_are_those_of_each():
    values = np.exp(np.random.default_rng(0).uniform(-2, 2, 500))
    found = Buckets(BUCKETS, 24.0).places(np.stack([np.full(500, 9.0), np.full(500, 1e6), np.zeros(500), values], 1))[:, 1]
    assert found.tolist() == [nearest(value) for value in values]
    assert Buckets(BUCKETS, 24.0, True).place_of((9.0, math.nan, 0.0, math.nan)).aspect == 0


@pytest.mark.parametrize(
    "told, message",
    [
        ({}, "there are none"),
        ({"14p": {"51": [1, 2]}}, "did you mean '144p'"),
        ({"144p": {"five": [1, 2]}}, "no length"),
        ({"144p": {"51": [1.5, 2]}}, r"no \[share, batch\]"),
        ({"144p": {"51": 3}}, r"no \[share, batch\]"),
        ({"144p": {"51": [1, -2]}}, r"no \[share, batch\]"),
        ({"144p": {"51": [1, 2], "2s": [1, 2]}}, "twice"),
        ({"144p": 3}, "give lengths"),
    ],
)
def test_buckets_that_are_none(told, message):
    with pytest.raises(UsageError, match=message):
        Buckets(told, 24.0)


def test_facts_are_read_once_of_each_of_two_tables(tmp_path):
    (tmp_path / "v").mkdir()
    train, valid = table(tmp_path, [row(0, 3.0)]), table(tmp_path / "v", [row(0, 9.0), row(1, 3.0)])
    buckets = Buckets(SIMPLE, 24.0)
    first, second = buckets.facts(train), buckets.facts(valid)
    assert len(first) == 1 and len(second) == 2 and buckets.facts(train) is first and buckets.facts(valid) is second


def test_validation_and_rehearsal_take_no_more_at_once_than_training_does(tmp_path):
    """What fits into memory is said by the bucket, not by train.batch_size, which is for those that say nothing."""
    buckets = Buckets({"144p": {"51": [1.0, 3]}, "240p": {"51": [1.0, 1]}, "480p": {"51": [1.0, None]}}, 24.0)
    rows = [row(k, 2.2, *((144, 256), (240, 426), (480, 854))[k % 3]) for k in range(24)]
    batches = buckets.valid(table(tmp_path, rows), 4)
    found = collections.defaultdict(list)
    for batch in batches:
        found[buckets[batch[0][2].bucket].name].append(len(batch))
    assert found == {"480p": [4, 4], "240p": [1] * 8, "144p": [3, 3, 2]}


def test_a_share_of_nothing_takes_nothing(tmp_path):
    """Not even what all others refuse; a row that fits nothing else is left out, and that is told."""
    buckets = Buckets({"144p": {"51": [0.5, 2], "102": [[1.0, 0.0], 2]}, "240p": {"51": [0.0, 2]}, "480p": {"51": [0.0, 2]}}, 24.0)
    assert {dataclasses.astuple(buckets[place])[:3] for place in chosen(buckets, 5.0, 1e6, 50)} == {("144p", 36864, 51)} and buckets[buckets.place_of((5.0, 1e6, 0, 1)).bucket].frames == 51
    small = Buckets({"144p": {"51": [0.0, 2]}, "240p": {"51": [1.0, 2]}}, 24.0)
    assert set(chosen(small, 3.0, 144 * 256, 9)) == {-1} and small.place_of((3.0, 144 * 256, 0, 1)) is None
    found = small.left_out(table(tmp_path, [row(0, 3.0, 144, 256), row(1, 3.0)]))
    assert found == [(0, "fits no bucket: 36864 pixels, and the smallest is of 102240 (0.8 of them at least)")]
    with pytest.raises(UsageError, match="there are none"):
        Buckets({"144p": {"51": [0.0, 2]}}, 24.0)


def test_a_sound_that_ends_a_little_early_keeps_its_clip_s_length():
    """Encoders of sound end with whole blocks; the item has silence there, as the original's."""
    buckets = Buckets({"144p": {"51": [1.0, 2], "102": [1.0, 2]}}, 24.0)
    for heard, frames in ((4.30, 102), (4.25, 102), (4.17, 102), (4.10, 51)):
        assert buckets[buckets.place_of(measures(row(0, 4.25, audio_duration=heard), False)).bucket].frames == frames, heard
    assert measures({"audio_path": "a.wav", "audio_duration": 4.17}, True)[0] == 4.17  # of a sound alone it is the length


@pytest.mark.parametrize(
    "cells, seconds",
    [
        ({"num_frames": 102, "fps": 24}, 4.25),  # as the published tables tell it
        ({"num_frames": "102", "fps": "24.0", "audio_length_s": "4.3"}, 4.25),
        ({"num_frames": 102, "fps": "", "audio_length_s": 4.3}, math.nan),
        ({"num_frames": 240, "fps": 24, "audio_length_s": 4.3}, 4.3),
        ({"num_frames": 102, "fps": 24, "duration": 4.3}, 4.3),
        ({"num_frames": 0, "fps": 0, "duration": 0}, math.nan),
    ],
)
def test_lengths_are_those_that_a_table_tells(cells, seconds):
    found = measures({"path": "a.mp4", "height": 360, "width": "640", **cells}, False)
    assert found[1:] == (360 * 640, 0.0, 360 / 640) and (found[0] == pytest.approx(seconds) or math.isnan(seconds) and math.isnan(found[0]))


def test_no_placeholder_has_a_picture_whatever_its_row_tells():
    cells = {"height": 720, "width": 1280, "num_frames": 240, "fps": 24, "audio_path": "a.wav", "audio_length_s": 10.0}
    assert math.isnan(measures({"path": "placeholder.mp4", **cells}, False)[0]) and measures({"path": "placeholder.mp4", **cells}, True)[0] == 10.0


def test_a_rehearsal_takes_the_most_pixels_that_rows_can_make(tmp_path):
    """Not the largest picture, and not as few rows as the table has of them."""
    buckets = Buckets({"144p": {"51": [1.0, 40], "102": [1.0, 4]}, "480p": {"51": [0.5, None]}}, 24.0)
    big, small = row(0, 3.0, 480, 854), row(1, 3.0, 256, 144)
    for rows, name, numbers in (([big, small], "480p", [0] * 5), ([small, big], "480p", [1] * 5), ([small], "144p", [0] * 40)):
        found = buckets.largest(table(tmp_path, rows), 5)
        assert [number for _, number, _ in found] == numbers and {(buckets[place.bucket].name, buckets[place.bucket].frames) for _, _, place in found} == {(name, 51)}
        (place,) = {place for _, _, place in found}
        assert place == buckets.place_of(measures(rows[numbers[0]], False)) or name == "480p"
    found = buckets.largest(table(tmp_path, [big, small]), 1)  # 480 x 854 once is less than 144 x 256 forty times
    assert {buckets[place.bucket].name for _, _, place in found} == {"144p"} and [number for _, number, _ in found] == [0] * 40
    cached = {**big, "features_path": "f"}
    ((_, number, place),) = buckets.largest(table(tmp_path, [cached, row(1, 1.0)]), 1)  # stays in the bucket that it was made for
    assert number == 0 and place.cached and buckets[place.bucket].name == "480p"
    with pytest.raises(UsageError, match="no row fits a bucket"):
        buckets.largest(table(tmp_path, [row(0, 1.0)]), 1)


# --- runs -------------------------------------------------------------------------------------------------------------

RARE = 'buckets={"12x16":{"16":[1,2]},"48x64":{"16":[1,1]}}'


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Program:
    """Where t.jsonl is: five clips of 2 s, small pictures as the table says, and t6.jsonl: a sixth of large ones that is no video."""
    program = Program(tmp_path_factory.mktemp("runs"))
    program("synth", "-n", 5, "--seconds", 2, "--fps", 24, "--size", "64x48", "--objects", 1, "--no-fsync", "-q", "-j", 1, "-d", "s", "--to", "jsonl", "-o", "all.jsonl")
    rows = [json.loads(line) for line in (program.folder / "all.jsonl").read_text().splitlines()]
    rows = [{name: one[name] for name in ("id", "path", "audio_path", "duration", "audio_duration", "text") if name in one} | {"height": 12, "width": 16} for one in rows]
    (program.folder / "broken.mp4").write_bytes(b"no video")
    write(program, "t.jsonl", rows)
    write(program, "t6.jsonl", [*rows, {**rows[0], "id": "broken", "path": "broken.mp4", "height": 48, "width": 64}])
    return program


def write(program, name, rows) -> None:
    (program.folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))


def lines(program, name) -> list[dict]:
    return [json.loads(line) for line in (program.folder / name).read_text().splitlines()]


def train(program, name, run, *more, status=0):
    sets = ("prior.dim=32", "prior.heads=2", RARE, "train.batch_size=2", "train.log_every=1", "schedule=constant")
    given = [word for one in sets for word in ("--set", one)]
    return program("train", "javisdit-prior", name, "--preset", "tiny", *given, "-j", 1, "-d", run, *more, status=status, env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})


def test_a_bad_row_alone_in_its_bucket_does_not_end_the_run(runs):
    done = train(runs, "t6.jsonl", "rare", "--max-steps", 8, "--checkpoint-every", 4)
    assert [one["row"] for one in lines(runs, "rare/bad.jsonl")] == [5] and "broken.mp4" in done.stderr
    steps = [one for one in lines(runs, "rare/log.jsonl") if "loss" in one]
    assert len(steps) == 8 and all(math.isfinite(one["loss"]) for one in steps)
    train(runs, "t6.jsonl", "again", "--max-steps", 4)
    train(runs, "t6.jsonl", "again", "--max-steps", 8)  # what stands in is the same after a stop
    assert [one["loss"] for one in lines(runs, "again/log.jsonl") if "loss" in one] == [one["loss"] for one in steps]


def test_where_a_batch_lacks_rows_the_others_train(runs, tmp_path):
    rows = lines(runs, "t.jsonl")
    write(runs, "large.jsonl", [*rows[:1], {**rows[1], "path": "broken.mp4"}])
    done = train(runs, "large.jsonl", "some", "--max-steps", 3)
    assert [one["row"] for one in lines(runs, "some/bad.jsonl")] == [1] and done.stderr.count("another is taken") == 1
    write(runs, "none.jsonl", [{**one, "path": "broken.mp4"} for one in rows])
    done = train(runs, "none.jsonl", "none", "--max-steps", 3, "--max-bad", "100%", status=3)
    assert "neither it nor 32 others in its place can be read; none/bad.jsonl says why" in done.stderr


def test_rows_that_validation_leaves_out_are_told_and_lists_are_of_the_present_tables(runs):
    rows = lines(runs, "t.jsonl")
    short = {**rows[2], "duration": 1.0, "audio_duration": 1.0, "error": "", "row": 9}
    write(runs, "v.jsonl", [rows[0], short, rows[1]])
    write(runs, "t4.jsonl", [rows[0], short, rows[1], rows[3]])
    done = train(runs, "t4.jsonl", "lists", "--valid", "v.jsonl", "--max-steps", 2)
    why = "fits no bucket: 1.00 s, and the shortest is of 2.00 s"
    assert f"1 of 4 rows are left out ({why}); lists/left-out.jsonl lists them" in done.stderr
    assert f"1 of 3 rows of --valid are left out ({why}); lists/left-out-valid.jsonl lists them" in done.stderr
    for name in ("left-out", "left-out-valid"):
        assert [(one["row"], one["error"], one["id"]) for one in lines(runs, f"lists/{name}.jsonl")] == [(1, why, rows[2]["id"])]
    write(runs, "t4.jsonl", rows[:4])
    done = train(runs, "t4.jsonl", "lists", "--valid", "t.jsonl", "--max-steps", 3, status=2)
    assert "table, row 2, " in done.stderr and "--valid: 3 rows -> 5 rows" in done.stderr
    assert (runs.folder / "lists/left-out.jsonl").exists()
    train(runs, "t4.jsonl", "lists", "--valid", "t.jsonl", "--max-steps", 3, "--allow-changes")
    assert not list((runs.folder / "lists").glob("left-out*"))


def test_a_run_that_is_begun_anew_lists_the_rows_that_are_bad_now(runs):
    """No checkpoint was written before, so that the mended table is taken as it is: what was bad in the old one is no more."""
    rows = lines(runs, "t.jsonl")
    write(runs, "b.jsonl", [{**one, "path": "broken.mp4", "error": ""} if k < 3 else one for k, one in enumerate(rows)])
    train(runs, "b.jsonl", "anew", "--max-steps", 3, "--max-bad", 1, status=3)
    write(runs, "b.jsonl", [{**one, "path": "gone.mp4"} if k == 1 else one for k, one in enumerate(rows)])
    done = train(runs, "b.jsonl", "anew", "--max-steps", 3)
    assert done.stderr.count("another is taken") == 1
    assert [(one["row"], one["path"]) for one in lines(runs, "anew/bad.jsonl")] == [(1, "gone.mp4")] and "gone.mp4" in lines(runs, "anew/bad.jsonl")[0]["error"]


def test_rows_with_an_error_of_before_are_counted(runs):
    rows = lines(runs, "t.jsonl")
    write(runs, "e.jsonl", [*rows, {**rows[0], "error": "no such file"}])
    assert "avtools train: 1 rows of the table hold an error, and are left out" in train(runs, "e.jsonl", "told", "--max-steps", 1).stderr
    write(runs, "e.jsonl", [{**one, "error": "no such file"} for one in rows])
    assert "the table has no rows but 5 with an error" in train(runs, "e.jsonl", "nothing", "--max-steps", 1, status=2).stderr


def test_columns_of_the_table_s_own_are_no_places(runs):
    rows = lines(runs, "t.jsonl")
    write(runs, "p.jsonl", [{**one, "place": "kitchen", "partner": "ann"} for one in rows[:2]])
    sets = [word for one in ("prior.dim=32", "prior.heads=2", RARE) for word in ("--set", one)]
    runs("features", "javisdit-prior", "p.jsonl", "--preset", "tiny", *sets, "-j", 1, "-d", "f", "-o", "f.jsonl", env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    assert all(one["features_path"] and one["place"] == "kitchen" for one in lines(runs, "f.jsonl"))
    train(runs, "f.jsonl", "placed", "--max-steps", 1)
    assert not (runs.folder / "placed/bad.jsonl").exists()
    write(runs, "p.jsonl", [{**one, "place": "kitchen", "text": "a \ud83d bell"} for one in rows[:2]])  # half a character, which JSON may spell
    train(runs, "p.jsonl", "unplaced", "--max-steps", 1)
    assert not (runs.folder / "unplaced/bad.jsonl").exists()


def test_the_best_checkpoint_by_a_loss_is_the_lowest(runs):
    """Whatever its name: only accuracies, ratios of signals and the contrast are to be high."""
    train(runs, "t.jsonl", "best", "--valid", "t.jsonl", "--max-steps", 4, "--eval-every", 1, "--checkpoint-every", 1, "--save-best", "valid_spatial_token", "--set", "lr=0.01", "--set", "train.warmup_steps=0")
    values = {one["step"]: one["valid_spatial_token"] for one in lines(runs, "best/log.jsonl") if "valid_spatial_token" in one}
    assert len(set(values.values())) == 4 and json.loads((runs.folder / "best/best.json").read_text())["step"] == min(values, key=values.get)
