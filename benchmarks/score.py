"""`avtools score` against public metric code: the same values first, then the time.

Peers are run by an environment of their own: the folder `$AVTOOLS_BENCH_PEERS`, which is made (PEERS and ALONE installed) where there is none.
It sees the packages of ours and changes none.  Without it this interpreter runs what it has, and the others are "missing".

Whole command lines start anew each time; "work" is the peers' without starting and imports.
"""

import csv
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import common
from .common import AVTOOLS, Result, in_turn, run

VIDEO = ("opencv-python-headless", "librosa")
PEERS = (*VIDEO, "scipy", "torchmetrics", "fast_bss_eval", "auraloss", "pyloudnorm", "pycocoevalcap", "sacrebleu", "rouge-score")
ALONE = ("fadtk", "hypy_utils", "frechet_audio_distance", "torchlibrosa")  # without what they need: networks, of which their distance uses none
SCRIPT = Path(__file__).with_name("score_peer.py")
CUT, HEIGHT = 3, 360  # seconds and lines of a clip whose pictures are judged
REFERENCES = 5  # captions of a clip
APART = (1e-6, 1e-6, 1e-6, 0.05)  # that spectral distances may be from the peers'; loudness, LU: they make other filters for rates that are not 48 kHz


def measure(quick: bool) -> Iterator[Result]:
    with common.folder() as where:
        clips = common.synthetic(where, 2, 2, size="160x90", rate=16000) if quick else common.clips(where)
        peers, cut, sounds = Peers(where), shortened(clips, where / "cut", quick), pairs(clips, where / "pairs", quick)
        yield from alignment(peers, cut, where, quick)
        yield from separation(peers, sounds, where, quick)
        yield from spectra(peers, sounds[: len(sounds) // 4], where, quick)
        yield from distances(peers, where, quick)
        yield from captions(peers, where, quick)
        yield from together(cut, where, quick)
        yield from one_by_one(cut, sounds, where, quick)


# --- peers -------------------------------------------------------------------------------------------------------


class Peers:
    """The environment of the peers."""

    def __init__(self, where: Path):
        self.where, folder = where, os.environ.get("AVTOOLS_BENCH_PEERS")
        self.python = sys.executable if not folder else str(Path(folder).absolute() / "bin" / "python")
        if not Path(self.python).exists():
            make(Path(folder))
        self.versions = self("packages", [*PEERS, *ALONE])[0]

    def __call__(self, part: str, given, times: int = 1) -> tuple:
        """Its values, and the seconds of its work: the median of so many times."""
        files = [self.where / f"{part}.{kind}.json" for kind in ("given", "made")]
        files[0].write_text(json.dumps(given))
        run(self.python, SCRIPT, part, *files, times, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # what it shares with us stays as it is
        made = json.loads(files[1].read_text())
        return made["values"], made["seconds"]

    def of(self, *names: str) -> str:
        """Their names and versions; "" where one is missing."""
        found = [f"{name} {self.versions[name]}" for name in names if self.versions[name]]
        return ", ".join(found) if len(found) == len(names) else ""

    def missing(self, what: str, *names: str) -> Result:
        """A row that says so."""
        lack = ", ".join(name for name in names if not self.versions[name])
        hint = "" if os.environ.get("AVTOOLS_BENCH_PEERS") else " (give a folder to install it into: AVTOOLS_BENCH_PEERS)"
        return Result(what, "", f"missing: {lack}{hint}", None, "")


def make(folder: Path) -> None:
    """An environment with the peers, which sees this one's packages."""
    print(f"benchmarks: {folder}: installing {' '.join((*PEERS, *ALONE))}", file=sys.stderr, flush=True)
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    place = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], check=True, capture_output=True, text=True).stdout
    Path(place.strip(), "ours.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for options in (*([name] for name in PEERS), *(["--no-deps", name] for name in ALONE)):  # what cannot be had is said to be missing
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *options], stdin=subprocess.DEVNULL, capture_output=True)


