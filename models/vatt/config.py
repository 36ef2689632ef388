"""Every hyperparameter of VATT's two trainings, once (numbers without another source: spec VATT, sections 2 and 3)."""

import dataclasses

from avtools import hub
from avtools.models.vatt import features as pictures
from avtools.models.vatt import language
from avtools.models.vatt.model import Size
from avtools.training.config import Train

PAGE = "github.com/DragonLiu1995/video-to-audio-through-text"
MAIN = hub.Part("", "VATT's .ckpt (its sound model and language model)", f"{PAGE} (vatt_models.zip)", ("*.ckpt",), 28_000_000_000, "unstated")
CONVERTER = hub.Part(
    "converter", "what training left of the converter: a run of vatt-converter, or a released pytorch_model.bin", f"{PAGE} (checkpoint-117000.zip)",
    ("*.bin", "*.safetensors"), 40_000_000, "unstated", optional=True,
)  # fmt: skip
CODEC = hub.Part(
    "codec", "AudioGen's EnCodec at 16 kHz", "hf:facebook/audiogen-medium", ("compression_state_dict.bin",), 236_000_000, "CC-BY-NC-4.0 (non-commercial)"
)  # fmt: skip
CODEBOOK = hub.Part(
    "codebook", "VATT's file of the codec's vectors, which is compared with the codec", f"{PAGE} (meta_pretrain_vgg_encodec_embed.pt)",
    ("*.pt",), 4_200_000, "unstated", optional=True,
)  # fmt: skip
EVA = pictures.PART
LANGUAGE = language.PART
LANGUAGES, ENCODERS, CODECS = ("folder", "tiny"), ("eva02", "pixels"), ("encodec", "sound-codes")


@dataclasses.dataclass
class Seen:
    """What both trainings share: pictures, and the language model that reads them."""

    encoder: str = "eva02"  # frozen, of pictures: eva02 | pixels (their values; no weights)
    features: int = pictures.WIDTH  # width of the encoder's features
    frame_rate: float = pictures.RATE  # of pictures, per second
    frame_size: int = pictures.SIZE  # of pictures, pixels
    unit_length: bool = False  # features, which published ones seem not to be of
    window: float = 10.0  # seconds of a clip
    random_crop: bool = True  # longer clips: a window from anywhere rather than the first
    language: str = "folder"  # folder: --weights language=DIR | tiny: a small Llama at random (no weights)
    language_precision: str = "bf16"  # of the frozen language model on a GPU: fp32 | bf16 | fp16; on a CPU fp32
    video_tokens_per_second: float = 1.0  # that it sees; published: 1
    prompt_pool: list = dataclasses.field(default_factory=list)  # instructions, of --prompt-pool FILE; none: ours
    text_limit: int = 64  # tokens of an instruction, or of it and its answer; longer answers are cut
    text_column: str = ""  # that holds captions; none: the first of the usual ones


@dataclasses.dataclass
class Sampling:
    prompt: str = "text"  # what is asked of the language model: text (the row's, else as none) | self (a caption that it writes itself) | none
    captions: bool = False  # write captions only, no sound
    steps: int = 16
    guidance: float = 5.0  # 1: none
    top_k: int = 256  # codes that may be drawn; 0: all
    temperature: float = 1.0
    mask_temperature: float = 25.5
    overlap: float = 0.2  # share of a window that the next one of a longer clip is given
    batch_size: int = 8
    caption_temperature: float = 0.1  # 0: the likeliest words
    caption_top_p: float = 0.95
    caption_top_k: int = 500
    caption_repetition: float = 1.1
    caption_tokens: int = 100  # new ones, at most


@dataclasses.dataclass
class Config(Seen):
    """VATT Audio: sound tokens from the language model's states."""

    net: Size = dataclasses.field(default_factory=Size)  # net.visual, net.visual_rate: set by the next two and by the encoder
    aligned: bool = True  # features of the picture are added to the audio rows of their time; released weights: not
    codec: str = "encodec"  # encodec | sound-codes (no weights)
    sample_rate: int = 16000  # of the codec, Hz
    peak: float | None = None  # that sounds are scaled to; null: they stay as loud as they are
    layout_clips: list = dataclasses.field(default_factory=list)  # videos with sound by which a released checkpoint's layout of logits is told
    # training
    stage: int = 1  # 1: instructions of the pool alone | 2: captions too; begin it with --init of a run of stage 1
    dummy: float = 0.3  # share of stage 2's items whose instruction is of the pool all the same
    splice: float = 0.5  # share of items with an instruction of the pool that go on as another clip
    roll: float = 0.1  # share of items whose end comes before their beginning
    mask_mean: float = 0.75  # of the masked share, normal, within 0.5 to 1; published: 0.55 with Vicuna, 0.75 with Gemma
    mask_deviation: float = 0.25
    mask_per_batch: bool = False  # one share for a batch, as published, rather than one for each item
    smoothing: float = 0.1  # of the targets
    cycle: int = 300_000  # steps after which the published schedule is at 0, however many there are
    condition_dropout: float = 0.1  # share of items trained without condition, for guidance
    states_gb: float = 1.0  # memory for states of the language model that come again
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=44, lr=2e-4, schedule="linear", warmup_steps=20000, max_steps=300_000, weight_decay=1e-6, clip_norm=None, ema=None, precision="bf16",
            seed=23, eval_every=2000, checkpoint_every=2000,
        )  # fmt: skip
    )


