"""How well picture and text agree in CLIP, and what all metrics of embeddings share: extractors of texts, cosines."""

from avtools import hub
from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.media import TEXTS
from avtools.metrics.pictures import Pictures

CLIP = hub.Part(
    "clip",
    "CLIP ViT-B/32",
    "hf:openai/clip-vit-base-patch32",
    ("config.json", "pytorch_model.bin", "vocab.json", "merges.txt", "tokenizer*.json"),
    605_000_000,
    "MIT",
)
TRANSFORMERS = (("torch", "torch"), ("transformers", "transformers"))
AT_ONCE = 64  # pictures, texts


class OfText(Extractor):
    """Of the row's text: `net([str])` gives (B, D)."""

    medium = "text"
    requires = TRANSFORMERS

    def prepare(self, pair, role):
        import numpy as np

        return {"text": np.frombuffer(pair.words(role).encode("utf-8", "replace"), np.uint8)}

    def run(self, items):
        import numpy as np

        texts = list(dict.fromkeys(bytes(item["text"]).decode() for item in items))
        found = {}
        for begin in range(0, len(texts), AT_ONCE):
            some = texts[begin : begin + AT_ONCE]
            found |= zip(some, self.embed(some), strict=True)
        return [{name: np.asarray(one)[None] for name, one in found[bytes(item["text"]).decode()].items()} for item in items]

    def embed(self, texts: list[str]) -> list[dict]:
        """Of each text, name -> (D,)."""
        return [{"embedding": one.float().cpu().numpy()} for one in self.net(texts)]


class ClipPicture(Extractor):
    """CLIP's embedding of each picture: shorter side made `size` (bicubic), the middle of it.

    What is shown at k / `fps` s (0: each frame), of these `count`, evenly spaced from the first to the last (0: all).
    """

    name = "clip-picture"
    medium = "picture"
    settings = {"fps": 2.0, "count": 0, "size": 224}
    parts = (CLIP,)
    requires = (*TRANSFORMERS, ("PIL", "pillow"))
    outputs = {"embedding": "CLIP's projected embedding of each picture, not of unit length, (T, D)"}

    @property
    def pictures(self):
        return Pictures(fps=self.set["fps"], count=self.set["count"], size=(self.set["size"], self.set["size"]), fit="crop", resize="bicubic")

    def prepare(self, pair, role):
        return {"pictures": pair.seen(role, self.pictures).pictures}

    def load(self, device, weights):
        from avtools.models.parts.video_encoders import clip_from

        self.net, self.device = clip_from(self.locate(weights)).float().eval().to(device), device
        if self.net.size != self.set["size"]:
            raise UsageError(f"--set clip.size={self.set['size']}: this CLIP sees {self.net.size}x{self.net.size} pixels; --set clip.size={self.net.size}")

    def run(self, items):
        import numpy as np
        import torch

        counts = [len(item["pictures"]) for item in items]
        every = torch.from_numpy(np.concatenate([item["pictures"] for item in items]))
        found = torch.cat([self.net([some.to(self.device).permute(0, 3, 1, 2) / 255])[0].float().cpu() for some in every.split(AT_ONCE)])
        return [{"embedding": one.numpy()} for one in found.split(counts)]


class ClipText(OfText):
    """CLIP's embedding of a text, cut at the 77 tokens that CLIP knows."""

    name = "clip-text"
    parts = (CLIP,)
    outputs = {"embedding": "CLIP's projected embedding of the text, not of unit length, (1, D)"}

    def load(self, device, weights):
        import torch

        from avtools.models.parts.video_encoders import text_from

        network = text_from(self.locate(weights)).float().eval().to(device)
        self.net = lambda texts: torch.stack(network(texts))


class Clip(OfFeatures):
    """Cosine of each picture with the row's text, averaged over the pictures (CLIP ViT-B/32); not times 100.

    Standard: what is shown at k / `fps` s.  `count`: of these so many, evenly spaced (0: all); `fps` 0: each frame.
    `size`: pixels that the network sees, for other weights than ViT-B/32's (`--weights clip=hf:openai/...`).
    Protocol javisbench: 48 pictures evenly spaced over the whole clip.
    """

    name = "clip"
    title = "CLIP similarity of picture and text, mean over pictures"
    source = (
        "Radford et al. 2021, CLIP (arXiv:2103.00020); Hessel et al. 2021, CLIPScore (arXiv:2104.08718); "
        "protocol javisbench: Liu et al. 2025 (arXiv:2503.23377)"
    )
    columns = {"clip": "mean cosine of pictures and text, -1 to 1"}
    ranges = {"clip": (-1.0, 1.0)}
    direction = "higher"
    needs = ("picture", "text")
    texts = TEXTS["text"]
    chance_how = "none: it does not hear the sound"
    settings = dict(ClipPicture.settings)
    protocols = {"javisbench": {"fps": 0.0, "count": 48}}
    extractors = (ClipPicture, ClipText)

    def __init__(self, **settings):
        super().__init__(**settings)
        if not 0 <= self.set["fps"] <= 1000:
            raise UsageError(f"--set clip.fps={self.set['fps']:g}: 0 (each frame) to 1000")
        if not 16 <= self.set["size"] <= 2048:
            raise UsageError(f"--set clip.size={self.set['size']}: 16 to 2048")

    def wants(self):
        return {"pictures": (ClipPicture(**self.set), "video"), "text": (ClipText(), "text")}

    def row(self, item):
        return {"clip": mean_cosine(item["pictures"]["embedding"], item["text"]["embedding"])}


# --- of embeddings -------------------------------------------------------------------------------------------


def unit(vectors):
    """(N, D) -> the same of unit length, in float64; Skip where one is all zeros, which points nowhere."""
    import numpy as np

    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not lengths.all():
        raise Skip("an embedding is all zeros")
    return vectors / lengths


def mean_cosine(many, one) -> float:
    """The mean of the cosines of each of `many` (N, D) with `one` (1, D)."""
    return float((unit(many) @ unit(one)[0]).mean())


def cosine_of_means(some, others) -> float:
    """The cosine of two mean directions, of (N, D) and (M, D)."""
    return float(unit(unit(some).mean(0, keepdims=True))[0] @ unit(unit(others).mean(0, keepdims=True))[0])
