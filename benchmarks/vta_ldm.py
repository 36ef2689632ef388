"""VTA-LDM against the plain formulation of its original: sampling, a training step, reading clips, and figures of a GPU.

Each way runs in a process of its own, which holds its networks and does one timed piece whenever it is asked, so
that both are measured in turn and each has its own peak of memory.  Before anything is timed both must give the
same.  Weights are random: no figure here depends on their values.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import common
from .common import AVTOOLS, Result
from .memory import _tree

PLAIN_STEPS, OUR_STEPS, GUIDANCE = 300, 25, 3.0
PIECE = 2  # sampler steps that are timed at once
CLIP_LAYERS = 2  # of CLIP's 24, without a GPU: the plain way is measured faster than it is
FRAMES, TOKENS, WIDTH = 20, 20, 768  # of a 10-s clip at 2 Hz; CLIP's width
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}  # dense bf16 FLOP/s, by the makers' data sheets


def measure(quick: bool) -> Iterator[Result]:
    with common.folder() as where:
        yield from sampling(where, quick)
        yield from training(where, quick)
        yield from loading(where, quick)
        yield waiting(where, quick)
        yield from accelerator(where, quick)


# --- two processes -------------------------------------------------------------------------------------------------


class Side:
    """One way of doing `part`, in a process of its own; calling it does a timed piece and gives the seconds."""

    def __init__(self, part: str, way: str, where: Path, quick: bool):
        self.said = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "benchmarks.vta_ldm", part, way, str(where), str(int(quick))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, cwd=Path(__file__).parents[1])
        self.facts: dict = {}  # what it says of its first piece, which is not timed

    def ready(self) -> None:
        """Wait until its first piece is done."""
        self.facts = self.facts or self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            raise SystemExit(f"{' '.join(self.process.args)}\n{self.said.read().decode(errors='replace')[-2000:]}")
        return json.loads(line)

    def __call__(self) -> float:
        self.ready()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.last = self._answer()
        return self.last["seconds"]

    def close(self) -> float:
        """End it; its peak of memory, MB."""
        self.ready()
        self.process.stdin.close()
        peak = self._answer()["peak_mb"]
        self.process.wait()
        return peak

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def serve(part: str, way: str, where: str, quick: str) -> None:
    """In the process of a side: a line of JSON for the first piece, then one for each line that comes."""
    answers, said = os.fdopen(os.dup(1), "w"), PARTS[part](way == "ours", Path(where), quick == "1")
    os.dup2(2, 1)  # what libraries print is no answer
    for answer in said:
        print(json.dumps(answer), file=answers, flush=True)
        if not sys.stdin.readline():
            break
    said.close()
    print(json.dumps({"peak_mb": peak_mb()}), file=answers, flush=True)


def peak_mb() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def alike(what: str, one, other, most: float) -> float:
    """The largest difference, relative to the largest value; more than `most` ends the benchmark."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    found = float(np.abs(one - other).max() / np.abs(other).max()) if one.shape == other.shape else float("inf")
    if not found <= most:
        raise SystemExit(f"{what}: ours {one.shape} and the plain formulation {other.shape} differ by {found:.2g} of the largest value; {most:g} is allowed")
    return found


# --- networks ------------------------------------------------------------------------------------------------------


def device():
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sync() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def system_of(quick: bool):
    """The system as the released weights were trained, of a size for this machine; networks not made."""
    from avtools.models.vta_ldm.config import PRESETS, Config
    from avtools.models.vta_ldm.system import VtaLdm
    from avtools.training import config as settings

    sets = ["time_conditioning=cross", "condition_dropout=0", "legacy_snr=true", "random_crop=false", "legacy_frames=true", "clip_normalise=false"]
    if quick:
        sets += ["unet.block_out_channels=[32,32,64,64]", "unet.layers_per_block=1", "unet.cross_attention_dim=64", "token_dim=64", "window=1.28"]
    return VtaLdm(settings.resolve(Config, PRESETS, "large" if large(quick) else "pretrain", None, sets))


