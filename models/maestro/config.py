"""Every hyperparameter of MAESTRO's trainings and of its sampling, once (numbers without another source: spec MAESTRO, sections 1, 3 and 5)."""

import dataclasses

from avtools import hub
from avtools.models.audiosep import config as audiosep
from avtools.training.config import Train

PAGE = "github.com/kuai-lab/eaai25_complex_A2V"
MAIN = hub.Part("", "MAESTRO's resampler: perceiver.pth, or a run of cim", PAGE, ("*.pth",), 285_000_000, "unstated")
BASE = hub.Part(
    "base", "the video model: VideoCrafter2's model.ckpt, a folder of a diffusers text-to-video model, or a run of maestro-video", "hf:VideoCrafter/VideoCrafter2",
    ("model.ckpt",), 5_900_000_000, "see its page",
)  # fmt: skip
IMAGES = hub.Part(
    "sd", "Stable Diffusion 2.1, of which cim learns", "hf:stabilityai/stable-diffusion-2-1",
    ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
     "text_encoder/config.json", "text_encoder/model.safetensors", "scheduler/scheduler_config.json"),
    5_200_000_000, "CreativeML OpenRAIL++-M",
)  # fmt: skip
IMAGEBIND = hub.Part("imagebind", "ImageBind, whose sound tower it hears with", "hf:nielsr/imagebind-huge", ("model.safetensors",), 4_800_000_000, "CC-BY-NC-SA-4.0 (non-commercial)")
SEPARATOR = dataclasses.replace(audiosep.MAIN, name="separator", what="AudioSep or a run of audiosep, for mixtures")

#: VideoCrafter2's UNet; the fields are diffusers' and our `fps_mlp`.
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1024,
    "attention_head_dim": 64,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "fps_mlp": True,
}
NOISE_SCHEDULE = {  # VideoCrafter2's; diffusers' fields and the scale's, of which a schedule without a scale has none
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "scale_floor": 0.7,
    "scale_times": 400,
}
RESAMPLER = {"dim": 1024, "depth": 6, "heads": 12, "dim_head": 64, "queries": 10, "input_dim": 768, "output_dim": 1024, "ff_mult": 4}
CODECS, TEXTS, SOUNDS = ("kl", "space-to-depth"), ("open-clip", "words"), ("imagebind", "bands")


@dataclasses.dataclass
class Video:
    """The video model.  Of released weights `unet`, `noise_schedule`, `codec` and `text_encoder` are theirs."""

    unet: dict = dataclasses.field(default_factory=lambda: dict(UNET))
    noise_schedule: dict = dataclasses.field(default_factory=lambda: dict(NOISE_SCHEDULE))
    codec: str = "kl"  # of pictures: kl, Stable Diffusion's autoencoder | space-to-depth: pixels, 4 x 4 to a latent (no weights)
    text_encoder: str = "open-clip"  # open-clip: ViT-H-14 | words: fixed random vectors (no weights)
    text_places: int = 77  # of a prompt; open-clip has 77
    text_layer: str = "penultimate"  # of open-clip that the network reads: penultimate | last
    frames: int = 16
    fps: float = 8.0  # pictures per second, of which the network is told
    height: int = 320  # pixels
    width: int = 512


@dataclasses.dataclass
class Drawn:
    """How a video is sampled."""

    steps: int = 50
    guidance: float = 12.0  # 1 and below: none
    scheduler: str = "scaled-ddim"  # VideoCrafter2's, or one of diffusers: ddim, dpmsolver++, unipc, ...
    eta: float = 1.0  # of scaled-ddim: share of fresh noise
    legacy_times: bool = False  # of scaled-ddim: more steps than asked for where they do not divide the schedule
    batch_size: int = 1


@dataclasses.dataclass
class VideoConfig(Video):
    """`maestro-video`: a text-to-video model of one's own."""

    text_dropout: float = 0.1  # share of items trained without text, for guidance
    dropout: float = 0.1  # of activations, as VideoCrafter2's and diffusers' temporal convolutions have it
    flip: float = 0.0  # share of clips that are mirrored; captions may tell sides
    random_start: bool = True  # longer clips: from anywhere rather than the middle
    sampling: Drawn = dataclasses.field(default_factory=Drawn)
    train: Train = dataclasses.field(default_factory=lambda: Train(lr=1e-4, batch_size=1, accumulate=8, max_steps=100_000, precision="bf16", gradient_checkpointing=True))


@dataclasses.dataclass
class Heard:
    """What is heard, and what is made of it."""

    resampler: dict = dataclasses.field(default_factory=lambda: dict(RESAMPLER))  # input_dim and output_dim: of the two encoders
    sound_encoder: str = "imagebind"  # imagebind: its audio tower's 229 tokens of 2 s | bands: parts/tiny's mel bands (no weights)


