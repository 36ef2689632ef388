"""What to separate from a row's sound: phrases that are given, stand in a column or a file, or are proposed from a caption."""

import functools
import json
import re

from avtools.errors import RowError, UsageError
from avtools.rows.formats import shown

MOST = 8  # phrases that are proposed from one caption
LONGEST = 6  # words of a proposed phrase

# The rule is for English; a caption in another language comes out as its clauses.
_ENDS = frozenset(
    "and or but nor while whilst as then when whenever before after until since because with without plus followed by accompanied including like "
    "which that who whose where is are was were be been being has have had can could may might will would do does did not no there here it they he "
    "she we you i this these those meanwhile also so if than is's it's there's continues continue continued begins begin starts start started stops stop".split()
)
_PLACES = frozenset(
    "in on at near inside outside into onto through throughout across under underneath over behind beside besides around from towards toward to "
    "against along down during between among above below for off within past beyond".split()
)
_FIRST = frozenset(
    "a an the some several many multiple various few lots lot couple more most another other others one two three four five six seven eight nine ten once "
    "twice times his her their its my your our any each every both all very nearby outside inside".split()
)
_BE = frozenset("is are was were be been being".split())
_LAST = frozenset("again away together still once twice times while back forth up by out nearby".split())
_EMPTY = frozenset("none sound sounds sounding noise noises audio recording clip video something someone somebody thing things distance scene left right centre center of".split())
_NO_ADVERB = frozenset("family fly belly jelly bully lily rally ally reply assembly butterfly dragonfly".split())
_CLAUSE = re.compile(r"[.,;:!?()\[\]{}\"“”\n/|、。，！？；：]+|\s[-–—]+\s")
_WORD = re.compile(r"[\w'’&-]+")


def tidy(phrase: str) -> str:
    """`phrase` with single spaces."""
    return " ".join(phrase.split())


def unique(phrases) -> list[str]:
    """The phrases in order, tidied, each once, without empty ones."""
    return [phrase for phrase in dict.fromkeys(map(tidy, phrases)) if phrase]


def is_dropped(phrase: str) -> bool:
    """Whether JavisDiT's preparation would leave out a phrase of its captioner: brackets, "background", "None"."""
    return "(" in phrase or ")" in phrase or "background" in phrase.lower() or phrase == "None"


def propose(caption: str) -> list[str]:
    """Phrases that may name the sounds of `caption`, in order, at most MOST; a plain rule over function words, no model.

    The caption is cut at punctuation and at conjunctions, auxiliaries and the like; what follows a preposition of place or time
    ("in the distance") goes, and so do articles, numerals and adverbs in -ly at the ends, "is" before -ing, and "the sound of".  "A dog barks
    loudly while birds chirp in the trees" gives "dog barks" and "birds chirp".
    """
    found = []
    for clause in _CLAUSE.split(caption):
        words, placed = [], False
        every = [*_WORD.findall(clause.lower().replace("’", "'")), "and"]
        for at, word in enumerate(every):
            if word in _BE and words and every[at + 1].endswith("ing"):
                continue  # "a child is speaking"
            if word not in _ENDS and (word not in _PLACES or at == 0 and word in _FIRST):
                words.append(word)
                continue
            if not placed:
                found.append(_phrase(words))
            words, placed = [], word in _PLACES
    return [phrase for phrase in unique(found) if not is_dropped(phrase)][:MOST]


def _phrase(words: list[str]) -> str:
    """What names a sound of a run of words; "" where nothing does."""
    for at, word in enumerate(words):
        if word in ("sound", "sounds", "noise", "noises") and words[at + 1 : at + 2] == ["of"]:
            words = words[at + 2 :]
            break
    while words and (words[0] in _FIRST or words[0] == "of" or words[0].isdecimal() or _is_adverb(words[0])):
        words = words[1:]
    words = words[:LONGEST]
    while words and (words[-1] in _LAST or words[-1] in _FIRST or words[-1] == "of" or _is_adverb(words[-1])):
        words = words[:-1]
    return "" if set(words) <= _EMPTY else " ".join(words)


def _is_adverb(word: str) -> bool:
    return len(word) > 4 and word.endswith("ly") and word not in _NO_ADVERB


def of_cell(cell, column: str) -> list[str]:
    """The queries of a cell: a text is one, a list (or a JSON list) of texts is several; RowError where there is none."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "[":
        try:
            cell = json.loads(cell)
        except ValueError:
            pass  # a text that begins with a bracket
    several = cell if isinstance(cell, list) else [] if cell is None else [cell]
    if not all(isinstance(one, str) for one in several):
        raise RowError(f"column {shown(column)} holds no query: {shown(str(cell)[:80])!r} is neither a text nor a list of texts")
    found = unique(several)
    if not found:
        raise RowError(f"column {shown(column)} holds no query; fill it, or leave the row out with mkmeta filter")
    return found


@functools.lru_cache(maxsize=2)
def file_of_queries(path: str) -> dict[str, list[str]]:
    """The file of queries as JavisDiT's captioner leaves it: {name of the sound file without suffix: [phrase, ...]}.

    Phrases that JavisDiT drops are dropped.   UsageError where it is none.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = json.load(file)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; check the path") from None
    except ValueError as error:
        raise UsageError(f"{path}: no JSON ({error})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a JSON object of the form {{name of a sound file: [phrase, ...]}}")
    for name, phrases in found.items():
        phrases = [phrases] if isinstance(phrases, str) else phrases
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise UsageError(f"{path}: {shown(name[:80])!r} has no list of phrases")
        found[name] = [phrase for phrase in unique(phrases) if not is_dropped(phrase)]
    return found


def queries_of(row: dict, stem: str, options: dict) -> list[str]:
    """The row's queries; `stem`: the name of its sound file without folder and suffix.  RowError where it has none.

    `options`: one of `queries` (a list), `query_column`, `query_file`, `propose`.
    """
    if options["queries"]:
        return options["queries"]
    if options["query_column"]:
        return of_cell(row.get(options["query_column"]), options["query_column"])
    if options["query_file"]:
        found = file_of_queries(options["query_file"]).get(stem)
        if not found:
            raise RowError(f"{options['query_file']} has no phrases for {shown(stem)!r}; add them, or leave the row out with mkmeta filter")
        return found
    caption = caption_of(row)
    found = propose(caption)
    if not found:
        raise RowError(f"nothing to separate is proposed from the caption {shown(caption[:80])!r}; give --query or --query-column")
    return found


def caption_of(row: dict) -> str:
    """What the row says of its sound: audio_text, else its caption; RowError where it has none."""
    from avtools.metrics.media import TEXTS

    columns = TEXTS["audio_text"]
    for column in columns:
        cell = row.get(column)
        cell = next(iter(cell), None) if isinstance(cell, list) else cell
        if isinstance(cell, str) and cell.strip():
            return cell
    raise RowError(f"the row has no caption to propose queries from (columns looked at: {', '.join(columns)})")
