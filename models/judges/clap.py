"""How well sound and text, and sound and its reference, agree in CLAP, LAION's or Microsoft's."""

import hashlib

from avtools import hub
from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.media import TEXTS
from avtools.models.judges.similarity import TRANSFORMERS, OfText, cosine_of_means

LAION = hub.Part(
    "clap",
    "CLAP of LAION, HTSAT unfused (a folder as transformers writes it, or one of LAION's .pt files)",
    "hf:laion/clap-htsat-unfused",
    ("config.json", "preprocessor_config.json", "pytorch_model.bin", "vocab.json", "merges.txt", "tokenizer*.json"),
    618_000_000,
    "Apache-2.0",
)
ROBERTA = hub.Part(
    "clap-tokenizer",
    "the tokenizer of roberta-base, beside a .pt file of LAION's CLAP",
    "hf:FacebookAI/roberta-base",
    ("vocab.json", "merges.txt", "tokenizer*.json"),
    3_000_000,
    "MIT",
    optional=True,
)
MICROSOFT = hub.Part("msclap", "CLAP of Microsoft, 2023", "hf:microsoft/msclap", ("CLAP_weights_2023.pth",), 690_000_000, "MIT", optional=True)
GPT2 = hub.Part(
    "msclap-tokenizer",
    "the tokenizer of GPT-2, beside Microsoft's CLAP",
    "hf:openai-community/gpt2",
    ("vocab.json", "merges.txt", "tokenizer*.json"),
    3_000_000,
    "MIT",
    optional=True,
)
MODELS = ("laion", "microsoft")


class _Sound(Extractor):
    """Embeddings of windows that are spread evenly over the whole sound, or its first `seconds`; what is shorter than one is repeated to fill it."""

    medium = "sound"
    settings = {"seconds": 0.0}
    requires = TRANSFORMERS
    rate: int

    def prepare(self, pair, role):
        samples = pair.heard(role, self.rate)[: round(self.set["seconds"] * self.rate) or None]
        if not len(samples):
            raise Skip("its sound is shorter than a sample")
        return {"samples": samples}

    def run(self, items):
        from avtools.models.parts.clap import embed_sounds

        return [{"embedding": one} for one in embed_sounds(self.net, [item["samples"] for item in items], self.device)]


class LaionSound(_Sound):
    __doc__ = f"""LAION's CLAP of windows of 10 s at 48 kHz.

    {_Sound.__doc__}"""

    name = "clap-sound"
    parts = (LAION,)
    rate = 48000
    resampler = "soxr HQ to 48000 Hz mono"
    outputs = {"embedding": "of each window, of unit length, (W, 512)"}

    def load(self, device, weights):
        from avtools.models.parts.clap import sound_from

        self.net, self.device = sound_from(self.locate(weights)).to(device), device


class LaionText(OfText):
    """LAION's CLAP of a text, cut at `context` tokens: 77 as it was trained."""

    name = "clap-text"
    settings = {"context": 77}
    parts = (LAION, ROBERTA)
    outputs = {"embedding": "of unit length, (1, 512)"}

    def load(self, device, weights):
        from avtools.models.parts.clap import text_from

        path = self.locate(weights)
        tokenizer = self.locate(weights, ROBERTA) if _apart(path, weights) else None
        self.net = text_from(path, tokenizer, self.set["context"]).to(device)

    def weights_digest(self, weights):
        path = self.locate(weights)
        found = hub.digest(path)
        return _both(found, hub.digest(self.locate(weights, ROBERTA))) if _apart(path, weights) else found


class MicrosoftSound(_Sound):
    __doc__ = f"""Microsoft's CLAP of windows of 7 s at 44.1 kHz.

    {_Sound.__doc__}"""

    name = "msclap-sound"
    parts = (MICROSOFT,)
    rate = 44100
    resampler = "soxr HQ to 44100 Hz mono"
    outputs = {"embedding": "of each window, not of unit length, (W, 1024)"}

    def load(self, device, weights):
        from avtools.models.judges.msclap import sound_from

        self.net, self.device = sound_from(self.locate(weights)).to(device), device


