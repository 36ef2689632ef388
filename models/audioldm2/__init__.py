"""AudioLDM 2 (Liu et al. 2023, arXiv:2308.05734): sound from a text alone (the prior stage of JavisDiT, arXiv:2503.23377).

generating   the networks, from a folder as diffusers writes it, and what is drawn with them
making       the rows of `gen-unpaired`
"""

from avtools.hub import Part

MAIN = Part(
    "",
    "AudioLDM 2",
    "hf:cvssp/audioldm2",
    ("model_index.json", "*/*.json", "*/*.safetensors"),
    4_500_000_000,
    "CC BY-NC-SA 4.0",
)
PARTS = (MAIN,)
NAME = "gen-unpaired"  # what `avtools fetch` calls it
LONGEST = 120  # seconds of a sound that are generated at most
