"""Job scripts, with stand-ins for the cluster's own programs, and workflows."""

import csv
import json
import os
import signal
import subprocess
import sys
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


def test_the_javisdit_workflow_plans_every_stage():
    def plan(*words, status=0):
        done = subprocess.run(["make", "-n", "-f", "workflows/javisdit.mk", "OUT=/nowhere", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    small = plan("SYNTH=24", "PRESET=tiny", "NPROC=2", "STEPS=3", "SET3=--set dropout=0")
    stages = ("avtools synth -n 24", "scan audio", "scan video", "separate --method hpss", "masklets --mask-column", "torchrun --nproc-per-node 2 -m avtools train javisdit-audio")
    order = [small.index(one) for one in ("train javisdit-audio ", "train javisdit-prior ", "train javisdit ", "sample javisdit ", "score av-align")]
    assert order == sorted(order) and " gen-unpaired" not in small and small.count("--max-steps 3") == 3 and small.count("dropout=0") == 1
    assert small.count("-le 2 || echo --valid") == 3  # as many rows to validate on as there are ranks, else none
    for stage in (*stages, '--weights "prior=/nowhere/train2" --init "/nowhere/train1"', 'sample javisdit /nowhere/split3/test.csv --weights "/nowhere/train3" --weights "prior=/nowhere/train2"'):
        assert stage in small
    whole = plan("CLIPS=c", "CAPTIONS=release_captions.txt", "STREAM=stdit", "VIDEO=v", "SOUND=s", "WORDS=t5", "IMAGEBIND=i", "OBJECTS=t.csv", "AUDIOSEP=a.ckpt")
    for stage in (
        'join tavgbench --captions "release_captions.txt"', '--propose --weights "a.ckpt"', "gen-unpaired --match-duration", "cp /nowhere/stage3.csv /nowhere/stage1.csv", '--init "stdit"',
        '--weights "video=v" --weights "sound=s" --weights "imagebind=i" --weights "words=t5" --weights "prior=/nowhere/train2" --init "/nowhere/train1" --init "video-stream=stdit"',
    ):  # fmt: skip
        assert stage in whole
    released = plan("score", "WEIGHTS3=w", "WEIGHTS2=p", f"PROMPTS={ROOT}/README.md")
    assert '--weights "w" --weights "prior=p"' in released and " train " not in released and " scan " not in released
    assert "prior=" not in plan("score", "WEIGHTS3=w", f"PROMPTS={ROOT}/README.md")  # the released one's own
    half = plan("train3", "CLIPS=c", "CAPTIONS=t.csv", "WEIGHTS1=a", "WEIGHTS2=p")
    assert '--weights "prior=p" --init "a"' in half and "train javisdit-" not in half and 'join table --with "t.csv" --on id --take text' in half
    sounds = plan("stage1", "DATA_ROOT=d", "CAPTIONS=release_captions.txt")  # which are of stage 3
    assert 'join all --data-root "d"' in sounds and "release_captions" not in sounds
    assert "CAPTIONS: a table with the columns id, text" in plan("CLIPS=c", status=2)


@pytest.mark.long
def test_the_javisdit_workflow_goes_from_clips_to_scores_and_continues_where_it_was_stopped(tmp_path):
    pytest.importorskip("torch")
    small = " ".join(f"--set {one}" for one in ("train.batch_size=2", "train.previews=0", "train.log_every=1", "train.checkpoint_every=1", "size.depth=1", "size.dim=32"))
    line = ["make", "-f", ROOT / "workflows/javisdit.mk", "SYNTH=24", "PRESET=tiny", "JOBS=1", "MAX_BAD=0", f"AVTOOLS={sys.executable} -m avtools", "SAMPLE=--steps 2", "SET=--set train.schedule=constant"]
    line += [f"SET1={small}", f"SET3={small}", "SET2=--set train.batch_size=2"]

    def run(*words, status=0) -> str:
        done = subprocess.run([*line, *words], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
        assert done.returncode == status, done.stderr
        return done.stdout

    env, out = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, tmp_path / "javisdit"
    begun = subprocess.Popen([*line, "STEPS=100000"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=env)
    try:
        while not (out / "train1/checkpoints/step-00000002").exists():
            assert begun.poll() is None
            time.sleep(0.05)
        os.killpg(begun.pid, signal.SIGTERM)
        assert begun.wait() != 0
    finally:
        if begun.poll() is None:
            os.killpg(begun.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while not (out / "train1/requeue").exists():  # make does not wait for what it started
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (out / "train1/finished").exists() and not (out / "train2").exists()
    at = json.loads((out / "train1/requeue").read_text())["step"]
    run(f"STEPS={at + 1}")
    first = [json.loads(text) for text in (out / "train1/log.jsonl").read_text().splitlines()]
    assert any("resumed" in one for one in first) and [one["step"] for one in first if "loss" in one] == list(range(1, at + 2))
    told = json.loads((out / "train2/config.json").read_text())["config"]
    assert told["stems"] == "javisdit/stems" and told["masklets"] == "javisdit/masklets"

    def ids(name):
        with open(out / name, newline="") as file:
            return [row["id"] for row in csv.DictReader(file)]

    for one in ("train", "valid", "test"):  # what is held out of one stage is held out of all
        assert ids(f"split1/{one}.csv") == ids(f"split2/{one}.csv") == ids(f"split3/{one}.csv") != []
    with open(out / "scored.csv", newline="") as file:
        scored = list(csv.DictReader(file))
    assert [row["id"] for row in scored] == ids("split3/test.csv")
    for row in scored:
        assert (tmp_path / row["generated_path"]).stat().st_size and (tmp_path / row["generated_audio_path"]).stat().st_size and float(row["av_align"]) >= 0
    assert json.loads((out / "score.json").read_text())["rows"]["judged"] == len(scored)
    assert "avtools" not in run()
    again = run("stage3", "all", f"STEPS={at + 1}")  # asked for by name: all is looked at anew, and nothing made anew
    assert "uni-fps" in again and '"loss"' not in again
