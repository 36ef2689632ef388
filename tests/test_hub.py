"""Weights: which source, where it is, tensors and nothing else out of a file, strict loading, whole files."""

import hashlib
import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import pytest
from fake_hub import COMMIT, FakeHub, fill_cache

torch = pytest.importorskip("torch")

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402

PART = hub.Part("clip", "CLIP's vision tower", "hf:someone/clip", ("config.json", "*.safetensors"), 1_700_000_000, "MIT")
LAYOUTS = {"zip": {}, "sequence": {"_use_new_zipfile_serialization": False}, "zip-protocol4": {"pickle_protocol": 4}}


def fails(match: str, function, *arguments, **options) -> str:
    """Assert that the call ends in one clear line that `match` is found in."""
    with pytest.raises(FatalError, match=match) as failed:
        function(*arguments, **options)
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.fixture(params=LAYOUTS)
def save(request, tmp_path):
    """Saves an object in one of torch's layouts; the path."""

    def save(value, name="x.ckpt"):
        torch.save(value, tmp_path / name, **LAYOUTS[request.param])
        return tmp_path / name

    return save


def test_importing_it_is_cheap():
    code = "import sys, avtools.hub, avtools.system; print({'torch', 'huggingface_hub', 'safetensors', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# --- which ------------------------------------------------------------------------------------------------


def test_weights_of_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("step=3,loss=0.1.ckpt").touch()
    weights = hub.Weights.parse(["step=3,loss=0.1.ckpt", "clip=hf:someone/clip@v1", "vae=a=b.bin"])
    assert weights.get("") == weights.get("main") == "step=3,loss=0.1.ckpt"
    assert weights.get("clip") == "hf:someone/clip@v1" and weights.get("vae") == "a=b.bin" and weights.get("other") is None
    assert hub.Weights.parse(["/runs/Lr=3/x.ckpt"]).get("") == "/runs/Lr=3/x.ckpt"  # no part is called so
    assert hub.Weights.parse(["main=x.ckpt"]).get("") == "x.ckpt"
    assert hub.Weights.parse(["clip=~/clip"]).get("clip") == os.path.expanduser("~/clip")
    assert pickle.loads(pickle.dumps(weights)) == weights
    weights.check(["", "clip", "vae"])
    with pytest.raises(UsageError, match="did you mean 'clap'.*parts: main, clap, vae"):
        weights.check(["", "clap", "vae"])


@pytest.mark.parametrize("given", [["a", "b"], ["a", "main=b"], ["clip=a", "clip=b"], [""], ["clip="], ["hf:clip"], ["hf:a/b/c"], ["clip=hf:a/b@"]])
def test_weights_given_wrongly(given):
    with pytest.raises(UsageError, match="twice|names no source|no source on the hub"):
        hub.Weights.parse(given)


# --- where ------------------------------------------------------------------------------------------------


