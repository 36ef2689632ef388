"""Ties JavisDiT's three stages to the names that the trainer and the sampler call.

torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

import dataclasses
import json
import math

from avtools import hub
from avtools.errors import FatalError, RowError, UsageError
from avtools.models.javisdit import data
from avtools.models.javisdit.buckets import Buckets, nearest, resolution, size_of
from avtools.models.javisdit.config import (
    PRESETS,
    PRIOR_PRESETS,
    PRIOR_TEXTS,
    SOUND_CODECS,
    SOUND_PRESETS,
    TASKS,
    TEXTS,
    VIDEO_CODECS,
    Config,
    PriorConfig,
    SoundConfig,
)
from avtools.models.javisdit.weights import PRIOR, SOUND, VIDEO, WORDS
from avtools.models.parts.clips import text_of
from avtools.models.parts.imagebind.checkpoint import PART as IMAGEBIND
from avtools.system import System
from avtools.training import config as settings

SOURCE = "Liu et al. 2025, JavisDiT, arXiv 2503.23377; github.com/JavisVerse/JavisDiT"
LICENCE = "Apache-2.0; sound through AudioLDM 2 (CC BY-NC-SA 4.0), the prior's text through ImageBind (CC-BY-NC-SA-4.0): non-commercial"
STREAM = hub.Part("video-stream", "OpenSora's STDiT-v3, with which the video stream begins", "hf:hpcai-tech/OpenSora-STDiT-v3", ("*.safetensors",), 4_500_000_000, "Apache-2.0", optional=True)
MAIN = hub.Part("", "JavisDiT-v0.1's network, or a run of javisdit", "github.com/JavisVerse/JavisDiT", ("*.safetensors",), 7_500_000_000, "Apache-2.0")
SOUND_MAIN = dataclasses.replace(MAIN, what="JavisDiT's stage 1, or a run of javisdit-audio")
PRIOR_MAIN = dataclasses.replace(PRIOR, name="", optional=False)


class _Stage(System):
    """What the three have in common."""

    source = SOURCE
    licence = LICENCE
    released_run = False
    heard = False  # rows need a sound alone
    kind = ""  # of items, of data.ITEMS

    def __init__(self, config):
        from avtools.models.javisdit.frozen import check

        super().__init__(config)
        check(config, {"video_codec": VIDEO_CODECS, "sound_codec": SOUND_CODECS, "text_encoder": TEXTS, "prior_text": PRIOR_TEXTS, "padding": ("silence", "legacy")})
        if not (config.fps > 0 and math.isfinite(config.fps)) or config.multiple < 1:
            raise UsageError(f"fps {config.fps:g}, multiple {config.multiple}: more than 0 pictures a second, a multiple from 1")
        self.buckets = Buckets(config.buckets, config.fps, self.heard)
        self.net = self.prior = self.frozen = None

    def _text(self) -> tuple[int, int]:
        """Width of the text encoder's states that the network reads, and how many; 0: none."""
        return 0, 0

    def _freeze(self, weights: hub.Weights, device, tower=None) -> None:
        """`tower`: ImageBind's text tower in a prior's own file, see :class:`.frozen.Frozen`."""
        from avtools.models.javisdit.frozen import Frozen

        self.device = device
        self.frozen = Frozen(self.config, weights, device, self.name, *self._text(), tower)

    # --- items and batches ---------------------------------------------------------------------------------------

    def batch_sampler(self, rows, seed: int, size: int):
        return self.buckets.batches(rows, seed, size)

    def substitute(self, rows, number: int, place) -> int:
        return self.buckets.substitute(rows, number, place)

    def batch_items(self, rows, size: int) -> float:
        return self.buckets.mean(rows, self.config.train.seed, size)

    def left_out(self, rows):
        return self.buckets.left_out(rows)

    def valid_batches(self, rows, size: int):
        return self.buckets.valid(rows, size)

    def item_is_fixed(self) -> bool:
        return not self.config.random_start

    def item_work(self):
        return data.ITEMS[self.kind], self._item_options()

    def _item_options(self) -> dict:
        return data.item_options(self.config, self.heard, self.encoder_facts() if self.frozen is not None else None)

    def collate(self, items: list[dict]) -> dict:
        import torch

        batch = {}
        for name in items[0]:
            found = [torch.from_numpy(item[name]) for item in items]
            if name == "text":
                batch[name] = [text_of(item[name]) for item in items]
            elif name == "states":
                batch[name] = found  # captions differ in length
            else:
                batch[name] = torch.stack(found)
        return batch

    def _place(self, batch: dict) -> tuple[tuple[int, int], int, float]:
        """(pixels, pictures, seconds) of a batch's bucket."""
        bucket, aspect, _ = batch["place"][0].tolist()
        found = self.buckets[bucket]
        return size_of(found.pixels, aspect, self.config.multiple), found.frames, self.buckets.seconds(bucket)

    def _prepared(self, batch: dict, train: bool) -> dict:
        """Latents, and the captions' states, of a batch, cached or not."""
        from avtools.models.javisdit import text

        pixels, frames, seconds = self._place(batch)
        draws = batch["draws"] if train else None
        made = {"draws": batch["draws"], "keys": batch.get("keys"), "pixels": pixels, "frames": frames, "fps": self.config.fps}
        cached = "sound" in batch
        made["sound"] = batch["sound"].float() if cached else self.frozen.sound_latents(batch["wave"], seconds, draws)
        if not self.heard:
            made["video"] = batch["video"].float() if cached else self.frozen.video_latents(batch["pictures"], draws)
        if self.frozen.text_dim:
            states, counts = text.padded([one.float().to(self.device) for one in batch["states"]] if cached else self.frozen.states(batch["text"]))
            made |= {"text": states.to(self.device), "counts": counts.to(self.device)}
        if not self.heard:
            made["prior_states"] = batch["prior_states"].float() if cached else self.frozen.prior_states(batch["text"])
        return made

    # --- features --------------------------------------------------------------------------------------------------

    def feature_options(self) -> dict:
        if self.config.random_start:
            raise UsageError("random_start gives another part of a clip each time, and features hold one; --set random_start=false")
        return {**self._item_options(), "kind": self.kind}

    @staticmethod
    def feature_item(row: dict, options: dict) -> dict:
        from avtools.rows import key_of
        from avtools.training.draws import draw_of

        return data.ITEMS[options["kind"]]({**row, "features_path": None}, draw_of(0, "features", key_of(row)), options)

    def encode(self, items: list[dict]) -> list[dict]:
        import torch

        found = []
        for item in items:
            batch = {**self.collate([item]), "draws": torch.zeros(1, dtype=torch.int64)}
            made = self._prepared(batch, False) | self._more(batch, False)
            arrays = {name: made[name][0].cpu().numpy() for name in ("sound", "video", "prior_states") if name in made}
            arrays["states"] = made["text"][0].cpu().numpy() if "text" in made else made["prior_states"][0].cpu().numpy()
            arrays["place"] = item["place"]
            for name, value in made.get("negatives", {}).items():
                arrays[f"negative {name}"] = value[0].cpu().numpy()
            if "negatives" in made:
                arrays["there"] = item["there"]
            found.append(arrays)
        return found

    def _more(self, batch: dict, train: bool) -> dict:
        return {}

    def encoder_facts(self) -> dict[str, str]:
        facts = self.frozen.facts(not self.heard, not self.heard)
        return facts | {"buckets": json.dumps(self.config.buckets, sort_keys=True)}

    def load_encoders(self, weights: hub.Weights, device, dtype) -> None:
        self._freeze(weights, device)

    def encoders_digest(self, weights: hub.Weights) -> str:
        from avtools.models.javisdit.frozen import Frozen

        return json.dumps(Frozen(self.config, weights, "cpu", self.name, *self._text()).facts(not self.heard, not self.heard), sort_keys=True)

    # --- sampling --------------------------------------------------------------------------------------------------

    def _drawn(self, given: dict, task: str) -> dict:
        """Plain options of how to sample."""
        from avtools.models.javisdit import sampling
        from avtools.models.javisdit.frozen import CHUNKS, SOUND_STEP

        drawn, config = self.config.sampling, self.config
        if drawn.frames < 1 or not drawn.aspect > 0:
            raise UsageError(f"sampling.frames {drawn.frames}, sampling.aspect {drawn.aspect:g}: a picture at least, and more than 0")
        chunk = CHUNKS[config.video_codec]
        overlap = max(1, round(drawn.overlap * config.fps / chunk[0])) * chunk[0]  # whole chunks, so that the codec gives the same of them
        if task == "continue" and overlap >= drawn.frames:
            raise UsageError(f"sampling.overlap {drawn.overlap:g} s: {overlap} of {drawn.frames} pictures would be given; make it shorter")
        options = {
            "task": task,
            "size": size_of(resolution(drawn.resolution), nearest(drawn.aspect), config.multiple),
            "frames": drawn.frames,
            "fps": config.fps,
            "overlap": overlap,
            "chunk": chunk,
            "sound_step": SOUND_STEP,
            "steps": given["steps"] or drawn.steps,
            "guidance": drawn.guidance if given["guidance"] is None else given["guidance"],
            "scheduler": given["scheduler"] or drawn.scheduler,
            "aesthetic": drawn.aesthetic,
            "clean": drawn.clean,
            "text_columns": data.SOUND_TEXT_COLUMNS if self.heard else data.TEXT_COLUMNS,
        }
        sampling.settings_of(options).check()
        return options

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        from avtools.models.javisdit import sampling

        dtype = next(self.net.parameters()).dtype
        return sampling.generate(self.net, self.frozen, self.prior, items, seeds, options, self.device, dtype)


