"""Public metric code on the files that `benchmarks.score` gives it; a script of its own, for an environment that has the peers.

`python score_peer.py PART GIVEN MADE [TIMES]`: GIVEN and MADE are JSON files.  MADE gets "values", and "seconds": of the work without
imports, the median of TIMES.  A part is a generator: it imports, and then works each time that it is asked.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import statistics
import sys
import time
from unittest import mock

EPSILON = 1e-6  # JavisBench's, of AV-Align's denominator


def packages(names: list[str]):
    """Name of a package -> its version, None where it is not installed."""
    found = dict.fromkeys(names)
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    yield
    yield found


def align(rows: list):
    """AV-Align of [video, sound file], frame by frame."""
    import cv2
    import librosa
    import numpy as np

    yield
    made = []
    for video, sound in rows:
        capture, last, flow = cv2.VideoCapture(video), None, []
        fps = capture.get(cv2.CAP_PROP_FPS)
        while True:
            there, frame = capture.read()
            if not there:
                break
            gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            if last is not None:
                moved = cv2.calcOpticalFlowFarneback(last, gray, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                flow.append(np.mean(cv2.cartToPolar(moved[..., 0], moved[..., 1])[0]))
            last = gray
        capture.release()
        flow = flow[:1] + flow
        peaks = [k / fps for k in range(1, len(flow) - 1) if flow[k - 1] < flow[k] > flow[k + 1]]
        samples, rate = librosa.load(sound, sr=None)
        onsets = librosa.onset.onset_detect(y=samples, sr=rate, units="time")
        hits = sum(any(peak - 1 / fps < onset < peak + 1 / fps for peak in peaks) for onset in onsets)
        made.append(hits / (len(onsets) + len(peaks) - hits + EPSILON))
    yield made


def heard(name: str):
    """The mean of a file's channels, float64 tensor (n,), and its rate."""
    import soundfile
    import torch

    samples, rate = soundfile.read(name, dtype="float64", always_2d=True)
    return torch.from_numpy(samples.mean(axis=1)), rate


def sdr(rows: list):
    """SDR and SI-SDR of [judged, reference], torchmetrics."""
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

    yield
    made = []
    for judged, reference in rows:
        (one, _), (other, _) = heard(judged), heard(reference)
        made.append([float(signal_noise_ratio(one, other)), float(scale_invariant_signal_distortion_ratio(one, other))])
    yield made


def bss(rows: list):
    """SI-SDR of [judged, reference], fast_bss_eval."""
    import fast_bss_eval

    yield
    yield [float(fast_bss_eval.si_sdr(heard(reference)[0][None], heard(judged)[0][None])[0]) for judged, reference in rows]


def spectral(rows: list):
    """mrstft (auraloss), log_spectral_db and mel_db (librosa), loudness_lu (pyloudnorm) of [judged, reference]."""
    import auraloss
    import librosa
    import numpy as np
    import pyloudnorm
    import soundfile
    import torch

    distance = auraloss.freq.MultiResolutionSTFTLoss()
    for one in distance.stft_losses:
        one.window = one.window.double()
    yield
    made = []
    for judged, reference in rows:
        (one, rate), (other, _) = heard(judged), heard(reference)
        with torch.no_grad():
            row = [float(distance(one[None, None], other[None, None]))]
        powers = [np.abs(librosa.stft(signal.numpy(), n_fft=2048, hop_length=512, pad_mode="reflect")) ** 2 for signal in (one, other)]
        decibels = [10 * np.log10(np.maximum(power, 1e-8)) for power in powers]
        row.append(float(np.sqrt(np.mean((decibels[0] - decibels[1]) ** 2, axis=0)).mean()))
        bands = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=128, dtype=np.float64)
        mels = [bands @ power for power in powers]
        least = mels[1].max() * 1e-8
        row.append(float(np.mean(np.abs(10 * np.log10(np.maximum(mels[0], least) / np.maximum(mels[1], least))))))
        meter = pyloudnorm.Meter(rate)
        loud = [meter.integrated_loudness(soundfile.read(name, dtype="float64", always_2d=True)[0]) for name in (judged, reference)]
        made.append([*row, loud[0] - loud[1]])
    yield made


