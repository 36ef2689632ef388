"""`score` by SDR, spectral distances, stream health and captions' scores, as real processes."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile

from fixtures import even, make

RATE = 16000


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def summary(avtools, name: str) -> dict:
    return json.loads((avtools.folder / name).read_text())


@pytest.fixture
def separated(avtools):
    """Tones out of mixtures of two, one of them without a mixture, as a table."""
    lines = ["id,generated_audio_path,audio_path,mixture_path"]
    for k in range(6):
        seconds = np.arange(RATE + 800 * k) / RATE
        true, other = np.sin(2 * np.pi * (300 + 50 * k) * seconds) / 4, np.sin(2 * np.pi * (1000 + 90 * k) * seconds) / 4
        for name, samples in {"made": true + 0.1 * other, "true": true, "mixture": true + other}.items():
            soundfile.write(avtools.folder / f"{name}{k}.wav", samples, RATE, subtype="FLOAT")
        lines.append(f"{k},made{k}.wav,true{k}.wav,{f'mixture{k}.wav' if k else ''}")
    return "\n".join(lines) + "\n"


def test_sdr_and_spectral_distances_of_a_table(avtools, separated):
    done = avtools("score", "sdr,spectral", "--summary", "s.json", "-j2", input=separated)
    found, told = rows(done.stdout), summary(avtools, "s.json")["metrics"]
    assert [float(row["sdr"]) for row in found] == pytest.approx([20] * 6, abs=0.1) and [row["sdri"] for row in found].count("") == 1
    assert told["sdri"]["mean"] == pytest.approx(20, abs=0.1) and told["sdri"]["skipped"] == {"no mixture (column mixture_path)": 1}
    assert told["sdr"]["direction"] == "higher" and told["mrstft"]["direction"] == "lower" and told["mrstft"]["mean"] > 0


def test_the_canary_judges_sounds_of_other_lengths(avtools, separated):
    avtools("score", "sdr", "--canary", "--summary", "s.json", input=separated)
    told = summary(avtools, "s.json")
    assert told["rows"]["bad"] == 0 and told["canary"]["sdr"]["shuffled"]["told_apart"] is True and told["canary"]["sdr"]["shuffled"]["count"] == 6
    done = avtools("score", "sdr", "--exchange", "", input=separated)
    assert all(float(row["sdr"]) < 1 for row in rows(done.stdout))


def test_bad_references_are_named_and_their_neighbours_scored(avtools, separated):
    soundfile.write(avtools.folder / "true1.wav", np.ones(RATE // 2) / 4, RATE)
    soundfile.write(avtools.folder / "true2.wav", np.zeros(RATE + 1600), RATE)
    (avtools.folder / "true3.wav").unlink()
    done = avtools("score", "sdr", "--summary", "s.json", input=separated, status=1)
    assert "made1.wav: its sound is 1.050 s, and its reference 0.500 s" in done.stderr and "true3.wav" in done.stderr
    assert [row["id"] for row in rows(done.stdout)] == ["0", "2", "4", "5"]
    assert summary(avtools, "s.json")["metrics"]["sdr"]["skipped"] == {"the reference is silent": 1}
    assert "would be judged by itself" in avtools("score", "sdr", input="audio_path\ntrue0.wav\n", status=1).stderr


def test_health_beside_other_metrics(avtools):
    make(avtools.folder / "a.mkv", even(25), sound={"rate": 48000, "codec": "pcm_s16le"})
    make(avtools.folder / "b.mkv", even(25))
    done = avtools("score", "health", "--summary", "s.json", input="path\na.mkv\nb.mkv\n")
    one, silent = rows(done.stdout)
    assert (one["stream_offset"], one["frozen_frames"], one["silence"]) == ("0.0", "0.0", "0.0")
    assert silent["silence"] == silent["stream_offset"] == "" and silent["frozen_frames"] == "0.0"
    assert summary(avtools, "s.json")["metrics"]["silence"]["skipped"] == {"has no sound": 1}


CAPTIONS = """id,generated_text,captions
1,A dog barks,"[""a dog is barking"", ""dogs""]"
2,rain falls,heavy rain falls
3,,a cat
4,two birds sing in a tree today,two birds sing in a tree
5,...,a car
"""


def test_captions_of_a_table(avtools):
    done = avtools("score", "bleu,rouge,cider", "--summary", "s.json", input=CAPTIONS, status=1)
    assert "row has no text to judge (columns looked at: generated_text)" in done.stderr
    assert [float(row["rouge_l"]) for row in rows(done.stdout)] == pytest.approx([0.5570776, 0.7721519, 0.9360614, 0], abs=1e-6)
    told = summary(avtools, "s.json")["metrics"]
    assert told["bleu_4"]["value"] == pytest.approx(0.5876, abs=1e-4) and told["cider"]["value"] > 3 and told["cider"]["count"] == 4
    avtools("score", "bleu,rouge,cider", "--summary", "two.json", "-j2", input=CAPTIONS, status=1)
    assert (avtools.folder / "s.json").read_bytes() == (avtools.folder / "two.json").read_bytes()


def test_a_table_without_captions_is_wrong_usage(avtools):
    done = avtools("score", "bleu", input="id,text\n1,a\n", status=2)
    assert "bleu needs a column generated_text" in done.stderr
    done = avtools("score", "bleu", input="id,generated_text\n1,a\n", status=2)
    assert "reference_text" in done.stderr
    assert avtools("score", "rouge", "--set", "column=said", "--set", "references=true", input="id,said,true\n1,a dog,a dog\n").stdout.endswith(",1.0\n")
