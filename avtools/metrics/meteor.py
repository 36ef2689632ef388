"""METEOR: generated captions against references, matched by form, stem and WordNet's synonyms."""

import functools
import hashlib
import json
import pathlib
import warnings

from avtools import hub
from avtools.errors import FatalError
from avtools.metrics.captioning import WORDS_TOLD, Captions

PART = hub.Part("wordnet", "WordNet 3.0 as NLTK has it (folder corpora/wordnet)", "https://www.nltk.org/nltk_data/", (), 30_000_000, "WordNet licence")
INSIDE = ("", "wordnet", "corpora/wordnet")  # of the folder that is given
DATA = tuple(f"data.{kind}" for kind in ("adj", "adv", "noun", "verb"))


class Meteor(Captions):
    __doc__ = f"""METEOR, the largest of all references: nltk's, with alpha 0.9, beta 3, gamma 0.5.

    Words match that are equal, have one Porter stem, or are synonyms in WordNet.  Numbers of the Java program METEOR 1.5, which
    weighs matches and knows paraphrases, are others: compare with nltk's alone.  WordNet: --weights wordnet=DIR, or where nltk looks.

    {WORDS_TOLD}"""

    name = "meteor"
    title = "METEOR of captions (nltk's, with WordNet)"
    source = "Banerjee and Lavie 2005, Lavie and Agarwal 2007; nltk.translate.meteor_score"
    columns = {"meteor": "METEOR; 0 to 1"}
    ranges = {"meteor": (0.0, 1.0)}
    protocols = {}  # papers give METEOR 1.5's
    network = True  # of synonyms: it is loaded once, where networks are
    released_run = False
    parts = (PART,)
    requires = (("nltk", "nltk"), ("torch", "torch"))

    def prepare(self, pair):
        import numpy as np

        return {"tokens": np.frombuffer(json.dumps(self.tokens(pair)).encode(), np.uint8)}

    def load(self, device, weights):
        self.wordnet = read_wordnet(self.folder(weights))

    def run(self, items):
        import numpy as np

        return [{"meteor": np.array([score(*json.loads(bytes(item["tokens"])), self.wordnet)])} for item in items]

    def row(self, item):
        return {"meteor": float(item["meteor"][0])}

    def folder(self, weights) -> pathlib.Path:
        """Where WordNet's files are."""
        source = next((given for name in (PART.name, self.name, "") if (given := weights.get(name)) is not None), None)
        given = _nltks_own() if source is None else None
        given = given or hub.locate(source, PART, self.name)
        for inner in INSIDE:
            if (given / inner / DATA[0]).is_file():
                return (given / inner).resolve()
        raise FatalError(f"{given}: holds no WordNet ({', '.join(DATA)}); unpack NLTK's wordnet.zip and give --weights wordnet=DIR")

    def weights_digest(self, weights):
        files = [self.folder(weights) / name for name in DATA]
        return hashlib.sha256("".join(hub.digest(file) for file in files).encode()).hexdigest()[:16]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "wordnet"}


def _nltks_own() -> pathlib.Path | None:
    import nltk.data

    try:
        return pathlib.Path(str(nltk.data.find("corpora/wordnet")))
    except LookupError:
        return None


@functools.cache
def read_wordnet(folder: pathlib.Path):
    """nltk's reader of WordNet; FatalError where files are missing or damaged."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class English(WordNetCorpusReader):
        def map_wn(self, *_, **__):
            """None: nltk maps other languages' words to its own WordNet 3.0, which it wants installed for that."""

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))  # nltk reads below these folders alone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of languages other than English
            wordnet = English(nltk.data.FileSystemPathPointer(str(folder)), None)
            wordnet.synsets("dog")
            return wordnet
    except Exception as error:  # of nltk, which says little of what is wrong with a file
        why = " ".join(str(error).split())[:100]
        raise FatalError(f"{folder}: WordNet cannot be read ({why}); unpack NLTK's wordnet.zip anew and give --weights wordnet=DIR") from None


def score(judged: list[str], references: list[list[str]], wordnet) -> float:
    """METEOR of words, the largest of all references."""
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score(references, judged, wordnet=wordnet)) if judged else 0.0
