"""The trainer, with a toy system of a few numbers: what it promises holds for every system."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, os.path.dirname(__file__))

import toy  # noqa: E402
from avtools import hub, rows  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.training import checkpoint, config, run  # noqa: E402
from avtools.training.table import Table  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ENV = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


def write_rows(path, count=30, **cells):
    """A table of `count` rows; `cells`: column -> {row number: value}."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(["id", "x", *cells])))
        writer.writeheader()
        for number in range(count):
            row = {"id": f"{number:03d}", "x": number / count}
            writer.writerow(row | {name: found.get(number, row.get(name, "")) for name, found in cells.items()})
    return path


def fit(folder, table, *sets, allow_changes=False, valid=None, max_bad=None, rehearse=False, timeout=None, trackers=()):
    """Train in this process; the lines of the log that this call wrote."""
    torch.set_num_threads(1)
    log = pathlib.Path(folder) / "log.jsonl"
    before = log.read_text().count("\n") if log.exists() else 0
    request = run.Request(
        str(folder), hub.Weights({}), hub.Weights({}), rows.open_rows([str(table)]) if table else None, rows.open_rows([str(valid)]) if valid else None,
        allow_changes=allow_changes, max_bad=max_bad, jobs=1, rehearse=rehearse, timeout=timeout, trackers=trackers,
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        assert run.train(toy.Toy(config.resolve(toy.Config, toy.Toy.presets, sets=sets)), request) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return [json.loads(line) for line in log.read_text().splitlines()[before:]]


def command(*arguments, ranks=1):
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(29500 + os.getpid() % 500)]
    return [*start, str(HERE / "run_toy.py"), "train", "toy", "-j", "1", *map(str, arguments)]


