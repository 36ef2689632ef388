"""A stock causal language model of transformers: loading it whole, its input at its own scale, adapters, tokens drawn per row."""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.models.vatt import prompts

PART = hub.Part(
    "language",
    "the language model (Vicuna 7B, Gemma 2B or any causal one) as transformers writes it",
    "github.com/DragonLiu1995/video-to-audio-through-text (vicuna.zip, gemma_2b.zip)",
    ("*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer.model"),
    13_500_000_000,
    "its own licence",
)
TARGETS = ("q_proj", "v_proj")
RANK, DROPOUT = 16, 0.05
ADAPTER = "default"
STRAY = (r"rotary_emb\.inv_freq$",)  # saved by old versions, computed by today's


@dataclasses.dataclass
class Language:
    """The network, its tokenizer (None: not asked for) and the name of the template for its prompts."""

    net: torch.nn.Module
    tokenizer: object
    template: str

    @property
    def prompt(self) -> prompts.Template:
        return prompts.TEMPLATES[self.template]


# --- loading ----------------------------------------------------------------------------------------------


def load(folder, *, dtype=torch.float32, base: Mapping[str, torch.Tensor] | None = None, where=None, tokenizer: bool = True) -> Language:
    """The causal language model of a folder as transformers writes it; frozen, in eval mode, on the CPU.

    `base`: its weights under transformers' names, from the file `where` instead of the folder's; they may lack the head,
    which is the folder's then, and if that has no weights, None (only states can be had).  FatalError: no such model, weights missing, of another
    shape or unknown, or a tokenizer with more ids than it has.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = pathlib.Path(folder)
    if not (folder / "config.json").is_file():
        raise FatalError(f"{folder}: has no config.json; give --weights language= the folder of a language model as transformers writes it")
    options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}  # told below, with their names
    with _quiet(), _explained(folder, "no causal language model"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if base is None:
            net, told = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
        else:
            with torch.device("meta"):
                kind = type(AutoModelForCausalLM.from_config(config))
            base = dict(base)
            if "lm_head.weight" not in base and not config.tie_word_embeddings and (head := _head(folder)) is not None:
                base["lm_head.weight"] = head
            net, told = kind.from_pretrained(None, config=config, state_dict=base, **options)
    missing = set(told["missing_keys"])
    if base is not None and missing == {"lm_head.weight"}:
        net.lm_head = None
        missing = set()
    unknown = [name for name in told["unexpected_keys"] if not any(re.search(pattern, name) for pattern in STRAY)]
    shapes = [f"{name} {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in told["mismatched_keys"]]
    faults = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:8])}{', ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("unexpected", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise FatalError(f"{where or folder}: does not fit {type(net).__name__}; {'; '.join(faults)}; give the whole language model of this configuration")
    net.generation_config = GenerationConfig()  # the folder's own may sample in other ways than asked
    words = tokenizer_of(folder, len(net.get_input_embeddings().weight)) if tokenizer else None
    return Language(net.eval().requires_grad_(False), words, prompts.template_for(config.model_type))


def _head(folder: pathlib.Path) -> torch.Tensor | None:
    """The head's weights in a folder of one file or several; None where it has none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        file = folder / json.loads(index.read_text(encoding="utf-8"))["weight_map"].get("lm_head.weight", name) if index.is_file() else folder / name
        if file.is_file():
            return hub.tensors(file).get("lm_head.weight")
    return None


def tokenizer_of(folder, vocabulary: int):
    """The tokenizer of a folder, whose ids a table of `vocabulary` rows has."""
    from transformers import AutoTokenizer

    folder = pathlib.Path(folder)
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():  # Vicuna's as published
        try:
            import sentencepiece  # noqa: F401
        except ImportError:
            raise FatalError(f"{folder}: sentencepiece is not installed, which its tokenizer.model needs; pip install 'avtools[models]'") from None
    with _quiet(), _explained(folder, "no tokenizer"):
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not 0 < len(made) <= vocabulary:
        raise FatalError(f"{folder}: its tokenizer has {len(made)} ids, and the language model knows {vocabulary}; get the folder anew")
    return made