def large(quick: bool) -> bool:
    return device().type == "cuda" and not quick


def size_of(quick: bool) -> str:
    """In words, for the table."""
    return "tiny networks" if quick else "UNet large-2048 (578 M), GPU" if large(quick) else "UNet pretrain (188 M), CPU"


def with_denoiser(system):
    """`system` with a denoiser of random weights, the same ones each time, and a codec of 8 latent channels without any."""
    import torch

    from avtools.models.vta_ldm.model import Denoiser

    torch.manual_seed(0)
    system.denoiser = Denoiser(system.config, 8).to(device())
    system.device, system.dtype = device(), torch.float32
    return system


def codec(quick: bool):
    from avtools.models.parts.audioldm import DDCONFIG, VOCODER, AudioLdmCodec

    return AudioLdmCodec({**DDCONFIG, "ch": 32}, {**VOCODER, "upsample_initial_channel": 64}) if quick else AudioLdmCodec()


def with_encoders(system, quick: bool):
    """`system` with the frozen networks, of random weights."""
    import torch

    from avtools.models.parts.video_encoders import ClipEncoder

    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": 14, "image_size": 224, "projection_dim": WIDTH}
    clip["num_hidden_layers"] = 24 if large(quick) else CLIP_LAYERS
    if quick:
        clip |= {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "patch_size": 56, "num_hidden_layers": 1}
    torch.manual_seed(1)
    system.codec = codec(quick)
    system.encoder = ClipEncoder(clip, system.config.clip_normalise)
    system._place(device(), torch.float32)
    return system


def latents_of(system) -> int:
    """How many latents a window has: 25 in a second."""
    return round(system.config.window * 25)


def exact(on: bool) -> None:
    """Whether a GPU's convolutions keep fp32 as it is, for comparing."""
    import torch

    torch.backends.cudnn.allow_tf32 = not on


def alphas_of(schedule: dict):
    """Products of the alphas of a scaled-linear schedule, by its formula."""
    import torch

    return torch.cumprod(1 - torch.linspace(schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5, schedule["num_train_timesteps"]) ** 2, 0)


# --- sampling ------------------------------------------------------------------------------------------------------


def sampling(where: Path, quick: bool) -> Iterator[Result]:
    with Side("sampling", "plain", where, quick) as plain, Side("sampling", "ours", where, quick) as ours:
        plain.ready(), ours.ready()
        most = alike("sampling", np.load(where / "ours.npy"), np.load(where / "plain.npy"), 1e-4)
        times = common.in_turn(1 if quick else common.ROUNDS, plain=plain, ours=ours)
        step, our_step = times["plain"] / PIECE, times["ours"] / PIECE
        theirs, mine = plain.facts["passes"] / plain.facts["steps"] * PLAIN_STEPS, ours.facts["passes"] / ours.facts["steps"] * OUR_STEPS
        peaks = ours.close(), plain.close()
    total, our_total = step * PLAIN_STEPS, our_step * OUR_STEPS
    what = f"sampling, {size_of(quick)}"
    same = f"{what}: largest difference of the legacy scheduler from the plain loop, {ours.facts['steps']} steps, the same noise"
    yield Result(same, f"{most:.1e}", "", None, "at most 1e-4", True)
    passes = f"{what}: UNet passes of a sample; {PLAIN_STEPS} steps, with and without condition"
    yield Result(passes, f"{mine:.0f}", f"{theirs:.0f}", theirs / mine, "10x", theirs >= 10 * mine)
    guided = f"{what}: a guided step, one batch, projected once; two passes, projected at each"
    yield Result(guided, f"{our_step:.3f} s", f"{step:.3f} s", step / our_step, "for information")
    yield Result(
        f"{what}: a sample of 10.24 s without decoding, seconds of a step x steps: DPM-Solver++ {OUR_STEPS}; {PLAIN_STEPS} steps",
        f"{our_total:.1f} s", f"{total:.1f} s", total / our_total, "10x", None if quick else total >= 10 * our_total,
    )  # fmt: skip
    yield Result(f"{what}: peak memory", f"{peaks[0]:.0f} MB", f"{peaks[1]:.0f} MB", peaks[1] / peaks[0], "for information")