class _Flow(_Stage):
    """The stages of the diffusion transformer."""

    stage = "audio"  # what trains, of .model.TRAINED

    def __init__(self, config):
        super().__init__(config)
        if not 0 <= config.dropout <= 1:
            raise UsageError(f"dropout {config.dropout:g}: a share from 0 to 1")
        if config.times not in ("logit-normal", "uniform"):
            raise UsageError(f"times {config.times!r}: logit-normal or uniform")

    def _size(self):
        from avtools.models.javisdit import frozen, loading

        size = loading.size_of(self.config, not self.heard)
        return dataclasses.replace(size, chunk=frozen.CHUNKS[self.config.video_codec], sound_step=frozen.SOUND_STEP)

    def _text(self) -> tuple[int, int]:
        size = self._size()
        return size.text, size.text_tokens

    def _open(self) -> None:
        """Let gradients reach what this stage trains."""
        from avtools.models.javisdit.model import TRAINED

        unused = ("x_embedder.", "y_embedder.", "final_layer.") if self.heard else ()
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not name.startswith(unused) if self.config.all_parameters else name.startswith(TRAINED[self.stage]))

    def shard_units(self) -> list[type]:
        from avtools.models.javisdit.model import UNITS

        return list(UNITS)

    @property
    def trainable(self):
        return self.net

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.javisdit.training import flow_losses

        return flow_losses(module, batch, self.config, getattr(self.config, "masks", None))

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.javisdit.training import flow_losses

        return flow_losses(module, batch, self.config, None, train=False)

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()):
        from avtools.models.javisdit import loading

        config = settings.resolve(cls.Config, cls.presets, preset)
        if weights.get("") is not None or preset is None:
            path = hub.locate(weights.get(""), cls.parts[0], cls.name)
            if hub.own_folder(path) is not None and preset is not None:
                raise UsageError(f"{path}: brings its configuration; leave out --preset {preset}")
            config = loading.net_config(path, cls.Config, cls.name)
        settings.set_all(config, sets)
        return cls(config)

    def _load_net(self, weights: hub.Weights, device, dtype) -> None:
        from avtools.models.javisdit import loading

        size = self._size()
        self.net = loading.load_net(hub.locate(weights.get(""), self.parts[0], self.name), size, self.name).to(device, dtype)


