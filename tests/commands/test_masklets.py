"""`masklets` as real processes, with tiny random networks of transformers' own classes."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import time

import av
import numpy as np
import pytest

import conftest
from avtools.augment.pool import Masklets
from avtools.models.masklets.annotations import rle_encode
from conftest import files

COUNT = 4
ENV = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Four clips of 16 frames with two objects each, and the table of them."""
    folder = tmp_path_factory.mktemp("toys")
    program = conftest.Program(folder)
    program("synth", "-q", "-n", COUNT, "--objects", "2", "--seconds", "2", "--fps", "8", "--size", "96x64", "-d", "toys", "-o", "toys.jsonl", "--to", "jsonl")
    return folder


@pytest.fixture
def avtools(toys, tmp_path):
    shutil.copytree(toys, tmp_path, dirs_exist_ok=True)
    return conftest.Program(tmp_path)


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def known(avtools) -> list[dict]:
    return rows((avtools.folder / "toys.jsonl").read_text())


def masks_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") > 0 for frame in container.decode(video=0)]


def annotate(avtools, row: dict, **more) -> pathlib.Path:
    """SA-V's JSON of a row's objects beside its clip."""
    masks = [masks_of(avtools.folder / one["mask_path"]) for one in row["objects"]]
    found = {
        "video_frame_count": float(row["num_frames"]),
        "masklet_size_bucket": ["medium"] * len(masks),
        "masklet_size_rel": [0.1] * len(masks),
        "masklet": [[rle_encode(one[k]) for one in masks] for k in range(0, row["num_frames"], 4)],
        **more,
    }
    path = (avtools.folder / row["path"]).with_name(row["id"] + "_manual.json")
    path.write_text(json.dumps(found))
    return path


def test_known_masks_become_masklets(avtools):
    line = ["masklets", "--mask-column", "mask_path", "-d", "pool", "--pool-list", "pool/pool_list.txt", "toys.jsonl"]
    (avtools.folder / "pool").mkdir()
    made = avtools(*line)
    found, clips = rows(made.stdout), known(avtools)
    assert [row["group"] for row in found] == [row["relpath"] for row in clips]
    assert "files: 16 made" in made.stderr
    for row, clip in zip(found, clips, strict=True):
        first, seen = clip["visible"].index(True), [k for k, one in enumerate(clip["visible"]) if one]
        assert row["first_frame"] == first and row["visible_share"] == len(seen) / 16 and row["text"] == clip["text"]
        span = slice(first, seen[-1] + 1)
        assert row["box"] == clip["box"][span] and row["visible"] == clip["visible"][span]
        meta = json.loads((avtools.folder / row["meta_path"]).read_text())
        assert meta["crop_bbox"] == row["box"] and meta["visible"] == row["visible"] and (meta["video_frame_height"], meta["video_frame_width"]) == (64, 96)
        masks = masks_of(avtools.folder / row["mask_path"])
        whole = masks_of(avtools.folder / clip["mask_path"])[span]
        height, width = masks[0].shape
        for mask, truth, (x, y, wide, high) in zip(masks, whole, row["box"], strict=True):
            if (wide, high) == (width, height):
                assert (mask == truth[y : y + high, x : x + wide]).all(), "a pixel of a mask was lost"
            assert mask.any() == truth.any()
        with av.open(str(avtools.folder / row["masklet_path"])) as container:
            stream = container.streams.video[0]
            assert (stream.frames, stream.width, stream.height, stream.average_rate) == (len(masks), width, height, 8)
    listed = (avtools.folder / "pool/pool_list.txt").read_text().splitlines()
    assert [f"pool/{name}" for name in listed] == [row["masklet_path"] for row in found]
    for pool in (Masklets(str(avtools.folder / "pool")), Masklets(str(avtools.folder / "pool/pool_list.txt"))):  # what augmentations draw from
        assert len(pool) == COUNT and all(len(pool.load(k).frames) == pool.length(k) for k in range(COUNT))
    again = avtools(*line)
    assert again.stdout == made.stdout and "0 made" in again.stderr and "16 reused" in again.stderr
    assert not [path for path in avtools.folder.rglob("*.tmp")]
    (avtools.folder / found[1]["mask_path"]).unlink()  # one that is missing is made again, as it was
    assert avtools(*line).stdout == made.stdout and (avtools.folder / found[1]["mask_path"]).is_file()