def locate(source, cache, patterns=PART.files, **env):
    """`locate` in a process of its own (the client reads its settings when imported): (status, what it says)."""
    code = f"""
import dataclasses, sys
from avtools import hub
from avtools.errors import FatalError
part = dataclasses.replace(hub.{PART!r}, files={tuple(patterns)!r})
try:
    print(hub.locate({source!r}, part, "toy"))
except FatalError as error:
    sys.exit(str(error))
"""
    settings = {"HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", **env}
    unset = {"HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**{name: value for name, value in os.environ.items() if name not in unset}, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = (done.stdout + done.stderr).strip()
    assert "\n" not in said, said
    return done.returncode, said


def test_local_source_is_taken_as_given(tmp_path):
    assert hub.locate(str(tmp_path), PART) == tmp_path
    said = fails("no such file or folder", hub.locate, str(tmp_path / "x"), PART)
    assert str(tmp_path / "x") in said and "CLIP's vision tower" in said and "--weights clip=" in said


def test_cache_without_network(tmp_path):
    cache = tmp_path / "hub"
    snapshot = fill_cache(cache, "someone/clip", {"config.json": b"{}", "model.safetensors": b"x"})
    for source in (None, "hf:someone/clip", "hf:someone/clip@main", f"hf:someone/clip@{COMMIT}"):
        assert locate(source, cache, HF_HUB_OFFLINE="1") == (0, str(snapshot))
    assert locate(None, cache) == (0, str(snapshot))
    status, said = locate("hf:someone/clip", cache, ["config.json", "vae/*.bin"], HF_HUB_OFFLINE="1")
    assert status == 1 and str(snapshot) in said and said.count("vae/*.bin") == 1 and "lacks vae/*.bin" in said


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["online", "offline"])
def test_what_is_not_in_the_cache_is_described(tmp_path, env):
    status, said = locate(None, tmp_path / "hub", **env)
    assert status == 1
    for fact in ("CLIP's vision tower", "'clip'", "someone/clip", str(tmp_path / "hub"), "1.7 GB", "MIT", "avtools fetch toy", "--weights clip="):
        assert fact in said, said
    assert ("HF_HUB_OFFLINE" in said) == bool(env)


