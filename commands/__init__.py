"""One short file per command: options, help, the function over a row."""

if __name__ != "avtools.commands":  # a second copy of every command would live beside the first
    raise ImportError("import avtools.commands: this folder is installed inside the package avtools")