@dataclasses.dataclass
class ConverterConfig(Seen):
    """VATT Converter: captions from video tokens."""

    stage: str = "proj"  # proj: the projection alone | lora: adapters of the language model too; begin it with --init of a run of stage proj
    mask_prompt: bool = True  # only captions are targets, as in the paper; the published scripts: instructions too
    text_limit: int = 108
    rank: int = language.RANK  # of the adapters
    alpha: float = 2.0 * language.RANK
    dropout: float = language.DROPOUT
    targets: list = dataclasses.field(default_factory=lambda: list(language.TARGETS))  # layers with adapters
    train: Train = dataclasses.field(
        default_factory=lambda: Train(
            batch_size=36, lr=1e-4, schedule="linear", warmup_steps=100, epochs=4, weight_decay=0.0, ema=None, precision="bf16",
            previews=0, eval_every=1000, checkpoint_every=1000,
        )  # fmt: skip
    )


TINY = {
    "encoder": "pixels",
    "features": 2304,
    "frame_rate": 24.0,
    "frame_size": 24,
    "window": 2.0,
    "random_crop": False,
    "language": "tiny",
    "language_precision": "fp32",
    "video_tokens_per_second": 4.0,
}
PUBLISHED = {"schedule": "published"}
PRESETS: dict[str, dict] = {  # the first four as published, but with a masked share and an instruction for each item
    "llama": {"aligned": False, "mask_mean": 0.55, "train": PUBLISHED},  # Vicuna 7B, stage 1, on one GPU
    "llama-stage2": {"aligned": False, "mask_mean": 0.55, "stage": 2, "train": {**PUBLISHED, "batch_size": 144, "warmup_steps": 1000}},  # on four
    "gemma": {"aligned": False, "net": {"condition": 2048}, "train": {**PUBLISHED, "lr": 1e-4}},  # Gemma 2B, on one GPU
    "gemma-stage2": {
        "aligned": False, "net": {"condition": 2048}, "stage": 2, "cycle": 600_000,
        "train": {**PUBLISHED, "batch_size": 16, "warmup_steps": 40_000, "max_steps": 600_000},
    },
    "tiny": {  # learns on synthetic clips in a few minutes on a CPU
        **TINY,
        "net": {
            "dim": 96, "first_blocks": 2, "second_blocks": 2, "first_heads": 3, "second_heads": 3, "head_dim": 32, "feed": 3, "latent": 128, "levels": 6,
            "codes": 16, "condition": 64, "dropout": 0.0, "rate": 25.0,
        },
        "codec": "sound-codes",
        "peak": 0.5,
        "smoothing": 0.0,
        "splice": 0.0,
        "roll": 0.0,
        "sampling": {"batch_size": 16, "guidance": 3.0, "top_k": 0, "temperature": 0.7, "mask_temperature": 4.0, "steps": 12},
        "train": {
            "lr": 2e-3, "schedule": "cosine", "warmup_steps": 20, "batch_size": 16, "max_steps": 600, "clip_norm": 1.0, "ema": None, "precision": "fp32",
            "eval_every": 300, "checkpoint_every": 300, "log_every": 20, "cache_gb": 1.0, "weight_decay": 0.01,
        },
    },
}  # fmt: skip
CONVERTER_PRESETS: dict[str, dict] = {
    "llama": {"train": PUBLISHED},
    "llama-lora": {"stage": "lora", "train": {**PUBLISHED, "epochs": 6.0}},
    "gemma": {"train": PUBLISHED},
    "gemma-lora": {"stage": "lora", "train": {**PUBLISHED, "epochs": 6.0, "batch_size": 72}},
    "tiny": {
        **TINY,
        "stage": "lora",
        "targets": ["q_proj", "v_proj", "o_proj", "down_proj"],
        "dropout": 0.0,
        "train": {
            "lr": 5e-3, "schedule": "cosine", "warmup_steps": 20, "batch_size": 16, "epochs": None, "max_steps": 400, "precision": "fp32", "eval_every": 200,
            "checkpoint_every": 200, "log_every": 20, "cache_gb": 1.0,
        },
    },
}  # fmt: skip