def test_hub_that_cannot_be_reached(tmp_path):
    status, said = locate("hf:someone/clip", tmp_path / "hub", HF_TOKEN="hf_secretsecretsecret")
    assert status == 1 and "cannot be reached" in said and "1.7 GB" in said and "secret" not in said
    proxy = {"HTTP_PROXY": "http://me:secret@127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    status, said = locate("hf:someone/clip", tmp_path / "hub", HF_ENDPOINT="http://hub.invalid", **proxy)
    assert status == 1 and "someone/clip" in said and "secret" not in said


def test_downloads(tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"not wanted", "README.md": b"not wanted"}
    server = FakeHub({"someone/clip": files, "me/mine": {"model.safetensors": b"mine", "config.json": b"{}", "junk.bin": b""}})
    try:
        cache, reach = tmp_path / "hub", {"HF_ENDPOINT": server.url}
        status, folder = locate("hf:someone/clip", cache, **reach)
        assert status == 0, folder
        assert {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()} == {name: files[name] for name in list(files)[:2]}
        assert not [request for request in server.requests if "README" in request or "pytorch_model" in request]
        assert locate("hf:someone/clip@v1", cache, **reach) == (0, folder)
        assert locate("hf:someone/clip", cache) == (0, folder), "the hub is gone, the cache remains"
        # somebody's own checkpoint for this part
        status, folder = locate("hf:me/mine", cache, ["pytorch_model.bin"], **reach)
        assert status == 0 and sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
        for source, word in [("hf:no/body", "no such repository"), ("hf:gated/x", "gated"), ("hf:someone/clip@v9", "no such revision")]:
            status, said = locate(source, cache, HF_TOKEN="hf_secretsecretsecret", **reach)
            assert status == 1 and word in said and source[3:] in said and "secret" not in said
        assert any("secret" in str(headers) for headers in server.headers), "the token goes to the hub, and nowhere else"
        assert "lacks *.pth" in locate("hf:someone/clip", cache, ["config.json", "*.pth"], **reach)[1]
    finally:
        server.close()


# --- reading ----------------------------------------------------------------------------------------------


def some_tensors():
    base = torch.arange(12.0).reshape(3, 4)
    shared = torch.randn(5, generator=torch.Generator().manual_seed(0))
    return {
        "plain": base,
        "transposed": base.t(),
        "row": base[1, 1:],
        "expanded": torch.ones(3).expand(2, 3),
        "scalar": torch.tensor(0.5),
        "empty": torch.empty(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "long": torch.tensor([1 << 40, -1]),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
        "parameter": torch.nn.Parameter(shared),
        "tied": torch.nn.Parameter(shared),
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
        assert not found[name].requires_grad


def test_tensors_of_every_layout(save):
    expected = some_tensors()
    path = save(expected)
    found = hub.tensors(path)
    same(found, expected)
    assert found["tied"].data_ptr() == found["parameter"].data_ptr()
    before = path.read_bytes()
    found["plain"].zero_()
    assert path.read_bytes() == before, "what is done to a tensor stays in this process"


def test_zip_is_memory_mapped(tmp_path):
    torch.save({"big": torch.zeros(1 << 24)}, tmp_path / "x.pt")
    code = f"""
import resource, torch
from avtools import hub
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensor = hub.tensors({str(tmp_path / "x.pt")!r})["big"]
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB; the file has 64 MiB
assert len(tensor) == 1 << 24 and not tensor[::4096].any()
"""
    subprocess.run([sys.executable, "-c", "import avtools.pickles, torch\n" + code], check=True, timeout=60)


def test_later_dtypes(tmp_path):
    torch.save({"a": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.tensor([7, 9]).to(torch.uint16)}, tmp_path / "x.pt")
    found = hub.tensors(tmp_path / "x.pt")
    assert found["a"].dtype == torch.float8_e4m3fn and found["a"].float().tolist() == [1, 1, 1]
    assert found["b"].dtype == torch.uint16 and found["b"].tolist() == [7, 9]


LIGHTNING = """
import argparse, collections, datetime, enum, pathlib, sys, types
import numpy, torch

module = types.ModuleType("gone_library")
exec('''
import collections, enum
class Config(dict):
    def __init__(self, *args): raise SystemExit("constructed")
    def __setstate__(self, state): raise SystemExit("set")
class Slotted:
    __slots__ = ("a",)
class Callback:
    def on_save(self): pass
class Level(enum.Enum):
    HIGH = 3
Point = collections.namedtuple("Point", "x y")
def schedule(step): return 1.0
''', module.__dict__)
for value in vars(module).values():
    if hasattr(value, "__module__"):
        value.__module__ = "gone_library"
sys.modules["gone_library"] = module
config = dict.__new__(module.Config); config["nested"] = [1, {"a": config}]; config.flag = True
slotted = module.Slotted(); slotted.a = 3
linear = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(linear.parameters()); linear(torch.ones(2)).sum().backward(); optimizer.step()
state = collections.OrderedDict(weight=torch.arange(4.0), scale_factor=torch.tensor(0.25))
state["first_stage_model.bias"] = torch.nn.Parameter(torch.ones(2))
state._metadata = collections.OrderedDict({"": {"version": 1}})
torch.save({
    "epoch": 3, "global_step": 1 << 40, "pytorch-lightning_version": "1.9.0", "scale_factor": 0.18215, "betas": (0.9, 0.999),
    "state_dict": state, "callbacks": {module.Callback: {"best": torch.tensor(1.5), "path": pathlib.PurePosixPath("/x")}, "b": module.Callback()},
    "hyper_parameters": config, "hparams": argparse.Namespace(lr=1), "args": slotted, "function": module.schedule, "level": module.Level.HIGH,
    "numpy": numpy.float64(0.5), "array": numpy.ones(3), "point": module.Point(1, 2), "mixed": [1, module.schedule], "raw": b"bytes",
    "loops": {"n": 2, "who": module.Callback()}, "optimizer_states": [optimizer.state_dict()], "set": {1, 2}, "when": datetime.timedelta(1),
    "counter": collections.Counter("aab"), "default": collections.defaultdict(list, a=[1]), "dtype": torch.float16, "device": torch.device("cuda"),
    "size": torch.Size([2, 3]), "names": ["a", "b"], "nothing": None, "ema": {"inner": {"weight": torch.zeros(4)}},
}, sys.argv[1], **eval(sys.argv[2]))
"""


@pytest.fixture(params=LAYOUTS)
def lightning(request, tmp_path):
    path = tmp_path / "epoch=3.ckpt"
    subprocess.run([sys.executable, "-c", LIGHTNING, path, repr(LAYOUTS[request.param])], check=True, timeout=60)
    return path


def test_nothing_foreign_is_constructed_or_imported(lightning):
    code = f"""
import sys
import torch
from avtools import hub, pickles
torch.UntypedStorage  # what reading imports by itself is there already
before = set(sys.modules) | {{"avtools.pickles"}}
found = hub.tensors({str(lightning)!r}, inner="state_dict")
values = hub.values({str(lightning)!r})
print(repr(({{name: tensor.tolist() for name, tensor in found.items()}}, values, sorted(set(sys.modules) - before))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, values, imported = eval(done.stdout)
    assert found == {"weight": [0, 1, 2, 3], "scale_factor": 0.25, "first_stage_model.bias": [1, 1]}
    assert imported == []
    optimizer = values.pop("optimizer_states", None)
    assert optimizer is None or optimizer[0]["param_groups"][0]["lr"] == 1e-3
    assert values == {
        "epoch": 3, "global_step": 1 << 40, "pytorch-lightning_version": "1.9.0", "scale_factor": 0.18215, "betas": [0.9, 0.999],
        "state_dict": {"scale_factor": 0.25}, "loops": {"n": 2}, "size": [2, 3], "names": ["a", "b"], "nothing": None,
    }  # fmt: skip


def test_inner_mappings(lightning):
    assert hub.tensors(lightning, inner="ema")["inner.weight"].tolist() == [0] * 4
    everything = hub.tensors(lightning, inner="")
    assert {"state_dict.weight", "state_dict.first_stage_model.bias", "ema.inner.weight"} < set(everything)
    fails(r"no tensors at its top level \(it has: epoch", hub.tensors, lightning)
    fails("has no 'model'.*state_dict", hub.tensors, lightning, inner="model")


class Evil:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def evils(mark):
    touch = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w')"
    yield "system", Evil(os.system, (touch,))
    yield "popen", Evil(subprocess.Popen, (["touch", str(mark)],))
    yield "eval", Evil(eval, (code,))
    yield "exec", Evil(exec, (code,))
    yield "getattr", Evil(getattr, ("", "join"))
    yield "torch-load", Evil(torch.load, (str(mark),))
    yield "torch-storage-load", Evil(torch.storage._load_from_bytes, (pickle.dumps(Evil(os.system, (touch,))),))
    yield "torch-hub", Evil(torch.hub.download_url_to_file, ("http://127.0.0.1:9/x", str(mark)))
    yield "torch-file", Evil(torch.from_file, (str(mark), True, 16))
    yield "state", Evil(torch.nn.Module, (), {"x": Evil(os.system, (touch,))})
    yield "items", Evil(list, (), None, iter([Evil(os.system, (touch,))]))


@pytest.mark.parametrize("which", [name for name, _ in evils("x")])
def test_evil_pickles_do_nothing(which, save, tmp_path):
    mark = tmp_path / "was-here"
    evil = dict(evils(mark))[which]
    path = save({"weight": torch.ones(2), "evil": evil, "state_dict": {"deep": [evil]}})
    if which == "system":  # the file is what it pretends to be
        torch.load(path, weights_only=False)
        assert mark.exists()
        mark.unlink()
    assert hub.tensors(path)["weight"].tolist() == [1, 1]
    hub.values(path)
    assert not mark.exists()


def handmade(tmp_path, program: bytes) -> pathlib.Path:
    """A checkpoint whose pickle is `program`."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", b"\0" * 16)
    return tmp_path / "x.pt"


def tensor_program(offset: int, size: int, stride: int, count: int = 4) -> bytes:
    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(count) + b"tQ"
    rest = number(offset) + number(size) + b"\x85" + number(stride) + b"\x85" + b"\x89}"
    return b"\x80\x02}(U\x01actorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tRu."


def test_tensors_stay_within_their_file(tmp_path):
    assert hub.tensors(handmade(tmp_path, tensor_program(0, 4, 1)))["a"].tolist() == [0] * 4
    beyond = [(0, 5, 1), (1, 4, 1), (0, 2, 4), (-1, 2, 1), (0, 2, -1), (0, -2, 1)]
    for numbers in [*beyond, (0, 1 << 60, 1), (1 << 61, 2, 1), (0, 2, 1 << 61), (0, 4, 1, -4)]:
        fails("damaged at 'a'", hub.tensors, handmade(tmp_path, tensor_program(*numbers)))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}c__main__\nFoo\nb.",  # state of a class
        b"\x80\x02}ctorch._utils\n_rebuild_tensor_v2\n}U\x08functionK\x01sb0.",  # of a function
        b"\x80\x02}q\x00(U\x01ah\x00u.",  # a mapping that holds itself
        b"\x80\x02]q\x00h\x00a}(U\x01lh\x00u.",
        b"\x80\x02" + b"(" * 100000 + b"l" * 100000 + b".",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02}r\xff\xff\xff\xff.",  # 64 GiB for a table of two entries
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02}ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02\x82\x01.",
        b"",
        b"\x80\x02N.",
    ],
)
def test_broken_pickles_are_refused(tmp_path, program):
    path = handmade(tmp_path, program)
    for inner in (None, ""):
        fails(re.escape(str(path)), hub.tensors, path, inner=inner)
    try:
        hub.values(path)
    except FatalError:
        pass


