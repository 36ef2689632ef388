"""I3D's logits: the network against another formulation, its released layout, and what its extractor sees of a clip."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from safetensors.torch import save_file

torch = pytest.importorskip("torch")

from fixtures import even, make  # noqa: E402
from torch.nn import functional  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import i3d400  # noqa: E402
from avtools.models.judges.javis_nets import I3dLogits  # noqa: E402


def filled(seed=0) -> dict[str, torch.Tensor]:
    """Weights under the released names, which keep the sizes of what they are given."""
    with torch.device("meta"):
        net = i3d400.I3d()
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var") or name.endswith("bn.weight"):
            made[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif name.endswith("conv3d.weight"):
            made[name] = torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        else:
            made[name] = torch.randn(tensor.shape, generator=generator) * 0.2
    return made


@pytest.fixture(scope="module")
def weights():
    return filled()


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(weights, path)
    return path


# --- the network ------------------------------------------------------------------------------------------------------


def around(x, kernel, stride):
    """Zeros so that there are ceil(size / stride) windows, as TensorFlow tells of "SAME"."""
    sizes = []
    for size, window, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + window - size, 0)
        sizes.append((total // 2, total - total // 2))
    return functional.pad(x, [side for pair in reversed(sizes) for side in pair])


def by_table(weights, x):
    """The network written down as a list of its layers, from the weights alone; batch norm is worked into the convolutions."""

    def conv(x, name, stride=1):
        kernel = weights[f"{name}.conv3d.weight"]
        gain = weights[f"{name}.bn.weight"] / (weights[f"{name}.bn.running_var"] + 1e-3).sqrt()
        shift = weights[f"{name}.bn.bias"] - weights[f"{name}.bn.running_mean"] * gain
        folded = kernel * gain.view(-1, 1, 1, 1, 1)
        return functional.conv3d(around(x, kernel.shape[2:], (stride,) * 3), folded, shift, stride).clamp(min=0)

    def pool(x, kernel, stride):
        """Of padded windows in every place, by comparing shifted copies."""
        x = around(x, kernel, stride)
        parts = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).unfold(4, kernel[2], stride[2])
        return parts.amax((-3, -2, -1))

    def mixed(x, name):
        b3 = conv(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([conv(x, f"{name}.b0"), conv(conv(x, f"{name}.b1a"), f"{name}.b1b"), conv(conv(x, f"{name}.b2a"), f"{name}.b2b"), b3], 1)

    x = conv(x, "Conv3d_1a_7x7", 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = conv(conv(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = mixed(mixed(x, "Mixed_3b"), "Mixed_3c")
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = mixed(mixed(x, "Mixed_5b"), "Mixed_5c")
    assert x.shape[-2:] == (7, 7)
    steps = torch.stack([x[:, :, k : k + 2].mean((2, 3, 4)) for k in range(x.shape[2] - 1)], 1)
    logits = steps @ weights["logits.conv3d.weight"][:, :, 0, 0, 0].T + weights["logits.conv3d.bias"]
    return logits.mean(1)


@pytest.mark.parametrize("frames", [9, 18])
def test_the_network_is_what_a_list_of_its_layers_gives(weights, file, frames):
    clips = torch.rand(1, 3, frames, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found, expected = i3d400.load(file)(clips), by_table(weights, clips)
    assert found.shape == (1, 400) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "front", "behind"),
    [(224, 7, 2, 2, 3), (9, 7, 2, 3, 3), (112, 3, 2, 0, 1), (7, 3, 1, 1, 1), (14, 2, 2, 0, 0), (3, 2, 2, 0, 1)],
)
def test_windows_are_placed_as_tensorflow_does(size, kernel, stride, front, behind):
    x = torch.ones(1, 1, size, 1, 1)
    found = i3d400.same(x, (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    assert found.tolist() == [0] * front + [1] * size + [0] * behind


def test_the_released_layout(weights):
    assert len(weights) == 344 - 57 and sum(tensor.numel() for name, tensor in weights.items() if "running" not in name) == 12_697_264
    blocks = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
    assert {name.split(".")[0] for name in weights} == {"Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *blocks, "logits"}
    shapes = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Conv3d_2c_3x3.bn.running_var": (192,),
        "Mixed_3b.b1b.conv3d.weight": (128, 96, 3, 3, 3),
        "Mixed_4e.b2a.conv3d.weight": (32, 512, 1, 1, 1),
        "Mixed_5c.b3b.bn.weight": (128,),
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    assert {name: tuple(weights[name].shape) for name in shapes} == shapes


def test_files_with_counts_of_training_and_safetensors_load_alike_and_others_do_not(weights, file, tmp_path):
    save_file({**weights, "Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(3)}, tmp_path / "i3d.safetensors")
    one, other = i3d400.load(file), i3d400.load(tmp_path / "i3d.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    save_file({name: tensor for name, tensor in weights.items() if not name.startswith("Mixed_5c.b0.")}, tmp_path / "cut.safetensors")
    with pytest.raises(FatalError, match="cut.safetensors: does not fit I3d; 5 missing: Mixed_5c.b0.conv3d.weight"):
        i3d400.load(tmp_path / "cut.safetensors")
    charades = {**weights, "logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(157)}
    save_file(charades, tmp_path / "charades.safetensors")
    with pytest.raises(FatalError, match=r"logits.conv3d.weight \(157, 1024, 1, 1, 1\), not \(400, 1024, 1, 1, 1\)"):
        i3d400.load(tmp_path / "charades.safetensors")


# --- the extractor ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    wide, short = folder / "wide.mp4", folder / "short.mp4"
    make(wide, even(30), size=(128, 64), noise=True)
    make(short, even(5, 10), size=(64, 64), noise=True)
    return [{"path": str(path)} for path in (wide, short)]


def pair(row) -> Pair:
    return Pair(row, {})


def test_frames_evenly_spaced_over_the_whole_clip_amid_black(clips):
    extractor = I3dLogits()
    seen = extractor.prepare(pair(clips[0]), "video")["pictures"]
    assert seen.shape == (24, 224, 224, 3) and seen.dtype == np.uint8
    assert not seen[:, :56].any() and not seen[:, 168:].any() and seen[:, 56:168].mean() > 30  # twice as wide as high
    all_of_them = pair(clips[0]).seen("video", extractor.pictures.__class__(size=(224, 224), fit="pad", resize="bilinear")).pictures
    assert len(all_of_them) == 30
    for k, number in enumerate(np.linspace(0, 29, 24).astype(int)):
        assert (seen[k] == all_of_them[number]).all()
    short = extractor.prepare(pair(clips[1]), "video")["pictures"]
    assert len(short) == 24 and (short[0] == short[1]).all() and (short[0] != short[-1]).any()


def test_features_do_not_depend_on_the_batch_and_an_extractor_pickles(clips, file):
    extractor = pickle.loads(pickle.dumps(I3dLogits(frames=9)))
    items = [extractor.prepare(pair(row), "video") for row in (*clips, clips[0])]
    extractor.load("cpu", hub.Weights({"i3d-400": str(file)}))
    found = extractor.run(items)
    assert [one["embedding"].shape for one in found] == [(1, 400)] * 3
    np.testing.assert_allclose(found[0]["embedding"], found[2]["embedding"], rtol=1e-4, atol=1e-4)
    assert np.abs(found[0]["embedding"] - found[1]["embedding"]).max() > 0.01
    np.testing.assert_allclose(extractor.run(items[1:2])[0]["embedding"], found[1]["embedding"], rtol=1e-4, atol=1e-4)
    clip = torch.from_numpy(items[0]["pictures"]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_allclose(found[0]["embedding"], i3d400.load(file)(clip).numpy(), rtol=1e-4, atol=1e-4)
    assert extractor.weights_digest(hub.Weights({"": str(file)})) == hub.digest(file)


def test_the_two_ranges():
    levels = torch.arange(256, dtype=torch.uint8)
    standard, benchmark = (I3dLogits(range=name).ranged(levels) for name in ("standard", "javisbench"))
    assert (standard[0], standard[255]) == (-1, 1)
    # from [0, 1] into whole numbers 127 to 255, of which the network sees about 0 to 1
    whole = (benchmark + 1) * 127.5
    torch.testing.assert_close(whole, whole.round())
    exact = [int((Fraction(k, 255) + 1) / 2 * 255) for k in range(256)]
    assert [round(float(one)) for one in whole] == exact and (exact[0], exact[255]) == (127, 255)
    assert len(set(exact)) == 129


@pytest.mark.parametrize(("settings", "why"), [({"frames": 8}, "9 to 1000"), ({"range": "0..1"}, "one of standard, javisbench")])
def test_settings_that_cannot_be(settings, why):
    with pytest.raises(UsageError, match=why):
        I3dLogits(**settings)
