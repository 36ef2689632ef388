"""The Fréchet distance, its sums, and the metrics made of it: fvd and fid."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from avtools import hub
from avtools.errors import FatalError, RowError, UsageError
from avtools.metrics import BLOCKS, Jackknife, Skip, configured
from avtools.metrics.frechet import Frechet, Moments, Side, columns_of, distance
from avtools.metrics.media import Pair
from avtools.models.i3d import metrics as i3d
from avtools.models.i3d import pictures
from avtools.models.inception import metrics as inception
from fixtures import even, level, make

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # FVD's network is such a file


def vectors(count, size, seed=0, offset=0.0):
    """Correlated ones."""
    random = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).standard_normal((size, size)) / size**0.5
    return (random.standard_normal((count, size)) @ mixed + offset).astype(np.float32)


def of(one, other) -> float:
    return distance(Moments.of(one), Moments.of(other))


# --- the distance -----------------------------------------------------------------------------------------------------


def by_products(one, other) -> float:
    """By singular values of the product of both sets' vectors: of any counts, and no covariance is made."""
    one, other = (np.asarray(side, np.float64) for side in (one, other))
    roots = [(side - side.mean(0)) / (len(side) - 1) ** 0.5 for side in (one, other)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(np.square(one.mean(0) - other.mean(0)).sum() + sum(np.square(root).sum() for root in roots) - 2 * shared)


@pytest.mark.parametrize("counts", [(400, 300), (20, 300), (300, 20), (30, 20), (2, 2), (33, 32), (32, 33), (33, 33)])
def test_any_counts_give_what_products_of_the_vectors_give(counts):
    one, other = vectors(counts[0], 32), vectors(counts[1], 32, 1, 0.2) * 1.5
    assert of(one, other) == pytest.approx(by_products(one, other), rel=1e-9)
    assert of(one, other) == pytest.approx(of(other, one), rel=1e-9)


def test_known_distances():
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])  # of variance 4/3, not correlated
    assert of(corners, corners * [3, 5] + [2, 0]) == pytest.approx(4 + 4 / 3 * (2**2 + 4**2))
    assert of(vectors(500, 8), vectors(500, 8) + np.float32(3)) == pytest.approx(72, rel=1e-5)


@pytest.mark.parametrize("count", [10, 48, 49, 50, 200])
def test_a_set_is_at_no_distance_from_itself(count):
    some = vectors(count, 48) * np.logspace(0, -6, 48)  # ill-conditioned
    assert 0 <= of(some, some) < 1e-6 and 0 <= of(some, some[::-1]) < 1e-6
    assert of(some, some + 1e-3) == pytest.approx(48e-6, abs=1e-6)


def test_vectors_that_do_not_fill_their_space():
    """More vectors than features, yet singular: Cholesky's root would not do."""
    one, other = (vectors(100, 8, seed) @ np.eye(8, 20) for seed in (0, 1))
    one[:, 10:15] = 0.25  # dead features
    assert of(one, other) == pytest.approx(by_products(one, other), abs=1e-6)
    assert of(np.ones((30, 4)), np.ones((30, 4))) == 0


def test_far_from_zero():
    one, other = vectors(200, 16), vectors(150, 16, 1)
    far = [np.float64(side) + 1e6 for side in (one, other)]
    assert of(*far) == pytest.approx(of(one, other), rel=1e-6)


# --- sums -------------------------------------------------------------------------------------------------------------


class Plain(Frechet):
    name, title, source, unit, needs = "plain", "features as they are", "tests", "samples", ()
    columns = columns_of("plain", "distance", unit)
    ranges = {"plain": (0.0, float("inf"))}


def state_of(metric, *rows):
    state = metric.start()
    for row in rows:
        state = metric.accumulate(state, row)
    return state


def rows_of(count, size=24, each=3):
    judged, true = vectors(count * each, size), vectors(count * each, size, 1, 0.1)
    return [{"judged": judged[k * each : (k + 1) * each], "reference": true[k * each : (k + 1) * each]} for k in range(count)]


