"""Every hyperparameter of AVSyncD, once (numbers without another source: spec ASVA, section 1)."""

import dataclasses

from avtools.training.config import Train

#: Stable Diffusion 1.5's UNet and the width of the sound's tokens (fields of diffusers' UNet2DConditionModel;
#: `attention_head_dim` is diffusers' historic name for the number of heads).  "CrossAttn": a level with transformers.
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "audio_cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}

#: The noise schedule of Stable Diffusion 1.5 (diffusers' fields).
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

#: Folders of the published data sets -> prompts, where those are not the folder's words (spec section 3.4).
PROMPTS = {
    "baby_babbling_crying": "baby babbling crying",
    "cap_gun_shooting": "cap gun shooting",
    "chicken_crowing": "chicken crowing",
    "dog_barking": "dog barking",
    "frog_croaking": "frog croaking",
    "hammering": "hammering",
    "lions_roaring": "lions roaring",
    "machine_gun_shooting": "machine gun shooting",
    "playing_cello": "playing cello",
    "playing_trombone": "playing trombone",
    "playing_trumpet": "playing trumpet",
    "playing_violin__fiddle": "playing violin fiddle",
    "sharpen_knife": "sharpen knife",
    "striking_bowling": "striking bowling",
    "toilet_flushing": "toilet flushing",
    "explosion": "explosion",
    "fire_crackling": "fire crackling",
    "raining": "raining",
    "splashing_water": "splashing water",
    "squishing_water": "squishing water",
    "thunder": "thunder",
    "underwater_bubbling": "underwater bubbling",
    "waterfall_burbling": "waterfall burbling",
    "wind_noise": "wind noise",
}


@dataclasses.dataclass
class Sampling:
    steps: int = 25  # of the scheduler
    guidance: float = 4.0  # on the sound; 1 and below: none
    text_guidance: float = 1.0  # on the text; above 1 only where text_dropout was trained
    scheduler: str = "dpmsolver++"  # or pndm, legacy (PNDM as in the original), unipc, ddim, ddpm, euler, euler-a, heun, lms
    batch_size: int = 4


@dataclasses.dataclass
class Config:
    # the network
    unet: dict = dataclasses.field(default_factory=lambda: dict(UNET))
    noise_schedule: dict = dataclasses.field(default_factory=lambda: dict(NOISE_SCHEDULE))
    # the clip: always 12 pictures, 6 per second, with 2 s of sound
    height: int = 256  # pixels
    width: int = 256
    codec: str = "stable-diffusion"  # of pictures: stable-diffusion, its VAE | space-to-depth: pixels, 4 x 4 to a latent
    # the conditions
    sound_encoder: str = "imagebind"  # imagebind: its audio tower's 229 tokens | bands: parts/tiny's mel bands
    sound_channels: str = "first"  # what is heard of several channels: first (published) | mix
    text_encoder: str = "clip"  # clip: Stable Diffusion's | words: fixed random vectors
    prompts: dict = dataclasses.field(default_factory=lambda: dict(PROMPTS))  # a row's class -> its text, where it has none
    # training
    trains: str = "added"  # added: what Stable Diffusion does not have | all
    sound_dropout: float = 0.2  # share of items trained without sound, for guidance
    text_dropout: float = 0.0  # ... without text
    first_frame_loss: bool = False  # whether the clean frame 0 counts
    flip: float = 0.5  # share of clips that are mirrored
    random_start: bool = True  # longer clips: 2 s from anywhere rather than the middle
    # what the published weights and scores have seen, and is wrong (spec section 5)
    legacy_stereo: bool = False  # several channels read as one, sample by sample
    legacy_packets: bool = False  # sound begins where a packet of its codec does
    legacy_frames: bool = False  # pictures picked by times rounded to microseconds
    legacy_drop_path: bool = False  # a tenth of the frozen sound tower's last branches left out while training
    legacy_truncation: bool = False  # pictures written in whole levels by cutting, not rounding
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    train: Train = dataclasses.field(
        default_factory=lambda: Train(lr=1e-4, batch_size=4, accumulate=2, max_steps=37_000, ema=None, eval_every=1000, checkpoint_every=1000, seed=123)
    )


_RELEASED = {"sampling": {"steps": 50, "scheduler": "pndm"}}
_TRAINED = {"precision": "fp16", "gradient_checkpointing": True}

PRESETS: dict[str, dict] = {
    "released": {**_RELEASED, "train": {**_TRAINED, "milestones": [37_000]}},  # AVSync15, on 8 GPUs
    "landscapes": {**_RELEASED, "train": {**_TRAINED, "max_steps": 25_000, "milestones": [24_000]}},
    "greatest-hits": {  # on 4 GPUs
        **_RELEASED,
        "height": 128,
        "train": {**_TRAINED, "batch_size": 16, "accumulate": 1, "max_steps": 17_000, "milestones": [16_000]},
    },
    "tiny": {
        "unet": {
            **UNET,
            "in_channels": 48,
            "out_channels": 48,
            "block_out_channels": [64, 96],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
            "audio_cross_attention_dim": 48,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        "height": 24,
        "width": 32,
        "codec": "space-to-depth",
        "sound_encoder": "bands",
        "sound_channels": "mix",
        "text_encoder": "words",
        "prompts": {},
        "trains": "all",
        "flip": 0.0,
        "random_start": False,
        "sampling": {"batch_size": 16},
        "train": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 50, "batch_size": 8, "accumulate": 1, "max_steps": 1200, "betas": [0.9, 0.99], "ema": 0.99, "eval_every": 400, "checkpoint_every": 400, "log_every": 50, "cache_gb": 1.0, "seed": 0},
    },
}
