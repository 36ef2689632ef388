"""How well picture and sound, and picture and text, agree in ImageBind's joint embedding.

torch is imported by what runs in the process of the network alone: listings need none.
"""

import functools
import hashlib
import math
from collections import OrderedDict

from avtools.errors import RowError, UsageError
from avtools.metrics import Metric, Skip
from avtools.models.parts.imagebind.checkpoint import PART, digest, file_of, locate

RATE, SECONDS, SIZE = 16000, 2.0, 224  # of sound (Hz), of one of its clips, of pictures (pixels)
TEXTS, CLASSES = ("text", "description", "captions"), ("class", "label")  # columns, the first that is not empty
SYSTEM = "vta-ldm"  # whose `avtools fetch` gets the weights
PICTURES = 64  # at once
KEPT = 64  # clips whose embeddings are kept for other metrics, and for other sounds with the same picture
CHOICES = {"pictures": ("shown", "asva"), "fit": ("crop", "squash"), "channel": ("mean", "first"), "words": ("caption", "class")}
HEARD = frozenset({"stereo", "packets"})  # legacy forms of sound
_STANDARD = {"pictures": "shown", "fps": 2.0, "fit": "crop", "skip": 0, "legacy": ""}
_ASVA = {"pictures": "asva", "fit": "squash", "skip": 1}


class _Similarity(Metric):
    """What both share: the pictures.

    Standard: what is shown at k / `fps` seconds through the whole clip, shorter side 224 (bicubic), the middle.  `fit`
    squash: all of the picture, whatever that does to its aspect.  `skip`: so many pictures, from the first, are not judged.

    Protocol asva (Zhang et al. 2024): 12 pictures at 6 per second of the first 2 s, squashed; the first, which the
    generator was given, is not judged.  `legacy` (names joined by "+": stereo, packets, frames): with it, forms of the
    published scorer's reading that published numbers have seen (avtools.models.parts.sync_clips).
    """

    direction = "higher"
    network = True
    released_run = False
    requires = (("torch", "torch"), ("PIL", "pillow"))
    parts = (PART,)

    def __init__(self, **settings):
        super().__init__(**settings)
        for name, known in CHOICES.items():
            if name in self.set and self.set[name] not in known:
                raise UsageError(f"--set {self.name}.{name}={self.set[name]}: {' or '.join(known)}")
        if not 0 < self.set["fps"] <= 1000:
            raise UsageError(f"--set {self.name}.fps={self.set['fps']:g}: above 0, and 1000 at most")
        self.legacy = frozenset(filter(None, self.set["legacy"].split("+")))
        known = HEARD | {"frames"}
        if self.legacy - known:
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: of {', '.join(sorted(known))}, joined by '+'")
        if self.legacy and self.set["pictures"] != "asva":
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: forms of the protocol asva; give --protocol asva")

    def pictures(self, pair):
        """Of the judged picture: (T, 224, 224, 3) uint8, or for asva (12, 3, 224, 224) float32."""
        chosen = {name: self.set[name] for name in ("pictures", "fps", "fit")} | {"legacy": self.legacy & {"frames"}}
        return pair.keep(("imagebind", *chosen.values()), functools.partial(_pictures, pair, **chosen))

    def row(self, item):
        (values,) = item.values()
        return {self.name: clip_mean(values, self.set["skip"])}

    def load(self, device, weights):
        self.judge = Judge.of(file_of(locate(weights, self.name, PART.name, "", system=SYSTEM)), device)

    def weights_digest(self, weights):
        return digest(weights, self.name, PART.name, "", system=SYSTEM)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "judge"}


