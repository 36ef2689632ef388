"""Facts, sounds and pictures of synthetic clips, as arrays."""

from fractions import Fraction

import numpy as np
import pytest

from avtools.errors import UsageError
from avtools.synth import picture, scene, sound

OPTIONS = {"seconds": Fraction(2), "fps": Fraction(24), "size": (128, 96), "rate": 16000, "seed": 0, "objects": 1}


def clip(index, **options):
    return scene.clip_of({**OPTIONS, **options}, index)


@pytest.mark.parametrize("seconds", [1, 2, 4, 60])
def test_events_keep_their_distances_and_stay_inside(seconds):
    counts = set()
    for index in range(200):
        made = clip(index, seconds=Fraction(seconds), objects=3)
        assert len({t.kind for t in made.things}) == len({t.side for t in made.things}) == len({t.colour for t in made.things}) == 3
        for thing in made.things:
            onsets = np.array(thing.onsets) / made.rate
            counts.add(len(onsets))
            assert onsets[0] >= scene.LEAD - 1e-3
            assert onsets[-1] <= seconds - scene.REST
            assert np.all(np.diff(onsets) >= scene.GAP - 1e-3)
            if scene.KINDS[thing.kind].held:
                ends = onsets + np.array(thing.lengths) / made.rate
                assert ends[-1] <= seconds - scene.REST + 1e-3
                assert np.all(onsets[1:] - ends[:-1] >= scene.REST - 1e-3)
    assert counts == set(range(1, min(20, max(2, int(2 * (seconds - scene.LEAD)))) + 1))


def test_every_eight_clips_have_each_main_class_once():
    for start in (0, 8, 800):
        assert {clip(start + k).things[0].kind for k in range(8)} == set(scene.KINDS)
    assert [clip(k).things[0].kind for k in range(8)] != [clip(k, seed=1).things[0].kind for k in range(8)]


def test_a_second_object_leaves_the_first_as_it_is():
    one, two = clip(5), clip(5, objects=2)
    assert (one.things[0].kind, one.things[0].onsets) == (two.things[0].kind, two.things[0].onsets)


def test_captions_say_the_facts():
    for index in range(40):
        made = clip(index, seconds=Fraction(10))
        (thing,) = made.things
        count = len(thing.onsets)
        often = {1: "once", 2: "twice", 3: "three times", 7: "seven times", 19: "nineteen times"}.get(count, "times")
        where = {"left": "on the left", "centre": "in the middle", "right": "on the right"}[thing.side]
        text, heard = scene.caption(made), scene.sound_caption(made)
        assert text.endswith(f"{often} {where}") and f" {thing.colour} {thing.kind} " in text
        assert heard.endswith(f"{scene.KINDS[thing.kind].sound[count > 1]} {where}")
        assert {1: "one ", 2: "two ", 3: "three ", 19: "nineteen "}.get(count, "") in heard
    three = scene.caption(clip(0, objects=3))
    assert three.count(", ") == 1 and three.count(" and ") == 1


@pytest.mark.parametrize("option", [{"size": (63, 64)}, {"size": (16, 64)}, {"seconds": Fraction(1, 2)}, {"seconds": 61}, {"fps": 4}])
def test_what_cannot_be_made_is_refused(option):
    with pytest.raises(UsageError):
        scene.check({**OPTIONS, **option})


