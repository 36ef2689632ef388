"""ImageBind's towers, AVSyncD's sound tokens and the similarities against the original's numbers (collected by test_asva)."""

import json
import math

import torch
from common import Case, Seen
from safetensors.torch import save_file

from avtools.models.parts import imagebind
from avtools.models.parts.imagebind import checkpoint
from avtools.models.parts.imagebind.metrics import clip_mean
from avtools.models.parts.imagebind.model import PICTURE, TOWERS, Scale, Unit


def towers(case: Case, folder):
    config = case.config
    sizes = {modality: imagebind.Size(**config[modality], out_dim=config["out_dim"]) for modality in TOWERS}
    weights = case.weights()
    context = len(case.inputs["text_tokens"][0])
    weights["modality_preprocessors.text.mask"] = torch.full((context, context), -math.inf).triu(1)  # the release has it
    torch.save(weights, folder / "imagebind_huge.pth")
    model = imagebind.load(folder, sizes=sizes)
    image = next(tensor for name, tensor in case.inputs.items() if name.startswith("image"))
    factor = PICTURE // image.shape[-1]
    image = image.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    inputs = {"vision": image, "audio": case.inputs["mel"], "text": case.inputs["text_tokens"]}
    with torch.no_grad():
        for modality, x in inputs.items():
            tower = getattr(model, modality)
            with Seen(dict(enumerate(tower.trunk.blocks))) as blocks:
                embedding = tower(x)
            case.check(f"{modality}_embedding", embedding)
            for k, tokens in blocks.items():
                case.check(f"{modality}.blocks.{k}.slice", tokens[:, :: 4 if modality == "text" else 8])
        for name, modality in (("ia", "audio"), ("it", "text")):
            case.check(f"{name}_similarity", imagebind.cosines(model.vision(image), getattr(model, modality)(inputs[modality])))
        case.check("audio_clip_average", model.audio(inputs["audio"][None]))
        film = image[:, None, :, None].expand(-1, -1, -1, 2, -1, -1)  # a film of two equal pictures is the still
        assert torch.allclose(model.vision(film), model.vision(image), atol=1e-5)
    if "texts" in case.facts:
        assert torch.equal(imagebind.tokenize(case.facts["texts"]), inputs["text"])


def segmask_audio(case: Case, folder):
    config = case.config
    size = imagebind.Size(**config["audio"], out_dim=config["out_dim"])
    (folder / "audio_encoder").mkdir()
    save_file(case.weights(), folder / "audio_encoder" / "diffusion_pytorch_model.safetensors")
    tower = imagebind.load_segment(folder / "audio_encoder", size)
    mel = torch.cat([case.inputs["mel"], torch.zeros_like(case.inputs["mel"][:1])])
    with torch.no_grad():
        with Seen(dict(enumerate(tower.trunk.blocks))) as blocks:
            case.check("encodings", tower(mel))
        for k, tokens in blocks.items():
            case.check(f"trunk.blocks.{k}.slice", tokens[:, ::8])
        case.check("trunk_tokens.slice", tower.tokens(mel)[:, ::8])
        case.check("cls_embedding", tower.embed(mel))
        case.check("cls_embedding_normalized", tower.postprocessor(tower.embed(mel)))
    case.check("segment_mask", imagebind.segment_mask(config["n_segment"]).long())


def clip_similarity(case: Case, _):
    image, found = case.inputs["image"], {}
    for name, other in (("ia", "audio"), ("it", "text")):
        scale = Scale()
        scale.log_logit_scale.data = torch.tensor(math.log(case.config[f"{other}_logit_scale"]))
        found[name] = imagebind.cosines(Unit()(image), scale(Unit()(case.inputs[other]))[:, None])
        case.check(name, found[name])
        case.check(f"{name}_per_clip", torch.tensor([clip_mean(one, skip=1) for one in found[name].numpy()]))


KINDS = {"imagebind_towers": towers, "imagebind_segmask_audio": segmask_audio, "eval_clip_similarity": clip_similarity}


def key_list_towers(file):
    """The names and shapes of the whole release load strictly into the full-size towers; returns how many."""
    whole = _meta(file)
    with torch.device("meta"):
        model = imagebind.ImageBind()
    for modality in TOWERS:
        tensors = checkpoint._of(whole, modality, file)
        checkpoint.hub.load_strict(getattr(model, modality), tensors, file, ignore=(checkpoint.MASK,))
    own = {checkpoint.released(name, modality) for modality in TOWERS for name in getattr(model, modality).state_dict()}
    assert own == set(whole) - {"modality_preprocessors.text.mask"}
    return len(own)


def key_list_segment(file):
    with torch.device("meta"):
        tower = imagebind.SegmentAudio(imagebind.HUGE["audio"])
    checkpoint.hub.load_strict(tower, _meta(file), file)
    return len(tower.state_dict())


KEY_LISTS = {"imagebind_towers": key_list_towers, "imagebind_segmask_audio": key_list_segment}


def _meta(file) -> dict:
    return {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}
