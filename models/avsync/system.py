"""Ties the AVSync classifier to the names that the trainer calls; what it is for is `avtools score avsync,...`.

torch and the networks are imported by the methods: a listing of systems, and workers that read clips, need none.
"""

from avtools import hub
from avtools.errors import RowError, UsageError
from avtools.models.avsync import data
from avtools.models.avsync.config import MAIN, PRESETS, Config
from avtools.system import System


class AvSync(System):
    """Sound and picture of 2 s clips -> how well they are in time: convolutional encoders, and a head on both."""

    name = "avsync"
    title = "how well sound and picture are in time: a classifier that learns from shifts within each video"
    source = "Zhang et al. 2024, Audio-Synchronized Visual Animation, arXiv 2403.05659"
    licence = MAIN.licence
    released_run = False
    parts = (MAIN,)
    makes = ()
    needs = data.VIDEO_COLUMNS
    reads = (*data.VIDEO_COLUMNS, *data.SOUND_COLUMNS)
    Config = Config
    presets = PRESETS

    def __init__(self, config: Config):
        super().__init__(config)
        if config.pool not in ("mean", "time"):
            raise UsageError(f"pool {config.pool!r}: mean, time")
        if config.clips < 2:
            raise UsageError(f"clips {config.clips}: at least 2, which are each other's negatives")
        for name in ("frame_size", "mel_frames", "step", "temperature", "blocks_per_stage", "dim"):
            if not getattr(config, name) > 0:
                raise UsageError(f"{name} {getattr(config, name):g}: more than 0")
        for name in ("flip", "dropout"):
            if not 0 <= getattr(config, name) <= 1:
                raise UsageError(f"{name} {getattr(config, name):g}: a share from 0 to 1")
        if config.crop not in ("random", "middle"):
            raise UsageError(f"crop {config.crop!r}: random, middle")
        if config.drawn is not None and config.drawn < 2:
            raise UsageError(f"drawn {config.drawn}: at least 2 clips of a video, or null")
        lengths = [len(config.audio_widths) - 1, len(config.audio_strides)], [len(config.video_widths) - 1, len(config.video_strides), len(config.video_time_strides)]
        if any(len(set(counts)) > 1 or not counts[0] for counts in lengths):
            raise UsageError("widths have one entry more than strides (that of the first convolution): make audio_* and video_* fit")
        if config.pool == "mean" and not config.dim == config.audio_widths[-1] == config.video_widths[-1]:
            last = f"{config.audio_widths[-1]}, and of video_widths, {config.video_widths[-1]}"
            raise UsageError(f"dim {config.dim}: with pool=mean it is the last of audio_widths, {last}")
        self.net = self.device = None

    # --- training ------------------------------------------------------------------------------------------

    def _net(self):
        from avtools.models.avsync.model import AvSyncNet

        try:
            return AvSyncNet(self.config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"no network can be made of these settings ({' '.join(str(error).split())[:200]}); change widths and strides") from None

    def build(self, weights: hub.Weights, init: hub.Weights, device) -> None:
        from avtools.models.avsync import checkpoint

        init.check(("", "avid"), "--init")
        if weights.sources:
            raise UsageError("avsync has no frozen parts; leave out --weights, or start from them with --init")
        self.net, self.device = self._net(), device
        if (source := init.get("") or init.get("avid")) is not None:
            checkpoint.init_net(self.net, source)

    @property
    def trainable(self):
        return self.net

    def item_work(self):
        return data.item, data.options_of(self.config)

    def item_is_fixed(self) -> bool:
        return self.config.crop == "middle"

    def collate(self, items: list[dict]) -> dict:
        import torch

        return {name: [torch.from_numpy(item[name]) for item in items] for name in items[0]}

    def prepare(self, batch: dict, train: bool) -> dict:
        from avtools.models.avsync import training

        return training.prepared(batch, self.config, self.device, train)

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict:
        return self.evaluate(module, batch)

    def evaluate(self, module, batch: dict) -> dict:
        from avtools.models.avsync import training

        return training.losses(module, batch, self.config.temperature)

    def shard_units(self) -> list[type]:
        from avtools.models.avsync.model import AudioEncoder, VideoEncoder

        return [AudioEncoder, VideoEncoder]

    # --- weights -------------------------------------------------------------------------------------------

    @classmethod
    def convert(cls, weights: hub.Weights, folder: str) -> str:
        from avtools.models.avsync import checkpoint

        return str(checkpoint.convert(checkpoint.locate(weights.get("")), folder))

    # --- it judges, and makes nothing ----------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: hub.Weights, preset: str | None = None, sets=()) -> "AvSync":
        raise UsageError("avsync judges: it makes neither sound nor picture, and has no frozen features; 'avtools score avsync' is what it is for")

    def sample_options(self, given: dict) -> dict:
        return {}  # for the trainer's previews, which pass over rows that give nothing

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        raise RowError("avsync makes nothing")
