"""AudioSep on long clips against the plain formulation of its original: windows one after another, the tail worked out anew each time.

Weights are random: no figure here depends on their values.  The plain way and ours use the same network; what differs is how sounds
are cut, how much of them is worked out more than once, and how many windows go through at once.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np

from . import common
from .common import Result
from .vta_ldm import device, exact, sync

WINDOW, ADVANCE, EDGE = 5, 3, 1  # seconds, as published
ASKED = 1.8


def measure(quick: bool) -> Iterator[Result]:
    import torch

    net, size = network(quick)
    separators = {name: separator(net, name) for name in ("legacy", "fade", "full")}
    rate = net.config.rate
    rounds = common.ROUNDS if device().type == "cuda" else 1
    for seconds in (12,) if quick else (30, 60) if device().type == "cuda" else (30,):
        torch.manual_seed(1)
        mixture = torch.randn(1, seconds * rate, device=device()) * 0.1
        condition = torch.nn.functional.normalize(torch.randn(1, net.config.condition, device=device()))
        ways = {"plain": lambda m=mixture, c=condition: plain(net, m, c, rate)}
        ways |= {name: lambda m=mixture, c=condition, s=one: s.separate(m, c) for name, one in separators.items()}
        made: dict[str, np.ndarray] = {}
        pieces = {name: piece(name, way, made) for name, way in ways.items()}
        if device().type == "cuda":  # a pass for comparing, without TF32
            exact(True)
            common.in_turn(1, **pieces)
            exact(False)
            exactly = dict(made)
            times = common.in_turn(rounds, **pieces)
        else:
            times = common.in_turn(rounds, **pieces)
            exactly = made
        most = float(np.abs(exactly["legacy"] - exactly["plain"]).max() / np.abs(exactly["plain"]).max())
        if most > 1e-3:
            raise SystemExit(f"separate: our hard joins and the plain formulation differ by {most:.2g} of the largest value")
        what = f"separate, {size}, a clip of {seconds} s"
        yield Result(f"{what}: largest difference of our hard joins from the plain windows", f"{most:.0e}", "", None, "at most 1e-3", True)
        for name, words in (("legacy", "the same windows, each once"), ("full", "one full pass"), ("fade", "cross-faded windows of 10 s")):
            ratio, error = times["plain"] / times[name], snr(exactly["plain"], exactly[name])
            near = "" if name == "legacy" else f" ({error:.0f} dB from the plain windows' output)"
            holds = None if quick else ratio >= ASKED
            yield Result(f"{what}: {words}{near}; windows one by one", f"{times[name]:.2f} s", f"{times['plain']:.2f} s", ratio, f"{ASKED}x", holds)
            yield Result(f"{what}: {words}: seconds of sound in a second", f"{seconds / times[name]:.2f}", f"{seconds / times['plain']:.2f}", None, "for information")
    yield commands(quick)


def network(quick: bool):
    import torch

    from avtools.models.audiosep.config import PRESETS, Config
    from avtools.models.audiosep.model import SeparatorNet
    from avtools.training import config as settings

    torch.manual_seed(0)
    config = settings.resolve(Config, PRESETS, "tiny" if quick else "base", None, [])
    return SeparatorNet(config).to(device()).eval().requires_grad_(False), "tiny network" if quick else f"ResUNet30 ({device().type.upper()})"


def separator(net, name: str):
    from avtools.models.audiosep.separation import Separator
    from avtools.models.audiosep.windows import FADE, LEGACY
    from avtools.models.separating import BATCH_SIZE

    plan = {"legacy": LEGACY, "fade": FADE, "full": None}[name]
    return Separator(net, net, device(), plan=plan, batch=BATCH_SIZE if device().type == "cuda" else 1)  # as the command does


def plain(net, mixture, condition, rate: int):
    """(1, samples) -> (1, samples) as published (spec section 8.5): a window, its centre kept, and after each the next as the tail."""
    import torch

    window, advance, edge, samples = WINDOW * rate, ADVANCE * rate, EDGE * rate, mixture.shape[1]
    out, begin = torch.zeros_like(mixture), 0
    with torch.inference_mode():
        while begin + window < samples:
            centre = net(mixture[:, begin : begin + window], condition)
            first = 0 if begin == 0 else edge
            out[:, begin + first : begin + edge + advance] = centre[:, first : edge + advance]
            begin += advance
            tail = net(mixture[:, begin : begin + window], condition)
            out[:, begin + edge : begin + tail.shape[1]] = tail[:, edge:]
    return out


def piece(name: str, way, made: dict):
    """A function to be timed, which leaves what it makes in `made`."""

    def run() -> float:
        sync()
        begun = time.perf_counter()
        result = way()
        sync()
        passed = time.perf_counter() - begun
        made[name] = result.cpu().numpy()
        return passed

    return run


def snr(reference, estimate) -> float:
    return float(10 * np.log10((reference**2).mean() / max(((estimate - reference) ** 2).mean(), 1e-20)))


def commands(quick: bool) -> Result:
    """Whole command lines without a network: ours, and librosa's medians, a process with all its files."""
    import soundfile

    with common.folder() as where:
        draw, seconds, count = np.random.default_rng(0), 5 if quick else 30, 2 if quick else 8
        for k in range(count):
            soundfile.write(where / f"{k}.wav", 0.1 * draw.standard_normal((seconds * 44100, 2)), 44100)
        paths = sorted(map(str, where.glob("*.wav")))
        peer = (
            "import sys, librosa, soundfile, numpy as np\n"
            "for path in sys.argv[2:]:\n"
            "    sound, rate = soundfile.read(path, dtype='float32', always_2d=True)\n"
            "    parts = []\n"
            "    for channel in sound.T:\n"
            "        spectrum = librosa.stft(np.ascontiguousarray(channel))\n"
            "        harmonic, percussive = librosa.decompose.hpss(spectrum, margin=2.0)\n"
            "        two = [librosa.istft(part, length=len(channel)) for part in (harmonic, percussive)]\n"
            "        parts.append([*two, channel - two[0] - two[1]])\n"
            "    for name, part in zip('hpr', zip(*parts)):\n"
            "        soundfile.write(f'{sys.argv[1]}/{path.split(chr(47))[-1]}_{name}.wav', np.stack(part, 1), rate, 'FLOAT')\n"
        )
        (where / "out").mkdir()
        times = common.in_turn(
            1 if quick else common.ROUNDS,
            ours=lambda: common.run(*common.AVTOOLS, "separate", "--method", "hpss", "-q", "--overwrite", "-d", where / "ours", "-o", where / "t.csv", *paths),
            peer=lambda: common.run(sys.executable, "-c", peer, where / "out", *paths),
        )
    sound = seconds * count
    what = f"separate --method hpss, {count} stereo files of {seconds} s ({sound / times['ours']:.0f} s of sound in a second); librosa, one process"
    return Result(what, f"{times['ours']:.1f} s", f"{times['peer']:.1f} s", times["peer"] / times["ours"], "for information")