def sampling_side(ours: bool, where: Path, quick: bool) -> Iterator[dict]:
    import torch

    system = with_denoiser(system_of(quick))
    denoiser = system.denoiser.eval().requires_grad_(False)
    features = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
    calls, length = [], latents_of(system)
    denoiser.unet.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    few = 4
    exact(True)
    latents = our_sample(system, features, length, "legacy", few) if ours else plain_sample(system, features, length, few, few)
    exact(False)
    np.save(where / f"{'ours' if ours else 'plain'}.npy", latents.cpu().numpy())
    yield {"passes": sum(calls), "steps": few}
    while True:
        sync()
        begun = time.perf_counter()
        if ours:
            our_sample(system, features, length, "dpmsolver++", PIECE)
        else:
            plain_sample(system, features, length, PLAIN_STEPS, PIECE)
        sync()
        yield {"seconds": time.perf_counter() - begun}


def our_sample(system, features, length: int, scheduler: str, steps: int):
    from avtools.models.vta_ldm import sampling as ours

    config = system.config
    (made,) = ours.sample_latents(
        system.denoiser, [features], [None], [length], ours.seeded([5], lambda item: (8, length, 16)), scheduler=scheduler, steps=steps,
        guidance=GUIDANCE, schedule=config.noise_schedule, window=length, overlap=0, step=0.04, frame_rate=config.frame_rate, device=device(),
    )  # fmt: skip
    return made


def plain_sample(system, features, length: int, steps: int, only: int):
    """The original's loop: ancestral sampling of `steps` steps, of which `only` the first are done."""
    import torch
    from diffusers import DDPMScheduler

    from avtools.training.draws import generator

    denoiser, config = system.denoiser, system.config
    solver = DDPMScheduler(**config.noise_schedule)
    solver.set_timesteps(steps)
    source = generator(5, "sample")  # as ours draws
    latents = torch.randn(1, 8, length, 16, generator=source).to(device())
    features = features[: int(np.ceil(length * 0.04 * config.frame_rate))][None].to(device())  # the pictures of the window
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=device())
    with torch.no_grad():
        for t in solver.timesteps[:only]:
            tokens = denoiser.projection(features)
            without = denoiser.unet(latents, t, encoder_hidden_states=torch.zeros_like(tokens), encoder_attention_mask=mask).sample
            found = denoiser.unet(latents, t, encoder_hidden_states=tokens, encoder_attention_mask=mask).sample
            latents = solver.step(without + GUIDANCE * (found - without), t, latents, generator=source).prev_sample
    return latents[0]


# --- a training step -----------------------------------------------------------------------------------------------


def training(where: Path, quick: bool) -> Iterator[Result]:
    with Side("training", "plain", where, quick) as plain:
        plain.ready()  # it writes what its frozen networks make, from which ours trains
        with Side("training", "ours", where, quick) as ours:
            ours.ready()
            most = alike("training step's loss", ours.facts["loss"], plain.facts["loss"], 1e-3)
            alike("training step's gradient of the projection", ours.facts["gradient"], plain.facts["gradient"], 1e-2)  # fp16 features show there
            times = common.in_turn(1 if quick else common.ROUNDS, plain=plain, ours=ours)
            peaks = ours.close(), plain.close()
    part = "" if quick or large(quick) else f", {CLIP_LAYERS} of CLIP's 24 layers"
    what, ratio = f"training step, {size_of(quick)}{part}", times["plain"] / times["ours"]
    same = f"{what}: loss with the same draws ({most:.1e} apart); features computed anew, not kept as fp16"
    yield Result(same, f"{ours.facts['loss']:.5f}", f"{plain.facts['loss']:.5f}", None, "at most 1e-3 apart", True)
    yield Result(
        f"{what}: from features files; CLIP, mel and VAE in every step ({batch_of(quick)} clips of 10.24 s)",
        f"{times['ours']:.3f} s", f"{times['plain']:.3f} s", ratio, "faster", None if quick else ratio > 1,
    )  # fmt: skip
    yield Result(f"{what}: peak memory", f"{peaks[0]:.0f} MB", f"{peaks[1]:.0f} MB", peaks[1] / peaks[0], "for information")


