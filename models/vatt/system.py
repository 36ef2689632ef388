"""Ties VATT to the names that the trainer, the sampler and `features` call.

`vatt` samples and computes features, `vatt-audio` is its sound model in training, `vatt-converter` its language model in training.
torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

from avtools import hub
from avtools.errors import FatalError, MediaError, RowError, UsageError
from avtools.models.parts.clips import text_of
from avtools.models.vatt import data
from avtools.models.vatt.config import CODEBOOK, CODEC, CODECS, CONVERTER, CONVERTER_PRESETS, ENCODERS, EVA, LANGUAGE, LANGUAGES, MAIN, PRESETS
from avtools.models.vatt.config import Config, ConverterConfig
from avtools.rows import path_of
from avtools.system import System
from avtools.training import config as settings
from avtools.training.draws import draw_of, generator

TRAINED = "vatt-audio"  # the system that checkpoints of ours name
WRITTEN = "generated_caption"  # the column of captions that the language model wrote (sampling.prompt=self, sampling.captions=true)
CHECKED = 16  # windows by which a layout of logits is told


def _known(config, names: dict[str, tuple]) -> None:
    for name, known in names.items():
        if getattr(config, name) not in known:
            raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(map(str, known))}")


class _Seeing(System):
    """What all of VATT's systems share: pictures and instructions."""

    source = "Liu et al. 2024, arXiv 2411.05679 (NeurIPS 2024); ours: time-aligned conditioning, batches, windows"
    licence = "unstated for the weights; on Vicuna or Gemma, and AudioGen's codec (CC-BY-NC-4.0, non-commercial)"
    released_run = False

    def __init__(self, config):
        super().__init__(config)
        _known(config, {"encoder": ENCODERS, "language": LANGUAGES, "language_precision": ("fp32", "bf16", "fp16")})
        for name in ("features", "frame_rate", "frame_size", "window", "video_tokens_per_second", "text_limit"):
            if not getattr(config, name) > 0:
                raise UsageError(f"{name} {getattr(config, name):g}: more than 0")
        if not all(isinstance(one, str) and one.strip() for one in config.prompt_pool):
            raise UsageError("prompt_pool: a list of instructions; --prompt-pool FILE takes them from a file, one a line")
        self.encoder = self.converter = self.device = self.pool = None
        self._awaited, self._made_by = None, None  # in training on features: what loads the encoder; its digest, as their first file tells it

    def _see(self, weights: hub.Weights, device, dtype) -> None:
        from avtools.models.vatt import frozen

        self.encoder = frozen.picture_encoder(self.config, weights).to(device, dtype).eval().requires_grad_(False)

    def _see_in_training(self, weights: hub.Weights) -> None:
        """Load the encoder of pictures; one that would have to be downloaded only where :meth:`check_row` finds a row without features."""
        import torch

        from avtools.models.vta_ldm.checkpoint import digest_of_module

        half = self.config.train.precision == "bf16" and self.device.type == "cuda"

        def load() -> None:
            self._see(weights, "cpu", torch.float32)
            digest_of_module(self.encoder)  # which it keeps: of its values before they are rounded
            self.encoder.to(self.device, torch.bfloat16 if half else torch.float32)
            self._awaited = None

        self._awaited = load
        if self.config.encoder != "eva02" or weights.get(EVA.name) is not None:
            load()

    def _picture_settings(self) -> dict[str, str]:
        """What features tell of how pictures were encoded, but for the encoder's digest."""
        return {name: str(getattr(self.config, name)) for name in ("encoder", "features", "frame_rate", "frame_size", "unit_length")}

    def _picture_facts(self) -> dict[str, str]:
        """The same with the digest, as far as it is known."""
        from avtools.models.vta_ldm.checkpoint import digest_of_module

        digest = self._made_by if self.encoder is None else digest_of_module(self.encoder)
        return self._picture_settings() | ({} if digest is None else {"encoder_digest": digest})

    def _read(self, made) -> None:
        """Take a converter, and the instructions that it is asked."""
        from avtools.models.vatt import prompts

        self.converter, self.pool = made, tuple(self.config.prompt_pool) or prompts.SOUND_POOL
        count, longest = max((len(prompts.encode(made.tokenizer, made.prompt, one).ids), one) for one in self.pool)
        if count > self.config.text_limit:
            raise UsageError(f"text_limit {self.config.text_limit}: an instruction of the pool makes {count} tokens ({longest[:60]!r}); raise it, or shorten that")

    def _features(self, frames: list):
        """(F, D) float32 of each clip's (F, S, S, 3) uint8."""
        import torch
        from torch.nn import functional

        from avtools.models.vatt.features import BATCH

        made = []
        kind = next(iter(self.encoder.parameters()), torch.empty(0)).dtype
        for clip in frames:
            pictures = clip.to(self.device).permute(0, 3, 1, 2)
            if self.config.encoder == "pixels":
                found = self.encoder([pictures.float() / 255])[0]
            else:
                found = torch.cat([self.encoder(part.to(kind) / 255) for part in pictures.split(BATCH)]).float()
            made.append(functional.normalize(found, dim=1) if self.config.unit_length else found)
        return made

    def _streamed(self, path: str, seconds: float):
        """(F, D) of a long clip, whose pictures are read here, a minute at a time."""
        import torch

        from avtools.models.vatt import features

        config = self.config
        if config.encoder == "eva02":
            return torch.from_numpy(features.encode(self.encoder, path, rate=config.frame_rate, normalise=config.unit_length)).to(self.device)
        found, at, options = [], 0.0, data.options_of(config, sound=False)
        while at < seconds - 0.5 / config.frame_rate:
            before = min(1, len(found))  # a picture of the minute before: what changed since is a feature
            pictures = data._pictures(path, at - before / config.frame_rate, data.AT_ONCE + before / config.frame_rate, options)
            found.append(self._features([torch.from_numpy(pictures)])[0][before:])
            at += data.AT_ONCE
        return torch.cat(found)

    def _seen(self, items: list[dict]):
        """Features (F, D) of each item, from its pictures, its features or its file."""
        import torch

        made = []
        for item in items:
            if self.encoder is None and "features" not in item:
                raise RowError(f"the row has no features, and {data.UNLOADED}")
            if "features" in item:
                made.append(torch.from_numpy(item["features"]).to(self.device))
            elif "path" in item:
                made.append(self._streamed(text_of(item["path"]), float(item["seconds"])))
            else:
                made += self._features([torch.from_numpy(item["frames"])])
        return made

    def collate(self, items: list[dict]) -> dict:
        """Lists of tensors: some rows may have features, and others pictures."""
        import torch

        batch = {"text": [text_of(item["text"]) for item in items], "start": [float(item["start"][0]) for item in items]}
        for name in dict.fromkeys(name for item in items for name in item if name not in batch):
            batch[name] = [torch.from_numpy(item[name]) if name in item else None for item in items]
        return batch

    def _batch_features(self, batch: dict, prefix: str = "") -> list:
        """(F, D) of each item of a batch; None where it has no such clip."""
        count = len(batch["draws"])
        stored, frames = (batch.get(prefix + name) or [None] * count for name in ("features", "frames"))
        made = []
        for one, clip in zip(stored, frames, strict=True):
            made.append(one.to(self.device).float() if one is not None else None if clip is None else self._features([clip])[0])
        return made

    def check_row(self, row: dict) -> None:
        from avtools import features

        if row.get("features_path") in (None, ""):
            if self._awaited is not None:
                self._awaited()
            return
        try:
            if self._awaited is not None and not str(row["features_path"]).lower().endswith(data.PUBLISHED):
                self._made_by = features.told(path_of(row, "features_path")).get("encoder_digest")
            data.stored(row, self.item_work()[1])
        except (MediaError, RowError) as error:
            raise UsageError(str(error)) from None

    def trains_nothing(self):
        return UsageError(f"{self.name} does not train by itself: 'avtools train vatt-converter' and 'avtools train vatt-audio' do")


