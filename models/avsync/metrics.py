"""How well sound and picture are in time, by the learned classifier: of a pair, against its truth, and by shifting.

torch is imported by what runs in the process of the network alone: listings need none.
"""

import dataclasses
import functools
import hashlib
import math
from collections import OrderedDict

from avtools.errors import RowError, UsageError
from avtools.metrics import Metric
from avtools.models.avsync.config import MAIN
from avtools.models.parts.imagebind.checkpoint import PART as IMAGEBIND
from avtools.rows.keys import number

SECONDS, SIZE, RATE = 2.0, 224, 16000  # of a clip; of pictures as they are sent to the network; of sound, Hz
START = "reference_start"  # column: where in the reference the judged clip's truth begins, seconds (else `start`, else 0)
CLASSIFIER = dataclasses.replace(MAIN, name="avsync")  # as its weights are called beside those of other networks
AT_ONCE = 32  # clips
KEPT = 32  # rows whose embeddings are kept for other metrics, and for other sounds with the same picture
HEARD = frozenset({"stereo", "packets"})  # legacy forms of sound
_SOURCE = "Zhang et al. 2024, Audio-Synchronized Visual Animation (arXiv:2403.05659)"


class _Judged(Metric):
    """What all share: the classifier, and clips of 2 s with 12 pictures.

    Pictures are as in its training: those nearest to k / 6 s, shorter side 224 (bicubic), the middle.
    """

    source = _SOURCE
    direction = "higher"
    network = True
    released_run = False
    needs = ("picture", "sound")
    requires = (("torch", "torch"), ("torchaudio", "torchaudio"))
    resampler = "torchaudio sinc to 16000 Hz (soxr HQ from rates with few common factors)"
    parts = (CLASSIFIER,)

    def load(self, device, weights):
        self.judge = Judge.of(classifier(weights, self.name), device)

    def weights_digest(self, weights):
        from avtools.models.avsync import checkpoint

        return checkpoint.digest_of(classifier(weights, self.name))

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("judge", "imagebind")}


class _Scored(_Judged):
    """Of a clip longer than 2 s, as many clips as fit without overlap, but `windows` at most, spread evenly from its begin to
    its end; the result is their mean.

    Protocol asva (Zhang et al. 2024): the first 2 s alone; pictures the first at or after k / 6 s, all of each squashed to
    224 x 224; a reference is first cropped to the judged picture's aspect and size.  `legacy` (names joined by "+":
    stereo, packets, frames): with it, forms of the published scorer's reading (avtools.models.parts.sync_clips).
    """

    settings = {"windows": 8, "pictures": "trained", "legacy": ""}
    protocols = {"asva": {"windows": 1, "pictures": "asva"}}

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["pictures"] not in ("trained", "asva"):
            raise UsageError(f"--set {self.name}.pictures={self.set['pictures']}: trained or asva")
        if not self.set["windows"]:
            raise UsageError(f"--set {self.name}.windows=0: 1 or more")
        self.asva = self.set["pictures"] == "asva"
        self.legacy = frozenset(filter(None, self.set["legacy"].split("+")))
        if self.legacy - HEARD - {"frames"}:
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: of {', '.join(sorted(HEARD | {'frames'}))}, joined by '+'")
        if self.legacy and not self.asva:
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: forms of the protocol asva; give --protocol asva")

    def prepare(self, pair):
        return self.clips(pair, self.starts(pair))

    def starts(self, pair, reference: bool = False) -> tuple[float, ...]:
        """Where the clips of the judged pair begin; as far as its reference lasts, too."""
        from avtools.models.parts.sync_clips import starts

        length = seconds_of(pair, "")
        if reference:
            length = min(length, seconds_of(pair, "reference_") - begin_of(pair.row))
        count = min(self.set["windows"], max(1, math.floor(length / SECONDS)))
        return tuple(starts("first" if self.asva and count == 1 else "uniform", length, count, name=pair.file("video")))

    def clips(self, pair, starts, role: str = "", size: tuple[int, int] | None = None) -> dict:
        """The arrays of the judged pair's clips, or ("reference_") its reference's; `size`: that a picture is cropped to first."""
        form = "asva" if self.asva else "trained"
        path = pair.file(role + "video")
        kept = pair.keep(("avsync", path, form, starts, size, self.legacy), functools.partial(pictures, path, starts, form, size, self.legacy & {"frames"}))
        pair.facts[role + "avsync"] = {"clips": len(starts), "pictures": len(kept["pictures"])}
        if self.legacy & HEARD and (role or pair.keep("avsync_own", lambda: pair) is pair):  # a control has a sound of its own, of no file
            sound = pair.file(role + "audio")
            return {**kept, **packed_sounds(_legacy_sounds(path, sound, starts, self.legacy & HEARD))}
        return {**kept, **heard(pair.reference_sound if role else pair.sound, starts)}

    def referenced(self, pair) -> dict:
        """The arrays of both, the reference's with names that begin with "true_"."""
        found, begin = self.starts(pair, True), begin_of(pair.row)
        own, size = self.clips(pair, found), None
        if self.asva:
            size = pair.keep(("avsync_size", pair.file("video")), lambda: picture_size(pair.file("video")))
        other = self.clips(pair, tuple(begin + start for start in found), "reference_", size)
        return {**own, **{f"true_{name}": array for name, array in other.items()}}


