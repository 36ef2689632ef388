"""Masklets: objects cut out of videos with a mask for each frame (the prior stage of JavisDiT, arXiv:2503.23377).

annotations  masks that are known: SA-V's JSON, videos of masks
selection    which objects are kept, which of their frames; masks packed to their boxes
detecting    Grounding DINO: boxes of what a text names
tracking     SAM 2: masks of all frames from those of some, or from boxes
flow         the same by optical flow, without weights
reading      a video's pictures, decoded ahead of their use
making       the rows of the command
writing      crops, masks and boxes as files
"""

from avtools.hub import Part

SAM2 = Part(
    "sam2",
    "SAM 2.1 for videos",
    "hf:facebook/sam2.1-hiera-large",
    ("config.json", "model.safetensors"),
    898_000_000,
    "Apache-2.0",
)
DINO = Part(
    "grounding-dino",
    "Grounding DINO, which finds what --query names",
    "hf:IDEA-Research/grounding-dino-base",
    ("config.json", "model.safetensors", "vocab.txt", "tokenizer*.json", "special_tokens_map.json"),
    934_000_000,
    "Apache-2.0",
)
PARTS = (SAM2, DINO)
NAME = "masklets"  # what `avtools fetch` calls them together
