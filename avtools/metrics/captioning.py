"""BLEU, ROUGE-L and CIDEr: generated captions against references, as the captioning field defines them (coco-caption), without Java."""

import collections
import math

from avtools.errors import UsageError
from avtools.metrics import Metric, Skip
from avtools.metrics.parts import Parts
from avtools.metrics.words import texts_of, words

JUDGED = ("generated_text",)
REFERENCES = ("reference_text", "captions", "text", "description", "caption")
LONGEST = 4  # words of an n-gram
BETA = 1.2  # of ROUGE-L: recall over precision
SIGMA = 6.0  # of CIDEr-D's penalty of lengths, words


COLUMNS_TOLD = """The judged text is in `generated_text` (or the column that the setting `column` names), the references, one or more, in the first
    of reference_text, captions, text, description, caption that a row has (or `references`): a text, a list of texts, in CSV also one in JSON.
    """
WORDS_TOLD = f"""{COLUMNS_TOLD}Words are the Penn Treebank's, lower case, without punctuation; a text without any scores 0.
    """


class Captions(Metric):
    __doc__ = f"""The judged text and its references.

    {WORDS_TOLD}"""

    direction = "higher"
    chance_how = "none: it neither sees nor hears"
    needs = ("generated_text", "reference_text")
    settings = {"column": "", "references": ""}
    protocols = {"vatt": {}}  # its captions are judged by the standard definitions

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["column"] and self.set["column"] == self.set["references"]:
            raise UsageError(f"--set {self.name}.references={self.set['references']}: is the judged column itself; name another one")

    @property
    def generated_texts(self) -> tuple[str, ...]:
        """The columns that may hold the judged text."""
        return (self.set["column"],) if self.set["column"] else JUDGED

    @property
    def reference_texts(self) -> tuple[str, ...]:
        """The columns that may hold the references."""
        return (self.set["references"],) if self.set["references"] else tuple(name for name in REFERENCES if name not in self.generated_texts)

    def texts(self, pair) -> tuple[str, list[str]]:
        """The judged text and its references."""
        (judged,) = texts_of(pair.row, self.generated_texts, many=False)
        return judged, texts_of(pair.row, self.reference_texts, many=True)

    def tokens(self, pair) -> tuple[list[str], list[list[str]]]:
        """The words of the judged text, maybe none, and of each reference; Skip where no reference has any."""
        judged, references = self.texts(pair)
        found = [one for one in map(words, references) if one]
        if not found:
            raise Skip("no reference has a word")
        return words(judged), found


def ngrams(tokens: list[str], longest: int = LONGEST) -> collections.Counter:
    """How often each n-gram of 1 to `longest` words is there."""
    return collections.Counter(tuple(tokens[k : k + n]) for n in range(1, longest + 1) for k in range(len(tokens) - n + 1))


