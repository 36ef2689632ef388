"""What the parity tests of all systems share: finding cases, filling weights, comparing every stored output."""

import importlib
import json
import os
import pathlib

import named_weights
import pytest
import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent


def roots(system: str) -> list[pathlib.Path]:
    """The folders that may hold cases of a system: the whole collection, where there is one, and those kept here."""
    golden = os.environ.get("AVTOOLS_GOLDEN")
    found = [HERE / "cases" / system, *([pathlib.Path(golden) / system] if golden else [])]
    return [folder for folder in found if folder.is_dir()]


def folders(system: str) -> list:
    """One pytest parameter for each folder of a case."""
    found = [folder for root in roots(system) for folder in sorted(root.iterdir()) if folder.is_dir()]
    return [pytest.param(folder, id=f"{'kept' if HERE in folder.parents else 'golden'}-{folder.name}") for folder in found]


def key_lists(system: str) -> list:
    """One pytest parameter for each list of full-size names and shapes, of the system or beside a case."""
    found = [file for root in roots(system) for pattern in ("full_keys*.json", "*/full_keys*.json") for file in sorted(root.glob(pattern))]
    return [pytest.param(file, id=f"{'' if file.parent.name == system else file.parent.name + '-'}{file.stem}") for file in found]


def kind_of(name: str, kinds: dict):
    """The function of the longest of `kinds` that `name` begins with; fails where there is none."""
    found = [kind for kind in kinds if name.startswith(kind)]
    if not found:
        pytest.fail(f"{name}: no test knows this kind of case")
    return kinds[max(found, key=len)]


def collected(system: str) -> tuple[dict, dict[str, list]]:
    """(kind of case -> its test, list of names -> its tests) of the modules `SYSTEM_*.py` in this folder, their KINDS and KEY_LISTS."""
    parts = [importlib.import_module(file.stem) for file in sorted(HERE.glob(f"{system}_*.py"))]
    lists: dict[str, list] = {}
    for part in parts:
        for name, function in getattr(part, "KEY_LISTS", {}).items():
            lists.setdefault(name, []).append(function)
    return {name: function for part in parts for name, function in part.KINDS.items()}, lists


def check(folder: pathlib.Path, kinds: dict, tmp_path: pathlib.Path) -> None:
    """Run a folder's test, and see that it compared every output."""
    case = Case(folder)
    kind_of(folder.name, kinds)(case, tmp_path)
    case.finish()


class Case:
    """A folder with case.json, keys.json, inputs and outputs; remembers what was compared."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        self.config, self.salt = self.facts["config"], self.facts["salt"]
        self.inputs = _tensors(folder / "inputs.safetensors")
        self.outputs = _tensors(folder / "outputs.safetensors")
        self.open = set(self.outputs)
        self.worst: dict[str, float] = {}  # output -> largest share of its tolerance

    @property
    def keys(self) -> dict[str, list[int]]:
        return named_weights.load_manifest(self.folder / "keys.json")

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The filled weights whose names begin with `prefix`, under their whole names."""
        filled = named_weights.fill(self.keys, self.salt)
        return {name: torch.from_numpy(array) for name, array in filled.items() if name.startswith(prefix)}

    def media(self, path: str) -> pathlib.Path:
        """A file that the case names, below $AVTOOLS_MEDIA or beside the collection; skips where it is not there."""
        golden = os.environ.get("AVTOOLS_GOLDEN")
        folder = os.environ.get("AVTOOLS_MEDIA") or (golden and pathlib.Path(golden).parent / "media")
        if not folder:
            pytest.skip("AVTOOLS_MEDIA is not set")
        return pathlib.Path(folder) / path

    def tolerance(self, name: str) -> tuple[float, float]:
        """(atol, rtol) of an output: of the longest beginning of its name, else the case's; whole numbers are exact."""
        tolerance = self.facts["tolerance"]
        per = tolerance.get("per_output") or self.facts.get("tolerance_per_output", {})
        found = [begin for begin in per if name.startswith(begin)]
        if found:
            tolerance = per[max(found, key=len)]
        elif not self.outputs[name].is_floating_point():
            return 0.0, 0.0
        return tolerance["atol"], tolerance["rtol"]

    def check(self, name: str, value) -> None:
        """Compare a value with the stored output of this name."""
        wanted, found = self.outputs[name], torch.as_tensor(value).detach()
        assert tuple(found.shape) == tuple(wanted.shape), f"{name}: {tuple(found.shape)}, not {tuple(wanted.shape)}"
        atol, rtol = self.tolerance(name)
        error = (found.double() - wanted.double()).abs()
        allowed = atol + rtol * wanted.double().abs()
        share = (error / allowed.clamp(min=1e-300)).max().item() if error.numel() else 0.0
        if not torch.isfinite(found.double()).all() or (error > allowed).any():
            pytest.fail(f"{name}: off by up to {error.max().item():.3g}, {share:.3g} times what is allowed (atol {atol:g}, rtol {rtol:g})")
        self.worst[name] = share
        self.open.discard(name)

    def check_map(self, name: str, value: torch.Tensor) -> None:
        """Compare a feature map, of which the case may keep the first channels only."""
        wanted = self.outputs[name]
        self.check(name, value[:, : wanted.shape[1]] if wanted.dim() > 2 and value.shape[1] > wanted.shape[1] == self.config["kept_channels"] else value)

    def finish(self) -> None:
        """Fail where a stored output was not compared."""
        assert not self.open, f"not compared: {', '.join(sorted(self.open))}"
        if os.environ.get("AVTOOLS_PARITY_REPORT"):
            name = max(self.worst, key=self.worst.get)
            print(f"\n{self.folder.name}: at most {self.worst[name]:.3g} of the tolerance ({name}), {len(self.worst)} outputs")


def _tensors(path: pathlib.Path) -> dict[str, torch.Tensor]:
    # views of the file's memory are not aligned, and kernels round differently for them
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


class Seen:
    """Outputs of modules, by name, as forward hooks see them; copies, because some are changed in place later."""

    def __init__(self, modules: dict[str, torch.nn.Module]):
        self.found: dict[str, torch.Tensor] = {}
        self.hooks = [module.register_forward_hook(self._hook(name)) for name, module in modules.items()]

    def _hook(self, name: str):
        def hook(module, inputs, output):
            self.found[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    def __enter__(self):
        return self.found

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
