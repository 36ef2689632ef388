"""Ties MAESTRO to the names that the trainer and the sampler call: `cim` and `maestro-video` train, `maestro` samples.

torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

import dataclasses
import functools
from fractions import Fraction

from avtools import hub
from avtools.errors import RowError, UsageError
from avtools.models.audiosep import config as audiosep
from avtools.models.maestro import data
from avtools.models.maestro.config import (
    BASE,
    CIM_PRESETS,
    CODECS,
    IMAGEBIND,
    IMAGES,
    MAIN,
    PRESETS,
    SEPARATOR,
    SOUNDS,
    TEXTS,
    VIDEO_PRESETS,
    CimConfig,
    Config,
    VideoConfig,
)
from avtools.models.parts.clips import CLASS_COLUMNS, text_of
from avtools.system import System
from avtools.training import config as settings

SOURCE = "Multi-source audio to video with attention mosaics (EAAI 2025), github.com/kuai-lab/eaai25_complex_A2V"
LICENCE = "unstated; on ImageBind (CC-BY-NC-SA-4.0, non-commercial) and VideoCrafter2 (see its page)"
OPTIONAL_BASE = dataclasses.replace(BASE, optional=True)
OPTIONAL_IMAGES = dataclasses.replace(IMAGES, what="Stable Diffusion 2.1, whose autoencoder and text tower a video model of one's own may have", optional=True)
MEMORY = 4096  # texts whose encodings are kept


def check_known(config, known: dict[str, tuple[str, ...]]) -> None:
    """UsageError where a setting is none of those there are."""
    for name, values in known.items():
        if getattr(config, name) not in values:
            raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(values)}")


def check_share(config, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise UsageError(f"{name} {getattr(config, name):g}: a share from 0 to 1")


class _Texts:
    """Encodings of texts, each made once."""

    def __init__(self, tower):
        self.tower, self.known = tower, {}

    def __call__(self, texts: list[str]):
        """(B, P, D)."""
        import torch

        from avtools.models.maestro.sampling import encode

        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if len(self.known) + len(new) > MEMORY:
            self.known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            with torch.autocast(next(iter(self.tower.state_dict().values()), torch.zeros(())).device.type, enabled=False):
                self.known.update(zip(new, encode(self.tower, new)[0], strict=True))
        return torch.stack([self.known[text] for text in texts])


def _half(precision: str, device):
    """What frozen networks work in while others train."""
    import torch

    half = precision in ("bf16", "fp16") and device.type == "cuda"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[precision] if half else torch.float32


def _moved(network, *where):
    """A network of diffusers where it works; its own `to` warns of precisions that it was asked for."""
    import torch

    return torch.nn.Module.to(network, *where)


def _stacked(items: list[dict], names) -> dict:
    import torch

    return {name: torch.stack([torch.from_numpy(item[name]) for item in items]) for name in names}


def _drawn(config, given: dict) -> dict:
    """Plain options of how to sample, from the configuration (:class:`.config.Drawn`) and the command line."""
    return {
        "steps": given["steps"] or config.steps,
        "guidance": config.guidance if given["guidance"] is None else given["guidance"],
        "scheduler": given["scheduler"] or config.scheduler,
        "eta": config.eta,
        "legacy_times": config.legacy_times,
    }


def _shown(video) -> dict:
    """Plain options of what a video model makes."""
    from avtools.models.maestro.sampling import check_size

    check_size(video)
    return {"frames": video.frames, "fps": video.fps, "size": (video.height, video.width)}


class Maestro(System):
    """A mixture, or the stems of its sources -> a video in which each source has its place."""

    name = "maestro"
    title = "a video of several sounds at once, each in its own place: VideoCrafter2, ImageBind and an attention mosaic"
    source = SOURCE
    licence = LICENCE
    released_run = False
    parts = (MAIN, BASE, IMAGEBIND, OPTIONAL_IMAGES, SEPARATOR, dataclasses.replace(audiosep.CLAP, optional=True), dataclasses.replace(audiosep.TOKENIZER, optional=True))
    makes = ("sound", "picture")  # the sound is what was given, as long as the video
    needs = ("stem_paths", "stem_path", "objects", "audio_path", "path", "video_path", "mixture_path")
    reads = data.COLUMNS
    sets = ("queries", "stem_paths", "layout", "boxes")
    groups = True
    Config = Config
    presets = PRESETS
    condition = staticmethod(data.condition)

    def __init__(self, config: Config):
        super().__init__(config)
        check_known(config.video, {"codec": CODECS, "text_encoder": TEXTS})
        check_known(config.heard, {"sound_encoder": SOUNDS})
        if not config.sampling.soft_steps >= 0:
            raise UsageError(f"sampling.soft_steps {config.sampling.soft_steps}: from 0")
        self.weights = hub.Weights({})
        self.base = self.hears = self.resampler = self.separator = None

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "Maestro":
        from avtools.models.maestro import loading

        config = settings.resolve(Config, PRESETS, preset)
        if weights.get("") is not None or preset is None:
            config.heard = loading.heard_config(loading.main_path(weights))
            config.video = loading.video_config(loading.base_path(weights, cls.name))
        settings.set_all(config, sets)
        made = cls(config)
        made.weights = weights
        return made

    def load(self, weights: hub.Weights, device, dtype) -> None:
        import torch

        from avtools.models.maestro import checkpoint, diffusion, loading

        config = self.config
        path = loading.main_path(weights)
        resampler = loading.resampler_of(path)
        base = loading.base_of(config.video, weights, self.name)
        hears = loading.sound_encoder(config.heard.sound_encoder, weights, self.name)
        for wanted, found, what in (
            (resampler.size.input_dim, hears.dim, f"{config.heard.sound_encoder} gives tokens of"),
            (resampler.size.output_dim, base.text.dim, "the video model's text has"),
        ):
            if wanted != found:
                raise UsageError(f"{path}: its resampler has {wanted} where {what} {found}; give weights that belong together")
        self.noise = diffusion.Noise(base.schedule)
        self.base = checkpoint.Base(_moved(base.unet, device, dtype), base.codec.to(device), base.text.to(device, dtype), base.schedule)
        self.hears, self.resampler = hears.to(device), resampler.to(device).requires_grad_(False)
        self.device, self.dtype = device, dtype
        if weights.get("separator") is not None:
            from avtools.models.audiosep.separation import Separator

            name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")
            self.separator = Separator.load(loading.separator_weights(weights), device, name)

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.maestro import loading

        return str(loading.convert(weights, folder))

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.maestro import loading

        return loading.digest(weights, self.config.heard, self.config.video)

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        raise UsageError("maestro puts trained parts together: 'avtools train cim' trains its hearing, 'avtools train maestro-video' a video model")

    @functools.cached_property
    def _separator_rate(self) -> int | None:
        if self.weights.get("separator") is None:
            return None
        from avtools.models.audiosep.separation import Separator
        from avtools.models.maestro import loading

        return Separator.rate_of(loading.separator_weights(self.weights))

    def sample_options(self, given: dict) -> dict:
        from avtools.models.maestro import diffusion, regions
        from avtools.models.maestro.sampling import settings_of

        config, video = self.config.sampling, self.config.video
        layout, boxes = given.get("layout") or config.layout, list(given.get("boxes") or ())
        if layout and layout not in regions.LAYOUTS:
            raise UsageError(f"--layout {layout}: one of {', '.join(regions.LAYOUTS)}")
        if given.get("layout") and boxes:
            raise UsageError("--layout and --box: give one of them")
        if not all(isinstance(query, str) for query in config.queries):
            raise UsageError('sampling.queries: a list of texts, as ["dog barking", "rain"]')
        options = {
            **_shown(video),
            **_drawn(config, given),
            "layout": "" if boxes else layout,
            "boxes": boxes,
            "soft_steps": config.soft_steps,
            "strengthen": config.strengthen,
            "weaken": config.weaken,
            "queries": list(config.queries),
            "use_text": config.use_text,
            "legacy_timing": config.legacy_timing,
            "legacy_mosaic": config.legacy_mosaic,
            "spectrogram": self.config.heard.sound_encoder == "imagebind",
            "words": video.text_encoder == "words",
            "places": video.text_places,
            "tokens": self.config.heard.resampler["queries"],
            "separator_rate": self._separator_rate,
        }
        diffusion.check(settings_of(options), diffusion.Noise(video.noise_schedule))
        return options

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        from avtools.models.maestro import sampling

        items = sampling.separated(items, self.separator, options)
        sources = sampling.heard(items, self.hears, self.resampler, options, self.device)
        made = sampling.generate(self.base, self.noise, sources, seeds, options, self.device, self.dtype)
        fps = Fraction(options["fps"]).limit_denominator(1000)
        return [
            {"frames": frames, "fps": fps, "sound": item["given"].clip(-1, 1), "rate": int(item["rate"])}
            for frames, item in zip(made, items, strict=True)
        ]

    def feature_options(self) -> dict:
        raise UsageError("maestro has nothing to compute once; sample from it")

    def encoders_digest(self, weights: hub.Weights) -> str:
        return ""


class Cim(System):
    """The condition injection module: tokens of sound in the place of words."""

    name = "cim"
    title = "MAESTRO's hearing: a resampler that turns ImageBind's sound tokens into tokens of a text space"
    source = SOURCE
    licence = LICENCE
    released_run = False
    parts = (IMAGES, IMAGEBIND, OPTIONAL_BASE)
    makes = ()
    needs = ("path", "video_path")
    reads = ("path", "video_path", "audio_path", "stem_path", "query", "class", "label", "text", "start", "end")
    Config = CimConfig
    presets = CIM_PRESETS

    def __init__(self, config: CimConfig):
        super().__init__(config)
        check_known(config, {"sound_encoder": SOUNDS, "learns_of": ("image", "video"), "spacing": ("spread", "pinned")})
        if config.clips < 1 or not config.window > 0:
            raise UsageError(f"clips {config.clips}, window {config.window:g}: a clip at least, of more than 0 s")
        if config.legacy_times and not config.interpolate:
            raise UsageError("legacy_times pairs 2 clips - 1 pictures with clips; leave interpolate true")
        for name in ("height", "width"):
            if config.learns_of == "image" and (getattr(config, name) < 8 or getattr(config, name) % 8):
                raise UsageError(f"{name} {getattr(config, name)}: a multiple of 8, by which the autoencoder makes pictures smaller")
        self.module = self.video = None

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.maestro import checkpoint, diffusion, loading, text
        from avtools.models.maestro.training import Injection

        config = self.config
        weights.check([part.name for part in self.parts])
        init.check(("",), "--init")
        if config.learns_of == "video":
            self.video = loading.video_config(loading.base_path(weights, self.name))
            base = loading.base_of(self.video, weights, self.name)
            unet, self.codec, tower, schedule = base.unet, base.codec, base.text, base.schedule
        else:
            folder = loading.images_folder(weights, self.name)
            unet, schedule = loading.image_unet(folder)
            self.codec, tower = checkpoint.load_codec(folder / "vae"), text.load_text(folder / "text_encoder")
            if unet.config.cross_attention_dim != tower.dim:
                raise UsageError(f"{folder}: its network attends to tokens {unet.config.cross_attention_dim} wide, and its text has {tower.dim}; give Stable Diffusion 2.1")
        self.hears = loading.sound_encoder(config.sound_encoder, weights, self.name)
        for field, found, what in (("input_dim", self.hears.dim, f"the sound encoder {config.sound_encoder}"), ("output_dim", tower.dim, "the text encoder")):
            if config.resampler.get(field) != found:
                raise UsageError(f"resampler.{field} {config.resampler.get(field)}: {what} gives {found}; choose another preset")
        self.noise = diffusion.Noise(schedule)
        dtype = _half(config.train.precision, device)
        self.codec.to(device).eval().requires_grad_(False)
        self.hears.to(device).eval().requires_grad_(False)
        _moved(unet, device, dtype).eval()
        self.module = Injection(loading.make_resampler(config.resampler).to(device), unet, config.trains_keys)
        for parameter in self.module.trained().values():
            parameter.data = parameter.data.float()  # what trains is in single precision
        if config.train.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if init.get("") is not None:
            loading.init_injection(self.module, loading.main_path(init))
        self.texts = _Texts(tower.to(device).eval().requires_grad_(False))
        self.null = self.texts([""])[0]

    @property
    def trainable(self):
        return self.module

    def trainable_state(self) -> dict:
        return {name: parameter.detach() for name, parameter in self.module.trained().items()}

    def item_work(self):
        return data.cim_item, data.cim_options(self.config, self.video)

    def item_is_fixed(self) -> bool:
        return not self.config.random_start

    def check_row(self, row: dict) -> None:
        if row.get("features_path"):
            raise UsageError("the table has cached features (features_path), which cim does not train on; drop that column")

    def collate(self, items: list[dict]) -> dict:
        return _stacked(items, ("pictures", "sound", "middles", "times")) | {"label": [text_of(item["text"]) for item in items]}

    def prepare(self, batch: dict, train: bool) -> dict:
        """Latents, tokens of the sound of each picture, and encoded labels."""
        from avtools.models.maestro.training import latents_of, paired

        sound = batch["sound"]
        maps = self.hears(sound.flatten(0, 1)).float().unflatten(0, sound.shape[:2])
        maps = paired(maps, batch["middles"], batch["times"], self.config.legacy_times)
        latents = latents_of(self.codec, batch["pictures"], batch["draws"])
        return {"draws": batch["draws"], "keys": batch["keys"], "latents": latents, "maps": maps, "null": self.null, "label": self.texts(batch["label"])}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.maestro.training import injection_losses

        return injection_losses(module, batch, self.noise, self.config, self.video and self.video.fps)

    def evaluate(self, module, batch: dict) -> dict:
        return self.training_step(module, batch, 0, "main")

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        return Maestro.convert(weights, folder)

    # --- 'maestro' samples with it ---------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "Cim":
        raise UsageError("cim hears, and makes nothing by itself: 'avtools sample maestro --weights RUN --weights base=...' makes videos with it")

    def sample_options(self, given: dict) -> dict:
        return {}  # for the trainer's previews, which pass over rows that give nothing

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        raise RowError("cim makes nothing by itself")


class MaestroVideo(System):
    """A text-to-video model of one's own for :class:`Maestro`."""

    name = "maestro-video"
    title = "a text-to-video model in VideoCrafter2's form, of one's own: what maestro and cim build on"
    source = "Chen et al. 2024, VideoCrafter2, arXiv 2401.09047; diffusers' UNet3DConditionModel"
    licence = "of VideoCrafter2, from which training may begin: see its page"
    released_run = False
    parts = (dataclasses.replace(OPTIONAL_BASE, name=""), OPTIONAL_IMAGES)
    makes = ("picture",)
    needs = (*data.TEXT_COLUMNS, *CLASS_COLUMNS)
    reads = (*data.TEXT_COLUMNS, *CLASS_COLUMNS)
    Config = VideoConfig
    presets = VIDEO_PRESETS
    condition = staticmethod(data.video_condition)

    def __init__(self, config: VideoConfig):
        super().__init__(config)
        check_known(config, {"codec": CODECS, "text_encoder": TEXTS, "text_layer": ("penultimate", "last")})
        check_share(config, "text_dropout", "flip", "dropout")
        if config.unet.get("in_channels") != config.unet.get("out_channels"):
            raise UsageError(f"the UNet takes {config.unet.get('in_channels')} channels and gives {config.unet.get('out_channels')}; make unet.in_channels and unet.out_channels alike")
        if config.text_places < 2:
            raise UsageError(f"text_places {config.text_places}: 2 at least, a begin and an end")
        self.base = None

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.maestro import checkpoint, diffusion, loading

        config = self.config
        if weights.get("") is not None:
            raise UsageError("maestro-video's own network trains: leave out --weights (but sd=...), or start from them with --init")
        weights.check((IMAGES.name,))
        init.check(("",), "--init")
        self.sample_options({"steps": None, "guidance": None, "scheduler": None})  # refused now rather than at the first preview
        unet = checkpoint.make_unet(config.unet)
        for module in unet.modules():
            if type(module).__name__ == "Dropout":
                module.p = config.dropout
        if init.get("") is not None:
            path = hub.locate(init.get(""), BASE, self.name)
            folder = hub.own_folder(path)
            if folder is not None:
                file = hub.own_weights(folder)
                hub.load_strict(unet, hub.tensors(file), file)
            else:
                hub.load_strict(unet, checkpoint.load_unet(path).state_dict(), path)
        if config.train.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        codec, text = loading.frozen(config, weights, self.name)
        self._place(unet.requires_grad_(True), codec, text, device, _half(config.train.precision, device))
        checkpoint.check(self.base, "the configuration")
        self.noise = diffusion.Noise(config.noise_schedule)

    def _place(self, unet, codec, text, device, dtype) -> None:
        from avtools.models.maestro import checkpoint

        codec, text = (one.to(device).eval().requires_grad_(False) for one in (codec, text))
        self.base = checkpoint.Base(_moved(unet, device), codec, text, self.config.noise_schedule)
        self.device, self.dtype = device, dtype
        self.texts = _Texts(text)
        self.null = self.texts([""])

    @property
    def trainable(self):
        return self.base.unet

    def item_work(self):
        return data.video_item, data.video_options(self.config)

    def item_is_fixed(self) -> bool:
        return not self.config.random_start and self.config.flip in (0, 1)

    def collate(self, items: list[dict]) -> dict:
        return _stacked(items, ("pictures",)) | {"text": [text_of(item["text"]) for item in items]}

    def prepare(self, batch: dict, train: bool) -> dict:
        from avtools.models.maestro.training import latents_of

        latents = latents_of(self.base.codec, batch["pictures"], batch["draws"])
        return {"draws": batch["draws"], "keys": batch["keys"], "latents": latents, "text": self.texts(batch["text"]), "null": self.null}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.maestro.training import video_losses

        return video_losses(module, batch, self.noise, self.config, True)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.maestro.training import video_losses

        return video_losses(module, batch, self.noise, self.config, False)

    # --- sampling ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "MaestroVideo":
        from avtools.models.maestro import loading

        config = settings.resolve(VideoConfig, VIDEO_PRESETS, preset)
        if weights.get("") is not None or preset is None:
            path = hub.locate(weights.get(""), BASE, cls.name)
            if hub.own_folder(path) is not None:
                config = settings.of_checkpoint(hub.own_folder(path), cls.name, VideoConfig(), preset)
        settings.set_all(config, sets)
        return cls(config)

    def load(self, weights: hub.Weights, device, dtype) -> None:
        from avtools.models.maestro import diffusion, loading

        both = hub.Weights({**weights.sources, "base": weights.sources[""]} if weights.get("") is not None else weights.sources)
        base = loading.base_of(self.config, both, self.name)
        self._place(_moved(base.unet, dtype), base.codec, base.text, device, dtype)
        self.noise = diffusion.Noise(base.schedule)

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.maestro import loading

        return loading.base_digest(weights, self.config, self.name, hub.locate(weights.get(""), BASE, self.name))

    def sample_options(self, given: dict) -> dict:
        from avtools.models.maestro import diffusion
        from avtools.models.maestro.sampling import settings_of

        options = {**_shown(self.config), **_drawn(self.config.sampling, given)}
        diffusion.check(settings_of(options), diffusion.Noise(self.config.noise_schedule))
        return options

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        from avtools.models.maestro import sampling

        texts = [text_of(item["text"]) for item in items]
        made = sampling.from_text(self.base, self.noise, texts, seeds, options, self.device, next(self.base.unet.parameters()).dtype)
        return [{"frames": frames, "fps": Fraction(options["fps"]).limit_denominator(1000)} for frames in made]

    def feature_options(self) -> dict:
        raise UsageError("maestro-video has nothing to compute once; train on the videos themselves")