class AvSyncScore(_Scored):
    __doc__ = f"""The classifier's raw score of sound and picture: a logit without a temperature.

    {_Scored.__doc__}"""

    name = "avsync"
    title = "Synchrony of sound and picture by a learned classifier, raw score"
    columns = {"avsync": "mean raw score of 2 s clips (logit; above: better in time)"}

    def run(self, items):
        return [{"score": self.judge.scores(item).cpu().numpy()} for item in items]

    def row(self, item):
        return {"avsync": float(item["score"].mean(dtype="float64"))}


class RelSync(_Scored):
    __doc__ = f"""The classifier's score of a pair against that of its reference: sigma(s - s of the reference).

    0.5: as well in time as the truth.  The reference is the true picture with the true sound; in it the clip begins at
    `{START}` (else `start`, else 0) seconds.

    {_Scored.__doc__}"""

    name = "relsync"
    title = "Synchrony by a learned classifier, relative to the true pair"
    columns = {"relsync": "mean of 1 / (1 + exp(s of the reference - s)); 0.5: as good as the truth"}
    ranges = {"relsync": (0.0, 1.0)}
    needs = ("picture", "sound", "reference_picture")

    def prepare(self, pair):
        return self.referenced(pair)

    def run(self, items):
        from avtools.models.avsync.evaluation import relsync

        return [{"relative": relsync(self.judge.scores(item), self.judge.scores(of_truth(item))).cpu().numpy()} for item in items]

    def row(self, item):
        return {"relsync": float(item["relative"].mean(dtype="float64"))}