class JavisSound(_Flow):
    """Stage 1: text to sound."""

    name = "javisdit-audio"
    title = "JavisDiT's first stage: sound of captions, by a diffusion transformer with OpenSora's blocks"
    parts = (SOUND_MAIN, SOUND, WORDS, STREAM)
    makes = ("sound",)
    needs = data.SOUND_TEXT_COLUMNS
    reads = data.SOUND_TEXT_COLUMNS
    encodes = (*data.SOUND_COLUMNS, *data.SOUND_TEXT_COLUMNS)
    Config = SoundConfig
    presets = SOUND_PRESETS
    heard = True
    kind = "sound"
    condition = staticmethod(data.condition)

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.javisdit import loading
        from avtools.models.javisdit.model import VastDit

        weights.check([part.name for part in (SOUND, WORDS)])
        init.check(("",), "--init")
        size = self._size()
        self.net = VastDit(size, self.config.train.gradient_checkpointing)
        if init.get("") is not None:
            loading.begin_sound(self.net, hub.locate(init.get(""), STREAM, self.name))
        elif not self.config.all_parameters:
            raise UsageError("what does not train comes from OpenSora's STDiT-v3: give --init its folder, or train all of it with --set all_parameters=true")
        self.net.to(device)
        self._open()
        self._freeze(weights, device)

    def prepare(self, batch: dict, train: bool) -> dict:
        return self._prepared(batch, train)

    def load(self, weights: hub.Weights, device, dtype) -> None:
        self._load_net(weights, device, dtype)
        self.load_encoders(weights, device, dtype)

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.javisdit import loading

        return loading.digest(hub.locate(weights.get(""), self.parts[0], self.name)) + self.encoders_digest(weights)

    def sample_options(self, given: dict) -> dict:
        if self.config.sampling.task != "t2av":
            raise UsageError(f"sampling.task {self.config.sampling.task}: javisdit-audio makes sound of captions alone; leave it t2av")
        return self._drawn(given, "t2av")


