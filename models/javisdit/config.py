"""Every hyperparameter of JavisDiT's three trainings and of its sampling, once (numbers without another source: spec JavisDiT models, section 1)."""

import dataclasses

from avtools.training.config import Train

VIDEO_CODECS, SOUND_CODECS = ("opensora", "pixels"), ("audioldm2", "bands")
TEXTS, PRIOR_TEXTS = ("t5", "words"), ("imagebind", "words")
SECOND_PASSES = ("none", "sound", "picture")
TASKS = ("t2av", "v2a", "a2v", "i2av", "ia2v", "continue")

#: Resolution -> length -> [share that stays, or it and the share for which the length counts; items of a batch, null: train.batch_size].
SOUND_BUCKETS = {"144p": {"51": [1.0, 256], "102": [[1.0, 0.7], 128], "204": [[1.0, 0.3], 64], "408": [[1.0, 0.5], 32]}}
BUCKETS = {
    "144p": {"51": [1.0, 16], "102": [[1.0, 0.5], 12], "204": [[1.0, 0.5], 6], "408": [1.0, 3]},
    "256": {"51": [0.5, 10], "102": [[0.5, 0.5], 4], "204": [[0.5, 0.5], 2], "408": [1.0, 1]},
    "240p": {"51": [0.5, 10], "102": [[0.5, 0.5], 4], "204": [[0.5, 0.5], 2], "408": [1.0, 1]},
    "360p": {"51": [0.3, 4], "102": [[0.3, 0.5], 2], "204": [[0.3, 0.5], 1]},
    "512": {"51": [0.2, 4], "102": [[0.2, 0.5], 2], "204": [[0.2, 0.4], 1]},
    "480p": {"51": [0.2, 2], "102": [[0.2, 0.5], 1]},
    "720p": {"51": [0.03, 1]},
    "1024": {"51": [0.03, 1]},
}
MASKS = {  # published, of the third stage; the rest of 1 is `identity`
    "random": 0.01,
    "video_to_audio": 0.05,
    "audio_to_video": 0.05,
    "sound_image_animate": 0.03,
    "interpolate": 0.03,
    "quarter_random": 0.005,
    "quarter_head": 0.05,
    "quarter_tail": 0.005,
    "quarter_head_tail": 0.005,
    "image_random": 0.005,
    "image_head": 0.05,
    "image_tail": 0.005,
    "image_head_tail": 0.005,
}


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


@dataclasses.dataclass
class Encoders:
    """The frozen networks around, and the clips that they see."""

    video_codec: str = "opensora"  # opensora: its VAE 1.2 | pixels: 4 x 4 of them to a latent (no weights)
    sound_codec: str = "audioldm2"  # audioldm2: its autoencoder and vocoder | bands: packed mel bands (no weights)
    text_encoder: str = "t5"  # t5: T5 v1.1 XXL | words: fixed random vectors (no weights)
    prior_text: str = "imagebind"  # imagebind: its text trunk before the head | words (no weights)
    prior_words: int = 48  # with words: width of a word's vector that the prior reads
    padding: str = "silence"  # behind a sound's end: silence | legacy, as loud as a tone; released weights: so
    level: bool = True  # sounds to one peak, as published; the loudness is lost
    fps: float = 24.0  # pictures a second
    random_start: bool = True  # longer clips: from anywhere rather than their beginning
    multiple: int = 2  # of which heights and widths of pictures are multiples


@dataclasses.dataclass
class Drawn:
    """How a clip is sampled."""

    resolution: str = "240p"  # one of the buckets', or HEIGHTxWIDTH
    aspect: float | None = None  # height by width, of buckets' the nearest; null: of HEIGHTxWIDTH its own, else 9:16
    frames: int = 102  # pictures
    task: str = "t2av"  # t2av | v2a | a2v | i2av | ia2v | continue: what is given of the row's clip
    overlap: float = 0.5  # with continue: seconds of the clip's end that the sample begins with
    steps: int = 30
    guidance: float = 7.0  # 1: none
    second_pass: str = "none"  # none | sound | picture: what is made once more, given the whole other stream as it was made; twice the time
    scheduler: str = "euler"  # euler | ab2 | midpoint | heun: these of second order
    aesthetic: float | None = 6.5  # the score that prompts ask for; null: prompts as they are cleaned
    clean: bool = True  # prompts, as T5's captions were; null text without
    batch_size: int = 1