class Bleu(Captions):
    __doc__ = f"""BLEU of the whole set: shares of n-grams that a reference has, as often at most, and a penalty of brevity.

    Of a row's references the one that is closest in length counts for the penalty (the shorter of two).  BLEU-n is the geometric mean
    for 1 to n words, unsmoothed: no match at all makes it 0.

    {WORDS_TOLD}"""

    name = "bleu"
    title = "BLEU-1 to BLEU-4 of captions, whole set"
    source = "Papineni et al. 2002; as in Chen et al. 2015 (arXiv:1504.00325)"
    columns = {"bleu_4": "BLEU-4; 0 to 1", **{f"bleu_{n}": f"BLEU-{n}; 0 to 1" for n in (1, 2, 3)}}
    ranges = dict.fromkeys(columns, (0.0, 1.0))
    per_row = False

    def features(self, item):
        """"counts": int64 (10,): n-grams that match, n-grams, for 1 to 4 words each; words, words of the closest reference."""
        import numpy as np

        judged, references = self.tokens(item)
        most = collections.Counter()
        for reference in references:
            most |= ngrams(reference)
        right = collections.Counter()
        for gram, count in (ngrams(judged) & most).items():
            right[len(gram)] += count
        sizes = range(1, LONGEST + 1)
        closest = min(map(len, references), key=lambda length: (abs(length - len(judged)), length))
        return {"counts": np.array([*(right[n] for n in sizes), *(max(0, len(judged) - n + 1) for n in sizes), len(judged), closest])}

    def start(self):
        import numpy as np

        return np.zeros(2 * LONGEST + 2, np.int64)

    def accumulate(self, state, features):
        return state + features["counts"]

    def merge(self, state, other):
        return state + other

    def finalize(self, state):
        right, given, (length, closest) = state[:LONGEST], state[LONGEST:-2], map(int, state[-2:])
        brevity = min(1.0, math.exp(1 - closest / length)) if length else 0.0
        found, product = {}, 1.0
        for n in range(1, LONGEST + 1):
            product *= right[n - 1] / given[n - 1] if given[n - 1] else 0.0
            found[f"bleu_{n}"] = float(brevity * product ** (1 / n))
        return {column: found[column] for column in self.columns}


class Rouge(Captions):
    __doc__ = f"""ROUGE-L: the longest common subsequence of words; F with beta 1.2 of its largest shares of the text and of a reference.

    {WORDS_TOLD}"""

    name = "rouge"
    title = "ROUGE-L of captions"
    source = "Lin 2004; as in Chen et al. 2015 (arXiv:1504.00325)"
    columns = {"rouge_l": "ROUGE-L; 0 to 1"}
    ranges = {"rouge_l": (0.0, 1.0)}

    def row(self, item):
        judged, references = self.tokens(item)
        return {"rouge_l": rouge_l(judged, references)}


