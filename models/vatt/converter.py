"""VATT's converter: a causal language model that reads projected video tokens, then text (spec: VATT, section 2).

The language model is transformers' own: video comes in through `inputs_embeds`, and the projection is ours.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError
from avtools.models.vatt import language as lm
from avtools.models.vatt import prompts

FEATURES, RATE, TOKENS_PER_SECOND = 768, 5.0, 1.0
STAGES = ("proj", "lora")
WRAPPED = "base_model.model."  # in front of all names of a language model with adapters
BESIDE = ("audio_token_decoder.",)  # the sound model, in the same file of a whole release
FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin", "model.safetensors")
ATOL, ATOL_HALF = 1e-3, 2e-2  # of what a merged layer makes, against the largest value


class Converter(nn.Module):
    """Features of pictures (B, F, 768) and text -> states for the sound model, next-token scores, captions.

    The features of `RATE` pictures a second are averaged to `tokens_per_second`, projected and put before the text, pads
    between.  `own_positions`: pads take no position, so that a row's states do not depend on its batch; without (as
    released and trained) places are counted through.  Both are the same where there are no pads.
    """

    def __init__(
        self,
        language: lm.Language,
        features: int = FEATURES,
        *,
        rate: float = RATE,
        tokens_per_second: float = TOKENS_PER_SECOND,
        own_positions: bool = True,
    ):
        super().__init__()
        self.net, self.tokenizer, self.prompt = language.net, language.tokenizer, language.prompt
        self.rate, self.tokens_per_second, self.own_positions = rate, tokens_per_second, own_positions
        table = self.net.get_input_embeddings().weight
        self.width = table.shape[1]
        self.video_proj = nn.Linear(features, self.width, device=table.device)
        nn.init.normal_(self.video_proj.weight, std=features**-0.5)
        nn.init.zeros_(self.video_proj.bias)

    # --- what goes in -------------------------------------------------------------------------------------

    def tokens(self, frames: int) -> int:
        """How many video tokens so many pictures make."""
        return min(frames, max(1, round(frames / self.rate * self.tokens_per_second)))

    def pool(self, video: torch.Tensor) -> torch.Tensor:
        """(B, F, D) -> (B, V, D): means over equal stretches of time."""
        if video.dim() != 3 or video.shape[2] != self.video_proj.in_features or not video.shape[1]:
            raise ValueError(f"features {tuple(video.shape)}, not (B, F, {self.video_proj.in_features})")
        return functional.adaptive_avg_pool1d(video.transpose(1, 2), self.tokens(video.shape[1])).transpose(1, 2)

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, V, D) -> (B, V, width), at the scale of the table of embeddings."""
        return self.video_proj(pooled.to(self.video_proj.weight))

    def inputs(self, video: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the language model is called with: `inputs_embeds` (B, V + T, width), `attention_mask` and `position_ids` (B, V + T)."""
        seen = self.project(self.pool(video))
        words = self.net.get_input_embeddings()(ids)  # at the model's scale already
        mask = torch.cat([mask.new_ones(seen.shape[:2]), mask], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0) if self.own_positions else torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return {
            "inputs_embeds": torch.cat([seen.to(words.dtype) * lm.scale(self.net), words], 1),
            "attention_mask": mask,
            "position_ids": positions,
        }

    # --- what comes out -----------------------------------------------------------------------------------

    def states(self, video: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, V + T, width) float32: after the final norm, pads included; what the sound model is conditioned on."""
        return self._states(self.inputs(video, ids, mask)).float()

    def _states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return lm.body(self.net)(**inputs, use_cache=False).last_hidden_state

    def logits(self, video: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, words): scores of the next token at each place of the text."""
        return self._head(self._states(self.inputs(video, ids, mask))[:, -ids.shape[1] :])

    def forward(self, video: torch.Tensor, batch: prompts.Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores (N, words), targets (N,)) of the N tokens that are targets; the first token of a text is none.

        Only their rows pass the head, whose scores of a whole batch may be larger than the model.
        """
        targets = batch.labels[:, 1:]
        wanted = targets != prompts.IGNORED
        states = self._states(self.inputs(video, batch.ids, batch.mask))[:, -batch.ids.shape[1] : -1]
        return self._head(states[wanted]), targets[wanted]

    def loss(self, video: torch.Tensor, batch: prompts.Batch) -> torch.Tensor:
        """Mean cross-entropy of the next token; 0 where a batch has no target."""
        scores, targets = self(video, batch)
        return functional.cross_entropy(scores.float(), targets) if len(targets) else scores.float().sum()

    def _head(self, states: torch.Tensor) -> torch.Tensor:
        head = self.net.get_output_embeddings()
        if head is None:
            raise FatalError("the language model has no head (lm_head), which the released .ckpt leaves out; give its whole folder to write captions")
        return head(states)

    @torch.no_grad()
    def generate(
        self,
        video: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        drawing: lm.Drawing | None = None,
        generators: Sequence[torch.Generator] | None = None,
        *,
        stop: int | None = None,
        scores: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """(B, N) new ids after prompts without an end token; rows that `stop` early are filled with it.

        Each row draws from its own generator (CPU), so that it does not depend on its batch.  `scores`: takes the
        scores (B, words) of each step.
        """
        if self.net.get_output_embeddings() is None:
            self._head(video)
        drawing = drawing or lm.Drawing()
        real = ids[:, -1:].where(mask == 0, ids)  # pads are no part of what must not be repeated
        inputs = self.inputs(video, ids, mask)
        made = self.net.generate(  # counts positions without pads, as the published captioning did
            inputs_embeds=inputs["inputs_embeds"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            num_beams=1,
            max_new_tokens=drawing.most,
            eos_token_id=stop,
            pad_token_id=0 if stop is None else stop,
            logits_processor=[lm.Draws(drawing, real, generators)],
            output_logits=scores is not None,
            return_dict_in_generate=True,
        )
        if scores is not None:
            scores += made.logits
        return made.sequences

    def captions(
        self, video: torch.Tensor, instructions: Sequence[str], drawing: lm.Drawing | None = None, generators: Sequence[torch.Generator] | None = None
    ) -> list[str]:
        """One caption per row of (B, F, D), each asked for by its instruction; without what published ones begin with."""
        texts = [prompts.encode(self.tokenizer, self.prompt, one, end=False) for one in instructions]
        batch = prompts.collate(texts, prompts.pad_id(self.tokenizer)).to(self.video_proj.weight.device)
        made = self.generate(video, batch.ids, batch.mask, drawing, generators, stop=self.tokenizer.eos_token_id)
        return [prompts.bare(text) for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)]

    # --- training -----------------------------------------------------------------------------------------

    def train_stage(self, stage: str, rank: int = lm.RANK, alpha: float | None = None, dropout: float = lm.DROPOUT, targets=lm.TARGETS) -> list[nn.Parameter]:
        """Make trainable what `stage` trains, and nothing else: the projection ("proj"), or with it adapters ("lora"), made
        where there are none.  -> these parameters.
        """
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r}, not one of {', '.join(STAGES)}")
        if stage == "lora" and not lm.adapters(self.net):
            lm.adapt(self.net, rank, alpha, dropout, targets)
        for layer in lm.adapters(self.net).values():  # those of a file have none
            layer.lora_dropout[lm.ADAPTER] = nn.Dropout(dropout) if dropout else nn.Identity()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("video_proj.") or stage == "lora" and ".lora_" in name)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def merge(self) -> float:
        """Merge the adapters into the language model -> by how much that moved a layer's output at most, of its largest.

        FatalError where that is more than rounding explains: 1e-3, in half precision 2e-2.
        """
        layers = lm.adapters(self.net)
        if not layers:
            return 0.0
        training = self.training
        self.eval()
        before = {name: _probe(layer) for name, layer in layers.items()}
        dtype = next(iter(layers.values())).get_base_layer().weight.dtype
        allowed = ATOL if dtype == torch.float32 else ATOL_HALF
        lm.merge(self.net)
        moved = {name: ((_probe(self.net.get_submodule(name)) - was).abs().max() / was.abs().max()).item() for name, was in before.items()}
        name, most = max(moved.items(), key=lambda pair: pair[1] if pair[1] == pair[1] else float("inf"))
        if not most <= allowed:
            raise FatalError(f"merging the adapter of {name} moved its output by {most:.2g} of the largest, more than {allowed:g}; use it unmerged")
        self.train(training)
        return most


