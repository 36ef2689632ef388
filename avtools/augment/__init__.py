"""Asynchrony augmentations: a clip with one thing changed in its picture or its sound, in space or in time.

:func:`.operations.augment` does one to a :class:`.operations.Clip` and tells what it drew; :func:`.negatives.negatives` draws those
of a training step; :mod:`.pool` reads what is drawn from; :mod:`.video` and :mod:`.audio` are the bare functions over
arrays; :mod:`.clips` reads and writes files.
"""
