"""ImageBind of a few thousand parameters: its sizes, its weights as released, and the program that knows its metrics."""

from avtools.models.parts.imagebind import model

SIZES = {"vision": model.Size(32, 2, 4, 16), "audio": model.Size(24, 2, 3, 16), "text": model.Size(16, 2, 2, 16)}


def towers(seed=0):
    """The towers with random weights, large enough to tell inputs apart."""
    import torch

    torch.manual_seed(seed)
    made = model.ImageBind(SIZES).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
        elif parameter.dim() and not name.endswith("bias"):
            parameter.data.uniform_(0.5, 1.5)
    return made


def released(made) -> dict:
    """Their tensors under the names of imagebind_huge.pth, with those of it that nobody asks for."""
    import torch

    from avtools.models.parts.imagebind.checkpoint import released

    names = {released(name, modality): tensor for modality in model.TOWERS for name, tensor in getattr(made, modality).state_dict().items()}
    others = {"modality_preprocessors.depth.cls_token": torch.zeros(1, 1, 8), "modality_trunks.imu.blocks.0.norm_1.bias": torch.zeros(8)}
    return {**names, **others, "modality_preprocessors.text.mask": torch.full((77, 77), float("-inf")).triu(1)}


def main():
    """The command line with these sizes and metrics."""
    from avtools.cli import main
    from avtools.models import registry

    model.HUGE.update(SIZES)
    registry.METRICS |= {"ia": "avtools.models.parts.imagebind.metrics:ImageAudio", "it": "avtools.models.parts.imagebind.metrics:ImageText"}
    main()