def test_neither_order_nor_parts_nor_ranks_matter():
    rows, metric = rows_of(400), Plain()
    whole = metric.finalize(state_of(metric, *rows))
    assert whole == {"plain": pytest.approx(of(*(np.concatenate([row[side] for row in rows]) for side in ("judged", "reference"))), rel=1e-10)} | {
        "plain_samples": 1200, "plain_reference_samples": 1200, "plain_lacking": 0,
    }  # fmt: skip
    random = np.random.default_rng(0)
    for cuts in ([10], [1, 2, 3], [0, 399], sorted(random.integers(0, 400, 30))):
        order = random.permutation(400)
        states = [state_of(metric, *(rows[k] for k in part)) for part in np.split(order, cuts)]
        while len(states) > 1:  # as any tree of ranks would
            k = int(random.integers(len(states) - 1))
            states[k : k + 2] = [metric.merge(*states[k : k + 2])]
        assert metric.finalize(states[0])["plain"] == pytest.approx(whole["plain"], rel=1e-10)
        assert metric.finalize(pickle.loads(pickle.dumps(states[0])))["plain"] == pytest.approx(whole["plain"], rel=1e-10)


def test_merging_changes_neither_and_shares_nothing_that_changes():
    rows, metric = rows_of(30), Plain()
    one, other = state_of(metric, *rows[:10]), state_of(metric, *rows[10:20])
    both = metric.merge(one, other)
    known = metric.finalize(both)["plain"]
    for row in rows[20:]:
        one, other = metric.accumulate(one, row), metric.accumulate(other, row)
    assert metric.finalize(metric.merge(both, metric.start()))["plain"] == known
    assert Plain().finalize(both)["plain"] == known
    assert metric.finalize(one)["plain"] == pytest.approx(metric.finalize(state_of(metric, *rows[:10], *rows[20:]))["plain"], rel=1e-10)


def test_memory_does_not_grow_with_the_rows():
    side, most = Side(), 0
    for _ in range(3000):
        side.add(np.zeros((1, 8), np.float32))
        most = max(most, len(side.waiting))
    assert side.count == 3000 and most <= 256 and side.held < 256
    assert side.sums.scatter.shape == (8, 8) and sum(part.count for part in side.moments()) == 3000


def test_few_vectors_never_become_a_square_of_the_features():
    parts = [Moments.of(vectors(10, 200, seed)) for seed in range(5)]
    whole = Moments.joined(parts)
    assert whole.root is not None and len(whole.root) == 55
    assert np.allclose(whole.scatter, Moments.of(np.concatenate([vectors(10, 200, seed) for seed in range(5)])).scatter, atol=1e-10)


def test_the_interval_leaves_out_blocks_of_rows(monkeypatch):
    rows, metric = rows_of(60), Plain()
    kept = Jackknife(metric)
    for k, row in enumerate(rows):
        kept.add(row, k % BLOCKS, None)
    values, intervals = kept.results()
    without = []
    for block in range(BLOCKS):
        left = [row for k, row in enumerate(rows) if k % BLOCKS != block]
        without.append(of(*(np.concatenate([row[side] for row in left]) for side in ("judged", "reference"))))
    half = 2.093 * ((BLOCKS - 1) / BLOCKS * np.square(np.array(without) - np.mean(without)).sum()) ** 0.5
    assert intervals["plain"] == pytest.approx([max(0, values["plain"] - half), values["plain"] + half], rel=2e-3)
    assert [intervals[column] for column in metric.columns][1:] == [None] * 3  # counts have none
    monkeypatch.setattr("avtools.metrics.frechet.distance", None)  # the table and the summary ask for the same
    assert kept.results() == (values, intervals)