def batch_of(quick: bool) -> int:
    return 8 if large(quick) else 1


def training_side(ours: bool, where: Path, quick: bool) -> Iterator[dict]:
    import torch

    from avtools import features
    from avtools.models.vta_ldm import data

    # the trainer holds the frozen networks either way: features files name the digests of those that made them
    system, count = with_encoders(with_denoiser(system_of(quick)), quick), batch_of(quick)
    paths = [where / f"features{k}.safetensors" for k in range(count)]
    ids, alphas = torch.arange(count) + 7, alphas_of(system.config.noise_schedule).to(device())
    optimizer = torch.optim.AdamW(system.denoiser.parameters(), lr=6e-5)
    if ours:
        _, options = system.item_work()
    else:
        draw = np.random.Generator(np.random.PCG64(3))
        sound = torch.from_numpy(draw.uniform(-0.5, 0.5, (count, latents_of(system) * system.codec.step)).astype(np.float32))
        pictures = torch.from_numpy(draw.integers(0, 256, (count, FRAMES, 224, 224, 3), np.uint8))

    def frozen():
        with torch.no_grad():
            mean, std = system.codec.encode(sound.to(device()))
            return system.encoder(list(pictures.to(device()).permute(0, 1, 4, 2, 3) / 255)), mean, std

    def loss():
        if not ours:
            return plain_loss(system, *frozen(), ids, alphas)
        items = [data.training_item({"features_path": str(path)}, 0, options) for path in paths]
        batch = system.collate(items) | {"draws": ids, "keys": [""] * count}
        batch = {name: value.to(device()) if name in ("mean", "std") else value for name, value in batch.items()}
        return system.training_step(system.denoiser, system.prepare(batch, True), 0, "main")["loss"].mean()

    def step():
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sync()

    exact(True)
    first = loss()
    first.backward()
    exact(False)
    gradient = system.denoiser.projection.weight.grad[:8].flatten().tolist()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not ours:
        found, mean, std = frozen()
        facts = system.encoder_facts()
        for k, path in enumerate(paths):
            features.write(path, {"features": found[k].half().cpu().numpy(), "mean": mean[k].half().cpu().numpy(), "std": std[k].half().cpu().numpy()}, facts)
    yield {"loss": float(first.detach()), "gradient": gradient}
    while True:
        begun = time.perf_counter()
        step()
        yield {"seconds": time.perf_counter() - begun}


def plain_loss(system, features, mean, std, ids, alphas):
    """Min-SNR weighted error in v, by the formulas, with the draws that ours makes."""
    import torch

    from avtools.training import draws

    shape, denoiser = tuple(mean.shape[1:]), system.denoiser
    clean = mean + std * draws.normal(ids, "posterior", shape, device())
    noise = draws.normal(ids, "noise", shape, device())
    t = (draws.uniform(ids, "timestep", device()) * len(alphas)).long()
    a = alphas[t].view(-1, 1, 1, 1)
    tokens = denoiser.projection(torch.stack(features))
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device())
    found = denoiser.unet(a.sqrt() * clean + (1 - a).sqrt() * noise, t, encoder_hidden_states=tokens, encoder_attention_mask=mask).sample
    error = (found - (a.sqrt() * noise - (1 - a).sqrt() * clean)).square().mean((1, 2, 3))
    snr = alphas[t] / (1 - alphas[t])
    return (error * snr.clamp(max=5) / snr).mean()


# --- reading clips -------------------------------------------------------------------------------------------------