def alike(what: str, ours, theirs, most) -> str:
    """The largest difference, in words; more than `most` (for each column, or one) ends the benchmark."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise SystemExit(f"{what}: ours {ours.shape} and the peer's {theirs.shape} differ in number")
    found = np.abs(ours - theirs).max(axis=0)
    if not np.all(found <= most):
        raise SystemExit(f"{what}: ours and the peer's differ by {found}; {most} is allowed:\n{ours}\n{theirs}")
    return ", ".join(f"{one:.0e}" for one in np.atleast_1d(found))


# --- what is judged ----------------------------------------------------------------------------------------------


def shortened(clips: list[Path], where: Path, quick: bool) -> list[tuple[Path, Path]]:
    """(picture, its sound as WAV) of the first seconds of each clip, HEIGHT high at most."""
    where.mkdir()
    made = []
    for k, clip in enumerate(clips):
        video = ["-vf", rf"scale=-2:min({HEIGHT}\,ih)", "-c:v", "libx264", "-preset", "veryfast", "-crf", 18]
        run("ffmpeg", "-y", "-i", clip, "-t", 1 if quick else CUT, *video, "-c:a", "aac", where / f"{k}.mp4")
        made.append(where / f"{k}.mp4")
    return list(zip(made, common.waves(made, where / "wav"), strict=True))


def pairs(clips: list[Path], where: Path, quick: bool) -> list[tuple[Path, Path]]:
    """(judged, reference) mono sounds, all of a clip: what is judged is the reference, softer, with another clip's sound and noise."""
    import soundfile

    sources, made = [soundfile.read(name, always_2d=True) for name in common.waves(clips, where)], []
    for k in range(4 if quick else 64):
        draw = np.random.default_rng(k)
        (samples, rate), (other, _) = sources[k % len(sources)], sources[(k + 1) % len(sources)]
        length = min(len(samples), len(other))
        samples, other = samples[:length, :1] * 0.8, other[:length, :1]
        judged = draw.uniform(0.5, 1) * samples + draw.uniform(0.01, 0.2) * other + draw.normal(0, 0.003, samples.shape)
        names = where / f"{k}_judged.wav", where / f"{k}_true.wav"
        for name, sound in zip(names, (judged, samples), strict=True):
            soundfile.write(name, np.clip(sound, -0.99, 0.99), rate, subtype="PCM_16")
        made.append(names)
    return made


def table(path: Path, columns: list[str], rows: list) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *([os.fspath(cell) for cell in row] for row in rows)])
    return path


def score(metrics: str, rows: Path, *options) -> list:
    """The command line; it writes the summary beside the table of rows."""
    return [*AVTOOLS, "score", "-q", metrics, rows, "-o", rows.with_suffix(".scored.csv"), "--summary", rows.with_suffix(".json"), *options]


def scored(rows: Path, *columns: str) -> list[list[float]]:
    """The columns of what was scored last, a list for each row."""
    with open(rows.with_suffix(".scored.csv"), newline="") as file:
        return [[float(row[column]) if row[column] else float("nan") for column in columns] for row in csv.DictReader(file)]


# --- of rows -----------------------------------------------------------------------------------------------------


def against(what: str, peers: Peers, part: str, command: list, given: list, quick: bool, ours, most, unit: str, by: str, ask: bool = True) -> Result:
    """A row of two command lines that do the same; `ours()` reads the values that ours made, and `most` is how far they may be apart."""
    count, works = len(given), []

    def peer() -> None:
        values[:], work = peers(part, given)
        works.append(work)

    values: list = []
    took = in_turn(1 if quick else common.ROUNDS, ours=lambda: run(*command), peer=peer)
    work = statistics.median(works)
    apart = alike(what, ours(), values, most)
    return Result(
        f"{what}; {by}; largest difference {apart}",
        f"{took['ours']:.1f} s, {count / took['ours']:.3g} {unit}/s",
        f"{took['peer']:.1f} s (work {work:.1f} s), {count / took['peer']:.3g} {unit}/s",
        took["peer"] / took["ours"], f"equal; {'faster' if ask else 'for information'}", None if quick or not ask else took["peer"] > took["ours"],
    )  # fmt: skip