class MicrosoftText(OfText):
    """Microsoft's CLAP of a text, cut at `context` tokens: 77 as it was trained."""

    name = "msclap-text"
    settings = {"context": 77}
    parts = (MICROSOFT, GPT2)
    outputs = {"embedding": "not of unit length, (1, 1024)"}

    def load(self, device, weights):
        from avtools.models.judges.msclap import text_from

        self.net = text_from(self.locate(weights), self.locate(weights, GPT2), self.set["context"]).to(device)


def _apart(path, weights) -> bool:
    """Whether the tokenizer comes from a folder of its own: it is given, or there is none beside the weights."""
    return not path.is_dir() or weights is not None and weights.get(ROBERTA.name) is not None


def _both(*digests: str) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


class _Clap(OfFeatures):
    """What both share: which CLAP."""

    direction = "higher"
    variants = MODELS

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["model"] not in MODELS:
            raise UsageError(f"--set {self.name}.model={self.set['model']}: {' or '.join(MODELS)}")

    def sound(self):
        return LaionSound() if self.set["model"] == "laion" else MicrosoftSound()


class Clap(_Clap):
    """Cosine of the sound with the row's text: `audio_text` where there is that column, else its caption.

    The whole sound is heard, in windows as long as those of the network's training, spread evenly; its direction is the
    mean of theirs.  Both originals take a random part of what is longer than one, so their numbers vary; up to 10 s
    (laion) or 7 s (microsoft) there is nothing to choose.  `context`: tokens of the text that are read; of protocol
    javisbench all that the network has places for, of protocol vatt those of LAION's package.
    """

    name = "clap"
    title = "CLAP similarity of sound and text"
    source = (
        "Wu et al. 2023, LAION's CLAP (arXiv:2211.06687); Elizalde et al. 2023, Microsoft's (arXiv:2309.05767); "
        "protocol javisbench: Liu et al. 2025 (arXiv:2503.23377); protocol vatt: Liu et al. 2024 (arXiv:2411.05679)"
    )
    columns = {"clap": "cosine of sound and text, -1 to 1"}
    ranges = {"clap": (-1.0, 1.0)}
    needs = ("sound", "text")
    texts = TEXTS["audio_text"]
    settings = {"model": "laion", "context": 77}
    protocols = {"javisbench": {"model": "laion", "context": 512}, "vatt": {"model": "laion", "context": 77}}
    extractors = (LaionSound, LaionText, MicrosoftSound, MicrosoftText)

    def __init__(self, **settings):
        super().__init__(**settings)
        if not 3 <= self.set["context"] <= 1024:
            raise UsageError(f"--set clap.context={self.set['context']}: 3 to 1024 tokens")

    def wants(self):
        text = (LaionText if self.set["model"] == "laion" else MicrosoftText)(context=self.set["context"])
        return {"sound": (self.sound(), "audio"), "text": (text, "audio_text")}

    def row(self, item):
        return {"clap": cosine_of_means(item["sound"]["embedding"], item["text"]["embedding"])}


class ClapAudio(_Clap):
    """Cosine of the sound with its reference, of the mean directions of their windows."""

    name = "clap-audio"
    title = "CLAP similarity of sound and reference sound"
    source = "Wu et al. 2023, LAION's CLAP (arXiv:2211.06687); protocol vatt: Liu et al. 2024 (arXiv:2411.05679)"
    columns = {"clap_audio": "cosine of sound and reference sound, -1 to 1; 1: alike"}
    ranges = {"clap_audio": (-1.0, 1.0)}
    needs = ("sound", "reference_sound")
    settings = {"model": "laion"}
    protocols = {"vatt": {"model": "laion"}}
    extractors = (LaionSound, MicrosoftSound)

    def wants(self):
        return {"sound": (self.sound(), "audio"), "reference": (self.sound(), "reference_audio")}

    def row(self, item):
        return {"clap_audio": cosine_of_means(item["sound"]["embedding"], item["reference"]["embedding"])}