# --- sampling and features ------------------------------------------------------------------------------------------


class Vatt(_Seeing):
    """Sound, or captions, for silent video: pictures -> a language model's states -> masked sound tokens -> sound."""

    name = "vatt"
    title = "sound and captions for video through a language model: masked sound tokens, decoded in parallel"
    parts = (MAIN, CONVERTER, LANGUAGE, EVA, CODEC, CODEBOOK)
    sees = True  # whether pictures can be encoded, so that rows need no features
    makes = ("sound",)
    needs = (*data.VIDEO_COLUMNS, "features_path")
    Config = Config
    presets = PRESETS
    condition = staticmethod(data.condition)
    feature_item = staticmethod(data.feature_item)

    def __init__(self, config: Config):
        super().__init__(config)
        _known(config, {"codec": CODECS, "stage": (1, 2)})
        _known(config.net, {"layout": ("aligned", "legacy"), "positions": ("own", "padded")})
        for name in ("dummy", "splice", "roll", "condition_dropout", "smoothing"):
            if not 0 <= getattr(config, name) <= 1:
                raise UsageError(f"{name} {getattr(config, name):g}: a share from 0 to 1")
        if not 0.4 <= config.mask_mean <= 1.5 or not config.mask_deviation > 0:
            raise UsageError(f"mask_mean {config.mask_mean:g}, mask_deviation {config.mask_deviation:g}: a mean about 0.5 to 1, and more than 0")
        if config.cycle < 1:
            raise UsageError(f"cycle {config.cycle}: from 1")
        config.net.visual, config.net.visual_rate = (config.features if config.aligned else 0), config.frame_rate
        own = config.sampling
        texts = ((config.text_column,) if config.text_column else data.TEXT_COLUMNS) if own.prompt == "text" and not own.captions else ()
        self.reads = (*data.VIDEO_COLUMNS, "features_path", *texts)
        self.encodes = (*data.VIDEO_COLUMNS, *data.SOUND_COLUMNS)
        if own.captions:
            self.makes = ()
        if own.captions or own.prompt == "self":
            self.sets = (WRITTEN,)
        self.codec = self.net = None

    # --- weights -------------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "Vatt":
        from avtools.models.vatt import frozen

        if (source := weights.get("")) is None:
            config = settings.resolve(Config, PRESETS, preset)
        else:
            path = hub.locate(source, MAIN, cls.name)
            own = _own_folder(path)
            config = _released_config(path, preset) if own is None else settings.of_checkpoint(own, TRAINED, Config(), preset)
        settings.set_all(config, sets)
        made = cls(config)
        made.sees = bool(config.layout_clips) or frozen.sees(config, weights)
        return made

    def load(self, weights: hub.Weights, device, dtype) -> None:
        import torch

        from avtools.models.vatt import checkpoint, converter, frozen

        config, path = self.config, hub.locate(weights.get(""), MAIN, self.name)
        self.device = torch.device(device)
        own, released = _own_folder(path), None
        if self.sees:
            self._see(weights, self.device, dtype)
        self.codec = frozen.sound_codec(config, weights)
        if own is not None:
            self.net = _network(config)
            load_own(self.net, own)
            _check_codebooks(self.net.codebooks, self.codec, own)
            _compare_converter(own, weights.get(CONVERTER.name))
        else:
            found = checkpoint.read(path)
            self.net = checkpoint.load(found, self.codec.tables.cpu(), config.net)
            released = (converter.parse(found.language, path), path) if found.language else None
        beside = None if own is None or weights.get(CONVERTER.name) is not None else own / "converter.safetensors"
        if beside is not None and beside.is_file():
            weights = hub.Weights({**weights.sources, CONVERTER.name: str(beside)})
        self._read(frozen.the_converter(config, weights, self.device, released=released))
        self._place()
        self.net.to(self.device, dtype).eval().requires_grad_(False)
        if own is None:
            self._tell_layout()

    def _place(self) -> None:
        """Put the frozen networks where they work; sound keeps single precision, the language model its own."""
        self.converter.to(self.device)
        self.codec.to(self.device).eval().requires_grad_(False)

    def _tell_layout(self) -> None:
        """Say which layout of logits a released checkpoint is decoded in; `layout_clips`, where given, decide."""
        import torch

        from avtools.models.vatt import checkpoint

        size = self.net.size
        if not self.config.layout_clips:
            _say(f"layout of logits: {size.layout}; not measured (--set 'layout_clips=[\"VIDEO\"]', with sound, would)")
            return
        options = data.options_of(self.config, sound=True)
        clips = []
        for path in self.config.layout_clips[:CHECKED]:
            item = data.training_item({"path": path}, 0, {**options, "random_crop": False})
            features = self._features([torch.from_numpy(item["frames"])])[0][None]
            states, mask = self._conditions(features, [self.pool[0]])
            tokens = self.codec.encode(torch.from_numpy(item["waveform"])[None].to(self.device))
            clips.append((tokens, states, mask, features.to(states) if self.net.visual is not None else None))
        layout, means = checkpoint.layout_of(self.net, clips)
        size.layout = layout
        _say(f"layout of logits: {layout} (masked cross-entropy {', '.join(f'{name} {value:.3f}' for name, value in means.items())}, {len(clips)} clips)")

    def weights_digest(self, weights: hub.Weights) -> str:
        from avtools.models.vatt import frozen

        path = hub.locate(weights.get(""), MAIN, self.name)
        found = [hub.digest(_own_folder(path) or path), *(hub.digest(clip) for clip in self.config.layout_clips)]
        found += frozen.digests(self.config, weights, (CONVERTER.name, LANGUAGE.name, *(EVA.name,) * self.sees, CODEC.name))
        return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16]

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        """The sound model, and the converter's projection and adapters beside it; the language model stays where it is."""
        import torch

        from avtools.models.vatt import checkpoint, codec, converter, frozen

        path = hub.locate(weights.get(""), MAIN, cls.name)
        if _own_folder(path) is not None:
            raise UsageError(f"{path}: is a checkpoint of ours already")
        hub.check_no_checkpoint(folder)
        config, found = _released_config(path, None), checkpoint.read(path)
        sound = codec.load(hub.locate(weights.get(CODEC.name), CODEC, cls.name))
        config.sample_rate, config.net.rate = sound.rate, sound.rate / sound.hop
        net = checkpoint.load(found, frozen.sound_codec(config, weights).tables, config.net)
        delta = converter.parse(found.language, path)
        beside = {f"{converter.WRAPPED}model.video_proj.{name}": tensor for name, tensor in delta.projection.items()}
        beside |= {f"{converter.WRAPPED}{name}.weight": tensor for name, tensor in delta.adapters.items()}
        files = {"model.safetensors": (net.state_dict(), None)}
        if beside:
            files["converter.safetensors"] = {name: torch.clone(tensor) for name, tensor in beside.items()}, None
        hub.save_checkpoint(folder, files, TRAINED, settings.as_dict(config))
        return str(folder)

    # --- sampling ------------------------------------------------------------------------------------------

    def sample_options(self, given: dict) -> dict:
        from avtools.models.vatt import decoding

        own = self.config.sampling
        _known(own, {"prompt": ("text", "self", "none")})
        if not 0 <= own.overlap <= 0.9:
            raise UsageError(f"sampling.overlap {own.overlap:g}: a share of the window from 0 to 0.9")
        if given["scheduler"]:
            raise UsageError("vatt decodes on a schedule of its own; leave out --scheduler")
        if not (own.caption_tokens >= 1 and own.caption_temperature >= 0 and 0 < own.caption_top_p <= 1):
            raise UsageError("sampling.caption_tokens from 1, caption_temperature from 0, caption_top_p within 0 to 1")
        chosen = {name: getattr(own, name) for name in ("top_k", "temperature", "mask_temperature")}
        chosen |= {"steps": given["steps"] or own.steps, "guidance": max(1.0, own.guidance if given["guidance"] is None else given["guidance"])}
        decoding.Settings(**chosen).check()
        drawn = {name.removeprefix("caption_"): getattr(own, name) for name in ("caption_temperature", "caption_top_p", "caption_top_k", "caption_repetition")}
        asked = {"prompt": own.prompt, "captions": own.captions, "overlap": own.overlap, "drawing": {**drawn, "most": own.caption_tokens}}
        return {**data.options_of(self.config, sound=False, facts=self._picture_settings(), encoder=self.sees), "decoding": chosen, **asked}

    def _states(self, features, instructions: list[str], cut: bool = True) -> list:
        """States (V + T, C) of each item without padding; of (B, F, D) and what is asked.  RowError where that is too long and not `cut`."""
        from avtools.models.vatt import prompts

        made = self.converter
        texts = [prompts.encode(made.tokenizer, made.prompt, one, limit=self.config.text_limit, cut=cut) for one in instructions]
        batch = prompts.collate(texts, prompts.pad_id(made.tokenizer)).to(self.device)
        found, seen = made.states(features, batch.ids, batch.mask), made.tokens(features.shape[1])
        counts = batch.joint_mask(seen).bool()
        return [states[count] for states, count in zip(found, counts, strict=True)]

    def _padded(self, states: list):
        """(B, L, C) in the network's precision, and the mask (B, L), None where all are as long."""
        import torch

        rows = torch.nn.utils.rnn.pad_sequence([one.to(self.device, next(self.net.parameters()).dtype) for one in states], batch_first=True)
        lengths = torch.tensor([len(one) for one in states], device=self.device)
        mask = torch.arange(rows.shape[1], device=self.device) < lengths[:, None]
        return rows, None if bool(mask.all()) else mask

    def _conditions(self, features, instructions: list[str], cut: bool = True):
        return self._padded(self._states(features, instructions, cut))

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        import torch

        from avtools.models.vatt import decoding, language, sampling

        config, window = self.config, data.frames_of(self.config)
        features = self._seen(items)
        texts = [text_of(item["text"]) for item in items]
        captions = None
        if options["captions"] or options["prompt"] == "self":
            first = torch.stack([sampling._fit(one, window) for one in features])
            drawing = language.Drawing(**options["drawing"])
            captions = self.converter.captions(first, [self.pool[0]] * len(items), drawing, [generator(seed, "caption") for seed in seeds])
            if options["captions"]:
                return [{"cells": {WRITTEN: caption}} for caption in captions]
        chosen = captions or (texts if options["prompt"] == "text" else [""] * len(items))
        instructions = [text or self.pool[0] for text in chosen]
        dtype = next(self.net.parameters()).dtype
        tokens = sampling.tokens_for(
            self.net,
            [one.to(dtype) for one in features],
            lambda seen, which: self._conditions(seen, [instructions[k] for k in which], captions is not None),
            seeds,
            decoding.Settings(**options["decoding"]),
            window=window,
            rows=data.rows_of(config),
            shared=round(options["overlap"] * window),
        )
        made = sampling.sounds(self.codec, tokens, [float(item["seconds"]) for item in items])
        cells = [{WRITTEN: caption} for caption in captions] if captions else [{}] * len(items)
        return [{"sound": sound[:, None], "rate": self.codec.rate, "cells": cell} for sound, cell in zip(made, cells, strict=True)]

    # --- features ------------------------------------------------------------------------------------------

    def feature_options(self) -> dict:
        return data.options_of(self.config, sound=True)

    def load_encoders(self, weights: hub.Weights, device, dtype) -> None:
        import torch

        from avtools.models.vatt import frozen

        self.device = torch.device(device)
        self._see(weights, self.device, dtype)
        self.codec = frozen.sound_codec(self.config, weights).to(self.device).eval().requires_grad_(False)

    def encoders_digest(self, weights: hub.Weights) -> str:
        from avtools.models.vatt import frozen

        return "-".join(frozen.digests(self.config, weights, (EVA.name, CODEC.name))) or "without weights"

    def encode(self, items: list[dict]) -> list[dict]:
        import numpy as np
        import torch

        made, frames, rows = [], data.frames_of(self.config), data.rows_of(self.config)
        samples = round(self.config.window * self.config.sample_rate)
        for item, features in zip(items, self._seen(items), strict=True):
            features = data.fit(features.cpu().numpy(), max(frames, len(features)))
            wave = torch.from_numpy(item["waveform"])
            whole = data.window_count(len(features), frames) * samples
            parts = torch.nn.functional.pad(wave, (0, max(0, whole - len(wave))))[:whole].split(samples)
            tokens = torch.cat([self.codec.encode(part[None].to(self.device))[0] for part in parts], 1)[:, : round(len(features) * rows / frames)]
            made.append({"features": features.astype(np.float16), "tokens": tokens.cpu().numpy().astype(np.int16)})
        return made

    def encoder_facts(self) -> dict[str, str]:
        from avtools.models.vta_ldm.checkpoint import digest_of_module

        facts = self._picture_facts() | {name: str(getattr(self.config, name)) for name in ("codec", "sample_rate", "peak", "window")}
        return facts | {"codec_digest": digest_of_module(self.codec)}

    # --- it does not train -----------------------------------------------------------------------------------

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        raise self.trains_nothing()


