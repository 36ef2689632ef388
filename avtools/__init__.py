"""avtools: one command-line toolchain for people who build audio-visual generative models."""

import os

__version__ = "0.1.0"

# In a checkout, `commands/` and `models/` stand beside this folder and setup.cfg installs them inside
# this package.  Started from the checkout's root, this folder shadows an installed avtools, and no
# importer would then look beside it.
_beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "commands")) and os.path.isfile(
    os.path.join(_beside, "commands", "mkmeta", "__init__.py")
):
    __path__.append(_beside)
del _beside