class AlignSync(RelSync):
    __doc__ = f"""RelSync times how alike sound and picture are against the reference, by ImageBind.

    A clip's is RelSync x mean over its pictures but the first of sigma(IA of the picture and the sound - IA of the
    reference's first picture and sound).  Differences of cosines are small, so that factor is about 0.5: it is about half of
    RelSync.  Needs two networks: --weights {CLASSIFIER.name}=..., --weights {IMAGEBIND.name}=...

    {_Scored.__doc__}"""

    name = "alignsync"
    title = "RelSync times the similarity of sound and picture relative to the true pair"
    columns = {"alignsync": "mean of RelSync x sigma(ImageBind cosine - that of the true first picture)"}
    ranges = {"alignsync": (0.0, 1.0)}
    requires = (*_Judged.requires, ("PIL", "pillow"))
    parts = (CLASSIFIER, IMAGEBIND)

    def load(self, device, weights):
        from avtools.models.parts.imagebind.checkpoint import file_of, locate
        from avtools.models.parts.imagebind.metrics import Judge as Similarity

        super().load(device, weights)
        self.imagebind = Similarity.of(file_of(locate(weights, IMAGEBIND.name, "ia", system="vta-ldm")), device)

    def weights_digest(self, weights):
        from avtools.models.parts.imagebind.checkpoint import digest

        return f"{super().weights_digest(weights)} {IMAGEBIND.name}={digest(weights, IMAGEBIND.name, 'ia', system='vta-ldm')}"

    def run(self, items):
        import torch

        from avtools.models.avsync.evaluation import alignsync
        from avtools.models.parts.imagebind.model import cosines

        found = []
        for item, told in zip(items, super().run(items), strict=True):
            true = of_truth(item)
            pictures, true_pictures = self.imagebind.pictures([item["pictures"], true["pictures"]])
            sounds, true_sounds = (self.imagebind.sounds([clip[None] for clip in windows(one)]) for one in (item, true))
            similar = torch.stack([cosines(pictures[index[1:]], sound) for index, sound in zip(item["index"], sounds, strict=True)])
            truth = torch.stack([cosines(true_pictures[index[:1]], sound)[0] for index, sound in zip(true["index"], true_sounds, strict=True)])
            relative = torch.from_numpy(told["relative"]).to(similar.device)
            found.append({"aligned": alignsync(relative, similar, truth).cpu().numpy()})
        return found

    def row(self, item):
        return {"alignsync": float(item["aligned"].mean(dtype="float64"))}


class SyncAccuracy(_Judged):
    """How often the classifier finds what belongs together among shifts.

    `clips` clips, `step` seconds apart, in the middle of the video (31 of 0.04 s take 3.2 s).  The middle one's sound is
    matched with the picture it scores highest with, and its picture with the sound; right if at most `tolerance`
    seconds off, which people take for simultaneous.  Chance: the share of the clips that lie within the tolerance.  Rows
    count as they stand in the table: leave repeated videos out.
    """

    name = "sync-accuracy"
    title = "Accuracy of a learned classifier in telling true from shifted pairs, both ways"
    source = f"{_SOURCE}; Chen et al. 2021, Audio-Visual Synchronisation in the Wild (arXiv:2112.04432)"
    columns = {
        "sync_accuracy": "mean of both ways, 0, 0.5 or 1 of a row",
        "sync_a2v": "1 where the middle sound's best picture is within the tolerance",
        "sync_v2a": "1 where the middle picture's best sound is within the tolerance",
    }
    ranges = dict.fromkeys(columns, (0.0, 1.0))
    settings = {"clips": 31, "step": 0.04, "tolerance": 0.2}
    protocols = {"asva": {"clips": 31, "step": 0.04, "tolerance": 0.2}}
    chance = 11 / 31
    chance_how = "the share of clips within the tolerance"

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["clips"] < 2 or not self.set["step"]:
            raise UsageError(f"--set {self.name}.{'clips=%d: 2 or more' % self.set['clips'] if self.set['step'] else 'step=0: more than 0'}")
        self.steps = math.floor(self.set["tolerance"] / self.set["step"] + 1e-6)
        self.chance = chance(self.set["clips"], self.steps)

    def prepare(self, pair):
        from avtools.models.parts.sync_clips import starts

        found = tuple(starts("center-compact", seconds_of(pair, ""), self.set["clips"], self.set["step"], name=pair.file("video")))
        path = pair.file("video")
        kept = pair.keep(("avsync", path, "trained", found), functools.partial(pictures, path, found))
        pair.facts["sync-accuracy"] = {"clips": len(found), "pictures": len(kept["pictures"])}
        return {**kept, **heard(pair.sound, found)}

    def run(self, items):
        import torch

        from avtools.models.avsync.evaluation import shifts

        found = []
        for item in items:
            audio, video = self.judge.features(item)
            scores = self.judge.net.pairs(audio[None], video[None])
            told, known = shifts(scores, self.steps), torch.where(scores.isfinite().all(), 1.0, torch.nan)
            found.append({name: (told[f"{name}_correct"] * known).cpu().numpy() for name in ("audio_to_video", "video_to_audio")})
        return found

    def row(self, item):
        there, back = (float(item[name][0]) for name in ("audio_to_video", "video_to_audio"))
        return {"sync_accuracy": (there + back) / 2, "sync_a2v": there, "sync_v2a": back}


