"""Where the frozen parts of JavisDiT come from; importing this loads nothing heavy."""

from avtools.hub import Part

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
    "prior", "the prior of space and time: a run of javisdit-prior, or JavisDiT's own", "github.com/JavisVerse/JavisDiT", ("*.safetensors",),
    1_600_000_000, "Apache-2.0", optional=True,
)  # fmt: skip
#: The text tower that the prior reads is in ImageBind's own Part (`avtools.models.parts.imagebind.checkpoint.PART`).
