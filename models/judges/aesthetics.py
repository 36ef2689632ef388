"""Audiobox Aesthetics: how enjoyable, useful, complex and well produced a sound is, as people would rate it from 1 to 10.

The network is that of the package audiobox-aesthetics (a WavLM encoder with four heads), given tensors that we read and check;
none of its own reading, resampling or downloading is used.
"""

import json
import pathlib
import warnings

from avtools import hub
from avtools.errors import FatalError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures

RATE, WINDOW, LEAST = 16000, 160000, 400  # Hz; samples of a window, and of the shortest one that WavLM hears
AXES = ("CE", "CU", "PC", "PQ")
AT_ONCE = 8  # windows
FILES = ("model.safetensors", "checkpoint.pt")  # in a folder
PART = hub.Part(
    "audiobox-aesthetics",
    "Audiobox Aesthetics (config.json and model.safetensors, or checkpoint.pt)",
    "hf:facebook/audiobox-aesthetics",
    ("config.json", "model.safetensors"),
    416_000_000,
    "CC-BY-4.0",
    optional=True,
)


class Audiobox(Extractor):
    """The scores of windows of 10 s, one after another, as published: the last is filled up with silence that is masked.

    A last window that is too short for WavLM (25 ms) is left out.  `seconds`: of the sound that are heard; 0: all.  Single precision
    (the package's own program rounds to bfloat16 by default).
    """

    name = "audiobox-aesthetics"
    medium = "sound"
    settings = {"seconds": 0.0}
    parts = (PART,)
    requires = (("torch", "torch"), ("audiobox_aesthetics", "audiobox-aesthetics"))
    resampler = "soxr HQ to 16000 Hz, mean of the channels"
    outputs = {"scores": f"(W, 4): {', '.join(AXES)} of each window", "seconds": "(W,): how much sound each window holds"}

    def prepare(self, pair, role):
        import numpy as np

        waveform = pair.heard(role, RATE)
        if self.set["seconds"]:
            waveform = waveform[: round(self.set["seconds"] * RATE)]
        if len(waveform) < LEAST:
            raise Skip(f"{len(waveform) / RATE:.3g} s of sound are too short to judge")
        lengths = [min(WINDOW, len(waveform) - begin) for begin in range(0, len(waveform), WINDOW)]
        lengths = [length for length in lengths if length >= LEAST]
        windows = np.zeros((len(lengths), WINDOW), np.float32)
        for k, length in enumerate(lengths):
            windows[k, :length] = waveform[k * WINDOW : k * WINDOW + length]
        return {"windows": windows, "lengths": np.array(lengths)}

    def load(self, device, weights):
        self.device = device
        self.net, self.mean, self.deviation = network(self.locate(weights))
        self.net.to(device)

    def run(self, items):
        import numpy as np
        import torch

        windows, lengths = (torch.from_numpy(np.concatenate([item[name] for item in items])) for name in ("windows", "lengths"))
        inside = torch.arange(WINDOW) < lengths[:, None]
        found = []
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of masks of two kinds in the package's attention
            for some, heard in zip(windows.split(AT_ONCE), inside.split(AT_ONCE), strict=True):
                scores = self.net({"wav": some[:, None].to(self.device), "mask": heard[:, None].to(self.device)})
                found.append(torch.stack([scores[axis].reshape(len(some)) for axis in AXES], 1).float().cpu())
        scores = torch.cat(found).numpy() * self.deviation + self.mean
        ends = np.cumsum([len(item["lengths"]) for item in items])[:-1]
        return [{"scores": one, "seconds": of / RATE} for one, of in zip(np.split(scores, ends), np.split(lengths.numpy(), ends), strict=True)]


def network(path):
    """(the network in eval mode, and what its outputs (4,) are multiplied by the second of and added the first: mean, deviation).

    `path`: checkpoint.pt, model.safetensors with its config.json beside it, or a folder of either.  FatalError where it does not fit.
    """
    import inspect

    import numpy as np
    from audiobox_aesthetics.model.aes import AesMultiOutput

    file, config, scale, tensors = _read(pathlib.Path(path))
    known = set(inspect.signature(AesMultiOutput).parameters) - {"target_transform", "precision"}
    try:
        means, deviations = (np.array([float(scale[axis][name]) for axis in AXES]) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        told = f"{file}: does not tell the mean and deviation of {', '.join(AXES)} (target_transform)"
        raise FatalError(f"{told}, without which its outputs are no scores; give checkpoint.pt, or config.json as it was released") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that weight_norm is old
        try:
            net = AesMultiOutput(**{name: value for name, value in config.items() if name in known}, precision="32")
        except (TypeError, ValueError, AssertionError) as error:
            raise FatalError(f"{file}: its configuration is none of Audiobox Aesthetics ({' '.join(str(error).split())[:100]})") from None
    hub.load_strict(net, tensors, file)
    return net.eval().requires_grad_(False), means, deviations


def _read(path: pathlib.Path) -> tuple[pathlib.Path, dict, object, dict]:
    """The file of weights, its configuration, mean and deviation by axis, and its tensors."""
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), None)
        if file is None:
            raise FatalError(f"{path}: has none of {', '.join(FILES)}; give the folder of facebook/audiobox-aesthetics")
        path = file
    if path.suffix == ".safetensors":
        beside = path.with_name("config.json")
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise FatalError(f"{beside}: not there, or no JSON; {path.name} needs it; give the folder of facebook/audiobox-aesthetics") from None
        config = config if isinstance(config, dict) else {}
        return path, config, config.get("target_transform"), hub.tensors(path)
    values = hub.values(path)
    config = values.get("model_cfg")
    return path, config if isinstance(config, dict) else {}, values.get("target_transform"), hub.tensors(path, "state_dict")


class Aesthetics(OfFeatures):
    """What people would say of the sound alone, from 1 to 10: the mean over its windows of 10 s, weighted by how long they are.

    PC, how complex it is, is neither good nor bad by itself; aes_mean, of all four, is JavisBench's audio quality.
    `seconds`: of the sound that are heard; 0: all.  Protocol javisbench: its clips of 4 s.
    """

    name = "audiobox-aesthetics"
    title = "Audiobox Aesthetics: enjoyment, usefulness, complexity and production quality of the sound"
    source = "Tjandra et al. 2025 (arXiv:2502.05139); protocol javisbench: Liu et al. 2025, JavisDiT (arXiv:2503.23377)"
    columns = {
        "aes_mean": "mean of the four, about 1 to 10",
        "aes_ce": "content enjoyment, about 1 to 10",
        "aes_cu": "content usefulness, about 1 to 10",
        "aes_pc": "production complexity, about 1 to 10",
        "aes_pq": "production quality, about 1 to 10",
    }
    direction = "higher"
    needs = ("sound",)
    chance_how = "none: it does not see the picture"
    resampler = Audiobox.resampler
    settings = {"seconds": 0.0}
    protocols = {"javisbench": {"seconds": 4.0}}
    extractors = (Audiobox,)

    def wants(self):
        return {"sound": (Audiobox(**self.set), "audio")}

    def row(self, item):
        import numpy as np

        found = item["sound"]
        scores = np.average(np.asarray(found["scores"], np.float64), axis=0, weights=found["seconds"])
        return {"aes_mean": float(scores.mean()), **{f"aes_{axis.lower()}": float(score) for axis, score in zip(AXES, scores, strict=True)}}