def test_self_containing_mapping_still_gives_its_tensors(tmp_path):
    value = {"a": torch.ones(1), "n": 1, "list": []}
    value["self"] = value
    value["list"].append(value["list"])
    torch.save(value, tmp_path / "x.pt")
    assert hub.tensors(tmp_path / "x.pt", inner="").keys() == {"a"}
    assert hub.values(tmp_path / "x.pt") == {"n": 1}


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.999])
def test_truncated(save, share):
    path = save({f"layer{i}": torch.randn(300) for i in range(30)})
    whole = path.read_bytes()
    path.write_bytes(whole[: max(3, int(len(whole) * share))])
    said = fails("cut short|damaged|neither", hub.tensors, path)
    assert str(path) in said and ("anew" in said or "neither" in said)


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    hub.save_tensors(path, {"a": torch.randn(300)}, {"step": "7"})
    assert hub.values(path) == {"step": "7"}
    whole = path.read_bytes()
    for length in (1, 7, 8, 20, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        said = fails("cut short or damaged|text, not", hub.tensors, path)
        assert str(path) in said
    fails("damaged", hub.values, path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3534841336\n", "git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "web page"),
        (b"\n  <html>", "web page"),
        (b"Not Found\n", "text, not weights"),
        (b'{"error": "Invalid username or password."}', "text, not weights"),
        (b"", "empty"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0\0", "neither"),
        (pickle.dumps({"a": 1}), "torch.save did not write"),
    ],
)
@pytest.mark.parametrize("name", ["model.bin", "model.safetensors"])
def test_other_files(tmp_path, content, what, name):
    path = tmp_path / name
    path.write_bytes(content)
    if name.endswith("safetensors") and not re.search("pointer|page|text|empty", what):
        what = "damaged"
    assert str(path) in fails(what, hub.tensors, path)