def alignment(peers: Peers, cut: list, where: Path, quick: bool) -> Iterator[Result]:
    what = f"score av-align --protocol javisbench, {len(cut)} clips of {1 if quick else CUT} s, {HEIGHT} lines at most"
    if not peers.of(*VIDEO):
        yield peers.missing(what, *VIDEO)
        return
    rows = table(where / "align.csv", ["path", "audio_path"], cut)
    given = [list(map(os.fspath, pair)) for pair in cut]
    ours = score("av-align", rows, "--protocol", "javisbench")
    by = f"a plain loop over {peers.of(*VIDEO)}, whose threads use all CPUs"
    yield against(what, peers, "align", ours, given, quick, lambda: [value for (value,) in scored(rows, "av_align")], 1e-9, "clips", by, ask=False)


def separation(peers: Peers, sounds: list, where: Path, quick: bool) -> Iterator[Result]:
    rows = table(where / "sdr.csv", ["generated_audio_path", "audio_path"], sounds)
    given = [list(map(os.fspath, pair)) for pair in sounds]
    what = f"score sdr, {len(sounds)} pairs of {2 if quick else 10} s"
    if not peers.of("torchmetrics"):
        yield peers.missing(what, "torchmetrics")
    else:
        yield against(what, peers, "sdr", score("sdr", rows), given, quick, lambda: scored(rows, "sdr", "si_sdr"), 1e-4, "pairs", peers.of("torchmetrics"))
        if peers.of("fast_bss_eval"):
            values, _ = peers("bss", given)
            apart = alike("si_sdr", [value for (value,) in scored(rows, "si_sdr")], values, 1e-4)
            yield Result(f"si_sdr, {peers.of('fast_bss_eval')}: largest difference, dB", apart, "", None, "at most 1e-4", True)


def spectra(peers: Peers, sounds: list, where: Path, quick: bool) -> Iterator[Result]:
    names, columns = ("auraloss", "pyloudnorm", "librosa"), ("mrstft", "log_spectral_db", "mel_db", "loudness_lu")
    rows = table(where / "spectral.csv", ["generated_audio_path", "audio_path"], sounds)
    what = f"score spectral, {len(sounds)} pairs of {2 if quick else 10} s"
    if not peers.of(*names):
        yield peers.missing(what, *names)
        return
    given = [list(map(os.fspath, pair)) for pair in sounds]
    yield against(what, peers, "spectral", score("spectral", rows), given, quick, lambda: scored(rows, *columns), APART, "pairs", peers.of(*names))


# --- of sets -----------------------------------------------------------------------------------------------------


