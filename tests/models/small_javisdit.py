"""All that JavisDiT's authors and those of its frozen parts publish, a few thousand parameters each, in folders as they lie on the hub."""

import json
import pathlib

import small_imagebind
import torch
from safetensors.torch import load_file, save_file
from test_javisdit_prior import released_vae, sound_folder, t5_folder, t5_network

from avtools.models.javisdit import checkpoint, video_vae
from avtools.models.javisdit import prior as priors
from avtools.models.javisdit.model import Size, VastDit

NET = {"dim": 32, "depth": 2, "heads": 2, "text": 12, "text_tokens": 10, "spatial_priors": 3, "temporal_priors": 3, "prior": 8}
PRIOR = priors.Size(text=16, dim=16, heads=4, encoder_layers=1, decoder_layers=1, feed=2, out=8, spatial=3, temporal=3, pair_heads=2, pair_feed=2)
STREAM = ("x_embedder.", "t_embedder.", "fps_embedder.", "t_block.", "y_embedder.", "spatial_blocks.", "temporal_blocks.", "final_layer.")
#: Where the program looks for what nobody named: repository -> folder of :func:`write`.
HUB = {
    "JavisDiT/JavisDiT-v0.1-jav": "jav",
    "JavisDiT/JavisDiT-v0.1-audio": "audio",
    "JavisDiT/JavisDiT-v0.1-prior": "prior",
    "hpcai-tech/OpenSora-STDiT-v3": "stdit",
    "hpcai-tech/OpenSora-VAE-v1.2": "vae",
    "cvssp/audioldm2": "audioldm2",
    "DeepFloyd/t5-v1_1-xxl": "t5",
}


def network(seed: int, joint: bool) -> VastDit:
    """All of it away from the zeros that networks begin with, so that every part counts."""
    torch.manual_seed(seed)
    net = VastDit(Size(**NET, joint=joint, legacy_final=True, legacy_cross_batch_prior=True))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.05)
    return net


def write(folder: pathlib.Path) -> pathlib.Path:
    """`jav`, `audio`, `prior`, `stdit`, `vae`, `audioldm2`, `t5`, `imagebind.safetensors`, and `bare.safetensors`, the prior without its text tower."""
    folder.mkdir(parents=True, exist_ok=True)
    source = network(3, True)
    torch.manual_seed(4)
    prior = priors.TrainedPrior(PRIOR)
    towers = small_imagebind.released(small_imagebind.towers())
    text = {f"{priors.TEXT}{name}": tensor.clone() for name, tensor in towers.items() if ".text." in name}
    pictures = video_vae.Vae({"block_out_channels": [32] * 4, "layers_per_block": 1, "scaling_factor": video_vae.PICTURE_SCALE})
    vae = video_vae.VideoVae(pictures, video_vae.Temporal(video_vae.Size(width=32, times=(1, 1, 2, 2), blocks=1)))
    for name, kind, tensors in (
        ("jav", "VASTDiT3", checkpoint.released(network(1, True))),
        ("audio", "VASTDiT3", checkpoint.released(network(2, False))),
        ("prior", "STIBPrior", {**prior.state_dict(), **text}),
        ("stdit", "STDiT3", {checkpoint.FREQS: checkpoint.released(source)[checkpoint.FREQS], **{n: t for n, t in source.state_dict().items() if n.startswith(STREAM)}}),
        ("vae", "VideoAutoencoderPipeline", released_vae(vae)),
    ):
        (folder / name).mkdir()
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"architectures": [kind], "model_type": kind}))
    save_file(prior.state_dict(), folder / "bare.safetensors")
    save_file({name: tensor.contiguous().clone() for name, tensor in towers.items()}, folder / "imagebind.safetensors")
    sound_folder(folder / "audioldm2")
    vocoder = folder / "audioldm2" / "vocoder" / "model.safetensors"
    louder = {name: tensor * 20 if tensor.dim() > 1 else tensor for name, tensor in load_file(vocoder).items()}  # first values are as good as silence
    save_file(louder, vocoder, {"format": "pt"})
    _t5(folder / "t5")
    return folder


def _t5(folder: pathlib.Path) -> None:
    """The tokenizer of SentencePiece alone, the weights a pickle."""
    import sentencepiece

    t5_folder(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    lines = folder / "lines"
    lines.write_text("a dog barks loudly at the cat\nrain falls on the roof\nthe sea is wild and blue\n" * 30)
    options = {"vocab_size": 40, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(lines), model_prefix=str(folder / "spiece"), **options)
    lines.unlink()
    t5_network(folder, 140)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """As a hub has them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