def program(*arguments, ranks=1, status=0):
    done = subprocess.run(command(*arguments, ranks=ranks), env=ENV, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert status is None or done.returncode == status, done.stderr[-3000:]
    return done


def state_of(folder, step):
    """Everything of a checkpoint that training goes on from."""
    tensors, optimizer, state = checkpoint.load(str(folder), step)
    flat = {f"{file}.{name}": tensor for file, found in tensors.items() for name, tensor in found.items()}
    for name, one in optimizer.items():
        for number, values in one["state"].items():
            flat |= {f"{name}.{number}.{key}": value for key, value in values.items()}
    return flat, state


def assert_same(one, other):
    """Bit for bit."""
    (flat, state), (flat2, state2) = one, other
    assert state == state2
    assert set(flat) == set(flat2)
    for name, tensor in flat.items():
        assert torch.equal(tensor, flat2[name]), name


# --- resuming -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of 12 steps in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    table = write_rows(folder / "rows.csv")
    program(table, "-d", folder / "run", "--set", "seconds=0.02")
    return folder, table, state_of(folder / "run", 12)


@pytest.mark.parametrize("kill_after", [0, 4, 8])
def test_a_killed_run_goes_on_bit_for_bit(undisturbed, tmp_path, kill_after):
    _, table, whole = undisturbed
    process = subprocess.Popen(command(table, "-d", tmp_path / "run", "--set", "seconds=0.02"), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        found = json.loads(line)
        if found["step"] > kill_after and "loss" in found:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.steps(str(tmp_path / "run")) in ([], [4], [8], [4, 8])
    program("-d", tmp_path / "run", "--set", "seconds=0.02")  # the table is RUN's own
    assert_same(state_of(tmp_path / "run", 12), whole)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_ends_the_run_with_a_checkpoint_and_a_requeue_file(undisturbed, tmp_path, name):
    _, table, whole = undisturbed
    process = subprocess.Popen(command(table, "-d", tmp_path / "run", "--set", "seconds=0.02"), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line)["step"] == 6:
            break
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "start again to go on" in errors
    told = json.loads((tmp_path / "run" / "requeue").read_text())
    assert told["signal"] == name and told["step"] in checkpoint.steps(str(tmp_path / "run")) and told["step"] % 4
    program("-d", tmp_path / "run", "--set", "seconds=0.02")
    assert not (tmp_path / "run" / "requeue").exists()
    assert_same(state_of(tmp_path / "run", 12), whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_to_the_whole_job_makes_no_row_bad(undisturbed, tmp_path, name):
    _, table, whole = undisturbed
    process = subprocess.Popen(command(table, "-d", tmp_path / "run", "--set", "seconds=0.02"), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if json.loads(line)["step"] == 6:
            break
    os.killpg(process.pid, getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not (tmp_path / "run" / "bad.jsonl").exists()
    program("-d", tmp_path / "run", "--set", "seconds=0.02")
    assert_same(state_of(tmp_path / "run", 12), whole)


def test_ctrl_c_dies_by_the_signal_and_the_checkpoints_stay(undisturbed, tmp_path):
    _, table, whole = undisturbed
    process = subprocess.Popen(command(table, "-d", tmp_path / "run", "--set", "seconds=0.05"), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line)["step"] == 5:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    program("-d", tmp_path / "run", "--set", "seconds=0.05", "--allow-changes")
    assert_same(state_of(tmp_path / "run", 12), whole)


def test_a_finished_run_does_nothing_more(undisturbed, tmp_path):
    folder, table, whole = undisturbed
    shutil.copytree(folder / "run", tmp_path / "run")
    done = program(table, "-d", tmp_path / "run", "--set", "seconds=0.02")
    assert "done already" in done.stderr
    assert_same(state_of(tmp_path / "run", 12), whole)


def test_a_changed_table_or_configuration_is_refused_with_what_differs(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    fit(tmp_path / "run", table)
    other = write_rows(tmp_path / "other.csv", x={7: 99})
    with pytest.raises(UsageError, match=r"table, row 8, x: .*99"):
        fit(tmp_path / "run", other)
    with pytest.raises(UsageError, match=r"30 rows -> 31 rows"):
        fit(tmp_path / "run", write_rows(tmp_path / "more.csv", 31))
    with pytest.raises(UsageError, match=r"config\.train\.lr: 0\.01 -> 0\.02"):
        fit(tmp_path / "run", table, "lr=0.02")
    fit(tmp_path / "run", table, "keep=5", "log_every=2")  # changes nothing that is computed
    lines = fit(tmp_path / "run", table, "lr=0.02", "max_steps=14", allow_changes=True)
    assert lines[-1]["step"] == 14
    groups = checkpoint.load(str(tmp_path / "run"), 14)[1]["main"]["param_groups"]
    assert groups[0]["full_lr"] == 0.02  # the new rate is what trains
    fit(tmp_path / "run", table, "lr=0.02", "max_steps=14")  # now it is this configuration's run


@pytest.mark.long
def test_a_piped_table_is_compared_too(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    for changed, status in [("", 0), ("", 0), ("0.9999", 2)]:
        text = table.read_text() + (f"030,{changed}\n" if changed else "")
        done = subprocess.run(command("-d", tmp_path / "run"), env=ENV, input=text, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stderr
    assert "30 rows -> 31 rows" in done.stderr


@pytest.mark.long
def test_a_run_is_resumed_by_its_name_alone(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    program(table, "-d", tmp_path / "run", "--preset", "small", "--set", "lr=0.02", "--max-steps", "4")
    program("-d", tmp_path / "run", "--max-steps", "6")  # a constant rate: no other run
    assert checkpoint.load(str(tmp_path / "run"), 6)[0]["model"]["into.bias"].shape == (4,)
    assert "lr: 0.02 -> 0.05" in program("-d", tmp_path / "run", "--set", "lr=0.05", status=2).stderr


def test_another_system_in_the_folder_is_refused(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"system": "other"}))
    with pytest.raises(UsageError, match="run of other"):
        fit(tmp_path / "run", table)


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    fit(tmp_path / "run", table)
    path = tmp_path / "run" / "checkpoints" / "step-00000012" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FatalError, match=r"step-00000012.*damaged.*step 8"):
        fit(tmp_path / "run", table, "max_steps=16")
    shutil.rmtree(path.parent)
    fit(tmp_path / "run", table)


# --- ranks ----------------------------------------------------------------------------------------------------


def test_two_ranks_are_one_rank_within_tolerance(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    valid = write_rows(tmp_path / "valid.csv", 7)
    common = ["--valid", valid, "--set", "dropout=0.0", "--set", "accumulate=2"]
    program(table, "-d", tmp_path / "one", *common, "--set", "batch_size=4")
    done = program(table, "-d", tmp_path / "two", *common, "--set", "batch_size=2", ranks=2)
    (flat, state), (flat2, state2) = state_of(tmp_path / "one", 12), state_of(tmp_path / "two", 12)
    assert state["samples"] == state2["samples"] == 96
    for name in flat:
        torch.testing.assert_close(flat[name], flat2[name], atol=2e-5, rtol=2e-3, msg=name)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        for name in ("loss", "valid_loss", "grad_norm"):
            if name in one:
                assert one[name] == pytest.approx(two[name], rel=1e-3)
    assert done.stdout.count('"done": true') == 1  # rank 0 alone speaks


@pytest.mark.long
def test_ranks_of_srun_meet_by_themselves(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    job = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    arguments = command(table, "-d", tmp_path / "srun", "--set", "dropout=0.0", "--set", "batch_size=2")
    ranks = [subprocess.Popen(arguments, env={**ENV, **job, "SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(2)]
    assert [(rank.communicate(timeout=120), rank.returncode)[1] for rank in ranks] == [0, 0]
    program(table, "-d", tmp_path / "one", "--set", "dropout=0.0")
    one, two = state_of(tmp_path / "one", 12)[0], state_of(tmp_path / "srun", 12)[0]
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=2e-3, msg=name)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    program(table, "-d", tmp_path / "two", "--set", "dropout=0.0", "--set", "batch_size=2", "--max-steps", "8", ranks=2)
    program(table, "-d", tmp_path / "two", "--set", "dropout=0.0", "--set", "batch_size=4", "--max-steps", "12", "--allow-changes")
    program(table, "-d", tmp_path / "one", "--set", "dropout=0.0", "--set", "batch_size=4")
    flat, flat2 = state_of(tmp_path / "two", 12)[0], state_of(tmp_path / "one", 12)[0]
    for name in flat:
        torch.testing.assert_close(flat[name], flat2[name], atol=2e-5, rtol=2e-3, msg=name)


@pytest.mark.long
def test_sharded_over_two_ranks_is_one_rank_within_tolerance(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    program(table, "-d", tmp_path / "one", "--set", "dropout=0.0")
    program(table, "-d", tmp_path / "two", "--set", "dropout=0.0", "--set", "batch_size=2", "--set", "fsdp=true", "--max-steps", "8", ranks=2)
    program(table, "-d", tmp_path / "two", "--set", "dropout=0.0", "--set", "batch_size=2", "--set", "fsdp=true", "--max-steps", "12", "--allow-changes", ranks=2)
    flat, flat2 = state_of(tmp_path / "two", 12)[0], state_of(tmp_path / "one", 12)[0]
    for name, tensor in flat2.items():
        if not name.startswith("main."):  # the optimizer names its parameters otherwise
            torch.testing.assert_close(flat[name], tensor, atol=2e-5, rtol=2e-3, msg=name)


def test_a_signal_to_one_rank_ends_both_at_the_same_step(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    arguments = command(table, "-d", tmp_path / "run", "--set", "seconds=0.1", "--max-steps", "500", ranks=2)
    process = subprocess.Popen(arguments, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line)["step"] == 3:
            break
    ranks = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_rank(pid, "1", str(tmp_path))]
    assert len(ranks) == 1
    os.kill(int(ranks[0]), signal.SIGUSR2)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads((tmp_path / "run" / "requeue").read_text())["step"] in checkpoint.steps(str(tmp_path / "run"))


def _is_rank(pid, rank, folder):
    try:
        environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"RANK={rank}".encode() in environ and b"train" in words and any(folder.encode() in word for word in words)


# --- hooks ------------------------------------------------------------------------------------------------------


def test_two_optimizers_train_their_own_parameters_alone(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    lines = fit(tmp_path / "run", table, "kind=two", "max_steps=4", "checkpoint_every=1", "keep=9")
    first, second = (state_of(tmp_path / "run", step)[0] for step in (1, 2))
    assert torch.equal(first["model.judge.weight"], second["model.judge.weight"])  # it rests in steps 1, 3, ...
    assert not torch.equal(first["model.into.weight"], second["model.into.weight"])
    third = state_of(tmp_path / "run", 3)[0]
    assert not torch.equal(second["model.judge.weight"], third["model.judge.weight"])
    losses = [line for line in lines if "net_loss" in line]
    assert len(losses) == 4 and sum("judge_loss" in line for line in losses) == 2
    program(table, "-d", tmp_path / "ranks", "--set", "kind=two", "--max-steps", "4", "--set", "batch_size=2", ranks=2)


def test_adapters_alone_are_saved_and_resumed(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    fit(tmp_path / "run", table, "kind=adapters", "max_steps=6")
    found = hub.tensors(str(tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors"))
    assert set(found) == {"adapter.weight"} and found["adapter.weight"].abs().sum() > 0
    fit(tmp_path / "half", table, "kind=adapters", "max_steps=3")
    fit(tmp_path / "half", None, "kind=adapters", "max_steps=6")  # a constant rate: more steps are no other run
    assert_same(state_of(tmp_path / "half", 6), state_of(tmp_path / "run", 6))


@pytest.mark.long
def test_buckets_lose_no_row_and_weigh_by_size(tmp_path):
    lengths = {number: 2 + number % 3 for number in range(30)}
    table = write_rows(tmp_path / "rows.csv", length=lengths)
    program(table, "-d", tmp_path / "one", "--set", "kind=buckets", "--set", "dropout=0.0", "--set", "accumulate=2", "--max-steps", "6")
    program(table, "-d", tmp_path / "two", "--set", "kind=buckets", "--set", "dropout=0.0", "--max-steps", "6", ranks=2)
    one, two = state_of(tmp_path / "one", 6)[0], state_of(tmp_path / "two", 6)[0]
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=2e-3, msg=name)
    fit(tmp_path / "half", table, "kind=buckets", "dropout=0.0", "accumulate=2", "max_steps=3")
    fit(tmp_path / "half", None, "kind=buckets", "dropout=0.0", "accumulate=2", "max_steps=6")
    for name, tensor in state_of(tmp_path / "half", 6)[0].items():
        assert torch.allclose(tensor, one[name], atol=1e-6), name


def test_accumulation_is_one_large_batch(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    fit(tmp_path / "one", table, "dropout=0.0", "batch_size=8")
    fit(tmp_path / "four", table, "dropout=0.0", "batch_size=2", "accumulate=4")
    one, four = state_of(tmp_path / "one", 12)[0], state_of(tmp_path / "four", 12)[0]
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=1e-5, rtol=1e-3, msg=name)


def test_every_row_comes_once_in_each_epoch_whatever_the_batch():
    from avtools.training.data import Shuffled

    order = Shuffled(7, seed=3)
    for epoch in range(3):
        found = [order[n] for n in range(7 * epoch, 7 * epoch + 7)]
        assert [e for e, _ in found] == [epoch] * 7 and sorted(row for _, row in found) == list(range(7))
    assert [order[n] for n in range(7)] != [order[n] for n in range(7, 14)]


def test_a_batch_may_be_larger_than_the_table(tmp_path):
    table = write_rows(tmp_path / "rows.csv", 3)
    lines = fit(tmp_path / "run", table, "batch_size=8", "max_steps=2")
    assert [line["epoch"] for line in lines if "loss" in line] == [round(8 / 3, 4), round(16 / 3, 4)]


def test_bf16_trains(tmp_path):
    lines = fit(tmp_path / "run", write_rows(tmp_path / "rows.csv"), "precision=bf16", "max_steps=3")
    assert all(line["loss"] == line["loss"] for line in lines if "loss" in line)


# --- validation, checkpoints, logs ----------------------------------------------------------------------------------


def test_best_newest_and_milestones_are_kept(tmp_path):
    table, valid = write_rows(tmp_path / "rows.csv"), write_rows(tmp_path / "valid.csv", 5)
    lines = fit(tmp_path / "run", table, "max_steps=20", "checkpoint_every=2", "eval_every=2", "keep=2", "milestones=[4]", "lr=0.05", valid=valid)
    best = checkpoint.best_of(str(tmp_path / "run"))
    measured = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    assert set(measured) == set(range(2, 21, 2))
    assert best == {"step": min(measured, key=measured.get), "metric": "valid_loss", "value": min(measured.values())}
    assert set(checkpoint.steps(str(tmp_path / "run"))) == {4, 18, 20, best["step"]}
    assert (tmp_path / "run" / "samples" / "step-00000002" / "000.wav").stat().st_size > 44  # of the first validation row
    assert hub.checkpoint_of(str(tmp_path / "run")).name == f"step-{best['step']:08d}"
    with pytest.raises(UsageError, match="valid_loss"):
        fit(tmp_path / "other", table, "save_best=nothing", valid=valid)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs to mount a small disk")
    try:
        table = write_rows(tmp_path / "rows.csv")
        done = program(table, "-d", disk / "run", "--set", "width=64", "--set", "keep=50", "--max-steps", "400", "--checkpoint-every", "1", status=3)
        assert "step" in done.stderr and "is whole" in done.stderr and "No space left" in done.stderr or "disk is full" in done.stderr
        steps = checkpoint.steps(str(disk / "run"))
        assert steps and not list((disk / "run" / "checkpoints").glob("*.tmp"))
        for step in steps:
            checkpoint.load(str(disk / "run"), step)
    finally:
        subprocess.run(["umount", disk])


def test_logs_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path / "run", write_rows(tmp_path / "rows.csv"), "max_steps=3", trackers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_the_learning_rate_warms_up_and_falls(tmp_path):
    lines = fit(tmp_path / "run", write_rows(tmp_path / "rows.csv"), "warmup_steps=4", "schedule=linear", "max_steps=12", "lr=0.01")
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.01 / 8)


def test_a_rehearsal_reports_and_leaves_nothing(tmp_path):
    table = write_rows(tmp_path / "rows.csv", duration={5: 9})
    (line,) = [line for line in fit(tmp_path / "run", table, "batch_size=1", rehearse=True) if line.get("rehearsal")]
    assert line["step_s"] > 0 and line["checkpoint_mb"] > 0 and line["memory_mb"] > 0 and line["hours"] >= 0
    assert line["longest_rows"] == [6]
    assert not list((tmp_path / "run").glob("*.tmp")) and not checkpoint.steps(str(tmp_path / "run"))


# --- bad items -----------------------------------------------------------------------------------------------------


def test_bad_items_are_replaced_alike_in_every_run_and_listed(tmp_path):
    table = write_rows(tmp_path / "rows.csv", bad={3: 1}, crash={11: 1})
    fit(tmp_path / "one", table)
    bad = [json.loads(line) for line in (tmp_path / "one" / "bad.jsonl").read_text().splitlines()]
    assert sorted(line["row"] for line in bad) == [3, 11]
    assert {line["row"]: line["error"] for line in bad}[3] == "003: is bad; mend it"
    assert "crashed its worker" in {line["row"]: line["error"] for line in bad}[11]
    fit(tmp_path / "two", table)
    assert_same(state_of(tmp_path / "one", 12), state_of(tmp_path / "two", 12))


def test_an_item_that_hangs_is_replaced(tmp_path):
    table = write_rows(tmp_path / "rows.csv", 8, hang={3: 1})
    fit(tmp_path / "run", table, "max_steps=2", timeout=1)
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "bad.jsonl").read_text().splitlines()]
    assert line["row"] == 3 and "longer than" in line["error"]


def test_too_many_bad_items_end_the_run(tmp_path):
    table = write_rows(tmp_path / "rows.csv", bad=dict.fromkeys(range(0, 30, 2), 1))
    with pytest.raises(FatalError, match="--max-bad"):
        fit(tmp_path / "run", table, max_bad=("count", 3))
    with pytest.raises(FatalError, match="--max-bad"):
        fit(tmp_path / "share", table, max_bad=("share", 0.2))
    with pytest.raises(FatalError, match="--max-bad"):
        fit(tmp_path / "share", None, max_bad=("share", 0.2))
    fit(tmp_path / "share", None, max_bad=("count", 30))  # what was bad before does not count against it
    with pytest.raises(FatalError, match="others in its place"):
        fit(tmp_path / "all", write_rows(tmp_path / "all.csv", 5, bad=dict.fromkeys(range(5), 1)))


def test_a_loss_that_is_no_number_is_named_skipped_and_at_last_the_end(tmp_path):
    table = write_rows(tmp_path / "rows.csv", 12, nan={5: 1})
    lines = fit(tmp_path / "run", table, "max_steps=6")
    skipped = [line for line in lines if "skipped" in line]
    assert len(skipped) == 2 and all("005" in line["keys"] and len(line["keys"]) == 4 for line in skipped)
    model = hub.tensors(str(tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in model.values())
    with pytest.raises(FatalError, match="3 steps in a row without a finite loss"):
        fit(tmp_path / "end", write_rows(tmp_path / "all.csv", 12, nan=dict.fromkeys(range(12), 1)), "max_nan=3")


def test_items_that_never_change_are_read_once(tmp_path):
    table = write_rows(tmp_path / "rows.csv", 8)
    fit(tmp_path / "plain", table, "noise=0.0", "max_steps=6")
    fit(tmp_path / "cached", table, "noise=0.0", "max_steps=6", "cache_gb=1.0")
    assert_same(state_of(tmp_path / "plain", 6), state_of(tmp_path / "cached", 6))


# --- configuration ----------------------------------------------------------------------------------------------------


def test_settings_come_in_order_and_wrong_ones_are_named(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"config": {"width": 5, "train": {"lr": 0.5}}}))
    found = config.resolve(toy.Config, toy.Toy.presets, "small", str(file), ["train.lr=0.25", "kind=two"])
    assert (found.width, found.train.lr, found.kind) == (5, 0.25, "two")
    assert toy.Toy.presets == {"small": {"width": 4}}
    for text, told in [("widht=3", "did you mean 'width'"), ("width=wide", "a whole number"), ("lr=fast", "a number"), ("width", "KEY=VALUE")]:
        with pytest.raises(UsageError, match=told):
            config.resolve(toy.Config, toy.Toy.presets, None, None, [text])
    with pytest.raises(UsageError, match="small"):
        config.resolve(toy.Config, toy.Toy.presets, "large")


@pytest.mark.long
def test_wrong_usage_is_said_before_anything_is_made(tmp_path):
    table = write_rows(tmp_path / "rows.csv")
    for arguments, told in [
        (["--set", "schedule=cosin"], "constant, linear, cosine or published"),
        (["--milestones", "a,b"], "--milestones"),
        (["--log-to", "papers"], "tensorboard"),
        (["--preset", "large"], "no preset"),
    ]:
        assert told in program(table, "-d", tmp_path / "run", *arguments, status=2).stderr
    assert "empty" in program("-d", tmp_path / "none", status=2).stderr
    (tmp_path / "empty.csv").write_text("id,x\n")
    assert "no rows" in program(tmp_path / "empty.csv", "-d", tmp_path / "run2", status=2).stderr


def test_the_table_is_random_access_without_memory(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "text": "é" * n}) + "\n" for n in range(50)))
    table = Table(str(path))
    assert len(table) == 50 and table[49]["id"] == "49" and table[7] == {"id": "7", "text": "é" * 7}


def test_the_share_of_waiting_tells_slow_items_from_quick_ones(tmp_path):
    slow = fit(tmp_path / "slow", write_rows(tmp_path / "rows.csv", 40), "seconds=0.05", "max_steps=20", "log_every=20")
    quick = fit(tmp_path / "quick", tmp_path / "rows.csv", "noise=0.0", "cache_gb=1.0", "max_steps=40", "log_every=20")
    waits = [[line["wait"] for line in lines if "wait" in line][-1] for lines in (slow, quick)]  # of quick: after its first epoch
    assert 0 <= waits[1] < waits[0] <= 1 and waits[0] > 0.5


def test_time_for_checkpoints_and_validation_is_not_time_of_training(tmp_path):
    from types import SimpleNamespace

    from avtools.training.loop import _Meter

    trainer = SimpleNamespace(state=SimpleNamespace(samples=0), loader=SimpleNamespace(waited=0.0))
    meter = _Meter(trainer)
    begun = meter.begun
    meter.add({})
    start = time.perf_counter()
    time.sleep(0.05)
    meter.rest()  # a checkpoint
    time.sleep(0.05)
    meter.rest()  # a validation
    assert 0.1 <= meter.begun - begun <= time.perf_counter() - start + 0.01  # each counted once
