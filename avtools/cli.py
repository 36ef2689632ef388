"""The click group, and the options that commands share.

Nothing here may import more than click: completion and `--help` go through this file.
"""

import dataclasses
import difflib
import importlib
import os
import sys

import click

from avtools import __version__
from avtools.errors import AvtoolsError, FatalError, UsageError

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """A group whose commands are the modules of a package, imported when asked for."""

    def __init__(self, *args, package: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.package = package

    def list_commands(self, ctx):
        names = set()
        for folder in importlib.import_module(self.package).__path__:
            for entry in os.scandir(folder):
                stem, suffix = os.path.splitext(entry.name)
                is_package = not suffix and os.path.isfile(os.path.join(entry.path, "__init__.py"))
                if (suffix == ".py" or is_package) and not stem.startswith("_"):
                    names.add(stem.replace("_", "-"))
        return sorted(names)

    def get_command(self, ctx, name):
        if name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"{self.package}.{name.replace('-', '_')}").command

    def resolve_command(self, ctx, args):
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"no command '{name}'{hint} ('{ctx.command_path} --help' lists them)")
        return super().resolve_command(ctx, args)


@click.group("avtools", cls=Commands, package="avtools.commands", context_settings=HELP)
@click.version_option(__version__, "--version", message="avtools %(version)s")
def group():
    """Prepare data for audio-visual generative models, train them, sample from them, score them.

    Commands read tables (CSV, TSV, JSONL, Parquet) or media files, and write tables and media, so
    that pipes, Makefiles and job scripts chain them:

    \b
        avtools mkmeta scan video clips/ | avtools probe --fmin 10 \\
          | avtools uni-fps --fps 24 -d fps24 > table.csv

    Exit status: 0 all rows done; 1 some rows bad (their good neighbours were written); 2 wrong usage
    or unreadable table; 3 nothing further is possible (disk full, output not writable).
    """


def main(args: list[str] | None = None) -> None:
    """Run the program and exit with the documented status."""
    from avtools.stopping import Stopped, die_by, open_missing_streams, silence_output

    # OpenMP's threads spin while they wait for each other: on a machine that also does other work, our own workers'
    # for instance, that made training 8 times slower; a short spin costs nothing where it is quiet
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    open_missing_streams()
    if instruction := os.environ.get("_AVTOOLS_COMPLETE"):  # a shell asks what could stand at its cursor
        from avtools.shell import answer

        sys.exit(answer(group, instruction))
    try:
        with group.make_context("avtools", sys.argv[1:] if args is None else list(args)) as ctx:
            status = _status(lambda: group.invoke(ctx))
    except (click.exceptions.Exit, click.ClickException) as error:  # --help, and wrong usage of the group itself
        status = _click_status(error)
    except BrokenPipeError:
        die_by("SIGPIPE")
    except (KeyboardInterrupt, click.Abort):
        die_by("SIGINT")
    except Stopped as stopped:
        die_by(stopped.signal)
    except OSError as error:
        status = _unwritten(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        die_by("SIGPIPE")
    except OSError as error:
        status = status if status == 3 else _unwritten(error)
        silence_output()
    sys.exit(status)


def _unwritten(error: OSError) -> int:
    _say(f"standard output: {error.strerror}")
    return 3


def _status(work) -> int:
    """The exit status of `work()`; what it raises is said in one line."""
    try:
        return work() or 0
    except AvtoolsError as error:
        _say(str(error))
        return 2 if isinstance(error, UsageError) else 3 if isinstance(error, FatalError) else 1
    except (BrokenPipeError, click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except Exception as error:
        if os.environ.get("AVTOOLS_DEBUG"):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        _say(f"unexpected {type(error).__name__}: {reason}; AVTOOLS_DEBUG=1 shows where, please report it")
        return 3


def _click_status(error: click.exceptions.Exit | click.ClickException) -> int:
    if isinstance(error, click.ClickException):
        error.show()
    return error.exit_code


def _say(line: str) -> None:
    from avtools.rows.formats import shown

    click.echo(f"{command_path()}: {shown(line)}", err=True)


def command_path() -> str:
    """The command as typed (`avtools mkmeta scan`), for messages."""
    return _path[-1] if _path else "avtools"


_path: list[str] = []


def enter(ctx: click.Context) -> None:
    """Begin a command: messages name it from here on."""
    _path.append(ctx.command_path)


class Files(click.ParamType):
    """A file or folder; completion offers folders, and files with the given suffixes."""

    name = "file"

    def __init__(self, *suffixes: str):
        self.suffixes = suffixes

    def shell_complete(self, ctx, param, incomplete):
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="files", suffixes=self.suffixes)]  # avtools.shell looks for them


TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet")
VIDEOS = ("mp4", "avi", "mov", "mkv", "webm", "m2ts", "m4v")
SOUNDS = ("wav", "mp3", "flac", "aac", "m4a", "ogg", "opus")


class FractionType(click.ParamType):
    """A non-negative number, kept exactly: `23.976`, `30000/1001`, `1.1`."""

    name = "number"

    def __init__(self, positive: bool = False):
        self.positive = positive

    def convert(self, value, param, ctx):
        from fractions import Fraction

        if isinstance(value, Fraction):
            return value
        if len(value.lower().partition("e")[2].lstrip("+-0")) > 3:
            self.fail(f"'{value}' is out of bounds", param, ctx)  # Fraction would write out all its digits
        try:
            number = Fraction(value)
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{value}' is not a number (write 24, 23.976 or 30000/1001)", param, ctx)
        if number < 0 or (self.positive and number == 0):
            self.fail(f"'{value}' is not {'above zero' if self.positive else 'zero or more'}", param, ctx)
        return number


def _is_count(text: str) -> bool:
    """Whether `text` is a whole number above zero."""
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


class Size(click.ParamType):
    """Pixels as WIDTHxHEIGHT."""

    name = "WxH"

    def get_metavar(self, param, ctx):
        return self.name  # click would make capitals of it

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        width, _, height = value.lower().partition("x")
        if not (_is_count(width) and _is_count(height)):
            self.fail(f"'{value}' is not a size such as 512x512", param, ctx)
        return int(width), int(height)


class Shard(click.ParamType):
    """I/N: the I-th of N slices, from 1."""

    name = "I/N"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (_is_count(index) and _is_count(count) and int(index) <= int(count)):
            self.fail(f"'{value}' is not a shard such as 1/8 (1 to 8 of 8)", param, ctx)
        return int(index), int(count)


class MaxBad(click.ParamType):
    """A count, or a share of the rows as a percentage."""

    name = "N|P%"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        number = value.removesuffix("%")
        try:
            if value.endswith("%") and 0 <= float(number) <= 100:
                return "share", float(number) / 100
            if number == value and int(number) >= 0:
                return "count", int(number)
        except ValueError:
            pass
        self.fail(f"'{value}' is neither a count (10) nor a percentage (0.5%)", param, ctx)


@dataclasses.dataclass
class Shared:
    """The shared options of one call (their meanings: the click options below)."""

    inputs: tuple[str, ...] = ()
    from_format: str | None = None
    to_format: str | None = None
    output: str | None = None
    jobs: int | None = None
    shard: tuple[int, int] | None = None
    engine: str = "local"
    on_error: str = "fail"
    max_bad: tuple[str, float] = ("count", float("inf"))
    errors: str | None = None
    key: str | None = None
    timeout: float | None = None
    quiet: bool = False
    verbose: bool = False
    outdir: str | None = None
    in_place: bool = False
    copy: bool = True
    absolute: bool = False
    overwrite: bool = False
    why: bool = False
    fsync: bool = True


INPUT = click.Argument(["inputs"], metavar="[INPUT]...", nargs=-1, type=Files(*TABLES, *VIDEOS, *SOUNDS))


def option(*names, **settings) -> click.Option:
    return click.Option(list(names), **settings)


