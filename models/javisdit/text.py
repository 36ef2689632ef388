"""What JavisDiT reads of captions (spec JavisDiT models, sections 2 and 3): T5's states for the network, ImageBind's for the prior.

Training reads captions as they are; sampling reads prompts that were cleaned, with a phrase behind them (:func:`prompt`).
"""

import html
import json
import pathlib
import re

import torch
from torch import nn

from avtools import hub
from avtools.errors import FatalError, RowError

TOKENS = 300  # of T5 that the network reads at most, the end among them
AESTHETIC = 6.5  # the score that sampling asks for, as published
REMEDY = "give a folder as transformers writes it, like DeepFloyd/t5-v1_1-xxl"
_TIED = r"embed_tokens\.weight$|^decoder\.|^lm_head\."  # copies, and the half that is not used


class T5(nn.Module):
    """Captions -> states (L, D) each, as long as the caption with its end, at most `limit` tokens.

    The encoder only, in eval mode and without gradients.  Captions of different lengths do not touch each other: what fills up a batch
    is masked.
    """

    def __init__(self, model: nn.Module, tokenizer, limit: int = TOKENS):
        super().__init__()
        self.model, self.tokenizer, self.limit = model.eval().requires_grad_(False), tokenizer, limit
        self.dim = model.config.d_model

    @torch.no_grad()
    def forward(self, texts: list[str]) -> list[torch.Tensor]:
        if not texts:
            return []
        ids = [self.tokenizer(text, truncation=True, max_length=self.limit)["input_ids"] for text in texts]
        longest = max(len(one) for one in ids)
        filled = torch.tensor([one + [0] * (longest - len(one)) for one in ids], device=self.device)
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device=self.device)
        states = self.model(input_ids=filled, attention_mask=mask).last_hidden_state
        return [row[: len(one)] for row, one in zip(states, ids, strict=True)]

    @property
    def device(self) -> torch.device:
        return self.model.shared.weight.device

    def cut(self, text: str) -> int | None:
        """How many tokens `text` has where these are more than are read; else None."""
        count = len(self.tokenizer(text)["input_ids"])
        return count if count > self.limit else None


def load_t5(path, dtype: torch.dtype = torch.float32, limit: int = TOKENS) -> T5:
    """Out of a folder, on the CPU; FatalError where it does not hold T5's encoder and tokenizer."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = pathlib.Path(path)
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise FatalError(f"{folder}: has no readable config.json of T5; {REMEDY}") from None
    if kind != "t5":
        raise FatalError(f"{folder}: is of the kind {kind}, not t5; {REMEDY}")
    if not any((folder / name).is_file() for name in ("spiece.model", "tokenizer.json")):
        raise FatalError(f"{folder}: has no tokenizer (spiece.model or tokenizer.json); get the folder anew")  # transformers makes an empty one of it
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model, info = transformers.T5EncoderModel.from_pretrained(str(folder), dtype=dtype, local_files_only=True, output_loading_info=True)
    except Exception as error:  # of several libraries
        raise FatalError(f"{folder}: cannot be loaded as T5's encoder ({' '.join(str(error).split())[:200]}); {REMEDY}") from None
    faults = [
        f"{len(names)} {what.removesuffix('_keys')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if (names := sorted(str(name) for name in info.get(what) or () if not re.search(_TIED, str(name))))
    ]
    if faults:
        raise FatalError(f"{folder}: does not fit T5's encoder; {'; '.join(faults)}; {REMEDY}")
    if not 3 < len(tokenizer) <= model.config.vocab_size:
        raise FatalError(f"{folder}: a tokenizer of {len(tokenizer)} ids, and the network knows {model.config.vocab_size}; give the one that it was trained with")
    return T5(model, tokenizer, limit)


def padded(states: list[torch.Tensor], length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """States (L, D) each -> (B, `length` or the longest, D), filled up with zeros, and which are real, (B, length) bool."""
    length = length or max(len(one) for one in states)
    whole = torch.stack([nn.functional.pad(one[:length], (0, 0, 0, max(0, length - len(one)))) for one in states])
    return whole, torch.arange(length, device=whole.device) < torch.tensor([[len(one)] for one in states], device=whole.device)


# --- ImageBind -----------------------------------------------------------------------------------------------------


class PriorText(nn.Module):
    """Captions -> ImageBind's states (B, 77, D) before its head; those behind a caption's end are there too, as the prior reads them.

    A caption of more than 75 tokens is cut before its end, which the original lost.
    """

    limit = 75

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower, self.dim = tower.eval().requires_grad_(False), tower.size.dim

    @torch.no_grad()
    def forward(self, texts: list[str]) -> torch.Tensor:
        from avtools.models.parts.imagebind.text import tokenize

        ids = tokenize(list(texts)).to(self.tower.preprocessor.pos_embed.device)
        return self.tower.hidden(ids)

    def cut(self, text: str) -> int | None:
        """How many tokens `text` has where these are more than are read; else None."""
        from avtools.models.parts.imagebind.text import cleaned, tokenizer

        count = len(tokenizer().encode(cleaned(text)).ids)
        return count if count > self.limit else None


def load_prior_text(weights) -> PriorText:
    """With ImageBind's weights (a file, a folder or hub.Weights), on the CPU."""
    from avtools.models.parts.imagebind import checkpoint

    return PriorText(checkpoint.load(weights, ("text",)).text)