# --- training the sound model ------------------------------------------------------------------------------------------


class VattAudio(Vatt):
    """The sound model in training; what comes of it is sampled as `vatt`."""

    name = TRAINED
    title = "VATT's sound model in training: masked sound tokens from a language model's states and the picture"
    parts = (dataclasses.replace(MAIN, optional=True), CONVERTER, LANGUAGE, EVA, CODEC, CODEBOOK)

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        import torch

        from avtools.models.vatt import frozen, training

        init.check(("",), "--init")
        weights.check(part.name for part in self.parts)
        if weights.get("") is not None:
            raise UsageError("vatt-audio's own network trains: leave out --weights SOURCE (but PART=...), or start from it with --init")
        config = self.config
        if config.net.layout == "legacy":
            _say("net.layout=legacy scrambles which token a row predicts; it is for released weights")
        self.device = torch.device(device)
        self._see_in_training(weights)
        self.codec = frozen.sound_codec(config, weights)
        self._read(frozen.the_converter(config, weights, self.device))
        if self.converter.width != config.net.condition:
            width = self.converter.width
            raise UsageError(f"net.condition {config.net.condition}: the language model's states are {width} wide; --set net.condition={width}")
        self.net = _network(config, config.train.gradient_checkpointing)
        self.net.codebooks.copy_(self.codec.tables)
        self._place()
        self.states = training.States(config.states_gb)
        if (source := init.get("")) is not None:
            self._begin(hub.locate(source, MAIN, self.name))
        elif config.stage == 2:
            _say("stage 2 from nothing; it is made to begin with --init RUN of stage 1")

    def _begin(self, path: pathlib.Path) -> None:
        """Start from weights, ours or released; features of the picture that they do not know add nothing at first."""
        from avtools.models.vatt import checkpoint

        if (own := _own_folder(path)) is not None:
            load_own(self.net, own, add=True)
            _check_codebooks(self.net.codebooks, self.codec, own)
        else:
            checkpoint.fill(self.net, checkpoint.read(path), self.codec.tables.cpu())

    @property
    def trainable(self):
        return self.net

    def item_work(self):
        facts = self.encoder_facts() if self.codec is not None else None
        return data.training_item, data.options_of(self.config, sound=True, facts=facts, encoder=self.encoder is not None, training=True)

    def item_is_fixed(self) -> bool:
        return not self.config.random_crop and not self.config.splice

    def _planned(self, draw: int, text: str, train: bool):
        from avtools.models.vatt import training

        return training.plan(draw, text, self.pool, self.config, data.frames_of(self.config), train)

    def partner(self, row: dict, draw: int) -> int | None:
        text = data.text_of(row, {"text_column": self.config.text_column})
        return draw_of(draw, "whom") if self._planned(draw, text, True).cut else None

    def _batch_tokens(self, batch: dict, prefix: str = "") -> list:
        count = len(batch["draws"])
        stored, waveforms = (batch.get(prefix + name) or [None] * count for name in ("tokens", "waveform"))
        return [
            one.to(self.device) if one is not None else self.codec.encode(wave[None].to(self.device))[0] if wave is not None else None
            for one, wave in zip(stored, waveforms, strict=True)
        ]

    def prepare(self, batch: dict, train: bool) -> dict:
        """Tokens, features and the language model's states of a batch, by the frozen networks or from memory."""
        import torch

        from avtools.models.vatt import training

        draws = batch["draws"].tolist()
        plans = [self._planned(draw, text, train) for draw, text in zip(draws, batch["text"], strict=True)]
        with torch.autocast(self.device.type, enabled=False):
            features, tokens = self._batch_features(batch), self._batch_tokens(batch)
            others = list(zip(self._batch_features(batch, "other_"), self._batch_tokens(batch, "other_"), strict=True))
            changed = [
                training.augmented(*one, plan, other if other[0] is not None else None)
                for *one, plan, other in zip(features, tokens, plans, others, strict=True)
            ]
            features = torch.stack([one for one, _ in changed])
            keys = [  # rows by number: keys may come again
                None if plan.cut or plan.roll else (train, number, start, plan.instruction)
                for plan, number, start in zip(plans, batch["numbers"], batch["start"], strict=True)
            ]
            states = [self.states.get(key) for key in keys]
            new = [k for k, one in enumerate(states) if one is None]
            if new:
                for k, one in zip(new, self._states(features[new], [plans[k].instruction for k in new]), strict=True):
                    states[k] = one
                    self.states.put(keys[k], one)
            rows, mask = self._padded(states)
        visual = features if self.net.visual is not None else None
        tokens = torch.stack([one for _, one in changed])
        return {"draws": batch["draws"], "keys": batch["keys"], "tokens": tokens, "states": rows, "mask": mask, "visual": visual}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.vatt import training

        return training.losses(module, batch, self.config)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.vatt import training

        return training.figures(module, batch, self.config)

    def published_rate(self, step: int, total: int) -> float:
        from avtools.models.vatt import masking

        return masking.audio_rate(step, self.config.train.warmup_steps, self.config.cycle)

    def shard_units(self) -> list[type]:
        from avtools.models.vatt.attention import Block

        return [Block]


