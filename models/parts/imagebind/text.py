"""Texts -> byte-pair ids, as CLIP's and so ImageBind's text tower knows them (Radford et al. 2021).

`merges.txt.xz` beside this file holds the 48,894 merges of CLIP's vocabulary in their order (`merges.LICENSE`); ids of
all tokens follow from it.
"""

import functools
import html
import importlib.resources
import lzma

BEGIN, END, CONTEXT = 49406, 49407, 77
_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenize(texts: list[str]):
    """(B, 77) int64: begin, the ids of at most 75 tokens, end, zeros.  Texts are mended (ftfy), unescaped and made lower case.

    The end is kept where a text is cut (the original lost it, and the tower then read an arbitrary token).
    """
    import torch

    made = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
    for row, text in zip(made, texts, strict=True):
        ids = tokenizer().encode(cleaned(text)).ids[: CONTEXT - 2]
        row[: len(ids) + 2] = torch.tensor([BEGIN, *ids, END])
    return made


def cleaned(text: str) -> str:
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, merges in their order)."""
    packed = importlib.resources.files(__package__).joinpath("merges.txt.xz").read_bytes()
    merges = [tuple(line.split(" ")) for line in lzma.decompress(packed).decode("utf-8").splitlines()]
    letters = list(_letters())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """The 256 letters that stand for bytes, in the order of the ids: printable ones for themselves, others from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in shown] + [chr(256 + k) for k in range(256 - len(shown))]


@functools.cache
def tokenizer():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    ids, merges = vocabulary()
    made = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>"))
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return made
