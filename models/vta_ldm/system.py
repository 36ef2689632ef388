"""Ties VTA-LDM to the names that the trainer and the sampler call.

torch and the networks are imported by the methods: a listing of systems, and workers that read pictures, need none.
"""

import functools
import hashlib

from avtools import hub
from avtools.errors import MediaError, UsageError
from avtools.models.judges.sync import CAVP
from avtools.models.parts.clips import text_of
from avtools.models.parts.imagebind.checkpoint import PART as IMAGEBIND
from avtools.models.vta_ldm import data
from avtools.models.vta_ldm.config import PRESETS, Config
from avtools.system import System
from avtools.training import config as settings
from avtools.training.draws import draw_of

MAIN = hub.Part(
    "",
    "the diffusion model with CLIP's vision tower, VAE and vocoder",
    "hf:ariesssxu/vta-ldm-clip4clip-v-large",
    ("pytorch_model.bin", "pytorch_model_2.bin", "summary.jsonl"),
    3_980_000_000,
    "CC-BY-4.0; its VAE and vocoder CC-BY-NC-SA-4.0 (non-commercial)",
)
CLIP = hub.Part("clip", "CLIP ViT-L/14", "hf:openai/clip-vit-large-patch14", ("*.json", "model.safetensors", "merges.txt", "vocab.json"), 1_710_000_000, "MIT", optional=True)
VIVIT = hub.Part("vivit", "ViViT-B/16x2", "hf:google/vivit-b-16x2-kinetics400", ("*.json", "pytorch_model.bin"), 356_000_000, "MIT", optional=True)
LANGUAGEBIND = hub.Part("languagebind", "LanguageBind's video tower", "hf:LanguageBind/LanguageBind_Video_FT", ("config.json", "pytorch_model.bin"), 2_110_000_000, "MIT", optional=True)
ENCODERS = {"clip": CLIP, "vivit": VIVIT, "imagebind": IMAGEBIND, "languagebind": LANGUAGEBIND, "cavp": CAVP}  # of pictures
CODEC = hub.Part("codec", "AudioLDM's VAE and vocoder", "hf:ariesssxu/vta-ldm-clip4clip-v-large", ("pytorch_model.bin",), 443_000_000, "CC-BY-NC-SA-4.0 (non-commercial)", optional=True)


