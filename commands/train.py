"""avtools train"""

import click

from avtools.cli import HELP, INPUT, INPUT_OPTIONS, TABLES, Files, MaxBad
from avtools.models.registry import systems_beginning


WAIT_S = 10  # for the first byte of a table through a pipe that a job may hold open without ever writing


@click.command(context_settings=HELP)
@click.argument("system", metavar="SYSTEM", shell_complete=systems_beginning)
@click.option("-d", "--outdir", "run", metavar="RUN", type=Files(), required=True, help="Folder of the run; started again with the same RUN it resumes.")
@click.option("--preset", metavar="NAME", help="Begin with the settings of this preset ('avtools systems' lists them; default: those of RUN, else the system's); tiny trains on a CPU in minutes.")
@click.option("--config", "file", metavar="FILE", type=Files("json"), help="Then take the settings of this JSON file (such as RUN/config.json).")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Then this setting; the value is JSON or text (lr=1e-4, unet.layers_per_block=1).")
@click.option("--prompt-pool", metavar="FILE", type=Files("txt"), help="Instructions to ask the system's language model with, one a line (default: the system's).")
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="Frozen parts: a file, a folder, or hf:OWNER/NAME[@REVISION].")
@click.option("--init", metavar="[PART=]SOURCE", multiple=True, help="Start the trained part from these weights.")
@click.option("--valid", metavar="TABLE", type=Files(*TABLES), help="Rows to validate on.")
@click.option("--eval-every", type=click.IntRange(1), metavar="N", help="Steps between validations.")
@click.option("--checkpoint-every", type=click.IntRange(1), metavar="N", help="Steps between checkpoints.")
@click.option("--milestones", metavar="N,N", help="Steps whose checkpoints are kept for good.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="How many of the newest checkpoints are kept.")
@click.option("--save-best", metavar="METRIC", help="Keep the checkpoint that is best by this validation value (default: valid_loss).")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Automatic mixed precision.")
@click.option("--max-steps", type=click.IntRange(1), metavar="N", help="Updates in all.")
@click.option("--seed", type=int, metavar="N", help="Another seed, other draws.")
@click.option("--log-to", metavar="NAME,NAME", help="Also log to tensorboard (RUN/tensorboard) or wandb.")
@click.option("--max-bad", type=MaxBad(), help="Stop when more rows than this cannot be read (default: 1%, at least 10).")
@click.option("--allow-changes", is_flag=True, help="Resume though the configuration or the table is another.")
@click.option("--rehearse", is_flag=True, help="Try the longest items, a save, a load and a sample; say what they take; train nothing.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Worker processes of each rank that read items (default: its share of the CPUs).")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Longest time for one item.")
@click.option("--key", metavar="COLUMN", help="The row's key (default: relpath, else id, else the file's name).")
@click.pass_context
def command(ctx, system, inputs, run, preset, file, sets, weights, init, valid, log_to, from_format, milestones, **given):
    """Train a system on a table: alone, or on all ranks of torchrun or srun.

    Each line of standard output is a JSON object: loss, learning rate, samples per second, the share of the
    time spent waiting for data, memory.  RUN holds the configuration, a snapshot of the table, checkpoints,
    the log, and bad.jsonl, the rows that could not be read (others take their places).

    Started again with the same RUN (table, --preset and --config may be left out) it resumes exactly: on a CPU
    bit for bit.  A changed configuration or table is refused with what differs, unless --allow-changes.  SIGTERM or SIGUSR2:
    a checkpoint at the end of the step, RUN/requeue, status 0.

    \b
        avtools train vta-ldm train.csv --preset tiny -d runs/tiny --valid valid.csv
        torchrun --nproc-per-node 8 -m avtools train vta-ldm train.csv -d runs/vta
        avtools train vta-ldm -d runs/vta                     # resumes
    """
    import os
    import select
    import stat
    import sys

    from avtools import cli
    from avtools.errors import UsageError

    cli.enter(ctx)
    known = os.path.exists(os.path.join(run, "table.jsonl"))
    has_table = bool(inputs) or sys.stdin is not None and not sys.stdin.isatty()
    if known and not inputs and has_table:  # a job's standard input is often there and empty; a table comes through a pipe or from a file
        mode = os.fstat(sys.stdin.fileno()).st_mode
        ready = (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)) and select.select([sys.stdin], [], [], WAIT_S)[0]
        has_table = bool(ready) and sys.stdin.buffer.peek(1) != b""
    if not has_table and not known:
        click.echo(ctx.get_usage(), err=True)
        raise UsageError("no table: give a file, or pipe one in ('--help' explains)")
    from avtools import rows
    from avtools.engine.ranked import world
    from avtools.models import registry

    kind = registry.system(system)  # imports torch: after everything that is quick to refuse
    from avtools import hub
    from avtools.training import config, run as runs
    from avtools.training.logs import parse_trackers

    settings = list(sets)
    for name in ("eval_every", "checkpoint_every", "keep", "max_steps", "seed"):
        if given[name] is not None:
            settings.append(f"train.{name}={given[name]}")
    if given["precision"]:
        settings.append(f"train.precision={given['precision']}")
    if given["save_best"]:
        settings.append(f"train.save_best={given['save_best']}")
    settings += config.option("prompt-pool", kind, "prompt_pool", given["prompt_pool"], config.lines)
    if milestones:
        try:
            settings.append(f"train.milestones={sorted(int(part) for part in milestones.split(','))}")
        except ValueError:
            raise UsageError(f"--milestones {milestones}: write steps, such as 10000,50000") from None
    if preset is None and file is None:
        file = runs.config_file(run, kind.name)  # a run that goes on is as it was
    resolved = config.resolve(kind.Config, kind.presets, preset, file, settings)
    leads = world().rank == 0
    request = runs.Request(
        run=run,
        weights=hub.Weights.parse(weights),
        init=hub.Weights.parse(init, "--init"),
        source=rows.open_rows(inputs, from_format) if has_table and leads else None,
        valid=rows.open_rows([valid]) if valid and leads else None,
        trackers=parse_trackers(log_to),
        **{name: given[name] for name in ("key", "allow_changes", "max_bad", "jobs", "timeout", "rehearse")},
    )
    return runs.train(kind(resolved), request)


command.params.insert(1, INPUT)
command.params.extend(INPUT_OPTIONS)
