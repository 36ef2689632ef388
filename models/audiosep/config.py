"""Every hyperparameter of AudioSep, once (numbers without another source: spec section 8)."""

import dataclasses

from avtools import hub
from avtools.training.config import Train

#: The released file lies in a Space of the hub, which no program of ours fetches from, so it is given by hand.
MAIN = hub.Part(
    "", "AudioSep (audiosep_base_4M_steps.ckpt)", "https://huggingface.co/spaces/Audio-AGI/AudioSep", ("*.ckpt",), 1_264_844_076, "MIT", optional=True
)  # fmt: skip
CLAP = hub.Part(
    "clap",
    "LAION's CLAP that AudioSep's queries were encoded with (needed where AudioSep's own file holds none)",
    "hf:lukewys/laion_clap",
    ("music_speech_audioset_epoch_15_esc_89.98.pt",),
    2_350_000_000,
    "CC0-1.0",
    optional=True,
)
TOKENIZER = hub.Part(
    "clap-tokenizer",
    "the tokenizer of roberta-base, which CLAP reads texts with",
    "hf:FacebookAI/roberta-base",
    ("vocab.json", "merges.txt", "tokenizer*.json"),
    3_000_000,
    "MIT",
)
QUERY_TOKENS = 512  # that AudioSep's queries were cut at; CLAP itself trained with 77


@dataclasses.dataclass
class Config:
    # the network
    rate: int = 32000  # of mixtures and stems, Hz
    n_fft: int = 2048  # of a periodic Hann window, samples
    hop: int = 320
    first: int = 32  # channels of the spectrum's first projection
    widths: list = dataclasses.field(default_factory=lambda: [32, 64, 128, 256, 384, 384])  # of each encoder, and of its decoder
    pools: list = dataclasses.field(default_factory=lambda: [[2, 2], [2, 2], [2, 2], [2, 2], [2, 2], [1, 2]])  # of each encoder: time, frequency
    middle: int = 384
    condition: int = 512  # length of a query's embedding
    momentum: float = 0.01  # of batch norms' statistics
    query: str = "clap"  # what makes it of a text: clap | words (mean of the words' fixed random vectors; no weights)
    # what it trains on
    seconds: float = 5.0  # of a mixture
    crop: str = "random"  # where a piece begins: random | first, the same then in each epoch, so that it may be kept in memory
    text_column: str | None = None  # that describes the sound; null: the first of the usual ones
    sources: int = 2  # in a mixture, at most, the one to be found included; how many is drawn
    lowest: int = -10  # dB, of the gain drawn for an interferer, in whole dB
    highest: int = 10
    peak: float = 0.9  # that a mixture which exceeds 1 is scaled to
    original_mixer: bool = False  # as published: interferers may sound like their target's text, and what is silent is mixed too
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=12, lr=1e-3, warmup_steps=30000, weight_decay=0.0, clip_norm=None, ema=None, max_steps=4_000_000,
            eval_every=20000, checkpoint_every=20000, previews=0,
        )  # fmt: skip
    )


PRESETS: dict[str, dict] = {
    "base": {},  # as released; the published rate rises in three steps of 10000, here evenly over the same 30000
    "tiny": {  # learns on synthetic stems in a few minutes on a CPU
        "rate": 16000,
        "n_fft": 512,
        "hop": 256,
        "first": 8,
        "widths": [8, 16, 24],
        "pools": [[2, 2], [2, 2], [2, 2]],
        "middle": 24,
        "condition": 64,
        "momentum": 0.1,  # statistics of the last few steps, where there are a few hundred
        "query": "words",
        "seconds": 2.0,
        "crop": "first",
        "train": {
            "lr": 5e-3,
            "schedule": "cosine",
            "warmup_steps": 10,
            "batch_size": 8,
            "max_steps": 240,
            "eval_every": 240,
            "checkpoint_every": 120,
            "log_every": 20,
            "cache_gb": 1.0,
            "clip_norm": 1.0,
        },
    },
}