class VtaLdm(System):
    """Sound for silent video: frozen picture features -> latent diffusion over a log-mel VAE."""

    name = "vta-ldm"
    title = "sound for video by latent diffusion, conditioned on frozen picture features"
    source = "Xu et al. 2024, arXiv 2407.07464; ours: time-aligned conditioning, real condition dropout"
    licence = MAIN.licence
    released_run = False
    parts = (MAIN, *ENCODERS.values(), CODEC)
    makes = ("sound",)
    needs = (*data.VIDEO_COLUMNS, *data.TEXT_COLUMNS)
    Config = Config
    presets = PRESETS
    condition = staticmethod(data.condition)
    feature_item = staticmethod(data.feature_item)

    def __init__(self, config: Config):
        super().__init__(config)
        for name, known in {"time_conditioning": ("cross", "aligned", "both"), "condition": ("video", "text", "text+video"), "codec": ("audioldm", "mel-bands"), "encoder": (*ENCODERS, "pixels"), "frame_fit": ("crop", "squash")}.items():
            if getattr(config, name) not in known:
                raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(known)}")
        if config.token_dim != config.unet["cross_attention_dim"]:
            raise UsageError(f"token_dim {config.token_dim} must be the UNet's cross_attention_dim, {config.unet['cross_attention_dim']}")
        if config.condition == "text" and config.time_conditioning != "cross":
            raise UsageError("text alone has no time to align with; --set time_conditioning=cross")
        for name in ("window", "frame_rate", "frame_size"):
            if not getattr(config, name) > 0:
                raise UsageError(f"{name} {getattr(config, name):g}: more than 0")
        for name in ("condition_dropout", "concat_augment", "mix_augment"):
            if not 0 <= getattr(config, name) <= 1:
                raise UsageError(f"{name} {getattr(config, name):g}: a share from 0 to 1")
        if config.concat_augment + config.mix_augment > 1:
            raise UsageError("concat_augment and mix_augment are shares of the same items: together at most 1")
        if config.noise_schedule.get("prediction_type") != "v_prediction":
            raise UsageError("noise_schedule.prediction_type: v_prediction is what this network is trained for")
        texts = () if config.condition == "video" else data.TEXT_COLUMNS
        self.reads = (*data.VIDEO_COLUMNS, *texts)
        self.encodes = (*data.VIDEO_COLUMNS, *data.SOUND_COLUMNS, *texts)
        self.codec = self.encoder = self.text_encoder = self.denoiser = None

    @functools.cached_property
    def noise(self):
        """The noise schedule's products of alphas (1000,)."""
        from avtools.models.vta_ldm import diffusion

        return diffusion.alphas_cumprod(self.config.noise_schedule)

    # --- networks ------------------------------------------------------------------------------------------

    def _codec(self):
        """The sound's codec without its weights."""
        if self.config.codec == "mel-bands":
            from avtools.models.parts.tiny.mel_bands import MelBands

            return MelBands()
        from avtools.models.parts.audioldm import AudioLdmCodec

        return AudioLdmCodec()

    def _encoders(self, weights: hub.Weights) -> None:
        """Load the frozen picture and text encoders that the condition needs."""
        from avtools.models.vta_ldm import checkpoint

        config = self.config
        if config.condition != "text":
            if config.encoder == "pixels":
                from avtools.models.parts.tiny.pixels import Pixels

                self.encoder = Pixels(config.frame_size)
            else:
                self.encoder = checkpoint.picture_encoder(config, weights, ENCODERS)
            if self.encoder.dim != config.feature_dim:
                raise UsageError(f"feature_dim {config.feature_dim}: the encoder {config.encoder} gives {self.encoder.dim}")
        if config.condition != "video":
            self.text_encoder = checkpoint.text_encoder(config, weights, CLIP)
            if self.text_encoder.dim != config.feature_dim:
                raise UsageError(f"feature_dim {config.feature_dim}: the text encoder gives {self.text_encoder.dim}")

    def _check_channels(self) -> None:
        config, channels = self.config, self.codec.latent_channels
        if not config.adapters and config.unet["in_channels"] != channels:
            raise UsageError(f"the UNet has {config.unet['in_channels']} channels and the codec {config.codec} gives {channels}; choose another preset, or --set adapters=true")
        if config.unet["in_channels"] != config.unet["out_channels"]:
            raise UsageError(f"the UNet takes {config.unet['in_channels']} channels and gives {config.unet['out_channels']}; make unet.in_channels and unet.out_channels alike")
        if config.sample_rate != self.codec.sample_rate:
            raise UsageError(f"sample_rate {config.sample_rate}: the codec {config.codec} works at {self.codec.sample_rate} Hz")

    def _denoiser(self):
        """The network that trains, at random; UsageError where the UNet's settings do not fit together."""
        from avtools.models.vta_ldm.model import Denoiser

        try:
            return Denoiser(self.config, self.codec.latent_channels)
        except (ValueError, TypeError, NotImplementedError, IndexError) as error:
            raise UsageError(f"no UNet can be made of these settings ({' '.join(str(error).split())[:200]}); change unet.*") from None

    def _place(self, device, dtype) -> None:
        """Put the frozen networks where they work."""
        self.device, self.dtype = device, dtype
        for module in (self.encoder, self.text_encoder):
            if module is not None:
                module.to(device, dtype).eval().requires_grad_(False)
        self.codec.to(device).eval().requires_grad_(False)  # sound keeps full precision

    # --- training ------------------------------------------------------------------------------------------

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        import torch

        from avtools.models.vta_ldm import checkpoint

        self.codec = self._codec()
        self._check_channels()
        if self.config.codec == "audioldm":
            checkpoint.load_codec(self.codec, weights, MAIN, CODEC)
        self._encoders(weights)
        self.denoiser = self._denoiser()
        if init.get("") is not None:
            checkpoint.init_denoiser(self.denoiser, init.get(""))
        half = self.config.train.precision == "bf16" and device.type == "cuda"
        self._place(device, torch.bfloat16 if half else torch.float32)

    @property
    def trainable(self):
        return self.denoiser

    @property
    def seconds_per_latent(self) -> float:
        return self.codec.step / self.codec.sample_rate

    def _samples(self) -> int:
        """Of a window."""
        import torch

        codec = self.codec
        if codec is None:
            with torch.device("meta" if self.config.codec == "audioldm" else "cpu"):  # without its memory it tells as well
                codec = self._codec()
        return codec.samples(self.config.window)

    def item_work(self):
        options = data.options_of(self.config, self._samples())
        options["facts"] = None if self._ruled_out() else self.encoder_facts()
        return data.training_item, options

    def item_is_fixed(self) -> bool:
        return not self._ruled_out()

    def _ruled_out(self) -> list[str]:
        """What makes an item another one each time, so that cached features cannot have it."""
        return [name for name in ("random_crop", "concat_augment", "mix_augment") if getattr(self.config, name)]

    def check_row(self, row: dict) -> None:
        if not row.get("features_path"):
            return
        if self._ruled_out():
            names = self._ruled_out()
            sets = " ".join(f"--set {name}={'false' if name == 'random_crop' else 0}" for name in names)
            raise UsageError(f"the table has cached features (features_path), which rule out {', '.join(names)}: {sets}, or drop that column")
        from avtools import features

        try:
            features.read(row["features_path"], self.encoder_facts())
        except MediaError as error:
            raise UsageError(str(error)) from None

    def partner(self, row: dict, draw: int) -> int | None:
        options = {"concat_augment": self.config.concat_augment, "mix_augment": self.config.mix_augment}
        return draw_of(draw, "whom") if data.augmentation(draw, options) else None

    def collate(self, items: list[dict]) -> dict:
        import torch

        batch = {}
        for name in items[0]:
            found = [torch.from_numpy(item[name]) if name in item else None for item in items]
            alike = name in ("waveform", "mean", "std")
            batch[name] = torch.stack(found) if alike else found
        for name in {name for item in items for name in item} - set(batch):  # only the items that are mixed have it
            batch[name] = [torch.from_numpy(item[name]) if name in item else None for item in items]
        return batch

    def prepare(self, batch: dict, train: bool) -> dict:
        """Features and latent moments of a batch, by the frozen networks or from the cache."""
        import torch

        ready = {"draws": batch["draws"], "keys": batch["keys"]}
        count = len(batch["draws"])
        with torch.autocast(self.device.type, enabled=False):
            if "mean" in batch:
                ready |= {"mean": batch["mean"], "std": batch["std"]}
                ready["features"], ready["texts"] = batch.get("features", [None] * count), batch.get("text_features", [None] * count)
            else:
                ready["mean"], ready["std"] = self.codec.encode(batch["waveform"])
                ready["features"], ready["texts"] = self._features(batch.get("frames"), count), self._texts(batch.get("text"), count)
                if "other_frames" in batch:
                    ready["features"] = self._mixed(ready["features"], batch["other_frames"])
        ready["sampled"] = bool(ready["std"].any())
        return ready

    def _features(self, frames: list | None, count: int) -> list:
        if frames is None:
            return [None] * count
        return self.encoder([one.to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255 for one in frames])

    def _texts(self, texts: list | None, count: int) -> list:
        return [None] * count if texts is None else list(self.text_encoder([text_of(text) for text in texts]))

    def _mixed(self, features: list, others: list) -> list:
        """The mean of both clips' features at each time, where an item is mixed of two."""
        which = [k for k, other in enumerate(others) if other is not None]
        for k, other in zip(which, self._features([others[k] for k in which], len(which)), strict=True):
            both = min(len(features[k]), len(other))
            features[k] = (features[k][:both] + other[:both]) / 2
        return features

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.vta_ldm import training

        return training.losses(module, batch, self.config, self.noise, self.seconds_per_latent, True)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.vta_ldm import training

        return training.losses(module, batch, self.config, self.noise, self.seconds_per_latent, False)

    def shard_units(self) -> list[type]:
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.transformers.transformer_2d import Transformer2DModel

        return [ResnetBlock2D, Transformer2DModel]

    # --- sampling ------------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "VtaLdm":
        from avtools.models.vta_ldm import checkpoint

        source = weights.get("")
        path = None if preset is not None and source is None else hub.locate(source, MAIN, cls.name)
        if path is None:
            return cls(settings.resolve(Config, PRESETS, preset, None, sets))
        return cls(checkpoint.config_of(path, preset, sets))

    def load(self, weights: hub.Weights, device, dtype) -> None:
        import torch

        from avtools.models.vta_ldm import checkpoint

        path = hub.locate(weights.get(""), MAIN, self.name)
        self.codec = self._codec()
        self._check_channels()
        with torch.device("meta"):  # its weights come from the file; it has no computed buffers
            self.denoiser = self._denoiser()
        self.denoiser.to_empty(device="cpu")
        self.encoder = checkpoint.load_for_sampling(self, path, weights, MAIN, CODEC, ENCODERS)
        self._place(device, dtype)
        self.denoiser.to(device, dtype).eval().requires_grad_(False)

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.vta_ldm import checkpoint

        for part in ENCODERS:
            if weights.get(part) is not None:
                raise UsageError(f"--weights {part}=...: convert writes the picture tower that the checkpoint holds; leave that out")
        codec = None if weights.get("codec") is None else hub.locate(weights.get("codec"), CODEC, cls.name)
        return str(checkpoint.convert(hub.locate(weights.get(""), MAIN, cls.name), folder, codec))

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.vta_ldm import checkpoint

        path = hub.locate(weights.get(""), MAIN, self.name)
        parts = {part.name: part for part in self.parts}
        found = [checkpoint.digest_of(path)]
        found += [f"{name}={hub.digest(hub.locate(source, parts[name], self.name))}" for name, source in sorted(weights.sources.items()) if name]
        return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16]

    def sample_options(self, given: dict) -> dict:
        from avtools.models.vta_ldm import sampling

        config = self.config
        options = data.options_of(config, self._samples())
        chosen = {
            "steps": given["steps"] or config.sampling.steps,
            "guidance": config.sampling.guidance if given["guidance"] is None else given["guidance"],
            "scheduler": given["scheduler"] or config.sampling.scheduler,
            "overlap": config.sampling.overlap,
        }
        sampling.check(chosen)
        return {**options, **chosen}

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        import torch

        from avtools.models.vta_ldm import sampling

        count = len(items)
        frames = [torch.from_numpy(item["frames"]) for item in items] if options["pictures"] else None
        features = self._features(frames, count)
        texts = self._texts([item["text"] for item in items] if options["text"] else None, count)
        made = sampling.generate(
            self.denoiser, self.codec, features, texts, [float(item["seconds"]) for item in items], seeds, self.config, options, self.device, self.dtype
        )
        return [{"sound": sound[:, None], "rate": self.codec.sample_rate} for sound in made]

    # --- features ------------------------------------------------------------------------------------------

    def feature_options(self) -> dict:
        return data.options_of(self.config, self._samples())

    def load_encoders(self, weights: hub.Weights, device, dtype) -> None:
        from avtools.models.vta_ldm import checkpoint

        self.codec = self._codec()
        if self.config.codec == "audioldm":
            checkpoint.load_codec(self.codec, weights, MAIN, CODEC)
        self._encoders(weights)
        self._place(device, dtype)

    def encoders_digest(self, weights: hub.Weights) -> str:
        from avtools.models.vta_ldm import checkpoint

        config, found = self.config, []
        wanted = [CODEC] if config.codec == "audioldm" else []
        if config.condition != "text" and config.encoder != "pixels":
            wanted.append(checkpoint.named(ENCODERS[config.encoder], config.encoder_model))
        if config.condition != "video":
            wanted.append(checkpoint.named(CLIP, config.text_model))
        for part in wanted:
            given = weights.get(part.name)
            beside = part.name in (CLIP.name, CODEC.name) and weights.get("") is not None
            if given is None and beside:
                found.append(checkpoint.digest_of(hub.locate(weights.get(""), MAIN, self.name)))
            else:
                found.append(hub.digest(hub.locate(given, part, self.name)))
        return "-".join(found) or "without weights"

    def encode(self, items: list[dict]) -> list[dict]:
        import torch

        count = len(items)
        waveform = torch.stack([torch.from_numpy(item["waveform"]) for item in items]).to(self.device)
        mean, std = self.codec.encode(waveform)
        frames = [torch.from_numpy(item["frames"]) for item in items] if "frames" in items[0] else None
        features, texts = self._features(frames, count), self._texts([item["text"] for item in items] if "text" in items[0] else None, count)
        made = []
        for k in range(count):
            arrays = {"mean": mean[k].half(), "std": std[k].half()}
            if features[k] is not None:
                arrays["features"] = features[k].half()
            if texts[k] is not None:
                arrays["text_features"] = texts[k].half()
            made.append({name: tensor.cpu().numpy() for name, tensor in arrays.items()})
        return made

    def encoder_facts(self) -> dict[str, str]:
        from avtools.models.vta_ldm import checkpoint

        config = self.config
        names = ("encoder", "encoder_model", "frame_rate", "frame_size", "frame_fit", "clip_normalise", "legacy_frames", "codec", "sample_rate", "window", "normalise")
        facts = {name: str(getattr(config, name)) for name in names if config.condition != "text" or not name.startswith(("encoder", "frame", "clip"))}
        if config.condition != "video":
            facts["text_model"] = config.text_model
        modules = {"encoder_digest": self.encoder, "codec_digest": self.codec, "text_digest": self.text_encoder}
        return facts | {name: checkpoint.digest_of_module(module) for name, module in modules.items() if module is not None}

