"""SDR and SI-SDR: values, mixtures, lengths, silence, channels."""

import numpy as np
import pytest
import soundfile

from avtools.errors import RowError, UsageError
from avtools.metrics import Skip, configured
from avtools.metrics.media import Pair, Sound
from avtools.metrics.separation import Sdr, sdr, si_sdr

RATE = 16000


def tone(hz=440, seconds=1.0, rate=RATE, level=0.3):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def row(tmp_path):
    """Writes sounds and gives the row that names them: name=(samples, rate) or samples at 16 kHz."""

    def write(**sounds):
        names = {"judged": "generated_audio_path", "reference": "audio_path", "mixture": "mixture_path"}
        made = {}
        for name, sound in sounds.items():
            samples, rate = sound if isinstance(sound, tuple) else (sound, RATE)
            soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
            made[names[name]] = str(tmp_path / f"{name}.wav")
        return made

    return write


def found(row, **settings):
    return Sdr(**settings).row(Pair(row, {}))


def test_values_are_those_of_the_public_packages():
    draw = np.random.default_rng(3)
    true = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE) + 0.05 * draw.standard_normal(2 * RATE)
    judged = 0.8 * true + 0.02 * draw.standard_normal(2 * RATE)
    assert si_sdr(judged, true) == pytest.approx(18.80263765, abs=1e-6)  # fast_bss_eval 0.1.4
    assert sdr(judged, true) == pytest.approx(13.1658, abs=1e-4)  # torchmetrics 1.9.0, signal_noise_ratio
    assert si_sdr(0.1 * judged, true) == pytest.approx(si_sdr(judged, true)) and sdr(0.1 * judged, true) < 1


def test_the_improvement_is_over_the_mixture_and_empty_without_one(row):
    true, other = tone(), tone(1000)
    cells = found(row(judged=true + 0.1 * other, reference=true, mixture=true + other))
    assert cells == dict.fromkeys(Sdr.columns, pytest.approx(20, abs=0.01))
    cells = found(row(judged=true + 0.1 * other, reference=true))
    assert cells["sdr"] == pytest.approx(20, abs=0.01)
    assert all(isinstance(cells[name], Skip) and "mixture_path" in str(cells[name]) for name in ("sdri", "si_sdri"))
    given = row(judged=true, reference=true, mixture=true + other)
    assert isinstance(found(given, mixture="elsewhere")["sdri"], Skip)
    given["elsewhere"] = given["mixture_path"]
    assert found(given, mixture="elsewhere")["sdri"] > 60


def test_what_is_perfect_or_has_nothing_in_common_stays_finite(row):
    true = tone()
    perfect = found(row(judged=true, reference=true))
    assert perfect["si_sdr"] == pytest.approx(100, abs=1e-6) and perfect["sdr"] == pytest.approx(10 * np.log10(0.045 / 1e-10), abs=0.01)
    assert found(row(judged=tone(1000), reference=true))["si_sdr"] < -60


def test_lengths_may_differ_as_codecs_make_them_and_no_more(row):
    true = tone(seconds=1)
    assert found(row(judged=np.concatenate([true, tone(seconds=0.04)]), reference=true))["si_sdr"] > 90
    assert found(row(judged=true[:-700], reference=true))["si_sdr"] > 90
    with pytest.raises(RowError, match=r"judged.wav: its sound is 1.000 s, and its reference 0.900 s; cut"):
        found(row(judged=true, reference=true[:14400]))
    with pytest.raises(RowError, match=r"its mixture 2.000 s"):
        found(row(judged=true, reference=true, mixture=tone(seconds=2)))


def test_silence(row):
    with pytest.raises(Skip, match="the reference is silent"):
        found(row(judged=tone(), reference=np.zeros(RATE)))
    cells = found(row(judged=np.zeros(RATE), reference=tone(), mixture=tone() + tone(1000)))
    assert cells["sdr"] == 0 and cells["sdri"] == pytest.approx(0, abs=0.01)
    assert isinstance(cells["si_sdr"], Skip) and isinstance(cells["si_sdri"], Skip)


def test_rates_come_to_the_lowest_or_the_one_set(row):
    given = row(judged=(tone(rate=48000), 48000), reference=(tone(rate=32000), 32000))
    assert found(given)["si_sdr"] > 40 and found(given, rate=16000)["si_sdr"] > 40
    high = row(judged=(tone(rate=48000) + tone(14000, rate=48000), 48000), reference=(tone(rate=48000), 48000))
    assert found(high)["sdr"] == pytest.approx(0, abs=0.1) and found(high, rate=16000)["sdr"] > 40


def test_stereo_is_judged_by_its_mean_or_by_all_channels(row):
    left, right = tone(), tone(1000)
    stereo, swapped = np.stack([left, right], axis=1), np.stack([right, left], axis=1)
    given = row(judged=swapped, reference=stereo)
    assert found(given)["si_sdr"] > 90 and found(given, channels="all")["sdr"] == pytest.approx(-3, abs=0.1)
    given = row(judged=left, reference=stereo)
    assert found(given)["sdr"] < 10
    with pytest.raises(RowError, match="has 1 channels, and its reference 2"):
        found(given, channels="all")


def test_a_sound_that_belongs_to_another_row_is_cut_to_the_shorter(row):
    pair = Pair(row(judged=tone(), reference=tone()), {})
    Sdr().row(pair)
    assert Sdr().row(pair.with_sound(Sound(tone(seconds=3)[:, None].astype(np.float32), RATE)))["si_sdr"] > 90


def test_a_part_of_the_reference_and_a_sound_that_is_its_own(row):
    given = row(judged=tone(1000), reference=np.concatenate([tone(), tone(1000), tone()]))
    assert found(given | {"reference_start": 1.0})["si_sdr"] > 60
    with pytest.raises(RowError, match="from 5 s on"):
        found(given | {"reference_start": 5.0})
    with pytest.raises(RowError, match="by itself"):
        found({"audio_path": given["audio_path"]})


def test_wrong_settings():
    for told in ("sdr.channels=left", "sdr.rate=10"):
        with pytest.raises(UsageError, match=told):
            configured([Sdr], None, (told,))
    assert configured([Sdr], "audiosep", ())[0].set["rate"] == 32000