def distances(peers: Peers, where: Path, quick: bool) -> Iterator[Result]:
    """Of given features: what their networks make of files is left out."""
    from avtools.metrics.frechet import Moments, distance
    from avtools.metrics.kernel import mmd2

    size, rounds = (64, 1) if quick else (512, common.ROUNDS)
    for count in (2 * size,) if quick else (2 * size, size // 2):
        draw, names, both = np.random.default_rng(0), [], []
        mixing = draw.normal(size=(size, size)) / size**0.5 * np.geomspace(1, 0.01, size)
        for k in range(2):
            features = np.maximum(draw.normal(size=(count, size)) @ mixing + 0.2 * k * draw.normal(size=size) / size**0.5 + 0.1, 0).astype(np.float32)
            both.append(features)
            names.append(str(where / f"features{k}.npy"))
            np.save(names[-1], features)
        what = f"of {count} and {count} vectors of {size}"
        for part in ("scipy", "torchmetrics", "fadtk", "frechet_audio_distance", *(["torchmetrics_kid"] if count > size else [])):
            package, kernel = part.removesuffix("_kid"), part.endswith("_kid")
            title = f"{'Kernel' if kernel else 'Fréchet'} distance {what}"
            if not peers.of(package):
                yield peers.missing(title, package)
                continue
            taken = []
            for _ in range(rounds):
                begun = time.perf_counter()
                own = mmd2(*both) if kernel else distance(*map(Moments.of, both))
                taken.append(time.perf_counter() - begun)
            mine, (value, work) = statistics.median(taken), peers(part, names, rounds)
            by = peers.of(package)
            by = f"{by}, sqrtm of the product" if part == "scipy" else by
            apart, most = abs(own - value) / abs(own), 1e-5
            yield Result(
                f"{title}; {by}; {own:.6g} and {value:.6g}, {apart:.0e} apart", f"{mine:.3f} s", f"{work:.3f} s", work / mine,
                f"at most {most:g} apart; faster", apart <= most and (quick or work > mine),
            )  # fmt: skip


WORDS = (
    "a the and with of in on as while then dog cat man woman child crowd bird engine car train rain wind thunder water river bell horn "
    "siren drum guitar piano door wood metal glass barks meows speaks laughs cries sings cheers claps chirps revs passes honks falls blows "
    "rumbles splashes flows rings blares plays slams creaks clatters breaks hums buzzes ticks taps knocks loudly softly quickly slowly twice "
    "nearby far away background distance room street forest"
).split()


def sentences(count: int) -> list[tuple[str, list[str]]]:
    """(caption, references), lower case, no punctuation, words that no tokenizer divides."""
    draw, made = random.Random(0), []
    weights = [1 / (k + 1) for k in range(len(WORDS))]
    for _ in range(count):
        said = draw.choices(WORDS, weights, k=draw.randint(6, 14))

        def other(share: float, said=said) -> str:
            words = [draw.choice(WORDS) if draw.random() < share else word for word in said]
            return " ".join(words[: draw.randint(len(words) - 2, len(words))])

        made.append((other(0.3), [other(0.3) for _ in range(REFERENCES)]))
    return made


def texts(path: Path, given: list) -> Path:
    """A table of captions with their references."""
    with open(path, "w") as file:
        for k, (text, true) in enumerate(given):
            file.write(json.dumps({"id": str(k), "generated_text": text, "reference_text": true}) + "\n")
    return path


def captions(peers: Peers, where: Path, quick: bool) -> Iterator[Result]:
    given = sentences(50 if quick else 2000)
    rows, names = texts(where / "captions.jsonl", given), [f"bleu_{n}" for n in range(1, 5)]
    command = score("bleu,rouge,cider", rows)
    what = f"score bleu,rouge,cider, {len(given)} captions of {REFERENCES} references, with intervals"

    def values() -> list[float]:
        found = json.loads(rows.with_suffix(".json").read_text())["metrics"]
        return [*(found[name]["value"] for name in names), found["cider"]["value"], *(value for (value,) in scored(rows, "rouge_l"))]

    if peers.of("pycocoevalcap"):
        made = []
        took = in_turn(1 if quick else common.ROUNDS, ours=lambda: run(*command), peer=lambda: made.append(peers("captions", given)))
        found, ours, work = made[0][0], values(), statistics.median(work for _, work in made)
        apart = alike("captions", ours, [*found["bleu"], found["cider"], *found["rouge"]], 1e-6)
        yield Result(
            f"{what}; {peers.of('pycocoevalcap')}, of words, without its Java tokenizer or intervals; largest difference {apart}",
            f"{took['ours']:.2f} s", f"{took['peer']:.2f} s (work {work:.2f} s)", took["peer"] / took["ours"], "equal; for information",
        )  # fmt: skip
    else:
        yield peers.missing(what, "pycocoevalcap")
        run(*command)
        ours = values()
    if peers.of("sacrebleu"):
        apart = alike("BLEU-4", ours[3], peers("bleu", given)[0], 1e-9)
        yield Result(f"BLEU-4, {peers.of('sacrebleu')}: largest difference", apart, "", None, "at most 1e-9", True)
    if peers.of("rouge-score"):
        most = [(1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p else 0.0 for p, r in peers("rouge", given)[0]]
        apart = alike("ROUGE-L", ours[5:], most, 1e-9)
        yield Result(f"ROUGE-L with beta 1.2, precision and recall of {peers.of('rouge-score')}: largest difference", apart, "", None, "at most 1e-9", True)


# --- one pass ----------------------------------------------------------------------------------------------------


def together(cut: list, where: Path, quick: bool) -> Iterator[Result]:
    """Several metrics in one call; each in its own; all with a cache that has the network's features."""
    names, options = ["health", "loudness"] if quick else ["av-align", "health", "loudness"], []
    try:
        options = ["--weights", f"clip={clip_network(where / 'clip', quick)}", *(["--set", "clip.size=32"] if quick else [])]
        names.insert(0, "clip")
    except ImportError:
        pass
    pictures = common.copies([video for video, _ in cut], where / "together", len(cut) * (1 if quick else 2))
    files, every, warm = ([video, "a dog barks"] for video in pictures), ",".join(names), where / "cache"
    rows = table(where / "together.csv", ["path", "text"], list(files))

    def alone() -> None:
        for name in names:
            run(*score(name, rows, *(options if name == "clip" else [])))
            made[name] = results(rows)

    made: dict = {}

    def one() -> None:
        run(*score(every, rows, *options))
        made["one"] = results(rows)

    def again() -> None:
        run(*score(every, rows, *options, "--cache", warm))
        made["again"] = results(rows)

    again()  # fills it
    took = in_turn(1 if quick else 2, alone=alone, one=one, again=again)
    if made["one"] != {column: value for name in names for column, value in made[name].items()} or made["one"] != made["again"]:
        raise SystemExit(f"score {every}: one call, {len(names)} calls and a warm cache give different results: {made}")
    what = f"score {every}, {len(pictures)} clips of {1 if quick else CUT} s{'; CLIP of random weights' * bool(options)}"
    yield faster(f"{what}: one call; {len(names)} calls", took["one"], took["alone"], quick)
    if options:
        yield faster(f"{what}: a warm --cache; none", took["again"], took["one"], quick)


def faster(what: str, ours: float, other: float, quick: bool) -> Result:
    """A row of the seconds that both take."""
    return Result(what, f"{ours:.1f} s", f"{other:.1f} s", other / ours, "equal; faster", None if quick else other > ours)


def results(rows: Path) -> dict:
    """Column -> all that the summary says of it."""
    return json.loads(rows.with_suffix(".json").read_text())["metrics"]


def clip_network(folder: Path, quick: bool) -> Path:
    """CLIP ViT-B/32 (quick: a small one) of random weights, as it is released."""
    import torch
    import transformers

    from avtools.models.parts.imagebind.text import vocabulary

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    sizes = {"text_config": small, "vision_config": {**small, "image_size": 32, "patch_size": 8}, "projection_dim": 24} if quick else {}
    folder.mkdir()
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes))
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return folder