class ImageAudio(_Similarity):
    """Cosine of each picture with the whole sound, averaged over the clip's pictures (ImageBind-huge).

    The sound's embedding is the mean over `clips` clips of 2 s, spread evenly from its begin to its end (one: its begin),
    as ImageBind's own loader has it, of the mean of its channels.  Protocol asva: of the first 2 s, the first channel.
    """

    name = "ia"
    title = "ImageBind similarity of picture and sound, mean over pictures"
    source = "Girdhar et al. 2023, ImageBind (arXiv:2305.05665); protocol asva: Zhang et al. 2024 (arXiv:2403.05659)"
    columns = {"ia": "mean cosine of pictures and sound, -1 to 1"}
    ranges = {"ia": (-1.0, 1.0)}
    needs = ("picture", "sound")
    resampler = "soxr HQ to 16000 Hz"
    settings = {**_STANDARD, "clips": 3, "channel": "mean"}
    protocols = {"asva": {**_ASVA, "clips": 1, "channel": "first"}}

    def __init__(self, **settings):
        super().__init__(**settings)
        if not self.set["clips"]:
            raise UsageError("--set ia.clips=0: 1 or more")

    def prepare(self, pair):
        return {"pictures": self.pictures(pair), "sound": self._heard(pair)}

    def _heard(self, pair):
        """(K, n) float32 at 16 kHz."""
        if self.legacy & HEARD and pair.keep("imagebind_own", lambda: pair) is pair:  # a control has a sound of its own, of no file
            from avtools.models.parts.sync_clips import read_sounds

            video, sound = pair.file("video"), pair.file("audio")
            return read_sounds(video, [0.0], None if sound == video else sound, legacy=self.legacy & HEARD)[0][:1]
        samples, rate = pair.sound.samples[:, 0] if self.set["channel"] == "first" else pair.sound.mono, pair.sound.rate
        if self.set["pictures"] == "asva" and len(samples) < (SECONDS - 1 / 6) * rate:  # less may be missing: codecs do not end on time
            raise RowError(f"{pair.file('audio')}: its sound is {len(samples) / rate:.3g} s, and {SECONDS:g} s are judged; leave it out, or give a longer one")
        return sound_clips(samples, rate, self.set["clips"])

    def run(self, items):
        from avtools.models.parts.imagebind.model import cosines

        pictures, sounds = self.judge.pictures([item["pictures"] for item in items]), self.judge.sounds([item["sound"] for item in items])
        return [{"ia": cosines(frames, sound).cpu().numpy()} for frames, sound in zip(pictures, sounds, strict=True)]


class ImageText(_Similarity):
    """Cosine of each picture with the row's text, averaged over the clip's pictures (ImageBind-huge).

    The text is the row's caption (columns text, description, captions; else class or label).  `words` class, and
    protocol asva: the name of the folder of its class, underscores included, as published scores have it; the caption
    where there are no classes.
    """

    name = "it"
    title = "ImageBind similarity of picture and text, mean over pictures"
    source = ImageAudio.source
    columns = {"it": "mean cosine of pictures and text, -1 to 1"}
    ranges = {"it": (-1.0, 1.0)}
    needs = ("picture", "text")
    chance_how = "none: it does not hear the sound"
    settings = {**_STANDARD, "words": "caption"}
    protocols = {"asva": {**_ASVA, "words": "class"}}
    requires = (*_Similarity.requires, ("tokenizers", "tokenizers"))

    @property
    def texts(self):
        return (*CLASSES, "relpath", *TEXTS) if self.set["words"] == "class" else (*TEXTS, *CLASSES)

    def prepare(self, pair):
        import numpy as np

        text = class_words(pair.row) if self.set["words"] == "class" else caption(pair.row)
        return {"pictures": self.pictures(pair), "text": np.frombuffer(text.encode("utf-8", "replace"), np.uint8)}

    def run(self, items):
        from avtools.models.parts.imagebind.model import cosines

        pictures = self.judge.pictures([item["pictures"] for item in items])
        texts = self.judge.texts([bytes(item["text"]).decode() for item in items])
        return [{"it": cosines(frames, text).cpu().numpy()} for frames, text in zip(pictures, texts, strict=True)]


# --- in the workers -------------------------------------------------------------------------------------------------


def caption(row: dict) -> str:
    """The row's text; RowError where it has none."""
    for column in (*TEXTS, *CLASSES):
        text = row.get(column)
        text = next(iter(text), None) if isinstance(text, list) else text
        if isinstance(text, dict):
            raise RowError(f"column {column} holds no text but a mapping; give the text alone")
        if text is not None and str(text).strip():
            return str(text)
    raise RowError(f"the row has no text to judge its picture by (columns looked at: {', '.join((*TEXTS, *CLASSES))})")


