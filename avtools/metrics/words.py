"""Captions as the words that they are judged by: those of the Penn Treebank, lower case, without punctuation.

What the captioning field's scores are computed on (Chen et al. 2015, arXiv:1504.00325: Stanford's PTBTokenizer -lowerCase, punctuation
dropped), without Java.  The brackets that Stanford writes as -lrb- are punctuation here.
"""

import json
import re

from avtools.errors import RowError

_SAME = str.maketrans(
    {**dict.fromkeys("‘’‛", "'"), **dict.fromkeys("“”„", '"'), **dict.fromkeys("‐‑", "-"), **dict.fromkeys("–—…", " ")}
)  # fmt: skip
_SHORT = "mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|jan|feb|aug|sept?|oct|nov|dec|inc|ltd|co|corp|gov|sen|rev|gen|col|capt|lt|sgt|mt|ph\\.d"
_TOKEN = re.compile(
    r"(?:https?://|www\.)\S*[\w/]"  # addresses
    r"|[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"
    r"|[#@]\w+"
    rf"|(?:{_SHORT})\.(?!\w)|no\.(?=\s*\d)"  # abbreviations keep their full stop
    r"|(?:[^\W\d_]\.){2,}"
    r"|c\+\+|c#"
    r"|(?<![\w.])[+-]?\d+(?:[.,:/-]\d+)*(?:-?[^\W\d_][^\W_]*)*(?:'\w+)?"  # numbers, with what hangs on them: 1st, 3x4, 10,000.50, 90's
    r"|\w+(?:[-/_]+\w+|&\w+)*(?:'\w+)*'?"  # words, with hyphens, slashes, and apostrophes
    r"|'(?:tis|twas)\b|'\d+s\b|'n'|'(?:ll|re|ve|s|m|d|em|n)\b"
    r"|[^\w\s]"
)
_ENDS = re.compile(r"(n't|'s|'m|'d|'re|'ve|'ll)$")
_TWO = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3, "'tis": 2, "'twas": 2, "y'all": 2}
_WHOLE = {"ma'am", "o'clock"}
_MARKS = frozenset(".,;:?!'\"`-()[]{}<>«»‹›¿¡·。、，！？：；（）「」『』【】")


def words(text: str) -> list[str]:
    """The words of a caption."""
    found = []
    for token in _TOKEN.findall(" ".join(text.translate(_SAME).lower().split()).replace("--", " ")):
        if token in _TWO:
            found += [token[: _TWO[token]], token[_TWO[token] :]]
            continue
        ends = []
        while token not in _WHOLE and (end := _ENDS.search(token)) and end.start():
            ends.insert(0, end[0])
            token = token[: end.start()]
        if token.endswith("'") and not token.startswith("'"):
            token = token[:-1]
        found += [one for one in (token, *ends) if not _MARKS.issuperset(one)]
    return found


def texts_of(row: dict, columns: tuple[str, ...], many: bool) -> list[str]:
    """The texts in the first of `columns` that holds any: a text, a list, or (CSV) a list in JSON; RowError where there is none, or where
    there are several and not `many`."""
    for column in columns:
        cell = row.get(column)
        if isinstance(cell, str) and cell.lstrip()[:1] == "[":
            try:
                cell = json.loads(cell)
            except (ValueError, RecursionError):
                pass  # a caption that begins with a bracket
        cells = cell if isinstance(cell, list) else [cell]
        if any(not (one is None or isinstance(one, str)) for one in cells):
            raise RowError(f"column {column}: {str(cell)[:80]!r} is neither a text nor a list of texts")
        found = [one for one in cells if one and one.strip()]
        if len(found) > 1 and not many:
            raise RowError(f"column {column} holds {len(found)} texts, and one is judged at a time; make them rows of their own")
        if found:
            return found
    raise RowError(f"the row has no text to judge{' by' if many else ''} (columns looked at: {', '.join(columns)})")