def chance(clips: int, steps: int) -> float:
    """The share of `clips` clips that lie within `steps` of the middle one (number clips // 2): 11 / 31 for 31 and 5."""
    centre = clips // 2
    return (min(clips - 1, centre + steps) - max(0, centre - steps) + 1) / clips


# --- in the workers -------------------------------------------------------------------------------------------------


def seconds_of(pair, role: str) -> float:
    """How long picture and sound of the judged pair last, or ("reference_") of its reference."""
    sound = pair.reference_sound if role else pair.sound
    return min(pair.keep(("seconds", pair.file(role + "video")), lambda: picture_seconds(pair.file(role + "video"))), len(sound.samples) / sound.rate)


def picture_seconds(path: str) -> float:
    return float(_picture(path).duration)


def picture_size(path: str) -> tuple[int, int]:
    """(height, width) as shown."""
    picture = _picture(path)
    return picture.height, picture.width


def _picture(path: str):
    from avtools.media.probe import probe

    picture = probe(path).picture
    if picture is None or picture.is_image or not picture.duration:
        raise RowError(f"{path}: is no moving picture; give a video, or name its column with --video-column")
    return picture


def begin_of(row: dict) -> float:
    """Where the row's truth begins in its reference, seconds."""
    begin = next((value for column in (START, "start") if (value := number(row, column)) is not None), 0.0)
    if begin < 0:
        raise RowError(f"{START} {begin:g}: give seconds from the reference's first frame")
    return float(begin)


def pictures(path: str, starts, form: str = "trained", size: tuple[int, int] | None = None, legacy=frozenset()) -> dict:
    """`pictures`, (U, 224, 224, 3) uint8 as in training or (U, 3, 224, 224) float32 as asva has them, and `index` (K, 12)."""
    import numpy as np
    import torch

    from avtools.models.parts import frames
    from avtools.models.parts.sync_clips import read_pictures

    if form == "asva":
        kept, index, _ = read_pictures(path, starts, size or (SIZE, SIZE), "next", "crop" if size else "squash", legacy)
        return {"pictures": frames.squash(torch.from_numpy(kept), SIZE, SIZE).numpy(), "index": index}
    kept, index, _ = read_pictures(path, starts, (SIZE, SIZE), "nearest", "short")
    return {"pictures": np.ascontiguousarray(np.rint(kept.transpose(0, 2, 3, 1) * 255).clip(0, 255).astype(np.uint8)), "index": index}


def heard(sound, starts) -> dict:
    """`sound` (N,) float32 at 16 kHz, the first channel of metrics.media.Sound, and `begins` (K,): where each clip begins in it."""
    import numpy as np

    from avtools.models.parts.sync_clips import resampled

    whole, rate, length = sound.samples[:, 0], sound.rate, round(SECONDS * RATE)

    def span(start: float, samples: int):
        """So many samples at 16 kHz, resampled with what lies around them; silence beyond the sound."""
        grid, margin = rate // math.gcd(rate, RATE), rate // 20
        first = (math.floor(start * rate) - margin) // grid * grid
        last = math.ceil((start + samples / RATE) * rate) + margin
        part = np.zeros(last - first, np.float32)
        low, high = max(0, first), min(len(whole), last)
        if low < high:
            part[low - first : high - first] = whole[low:high]
        part = resampled(part[:, None], rate)[0]
        begin = math.floor(start * RATE + 1e-3) - first * RATE // rate
        return part[begin : begin + samples]

    if starts[-1] - starts[0] < SECONDS * len(starts):
        begins = np.array([round((start - starts[0]) * RATE) for start in starts])
        return {"sound": span(starts[0], int(begins[-1]) + length), "begins": begins}
    return packed_sounds([span(start, length)[None] for start in starts])