def loading(where: Path, quick: bool) -> Iterator[Result]:
    clips = common.clips(where) if not quick else common.synthetic(where, 2, 2)
    sounds = common.waves(clips, where / "sounds")
    count = 4 if quick else 24
    files = list(zip(common.copies(clips, where / "clips", count), common.copies(sounds, where / "waves", count), strict=True))
    with open(where / "loader.jsonl", "w") as file:
        file.writelines(json.dumps({"path": str(clip), "audio_path": str(sound), "id": f"{k}"}) + "\n" for k, (clip, sound) in enumerate(files))
    with Side("loader", "plain", where, quick) as plain, Side("loader", "ours", where, quick) as ours:
        plain.ready(), ours.ready()
        picture, sound = agreement(where)
        spent: dict[Side, list[float]] = {ours: [], plain: []}

        def a_clip(side: Side) -> float:
            side()
            spent[side].append(side.last["cpu"] / side.last["clips"])
            return side.last["seconds"] / side.last["clips"]

        times = common.in_turn(1 if quick else common.ROUNDS, ours=lambda: a_clip(ours), plain=lambda: a_clip(plain))
        for side in (ours, plain):
            side.close()
    mine, theirs = (float(np.median(spent[side])) for side in (ours, plain))
    what, peer = f"loader, clips of {2 if quick else 10} s", "cv2 with a seek for each picture, PIL, torchaudio; one process"
    same = f"{what}: pictures' mean difference from the peer's, of 255, and correlation of the sound"
    yield Result(same, f"{picture:.2f}; {sound:.4f}", "", None, "at most 3; at least 0.99", True)
    rows = (
        ("per core (CPU time of all processes)", mine, theirs, "faster", None if quick else mine < theirs),
        (f"{ours.facts['jobs']} workers", times["ours"], times["plain"], "for information", None),
    )
    for how, one, other, asked, holds in rows:
        yield Result(f"{what}, {how}; {peer}", f"{1 / one:.1f} clips/s", f"{1 / other:.1f} clips/s", other / one, asked, holds)


def agreement(where: Path) -> tuple[float, float]:
    """(mean difference of the pictures, correlation of the sound) of each clip's first items, the worst of them."""
    one, other = (dict(np.load(where / f"items-{way}.npz")) for way in ("ours", "plain"))
    pictures, sounds = [], []
    for name in sorted(name for name in one if name.startswith("frames")):
        mine, theirs, tone, peer = one[name], other[name], one[name.replace("frames", "waveform")], other[name.replace("frames", "waveform")]
        if mine.shape != theirs.shape or tone.shape != peer.shape:
            raise SystemExit(f"loader, {name}: ours {mine.shape}, {tone.shape}; the plain formulation {theirs.shape}, {peer.shape}")
        pictures.append(np.abs(mine.astype(int) - theirs).mean())
        sounds.append(np.corrcoef(tone, peer)[0, 1])
    if not (max(pictures) <= 3 and min(sounds) >= 0.99):
        raise SystemExit(f"loader: pictures differ by {np.round(pictures, 2)} of 255, sounds correlate by {np.round(sounds, 4)}: not the same clips")
    return float(max(pictures)), float(min(sounds))


def loader_side(ours: bool, where: Path, quick: bool) -> Iterator[dict]:
    rows = [json.loads(line) for line in open(where / "loader.jsonl")]
    some = 2 if quick else 4  # the sources, of which the others are copies
    if ours:
        yield from our_loader(where, quick, len(rows), some)
        return
    import cv2

    cv2.setNumThreads(1)
    items = [plain_item(row, quick) for row in rows[:some]]
    np.savez(where / "items-plain.npz", **{f"{name}{k}": value for k, item in enumerate(items) for name, value in item.items()})
    yield {"jobs": 1}
    while True:
        begun, spent = time.perf_counter(), time.process_time()
        for row in rows[:some]:
            plain_item(row, quick)
        yield {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - spent, "clips": some}


