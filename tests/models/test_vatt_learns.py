"""VATT's `tiny` trainings learn on generated clips: the comparison of its forms, its parts, and minutes of training."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("peft")
pytest.importorskip("librosa")
pytest.importorskip("cv2")

from avtools import hub  # noqa: E402
from avtools.models.vatt.config import CONVERTER_PRESETS, PRESETS, Config, ConverterConfig  # noqa: E402
from avtools.models.vatt.system import VattConverter  # noqa: E402
from avtools.training import config as settings  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = ("net.dim=32", "net.first_blocks=1", "net.second_blocks=1", "net.first_heads=2", "net.second_heads=2", "net.head_dim=16", "net.feed=2")
CLIPS, OTHERS = 160, 24  # trained on, judged


@pytest.fixture
def forms(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import vatt_forms

    return vatt_forms


def converter(*sets) -> VattConverter:
    system = VattConverter(settings.resolve(ConverterConfig, CONVERTER_PRESETS, "tiny", None, sets))
    torch.manual_seed(0)
    system.build(hub.Weights({}), hub.Weights({}), torch.device("cpu"))
    return system


# --- what compares them ---------------------------------------------------------------------------------------------


def test_sounds_are_judged_against_own_and_others_clips(forms, tmp_path):
    rows = forms.clips(tmp_path, 8)
    judge, system = forms.Judge(rows), forms.audio(*SMALL)
    best = judge.best(system)
    assert best["onset_f1"] > 0.8 > 0.4 > best["onset_f1_exchanged"]
    silent = judge.heard([np.zeros(32000, np.float32)] * 8, 16000)
    assert set(silent.values()) == {0.0}
    sounds = [system.codec.decode(system.codec.encode(torch.from_numpy(item["waveform"])[None]))[0].numpy() for item in judge.items]
    turned = judge.heard(sounds[-1:] + sounds[:-1], 16000)  # each clip has the sound of the one before
    assert turned["onset_f1"] < 0.5
    clicks = np.zeros((8, 32000), np.float32)
    for one, (peaks, _) in zip(clicks, judge.peaks, strict=True):
        for time in peaks[::4]:
            one[int(time * 16000) :][:200] = np.hanning(400)[200:][: len(one) - int(time * 16000)]
    found = judge.heard(list(clicks), 16000)
    assert found["av_align"] > found["av_align_exchanged"]


def test_trainings_of_two_forms_differ_in_the_form_alone(forms, tmp_path):
    rows = forms.clips(tmp_path, 4)
    items = forms.items_of(forms.audio(*SMALL), rows)
    run = forms.converter(tmp_path / "run", 1.0, rows, items, 2)
    made, seen = {}, {}
    for name, aligned in (("ours", "true"), ("again", "true"), ("published", "false")):
        system = forms.audio(*SMALL, f"aligned={aligned}", "video_tokens_per_second=1", "train.batch_size=2", converter=run)
        begun = {key: value.clone() for key, value in system.net.state_dict().items()}
        steps = []
        forms.train(system, rows, 3, items, watch=lambda step, into=steps: into.append(step))
        assert steps == [1, 2, 3] and not torch.equal(begun["heads.weight"], system.net.heads.weight)
        made[name], seen[name] = system.net.state_dict(), begun
    assert all(torch.equal(value, made["again"][name]) for name, value in made["ours"].items())
    assert set(made["ours"]) - set(made["published"]) == {"visual.weight", "visual.bias"}
    assert all(torch.equal(value, seen["ours"][name]) for name, value in seen["published"].items())
    taught = hub.tensors(tmp_path / "run" / "model.safetensors")["video_proj.weight"]
    torch.testing.assert_close(system.converter.video_proj.weight, taught)
    figures = forms.Judge(rows).figures(system)
    assert 0 <= figures["accuracy"] <= 1 and {"loss_exchanged", "onset_f1", "av_align_exchanged"} <= set(figures)


def test_tiny_is_the_best_form_and_released_weights_keep_theirs(forms):
    ours, published = forms.FORMS[0], forms.FORMS[3]
    tiny = settings.resolve(Config, PRESETS, "tiny")
    assert (tiny.aligned, tiny.video_tokens_per_second) == (ours.aligned, ours.rate)
    for name in ("llama", "gemma"):
        released = settings.resolve(Config, PRESETS, name)
        assert (released.aligned, released.video_tokens_per_second) == (published.aligned, published.rate)


@pytest.mark.long  # each form, a few steps
def test_the_comparison_prints_a_table():
    done = subprocess.run([sys.executable, "-m", "benchmarks.vatt_forms", "--quick"], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert lines[0][:3] == ["form", "steps", "accuracy"] and len(lines) == 2 + 6 * 3 and "codec" in lines[-1][0]
    assert all(0 <= float(cell) <= 1 for line in lines[1:-1] for cell in line[2:6])


# --- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.learn
def test_tiny_makes_sound_when_it_is_seen_to_begin(forms, tmp_path):
    """160 clips, 70 s of one core; of 24 others: token accuracy (measured: 0.53), onset-F1 against own and exchanged clips (0.75, 0.12).

    AV-Align (0.38, 0.36) tells own from exchanged clips neither here nor of true sounds (0.36, 0.36): the flow of these clips has many
    peaks that are no events.  It has to be near that of true sounds, far from silence (0) and from what is not trained (0.6).
    """
    rows = forms.clips(tmp_path, CLIPS + OTHERS)
    judge, system = forms.Judge(rows[CLIPS:]), forms.audio()
    best = judge.best(system)
    forms.train(system, rows[:CLIPS], system.config.train.max_steps)
    found = judge.figures(system)
    print("\nmade:", {name: round(value, 3) for name, value in found.items()}, "\ntrue:", {name: round(value, 3) for name, value in best.items()})
    assert found["accuracy"] > 0.48 and found["loss"] + 0.2 < found["loss_exchanged"], found
    assert found["onset_f1"] > 0.5 and found["onset_f1"] > found["onset_f1_exchanged"] + 0.3, found
    assert abs(found["av_align"] - best["av_align"]) < 0.1, (found, best)


@pytest.mark.learn
def test_the_tiny_converter_learns_what_is_heard(forms, tmp_path):
    """160 clips: the caption of 24 others is told better from their own pictures than from another's."""
    rows = forms.clips(tmp_path, CLIPS + OTHERS)
    held, system = rows[CLIPS:], converter()
    forms.train(system, rows[:CLIPS], system.config.train.max_steps)
    with torch.no_grad():
        own = system.prepare(forms.batch_of(system, forms.items_of(system, held), held, list(range(OTHERS))), False)
        found = system.evaluate(system.converter, own)["loss"].mean()
        other = [system.evaluate(system.converter, {**own, "features": own["features"].roll(shift, 0)})["loss"].mean() for shift in (1, 3, 5)]
    assert min(other) > 1.1 * found, (found, other)