@contextlib.contextmanager
def _quiet():
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _explained(folder, what: str):
    try:
        yield
    except FatalError:
        raise
    except Exception as error:  # of transformers: what is missing, damaged, of no known kind
        raise FatalError(f"{folder}: {what} of transformers ({' '.join(str(error).split())[:160]}); give a whole folder as it writes them") from None


# --- input ------------------------------------------------------------------------------------------------


def scale(net) -> float:
    """What the model multiplies its looked-up embeddings by and embeddings given to it not: Gemma's sqrt(width), else 1.

    In transformers since 5 that is a matter of the lookup; before, the body multiplied all of its input, and this is 1.
    """
    return float(getattr(net.get_input_embeddings(), "scalar_embed_scale", 1.0))


def body(net):
    """The model without its head: the last entry of its states has passed the final norm."""
    return net.base_model


# --- adapters (LoRA) --------------------------------------------------------------------------------------


def adapt(net, rank: int = RANK, alpha: float | None = None, dropout: float = 0.0, targets: Iterable[str] = TARGETS) -> None:
    """Put adapters of LoRA (Hu et al. 2021) into the layers named `targets`; `alpha`: by default twice the rank, as released.

    FatalError where peft is not installed or the model has no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise FatalError("peft is not installed, which adapters of language models need; pip install 'avtools[models]'") from None
    settings = LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, lora_dropout=dropout, bias="none", target_modules=sorted(targets))
    try:
        inject_adapter_in_model(settings, net, adapter_name=ADAPTER)
    except ValueError as error:
        wanted = ", ".join(sorted(targets))
        raise FatalError(f"{type(net).__name__}: has no layers {wanted} for adapters ({str(error)[:120]}); name its attention's projections") from None


def adapters(net) -> dict:
    """Name -> the layers with adapters."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return {}
    return {name: module for name, module in net.named_modules() if isinstance(module, LoraLayer)}


def merge(net) -> None:
    """Add the adapters to the weights beneath, W + (alpha / rank) B A, and take them out."""
    for name, layer in adapters(net).items():
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, layer.get_base_layer())


# --- drawing ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How captions are drawn; the values that published captions were made with.  `temperature` 0: the likeliest token."""

    temperature: float = 0.1
    top_p: float = 0.95
    top_k: int = 500  # 0: all
    repetition: float = 1.1
    most: int = 400  # new tokens


class Draws:
    """Scores -> scores whose maximum is a draw: generation that takes the largest then samples, each row with its own generator.

    In the order of transformers: repetition penalty (over prompt and answer), temperature, top-k, top-p; then Gumbel noise.
    What a row draws depends neither on its neighbours nor on the padding.
    """

    def __init__(self, drawing: Drawing, prompt: torch.Tensor, generators: Sequence[torch.Generator] | None):
        self.drawing, self.prompt, self.generators = drawing, prompt, generators

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        how, scores = self.drawing, scores.float()
        if how.repetition != 1:
            seen = torch.cat([self.prompt, ids], 1)
            values = scores.gather(1, seen)
            scores = scores.scatter(1, seen, torch.where(values < 0, values * how.repetition, values / how.repetition))
        if not how.temperature:
            return scores
        kept, places = (scores / how.temperature).topk(min(how.top_k or scores.shape[1], scores.shape[1]), dim=1)
        shares = kept.softmax(1)
        kept = kept.masked_fill(shares.cumsum(1) - shares >= how.top_p, -torch.inf)  # the first always stays
        if self.generators is None:
            noise = torch.rand(kept.shape)
        else:
            noise = torch.stack([torch.rand(kept.shape[1], generator=generator) for generator in self.generators])
        kept = kept - torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7))).to(kept.device)
        return torch.full_like(scores, -torch.inf).scatter(1, places, kept)