OUTPUT_OPTIONS = [
    option("-o", "--output", metavar="FILE", type=Files(*TABLES), help="Write the table to FILE, which appears only when it is whole (default: standard output)."),
    option("--to", "to_format", type=click.Choice(["csv", "tsv", "jsonl", "parquet"]), help="Format of the output (default: FILE's suffix, else the input's)."),
    option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    option("-v", "--verbose", is_flag=True, help="Say what is done: workers, columns, what became of each file."),
]
INPUT_OPTIONS = [
    option("--from", "from_format", type=click.Choice(["csv", "tsv", "jsonl"]), help="Format of tables whose name does not tell (default: by their first byte)."),
]
ROW_OPTIONS = [
    option("--key", metavar="COLUMN", help="The row's key (default: relpath, else id, else the file's name)."),
    option("--on-error", type=click.Choice(["fail", "drop", "keep"]), default="fail", show_default=True, help="Bad rows: left out and status 1; left out and status 0; passed on with the reason in the column 'error'."),
    option("--max-bad", type=MaxBad(), help="With --on-error drop: status 1 beyond this many bad rows, or this share of the rows."),
    option("--errors", metavar="FILE", type=Files("jsonl"), help="Write bad rows with their reasons to FILE as JSONL."),
    option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Worker processes (default: the CPUs this process may use)."),
    option("--shard", type=Shard(), help="Do only the I-th of N contiguous slices of the rows; 'mkmeta merge' joins the results."),
    option("--engine", metavar="NAME", default="local", show_default=True, help="What runs the rows: local (under torchrun and srun, all ranks share them)."),
    option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Longest time for one row (default: generous, grows with the file)."),
]
FILE_OPTIONS = [
    option("-d", "--outdir", metavar="DIR", type=Files(), help="Write media below DIR, each file at its relpath (else its name)."),
    option("--absolute", is_flag=True, help="Write absolute paths into the table."),
    option("--overwrite", is_flag=True, help="Make every file anew, whatever the journal says."),
    option("--why", is_flag=True, help="Say for each row why its file is reused or made."),
    option("--no-fsync", "fsync", is_flag=True, flag_value=False, default=True, help="Do not wait for the disk after each file (faster; a power cut may lose files)."),
]
SOURCE_OPTIONS = [
    option("--in-place", is_flag=True, help="Replace the sources, each only after its new file has been read back."),
    option("--no-copy", "copy", is_flag=True, flag_value=False, default=True, help="Leave rows whose file needs no change pointing at their source."),
]


def row_command(*, files: bool | str = False, in_place: bool = False, inputs: bool = True, instead: tuple[str, ...] = ()):
    """Make a click command out of a function that returns the work to do over the rows.

    The decorated function gets its own options and the keyword `shared` (:class:`Shared`) and returns an
    :class:`avtools.stream.Work`.  `files` adds the options of commands that write media (`"some"`: the command itself says
    whether it needs -d), `in_place` those of commands that may replace or keep their source; without `inputs` the command makes its rows itself
    (`Work.records`), as it does where one of its own options `instead` is given.
    """

    def decorate(function):
        own = list(reversed(getattr(function, "__click_params__", [])))  # click collects them from the last one up
        shared_options = FILE_OPTIONS * bool(files) + SOURCE_OPTIONS * in_place + INPUT_OPTIONS * inputs + ROW_OPTIONS + OUTPUT_OPTIONS
        names = {parameter.name for parameter in [INPUT, *shared_options]}

        @click.pass_context
        def callback(ctx, **values):
            enter(ctx)
            given = {name: value for name, value in values.items() if name in names and value is not None}
            shared = Shared(**given)
            by_hand = [name for name in instead if values[name] is not None]
            if by_hand and shared.inputs:
                raise click.UsageError(f"--{by_hand[0]} makes the row itself; give it or a table, not both")
            if inputs and not by_hand and not shared.inputs and sys.stdin is not None and sys.stdin.isatty():
                click.echo(ctx.get_usage(), err=True)
                raise UsageError("no table: give a file, or pipe one in ('--help' explains)")
            if files and shared.in_place and shared.outdir:
                raise click.UsageError("give -d DIR or --in-place, not both")
            from avtools.rows.formats import format_of

            if shared.errors and format_of(shared.errors) not in (None, "jsonl"):
                raise click.UsageError("--errors writes JSONL; give a name that ends in .jsonl")
            if shared.errors == "-":
                raise click.UsageError("--errors needs a file; standard output is for the table")
            if files is True and not shared.in_place and not shared.outdir:
                raise click.UsageError("where to? give -d DIR" + ", or --in-place to replace the sources" * in_place)
            work = function(shared=shared, **{name: value for name, value in values.items() if name not in names})
            from avtools.stream import run

            return run(work, shared)

        return click.Command(
            function.__name__,
            callback=callback,
            params=own + [INPUT] * inputs + shared_options,
            help=function.__doc__,
            context_settings=HELP,
        )

    return decorate