def test_other_paths(tmp_path):
    fails("No such file", hub.tensors, tmp_path / "x.bin")
    fails("a folder", hub.tensors, tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("model.bin", b"x")
    fails("holds no checkpoint", hub.tensors, tmp_path / "x.zip")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    fails("TorchScript", hub.tensors, tmp_path / "script.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    fails("torch.nn.modules.linear.Linear.*state_dict", hub.tensors, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    fails("compressed afterwards", hub.tensors, tmp_path / "packed.pt")


# --- loading and saving -----------------------------------------------------------------------------------


def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_loads_what_fits():
    source, target = network(), network().to(torch.float64)
    hub.load_strict(target, {name: t.half() if t.is_floating_point() else t for name, t in source.state_dict().items()}, "x")
    assert target[0].weight.dtype == torch.float64
    assert torch.equal(target[0].weight, source[0].weight.half().double())


def test_loads_into_meta_modules(tmp_path):
    source = network()
    hub.save_tensors(tmp_path / "x.safetensors", source.state_dict())
    with torch.device("meta"):
        target = network()
    hub.load_strict(target, hub.tensors(tmp_path / "x.safetensors"), "x")
    assert isinstance(target[0].weight, torch.nn.Parameter) and target[0].weight.requires_grad
    inputs = torch.randn(5, 3)
    assert torch.equal(target(inputs), source(inputs))


def test_refuses_what_does_not_fit():
    state = network().state_dict()
    wrong = {f"module.{name}": tensor for name, tensor in state.items() if name != "0.bias"}
    wrong |= {"0.weight": torch.zeros(4, 2), "0.bias": state["0.bias"]}
    before = network()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    said = fails("model.bin: does not fit Sequential", hub.load_strict, before, wrong, "model.bin")
    assert "5 missing: 1.weight, " in said and "6 unexpected: module.0.weight, " in said and "0.weight (4, 2), not (4, 3)" in said
    same(before.state_dict(), kept)
    many = fails("100 unexpected", hub.load_strict, network(), {**state, **{f"extra{i}": torch.zeros(1) for i in range(100)}}, "x")
    assert "extra7, ..." in many and "extra8" not in many


def test_ignored_names_may_be_missing_or_extra():
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    state["text.position_ids"] = torch.zeros(1)
    fails("1 missing: 1.num_batches_tracked; 1 unexpected: text.position_ids", hub.load_strict, network(), state, "x")
    hub.load_strict(network(), state, "x", ignore=(r"num_batches_tracked$", r"position_ids"))
    state["0.bias"] = torch.zeros(9)
    fails("1 of another shape", hub.load_strict, network(), state, "x", ignore=(r".*",))


def test_saves_and_reads_again(tmp_path):
    expected = some_tensors()
    hub.save_tensors(tmp_path / "x.safetensors", expected)
    same(hub.tensors(tmp_path / "x.safetensors"), expected)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_disk_full(tmp_path, monkeypatch):
    """As a full disk is: what was there is untouched and nothing else remains."""
    import safetensors.torch

    path = tmp_path / "x.safetensors"
    hub.save_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def full(tensors, temporary, metadata):
        pathlib.Path(temporary).write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    said = fails("the disk is full", hub.save_tensors, path, {"a": torch.zeros(9)})
    assert "stays valid" in said and path.read_bytes() == before and os.listdir(tmp_path) == ["x.safetensors"]


def test_really_limited_file_size(tmp_path):
    code = f"""
import resource, signal, torch
from avtools import hub
from avtools.errors import FatalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    hub.save_tensors({str(tmp_path / "x.safetensors")!r}, {{"a": torch.zeros(1 << 20)}})
except FatalError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "File too large" in done.stdout and os.listdir(tmp_path) == []


def test_killed_while_saving(tmp_path):
    """What a killed process leaves is removed by the next that writes the same file."""
    code = f"""
import os, signal, torch
import safetensors.torch
from avtools import hub
def killed(tensors, temporary, metadata):
    open(temporary, "w").write("half")
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = killed
hub.save_tensors({str(tmp_path / "x.safetensors")!r}, {{"a": torch.zeros(2)}})
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.endswith(".tmp")
    hub.save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    assert os.listdir(tmp_path) == ["x.safetensors"]


# --- identity and our own checkpoints -----------------------------------------------------------------------


def test_digest(tmp_path):
    folder = tmp_path / "a"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "vae" / "model.bin").write_bytes(b"weights")
    assert hub.digest(folder / "vae" / "model.bin") == hashlib.sha256(b"weights").hexdigest()[:16]
    first = hub.digest(folder)
    assert re.fullmatch("[0-9a-f]{16}", first)
    (folder / "README.md").write_text("x")
    (folder / "vae" / "model.bin.tmp").write_text("x")
    assert hub.digest(folder) == first
    os.rename(folder, tmp_path / "b")
    assert hub.digest(tmp_path / "b") == first, "the same wherever it lies"
    assert hub.digest(fill_cache(tmp_path / "hub", "a/b", {"config.json": b"{}", "vae/model.bin": b"weights"})) == first
    os.rename(tmp_path / "b" / "vae" / "model.bin", tmp_path / "b" / "vae" / "other.bin")
    assert hub.digest(tmp_path / "b") != first
    (tmp_path / "b" / "vae" / "other.bin").write_bytes(b"Weights")
    assert hub.digest(tmp_path / "b" / "vae" / "other.bin") == hashlib.sha256(b"Weights").hexdigest()[:16]
    fails("No such file", hub.digest, tmp_path / "x")


def checkpoint(folder, weights="model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"system": "toy", "avtools": "1", "config": {"width": 3}}))
    (folder / weights).touch()
    return folder


def test_checkpoint_of_a_run(tmp_path):
    run = tmp_path / "run"
    fails("no such folder", hub.checkpoint_of, run)
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    fails("has no checkpoint yet", hub.checkpoint_of, run)
    third = checkpoint(run / "checkpoints" / "step-00000003")
    tenth = checkpoint(run / "checkpoints" / "step-00000010", "ema.safetensors")
    (run / "checkpoints" / "step-00000020").mkdir()
    checkpoint(run / "checkpoints" / ".step-00000030.tmp")
    assert hub.checkpoint_of(run) == tenth and hub.checkpoint_of(third) == third
    (run / "best.json").write_text('{"step": 3}')
    assert hub.checkpoint_of(run) == third
    for content, word in (('{"step": 4}', "is not there"), ("{", "cannot be read")):
        (run / "best.json").write_text(content)
        assert word in fails("best.json", hub.checkpoint_of, run)
    fails("neither a checkpoint", hub.checkpoint_of, tmp_path)


def test_config_of(tmp_path):
    folder = checkpoint(tmp_path / "a")
    assert hub.config_of(folder)["config"] == {"width": 3}
    for content in ("", "[]", '{"system": "toy"}', '{"config": {}}', "\xff"):
        (folder / "config.json").write_bytes(content.encode("latin1"))
        assert str(folder / "config.json") in fails("broken|not the configuration", hub.config_of, folder)
    fails("No such file", hub.config_of, tmp_path / "b")


def test_digests_of_large_files_are_kept_for_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "LARGE", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read = []
    whole = hub._hashed
    monkeypatch.setattr(hub, "_hashed", lambda path: read.append(path) or whole(path))
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(b"a" * 999)
    large.write_bytes(b"a" * 1000)

    def another_process(path):
        hub._digest.cache_clear()
        return hub.digest(path)

    assert another_process(large) == another_process(large) == hashlib.sha256(b"a" * 1000).hexdigest()[:16] and len(read) == 1
    assert another_process(small) == another_process(small) and len(read) == 3
    (kept,) = (tmp_path / "cache/avtools/digests").iterdir()
    kept.write_text("cut")  # by a full disk, say
    assert another_process(large) == another_process(large) == hashlib.sha256(b"a" * 1000).hexdigest()[:16] and len(read) == 4
    times = large.stat()
    large.write_bytes(b"b" * 1000)
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
    assert another_process(large) == hashlib.sha256(b"b" * 1000).hexdigest()[:16] and len(read) == 5
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made there
    assert another_process(large) == another_process(large) and len(read) == 7
