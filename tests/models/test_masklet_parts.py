"""The parts of `masklets`: annotations, selection, optical flow, SAM 2, Grounding DINO, files."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from avtools.errors import FatalError, MediaError, RowError
from avtools.media import video
from avtools.models.masklets import annotations, flow, selection, writing
from avtools.models.masklets.annotations import Annotated, rle_decode, rle_encode
from avtools.models.masklets.reading import Shape, ahead, pictures, shape_of
from avtools.models.masklets.selection import Found, pack, unpack

SIZE = 48, 64  # height, width


def ball(number: int, height: int = SIZE[0], width: int = SIZE[1], y: float = 20.0) -> np.ndarray:
    """The mask of a disc that moves right by 1.5 pixels a frame."""
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - 14 - 1.5 * number) ** 2 <= 81


def picture(number: int) -> np.ndarray:
    """It, shaded, on a background of soft noise."""
    noise = np.random.default_rng(0).integers(60, 120, (SIZE[0] // 4, SIZE[1] // 4, 3)).astype(np.uint8)
    frame = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    shade = (128 + 100 * np.sin(rows / 2.0 + (columns - 1.5 * number) / 3.0)).astype(np.uint8)
    frame[ball(number)] = shade[ball(number)][:, None]
    return frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 14 frames in which the disc moves."""
    path = tmp_path_factory.mktemp("masklets") / "clip.mp4"
    video.write_frames(path, ".mp4", np.stack([picture(number) for number in range(14)]), 24)
    return str(path)


def sav(path, masks: list[list[np.ndarray]], **more) -> str:
    """SA-V's JSON beside `path`; `masks`: of each annotated frame those of all objects."""
    count = len(masks[0])
    found = {
        "video_frame_count": 14.0,
        "video_resolution": float(SIZE[0] * SIZE[1]),
        "masklet_id": [10 + k for k in range(count)],
        "masklet_size_bucket": ["medium"] * count,
        "masklet_size_rel": [0.1] * count,
        "masklet": [[rle_encode(mask) for mask in frame] for frame in masks],
        **more,
    }
    name = annotations.beside(str(path))
    with open(name, "w") as file:
        json.dump({key: value for key, value in found.items() if value is not None}, file)
    return name


# --- run lengths and masks ----------------------------------------------------------------------------------


def test_run_lengths_are_those_of_coco():
    runs = [6, 1, 40, 4, 5, 4, 5, 4, 21]
    flat = np.repeat(np.arange(9) % 2 == 1, runs)
    mask = flat.reshape(10, 9).T  # 9 rows, 10 columns: down the columns
    assert rle_encode(mask) == {"size": [9, 10], "counts": "61X13mN000`0"}  # COCO's own example
    assert (rle_decode("61X13mN000`0", 9, 10) == mask).all() and (rle_decode(runs, 9, 10) == mask).all()
    assert rle_encode(np.ones((3, 3), bool))["counts"] == "09" and rle_encode(np.zeros((3, 3), bool))["counts"] == "9"


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_keep_every_pixel(seed):
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 90, 2)
    mask = draw.random((height, width)) < draw.choice([0.0, 0.01, 0.5, 0.99, 1.0])
    assert (rle_decode(rle_encode(mask)["counts"], height, width) == mask).all()
    assert (rle_decode(rle_encode(mask)["counts"].encode(), height, width) == mask).all()
    packed = pack(mask)
    assert (unpack(packed, height, width) == mask).all() and (packed.area() if packed else 0) == mask.sum()


@pytest.mark.parametrize("counts, says", [("9", "9 pixels, not 12"), ([4, 9], "13 pixels"), ([20, -8], "12"), ("6\x7f", "does not belong"), ("6X", "cut short"), ([1.5], "whole number"), ("X" * 30, "does not belong"), ([], "0 pixels"), ([10**30, 1], "pixels, not 12"), ("o" * 7 + "0" + "n" * 7 + "0", "pixels|belong")])
def test_damaged_run_lengths(counts, says):
    with pytest.raises(ValueError, match=says if counts != [20, -8] else "pixels"):
        rle_decode(counts, 3, 4)


def test_overlap_and_span():
    assert selection.overlap([0, 0, 4, 4], [2, 0, 4, 4]) == pytest.approx(8 / 24) and selection.overlap([0, 0, 2, 2], [2, 0, 2, 2]) == 0
    seen = pack(np.ones((2, 2), bool))
    assert selection.span([None, seen, None, None, None, None, seen, None]) == (1, 7)
    assert selection.span([seen] * 5) is None and selection.span([seen] * 6) == (0, 6) and selection.span([None] * 9) is None


