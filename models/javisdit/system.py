"""Ties JavisDiT's three stages to the names that the trainer and the sampler call.

torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

import contextlib
import dataclasses
import json
import math
import sys

from avtools import hub
from avtools.errors import FatalError, RowError, UsageError
from avtools.models.javisdit import data
from avtools.models.javisdit.buckets import Buckets, nearest, resolution, size_of
from avtools.models.javisdit.config import (
    PRESETS,
    PRIOR_PRESETS,
    PRIOR_TEXTS,
    SECOND_PASSES,
    SOUND_CODECS,
    SOUND_PRESETS,
    TASKS,
    TEXTS,
    VIDEO_CODECS,
    Config,
    PriorConfig,
    SoundConfig,
)
from avtools.models.javisdit.weights import MAIN, PRIOR, PRIOR_MAIN, SOUND, SOUND_MAIN, STREAM, VIDEO, WORDS
from avtools.models.parts.clips import text_of
from avtools.models.parts.imagebind.checkpoint import PART as IMAGEBIND
from avtools.system import Note, System
from avtools.training import config as settings

SOURCE = "Liu et al. 2025, JavisDiT, arXiv 2503.23377; github.com/JavisVerse/JavisDiT"
LICENCE = "Apache-2.0; sound through AudioLDM 2 (CC BY-NC-SA 4.0), the prior's text through ImageBind (CC-BY-NC-SA-4.0): non-commercial"
SLOWEST, FASTEST = 0.1, 1000.0  # pictures a second
FACTORS = {"pixels": 4, "opensora": 8}  # video codec -> pixels of a latent's side
NEEDS_PRIOR = "{} needs a prior of space and time: give --weights prior= a run of 'avtools train javisdit-prior', or JavisDiT's own"


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
        if not SLOWEST <= config.fps <= FASTEST or config.multiple < 1:
            raise UsageError(f"fps {config.fps:g}, multiple {config.multiple}: {SLOWEST:g} to {FASTEST:g} pictures a second, a multiple from 1")
        if not self.heard and config.video_codec == "pixels" and config.multiple % FACTORS["pixels"]:
            raise UsageError(f"multiple {config.multiple}: video_codec pixels makes latents of {FACTORS['pixels']} x {FACTORS['pixels']} pixels; give a multiple of {FACTORS['pixels']}")
        self.buckets = Buckets(config.buckets, config.fps, self.heard)
        self.net = self.prior = self.frozen = None

    def _text(self) -> tuple[int, int]:
        """Width of the text encoder's states that the network reads, and how many; 0: none."""
        return 0, 0

    def _check_weights(self, weights: hub.Weights, init: hub.Weights, *inits: str) -> None:
        """UsageError where training is given what it does not take."""
        if weights.get("") is not None:
            raise UsageError(f"{self.name}'s own network trains: leave out --weights SOURCE (but PART=...), or start from it with --init")
        weights.check([part.name for part in self.parts if part.name not in ("", STREAM.name)])
        init.check(("", *inits), "--init")

    def _tell(self, path, joint: bool = True) -> None:
        """Say where what a training begins with was made in another form, of which its tensors tell nothing."""
        from avtools.engine.ranked import world
        from avtools.models.javisdit import loading

        line = loading.differing(path, self.config, joint)
        if line and world().rank == 0:
            print(f"avtools: {line}", file=sys.stderr, flush=True)

    def _freeze(self, weights: hub.Weights, device, tower=None) -> None:
        """`tower`: ImageBind's text tower in a prior's own file, see :class:`.frozen.Frozen`."""
        from avtools.models.javisdit.frozen import Frozen

        self.device = device
        self.frozen = Frozen(self.config, weights, device, self.name, *self._text(), tower)

    def notes(self):
        return self.frozen.notes

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

    def largest_batch(self, rows, size: int):
        return self.buckets.largest(rows, size)

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
            if name in ("text", "lost"):
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
        draws, self.frozen.notes = batch["draws"] if train else None, []
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

        return data.ITEMS[options["kind"]]({**row, "features_path": None, "place": None}, draw_of(0, "features", key_of(row)), options)

    def encode(self, items: list[dict]) -> list[dict]:
        import torch

        found, notes = [], []
        for number, item in enumerate(items):
            batch = {**self.collate([item]), "draws": torch.zeros(1, dtype=torch.int64)}
            made = self._prepared(batch, False) | self._more(batch, False)
            notes += [note._replace(place=number) for note in self.frozen.notes]
            arrays = {name: made[name][0].cpu().numpy() for name in ("sound", "video", "prior_states") if name in made}
            arrays["states"] = made["text"][0].cpu().numpy() if "text" in made else made["prior_states"][0].cpu().numpy()
            arrays["place"] = item["place"]
            for name, value in made.get("negatives", {}).items():
                arrays[f"negative {name}"] = value[0].cpu().numpy()
            if "negatives" in made:
                arrays |= {"there": item["there"], **({"onsets": item["onsets"]} if "onsets" in item else {})}
            found.append(arrays)
        self.frozen.notes = notes
        return found

    def _more(self, batch: dict, train: bool) -> dict:
        return {}

    def encoder_facts(self) -> dict[str, str]:
        facts = self.frozen.facts(not self.heard, not self.heard)
        return facts | {"buckets": json.dumps(self.config.buckets, sort_keys=True)}

    def load_encoders(self, weights: hub.Weights, device, dtype) -> None:
        from avtools.models.javisdit import loading

        path = self._tower(weights)
        found = None if path is None else loading.prior_found(path)
        self._freeze(weights, device, found and (found.text, found.where))

    def encoders_digest(self, weights: hub.Weights) -> str:
        from avtools.models.javisdit import loading
        from avtools.models.javisdit.frozen import Frozen

        facts = Frozen(self.config, weights, "cpu", self.name, *self._text()).facts(not self.heard, not self.heard)
        path = self._tower(weights)
        return json.dumps(facts if path is None else {**facts, "prior": loading.digest(path)}, sort_keys=True)

    def _tower(self, weights: hub.Weights):
        """Where ImageBind's text tower may lie beside a prior; None: nowhere."""
        return None

    # --- sampling --------------------------------------------------------------------------------------------------

    def _drawn(self, given: dict, task: str) -> dict:
        """Plain options of how to sample."""
        from avtools.models.javisdit import sampling
        from avtools.models.javisdit.frozen import CHUNKS, SOUND_STEP

        drawn, config = self.config.sampling, self.config
        if drawn.frames < 1:
            raise UsageError(f"sampling.frames {drawn.frames}: a picture at least")
        if drawn.aspect is not None and not 0 < drawn.aspect < math.inf:
            raise UsageError(f"sampling.aspect {drawn.aspect:g}: height by width, more than 0, or null")
        if not 0 < drawn.overlap * config.fps < math.inf:
            raise UsageError(f"sampling.overlap {drawn.overlap:g}: seconds, more than 0")
        pixels = resolution(drawn.resolution)
        height, _, width = drawn.resolution.partition("x")
        size = size_of(pixels, nearest(drawn.aspect or (int(height) / int(width) if width else 9 / 16)), config.multiple)
        if not self.heard and min(size) < FACTORS[config.video_codec]:
            raise UsageError(f"sampling.resolution {drawn.resolution}: pictures of {size[0]}x{size[1]}, and a latent is of {FACTORS[config.video_codec]} x {FACTORS[config.video_codec]} pixels; choose a larger one")
        chunk = CHUNKS[config.video_codec]
        overlap = max(1, round(drawn.overlap * config.fps / chunk[0])) * chunk[0]  # whole chunks, so that the codec gives the same of them
        if task == "continue" and overlap >= drawn.frames:
            raise UsageError(f"sampling.overlap {drawn.overlap:g} s: {overlap} of {drawn.frames} pictures would be given; make it shorter")
        options = {
            "task": task,
            "size": size,
            "frames": drawn.frames,
            "fps": config.fps,
            "overlap": overlap,
            "chunk": chunk,
            "sound_step": SOUND_STEP,
            "steps": given["steps"] or drawn.steps,
            "guidance": drawn.guidance if given["guidance"] is None else given["guidance"],
            "scheduler": given["scheduler"] or drawn.scheduler,
            "shift": config.shift,
            "second_pass": drawn.second_pass,
            "aesthetic": drawn.aesthetic,
            "clean": drawn.clean,
            "text_columns": data.SOUND_TEXT_COLUMNS if self.heard else data.TEXT_COLUMNS,
        }
        sampling.settings_of(options).check()
        return options

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        from avtools.models.javisdit import sampling

        dtype, self.frozen.notes = next(self.net.parameters()).dtype, []
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
        if config.shift is not None and not 0 < config.shift < math.inf:
            raise UsageError(f"shift {config.shift:g}: more than 0, or null")
        if config.sampling.second_pass not in SECOND_PASSES:
            raise UsageError(f"sampling.second_pass {config.sampling.second_pass!r}: {', '.join(SECOND_PASSES)}")

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
            config = loading.net_config(hub.locate(weights.get(""), cls.parts[0], cls.name), config, cls.name, preset)
        settings.set_all(config, sets)
        return cls(config)

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.javisdit import loading

        return str(loading.convert(hub.locate(weights.get(""), cls.parts[0], cls.name), folder, cls.name))

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

        self._check_weights(weights, init)
        path = loading.init_path(init, dataclasses.replace(STREAM, name=""), self.name)
        self.net = VastDit(self._size(), self.config.train.gradient_checkpointing)
        if path is not None:
            if not loading.begin_sound(self.net, path):  # of OpenSora's nothing is to be told
                self._tell(path, False)
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
        if self.config.sampling.second_pass != "none":
            raise UsageError("sampling.second_pass: javisdit-audio makes one stream; leave it none")
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
        if config.negatives < 1:
            raise UsageError(f"negatives {config.negatives}: one of each kind at least")

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.javisdit import loading, prior, prior_losses

        self._check_weights(weights, init)
        data.open_pools(self.config.masklets, self.config.stems)  # what is wrong with one is said before all else
        self.losses = loading.sized(prior_losses.Weights, self.config.weights, "weights")
        tower = None
        self.net = prior.TrainedPrior(loading.prior_size(self.config))
        path = loading.init_path(init, PRIOR_MAIN, self.name)
        if path is not None:
            found = loading.prior_found(path)
            prior.fill(self.net, found)
            self._tell(path)
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
        pools = {"masklets": config.masklets, "stems": config.stems}
        return super()._item_options() | pools | {"negatives": config.negatives, "onset": bool(config.prior.get("onset"))}

    def feature_options(self) -> dict:
        pools = data.open_pools(self.config.masklets, self.config.stems)
        state = {name: pool.digest() for name in ("masklets", "stems") if (pool := getattr(pools, name)) is not None}
        return super().feature_options() | {"pools": state}  # features hold what was drawn from them

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
        more = {"onsets": batch["onsets"].to(self.device)} if self.config.prior.get("onset") else {}
        self.frozen.notes += [Note(place, "negatives that lack what a pool should give", why) for place, why in enumerate(batch.get("lost", ())) if why]
        return {"negatives": found, "there": {kind: batch["there"][:, k].to(self.device) for k, kind in enumerate(data.KINDS)}, **more}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.javisdit.training import prior_step

        return prior_step(module, batch, self.losses)

    def evaluate(self, module, batch: dict) -> dict:
        return self.training_step(module, batch, 0, "main")

    # --- 'javisdit' samples with it ---------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()):
        from avtools.models.javisdit import loading

        config = settings.resolve(PriorConfig, PRIOR_PRESETS, preset)
        if weights.get("") is not None:
            config = loading.prior_config(hub.locate(weights.get(""), PRIOR_MAIN, cls.name), config, preset)
        settings.set_all(config, sets)
        return cls(config)

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.javisdit import loading

        return str(loading.convert_prior(hub.locate(weights.get(""), PRIOR_MAIN, cls.name), folder))

    def _tower(self, weights: hub.Weights):
        if weights.get("") is None or self.config.prior_text != "imagebind":
            return None
        return hub.locate(weights.get(""), PRIOR_MAIN, self.name)

    def weights_digest(self, weights: hub.Weights) -> str:
        raise UsageError("javisdit-prior makes nothing by itself; 'avtools sample javisdit --weights RUN --weights prior=RUN' samples with it")

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

        self._check_weights(weights, init, STREAM.name)
        if weights.get(PRIOR.name) is None:
            raise FatalError(NEEDS_PRIOR.format(self.name))
        path, video = (loading.init_path(init, part, self.name) for part in (SOUND_MAIN, STREAM))
        if path is None and video is not None:
            raise UsageError("--init video-stream= goes with --init, a run of javisdit-audio or JavisDiT's stage 1: give both")
        size = self._size()
        self.net = VastDit(size, self.config.train.gradient_checkpointing)
        if path is not None:
            fresh = loading.begin_joint(self.net, path, video)
            if any(name.startswith("spatial_blocks.") for name in fresh) and not self.config.all_parameters:
                raise UsageError("the video stream would keep random values: give --init video-stream= OpenSora's STDiT-v3, or train it with --set all_parameters=true")
            self._tell(path, not fresh)
        elif not self.config.all_parameters:
            raise UsageError("the joint stage begins with the first one's network: give --init a run of javisdit-audio, or train all of it with --set all_parameters=true")
        self.net.to(device)
        self._open()
        self._put_prior(weights, device, size)

    def _prior_path(self, weights: hub.Weights):
        """Where the prior is: a run samples with the one that it was trained with, JavisDiT's own network with JavisDiT's own, where it was fetched."""
        from avtools.models.javisdit import loading

        if weights.get(PRIOR.name) is None and hub.own_folder(hub.locate(weights.get(""), MAIN, self.name)) is not None:
            raise FatalError(NEEDS_PRIOR.format(self.name))
        return hub.locate(weights.get(PRIOR.name), PRIOR, self.name)

    def _tower(self, weights: hub.Weights):
        if self.config.prior_text != "imagebind":
            return None
        if weights.get(PRIOR.name) is not None:
            return hub.locate(weights.get(PRIOR.name), PRIOR, self.name)
        with contextlib.suppress(FatalError):  # there may be none
            return self._prior_path(weights)
        return None

    def _put_prior(self, weights: hub.Weights, device, size) -> None:
        from avtools.models.javisdit import loading

        found = loading.prior_found(self._prior_path(weights))
        loading.check_prior(found, size, self.config.prior_words if self.config.prior_text == "words" else None)
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
        _compare_prior(hub.locate(weights.get(""), MAIN, self.name), weights.get(PRIOR.name))

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.javisdit import loading

        return loading.digest(hub.locate(weights.get(""), MAIN, self.name), self._prior_path(weights)) + self.encoders_digest(weights)

    def sample_options(self, given: dict) -> dict:
        return self._drawn(given, self.config.sampling.task)


def _compare_prior(path, source: str | None) -> None:
    """Say where a network, which lies in its run, was trained with another prior than `source`."""
    from avtools.models.javisdit import loading

    folder = hub.own_folder(path)
    try:
        trained = json.loads((folder.parent.parent / "config.json").read_text())["weights"][PRIOR.name]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if source is not None and trained not in loading.identities(source):
        line = "was trained with another prior than the one that is given, or another state of it; --weights prior= takes the same in training and sampling"
        print(f"avtools: {folder}: {line}", file=sys.stderr, flush=True)