def class_words(row: dict) -> str:
    """The folder of the row's class, which ASVA's published scores compare with; of a row without one, its caption."""
    from avtools.models.avsyncd.layout import class_of, folder_of

    class_ = class_of(row, None)
    return folder_of(class_) if class_ else caption(row)


def sound_clips(samples, rate: int, count: int):
    """(samples,) at `rate` Hz -> (K, n) float32 at 16 kHz: `count` clips of 2 s, the first at the begin (one: it alone), the last
    at the end; what is not longer than 2 s is one clip."""
    import numpy as np
    import soxr

    if count == 1:
        samples = samples[: math.ceil(SECONDS * rate)]
    samples = np.ascontiguousarray(samples, np.float32)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    length = round(SECONDS * RATE)
    last = max(0, len(samples) - length)
    begins = [round(last * k / max(1, count - 1)) for k in range(count if last else 1)]
    return np.stack([samples[begin : begin + length] for begin in begins])


def _pictures(pair, pictures: str, fps: float, fit: str, legacy: frozenset):
    path = pair.file("video")
    if pictures == "asva":
        from avtools.models.parts.sync_clips import read_pictures

        kept, index, _ = read_pictures(path, [0.0], (SIZE, SIZE), fit={"crop": "short", "squash": "squash"}[fit], legacy=legacy)
        made = kept[index[0]]
    else:
        from avtools.models.vta_ldm.frames import read_frames

        made = read_frames(path, fps, SIZE, fit=fit)
    pair.facts["imagebind"] = {"pictures": len(made)}
    return made


def clip_mean(values, skip: int = 0) -> float:
    """A clip's mean of `values` (frames,) without the first `skip`; Skip where nothing is left."""
    if len(values) <= skip:
        raise Skip(f"{len(values)} pictures, of which the first {skip} are not judged")
    return float(values[skip:].mean(dtype="float64"))


# --- in the network's process ---------------------------------------------------------------------------------------


class Judge:
    """ImageBind's towers on one device, loaded when first asked for; one for all metrics of a process (:meth:`of`)."""

    _known: dict = {}

    def __init__(self, file, device, sizes=None):
        self.file, self.device, self.sizes = file, device, sizes
        self._towers, self._seen = {}, OrderedDict()

    @classmethod
    def of(cls, file, device) -> "Judge":
        return cls._known.setdefault((str(file), str(device)), cls(file, device))

    def tower(self, modality: str):
        """The tower of "vision", "audio" or "text", on the device."""
        from avtools.models.parts.imagebind.checkpoint import load

        if modality not in self._towers:
            self._towers[modality] = getattr(load(self.file, (modality,), self.sizes), modality).float().to(self.device)
        return self._towers[modality]

    def pictures(self, clips: list) -> list:
        """Arrays (T, 224, 224, 3) uint8, or (T, 3, 224, 224) float within [0, 1] -> embeddings (T, D) each, not of unit length."""
        import torch

        from avtools.models.parts.frames import clip_normalise

        keys = [hashlib.blake2b(clip.tobytes() + str((clip.shape, clip.dtype)).encode(), digest_size=16).digest() for clip in clips]
        fresh = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._seen}
        found = {key: self._seen.pop(key) for key in set(keys) & self._seen.keys()}  # and to the end of the order
        tower = self.tower("vision")
        for key, clip in fresh.items():
            made = []
            for part in torch.from_numpy(clip).split(PICTURES):
                part = part.to(self.device)
                part = part.permute(0, 3, 1, 2) / 255 if part.dtype == torch.uint8 else part
                made.append(tower.embed(clip_normalise(part.float())))
            found[key] = torch.cat(made)
        self._seen |= found
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return [found[key] for key in keys]

    def sounds(self, sounds: list) -> list:
        """Arrays (K, n) of K clips at 16 kHz each -> embeddings (D,): the mean over the clips of what the tower releases."""
        import torch

        from avtools.models.parts.kaldi import mel

        heard = torch.cat([mel(torch.from_numpy(clips)[:, None].to(self.device)) for clips in sounds])
        return [found.mean(0) for found in self.tower("audio")(heard).split([len(clips) for clips in sounds])]

    def texts(self, texts: list[str]) -> list:
        """Embeddings (D,) of texts."""
        from avtools.models.parts.imagebind.text import tokenize

        return list(self.tower("text").embed(tokenize(texts).to(self.device)))