def test_too_few_to_tell_and_features_that_are_none():
    metric = Plain()
    with pytest.raises(Skip, match="1 samples in the smaller set; a distance needs two"):
        metric.finalize(state_of(metric, {"judged": np.zeros((3, 2)), "reference": np.zeros((1, 2))}))
    assert Jackknife(metric).results()[0].keys() == metric.columns.keys()
    with pytest.raises(RowError, match="features of its reference samples are not finite"):
        metric.features({"judged": np.zeros((1, 2)), "reference": np.array([[0, np.nan]])})
    assert Jackknife(metric).remarks() == [] == metric.remarks(metric.start())
    few = state_of(metric, *rows_of(8))  # 24 samples of 24 features
    assert metric.finalize(few)["plain_lacking"] == 1
    (remark,) = metric.remarks(few)
    assert remark.startswith("plain of 24 samples with 24 features each: the distance of so few is biased upwards; give more than 24,")
    enough = Plain()
    assert enough.finalize(many := state_of(enough, *rows_of(9)))["plain_lacking"] == 0 and not enough.remarks(many)


# --- pictures ---------------------------------------------------------------------------------------------------------


def levels(clip) -> list[int]:
    """Which frames are shown, from their grey."""
    return [round((picture.mean() / 255 * 219 + 16 - 20) / 6) for picture in np.float64(clip)]


def test_which_pictures_are_shown(tmp_path):
    make(tmp_path / "a.mp4", even(30, 12), size=(64, 48))
    path = str(tmp_path / "a.mp4")

    def read(begin=0.0, count=None, fps=0.0):
        return levels(pictures.shown(path, begin, count, fps, 32, "bilinear"))

    assert level(1) - level(0) == 6
    assert read() == list(range(30)) and read(count=16) == list(range(16)) and read(begin=1 / 3, count=2) == [4, 5]
    assert read(fps=2.0) == [0, 6, 12, 18, 24] and read(fps=24.0, count=4) == [0, 0, 1, 1] and read(begin=0.5, fps=4.0, count=3) == [6, 9, 12]
    for begin, count, told in ((0.0, 31, "shows 30 pictures from 0 s on, and 31"), (9.0, None, "shows 0 pictures from 9 s on, and one or more")):
        with pytest.raises(RowError, match=told):
            read(begin, count)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_all_of_a_picture_is_seen_upright(tmp_path, resize):
    make(tmp_path / "a.mp4", even(4, 12), size=(96, 48), noise=True, rotation=90)
    clip = pictures.shown(str(tmp_path / "a.mp4"), 0.0, None, 0.0, 64, resize)
    assert clip.shape == (4, 3, 64, 64) and clip.dtype == np.uint8
    from avtools.models.parts.sync_clips import read_pictures

    own = torch.from_numpy(read_pictures(str(tmp_path / "a.mp4"), [0.0], None, legacy={"short"})[0])
    how = {"bilinear": {}, "bicubic": {"antialias": True}}[resize]
    wanted = torch.nn.functional.interpolate(own, (64, 64), mode=resize, align_corners=False, **how)[:1] * 255
    assert np.abs(wanted.clamp(0, 255).numpy() - np.float32(clip[:1])).max() <= 0.51


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A table of made clips with references of another shape."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["id,path,generated_path,reference_start\n"]
    for k in range(5):
        make(folder / f"g{k}.mp4", even(26, 12), size=(64, 48), noise=True, gop=6)
        make(folder / f"r{k}.mp4", even(40, 12, start=k), size=(96, 48), noise=True, gop=6, crf=30)
        lines.append(f"{k},{folder}/r{k}.mp4,{folder}/g{k}.mp4,{'' if k else 0.5}\n")
    return "".join(lines)


def pairs(table):
    header, *lines = table.splitlines()
    return [Pair(dict(zip(header.split(","), line.split(","), strict=True)), {}) for line in lines]


