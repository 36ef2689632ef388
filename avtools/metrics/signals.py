"""Sounds put side by side: the judged one and what it is held against, at one rate, equally long."""

from avtools.errors import RowError, UsageError
from avtools.metrics.media import Sound

SLACK_S = 0.05  # by which lengths may differ: codecs begin and end with parts of a frame
SILENT = 1e-10  # mean square, -100 dBFS: what is below has nothing to be compared with
CHANNELS = ("mono", "all")


def check_settings(metric) -> None:
    """UsageError where the settings `channels` and `rate` of a metric have no meaning."""
    if metric.set.get("channels", "all") not in CHANNELS:
        raise UsageError(f"--set {metric.name}.channels={metric.set['channels']}: {' or '.join(CHANNELS)}")
    if metric.set["rate"] and not 1000 <= metric.set["rate"] <= 384000:
        raise UsageError(f"--set {metric.name}.rate={metric.set['rate']}: 1000 to 384000 Hz, or 0 for the lowest of the sounds' own")


def reference_part(pair) -> Sound:
    """The reference sound, or the part of it that the row names; RowError where the judged sound would be its own reference."""
    pair.check_reference("audio")
    sound, (begin, end) = pair.reference_sound, pair.span("reference_audio")
    if not begin and end is None:
        return sound
    samples = sound.samples[round(begin * sound.rate) : None if end is None else round(end * sound.rate)]
    if not len(samples):
        raise RowError(f"{pair.file('reference_audio')}: has no sound from {begin:g} s on, where its part is to begin")
    return Sound(samples, sound.rate)


def side_by_side(pair, others: dict[str, Sound], channels: str = "mono", rate: int = 0) -> tuple[dict, int]:
    """The judged sound ("judged") and the `others` (what to call them -> sound): name -> float64 (samples, channels), and their rate.

    `rate`: Hz; 0: the lowest of theirs (soxr HQ).  `channels`: "mono", the mean of them; "all", which must be as many.
    What is at most 50 ms longer than the shortest is cut at its end; RowError beyond that, but for sounds of other rows (controls).
    """
    import numpy as np
    import soxr

    sounds = {"judged": pair.sound, **others}
    judged = pair.file("audio")
    seconds = {name: len(sound.samples) / sound.rate for name, sound in sounds.items()}
    own = pair.keep("own sound", lambda: pair) is pair and judged == pair.own_sound_file
    for name, sound in others.items():
        if own and abs(seconds[name] - seconds["judged"]) > SLACK_S:
            raise RowError(f"{judged}: its sound is {seconds['judged']:.3f} s, and its {name} {seconds[name]:.3f} s; cut them to one length ('avtools trim')")
        if channels == "all" and sound.samples.shape[1] != pair.sound.samples.shape[1]:
            raise RowError(f"{judged}: has {pair.sound.samples.shape[1]} channels, and its {name} {sound.samples.shape[1]}; judge their mean (channels=mono)")
    rate = rate or min(sound.rate for sound in sounds.values())

    def made(sound):
        samples = sound.samples if channels == "all" else sound.mono[:, None]
        samples = np.ascontiguousarray(samples, np.float64)
        return samples if sound.rate == rate else soxr.resample(samples, sound.rate, rate)

    signals = {"judged": made(pair.sound)}
    for name, sound in others.items():
        signals[name] = pair.keep(("signal", name, channels, rate), lambda sound=sound: made(sound))
    length = min(map(len, signals.values()))
    return {name: samples[:length] for name, samples in signals.items()}, rate
