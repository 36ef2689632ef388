"""Every hyperparameter of VTA-LDM, once (numbers without another source: spec sections 1 and 3)."""

import dataclasses

from avtools.training.config import Train

#: What the published UNet configurations share (diffusers' UNet2DConditionModel; `attention_head_dim` is
#: diffusers' historic name for the number of heads).
_UNET = {
    "act_fn": "silu",
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "only_cross_attention": False,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "upcast_attention": True,
    "use_linear_projection": True,
}
_WIDE = {**_UNET, "block_out_channels": [320, 640, 640, 1280], "cross_attention_dim": 1024}

UNETS: dict[str, dict] = {
    "base": {**_WIDE, "in_channels": 16, "out_channels": 16, "attention_head_dim": [5, 10, 10, 20]},
    "large": {**_WIDE, "in_channels": 8, "out_channels": 8, "attention_head_dim": [5, 10, 20, 20]},
    "large-2048": {**_WIDE, "in_channels": 8, "out_channels": 8, "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 2048},
    "pretrain": {
        **_UNET,
        "in_channels": 8,
        "out_channels": 8,
        "attention_head_dim": 8,
        "block_out_channels": [128, 256, 384, 640],
        "cross_attention_dim": 1024,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": False,
        "use_linear_projection": False,
    },
    "stable-diffusion-2.1": {
        **_UNET,
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
    },
    "tiny": {
        **_UNET,
        "in_channels": 32,
        "out_channels": 32,
        "attention_head_dim": 4,
        "block_out_channels": [96, 128, 128],
        "cross_attention_dim": 128,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "upcast_attention": False,
    },
}

#: The scheduler of stabilityai/stable-diffusion-2-1, embedded because that repository may be gated.
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "variance_type": "fixed_small",
}


@dataclasses.dataclass
class Sampling:
    steps: int = 25  # network passes
    guidance: float = 3.0  # 1 and below: no guidance, one pass instead of two
    scheduler: str = "dpmsolver++"  # or unipc, ddim, ddpm; legacy: the original's stochastic DDPM, leading spacing
    overlap: float = 0.25  # of neighbouring windows, for clips longer than one
    batch_size: int = 8


@dataclasses.dataclass
class Config:
    # the network
    unet: dict = dataclasses.field(default_factory=lambda: dict(UNETS["large-2048"]))  # diffusers' fields
    adapters: bool = False  # a UNet of 4 channels behind per-pixel adapters (8 -> 512 -> 4 -> UNet -> 4 -> 512 -> 8)
    time_conditioning: str = "both"  # cross (published) | aligned | both: tokens also as channels on the latents' time axis
    aligned_channels: int = 64
    # the condition
    encoder: str = "clip"  # frozen video encoder: clip | vivit | imagebind | languagebind | cavp | pixels
    encoder_model: str = "openai/clip-vit-large-patch14"
    feature_dim: int = 768  # width of the encoder's features
    token_dim: int = 2048  # width of the tokens (the UNet's cross_attention_dim)
    frame_rate: float = 2.0  # pictures per second that the encoder sees, Hz
    frame_size: int = 224  # their height and width, pixels
    frame_fit: str = "crop"  # crop: shorter side to frame_size, then the middle; squash: all of the picture
    clip_normalise: bool = True  # CLIP's mean and deviation; the released weights were trained without
    condition: str = "video"  # video | text | text+video
    text_model: str = "openai/clip-vit-large-patch14"
    text_tokens: int = 20  # how often the text's embedding is repeated in text-only mode
    positions: bool = False  # sinusoidal positions before the projection (video only)
    legacy_frames: bool = False  # the original's picks: every int(fps)/2-th frame, drifting where fps is not whole
    # the sound
    codec: str = "audioldm"  # audioldm: its VAE and vocoder | mel-bands: parts/tiny
    sample_rate: int = 16000  # Hz
    window: float = 10.24  # seconds of sound that one pass makes
    normalise: bool = True  # mean removed, peak 0.5, as data_tools prepared the sound
    noise_schedule: dict = dataclasses.field(default_factory=lambda: dict(NOISE_SCHEDULE))
    # training
    condition_dropout: float = 0.1  # share of items trained without condition, for guidance (the released run: 0)
    snr_gamma: float | None = 5.0  # min-SNR weighting; null: none
    legacy_snr: bool = False  # min(SNR, g)/SNR, the formula for epsilon, where v needs min(SNR, g)/(SNR + 1)
    random_crop: bool = True  # longer clips: a random window rather than the first
    concat_augment: float = 0.0  # share of items joined of two clips (first 5 to 15 pictures of one, then the other)
    mix_augment: float = 0.0  # share of items whose sound and picture features are mixed with another clip's
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    train: Train = dataclasses.field(default_factory=lambda: Train(lr=6e-5, schedule="linear", warmup_steps=300, batch_size=8, accumulate=4, epochs=80))


PRESETS: dict[str, dict] = {
    "released": {  # as ariesssxu/vta-ldm-clip4clip-v-large was trained
        "time_conditioning": "cross",
        "clip_normalise": False,
        "legacy_frames": True,
        "condition_dropout": 0.0,
        "legacy_snr": True,
        "random_crop": False,
        "train": {"batch_size": 2, "accumulate": 32},
    },
    "large": {},
    "large-1024": {"unet": UNETS["large"], "token_dim": 1024},
    "base": {"unet": UNETS["base"], "token_dim": 1024},  # 16 channels: for a codec of 16, not for AudioLDM's 8
    "pretrain": {"unet": UNETS["pretrain"], "token_dim": 1024},
    "stable-diffusion-2.1": {"unet": UNETS["stable-diffusion-2.1"], "token_dim": 1024, "adapters": True},
    "vivit": {"encoder": "vivit", "encoder_model": "google/vivit-b-16x2-kinetics400", "frame_rate": 8.0},
    "imagebind": {"encoder": "imagebind", "encoder_model": "", "feature_dim": 1024},
    "languagebind": {"encoder": "languagebind", "encoder_model": "LanguageBind/LanguageBind_Video_FT"},
    "cavp": {"encoder": "cavp", "encoder_model": "", "feature_dim": 512, "frame_rate": 4.0, "frame_fit": "squash"},
    "tiny": {
        "unet": UNETS["tiny"],
        "token_dim": 128,
        "encoder": "pixels",
        "encoder_model": "",
        "frame_rate": 24.0,
        "frame_size": 24,
        "frame_fit": "squash",
        "feature_dim": 2304,
        "clip_normalise": False,
        "positions": True,
        "codec": "mel-bands",
        "window": 2.0,
        "random_crop": False,
        "sampling": {"batch_size": 16, "guidance": 8.0},
        "train": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 50, "batch_size": 16, "accumulate": 1, "epochs": None, "max_steps": 1300, "betas": [0.9, 0.99], "ema": 0.99, "eval_every": 650, "checkpoint_every": 650, "log_every": 50, "cache_gb": 1.0},
    },
}
