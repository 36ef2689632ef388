"""Ties AudioSep to the names that the trainer calls; what it is for is `avtools separate`.

torch and the networks are imported by the methods: a listing of systems, and workers that read sounds, need none.
"""

from avtools import hub
from avtools.errors import RowError, UsageError
from avtools.models.audiosep import data
from avtools.models.audiosep.config import CLAP, MAIN, PRESETS, TOKENIZER, Config
from avtools.system import System

MEMORY = 4096  # texts whose conditions are kept


class AudioSep(System):
    """A mixture and a text -> the sound in it that the text describes: masks and phases from a U-Net that CLAP conditions."""

    name = "audiosep"
    title = "separates what a text describes from a mixture: a U-Net over spectra, conditioned by CLAP"
    source = "Liu et al. 2023, Separate Anything You Describe, arXiv 2308.05037"
    licence = MAIN.licence
    released_run = False
    parts = (MAIN, CLAP, TOKENIZER)
    makes = ()
    needs = data.SOUND_COLUMNS
    reads = (*data.SOUND_COLUMNS, *data.TEXT_COLUMNS)
    Config = Config
    presets = PRESETS

    def __init__(self, config: Config):
        super().__init__(config)
        for name, known in (("query", ("clap", "words")), ("crop", ("random", "first"))):
            if getattr(config, name) not in known:
                raise UsageError(f"{name} {getattr(config, name)!r}: {', '.join(known)}")
        for name in ("rate", "n_fft", "hop", "first", "middle", "condition", "seconds", "peak"):
            if not getattr(config, name) > 0:
                raise UsageError(f"{name} {getattr(config, name):g}: more than 0")
        if not 2 <= config.sources:
            raise UsageError(f"sources {config.sources}: at least 2, the one to be found and another")
        if config.lowest > config.highest:
            raise UsageError(f"lowest {config.lowest} and highest {config.highest} are no range of gains")
        if not config.widths or len(config.widths) != len(config.pools):
            raise UsageError("widths and pools have an entry for each encoder: make them fit")
        if any(not isinstance(pool, list) or len(pool) != 2 or not all(isinstance(step, int) and step > 0 for step in pool) for pool in config.pools):
            raise UsageError(f"pools {config.pools}: [time, frequency] of each encoder, whole numbers from 1 on")
        if config.n_fft % 2 or config.hop > config.n_fft // 2:
            raise UsageError(f"n_fft {config.n_fft} and hop {config.hop}: even, and windows that overlap by half at least")
        step = 1
        for _, factor in config.pools:
            step *= factor
        if config.n_fft // 2 % step:
            raise UsageError(f"n_fft {config.n_fft}: half of it is to be a multiple of {step}, by which pools divide frequency")
        self.net = self.queries = self.device = None
        self._conditions: dict = {}

    # --- training ------------------------------------------------------------------------------------------

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        import torch

        from avtools.models.audiosep import checkpoint
        from avtools.models.audiosep.model import SeparatorNet

        init.check(("",), "--init")
        weights.check((CLAP.name, TOKENIZER.name))
        if weights.get("") is not None:
            raise UsageError("audiosep's own network trains: leave out --weights (but clap=...), or start from them with --init")
        source = init.get("")
        found = None if source is None else checkpoint.read(checkpoint.locate(source))
        self.queries = checkpoint.query_encoder(self.config, weights, found).to(device).eval().requires_grad_(False)
        try:
            self.net = SeparatorNet(self.config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"no network can be made of these settings ({' '.join(str(error).split())[:200]}); change widths") from None
        if found is not None:
            hub.load_strict(self.net, found.net, found.where, ignore=checkpoint.COUNTERS)
        self.device = torch.device(device)
        if self.device.type == "cuda" and torch.distributed.is_available() and torch.distributed.is_initialized():
            self.net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.net)
        self._conditions.clear()

    @property
    def trainable(self):
        return self.net

    def optimizers(self) -> dict:
        return {"main": [{"params": [p for p in self.net.parameters() if p.requires_grad], "amsgrad": True}]}

    def item_work(self):
        return data.item, data.options_of(self.config)

    def item_is_fixed(self) -> bool:
        return self.config.crop == "first"

    def collate(self, items: list[dict]) -> dict:
        import torch

        texts = [bytes(item["text"]).decode("utf-8", "surrogateescape") for item in items]
        return {"sound": torch.stack([torch.from_numpy(item["sound"]) for item in items]), "text": texts}

    def prepare(self, batch: dict, train: bool) -> dict:
        """Mixtures of the batch's sounds with each other, and the texts' conditions."""
        import torch

        from avtools.models.audiosep import training
        from avtools.training import draws

        sounds = batch["sound"].float()
        plans = training.mixes(batch["draws"].tolist(), batch["text"], self.config)
        alone = not all(plan.others for plan in plans)
        noises = draws.normal(batch["draws"].tolist(), "noise", (sounds.shape[1],), sounds.device) if alone else None
        with torch.autocast(sounds.device.type, enabled=False):
            mixture, target = training.mixed(sounds, plans, self.config.peak, noises)
        return {"mixture": mixture, "target": target, "condition": self._encoded(batch["text"]), "draws": batch["draws"], "keys": batch["keys"]}

    def _encoded(self, texts: list[str]):
        """(B, D) of texts, each encoded once."""
        import torch

        new = [text for text in dict.fromkeys(texts) if text not in self._conditions]
        if len(self._conditions) + len(new) > MEMORY:
            self._conditions.clear()
            new = list(dict.fromkeys(texts))
        if new:
            with torch.autocast(self.device.type, enabled=False):
                self._conditions.update(zip(new, self.queries(new).float(), strict=True))
        return torch.stack([self._conditions[text] for text in texts])

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        from avtools.models.audiosep import training

        return training.losses(module, batch)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.audiosep import training

        return training.figures(module, batch)

    def shard_units(self) -> list[type]:
        from avtools.models.audiosep.model import Decoder, Encoder

        return [Encoder, Decoder]

    # --- weights -------------------------------------------------------------------------------------------

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.audiosep import checkpoint

        return str(checkpoint.convert(checkpoint.locate(weights.get("")), folder))

    # --- it takes apart, and makes nothing -----------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "AudioSep":
        raise UsageError("audiosep takes sounds apart, and makes none: 'avtools separate' is what it is for")

    def sample_options(self, given: dict) -> dict:
        return {}  # for the trainer's previews, which pass over rows that give nothing

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        raise RowError("audiosep makes nothing")