@dataclasses.dataclass
class CimConfig(Heard):
    """`cim`: the condition injection module, and keys and values of the frozen network that it learns of."""

    learns_of: str = "image"  # image: Stable Diffusion 2.1, picture by picture | video: the part base, clip by clip
    window: float = 10.0  # seconds of a video of which an item is; a longer video: from anywhere.  With video: the base's own
    clips: int = 5  # of 2 s that are heard of a window
    spacing: str = "spread"  # of clips: spread, to the window's end | pinned: as the released weights were trained
    interpolate: bool = True  # 2 clips - 1 pictures: tokens of neighbours are averaged between them; else as many as clips
    height: int = 512  # pixels; with video the base's own
    width: int = 512
    trains_keys: bool = True  # the network's attn2.to_k and to_v too; sampling does not use them
    denoising_weight: float = 0.9
    text_weight: float = 0.1
    random_start: bool = True
    legacy_times: bool = False  # pictures at 1/4 and 3/4 of fifths of the window, not at the middles of what is heard
    train: Train = dataclasses.field(default_factory=lambda: Train(lr=1e-5, batch_size=1, max_steps=70_000, ema=None, checkpoint_every=10_000, precision="fp16"))


@dataclasses.dataclass
class Sampling(Drawn):
    layout: str = ""  # lr | td | three | quad; none: the one that is usual for so many sources.  --layout and --box say it too
    soft_steps: int = 6  # first steps, in which sources are drawn to their boxes; then each has its region to itself
    strengthen: float = 0.5  # in these: how much
    weaken: float = 0.05  # outside of all boxes
    use_text: bool = True  # rows' `text` is the prompt, behind which the tokens of sound stand; else the empty one, as the original has it
    queries: list = dataclasses.field(default_factory=list)  # what to separate from a mixture, where rows do not tell
    legacy_timing: bool = False  # frame f sees clip f // 8 of the first 10 s, whenever it is shown
    legacy_mosaic: bool = False  # maps in half precision, and one maximum for all samples of a batch


@dataclasses.dataclass
class Config:
    """`maestro`: `video` and `heard` are those of the weights."""

    video: Video = dataclasses.field(default_factory=Video)
    heard: Heard = dataclasses.field(default_factory=Heard)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    train: Train = dataclasses.field(default_factory=lambda: Train(max_steps=1))  # nothing trains; cim and maestro-video do


_TINY_TRAIN = {"schedule": "cosine", "warmup_steps": 20, "batch_size": 8, "betas": [0.9, 0.99], "ema": 0.99, "log_every": 20, "cache_gb": 1.0, "precision": "fp32"}
TINY_UNET = {
    **UNET,
    "in_channels": 48,
    "out_channels": 48,
    "down_block_types": ["CrossAttnDownBlock3D"] * 2,
    "up_block_types": ["CrossAttnUpBlock3D"] * 2,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
VIDEO_PRESETS: dict[str, dict] = {
    "released": {},  # VideoCrafter2's network, from nothing; start with --init from its model.ckpt
    "tiny": {
        "unet": TINY_UNET,
        "noise_schedule": {**NOISE_SCHEDULE, "prediction_type": "sample"},  # noise of 48 channels does not pass through 32
        "codec": "space-to-depth",
        "text_encoder": "words",
        "text_places": 32,
        "frames": 2,
        "fps": 1.0,
        "height": 24,
        "width": 32,
        "text_dropout": 0.15,
        "dropout": 0.0,
        "random_start": False,
        "sampling": {"steps": 25, "guidance": 3.0, "batch_size": 16},
        "train": {**_TINY_TRAIN, "batch_size": 16, "lr": 2e-3, "accumulate": 1, "max_steps": 500, "eval_every": 250, "checkpoint_every": 250, "gradient_checkpointing": False},
    },
}
CIM_PRESETS: dict[str, dict] = {
    "released": {"spacing": "pinned", "legacy_times": True},
    "tiny": {
        "resampler": {**RESAMPLER, "dim": 64, "depth": 2, "heads": 4, "dim_head": 16, "queries": 4, "input_dim": 48, "output_dim": 32, "ff_mult": 2},
        "sound_encoder": "bands",
        "learns_of": "video",
        "clips": 1,
        "trains_keys": False,
        "denoising_weight": 0.5,
        "text_weight": 0.5,
        "random_start": False,
        "train": {**_TINY_TRAIN, "batch_size": 16, "lr": 2e-3, "max_steps": 150, "eval_every": 150, "checkpoint_every": 150},
    },
}
PRESETS: dict[str, dict] = {
    "released": {"sampling": {"use_text": False, "legacy_timing": True, "legacy_mosaic": True}},  # as the original's script; without it: frames and sound in step
    "base": {},
    "tiny": {"sampling": {"steps": 25, "guidance": 3.0, "soft_steps": 3, "batch_size": 16}},
}
