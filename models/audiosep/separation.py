"""What separating needs of AudioSep: texts -> conditions, mixtures and conditions -> stems of the same length.

    separator = Separator.load(weights, device)
    conditions = separator.embed(["a dog barks", "rain"])       # (2, D)
    stems = separator.separate(mixtures, conditions)            # (2, samples) of (2, samples) at separator.sample_rate

Weights: one of AudioSep's Lightning files, with CLAP inside or beside (part `clap`), or a RUN of `avtools train audiosep`.
"""

import dataclasses
from collections.abc import Callable

import torch

from avtools import hub
from avtools.models.audiosep import checkpoint, windows
from avtools.models.audiosep.config import CLAP, MAIN, TOKENIZER

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass
class Separator:
    """AudioSep with the encoder of its queries, ready on `device`, in eval mode and without gradients.

    `sample_rate`: Hz of mixtures and stems (released: 32000).  `dim`: of the conditions.  `batch`: windows that the network
    takes at once; halved for good where memory does not suffice, `say` is then told.  With 1 a stem is the same to the bit whatever
    is separated beside it; with more, kernels that are chosen by the batch's size may round differently (1e-7 of full scale).
    """

    net: torch.nn.Module
    texts: torch.nn.Module
    device: torch.device
    precision: str = "fp32"
    plan: windows.Windows | None = windows.FADE
    batch: int = 8
    say: Callable[[str], None] | None = None

    parts = (MAIN, CLAP, TOKENIZER)

    @classmethod
    def load(cls, weights: hub.Weights, device, precision: str = "fp32", plan: windows.Windows | None = windows.FADE, batch: int = 8, say=None) -> "Separator":
        """The networks of `weights` (parts: main, clap, clap-tokenizer).

        `precision` fp32, bf16 or fp16 (autocast; spectra stay fp32).  `plan`: how sounds that are longer than one window are cut
        (:data:`avtools.models.audiosep.windows.FADE`, `LEGACY`, or one of your own); None: every sound in one full pass.  On a CPU,
        which gains nothing by batches, windows go through one by one, whatever `batch` says.
        FatalError: weights that are missing or do not fit.
        """
        net, texts = checkpoint.load(weights)
        net = net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # with which convolutions are faster
        batch = 1 if torch.device(device).type == "cpu" else batch
        return cls(net, texts.to(device).eval().requires_grad_(False), torch.device(device), precision, plan, batch, say)

    @staticmethod
    def digest(weights: hub.Weights) -> str:
        """What identifies all weights that :meth:`load` would read; FatalError where some are missing, before any work is done."""
        return checkpoint.digest(weights)

    @staticmethod
    def rate_of(weights: hub.Weights) -> int:
        """The `sample_rate` of `weights`, without loading them: for workers that read sounds."""
        return checkpoint.config_of(checkpoint.locate(weights.get(""))).rate

    @property
    def sample_rate(self) -> int:
        return self.net.config.rate

    @property
    def dim(self) -> int:
        return self.net.config.condition

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> torch.Tensor:
        """Queries -> (N, D) conditions of unit length on the device; equal texts are worked out once, each by itself, so none depends on others."""
        found = {text: self.texts([text])[0].float() for text in dict.fromkeys(texts)}
        return torch.stack([found[text] for text in texts]) if texts else torch.zeros(0, self.dim, device=self.device)

    @torch.inference_mode()
    def separate(self, mixtures: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """(B, samples) float32 mixtures, any length, and (B, D) conditions, one for each -> (B, samples) float32 stems on the device.

        Channels, and several queries of one sound, are rows of their own.  Nothing is clipped: a stem may exceed 1.
        """
        mixtures, conditions = mixtures.to(self.device, torch.float32), conditions.to(self.device)
        return windows.separated(self._net, mixtures, conditions, self.sample_rate, self.plan, self._batches)

    def _net(self, mixtures: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        kind = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            return self.net(mixtures, conditions)

    def _batches(self, run, count: int):
        """Yields the results of `run(begin, end)` over `count` windows, some at once; memory that does not suffice halves how many."""
        begin = 0
        while begin < count:
            end = min(begin + self.batch, count)
            try:
                found = run(begin, end)
            except torch.OutOfMemoryError:
                if end - begin == 1:
                    raise
                found, self.batch = None, (end - begin) // 2
            if found is None:  # outside of the handler, which keeps the failed tensors alive
                torch.cuda.empty_cache()
                if self.say is not None:
                    self.say(f"out of GPU memory: {self.batch} window{'s' if self.batch > 1 else ''} at once from now on")
                continue
            yield found
            begin = end
