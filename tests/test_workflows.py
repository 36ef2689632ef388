"""Job scripts, with stand-ins for the cluster's own programs."""

import os
import signal
import subprocess
import time

import pytest

from conftest import ROOT


@pytest.fixture
def cluster(tmp_path):
    """A folder with `srun` that runs its command, `scontrol` that notes its arguments, and `avtools` as the test writes it."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def program(name, text):
        (programs / name).write_text("#!/bin/bash\n" + text)
        (programs / name).chmod(0o755)

    program("srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    program("scontrol", f'echo "$@" >> {tmp_path}/scontrol\n')
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    return tmp_path, program, env


def script(env, folder, *arguments):
    return subprocess.Popen(["bash", ROOT / "workflows/slurm/train.sbatch", *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_that_asks_for_it_is_requeued_and_a_finished_one_is_not(cluster):
    folder, program, env = cluster
    program("avtools", 'mkdir -p runs/a; [ -e again ] && rm -f runs/a/requeue || touch runs/a/requeue\necho "$@" > arguments\n')
    process = script(env, folder, "vta-ldm", "t.csv", "-d", "runs/a", "--preset", "tiny")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert (folder / "arguments").read_text() == "train vta-ldm t.csv -d runs/a --preset tiny\n"
    assert (folder / "scontrol").read_text() == "requeue 17\n"
    (folder / "again").touch()
    process = script(env, folder, "vta-ldm", "-d", "runs/a")
    process.communicate(timeout=20)
    assert process.returncode == 0 and (folder / "scontrol").read_text() == "requeue 17\n"


def test_a_failure_is_the_jobs_own_and_not_requeued(cluster):
    folder, program, env = cluster
    program("avtools", "mkdir -p runs/a; touch runs/a/requeue; exit 3\n")
    process = script(env, folder, "vta-ldm", "t.csv", "-d", "runs/a")
    process.communicate(timeout=20)
    assert process.returncode == 3 and not (folder / "scontrol").exists()
    process = script(env, folder, "vta-ldm", "t.csv")
    assert "give -d RUN" in process.communicate(timeout=20)[1] and process.returncode == 2


def test_preemption_waits_for_the_ranks_checkpoint(cluster):
    folder, program, env = cluster
    program("avtools", "trap 'sleep 1; touch runs/a/requeue; exit 0' USR2\nmkdir -p runs/a; touch started\nwhile :; do sleep 0.1; done\n")
    process = script(env, folder, "vta-ldm", "t.csv", "-d", "runs/a")
    deadline = time.monotonic() + 20
    while not (folder / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to the script; the ranks get theirs from SLURM
    rank = next(pid for pid in os.listdir("/proc") if pid.isdigit() and _runs(pid, str(folder / "bin" / "avtools")))
    os.kill(int(rank), signal.SIGUSR2)
    process.communicate(timeout=20)
    assert process.returncode == 0 and (folder / "scontrol").read_text() == "requeue 17\n"


def _runs(pid, program):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return program.encode() in file.read().split(b"\0")
    except OSError:
        return False


def test_the_vta_ldm_workflow_plans_every_stage():
    for goal, stages in {"score": ("scan", "train", "sample", "score"), "train": ("scan", "train")}.items():
        done = subprocess.run(["make", "-n", "-f", "workflows/vta-ldm.mk", goal, "OUT=/nowhere", "PRESET=tiny", "NPROC=2", "CACHE=1"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for stage in stages:
            assert f" {stage} " in done.stdout
        assert "torchrun --nproc-per-node 2 -m avtools train vta-ldm /nowhere/features.csv" in done.stdout
    done = subprocess.run(["make", "-n", "-f", "workflows/vta-ldm.mk", "score", "OUT=/nowhere", "WEIGHTS=w"], cwd=ROOT, capture_output=True, text=True)
    assert '--weights "w"' in done.stdout and " train " not in done.stdout.replace("split/train", "")


def test_the_avsync_workflow_plans_every_stage():
    def plan(*variables):
        done = subprocess.run(["make", "-n", "-f", "workflows/avsync.mk", "OUT=/nowhere", *variables], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = plan("SYNTH=24", "PRESET=tiny", "JUDGE_PRESET=tiny", "NPROC=2")
    for stage in ("avtools synth -n 24", "torchrun --nproc-per-node 2 -m avtools train avsyncd", "train avsync ", "--samples-per-row 3", "score avsync,relsync", "score sync-accuracy"):
        assert stage in small
    released = plan("DATA=AVSync15", "JUDGE_DATA=VGGSS", "WEIGHTS=w", "JUDGE=j", "METRICS=fvd,fid")
    assert 'import avsyncd "AVSync15"' in released and 'import avsyncd "VGGSS"' in released and " train avsync" not in released
    assert '--weights "w"' in released and '--weights "avsync=j"' in released and "score fvd,fid" in released


def test_the_vatt_workflow_plans_every_stage():
    def plan(*variables):
        done = subprocess.run(["make", "-n", "-f", "workflows/vatt.mk", "OUT=/nowhere", *variables], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = plan("SYNTH=24", "PRESET=tiny", "NPROC=2")
    stages = ("avtools synth -n 24", "features vatt", "--preset tiny --set stage=proj", "--preset tiny --set stage=lora", '--init "/nowhere/proj"', "--preset tiny --set stage=2")
    for stage in (*stages, '--init "/nowhere/stage1"', "torchrun --nproc-per-node 2 -m avtools sample vatt", '--weights "converter=/nowhere/lora"', "score onset-f1,av-align"):
        assert stage in small
    whole = plan("CLIPS=c", "CAPTIONS=t.csv", "LANGUAGE=vicuna", "EVA=e", "CODEC=k", "POOL=p.txt")
    for stage in ("--preset llama-lora", "--preset llama-stage2", '--weights "language=vicuna" --prompt-pool "p.txt"', '--weights "eva02=e" --weights "codec=k"', "--take audio_text"):
        assert stage in whole
    released = plan("CLIPS=c", "WEIGHTS=w.ckpt", "LANGUAGE=vicuna", "PROMPT=self")
    assert '--weights "w.ckpt"' in released and " train " not in released.replace("split/train", "") and "converter=" not in released and "sampling.prompt=self" in released