def test_protocol_asva_sees_what_is_specified(clips):
    from avtools.models.parts import frames
    from avtools.models.parts.sync_clips import read_pictures

    pair = pairs(clips)[0]
    fvd, fid = configured([i3d.Fvd, inception.Fid], "asva", ())
    own, index, _ = read_pictures(pair.row["generated_path"], [0.0], None)
    true, places, _ = read_pictures(pair.row["path"], [0.5], (48, 64), fit="crop")
    assert true[0].shape == own[0].shape == (3, 48, 64)
    for metric, size, first in ((fvd, 224, 0), (fid, 229, 1)):
        made = metric.prepare(pair)
        for side, kept, at in (("judged", own, index), ("reference", true, places)):
            assert np.array_equal(made[side], frames.squash(torch.from_numpy(kept[at[0]][first:]), size, size).numpy())
        assert len(made["judged"]) == 12 - first
    assert pair.facts["fid"] == {"pictures": 12, "reference_pictures": 12}
    (shifted,) = configured([i3d.Fvd], "asva", ("legacy=frames",))
    legacy, index, _ = read_pictures(pair.row["generated_path"], [0.0], (224, 224), fit="squash", legacy={"frames"})
    assert np.abs(shifted.prepare(pair)["judged"] - legacy[index[0]]).max() < 1e-5 < np.abs(fvd.prepare(pair)["judged"] - legacy[index[0]]).max()


def test_a_reference_gives_as_many_pictures_as_its_clip(clips):
    (fid,) = configured([inception.Fid], None, ("size=75", "skip=1"))
    made = fid.prepare(pairs(clips)[0])
    assert made["judged"].shape == made["reference"].shape == (4, 3, 75, 75)  # 26 frames are 2.17 s: 5 pictures but the first
    with pytest.raises(Skip, match="no picture beside the first 9"):
        configured([inception.Fid], None, ("size=75", "skip=9"))[0].prepare(pairs(clips)[0])


def test_a_row_without_a_generated_picture_is_bad(clips):
    row = pairs(clips)[0].row
    with pytest.raises(RowError, match="nothing to judge beside its reference; give a column generated_path, or name it with --video-column"):
        pictures.files_of(Pair({"path": row["path"]}, {}))
    assert pictures.files_of(Pair({"path": row["path"], "generated_path": row["path"]}, {}))[0] == row["path"]  # asked for