@dataclasses.dataclass
class Flow:
    """The diffusion transformer's own settings."""

    size: dict = dataclasses.field(default_factory=dict)  # what differs from XL/2, of .model.Size
    dropout: float = 0.1  # share of items without text, of either stream, and without priors, each by itself
    times: str = "logit-normal"  # logit-normal | uniform, then shifted towards noise
    shift: float | None = None  # by so much, in sampling too; null: by the size and the length (more for larger and longer clips)
    legacy_loss: bool = False  # a stream that is given as a whole logs a loss of 1

    def names_in(self, field: str) -> list[str]:
        """What else the object `field` of a configuration may hold (`--set size.dim=...`)."""
        from avtools.models.javisdit.model import Size

        return {"size": [name for name in _names(Size) if name not in ("joint", "chunk", "sound_step")], "masks": list(MASKS)}.get(field, [])  # those are the stage's, the codecs'


@dataclasses.dataclass
class SoundConfig(Encoders, Flow):
    """`javisdit-audio`: sound alone."""

    buckets: dict = dataclasses.field(default_factory=lambda: {name: dict(one) for name, one in SOUND_BUCKETS.items()})
    all_parameters: bool = False  # train what OpenSora's weights give, too; needed where there are none
    sampling: Drawn = dataclasses.field(default_factory=lambda: Drawn(resolution="144p"))
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=32, epochs=50.0, lr=1e-4, warmup_steps=1000, eps=1e-15, weight_decay=0.0, ema=0.99, checkpoint_every=250, precision="bf16", seed=42,
            gradient_checkpointing=True,
        )
    )  # fmt: skip


@dataclasses.dataclass
class PriorConfig(Encoders):
    """`javisdit-prior`: what a caption says about where and when."""

    #: What differs from the released shape, of .prior.Size; onset: its tokens of time learn to tell where sounds begin, too.
    prior: dict = dataclasses.field(default_factory=lambda: {"onset": False})
    weights: dict = dataclasses.field(default_factory=dict)  # of the losses, of .prior_losses.Weights
    masklets: str | None = None  # pool of objects for negatives; null: none is pasted
    stems: str | None = None  # pool of sounds for negatives; null: none is added
    negatives: int = 1  # of each kind
    buckets: dict = dataclasses.field(default_factory=lambda: {name: dict(one) for name, one in BUCKETS.items()})
    sampling: Drawn = dataclasses.field(default_factory=Drawn)
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=8, epochs=2.0, lr=1e-5, weight_decay=0.0, ema=None, checkpoint_every=200, precision="bf16", seed=42, previews=0, save_best="valid_contrast"
        )
    )

    def names_in(self, field: str) -> list[str]:
        """As :meth:`Flow.names_in`."""
        from avtools.models.javisdit import prior, prior_losses

        return {"prior": _names(prior.Size), "weights": _names(prior_losses.Weights)}.get(field, [])


@dataclasses.dataclass
class Config(Encoders, Flow):
    """`javisdit`: picture and sound."""

    #: What differs from XL/2, of .model.Size.  Where the attention between streams knows no time, as published, it learned no synchrony (benchmarks/javisdit_forms.py).
    size: dict = dataclasses.field(default_factory=lambda: {"time_positions": "rotary", "legacy_cross_batch_prior": False, "legacy_final": False})
    masks: dict = dataclasses.field(default_factory=lambda: dict(MASKS))  # shares of clips of which frames are given
    buckets: dict = dataclasses.field(default_factory=lambda: {name: dict(one) for name, one in BUCKETS.items()})
    all_parameters: bool = False  # train both streams, too; needed where no weights of OpenSora's are given
    sampling: Drawn = dataclasses.field(default_factory=Drawn)
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=4, epochs=2.0, lr=1e-4, warmup_steps=1000, eps=1e-15, weight_decay=0.0, ema=0.99, checkpoint_every=50, precision="bf16", seed=42,
            gradient_checkpointing=True,
        )
    )  # fmt: skip