def test_annotations_are_carried_and_bad_ones_are_named(avtools):
    clips = known(avtools)
    annotate(avtools, clips[0])
    annotate(avtools, clips[1], masklet_size_bucket=["small", "small"])
    annotate(avtools, clips[2], masklet=[[{"size": [128, 192], "counts": "9"}] * 2] * 4)
    line = ["masklets", "--method", "interpolate", "-d", "pool", "toys.jsonl", "--errors", "bad.jsonl"]
    made = avtools(*line, "--why", status=1)
    found = rows(made.stdout)
    assert [(row["group"], row["object"]) for row in found] == [("clips/00000.mp4", 0), ("clips/00000.mp4", 1)]
    assert "4 rows in = 1 done + 1 filtered + 2 bad" in made.stderr
    assert "all 2 objects are small" in made.stderr
    assert "toys.jsonl:3: toys/clips/00002_manual.json: object 0 in frame 0: its mask is of size [128, 192], and the frame is [64, 96]" in made.stderr
    assert "toys.jsonl:4: toys/clips/00003.mp4: has no annotations (there is no toys/clips/00003_manual.json)" in made.stderr
    assert [row["id"] for row in rows((avtools.folder / "bad.jsonl").read_text())] == ["00002", "00003"]
    for row, truth in zip(found, clips[0]["objects"], strict=True):
        if all(truth["visible"]):
            assert row["box"][0] == truth["box"][0] and row["box"][12] == truth["box"][12] and len(row["box"]) == 16
    assert json.loads((avtools.folder / "pool/clips/00001_objects.json").read_text())["objects"] == 0
    again = avtools(*line, status=1)
    assert again.stdout == made.stdout and "0 made" in again.stderr, "a video without objects was worked on again"
    annotate(avtools, clips[1])  # now it has some
    changed = avtools(*line, status=1)
    assert len(rows(changed.stdout)) == 4 and "7 made" in changed.stderr


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import small_sam

    folder = tmp_path_factory.mktemp("networks")
    small_sam.sam2(folder / "sam2")
    (folder / "dino").mkdir()
    small_sam.grounding_dino(folder / "dino")
    return ["--weights", f"sam2={folder / 'sam2'}", "--weights", f"grounding-dino={folder / 'dino'}"]


@pytest.mark.long
def test_sam2_and_grounding_dino(avtools, networks):
    """Annotated videos, ones with queries and a bad one in a table; alone, and killed and continued by two ranks."""
    clips = known(avtools)
    annotate(avtools, clips[0])
    asked = ["", "a dog", '["a red ball", "bird"]', ""]
    (avtools.folder / "asked.csv").write_text("path,relpath,ask\n" + "".join(f"{row['path']},{row['relpath']},\"{ask.replace(chr(34), chr(34) * 2)}\"\n" for row, ask in zip(clips, asked)))
    line = ["masklets", *networks, "--query-column", "ask", "--threshold", "0.001", "--max-objects", "2", "-j1", "asked.csv"]
    made = avtools(*line, "-d", "one", env=ENV, status=1)
    found = list(csv.DictReader(io.StringIO(made.stdout)))
    assert "asked.csv:5: toys/clips/00003.mp4: has neither annotations (there is no toys/clips/00003_manual.json) nor a query" in made.stderr
    assert [row["query"] for row in found if row["group"] == "clips/00000.mp4"] == ["", ""]
    assert {row["group"] for row in found} > {"clips/00000.mp4"} and all(row["query"] in ("", "a dog", "a red ball", "bird") for row in found)
    truth = clips[0]["objects"][0]
    if all(truth["visible"]):
        assert json.loads(found[0]["box"])[4] == truth["box"][4], "an annotated frame was changed"
    expected = files(avtools.folder / "one")

    process = avtools.start(*line, "-d", "killed", env={**os.environ, **ENV})
    deadline = time.monotonic() + 120
    while not list((avtools.folder / "killed").rglob("*_meta_*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    ranks = [  # take up what the killed one left
        avtools.start(*line, "-d", "killed", env={**os.environ, **ENV, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": f"{os.getpid()}m"})
        for rank in range(2)
    ]
    (out, err), _ = [rank.communicate(timeout=300) for rank in ranks]
    assert out.decode() == made.stdout.replace("one/", "killed/"), err.decode()
    assert files(avtools.folder / "killed") == expected and b" 0 reused" not in err and b" 0 made" not in err


@pytest.mark.parametrize(
    "arguments, status, says",
    [
        (["--query", " "], 2, "--query '' names nothing"),
        (["--method", "interpolate", "--query", "a dog"], 2, "leave --query out"),
        (["--mask-column", "mask_path", "--query", "a dog"], 2, "leave --query and --annotation-column out"),
        (["--mask-column", "masks"], 2, "--mask-column masks: the table has no such column (it has: "),
        (["--weights", "sam=x"], 2, "no such part; did you mean 'sam2'?"),
        (["--weights", "sam2=nowhere"], 3, "nowhere: no such file or folder"),
        ([], 3, "no weights of SAM 2.1 for videos (part 'sam2'"),
    ],
)
def test_what_is_refused_at_once(avtools, arguments, status, says):
    pytest.importorskip("huggingface_hub")
    done = avtools("masklets", *arguments, "-d", "pool", "toys.jsonl", status=status, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(avtools.folder)})
    assert says in done.stderr and not done.stdout and len(done.stderr.splitlines()) <= 3