# --- each plain metric -------------------------------------------------------------------------------------------


def one_by_one(cut: list, sounds: list, where: Path, quick: bool) -> Iterator[Result]:
    """Rows/s of each metric without a network, by what more rows take (of the same files), so that starting is left out."""
    from avtools.metrics import PLAIN
    from avtools.models import registry

    few = 4
    for name in PLAIN:
        metric = registry.metric(name)
        words, seen = "generated_text" in metric.needs, "picture" in metric.needs
        if name == "av-align":
            continue  # measured above
        took: list[tuple[int, float]] = []  # rows, seconds
        count = few
        while not took or not quick and took[-1][1] - took[0][1] < 2 and count <= 1 << 16:
            rows = many(where, cut, sounds, count, words, seen)
            took.append((count, common.seconds(lambda: run(*score(name, rows)))))  # noqa: B023: called at once
            count *= 16 if words else 4
        (less, short), (count, long) = took[0], took[-1]
        rate = count / long if quick else (count - less) / (long - short)
        each = f"captions of {REFERENCES} references" if words else f"clips of {1 if quick else CUT} s" if seen else f"sounds of {2 if quick else 10} s"
        yield Result(f"score {name}, {count} {each}", f"{rate:.3g} rows/s", "", None, "for information")


def many(where: Path, cut: list, sounds: list, count: int, words: bool, seen: bool) -> Path:
    """A table of rows that has what any plain metric needs."""
    if words:
        return texts(where / "many.jsonl", sentences(count))
    if seen:
        return table(where / "many.csv", ["generated_path", "path"], [[cut[k % len(cut)][0], cut[(k + 1) % len(cut)][0]] for k in range(count)])
    return table(where / "many.csv", ["generated_audio_path", "audio_path"], [sounds[k % len(sounds)] for k in range(count)])