def test_small_objects_are_left_out():
    assert selection.by_annotation(["large", "small", "medium", "medium"], [0.3, 0.2, 0.1, 0.098], 0.33) == [0, 2]
    large, small = (Found(k, [pack(np.ones((side, side), bool)), None]) for k, side in enumerate((6, 3)))
    assert selection.large_enough([large, small, Found(2, [None])], 0.33) == [large] and selection.large_enough([large, small], 0.25) == [large, small]


# --- SA-V ---------------------------------------------------------------------------------------------------


def test_annotations_are_read(clip):
    shape = shape_of(clip)
    masks = [[ball(4 * k), ~ball(4 * k), np.zeros(SIZE, bool)] for k in range(4)]
    file = sav(clip, masks, masklet_size_bucket=["medium", "small", "large"])
    (one, other), reason = annotations.read(file, clip, shape)
    assert (one.number, other.number, reason) == (10, 12, "") and list(one.masks) == [0, 4, 8, 12]
    assert all((unpack(one.masks[4 * k], *SIZE) == ball(4 * k)).all() for k in range(4)) and not any(other.masks.values())
    assert annotations.read(sav(clip, masks, masklet_size_bucket=["small"] * 3), clip, shape) == ([], f"{file}: all 3 objects are small")
    assert "more than --max-objects 2" in annotations.read(sav(clip, masks), clip, shape, most=2)[1]
    assert "more than --max-resolution 1000" in annotations.read(sav(clip, masks), clip, shape, resolution=1000)[1]
    assert [one.number for one in annotations.read(sav(clip, masks, masklet_size_rel=[0.3, 0.2, 0.05]), clip, shape)[0]] == [10, 11]
    assert annotations.read(sav(clip, [[], [], [], []], masklet_id=[]), clip, shape) == ([], f"{file}: annotates no object")
    assert annotations.read(sav(clip, masks, masklet_id=None), clip, shape)[0][1].number == 1


@pytest.mark.parametrize(
    "more, says",
    [
        ({"video_frame_count": 40.0}, "video of 40 frames, and .* has 14"),
        ({"video_frame_count": "many"}, "no number"),
        ({"masklet": [[]] * 5}, "annotates frame 16"),
        ({"masklet": [[rle_encode(ball(0))]] * 2}, r"annotates frames up to 4 \(2, every 4\), and .* has 14; give .* --annotated-every"),
        ({"masklet": None}, "no list 'masklet'"),
        ({"masklet": [{}] * 4}, "no list of lists"),
        ({"masklet": [[rle_encode(ball(0))], [], [], []]}, "not as many masks"),
        ({"masklet": [[rle_encode(ball(0, 96, 128))]] * 4}, r"object 0 in frame 0: its mask is of size \[96, 128\], and the frame is \[48, 64\]"),
        ({"masklet": [[{"size": [48, 64], "counts": "9"}]] * 4}, "damaged run-length"),
        ({"masklet": [["rle"]] * 4}, "no run-length"),
        ({"masklet_size_bucket": ["large"] * 2}, "2 entries for 1 objects"),
        ({"masklet_size_rel": [float("nan")]}, "no list of numbers"),
        ({"masklet_size_rel": None}, "no list 'masklet_size_rel'"),
    ],
)
def test_annotations_that_do_not_fit(clip, more, says):
    file = sav(clip, [[ball(4 * k)] for k in range(4)], **more)
    with pytest.raises(RowError, match=says):
        annotations.read(file, clip, shape_of(clip))


@pytest.mark.parametrize("content, says", [("{", "no JSON"), ("[]", "no JSON object"), ("[" * 100_000, "no JSON"), (None, "cannot be read")])
def test_files_that_are_no_annotations(clip, tmp_path, content, says):
    file = tmp_path / "x_manual.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RowError, match=says):
        annotations.read(str(file), clip, shape_of(clip))


# --- pictures -----------------------------------------------------------------------------------------------


def test_pictures_are_decoded_ahead_and_counted(clip):
    shape = shape_of(clip)
    assert shape == Shape(14, *SIZE, Fraction(24))
    found = list(ahead(pictures(clip, shape), 2))
    assert len(found) == 14 and all(np.abs(one.astype(int) - picture(k)).mean() < 6 for k, one in enumerate(found))
    with pytest.raises(MediaError, match="14 of 15 frames"):
        list(ahead(pictures(clip, shape._replace(frames=15))))
    with pytest.raises(MediaError, match="has 64x48 pixels, not 64x40"):
        list(pictures(clip, shape._replace(height=40)))
    some = ahead(pictures(clip, shape), 2)
    next(some)
    some.close()  # its thread ends


