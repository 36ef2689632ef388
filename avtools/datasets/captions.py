"""Captions: mending their text, and telling their language."""

import functools
import re
from collections.abc import Iterable

from avtools.errors import FatalError, UsageError

#: Languages that a caption may turn out to be in, beside those that are wanted (ISO 639-1).  Of the 75 that lingua
#: knows, those that captions are written in: every rare one more makes short English labels look foreign.
RIVALS = tuple("ar bg bn ca cs da de el en es fa fi fr he hi hr hu id it ja ko lt nb nl pl pt ro ru sk sv ta th tr uk ur vi zh".split())

#: A caption is foreign where a rival is this many times as likely as every wanted language; English, which most captions
#: are in and few others are taken for, where it is so many times as likely.
CERTAIN, CERTAIN_ENGLISH = 1e4, 10

LONGEST = 1000  # characters that a language is told by

# What needs no mending, and is most of what there is: printable ASCII, single blanks, no entity and no quote
_SOUND = re.compile(r"[!#-%(-~]+(?: [!#-%(-~]+)*")
_BYTES = re.compile("[\udc80-\udcff]+")  # bytes that were no UTF-8, as surrogateescape keeps them
_ENTITY_OF_ENTITY = re.compile(r"&(?:amp;)+(?=#?\w{1,24};)")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+")
# The zero-width joiner and non-joiner spell words of Persian, Hindi, ... and join emoji; elsewhere they are dirt
_JOINED = "[\u0600-\u1fff\u2190-\ufefe\uff00-\U0010ffff]"
_JOINERS = re.compile(f"(?<!{_JOINED})[\u200c\u200d]+|[\u200c\u200d]+(?!{_JOINED})|(?<=[\u200c\u200d])[\u200c\u200d]+")
_OUTER = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'"+\s*([^"]*?)\s*"+',  # around the whole, also doubled as in a CSV cell
        r'"+\s*([^"]+)',  # only before it
        r'([^"]*[^"\d\s])\s*"+',  # only after it, and no sign for inches
        r"'\s*((?:[^']|(?<=\w)'(?=\w))*?)\s*'",  # an apostrophe may stand inside a word
        "“([^“”]*)”",
        "„([^„“”]*)[“”]",
        "‘((?:[^‘’]|(?<=\\w)’(?=\\w))*)’",
        "«\\s*([^«»]*?)\\s*»",
    )
]


def clean(text: str) -> str:
    """Return `text` mended: what was decoded wrongly (ftfy), HTML entities, invisible characters, blanks, outer quotes.

    Runs of white space become one blank; control and zero-width characters go (but joiners where a script or an emoji needs
    them), and so do blanks and stray quotes at both ends; bytes that were no UTF-8 are read as Windows-1252.  Correct text
    of any script stays as it is, in Unicode's composed form (NFC): no character is made ASCII.  Cleaning twice changes
    nothing more, and what has a letter is never emptied (entities, terminal escapes and wrong decoding have none).
    """
    if _SOUND.fullmatch(text):
        return text
    for _ in range(8):  # what one pass uncovers the next one mends: &amp;lt;, quotes in quotes
        before, text = text, _cleaned(text)
        if text == before or _SOUND.fullmatch(text):
            break
    return text


def _cleaned(text: str) -> str:
    fix_text, config = _ftfy()
    text = _BYTES.sub(lambda found: found[0].encode("utf-8", "surrogateescape").decode("cp1252", "ignore"), text)
    text = fix_text(_ENTITY_OF_ENTITY.sub("&", text), config)
    text = " ".join(text.split())  # line ends are white space and no invisible characters
    text = " ".join(_JOINERS.sub("", _INVISIBLE.sub("", text)).split())
    for pattern in _OUTER:
        if found := pattern.fullmatch(text):
            return found[1].strip()
    return text


@functools.cache
def _ftfy():
    try:
        from ftfy import TextFixerConfig, fix_text
    except ImportError:
        raise FatalError("cleaning captions needs ftfy, which is not installed: pip install ftfy") from None
    # curled quotes and wide characters are correct in many languages; an entity is one whether or not the text has a "<"
    return fix_text, TextFixerConfig(unescape_html=True, uncurl_quotes=False, fix_character_width=False, explain=False)


class Languages:
    """The languages that captions are wanted in: ISO 639-1 codes, as a list or as text (`en,de`).

    Raise UsageError for a code that lingua does not know, FatalError where lingua is not installed.
    """

    def __init__(self, codes: str | Iterable[str]):
        given = codes.split(",") if isinstance(codes, str) else codes
        self.codes = tuple(dict.fromkeys(code.strip().lower() for code in given))
        known = _known()
        for code in self.codes:
            if code not in known:
                raise UsageError(f"language {code!r}: no such ISO 639-1 code; choose from {', '.join(sorted(known))}")
        if not self.codes:
            raise UsageError("no language is given; name some by ISO 639-1 codes, such as en,de")

    def holds(self, text: str) -> bool:
        """Whether `text` may be in one of the languages: false only where another one is certain.

        Labels of a word or two (`dog`, `playing cello`) are too short for any detector, so the doubt is theirs: a
        text is refused where one of :data:`RIVALS` is more than :data:`CERTAIN` times (English: 10 times) as likely as
        each language that is wanted, by lingua's likelihoods from trigrams alone (65 MB, 0.1 ms a caption).  A sentence
        of six words reaches that, and a script that no wanted language is written in always does.  For English this
        keeps 99.95 % of AudioCaps's 57,188 captions and all of VGGSound's 309 and AudioSet's 527 labels; for German,
        French and Spanish it lets 5, 2 and 0.5 % of AudioCaps pass.  A text without letters is of no language and passes.
        """
        text = text[:LONGEST]
        return _judged(self.codes, text) if len(text) <= 200 else _judge(self.codes, text)


def _judge(codes: tuple[str, ...], text: str) -> bool:
    detector, known = _detector(codes), _known()
    values = {one.language: one.value for one in detector.compute_language_confidence_values(text)}
    best = max(values[known[code]] for code in codes)
    if best == 0:
        return not any(values.values())
    return values[known["en"]] <= CERTAIN_ENGLISH * best and max(values.values()) <= CERTAIN * best


_judged = functools.lru_cache(1 << 14)(_judge)  # labels recur


@functools.cache
def _known() -> dict:
    """ISO 639-1 code -> lingua's language."""
    try:
        from lingua import Language
    except ImportError:
        raise FatalError("telling languages needs lingua, which is not installed: pip install 'avtools[languages]'") from None
    return {language.iso_code_639_1.name.lower(): language for language in Language.all()}


@functools.cache
def _detector(codes: tuple[str, ...]):
    from lingua import LanguageDetectorBuilder

    known = _known()
    languages = {known[code] for code in (*RIVALS, *codes)}
    return LanguageDetectorBuilder.from_languages(*languages).with_low_accuracy_mode().build()