class JavisPrior(_Stage):
    """Stage 2: the prior of space and time."""

    name = "javisdit-prior"
    title = "JavisDiT's prior of space and time: what a caption says about where and when, learned from clips and what does not fit them"
    parts = (PRIOR_MAIN, VIDEO, SOUND, IMAGEBIND)
    makes = ()
    needs = ("path", "video_path")
    reads = (*data.VIDEO_COLUMNS, "audio_path", *data.TEXT_COLUMNS, data.UNPAIRED)
    Config = PriorConfig
    presets = PRIOR_PRESETS
    kind = "prior"

    def __init__(self, config: PriorConfig):
        super().__init__(config)
        if config.prior.get("onset"):
            raise UsageError("prior.onset: labels of onsets are not made in training; leave it off, as published")
        if config.negatives < 1:
            raise UsageError(f"negatives {config.negatives}: one of each kind at least")

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.javisdit import loading, prior, prior_losses

        weights.check([part.name for part in (VIDEO, SOUND, IMAGEBIND)])
        init.check(("",), "--init")
        self.losses = loading._sized(prior_losses.Weights, self.config.weights, "weights")
        tower = None
        self.net = prior.TrainedPrior(loading.prior_size(self.config))
        if init.get("") is not None:
            found = loading.prior_found(hub.locate(init.get(""), PRIOR_MAIN, self.name))
            prior.fill(self.net, found)
            tower = (found.text, found.where)
        self.net.to(device)
        self._freeze(weights, device, tower)

    @property
    def trainable(self):
        return self.net

    def item_is_fixed(self) -> bool:
        return False  # negatives are drawn anew

    def _item_options(self) -> dict:
        config = self.config
        return super()._item_options() | {"masklets": config.masklets, "stems": config.stems, "negatives": config.negatives}

    def prepare(self, batch: dict, train: bool) -> dict:
        return self._prepared(batch, train) | self._more(batch, train)

    def _more(self, batch: dict, train: bool) -> dict:
        """Latents of negatives."""
        cached, (_, _, seconds) = "sound" in batch, self._place(batch)
        draws, found = (batch["draws"] if train else None), {}
        for kind in data.KINDS:
            given = batch[f"negative {kind}"]
            if cached:
                found[kind] = given.float()
                continue
            each = draws if draws is None else draws.repeat_interleave(given.shape[1])
            flat = given.flatten(0, 1)
            made = self.frozen.video_latents(flat, each, kind) if kind.startswith("video") else self.frozen.sound_latents(flat, seconds, each, kind)
            found[kind] = made.unflatten(0, given.shape[:2])
        return {"negatives": found, "there": {kind: batch["there"][:, k].to(self.device) for k, kind in enumerate(data.KINDS)}}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.javisdit.training import prior_step

        return prior_step(module, batch, self.losses)

    def evaluate(self, module, batch: dict) -> dict:
        return self.training_step(module, batch, 0, "main")

    # --- 'javisdit' samples with it ---------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()):
        config = settings.resolve(PriorConfig, PRIOR_PRESETS, preset)
        settings.set_all(config, sets)
        return cls(config)

    def sample_options(self, given: dict) -> dict:
        return {}  # for the trainer's previews, which pass over rows that give nothing

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        raise RowError("javisdit-prior makes nothing by itself; 'avtools sample javisdit --weights prior=RUN' samples with it")


