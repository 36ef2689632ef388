"""Where JavisDiT's weights come from, and which files of a folder hold them; importing this loads nothing heavy.

What JavisDiT's authors publish is named on their model cards (huggingface.co/JavisDiT); how files are called there is not known here, so
that whole repositories are fetched, and :func:`pieces` looks for them.
"""

import dataclasses
import pathlib

from avtools.errors import FatalError
from avtools.hub import Part

MAIN = Part("", "JavisDiT-v0.1's network, or a run of javisdit", "hf:JavisDiT/JavisDiT-v0.1-jav", ("*",), 7_500_000_000, "Apache-2.0")
SOUND_MAIN = dataclasses.replace(MAIN, what="JavisDiT-v0.1's stage 1, or a run of javisdit-audio", source="hf:JavisDiT/JavisDiT-v0.1-audio", size=2_440_000_000)
STREAM = Part(
    "video-stream", "OpenSora's STDiT-v3, with which the video stream begins", "hf:hpcai-tech/OpenSora-STDiT-v3", ("model.safetensors",),
    4_840_000_000, "Apache-2.0", optional=True,
)  # fmt: skip

VIDEO = Part(
    "video", "OpenSora's VAE 1.2, with the autoencoder of pictures in it", "hf:hpcai-tech/OpenSora-VAE-v1.2", ("config.json", "model.safetensors"),
    1_570_000_000, "Apache-2.0",
)  # fmt: skip
SOUND = Part(
    "sound", "AudioLDM 2's autoencoder and vocoder", "hf:cvssp/audioldm2", ("vae/*.json", "vae/*.safetensors", "vocoder/*.json", "vocoder/*.safetensors"),
    450_000_000, "CC BY-NC-SA 4.0 (non-commercial)",
)  # fmt: skip
WORDS = Part(
    "words", "T5 v1.1 XXL's encoder and its tokenizer", "hf:DeepFloyd/t5-v1_1-xxl", ("*.json", "*.model", "*.bin"),
    19_100_000_000, "Apache-2.0 (Google's T5 v1.1; this copy states none)",
)  # fmt: skip
PRIOR = Part(
    "prior", "the prior of space and time: JavisDiT-v0.1's, or a run of javisdit-prior", "hf:JavisDiT/JavisDiT-v0.1-prior", ("*",),
    1_600_000_000, "Apache-2.0; the text tower in it is ImageBind's, CC-BY-NC-SA-4.0 (non-commercial)",
)  # fmt: skip
PRIOR_MAIN = dataclasses.replace(PRIOR, name="")
#: The text tower that the prior reads is in ImageBind's own Part (`avtools.models.parts.imagebind.checkpoint.PART`).


KINDS = ("safetensors", "bin", "pt", "pth")  # of files with weights, by their suffix; the first that a folder has counts
INNER = "model"  # the folder in a folder that a trainer writes the network into, its state beside it


def pieces(path, remedy: str) -> list[pathlib.Path]:
    """The files that hold a released network: `path` itself, those of its folder `model`, else those in the folder.

    FatalError: none, or in other folders, of which one is to be named.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return [path]
    for folder in (path / INNER, path):
        for kind in KINDS:
            if found := sorted(folder.glob(f"*.{kind}")):
                return found
    inner = sorted({str(file.parent.relative_to(path)) for kind in KINDS for file in path.rglob(f"*.{kind}")})
    raise FatalError(f"{path}: has no *.{', *.'.join(KINDS)}; {f'name one of its folders that have: {some(inner)}' if inner else remedy}")


def some(names, most: int = 4) -> str:
    """A few of the names, as messages tell them."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "")
