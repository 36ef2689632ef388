"""Ties AVSyncD to the names that the trainer and the sampler call.

torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

import functools
import sys
from fractions import Fraction

from avtools import hub
from avtools.errors import RowError, UsageError
from avtools.models.avsyncd import data
from avtools.models.avsyncd.config import PRESETS, Config
from avtools.models.parts.clips import text_of
from avtools.system import System
from avtools.training import config as settings

FPS, FRAMES, RATE = 6, 12, 16000  # of a clip: pictures per second, pictures, samples per second
KNOWN = {
    "codec": ("stable-diffusion", "space-to-depth"),
    "sound_encoder": ("imagebind", "bands"),
    "sound_channels": ("first", "mix"),
    "text_encoder": ("clip", "words"),
    "trains": ("added", "all"),
}
MEMORY = 4096  # texts whose encodings are kept

STABLE_DIFFUSION = hub.Part(
    "sd",
    "Stable Diffusion 1.5's VAE and text tower",
    "hf:stable-diffusion-v1-5/stable-diffusion-v1-5",
    ("vae/config.json", "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors"),
    830_000_000,
    "CreativeML OpenRAIL-M",
)
UNET = hub.Part(
    "unet",
    "Stable Diffusion 1.5's UNet, from which training begins",
    STABLE_DIFFUSION.source,
    ("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    3_440_000_000,
    STABLE_DIFFUSION.licence,
    optional=True,
)
IMAGEBIND = hub.Part(
    "imagebind",
    "ImageBind, whose sound tower it hears with",
    "hf:nielsr/imagebind-huge",
    ("model.safetensors",),
    4_800_000_000,
    "CC-BY-NC-SA-4.0 (non-commercial)",
)


class AvSyncD(System):
    """A picture and 2 s of sound -> 12 pictures in time with it: latent diffusion over frames, frame 0 given."""

    name = "avsyncd"
    title = "a picture animated to a sound: Stable Diffusion over 12 frames, each hearing its own moment"
    source = "Zhang et al. 2024, arXiv 2403.05659 (ECCV 2024); weights: github.com/lzhangbj/ASVA"
    licence = "MIT by the repository's badge; on Stable Diffusion 1.5 (CreativeML OpenRAIL-M) and ImageBind (CC-BY-NC-SA-4.0, non-commercial)"
    released_run = False
    parts = (STABLE_DIFFUSION, UNET, IMAGEBIND)
    makes = ("sound", "picture")  # the sound is what was given, cut to the clip
    needs = ("path", "image_path")
    reads = data.COLUMNS
    sets = ("start", "end")  # of the clip
    clip_per_sample = True  # sample k of several is of another clip: `condition` is asked for each, with `sample` and `samples`
    Config = Config
    presets = PRESETS
    condition = staticmethod(data.condition)

    def __init__(self, config: Config):
        super().__init__(config)
        for name, known in KNOWN.items():
            if getattr(config, name) not in known:
                raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(known)}")
        for name in ("sound_dropout", "text_dropout", "flip"):
            if not 0 <= getattr(config, name) <= 1:
                raise UsageError(f"{name} {getattr(config, name):g}: a share from 0 to 1")
        factor = 8 if config.codec == "stable-diffusion" else 4
        for name in ("height", "width"):
            if getattr(config, name) < factor or getattr(config, name) % factor:
                raise UsageError(f"{name} {getattr(config, name)}: a multiple of {factor}, by which the codec {config.codec} makes pictures smaller")
        if config.noise_schedule.get("prediction_type") != "epsilon":
            raise UsageError("noise_schedule.prediction_type: epsilon is what this network is trained for")
        if config.unet["in_channels"] != config.unet["out_channels"]:
            raise UsageError(f"the UNet takes {config.unet['in_channels']} channels and gives {config.unet['out_channels']}; make unet.in_channels and unet.out_channels alike")
        self.codec = self.sound = self.text = self.unet = None
        self._texts: dict = {}
        self._told: set[str] = set()

    @functools.cached_property
    def noise(self):
        """The noise schedule's products of alphas (1000,)."""
        from avtools.models.avsyncd import training

        return training.alphas_cumprod(self.config.noise_schedule)

    # --- networks ------------------------------------------------------------------------------------------

    def _frozen(self, weights: hub.Weights, drop_path: float = 0.0) -> None:
        from avtools.models.avsyncd import checkpoint

        self.codec, self.sound, self.text = checkpoint.frozen(self.config, weights, drop_path)
        unet = self.config.unet
        for field, wanted, what in (
            ("in_channels", self.codec.channels, f"the codec {self.config.codec}"),
            ("audio_cross_attention_dim", self.sound.dim, f"the sound encoder {self.config.sound_encoder}"),
            ("cross_attention_dim", self.text.dim, f"the text encoder {self.config.text_encoder}"),
        ):
            if unet[field] != wanted:
                raise UsageError(f"unet.{field} {unet[field]}: {what} gives {wanted}; choose another preset")

    def _place(self, device, dtype) -> None:
        """Put the frozen networks where they work; pictures keep single precision."""
        self.device, self.dtype = device, dtype
        self.codec.to(device).eval().requires_grad_(False)
        for module in (self.sound, self.text):
            module.to(device, dtype).eval().requires_grad_(False)
        self._texts.clear()
        self.mask = self.sound.mask(FRAMES).to(device)
        self.null_audio = self.sound.null()
        self.null_text = self.text([""])

    # --- training ------------------------------------------------------------------------------------------

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        import torch

        from avtools.models.avsyncd import checkpoint, training

        config = self.config
        self.sample_options({"steps": None, "guidance": None, "scheduler": None})  # refused now rather than at the first preview
        self._frozen(weights, 0.1 if config.legacy_drop_path else 0.0)
        self.unet = checkpoint.make_unet(config)
        if init.get("") is not None:
            checkpoint.init_unet(self.unet, init.get(""))
        elif config.trains == "added":
            checkpoint.inflate(self.unet, checkpoint.unet_2d(weights))
        training.freeze(self.unet, config.trains)
        half = config.train.precision in ("bf16", "fp16") and device.type == "cuda"
        self._place(device, {"bf16": torch.bfloat16, "fp16": torch.float16}[config.train.precision] if half else torch.float32)

    @property
    def trainable(self):
        return self.unet

    def item_work(self):
        return data.training_item, data.options_of(self.config)

    def item_is_fixed(self) -> bool:
        return not self.config.random_start and self.config.flip in (0, 1)

    def check_row(self, row: dict) -> None:
        if row.get("features_path"):
            raise UsageError("the table has cached features (features_path), which avsyncd does not train on; drop that column")

    def _tell(self, free: str) -> None:
        """Say once that a class is not in the mapping."""
        if free and free not in self._told:
            self._told.add(free)
            print(f"avtools: class '{free}' has no prompt in the configuration (prompts): its own words are used", file=sys.stderr, flush=True)

    def collate(self, items: list[dict]) -> dict:
        import torch

        for item in items:
            self._tell(text_of(item.get("free", ())))
        batch = {name: torch.stack([torch.from_numpy(item[name]) for item in items]) for name in ("frames", "sound")}
        return batch | {"text": [text_of(item["text"]) for item in items]}

    def prepare(self, batch: dict, train: bool) -> dict:
        """Latents, and tokens of sound and text."""
        frames = batch["frames"]
        mean, std = self.codec.encode(frames.flatten(0, 1).to(self.device))

        def clips(moment):
            return None if moment is None else moment.float().unflatten(0, frames.shape[:2]).transpose(1, 2)

        self.sound.train(train and self.config.legacy_drop_path)
        audio = self.sound(batch["sound"].to(self.device))
        self.sound.eval()
        kept = {"draws": batch["draws"], "keys": batch["keys"], "mask": self.mask, "null_audio": self.null_audio, "null_text": self.null_text}
        return {**kept, "mean": clips(mean), "std": clips(std), "audio": audio, "text": self._prompts(batch["text"])}

    def _prompts(self, texts: list[str]):
        """(B, T, E) of texts, each encoded once."""
        import torch

        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if len(self._texts) + len(new) > MEMORY:
            self._texts.clear()
            new = list(dict.fromkeys(texts))
        if new:
            self._texts.update(zip(new, self.text(new), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.avsyncd import training

        return training.losses(module, batch, self.config, self.noise, True)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.avsyncd import training

        return training.losses(module, batch, self.config, self.noise, False)

    def shard_units(self) -> list[type]:
        from avtools.models.avsyncd.model import Resnet, Transformer

        return [Resnet, Transformer]

    # --- sampling ------------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "AvSyncD":
        from avtools.models.avsyncd import checkpoint

        if weights.get("") is None and preset is not None:
            return cls(settings.resolve(Config, PRESETS, preset, None, sets))
        return cls(checkpoint.config_of(checkpoint.locate(weights.get("")), preset, sets))

    def load(self, weights: hub.Weights, device, dtype) -> None:
        import torch

        from avtools.models.avsyncd import checkpoint

        path = checkpoint.locate(weights.get(""))
        with torch.device("meta"):  # takes over the file's tensors; it has no computed buffers
            self.unet = checkpoint.make_unet(self.config)
        checkpoint.load_unet(self.unet, path)
        self._frozen(weights)
        self._place(device, dtype)
        self.unet.to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.avsyncd import checkpoint

        return str(checkpoint.convert(weights, folder))

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.avsyncd import checkpoint

        return checkpoint.digest_of(self.config, weights)

    def sample_options(self, given: dict) -> dict:
        from avtools.models.avsyncd import sampling

        config = self.config.sampling
        chosen = {
            "steps": given["steps"] or config.steps,
            "guidance": config.guidance if given["guidance"] is None else given["guidance"],
            "text_guidance": config.text_guidance,
            "scheduler": given["scheduler"] or config.scheduler,
            "truncate": self.config.legacy_truncation,
        }
        sampling.check(chosen, self.config.noise_schedule)
        return {**data.options_of(self.config), **chosen}

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        import numpy as np
        import torch

        from avtools.models.avsyncd import sampling

        for item in items:
            self._tell(text_of(item.get("free", ())))

        def stacked(name):
            return torch.stack([torch.from_numpy(item[name]) for item in items]).to(self.device)

        image = self.codec.encode(stacked("image"))[0]  # the mean: the same picture gives the same latents
        audio, text = self.sound(stacked("sound")), self._prompts([text_of(item["text"]) for item in items])
        noise, generators = sampling.seeded(seeds, (image.shape[1], FRAMES - 1, *image.shape[2:]))
        dtype = next(self.unet.parameters()).dtype
        latents = sampling.sample_latents(
            self.unet,
            image,
            noise.to(self.device),
            text,
            self.null_text,
            audio,
            self.null_audio,
            self.mask,
            guidance=sampling.Guidance(options["guidance"], options["text_guidance"]),
            scheduler=options["scheduler"],
            steps=options["steps"],
            schedule=self.config.noise_schedule,
            generators=generators,
            dtype=dtype,
        )
        if not latents.isfinite().all():
            raise RowError("the pictures came out as no numbers; try --precision fp32, or less --guidance")
        pictures = self.codec.decode(latents.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(items), FRAMES))
        made = sampling.levels(pictures, options["truncate"]).permute(0, 1, 3, 4, 2).cpu().numpy()
        return [
            {"frames": frames, "fps": Fraction(FPS), "sound": np.ascontiguousarray(item["given"].T).clip(-1, 1), "rate": RATE}
            for frames, item in zip(made, items, strict=True)
        ]

    # --- features: clips are cut and mirrored anew each time --------------------------------------------------

    def feature_options(self) -> dict:
        raise UsageError("avsyncd has nothing to compute once: its clips are cut and mirrored at random; train on the videos themselves")

    def encoders_digest(self, weights: hub.Weights) -> str:
        return ""

    def encoder_facts(self) -> dict[str, str]:
        return {}