@pytest.mark.parametrize("rate", [16000, 96000])
@pytest.mark.parametrize("objects", [1, 3])
def test_stems_begin_at_their_events_and_sum_to_the_mixture(rate, objects):
    for index in range(8):
        made = clip(index, rate=rate, objects=objects)
        sounds = sound.render(made)
        total = sum(s.astype(int) for s in sounds.stems) + sounds.ambience
        assert np.array_equal(total, sounds.mixture) and np.abs(total).max() <= 0.81 * 32767
        for thing, stem in zip(made.things, sounds.stems, strict=True):
            silent = np.ones(made.samples, bool)
            for start, end in scene.active(made, thing):
                assert stem[start].any() and np.abs(stem[start : start + rate // 200]).max() > 1000
                silent[start:end] = False
            assert not stem[silent].any()
        assert 30 < sounds.ambience.std() < 300


def test_sound_is_on_the_side_of_its_object():
    for index in range(24):
        made = clip(index)
        left, right = np.abs(sound.render(made).stems[0].astype(float)).sum(0)
        louder = 20 * np.log10(left / right)
        side = made.things[0].side
        assert louder > 6 if side == "left" else louder < -6 if side == "right" else abs(louder) < 1.5


def test_classes_are_told_apart_by_their_spectra():
    def bands(kind, k):
        draw = scene.draws("test", kind, k)
        wave = sound.voice(kind, 4800, 16000, 2 ** draw.uniform(-1 / 6, 1 / 6), draw)
        power = np.abs(np.fft.rfft(wave)) ** 2
        edges = np.geomspace(60, 8000, 17) * 4800 / 16000
        return np.log(1e-4 + np.array([power[int(a) : int(b) + 1].mean() for a, b in zip(edges, edges[1:])]) / power.max())

    known = {kind: np.mean([bands(kind, k) for k in range(6)], 0) for kind in scene.KINDS}
    right = [
        min(known, key=lambda other: np.abs(known[other] - bands(kind, k)).sum()) == kind for kind in scene.KINDS for k in range(6, 18)
    ]
    assert np.mean(right) > 0.95


def test_each_event_lights_up_the_frame_that_is_shown_at_it():
    for index in range(16):
        made = clip(index, objects=1 + index % 3, fps=Fraction((24, 10, 30000)[index % 3], (1, 1, 1001)[index % 3]))
        seen = np.array(list(picture.frames(made)))[:, : made.size[1]].astype(int)
        for thing in made.things:
            shape = np.array(list(picture.masks(made, thing))) > 0
            light = np.array([s[m].mean() for s, m in zip(seen, shape)])
            events = [int(Fraction(onset, made.rate) * made.fps) for onset in thing.onsets]
            others = np.delete(light, events)
            assert light[events].min() > others.max()
            before = [light[k - 1] for k in events]
            assert np.all(light[events] - before > 20)


def test_masks_are_the_drawn_pixels_and_objects_never_overlap():
    for index in range(8):
        made = clip(index, objects=3)
        bare = scene.dataclasses.replace(made, things=())
        seen, behind = (np.array(list(picture.frames(c)))[:, : made.size[1]].astype(int) for c in (made, bare))
        masks = [np.array(list(picture.masks(made, thing))) for thing in made.things]
        union = sum(m > 0 for m in masks)
        assert union.max() == 1
        changed = np.abs(seen - behind) > 3
        assert not ((np.abs(seen - behind) > 8) & ~_grown(union > 0)).any()  # drawn inside, but for half covered pixels
        for thing, mask in zip(made.things, masks, strict=True):
            assert set(np.unique(mask)) == {0, 255}
            assert changed[mask > 0].mean() > 0.8  # a shaded part may be as bright as what it hides
            centre = np.mean([picture.box_of(m)[0] + picture.box_of(m)[2] / 2 for m in mask]) / made.size[0]
            assert thing.side == ("left" if centre < 0.35 else "right" if centre > 0.65 else "centre")


def _grown(mask):
    out = mask.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            out |= np.roll(mask, (dy, dx), (1, 2))
    return out


def test_a_box_holds_the_mask_tightly():
    mask = np.zeros((10, 12), np.uint8)
    assert picture.box_of(mask) == [0, 0, 0, 0]
    mask[3:7, 2:5] = 255
    assert picture.box_of(mask) == [2, 3, 3, 4]


def test_blocks_of_frames_do_not_show(monkeypatch):
    whole = np.array(list(picture.frames(clip(2))))
    monkeypatch.setattr(picture, "BLOCK", 5 * 128 * 96)
    assert np.array_equal(whole, np.array(list(picture.frames(clip(2)))))
    assert 16 <= whole[:, :96].min() and whole.max() <= 235