def _probe(layer: nn.Module) -> torch.Tensor:
    """What a linear layer, with an adapter or without, makes of random input."""
    generator = torch.Generator().manual_seed(0)
    return layer(torch.randn(8, layer.in_features, generator=generator).to(layer.weight)).float()


# --- files ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Delta:
    """What training left: the projection, adapters, and the language model's own weights where the file has them."""

    projection: dict[str, torch.Tensor]  # weight, bias
    adapters: dict[str, torch.Tensor]  # transformers' name of the layer + .lora_A|.lora_B
    base: dict[str, torch.Tensor]  # transformers' names
    unknown: list[str]
    alpha: float | None = None  # where a file beside tells it

    @property
    def rank(self) -> int | None:
        return next((len(tensor) for name, tensor in self.adapters.items() if name.endswith(".lora_A")), None)

    @property
    def targets(self) -> set[str]:
        return {name.split(".")[-2] for name in self.adapters}


def parse(tensors: Mapping[str, torch.Tensor], where) -> Delta:
    """Sort the tensors of a converter's file: of a trainer's or of PEFT's, with and without `.default`, or of a whole release.

    FatalError where a layer's adapter is told twice.
    """
    found = Delta({}, {}, {}, [])
    whole = any(name.startswith("encoder.") for name in tensors)
    for full, tensor in tensors.items():
        name = full.removeprefix("encoder.").removeprefix("module.")
        if full.startswith(BESIDE) or any(re.search(pattern, name) for pattern in lm.STRAY):
            continue
        if not name.startswith(WRAPPED):
            if whole and full == "embed_tokens.weight":  # Gemma's table lies outside of it in a whole release
                found.base["model.embed_tokens.weight"] = tensor
            else:
                found.unknown.append(full)
            continue
        name = name.removeprefix(WRAPPED).replace(".base_layer.", ".")
        if not name.startswith(("model.", "lm_head.")):
            name = f"model.{name}"  # the body alone was wrapped
        adapter = re.fullmatch(rf"(.+\.lora_[AB])(\.{lm.ADAPTER})?\.weight", name)
        if adapter:
            if adapter[1] in found.adapters:
                raise FatalError(f"{where}: has {adapter[1]} with and without '.{lm.ADAPTER}'; give the file as one program wrote it")
            found.adapters[adapter[1]] = tensor
        elif ".lora_" in name:
            found.unknown.append(full)
        elif name.startswith("model.video_proj."):
            found.projection[name.removeprefix("model.video_proj.")] = tensor
        else:
            found.base[name] = tensor
    return found