# --- training the converter --------------------------------------------------------------------------------------------


class VattConverter(_Seeing):
    """The language model that learns to see: a projection of video tokens, then adapters."""

    name = "vatt-converter"
    title = "VATT's language model in training: captions of sound from video tokens (projection, then LoRA)"
    parts = (LANGUAGE, EVA)
    makes = ()
    needs = (*data.VIDEO_COLUMNS, "features_path")
    reads = (*data.VIDEO_COLUMNS, "features_path", *data.TEXT_COLUMNS)
    Config = ConverterConfig
    presets = CONVERTER_PRESETS

    def __init__(self, config: ConverterConfig):
        super().__init__(config)
        _known(config, {"stage": ("proj", "lora")})
        if config.rank < 1 or not config.targets or not 0 <= config.dropout < 1:
            raise UsageError("rank from 1, targets names of layers, dropout a share below 1")
        self._unheard: set[str] = set()  # keys of rows whose instruction is too long, told once

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        import torch

        from avtools.models.vatt import converter, frozen

        init.check(("",), "--init")
        weights.check(part.name for part in self.parts)
        config, self.device = self.config, torch.device(device)
        self._see_in_training(weights)
        made = frozen.the_converter(config, weights, self.device, merge=False, given=False)
        if (source := init.get("")) is not None:
            folder = frozen._run(source)
            if folder is not None:
                frozen.load_run(made, folder)
            else:
                converter.load_delta(made, *converter.read(hub.locate(source, CONVERTER, self.name)))
        elif config.stage == "lora" and config.language == "folder":
            _say("stage lora from nothing; it is made to begin with --init RUN of stage proj")
        trained = made.train_stage(config.stage, config.rank, config.alpha, config.dropout, config.targets)
        if config.train.gradient_checkpointing:
            made.net.gradient_checkpointing_enable({"use_reentrant": False})
        for parameter in trained:
            parameter.data = parameter.data.float()
        self._read(made.to(self.device))

    @property
    def trainable(self):
        return self.converter

    def trainable_state(self) -> dict:
        return {name: value for name, value in self.converter.state_dict().items() if name.startswith("video_proj.") or ".lora_" in name}

    def item_work(self):
        return data.caption_item, data.options_of(self.config, sound=False, facts=self.encoder_facts(), encoder=self.encoder is not None, training=True)

    def item_is_fixed(self) -> bool:
        return not self.config.random_crop

    def published_rate(self, step: int, total: int) -> float:
        from avtools.models.vatt import masking

        return masking.converter_rate(step, self.config.train.warmup_steps, total)

    def prepare(self, batch: dict, train: bool) -> dict:
        import random

        import torch

        from avtools.models.vatt import prompts

        made, config = self.converter, self.config
        texts = []
        for draw, key, caption, own, pictured in zip(*(batch[name] for name in ("draws", "keys", "text", "asked", "pictured")), strict=True):
            pool = prompts.PICTURE_POOL if pictured else self.pool
            asked = text_of(own.numpy()) or random.Random(draw_of(int(draw), "instruction")).choice(pool)
            texts.append(prompts.encode(made.tokenizer, made.prompt, asked, caption, limit=config.text_limit, cut=True))
            if texts[-1].prompt >= config.text_limit and key not in self._unheard:
                self._unheard.add(key)
                _say(f"{key}: its instruction leaves no room for an answer within text_limit {config.text_limit}, so that is not learnt; raise it, or shorten that")
        with torch.autocast(self.device.type, enabled=False):
            features = torch.stack(self._batch_features(batch))
        joined = prompts.collate(texts, prompts.pad_id(made.tokenizer), mask_prompt=config.mask_prompt, multiple=prompts.MULTIPLE)
        return {"draws": batch["draws"], "keys": batch["keys"], "features": features, "texts": joined.to(self.device)}

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.vatt import training

        return training.caption_losses(module, batch)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.vatt import training

        return training.caption_figures(module, batch)

    # --- it is a part of vatt ------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "VattConverter":
        raise UsageError("vatt-converter is a part of vatt: 'avtools sample vatt --weights converter=RUN' is what uses it")

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        raise UsageError("a converter needs no conversion: give its file as --weights converter=FILE")

    def sample_options(self, given: dict) -> dict:
        return {}  # for the trainer's previews, which pass over rows that give nothing

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        raise RowError("vatt-converter makes nothing")

    def encoder_facts(self) -> dict[str, str]:
        return self._picture_facts()