def tower_of(tensors: dict, where, size=None):
    """ImageBind's text tower out of the file of a prior that holds it (:attr:`.prior.Found.text`), on the CPU; strict.

    `size`: :class:`..parts.imagebind.model.Size`, imagebind_huge's by default.
    """
    from avtools.models.parts.imagebind.checkpoint import released
    from avtools.models.parts.imagebind.model import HUGE, Text

    size = size or HUGE["text"]
    with torch.device("meta"):  # takes over the file's tensors
        tower = Text(size)
    named = {released(name, "text"): name for name in tower.state_dict()}
    hub.load_strict(tower, {named.get(name, name): tensor for name, tensor in tensors.items()}, where, ignore=(r"^modality_preprocessors\.text\.mask$",))
    return tower.eval().requires_grad_(False)


# --- prompts -------------------------------------------------------------------------------------------------------

_TAGS = r"<[^<>]{0,200}>"
_URLS = r"(?:https?://|www\.)\S*[^\s,.;:!?)]|\b[\w-]+(?:\.[\w-]+)*\.(?:com|ru|net|org|edu|gov)\b(?:/\S*[^\s,.;:!?)])?"
#: Scripts of East Asia: strokes, kana and enclosed letters, marks of compatibility, all ideographs, hexagrams between them.
_IDEOGRAPHS = "[\u3000-\u303f\u31c0-\u31ef\u31f0-\u31ff\u3040-\u30ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af]+"
_LEFT_OUT = (
    _URLS,
    r"@\w+\b",  # names of accounts
    _IDEOGRAPHS,
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b",  # addresses of machines
    r"#\d+\b",
    r"\S+\.(?:png|jpe?g|bmp|webp|gif|eps|pdf|apk|mp4)\b",
    r"\bclick\b.{0,20}\bfor\b.{0,10}\b(?:more|info)\w*",
)
_QUOTES, _DASHES = "`´«»“”„¨‘’", "‐‑‒–—―−"


def clean(text: str) -> str:
    """A prompt as T5 is asked: mended and lower case, without markup, addresses, names of files and East Asian characters.

    After what DeepFloyd IF's documentation says of its cleaning, which the original takes; written anew, not letter by letter the same.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
    text = re.sub(_TAGS, " ", text.replace("<person>", "person"))
    text = text.translate({ord(one): "-" for one in _DASHES} | {ord(one): "'" if one in "‘’´`" else '"' for one in _QUOTES})
    for pattern in _LEFT_OUT:
        text = re.sub(pattern, " ", text)
    text = re.sub(r"([.!?,*#_~-])\1{2,}", r"\1", text.replace("_", " "))
    text = re.sub(r"\s+([,.!?;:])", r"\1", " ".join(text.split()))
    text = text.strip(" -_:;,")
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text.count(text[0]) == 2 else text


def prompt(text: str, score: float | None = AESTHETIC) -> str:
    """What sampling asks T5 of a row's caption: cleaned, with the phrase that training captions of such pictures had (None: without).

    Of a prompt that says its score itself, none is added.  RowError where cleaning leaves nothing of it.
    """
    given, text = text, clean(text)
    if given.strip() and not text:
        raise RowError("nothing is left of the caption but addresses, markup or East Asian characters, which the network does not read; write it in English")
    if score is None or "aesthetic score:" in text:
        return text
    return f"{text} aesthetic score: {score:.1f}.".strip()