@pytest.mark.parametrize(
    "protocol, option, told",
    [
        (None, "fvd.frames=0", "1 or more"), (None, "fvd.resize=lanczos", "bilinear or bicubic"), (None, "fid.size=30", "75 to 2048"),
        (None, "fid.fps=2000", "1000 at most"), (None, "fid.legacy=frames", "give --protocol asva"), ("asva", "fvd.legacy=stereo", "frames, or nothing"),
        ("asva", "fid.size=299", "--protocol asva fixes it"), (None, "pictures=all", "is a setting of several"),
        (None, "fvd.pictures=asva", "the protocol asva has 12"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(protocol, option, told):
    with pytest.raises(UsageError, match=told):
        configured([i3d.Fvd, inception.Fid], protocol, (option,))


# --- networks ---------------------------------------------------------------------------------------------------------


class SmallI3d(torch.nn.Module):
    """Called as the released file is: clips (B, 3, T, H, W), two switches, features or scores."""

    def __init__(self, outputs: int):
        super().__init__()
        self.net = torch.nn.Conv3d(3, outputs, (2, 4, 4), (2, 4, 4))

    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
        if rescale:
            x = x * (2.0 / 255.0) - 1.0
        if resize:
            x = x[:, :, :, ::2, ::2]
        x = self.net(x).tanh().mean((2, 3, 4))
        return x if return_features else x.softmax(1)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(SmallI3d(3).eval()).save(file)
    return file


@pytest.fixture
def program(avtools, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return avtools


@pytest.mark.long
@pytest.mark.parametrize("protocol", [None, "asva"])
def test_fvd_is_that_of_the_networks_features(program, clips, script, protocol):
    options = ["--weights", script, *(["--protocol", protocol] if protocol else [])]
    done = program("score", "fvd", *options, "--summary", "s.json", "-j1" if protocol else "-j2", input=clips)
    told = json.loads((program.folder / "s.json").read_text())
    (metric,) = configured([i3d.Fvd], protocol, ())
    prepared = [metric.prepare(pair) for pair in pairs(clips)]
    assert prepared[0]["judged"].shape == (12 if protocol else 16, 3, 224, 224)
    sides = []
    for side in ("judged", "reference"):
        clip = torch.from_numpy(np.stack([one[side] for one in prepared])).transpose(1, 2)
        clip = clip.float() * 2 - 1 if protocol else clip.float() / 127.5 - 1
        sides.append(torch.jit.load(script)(clip, False, False, True).detach().numpy())
    assert told["metrics"]["fvd"]["value"] == pytest.approx(of(*sides), rel=1e-3) and of(*sides) > 0
    assert told["metrics"]["fvd"]["count"] == told["metrics"]["fvd_samples"]["value"] == told["metrics"]["fvd_reference_samples"]["value"] == 5
    assert told["metrics"]["fvd_lacking"]["value"] == 0 and "warning" not in done.stderr  # 5 clips, 3 features
    assert told["metrics"]["fvd"]["interval"][0] <= told["metrics"]["fvd"]["value"] <= told["metrics"]["fvd"]["interval"][1]
    assert "fvd_samples" in done.stderr and told["weights"]["fvd"] == hub.digest(script)
    assert told["definitions"]["fvd"]["protocol"] == (protocol or "standard")
    assert done.stdout.splitlines()[0] == clips.splitlines()[0]  # no column of the row
    if protocol is None:
        again = program("score", "fvd", *options, "--summary", "t.json", "-j1", input=clips)
        assert (program.folder / "t.json").read_bytes() == (program.folder / "s.json").read_bytes() and again.stdout == done.stdout


@pytest.mark.long
def test_fewer_clips_than_features_are_warned_of(program, clips, tmp_path):
    torch.jit.script(SmallI3d(40).eval()).save(tmp_path / "wide.pt")
    done = program("score", "fvd", "--weights", f"fvd={tmp_path}/wide.pt", "--summary", "s.json", "-j1", input=clips)
    assert done.stderr.count("avtools score: warning: fvd of 5 clips with 40 features each: the distance of so few is biased upwards") == 1
    told = json.loads((program.folder / "s.json").read_text())["metrics"]
    (warning,) = told["fvd"]["warnings"]
    assert warning.startswith("fvd of 5 clips with 40 features each") and "warnings" not in told["fvd_lacking"]
    assert told["fvd_lacking"] == {**told["fvd_lacking"], "value": 36, "interval": None} and told["fvd"]["interval"] is not None


@pytest.mark.long
def test_bad_rows_and_wrong_weights_are_told(program, clips, script, tmp_path):
    make(tmp_path / "short.mp4", even(12, 12), size=(64, 48))
    reference = pairs(clips)[0].row["path"]
    whole = "".join(f"{pair.row['path']},{pair.row['generated_path']}\n" for pair in pairs(clips))
    table = f"path,generated_path\n{reference},{tmp_path}/short.mp4\n{reference},\n{whole}"
    done = program("score", "fvd", "--weights", script, "--summary", "s.json", "-j1", input=table, status=1)
    assert "short.mp4: shows 12 pictures from 0 s on, and 16 are judged" in done.stderr and "nothing to judge beside its reference" in done.stderr
    told = json.loads((program.folder / "s.json").read_text())
    assert (told["rows"]["judged"], told["rows"]["bad"], told["metrics"]["fvd"]["count"]) == (5, 2, 5)
    done = program("score", "fvd", "--protocol", "asva", "--weights", script, "-j1", input=table, status=1)
    assert "short.mp4: its picture ends at " in done.stderr and "before the clip of 2 s from 0 s is over" in done.stderr


def test_what_is_no_i3d_is_told(script, tmp_path):
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "tensors.pt")
    torch.jit.script(torch.nn.Linear(3, 3)).save(tmp_path / "linear.pt")
    (tmp_path / "half.pt").write_bytes(script.read_bytes()[:2000])
    none = "no TorchScript network"
    for name, told in (("text", none), ("tensors", none), ("half", none), ("linear", "without rescale, resize, return_features")):
        with pytest.raises(FatalError, match=f"{name}.pt: .*{told}"):
            i3d.Network(tmp_path / f"{name}.pt", "cpu")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FatalError, match="has no i3d_torchscript.pt; give the file"):
        i3d.Fvd().weights_file(hub.Weights({"fvd": str(tmp_path / "folder")}))
    with pytest.raises(FatalError, match=r"fvd needs I3D of Kinetics-400 as TorchScript \(i3d_torchscript.pt\); give --weights fvd=FILE"):
        i3d.Fvd().weights_file(hub.Weights())
    assert i3d.Fvd().weights_file(hub.Weights({"": str(script.parent)})) == script


# --- Inception --------------------------------------------------------------------------------------------------------


def documented() -> dict[str, tuple]:
    """Convolution -> (inputs, outputs, height, width) of torchvision's documented Inception v3, written out as its tables are."""
    found = {"Conv2d_1a_3x3": (3, 32, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (32, 64, 3, 3), "Conv2d_3b_1x1": (64, 80, 1, 1)}
    found["Conv2d_4a_3x3"] = (80, 192, 3, 3)
    for name, n, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        table = {"1x1": (n, 64, 1, 1), "5x5_1": (n, 48, 1, 1), "5x5_2": (48, 64, 5, 5), "3x3dbl_1": (n, 64, 1, 1), "3x3dbl_2": (64, 96, 3, 3)}
        table |= {"3x3dbl_3": (96, 96, 3, 3), "_pool": (n, pool, 1, 1)}
        found |= {f"Mixed_{name}.branch{branch}": shape for branch, shape in table.items()}
    table = {"3x3": (288, 384, 3, 3), "3x3dbl_1": (288, 64, 1, 1), "3x3dbl_2": (64, 96, 3, 3), "3x3dbl_3": (96, 96, 3, 3)}
    found |= {f"Mixed_6a.branch{branch}": shape for branch, shape in table.items()}
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        table = {"1x1": (768, 192, 1, 1), "7x7_1": (768, c, 1, 1), "7x7_2": (c, c, 1, 7), "7x7_3": (c, 192, 7, 1), "7x7dbl_1": (768, c, 1, 1)}
        table |= {"7x7dbl_2": (c, c, 7, 1), "7x7dbl_3": (c, c, 1, 7), "7x7dbl_4": (c, c, 7, 1), "7x7dbl_5": (c, 192, 1, 7), "_pool": (768, 192, 1, 1)}
        found |= {f"Mixed_{name}.branch{branch}": shape for branch, shape in table.items()}
    table = {"3x3_1": (768, 192, 1, 1), "3x3_2": (192, 320, 3, 3), "7x7x3_1": (768, 192, 1, 1), "7x7x3_2": (192, 192, 1, 7)}
    table |= {"7x7x3_3": (192, 192, 7, 1), "7x7x3_4": (192, 192, 3, 3)}
    found |= {f"Mixed_7a.branch{branch}": shape for branch, shape in table.items()}
    for name, n in (("7b", 1280), ("7c", 2048)):
        table = {"1x1": (n, 320, 1, 1), "3x3_1": (n, 384, 1, 1), "3x3_2a": (384, 384, 1, 3), "3x3_2b": (384, 384, 3, 1), "3x3dbl_1": (n, 448, 1, 1)}
        table |= {"3x3dbl_2": (448, 384, 3, 3), "3x3dbl_3a": (384, 384, 1, 3), "3x3dbl_3b": (384, 384, 3, 1), "_pool": (n, 192, 1, 1)}
        found |= {f"Mixed_{name}.branch{branch}": shape for branch, shape in table.items()}
    return found


def test_inceptions_names_are_those_of_the_documented_layout():
    from avtools.models.inception.model import Inception

    wanted = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, (inputs, outputs, *kernel) in documented().items():
        wanted[f"{name}.conv.weight"] = (outputs, inputs, *kernel)
        wanted |= {f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    assert len(wanted) == 94 * 5 + 2
    with torch.device("meta"):
        net = Inception()
    hub.load_strict(net, {name: torch.empty(shape, device="meta") for name, shape in wanted.items()}, "the list", ignore=("num_batches_tracked",))
    # torchvision documents 27,161,264 parameters, of which its second classifier has 3,326,696; it has 1000 classes
    assert sum(parameter.numel() for parameter in net.parameters()) == 27_161_264 - 3_326_696 + 8 * 2049


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    from avtools.models.inception.model import Inception

    torch.manual_seed(0)
    net = Inception()
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.1, 0.25)  # as large as what comes, so that nothing dies out or explodes
    file = tmp_path_factory.mktemp("inception") / inception.FILE
    torch.save({name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}, file)  # the release has none
    return file


def test_inception_pools_as_tensorflow_does(inception_file):
    """The means over windows leave padding out, the last block takes maxima; two pictures are two, and 229 pixels will do."""
    from avtools.models.inception.model import load, mean_pool

    assert torch.equal(mean_pool(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3))
    net = load(inception_file)
    assert not net.training and net.Mixed_7c.pool == "max" and {getattr(net, name).pool for name in net.blocks[:-1]} == {"mean"}
    with torch.no_grad():
        both = torch.rand(2, 3, 229, 229) * 2 - 1
        features = net(both)
        assert features.shape == (2, 2048) and torch.allclose(net(both[1:]), features[1:], atol=1e-4) and not torch.allclose(features[0], features[1])
        x = torch.randn(1, 2048, 3, 3)
        assert torch.equal(net.Mixed_7c(x)[:, -192:], net.Mixed_7c.branch_pool(torch.nn.functional.max_pool2d(x, 3, 1, 1)))


def test_what_is_no_inception_is_told(inception_file, tmp_path):
    from avtools.models.inception.model import load

    weights = torch.load(inception_file)
    weights["AuxLogits.fc.bias"] = weights.pop("Mixed_7c.branch1x1.conv.weight")
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(FatalError, match=r"1 missing: Mixed_7c.branch1x1.conv.weight; 1 unexpected: AuxLogits.fc.bias"):
        load(tmp_path / "other.pth")


@pytest.mark.long
def test_fid_is_that_of_all_pictures(program, clips, inception_file):
    from avtools.models.inception.model import load

    done = program("score", "fid", "--set", "fid.size=80", "--weights", inception_file, "--summary", "s.json", "-j1", input=clips)
    told = json.loads((program.folder / "s.json").read_text())["metrics"]
    (metric,) = configured([inception.Fid], None, ("size=80",))
    prepared = [metric.prepare(pair) for pair in pairs(clips)]
    net = load(inception_file)
    with torch.no_grad():
        sides = [net(torch.from_numpy(np.concatenate([one[side] for one in prepared])).float() / 127.5 - 1).numpy() for side in ("judged", "reference")]
    assert told["fid"]["value"] == pytest.approx(of(*sides), rel=1e-3) == pytest.approx(by_products(*sides), rel=1e-3)
    assert told["fid"]["count"] == 5 and told["fid_samples"]["value"] == told["fid_reference_samples"]["value"] == 25
    assert told["fid_lacking"]["value"] == 2024
    assert "warning: fid of 25 pictures with 2048 features each" in done.stderr


@pytest.mark.long
def test_two_networks_get_their_own_weights(program, clips, script, inception_file):
    weights = ["--weights", f"fvd={script}", "--weights", f"fid={inception_file}"]
    done = program("score", "fvd,fid", "--set", "fid.size=75", *weights, "--summary", "s.json", "-j1", input=clips)
    told = json.loads((program.folder / "s.json").read_text())
    assert told["weights"] == {"fvd": hub.digest(script), "fid": hub.digest(inception_file)} and done.stderr.count("warning") == 1
    assert told["media"]["fvd"]["pictures"]["values"] == [[16, 5]] and told["media"]["fid"]["pictures"]["values"] == [[5, 5]]


def test_listings_import_no_torch():
    code = "import sys, avtools.models.i3d.metrics, avtools.models.inception.metrics; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