def rouge_l(judged: list[str], references: list[list[str]]) -> float:
    """ROUGE-L of words; references have some."""
    common = [(common_length(judged, reference), len(reference)) for reference in references]
    precision = max(count for count, _ in common) / max(1, len(judged))
    recall = max(count / length for count, length in common)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def common_length(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for k, its in enumerate(other, 1):
            corner, row[k] = row[k], corner + 1 if word == its else max(row[k], row[k - 1])
    return row[-1]


class Cider(Captions):
    __doc__ = f"""CIDEr-D: cosine of the n-grams, those that few rows' references have weighing most; mean over 1 to 4 words, references, rows; times 10.

    Counts are clipped to the reference's, and lengths that differ by d words are penalised by exp(-d² / 72).  How many rows' references
    have an n-gram is counted in the set itself: a single row gets 0.  All rows' n-grams are held in memory (about 2 kB a row).

    {WORDS_TOLD}"""

    name = "cider"
    title = "CIDEr-D of captions, whole set"
    source = "Vedantam et al. 2015 (arXiv:1411.5726); as in Chen et al. 2015 (arXiv:1504.00325)"
    columns = {"cider": "CIDEr-D; 0 to 10"}
    ranges = {"cider": (0.0, 10.0)}
    per_row = False

    def features(self, item):
        """N-grams as 64-bit hashes whose last 2 bits are the words less 1.

        "judged" (K,) and "times" (K,); of all references one after the other "true" (L,), "true_times", "matched" (times in the judged text),
        "of" (which reference), "first" (whether no earlier reference has it); "lengths" (1 + R,): bigrams of each, the judged text first.
        """
        import numpy as np

        judged, references = self.tokens(item)
        mine = ngrams(judged)
        codes = {gram: code(gram) for gram in mine}
        seen, true = set(), []
        for number, reference in enumerate(references):
            for gram, count in ngrams(reference).items():
                codes.setdefault(gram, code(gram))
                true.append((codes[gram], count, mine.get(gram, 0), number, gram not in seen))
                seen.add(gram)
        column = list(zip(*true, strict=True))
        small = np.int32
        return {
            "judged": np.array([codes[gram] for gram in mine], np.uint64),
            "times": np.array(list(mine.values()), small),
            "true": np.array(column[0], np.uint64),
            **{name: np.array(values, small) for name, values in zip(("true_times", "matched", "of"), column[1:4], strict=True)},
            "first": np.array(column[4], bool),
            "lengths": np.array([max(0, len(one) - 1) for one in (judged, *references)], small),
        }

    def start(self):
        return Rows()

    def accumulate(self, state, features):
        state.open().append(features)
        return state

    def merge(self, state, other):
        return state.with_(other)

    def finalize(self, state):
        if not state.parts:
            raise Skip("no row has anything to measure")
        return {"cider": float(ciders(state).mean())}

    def remarks(self, state):
        return ["CIDEr of a single row is 0: its weights come of the set"] if sum(map(len, state.parts)) == 1 else []


class Block(list):
    """What :meth:`Cider.features` gives of some rows."""

    def __init__(self, rows=()):
        super().__init__(rows)
        self._joined: dict = {}

    def joined(self, name: str) -> tuple:
        """The rows' arrays of one name one after the other, and their lengths; worked out once, when no row is added any more."""
        import numpy as np

        if name not in self._joined:
            arrays = [row[name] for row in self]
            self._joined[name] = np.concatenate(arrays), np.array([len(array) for array in arrays])
        return self._joined[name]


class Rows(Parts):
    """Parts of a set."""

    new = Block

    def joined(self, name: str) -> tuple:
        """As :meth:`Block.joined`, of all rows."""
        import numpy as np

        return tuple(np.concatenate(arrays) for arrays in zip(*(part.joined(name) for part in self.parts), strict=True))


def code(gram: tuple[str, ...]) -> int:
    """An n-gram of 1 to 4 words as a number below 2**64."""
    import hashlib

    digest = hashlib.blake2b("\0".join(gram).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & ~3 | (len(gram) - 1)


def ciders(rows: Rows):
    """CIDEr-D of each row, float64 (rows,)."""
    import numpy as np

    count = sum(map(len, rows.parts))

    def all_(name):
        return rows.joined(name)[0]

    def owners(name):
        return np.repeat(np.arange(count), rows.joined(name)[1])

    judged, true = all_("judged"), all_("true")
    known, counts = np.unique(true[all_("first")], return_counts=True)

    def weights(codes):
        """The logarithm of all rows over those whose references have the n-gram."""
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return math.log(count) - np.log(np.where(known[place] == codes, counts[place], 1))

    lengths, each = rows.joined("lengths")
    references = each - 1
    begins = np.cumsum(references) - references  # of the references, the row's first one
    which = begins[owners("true")] + all_("of")
    order, total = (true & np.uint64(3)).astype(np.int64), int(references.sum())
    weight = np.square(weights(true))
    mine = np.bincount(owners("judged") * LONGEST + (judged & np.uint64(3)).astype(np.int64), np.square(all_("times") * weights(judged)), count * LONGEST)
    theirs = np.bincount(which * LONGEST + order, np.square(all_("true_times")) * weight, total * LONGEST).reshape(total, LONGEST)
    both = np.bincount(which * LONGEST + order, np.minimum(all_("true_times"), all_("matched")) * all_("true_times") * weight, total * LONGEST)
    row_of = np.repeat(np.arange(count), references)
    norms = np.sqrt(mine.reshape(-1, LONGEST)[row_of] * theirs)
    cosines = np.divide(both.reshape(total, LONGEST), norms, out=np.zeros_like(norms), where=norms > 0).mean(axis=1)
    ends = np.cumsum(each)
    lengths = np.delete(lengths - np.repeat(lengths[ends - each], each), ends - each)
    found = cosines * np.exp(-np.square(lengths, dtype=np.float64) / (2 * SIGMA**2))
    return 10 * np.bincount(row_of, found, count) / references
