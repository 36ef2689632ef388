"""One folder per system; `registry` maps names to lazily imported systems and metrics."""

if __name__ != "avtools.models":
    raise ImportError("import avtools.models: this folder is installed inside the package avtools")
