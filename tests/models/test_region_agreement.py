"""Whether regions of a picture agree with their own sources: what is seen and heard of each, and the share of pairs that are right."""

import csv
import io
import json
import os
import pathlib
import pickle
import re
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import small_imagebind  # noqa: E402
import soundfile  # noqa: E402

import conftest  # noqa: E402
from avtools.errors import RowError, UsageError  # noqa: E402
from avtools.hub import Weights  # noqa: E402
from avtools.metrics import Skip, configured  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.metrics.pictures import Pictures  # noqa: E402
from avtools.models.judges import bind, regions, similarity  # noqa: E402
from avtools.models.judges.regions import RegionAgreement, agreement  # noqa: E402
from avtools.models.maestro.regions import of_row, regions_of  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("imagebind") / "imagebind_huge.pth"
    torch.save(small_imagebind.released(small_imagebind.towers()), file)
    return file


@pytest.fixture
def clip(tmp_path):
    """A lossless clip of 1.6 s at 10 fps whose quarters are of one level each, brighter with each frame, and two stems."""
    import av

    with av.open(str(tmp_path / "clip.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 40, "gray"
        for k in range(16):
            levels = np.array([[0, 50], [100, 150]], np.uint8) + 20 + k
            picture = levels.repeat((16, 24), 0).repeat(32, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        out.mux(stream.encode())
    random = np.random.default_rng(0)
    for name, seconds in (("dog", 3.3), ("cat", 1.0), ("rain", 2.0), ("bell", 5.0)):
        noise = random.standard_normal(int(seconds * 16000)) * np.linspace(0.01, 0.3, int(seconds * 16000))
        soundfile.write(tmp_path / f"{name}.wav", noise, 16000, subtype="FLOAT")
    return tmp_path


def row_of(folder, names=("dog", "cat", "rain", "bell"), **more) -> dict:
    stems = json.dumps([str(folder / f"{name}.wav") for name in names])
    layout = {2: "lr", 3: "three", 4: "quad"}.get(len(names), "")
    return {"path": str(folder / "clip.mkv"), "stem_paths": stems, "queries": json.dumps(names), "layout": layout, **more}


def seen(row: dict, **settings):
    made = of_row(row, regions.listed(row, "queries"))
    return Pair(row, {}).watched("video", regions.Parts(made, Pictures(fps=2.0, size=(224, 224), fit="pad", **settings)))


def test_each_region_shows_its_box_of_each_picture(clip):
    found = seen(row_of(clip))
    assert found.shape == (4, 4, 224, 224, 3)  # at 0, 0.5, 1 and 1.5 s
    for k, part in np.ndindex(4, 4):
        middle = found[k, part, 112, 112].astype(int)
        assert abs(middle - (50 * part + 20 + 5 * k)).max() <= 2, (k, part)
        inside = (found[k, part, :, :, 0] > 5).mean()
        assert inside == pytest.approx(0.5 if part < 2 else 0.75, abs=0.01)  # 32 x 16 and 32 x 24 pixels amid black
    moving = regions_of(("a", "b"), boxes=["a@0=0,0,.5,.4", "a@15=0,.6,.5,1", "b=.5,0,1,1"], frames=16)
    first = seen(row_of(clip, ("dog", "cat"), layout="", **moving.columns()))[:, 0, 112, 112, 0].astype(int)
    assert abs(first[0] - 20) <= 2 and abs(first[-1] - (120 + 15)) <= 2


def test_a_picture_that_is_shown_for_long_counts_as_often(clip):
    import av

    with av.open(str(clip / "slow.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 40, "gray"
        for level, at in ((50, 0), (100, 13), (150, 19)):
            frame = av.VideoFrame.from_ndarray(np.full((40, 64), level, np.uint8), format="gray")
            frame.pts, frame.time_base = at, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    found = seen(row_of(clip, ("dog", "cat"), path=str(clip / "slow.mkv")))[:, 0, 112, 112, 0].astype(int)
    assert np.abs(found - [50, 50, 50, 100]).max() <= 2  # at 0, 0.5, 1 and 1.5 s


def test_pairs_that_agree_are_counted():
    assert agreement(np.array([[0.5, 0.1], [0.2, 0.3]])) == pytest.approx({"region_agreement": 1, "region_gain": 0.25, "region_own": 0.4, "region_other": 0.15})
    assert agreement(np.array([[0.1, 0.5], [0.3, 0.2]]))["region_agreement"] == 0
    assert agreement(np.array([[0.5, 0.5], [0.5, 0.5]]))["region_agreement"] == 0.5
    assert agreement(np.eye(4))["region_agreement"] == 1 and agreement(np.eye(4)[[1, 0, 2, 3]])["region_agreement"] == pytest.approx(5 / 6)
    random = np.random.default_rng(0)
    for count in (2, 3, 5):  # by chance half of them
        assert np.mean([agreement(random.standard_normal((count, count)))["region_agreement"] for _ in range(2000)]) == pytest.approx(0.5, abs=0.03)


@pytest.fixture
def small(avtools, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    named = {"region-agreement": "avtools.models.judges.regions:RegionAgreement"}
    code = f"import small_imagebind; from avtools.models import registry; registry.METRICS |= {named}; small_imagebind.main()"
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", code, *map(str, arguments)])
    return avtools


def written(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def test_scores_are_the_cosines_of_regions_and_stems(small, clip, weights):
    rows = [row_of(clip), row_of(clip, ("cat", "dog")), row_of(clip, ("dog", "cat"))]
    options = ("--weights", f"region-agreement={weights}", "--summary", "s.json", "-j1", "--batch-size", "2")
    done = small("score", "region-agreement", *options, input=written(rows))
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    frames, sounds = bind.BindFrames(), bind.BindSound()
    kept = dict(small_imagebind.model.HUGE)
    try:
        small_imagebind.model.HUGE.update(small_imagebind.SIZES)
        for net in (frames, sounds):
            net.load("cpu", Weights({"imagebind": str(weights)}))
        for row, told in zip(rows, found, strict=True):
            pictures = frames.run([{"pictures": part} for part in seen(row).swapaxes(0, 1)])
            heard = [sounds.prepare(Pair({"audio_path": path}, {}), "audio") for path in json.loads(row["stem_paths"])]
            own = [one["embedding"] for one in sounds.run(heard)]
            matrix = np.array([[bind.cosines(one["embedding"], other).mean() for other in own] for one in pictures])
            for column, value in agreement(matrix).items():
                assert float(told[column]) == pytest.approx(value, abs=1e-5), column
    finally:
        small_imagebind.model.HUGE.update(kept)
    # exchanged sources: what one way has won the other has lost
    assert float(found[1]["region_agreement"]) + float(found[2]["region_agreement"]) == 1
    assert float(found[1]["region_gain"]) == pytest.approx(-float(found[2]["region_gain"]), abs=1e-6)
    told = json.loads((small.folder / "s.json").read_text())
    assert told["metrics"]["region_agreement"]["count"] == 3 and told["metrics"]["region_agreement"]["mean"] == pytest.approx(
        np.mean([float(row["region_agreement"]) for row in found])
    )


def test_what_cannot_be_judged_is_skipped_or_told(small, clip, weights):
    soundfile.write(clip / "mute.wav", np.zeros(32000), 16000)
    soundfile.write(clip / "click.wav", np.ones(300), 16000)
    rows = [
        row_of(clip, ("dog", "cat")), row_of(clip, ("dog",), layout=""), row_of(clip, ("dog", "mute")), row_of(clip, ("click", "dog")),
        row_of(clip, ("dog", "cat"), layout=""), row_of(clip, ("dog", "cat"), layout="quad"), row_of(clip, ("dog", "cat"), stem_paths=""),
        row_of(clip, ("dog", "gone")), row_of(clip, ("dog", "cat"), stem_paths="{}"), row_of(clip, (), stem_paths="", queries=""),
    ]  # fmt: skip
    done = small("score", "region-agreement", "--weights", weights, "--summary", "s.json", "-j1", input=written(rows), status=1)
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [bool(row["region_agreement"]) for row in found] == [True] + [False] * (len(found) - 1)
    skipped = json.loads((small.folder / "s.json").read_text())["metrics"]["region_agreement"]["skipped"]
    assert skipped == {"a stem is silent": 1, "a stem is too short for a spectrum": 1, "one source has no other that it could be exchanged with": 1}
    told = " ".join(done.stderr.split())
    for text in ("has neither layout nor boxes", "quad is for 4 sources, and the row has 2", "no stem_paths to hear", "gone.wav", "stem_paths: is no JSON list",
                 "has neither stem_paths nor queries"):  # fmt: skip
        assert text in told, text


def test_clip_judges_by_the_queries(clip, tmp_path):
    from avtools.models.parts.imagebind.text import vocabulary

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = transformers.CLIPConfig(text_config={**sizes, "eos_token_id": 2}, vision_config={**sizes, "image_size": 224, "patch_size": 56}, projection_dim=24)
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "clip")
    ids, merges = vocabulary()
    (tmp_path / "clip/vocab.json").write_text(json.dumps(ids))
    (tmp_path / "clip/merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    (metric,) = configured([RegionAgreement], None, (), ["clip"])
    assert set(metric.columns) == {f"{name}_clip" for name in RegionAgreement.columns}
    row = row_of(clip, ("a dog", "a cat", "rain"), stem_paths="")  # needs no stems
    metric = pickle.loads(pickle.dumps(metric))
    item = metric.prepare(Pair(row, {}))
    metric.load("cpu", Weights({"region-agreement": str(tmp_path / "clip")}))
    pickle.dumps(metric)  # without its networks
    (found,) = metric.run([item])
    pictures, words = similarity.ClipPicture(), similarity.ClipText()
    for net in (pictures, words):
        net.load("cpu", Weights({"clip": str(tmp_path / "clip")}))
    texts = [one["embedding"] for one in words.run([{"text": np.frombuffer(text.encode(), np.uint8)} for text in json.loads(row["queries"])])]
    parts = pictures.run([{"pictures": part} for part in seen(row).swapaxes(0, 1)])
    wanted = [[similarity.mean_cosine(one["embedding"], text) for text in texts] for one in parts]
    assert np.allclose(found["cosines"], wanted, atol=1e-5)
    assert metric.row(found)["region_agreement"] == agreement(np.array(wanted))["region_agreement"]


@pytest.mark.parametrize(
    "option, told", [("model=x", "imagebind or clip"), ("fit=x", "pad, crop or squash"), ("clips=0", "1 or more"), ("fps=2000", "0 (each frame)")]
)
def test_wrong_settings_of_regions_are_told(option, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        configured([RegionAgreement], None, (option,))


def test_a_row_with_one_source_is_no_error():
    with pytest.raises(Skip, match="no other"):
        RegionAgreement().prepare(Pair({"queries": ["dog"], "stem_paths": [], "layout": "", "boxes": ""}, {}))
    with pytest.raises(RowError, match="neither"):
        RegionAgreement().prepare(Pair({}, {}))