def our_loader(where: Path, quick: bool, count: int, some: int) -> Iterator[dict]:
    from avtools.training.data import Bad, Loader, Plan
    from avtools.training.table import Table

    system, table, bad = system_of(quick), Table(str(where / "loader.jsonl")), Bad(str(where / "bad.jsonl"), 0)
    system.codec = codec(quick)  # it knows how long a window is
    first = Loader(system, table, 0, bad)
    first.start([[(0, k)] for k in range(some)])
    batches = [first.next() for _ in range(some)]
    first.close()
    np.savez(where / "items-ours.npz", **{f"{name}{k}": batch[name][0].numpy() for k, batch in enumerate(batches) for name in ("frames", "waveform")})
    loader, size = Loader(system, table, 0, bad), 2
    loader.start(Plan(system, table, size, 0, 0, 1))
    try:
        for _ in range(3):
            loader.next()
        yield {"jobs": loader.jobs}
        while True:
            for _ in range(8):  # what was made while the other side was measured; no more than is ever kept ahead
                loader.next()
            begun, spent = time.perf_counter(), cpu_seconds()
            for _ in range(count // size):  # as much is under way at the end as at the beginning
                loader.next()
            yield {"seconds": time.perf_counter() - begun, "cpu": cpu_seconds() - spent, "clips": count // size * size}
    finally:
        loader.close()


def cpu_seconds() -> float:
    """What this process and those below it have used so far."""
    total = 0.0
    for pid in _tree(os.getpid()):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # user and system, of its own and of its children that ended
    return total / os.sysconf("SC_CLK_TCK")


def plain_item(row: dict, quick: bool) -> dict:
    """The original's way: a seek for each picture at every int(fps)/2-th frame, its sound read whole and resampled."""
    import cv2
    import soundfile
    import torch
    import torchaudio
    from PIL import Image

    torch.set_num_threads(1)
    seconds = 1.28 if quick else 10.24
    video = cv2.VideoCapture(row["path"])
    fps, total = int(video.get(cv2.CAP_PROP_FPS)), video.get(cv2.CAP_PROP_FRAME_COUNT)
    pictures = []
    for k in range(int(np.ceil(total / fps)) * 2):
        video.set(cv2.CAP_PROP_POS_FRAMES, k * fps // 2)
        read, frame = video.read()
        if not read:
            break
        picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        short = min(picture.size)
        width, height = (int(224 * side / short) for side in picture.size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        pictures.append(np.asarray(picture.resize((width, height), Image.BICUBIC).crop((left, top, left + 224, top + 224))))
    video.release()
    sound, rate = soundfile.read(row["audio_path"], dtype="float32", always_2d=True)
    samples = round(seconds * 25) * 640
    wave = torchaudio.functional.resample(torch.from_numpy(sound.mean(1)), rate, 16000)[:samples]
    wave = wave - wave.mean()
    wave = torch.nn.functional.pad(wave * (0.5 / wave.abs().max()), (0, samples - len(wave)))
    return {"frames": np.stack(pictures)[: int(np.ceil(seconds * 2))], "waveform": wave.numpy()}


# --- waiting for data ----------------------------------------------------------------------------------------------


def waiting(where: Path, quick: bool) -> Result:
    """The share of its time that the tiny preset's training waits for items, as its log says, after the first epoch."""
    count, steps, batch = (4, 6, 2) if quick else (32, 30, 16)
    run = where / "run"
    common.run(*AVTOOLS, "synth", "-q", "-n", count, "--seconds", 2, "-d", where / "toys", "-o", where / "toys.csv")
    sets = [f"train.batch_size={batch}", f"log_every={2 if quick else 5}", f"checkpoint_every={steps}"]
    options = [word for one in sets for word in ("--set", one)]
    common.run(*AVTOOLS, "train", "vta-ldm", where / "toys.csv", "--preset", "tiny", "--max-steps", steps, *options, "-d", run)
    lines = [json.loads(line) for line in open(run / "log.jsonl")]
    steady = [line for line, before in zip(lines[1:], lines, strict=False) if "wait" in line and before.get("epoch", 0) >= 1]
    if not steady:
        raise SystemExit(f"{run}/log.jsonl: no line after the first epoch")
    share = float(np.mean([line["wait"] for line in steady]))
    what = f"training, preset tiny, {steps} steps of {batch}, {count} clips: share of the time waiting for data after the first epoch"
    return Result(what, f"{100 * share:.2f} %", "", None, "under 5 %", None if quick else share < 0.05)


# --- with a GPU ----------------------------------------------------------------------------------------------------


def accelerator(where: Path, quick: bool) -> Iterator[Result]:
    if device().type == "cpu":
        return
    with Side("accelerator", "ours", where, quick) as side:
        side.ready()
        seconds = common.in_turn(1 if quick else common.ROUNDS, ours=side)["ours"]
        facts, peak = side.facts, side.close()
    per = facts["clips"] / seconds
    what = f"{facts['name']}: {facts['clips']} clips of 10.24 s at once, DPM-Solver++ {OUR_STEPS}, bf16, with CLIP and decoding"
    yield Result(what, f"{per:.2f} samples/s", "", None, "for information")
    yield Result(f"{what}: seconds of sound in a second", f"{per * 10.24:.1f}", "", None, "faster than real time", per * 10.24 > 1)
    yield Result(f"{what}: peak memory", f"{peak:.0f} MB", "", None, "for information")
    for name, flops, taken in (("sampling, all of it", facts["flops"], seconds), ("a guided UNet pass", facts["pass_flops"], facts["pass_seconds"])):
        share = f" ({100 * flops / taken / facts['peak']:.1f} % of {facts['peak'] / 1e12:.0f})" if facts["peak"] else ""
        yield Result(f"{facts['name']}: the UNet's TFLOP/s, {name}{share}", f"{flops / taken / 1e12:.0f}", "", None, "for information")


def accelerator_side(ours: bool, where: Path, quick: bool) -> Iterator[dict]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    system, clips = with_encoders(with_denoiser(system_of(quick)), quick), 2 if quick else 8
    system.denoiser.to(device(), torch.bfloat16).eval().requires_grad_(False)
    system._place(device(), torch.bfloat16)
    options = system.sample_options({"steps": 2 if quick else OUR_STEPS, "guidance": GUIDANCE, "scheduler": "dpmsolver++"})
    item = {"frames": np.zeros((FRAMES, 224, 224, 3), np.uint8), "seconds": np.float64(system.config.window)}
    latents = torch.randn(2 * clips, 8, latents_of(system), system.codec.bins, device=device(), dtype=torch.bfloat16)
    timesteps = torch.full((2 * clips,), 500, device=device())

    with torch.inference_mode():
        condition = system.denoiser.condition([torch.randn(TOKENS, WIDTH)] * 2 * clips, [None] * 2 * clips)

        def one_pass():
            return system.denoiser.predict(latents, timesteps, condition, 0.04)

        def generate():
            begun = time.perf_counter()
            system.generate([item] * clips, list(range(clips)), options)
            sync()
            return time.perf_counter() - begun

        with FlopCounterMode(display=False) as counter:
            one_pass()
        flops, rounds = counter.get_total_flops(), 1 if quick else 10
        sync()
        begun = time.perf_counter()
        for _ in range(rounds):
            one_pass()
        sync()
        taken = (time.perf_counter() - begun) / rounds
        generate()
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        peak = next((value for known, value in PEAK.items() if known in name), None)
        yield {"clips": clips, "name": name, "peak": peak, "flops": flops * options["steps"], "pass_flops": flops, "pass_seconds": taken}
        while True:
            yield {"seconds": generate()}


PARTS = {"sampling": sampling_side, "training": training_side, "loader": loader_side, "accelerator": accelerator_side}

if __name__ == "__main__":
    serve(*sys.argv[1:])