def captions(rows: list):
    """{"bleu": BLEU-1 to -4, "rouge": of each row, "cider"} of [text, references], words between spaces; pycocoevalcap without its tokenizer."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    yield
    judged, references = {k: [text] for k, (text, _) in enumerate(rows)}, {k: true for k, (_, true) in enumerate(rows)}
    bleu, _ = Bleu(4).compute_score(references, judged, verbose=0)
    rouge = Rouge().compute_score(references, judged)[1]
    yield {"bleu": bleu, "rouge": [float(value) for value in rouge], "cider": float(Cider().compute_score(references, judged)[0])}


def bleu(rows: list):
    """BLEU-4, sacrebleu; all rows have as many references."""
    import sacrebleu

    yield
    references = [list(column) for column in zip(*(true for _, true in rows), strict=True)]
    yield sacrebleu.corpus_bleu([text for text, _ in rows], references, smooth_method="none", tokenize="none", force=True).score / 100


def rouge(rows: list):
    """The largest ROUGE-L precision and recall of each row, rouge-score."""
    from rouge_score import rouge_scorer, tokenizers

    class Spaces(tokenizers.Tokenizer):
        def tokenize(self, text):
            return text.split()

    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Spaces())
    yield
    made = []
    for text, references in rows:
        found = [scorer.score(reference, text)["rougeL"] for reference in references]
        made.append([max(one.precision for one in found), max(one.recall for one in found)])
    yield made


# --- distances of sets of features -------------------------------------------------------------------------


def sets(names: list[str]):
    """(N, D) float32 each."""
    import numpy as np

    return [np.load(name) for name in names]


def scipy(names: list[str]):
    """The Fréchet distance as most papers' code has it: the root of the product of both covariances."""
    import numpy as np
    from scipy import linalg

    one, other = sets(names)
    yield
    while True:
        apart = one.mean(axis=0, dtype=np.float64) - other.mean(axis=0, dtype=np.float64)
        first, second = (np.cov(side, rowvar=False) for side in (one, other))
        root = linalg.sqrtm(first @ second)
        yield float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.trace(root.real))


def torchmetrics(names: list[str]):
    """FrechetInceptionDistance of features that are there already."""
    yield from judged_by("fid", "FrechetInceptionDistance", names)


def torchmetrics_kid(names: list[str]):
    """KernelInceptionDistance's MMD of all features at once."""
    yield from judged_by("kid", "KernelInceptionDistance", names)


def judged_by(module: str, name: str, names: list[str]):
    import torch

    class Same(torch.nn.Module):
        num_features = sets(names)[0].shape[1]

        def forward(self, features):
            return features

    one, other = (torch.from_numpy(side).double() for side in sets(names))
    subset = {"subsets": 1, "subset_size": len(one)} if module == "kid" else {}  # all of them
    metric = getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)(Same(), **subset)
    yield
    while True:
        metric.reset()
        metric.update(other, real=True)
        metric.update(one, real=False)
        found = metric.compute()
        yield float(found[0] if subset else found)


def fadtk(names: list[str]):
    """calc_frechet_distance."""
    sys.meta_path.append(LeftOut())
    from fadtk import fad

    one, other = sets(names)
    yield
    while True:
        yield float(fad.calc_frechet_distance(*fad.calc_embd_statistics(one), *fad.calc_embd_statistics(other)))


def frechet_audio_distance(names: list[str]):
    """calculate_frechet_distance."""
    sys.meta_path.append(LeftOut())
    from frechet_audio_distance import FrechetAudioDistance

    one, other = sets(names)
    found = object.__new__(FrechetAudioDistance)  # without its network
    found.verbose = False
    yield
    while True:
        yield float(found.calculate_frechet_distance(*found.calculate_embd_statistics(one), *found.calculate_embd_statistics(other)))


class LeftOut(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages of networks that a peer imports, none of which its distance uses: empty, where they are not installed."""

    NAMES = ("encodec", "laion_clap", "msclap", "nnAudio", "resampy", "wandb", "wget")

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.NAMES else None

    def create_module(self, spec):
        return mock.MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module):
        pass


def main(part: str, given: str, made: str, times: str = "1") -> None:
    with open(given) as file:
        work = globals()[part](json.load(file))
    next(work)  # its imports
    taken = []
    for _ in range(int(times)):
        begun = time.perf_counter()
        values = next(work)
        taken.append(time.perf_counter() - begun)
    with open(made, "w") as file:
        json.dump({"values": values, "seconds": statistics.median(taken)}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