class JavisDit(_Flow):
    """Stage 3: text to sounding video, and one of the two from the other."""

    name = "javisdit"
    title = "sounding video of captions, or sound and picture of each other: a diffusion transformer of two streams with a prior of space and time"
    parts = (MAIN, PRIOR, VIDEO, SOUND, WORDS, IMAGEBIND, STREAM)
    makes = ("sound", "picture")
    needs = data.TEXT_COLUMNS
    encodes = (*data.VIDEO_COLUMNS, "audio_path", *data.TEXT_COLUMNS)
    Config = Config
    presets = PRESETS
    stage = "joint"
    kind = "pair"
    condition = staticmethod(data.condition)

    def __init__(self, config: Config):
        super().__init__(config)
        from avtools.models.javisdit import masks

        masks.check(config.masks)
        task = config.sampling.task
        if task not in TASKS:
            raise UsageError(f"sampling.task {task!r}: {', '.join(TASKS)}")
        needed = data.GIVEN[task]
        media = [*(data.IMAGE_COLUMNS if "image" in needed else ()), *(data.VIDEO_COLUMNS if {"image", "video"} & set(needed) else ()), *(data.SOUND_COLUMNS if "sound" in needed else ())]
        self.reads = tuple(dict.fromkeys([*data.TEXT_COLUMNS, *media]))

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.javisdit import loading
        from avtools.models.javisdit.model import VastDit

        weights.check([part.name for part in (PRIOR, VIDEO, SOUND, WORDS, IMAGEBIND)])
        init.check(("", STREAM.name), "--init")
        size = self._size()
        self.net = VastDit(size, self.config.train.gradient_checkpointing)
        if init.get("") is not None:
            video = init.get(STREAM.name) and str(hub.locate(init.get(STREAM.name), STREAM, self.name))
            fresh = loading.begin_joint(self.net, hub.locate(init.get(""), SOUND_MAIN, self.name), video)
            if any(name.startswith("spatial_blocks.") for name in fresh) and not self.config.all_parameters:
                raise UsageError("the video stream would keep random values: give --init video-stream= OpenSora's STDiT-v3, or train it with --set all_parameters=true")
        elif not self.config.all_parameters:
            raise UsageError("the joint stage begins with the first one's network: give --init a run of javisdit-audio, or train all of it with --set all_parameters=true")
        self.net.to(device)
        self._open()
        self._put_prior(weights, device, size)

    def _put_prior(self, weights: hub.Weights, device, size) -> None:
        from avtools.models.javisdit import loading

        if weights.get(PRIOR.name) is None:
            raise FatalError(f"{self.name} needs a prior of space and time: give --weights prior= a run of 'avtools train javisdit-prior', or JavisDiT's own")
        found = loading.prior_found(hub.locate(weights.get(PRIOR.name), PRIOR, self.name))
        loading.check_prior(found, size)
        self.prior = found.make().to(device)
        self._freeze(weights, device, (found.text, found.where))

    def prepare(self, batch: dict, train: bool) -> dict:
        """Latents and states; priors, drawn for each item."""
        import torch

        from avtools.training.draws import normal

        made = self._prepared(batch, train)
        noise = normal(batch["draws"], "prior", (self.prior.tokens, self.prior.size.out), self.device)
        with torch.autocast(torch.device(self.device).type, enabled=False):
            made["spatial"], made["temporal"] = self.prior(made["prior_states"].to(self.device), noise)
        return made

    def load(self, weights: hub.Weights, device, dtype) -> None:
        self._load_net(weights, device, dtype)
        self._put_prior(weights, device, self._size())

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.javisdit import loading

        if weights.get(PRIOR.name) is None:
            raise FatalError(f"{self.name} needs a prior of space and time: give --weights prior= a run of 'avtools train javisdit-prior', or JavisDiT's own")
        return loading.digest(hub.locate(weights.get(""), MAIN, self.name), hub.locate(weights.get(PRIOR.name), PRIOR, self.name)) + self.encoders_digest(weights)

    def sample_options(self, given: dict) -> dict:
        return self._drawn(given, self.config.sampling.task)
