"""Every hyperparameter of the AVSync classifier, once (numbers without another source: spec section 2)."""

import dataclasses

from avtools import hub
from avtools.training.config import Train

#: The released classifier.  It lies where no program may fetch it (see README of lzhangbj/ASVA), so it is given by hand.
MAIN = hub.Part(
    "", "AVSync's classifier of synchrony", "https://github.com/lzhangbj/ASVA", (), 83_000_000, "MIT (as its README says)", optional=True
)  # fmt: skip


@dataclasses.dataclass
class Config:
    # the networks
    audio_widths: list = dataclasses.field(default_factory=lambda: [64, 64, 128, 256, 512])  # channels of the first convolution and of each block
    audio_strides: list = dataclasses.field(default_factory=lambda: [2, 2, 2, 1])  # of each block, frequency and time
    video_widths: list = dataclasses.field(default_factory=lambda: [64, 64, 128, 256, 512])
    video_strides: list = dataclasses.field(default_factory=lambda: [1, 2, 2, 2])  # of each stage, height and width
    video_time_strides: list = dataclasses.field(default_factory=lambda: [1, 2, 2, 2])
    blocks_per_stage: int = 2
    pool: str = "mean"  # mean: over all positions (published) | time: over all but time, then a projection
    dim: int = 512  # width of both embeddings
    dropout: float = 0.0  # in the head
    # what they see and hear of a clip of 2 s: 12 pictures at 6 Hz, log-mel of 16 kHz
    frame_size: int = 224  # height and width of its pictures, pixels
    mel_frames: int = 204  # of its sound, 10 ms each, zeros included
    # training
    clips: int = 21  # of one video, which are each other's negatives
    step: float = 0.2  # seconds from one clip's start to the next
    temperature: float = 0.1  # divides the scores in the loss; metrics use raw scores
    flip: float = 0.5  # share of training clips whose pictures are mirrored, each clip drawn by itself
    min_fps: float = 12.0  # of a source, Hz
    crop: str = "random"  # where the first clip begins: random | middle, so that all clips fit; the same then in each epoch, so that they may be kept in memory
    drawn: int | None = None  # how many of a video's clips a step takes, drawn anew each time; null: all
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=4, lr=2e-4, warmup_steps=100, ema=None, seed=123, max_steps=40000, eval_every=2500, checkpoint_every=2500, milestones=[40000], previews=0
        )
    )


PRESETS: dict[str, dict] = {
    "released": {"train": {"precision": "fp16"}},  # as trained on VGG-SS by 8 GPUs, 4 videos each
    "tiny": {  # learns on a few hundred synthetic clips of 6 s in less than a minute on a CPU
        "audio_widths": [8, 8, 16, 32, 32],
        "video_widths": [16, 16, 32, 32],
        "video_strides": [1, 2, 2],
        "video_time_strides": [1, 1, 1],
        "blocks_per_stage": 1,
        "pool": "time",
        "dim": 256,
        "frame_size": 16,
        "crop": "middle",
        "drawn": 5,
        "train": {
            "lr": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 20,
            "batch_size": 14,
            "max_steps": 140,
            "eval_every": 140,
            "checkpoint_every": 70,
            "milestones": [],
            "log_every": 20,
            "cache_gb": 1.0,
            "seed": 0,
        },
    },
}