_TINY = {"video_codec": "pixels", "sound_codec": "bands", "text_encoder": "words", "prior_text": "words", "fps": 8.0, "multiple": 8, "random_start": False}
_TINY_SIZE = {
    "dim": 128, "depth": 3, "heads": 4, "feed": 2.0, "text": 32, "text_tokens": 12, "video": 48, "sound": 32, "patch": [1, 1, 2], "sound_patch": [2, 2],
    "sigma": False, "spatial_priors": 8, "temporal_priors": 8, "prior": 32, "square": 64.0, "time_positions": "rotary", "chunk": [1, 1],
}  # fmt: skip
# A token of so many numbers tells through almost any noise when something happens; the streams need each other at the noisiest times alone.  The published
# shift would turn these pictures' times to the clean end (0.05 where 1 leaves them as they are), and nothing would be learned there.
_TINY_FLOW = {"size": _TINY_SIZE, "times": "uniform", "shift": 20.0, "all_parameters": True, "multiple": 4, "buckets": {"12x16": {"16": [1.0, None]}}}
_TINY_STEPS = {"batch_size": 16, "lr": 5e-3, "betas": [0.9, 0.98], "schedule": "cosine"}
_TINY_BUCKETS = {"24x32": {"16": [1.0, None]}}
_TINY_TRAIN = {"precision": "fp32", "seed": 0, "gradient_checkpointing": False, "warmup_steps": 20, "epochs": None, "previews": 1, "cache_gb": 1.0, "eps": 1e-8}
_TINY_DRAWN = {"resolution": "24x32", "frames": 16, "steps": 20, "guidance": 3.0, "aesthetic": None, "batch_size": 8}

SOUND_PRESETS: dict[str, dict] = {
    "xl": {},
    "tiny": {
        **_TINY, **_TINY_FLOW, "sampling": {**_TINY_DRAWN, "resolution": "12x16"},
        "train": {**_TINY_TRAIN, **_TINY_STEPS, "max_steps": 300, "eval_every": 150, "checkpoint_every": 150},
    },
}  # fmt: skip
PRIOR_PRESETS: dict[str, dict] = {
    "huge": {},
    "tiny": {
        **_TINY,
        "prior": {
            "text": 48, "dim": 64, "heads": 4, "encoder_layers": 1, "decoder_layers": 1, "out": 32, "spatial": 8, "temporal": 8, "video_channels": 48,
            "audio_channels": 32, "onset": False,
        },
        "buckets": _TINY_BUCKETS, "sampling": _TINY_DRAWN,
        "train": {**_TINY_TRAIN, "batch_size": 16, "lr": 1e-3, "max_steps": 300, "eval_every": 150, "checkpoint_every": 150, "previews": 0},
    },
}  # fmt: skip
PRESETS: dict[str, dict] = {
    "xl": {},
    "released": {"size": {"time_positions": "none", "legacy_cross_batch_prior": True, "legacy_final": True}, "padding": "legacy", "legacy_loss": True},
    "tiny": {
        **_TINY, **_TINY_FLOW, "masks": {"video_to_audio": 0.4, "audio_to_video": 0.1, "image_head": 0.05},
        "sampling": {**_TINY_DRAWN, "resolution": "12x16", "guidance": 1.0, "steps": 24, "second_pass": "sound"},
        "train": {**_TINY_TRAIN, **_TINY_STEPS, "max_steps": 600, "eval_every": 300, "checkpoint_every": 300},
    },
}  # fmt: skip
