"""Captions of published data sets: where their metadata lie, how a clip is found in them, what its caption is.

Nothing heavy is imported here; readers load YAML, and cleaning its libraries, where they are asked for.
"""

from avtools.datasets.catalogue import CATALOGUE, Companion, DataSet, File
from avtools.datasets.joining import MEDIA, Choice, Index, Joiner, Source, locate, named

__all__ = ["CATALOGUE", "MEDIA", "Choice", "Companion", "DataSet", "File", "Index", "Joiner", "Source", "locate", "named"]
