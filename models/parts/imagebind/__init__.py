"""ImageBind: towers that embed pictures, sound and text jointly (weights CC-BY-NC-SA-4.0: non-commercial).

Names are looked up when first used, so that metrics can be listed without torch.
"""

import importlib

_NAMES = {
    "model": ("HUGE", "TOKENS", "Audio", "ImageBind", "SegmentAudio", "Size", "Text", "Vision", "cosines", "segment_mask", "segment_tokens"),
    "checkpoint": ("PART", "digest", "load", "load_segment", "locate"),
    "text": ("tokenize",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