def read(path) -> tuple[Delta, pathlib.Path]:
    """(what a file or folder of a converter holds, the file), memory-mapped; a whole release's `.ckpt` too."""
    path = pathlib.Path(path)
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), None)
        if file is None:
            raise FatalError(f"{path}: has none of {', '.join(FILES)}; give the folder or the file of a converter")
    else:
        file = path
    try:
        tensors = hub.tensors(file, "state_dict")  # as Lightning writes it
    except FatalError as error:
        if "state_dict" not in str(error):
            raise
        tensors = hub.tensors(file)
    found = parse(tensors, file)
    beside = file.parent / "adapter_config.json"
    if beside.is_file():
        try:
            found.alpha = float(json.loads(beside.read_text(encoding="utf-8"))["lora_alpha"])
        except (OSError, ValueError, LookupError, TypeError):
            raise FatalError(f"{beside}: tells no lora_alpha; get the file anew, or remove it where alpha is twice the rank") from None
    return found, file


def load_delta(converter: Converter, delta: Delta, where, alpha: float | None = None) -> None:
    """Put a delta into a converter, which gets adapters where the file has some and it has none.

    `alpha`: of the adapters; by default as a file beside tells, else twice the rank.  FatalError that lists what is
    missing, unexpected or of another shape; the language model's own weights in the file are left alone.
    """
    if delta.adapters and not lm.adapters(converter.net):
        if not delta.rank:
            raise FatalError(f"{where}: has adapters of which the first halves (lora_A) are missing; get the file anew")
        lm.adapt(converter.net, delta.rank, delta.alpha if alpha is None else alpha, targets=delta.targets)
        for name, parameter in converter.net.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(False)
        converter.net.train(converter.training)
    known = {name.replace(".base_layer.", ".") for name in converter.net.state_dict()}
    foreign = [*delta.unknown, *(name for name in delta.base if name not in known and name != "lm_head.weight")]
    tensors = {f"video_proj.{name}": tensor for name, tensor in delta.projection.items()}
    tensors |= {f"net.{name}.{lm.ADAPTER}.weight": tensor for name, tensor in delta.adapters.items()}
    tensors |= {name: torch.empty(0) for name in foreign}
    hub.load_strict(converter, tensors, where, ignore=(r"^net\.(?!.*\.lora_)",))


def delta_of(converter: Converter) -> dict[str, torch.Tensor]:
    """What training changed, under the names of PEFT's files, which :func:`parse` reads; the alpha is not in it."""
    made = {f"{WRAPPED}model.video_proj.{name}": tensor for name, tensor in converter.video_proj.state_dict().items()}
    for name, tensor in converter.net.state_dict().items():
        if ".lora_" in name:
            made[WRAPPED + name.replace(f".{lm.ADAPTER}.", ".")] = tensor
    return made


def load(
    folder,
    delta: Delta | None = None,
    where=None,
    *,
    dtype=torch.float32,
    merge: bool = True,
    alpha: float | None = None,
    tokenizer: bool = True,
    features: int = FEATURES,
    **options,
) -> Converter:
    """A converter for use, in eval mode: the language model of `folder` with a `delta`, which :func:`read` finds and `where`.

    Where that holds a whole language model (a released `.ckpt`), its weights count, and the folder need only have
    config.json and the tokenizer.  `options` are the class's.
    """
    base = delta.base if delta is not None and "model.embed_tokens.weight" in delta.base else None
    language = lm.load(folder, dtype=dtype, base=base, where=where, tokenizer=tokenizer)
    converter = Converter(language, features, **options)
    if delta is not None:
        load_delta(converter, delta, where, alpha)
    converter.eval().requires_grad_(False)
    if merge:
        converter.merge()
    return converter
