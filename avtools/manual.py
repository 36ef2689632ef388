"""The man page, from the texts that --help shows: `python -m avtools.manual > completions/avtools.1`.

click-man writes a page for each command, finds none behind a lazy group, and does not escape roff.
"""

import collections
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator

import click

from avtools import __version__
from avtools.cli import group

SHARED = 3  # options that read the same in so many commands are described once
SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
FILES = {
    "DIR/.avtools": "What was made below an output directory, from which sources, by which operation and options.  A command"
    " that is run again reads it, and makes only what is missing or would differ.  Without it every file is made anew.",
    "*.tmp": "Files that are being written.  What a killed command left of them, the next one on the same directory removes.",
}


def page() -> str:
    """The whole page, as roff."""
    top, *contexts = walk(group, None, "avtools")
    counts = collections.Counter(record for context in contexts for record in options(context))
    title, *texts, status = blocks(group)
    examples = []
    out = [f'.TH AVTOOLS 1 "" "avtools {__version__}" "User Commands"', ".SH NAME", f"avtools \\- {escape(title[0].lower() + title[1:]).rstrip('.')}"]
    out += [".SH SYNOPSIS", *usage(top), ".SH DESCRIPTION", *prose(texts)]
    out += [".SH OPTIONS", *entries(options(top)), ".SH COMMANDS"]
    for context in contexts:
        texts = blocks(context.command)
        if isinstance(texts[-1], list) and "avtools " in " ".join(texts[-1]) and not str(texts[-2]).endswith(":"):
            examples.append(texts.pop())
        shared = [names.split()[0].rstrip(",") for names, text in options(context) if counts[names, text] >= SHARED]
        out += [f".SS {escape(context.command_path)}", *usage(context), *prose(texts)]
        out += entries(record for record in [*arguments(context), *options(context)] if counts[record] < SHARED)
        if not isinstance(context.command, click.Group):
            out += prose([f"Shared options: {', '.join(shared)}."])
    out += [".SH SHARED OPTIONS", *entries(record for record, count in counts.items() if count >= SHARED)]
    out += [".SH EXIT STATUS", *entries(text.split(" ", 1) for text in status.removeprefix("Exit status: ").rstrip(".").split("; "))]
    out += [".SH FILES", *entries(FILES.items()), ".SH EXAMPLES", *prose(examples)]
    return re.sub(r"^(\.SH .*)\n\.PP$", r"\1", "\n".join(out), flags=re.MULTILINE) + "\n"


def walk(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """A context for the command and for each one below it."""
    context = click.Context(command, parent, name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            yield from walk(command.get_command(context, child), context, child)


def options(context: click.Context) -> list[tuple[str, str]]:
    """Names and help of each option, as --help has them."""
    records = [option.get_help_record(context) for option in context.command.get_params(context) if isinstance(option, click.Option)]
    return [record for record in records if record]


def arguments(context: click.Context) -> list[tuple[str, str]]:
    """Name and help of each argument that has help (from click 8.5)."""
    found = [argument for argument in context.command.get_params(context) if isinstance(argument, click.Argument)]
    return [(argument.make_metavar(context), argument.help) for argument in found if getattr(argument, "help", None)]


def blocks(command: click.Command) -> list[str | list[str]]:
    """A help text as paragraphs (one line each) and literal blocks (lists of lines)."""
    parts = inspect.cleandoc(command.help).partition("\f")[0].split("\n\n")
    return [part.split("\n")[1:] if part.startswith("\b\n") else " ".join(part.split()) for part in parts]


def escape(text: str) -> str:
    """Text that roff shows as it is."""
    text = "".join(SPECIAL.get(char, char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)
    return "\\&" + text if text.startswith(".") else text


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fP"


def usage(context: click.Context) -> list[str]:
    return [f"{bold(context.command_path)} {escape(' '.join(context.command.collect_usage_pieces(context)))}"]


def wrapped(text: str) -> list[str]:
    return [escape(line) for line in textwrap.wrap(text, 76, break_long_words=False, break_on_hyphens=False)]


def prose(texts: list[str | list[str]]) -> list[str]:
    return [line for text in texts for line in (literal(text) if isinstance(text, list) else [".PP", *wrapped(text)])]


def literal(lines: list[str]) -> list[str]:
    return [".PP", ".nf", ".RS 4", *map(escape, textwrap.dedent("\n".join(lines)).split("\n")), ".RE", ".fi"]


def entries(records) -> list[str]:
    return [line for name, text in records for line in (".TP", bold(name), *wrapped(text))]


if __name__ == "__main__":
    sys.stdout.write(page())