# --- files ---------------------------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    print(f"avtools: {line}", file=sys.stderr, flush=True)


def _network(config: Config, checkpointing: bool = False):
    """The sound model at random; UsageError where its settings do not fit together."""
    from avtools.models.vatt.model import AudioNet

    try:
        return AudioNet(config.net, checkpointing)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise UsageError(f"no network can be made of these settings ({' '.join(str(error).split())[:200]}); change net.*") from None


def _own_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: a released file."""
    if path.is_file():
        return path.parent if path.name in hub.OWN_FILES and (path.parent / "config.json").is_file() else None
    return hub.checkpoint_of(path)


def load_own(net, folder: pathlib.Path, add: bool = False) -> None:
    """Load one of our checkpoints, the moving average where there is one, strictly; `add`: what it has no part of begins at zero."""
    import torch

    facts = hub.config_of(folder)
    if facts["system"] != TRAINED:
        raise FatalError(f"{folder}: a checkpoint of {facts['system']}, not of {TRAINED}; give another")
    file = hub.own_weights(folder)
    tensors = hub.tensors(file)
    if add and "visual.weight" not in tensors:
        tensors = {**tensors, **{name: torch.zeros(value.shape) for name, value in net.state_dict().items() if name.startswith("visual.")}}
    hub.load_strict(net, tensors, file)


def _check_codebooks(codebooks, codec, where) -> None:
    """FatalError where a checkpoint was trained on another codec's tokens."""
    from avtools.models.vatt.codec import check_codebooks

    check_codebooks(codebooks.detach().cpu(), codec, where)


def _compare_converter(folder: pathlib.Path, source: str | None) -> None:
    """Say where a checkpoint, which lies in its run, was trained with the states of another converter than `source`."""
    try:
        trained = json.loads((folder.parent.parent / "config.json").read_text())["weights"].get(CONVERTER.name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if trained != (source and hub.digest(source)):
        which = "another converter than the one that is given, or another state of it" if trained and source else "a converter" if trained else "no converter"
        _say(f"{folder}: was trained with {which}; what it makes may fit neither text nor picture: --weights converter= takes the same in training and sampling")


def _released_config(path: pathlib.Path, preset: str | None) -> Config:
    """Of a released .ckpt, as its shapes tell: positions as for single clips, which are what own ones are for any batch."""
    from avtools.models.vatt import checkpoint

    config = settings.resolve(Config, PRESETS, preset)
    config.net, config.aligned = checkpoint.read(path).size, False
    config.net.positions = "own"
    return config