# --- optical flow -------------------------------------------------------------------------------------------


def share(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_masks_are_carried_between_annotated_frames():
    shape = Shape(14, *SIZE, Fraction(24))
    grays = [picture(k)[..., 1] for k in range(14)]
    keys = {4 * k: pack(ball(4 * k)) for k in range(4)}
    gone = {**keys, 8: None}
    (found, hidden) = flow.carried([Annotated(0, keys), Annotated(1, gone)], iter(grays), shape)
    masks = [unpack(mask, *SIZE) for mask in found.masks]
    assert all((masks[k] == ball(k)).all() for k in keys), "an annotated frame was changed"
    assert all(share(masks[k], ball(k)) > 0.85 for k in range(14)), [round(share(masks[k], ball(k)), 2) for k in range(14)]
    held = np.mean([share(ball(k // 4 * 4), ball(k)) for k in range(13) if k % 4])
    assert np.mean([share(masks[k], ball(k)) for k in range(13) if k % 4]) > held + 0.1
    seen = [mask is not None for mask in hidden.masks]
    assert seen == [True] * 5 + [False] * 7 + [True] * 2  # between frames it is seen only where it is in both
    assert flow.carried([], iter(grays), shape) == []


def test_tiny_videos_are_carried_too():
    shape = Shape(5, 20, 20, Fraction(24))
    square = [np.pad(np.full((8, 8), 200, np.uint8), ((6, 6), (k + 2, 10 - k))) for k in range(5)]
    (found,) = flow.carried([Annotated(0, {0: pack(square[0] > 0), 4: pack(square[4] > 0)})], iter(square), shape)
    assert all(mask is not None and abs(mask.area() - 64) <= 24 for mask in found.masks)


# --- files --------------------------------------------------------------------------------------------------


def frames(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_masklets_are_written(clip, tmp_path):
    shape = shape_of(clip)
    masks = [pack(ball(k)) for k in range(14)]
    masks[0] = masks[5] = masks[13] = None
    wide = [pack(np.pad(np.ones((3, 40), bool), ((k, 45 - k), (2, 22)))) for k in range(14)]
    metas = writing.write(clip, shape, [Found(3, masks, "a ball"), Found("b", wide)], str(tmp_path), size=32)
    first = metas[0]
    assert (first["video_frame_height"], first["video_frame_width"], first["first_frame"], first["object"], first["query"]) == (48, 64, 1, 3, "a ball")
    assert first["visible"] == [True] * 4 + [False] + [True] * 7 and first["crop_bbox"][4] == [0, 0, 0, 0]
    assert first["crop_bbox"][0] == masks[1].box and len(first["crop_bbox"]) == 12
    crops, cut = frames(tmp_path / "masklet_0.mp4"), frames(tmp_path / "mask_0.mkv")
    assert len(crops) == len(cut) == 12 and crops[0].shape == cut[0].shape == (19, 19, 3)
    for k, (crop, mask) in enumerate(zip(crops, cut), 1):
        assert set(np.unique(mask)) <= {0, 255}
        if masks[k] is None:
            assert not mask.any() and crop.mean() < 4
        elif masks[k].box[2:] == [19, 19]:
            x, y = masks[k].box[:2]
            assert (mask[..., 0] > 0).tolist() == masks[k].crop().tolist(), "a pixel of a mask was lost"
            assert np.abs(crop.astype(int) - picture(k)[y : y + 19, x : x + 19]).mean() < 12
    assert frames(tmp_path / "masklet_1.mp4")[0].shape == (3, 32, 3)  # of 40 pixels


def test_legacy_codec(clip, tmp_path):
    writing.write(clip, shape_of(clip), [Found(0, [pack(ball(k)) for k in range(14)])], str(tmp_path), legacy=True)
    for name in ("masklet_0.mp4", "mask_0.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
            assert sum(1 for _ in container.decode(video=0)) == 14
    assert share(frames(tmp_path / "mask_0.mp4")[2][..., 0] > 127, pack(ball(2)).crop()) > 0.9


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(5965000, 199081), Fraction(1, 3), Fraction(70000)])
def test_any_rate_can_be_written(clip, tmp_path, fps):
    shape = shape_of(clip)._replace(fps=fps)
    for legacy in (False, True):
        (meta,) = writing.write(clip, shape, [Found(0, [pack(ball(k)) for k in range(14)])], str(tmp_path), legacy=legacy)
        assert meta["fps"] == pytest.approx(float(fps), rel=0.07 if fps == 70000 else 1e-3) and len(frames(tmp_path / f"mask_0{writing.mask_suffix(legacy)}")) == 14


# --- SAM 2 and Grounding DINO: the real classes, tiny and random ----------------------------------------------


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tracker(torch, tmp_path_factory):
    import small_sam
    from avtools.models.masklets.tracking import Tracker

    return Tracker(small_sam.sam2(tmp_path_factory.mktemp("sam2")), torch.device("cpu"), batch=3)


@pytest.fixture(scope="module")
def detector(torch, tmp_path_factory):
    import small_sam
    from avtools.models.masklets.detecting import Detector

    return Detector(small_sam.grounding_dino(tmp_path_factory.mktemp("dino")), torch.device("cpu"))


def plainly(torch, tracker, shape: Shape, prompts: list[tuple[int, object]], steps: list[int]) -> dict[int, np.ndarray]:
    """The same as transformers does it: all pictures and outputs held, one frame encoded at a time."""
    from transformers import Sam2VideoVideoProcessor
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    side = tracker.size[0]
    videos = Sam2VideoVideoProcessor(size={"height": side, "width": side})
    pixels = videos([torch.from_numpy(np.stack([picture(k) for k in range(shape.frames)])).permute(0, 3, 1, 2).float()], return_tensors="pt").pixel_values_videos[0]
    session = Sam2VideoInferenceSession(video=pixels, video_height=shape.height, video_width=shape.width, dtype=torch.float32)
    index, found, prompts = session.obj_id_to_idx(0), {}, dict(prompts)
    with torch.inference_mode():
        for number in steps:
            if number in prompts:
                given = prompts[number]
                if isinstance(given, np.ndarray):
                    whole = torch.nn.functional.interpolate(torch.from_numpy(given)[None, None].float(), tracker.size, mode="bilinear", align_corners=False, antialias=True)
                    session.add_mask_inputs(index, number, (whole >= 0.5).float())
                else:
                    corners = torch.tensor(given).reshape(1, 1, 2, 2) * torch.tensor([side / shape.width, side / shape.height])
                    session.add_point_inputs(index, number, {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)})
                session.obj_with_new_inputs = [0]
            logits = tracker.net(session, frame_idx=number).pred_masks
            found[number] = (torch.nn.functional.interpolate(logits, (shape.height, shape.width), mode="bilinear", align_corners=False)[0, 0] > 0).numpy()
    return found


def test_annotated_frames_prompt_sam2(torch, tracker):
    shape = Shape(14, *SIZE, Fraction(24))
    keys = {4 * k: pack(ball(4 * k)) for k in range(4)}
    shown = [picture(k) for k in range(14)]
    found, late = tracker.follow([Annotated(7, keys), Annotated(8, {**keys, 0: None, 12: None})], iter(shown), shape)
    assert found.number == 7 and all(found.masks[k] == mask for k, mask in keys.items()), "an annotated frame was changed"
    steps = [0, 4, 1, 2, 3, 8, 5, 6, 7, 12, 9, 10, 11, 13]
    expected = plainly(torch, tracker, shape, [(number, ball(number)) for number in keys], steps)
    between = [k for k in range(14) if k not in keys]
    assert any(expected[k].any() and not expected[k].all() for k in between), "this network sees nothing; it proves nothing"
    assert min(share(unpack(found.masks[k], *SIZE), expected[k]) for k in between if expected[k].any()) > 0.99
    assert late.masks[0] is late.masks[12] is None and late.masks[4] is not None
    assert tracker.follow([], iter(shown), shape) == []


def test_a_box_is_followed_and_nothing_old_is_held(torch, tracker):
    from avtools.models.masklets.tracking import _Track, _View

    shape = Shape(24, *SIZE, Fraction(24))
    view = _View(tracker, (picture(k % 14) for k in range(24)), shape)
    track = _Track(tracker, view, shape)
    with torch.inference_mode():
        masks = {}
        for number in range(24):
            view.need(number)
            masks[number] = track.step(number) if number else track.prompt(0, box=[5, 11, 18, 18])
            assert len(view.features) <= tracker.batch
            view.done(number)
    outputs = track.session.output_dict_per_obj[0]
    assert list(outputs["cond_frame_outputs"]) == [0] and len(outputs["non_cond_frame_outputs"]) <= 18
    assert not any("high_res_masks" in output for kind in outputs.values() for output in kind.values())
    short = shape._replace(frames=14)
    expected = plainly(torch, tracker, short, [(0, [5.0, 11.0, 23.0, 29.0])], list(range(14)))
    for number in range(14):
        assert (masks[number] == expected[number]).mean() > 0.995


def test_out_of_memory_halves_the_frames_at_once(torch, tracker, monkeypatch):
    from avtools.models.masklets.tracking import Tracker

    told, real, sizes = [], Tracker._encode, []

    def encode(self, some):
        sizes.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, some)

    monkeypatch.setattr(Tracker, "_encode", encode)
    monkeypatch.setattr(tracker, "batch", 4)
    monkeypatch.setattr(tracker, "say", told.append)
    with torch.inference_mode():
        assert len(tracker.encode([picture(0)] * 5)) == 5
    assert sizes == [4, 2, 1, 1, 1, 1, 1] and told == ["out of memory: 2 frames encoded at once from now on", "out of memory: 1 frame encoded at once from now on"]


def test_new_objects_are_looked_for(torch, tracker, monkeypatch):
    from avtools.models.masklets.detecting import Box
    from avtools.models.masklets.tracking import _Track

    asked = []

    class Finder:
        def find(self, shown, queries, threshold):
            asked.append((queries, threshold))
            boxes = [Box([5, 11, 18, 18], "a ball", 0.9)]
            return boxes + [Box([40, 30, 10, 10], "a dog", 0.8), Box([2, 2, 4, 4], "a car", 0.5)] * (len(asked) > 1)

    step = lambda self, number: np.pad(np.ones((18, 18), bool), ((11, 19), (5, 41))) if self.place else np.pad(np.ones((10, 10), bool), ((30, 8), (40, 14)))  # noqa: E731
    monkeypatch.setattr(_Track, "prompt", lambda self, number, box: setattr(self, "place", box[0] == 5) or (np.zeros(SIZE, bool) if box[0] == 2 else self.step(number)))
    monkeypatch.setattr(_Track, "step", step)
    shape = Shape(14, *SIZE, Fraction(24))
    found = tracker.search(Finder(), ["ball", "dog"], (picture(k) for k in range(14)), shape, every=5, threshold=0.4, most=3)
    assert asked == [(["ball", "dog"], 0.4)] * 3
    assert [(one.number, one.query) for one in found] == [(0, "a ball"), (1, "a dog")], "one was found twice, or one that SAM 2 does not see"
    assert [mask is not None for mask in found[1].masks] == [False] * 5 + [True] * 9


def test_boxes_answer_their_queries(torch, detector, monkeypatch):
    from types import SimpleNamespace

    def net(pixel_values, input_ids, **others):
        assert pixel_values.shape[1] == 3 and min(pixel_values.shape[2:]) == 800
        logits = torch.full((1, 4, 32), -20.0)
        logits[0, 0, 2] = 2.0  # the second token of "a dog", behind [CLS]
        logits[0, 1, 5] = 3.0  # "ball"
        logits[0, 2, 5] = 1.0  # the same box again, less sure
        logits[0, 3, 4] = -2.0  # not sure enough
        boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], [0.11, 0.1, 0.4, 0.4], [0.8, 0.8, 0.1, 0.1]]])
        return SimpleNamespace(logits=logits, pred_boxes=boxes)

    net.config = detector.net.config
    monkeypatch.setattr(detector, "net", net)
    found = detector.find(picture(0), ["A dog.", "red  ball"], 0.3)
    assert [one.query for one in found] == ["red  ball", "A dog."]
    assert found[1].box == pytest.approx([16, 12, 32, 24]) and found[0].box == pytest.approx([0, 0, 19.2, 14.4], abs=1e-4)


def test_grounding_dino_itself(torch, detector):
    found = detector.find(picture(0), ["a dog", "a red ball"], 0.0)
    assert found and all(0 < one.score < 1 and one.query in ("a dog", "a red ball") and one.box[2] >= 1 for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    with pytest.raises(RowError, match="tokens, and Grounding DINO takes 32"):
        detector.find(picture(0), ["a dog"] * 12, 0.3)


def test_weights_that_do_not_fit(torch, tracker, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import Sam2VideoModel

    from avtools.models.masklets.detecting import strictly

    folder = tmp_path / "sam2"
    tracker.net.save_pretrained(folder)
    assert strictly(Sam2VideoModel, folder) is not None
    tensors = load_file(folder / "model.safetensors")
    del tensors["no_memory_embedding"]
    save_file({**tensors, "odd": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FatalError, match="missing no_memory_embedding; unexpected odd"):
        strictly(Sam2VideoModel, folder)
    shutil.rmtree(folder)
    with pytest.raises(FatalError, match="is no folder"):
        strictly(Sam2VideoModel, folder)