def packed_sounds(sounds: list) -> dict:
    """Clips (channels, samples) one after another; each is cut, or filled up with silence, to 2 s."""
    import numpy as np

    length = round(SECONDS * RATE)
    clips = [np.pad(sound[0][:length], (0, max(0, length - sound.shape[1]))) for sound in sounds]
    return {"sound": np.concatenate(clips).astype(np.float32), "begins": np.arange(len(clips)) * length}


def _legacy_sounds(video: str, sound: str, starts, legacy: frozenset) -> list:
    from avtools.models.parts.sync_clips import read_sounds

    return read_sounds(video, starts, None if sound == video else sound, legacy=legacy)


def windows(item: dict):
    """The clips' sounds, (K, 32000)."""
    import numpy as np

    return item["sound"][item["begins"][:, None] + np.arange(round(SECONDS * RATE))]


def of_truth(item: dict) -> dict:
    return {name.removeprefix("true_"): array for name, array in item.items() if name.startswith("true_")}


# --- in the network's process ---------------------------------------------------------------------------------------


def classifier(weights, metric: str):
    """Where the classifier's weights are, given as the metric's, as "avsync" or alone."""
    from avtools.models.avsync.checkpoint import locate

    found = (weights.get(name) for name in (metric, CLASSIFIER.name, "") if weights is not None)
    return locate(next((source for source in found if source is not None), None))


class Judge:
    """The classifier on one device, loaded when first asked for; one for all metrics of a process (:meth:`of`)."""

    _known: dict = {}

    def __init__(self, path, device):
        from avtools.models.avsync import checkpoint
        from avtools.models.avsync.model import AvSyncNet

        self.device, self.config = device, checkpoint.config_of(path)
        self.net = AvSyncNet(self.config)
        checkpoint.load_net(self.net, path)
        self.net.to(device).eval().requires_grad_(False)
        self._seen: OrderedDict = OrderedDict()

    @classmethod
    def of(cls, path, device) -> "Judge":
        key = (str(path), str(device))
        if key not in cls._known:
            cls._known[key] = cls(path, device)
        return cls._known[key]

    def scores(self, item: dict):
        """(K,) raw scores of an item's clips, sound and picture of the same time."""
        return self.net.score(*self.features(item)).float()

    def features(self, item: dict):
        """(K, D) of the sounds and (K, D) of the pictures of `pictures`, `index`, `sound`, `begins`."""
        sound = self._once(("sound", "begins"), item, self._sounds)
        return sound, self._once(("pictures", "index"), item, self._pictures)

    def _once(self, names, item, make):
        whole = hashlib.blake2b(digest_size=16)
        for name in names:
            whole.update(str((item[name].shape, item[name].dtype)).encode() + item[name].tobytes())
        key = whole.digest()
        if key not in self._seen:
            self._seen[key] = make(*(item[name] for name in names))
        self._seen.move_to_end(key)
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return self._seen[key]

    def _sounds(self, sound, begins):
        import torch

        from avtools.models.avsync.data import mels_of

        mels = mels_of(torch.from_numpy(sound).to(self.device), torch.from_numpy(begins).to(self.device), self.config.mel_frames)
        return torch.cat([self.net.audio_encoder(some) for some in mels.split(AT_ONCE)])

    def _pictures(self, pictures, index):
        import torch

        from avtools.models.avsync.data import pictures_of
        from avtools.models.parts.frames import squash

        pictures, index, size = torch.from_numpy(pictures).to(self.device), torch.from_numpy(index).to(self.device), self.config.frame_size
        if size != SIZE:  # a small classifier
            pictures = pictures.permute(0, 3, 1, 2).float() / 255 if pictures.dtype == torch.uint8 else pictures
            pictures = squash(pictures, size, size)
        return torch.cat([self.net.video_encoder(pictures_of(pictures, some)) for some in index.split(AT_ONCE)])
