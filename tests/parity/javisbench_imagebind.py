"""What ImageBind hears in JavisBench, its windows, AVHScore and JavisScore against the original's numbers (collected by test_javisbench)."""

import numpy as np
import torch
from common import Case

from avtools.models.judges import bind

LEGACY = frozenset({"centring", "windows"})


def mels(waveform, bounds, legacy=frozenset()):
    return bind.mels(np.stack(bind.cut(waveform, bounds, legacy)))[:, 0]


def audio(case: Case, _):
    waveform = case.inputs["waveform"].numpy().reshape(-1)
    clips = case.config["clips"]
    published = bind.clip_bounds(len(waveform), clips, LEGACY)
    case.check("clip_samples", torch.tensor(published))
    for bounds, right in zip(published, bind.clip_bounds(len(waveform), clips), strict=True):
        assert all(0 <= a - b <= 1 for a, b in zip(right, bounds, strict=True))
    heard = mels(waveform, published, LEGACY)
    case.check("clip_mels", heard)
    apart = mels(waveform, published)
    case.check("clip_mels_vs_independent_max_diff", (heard - apart).abs().amax((-2, -1)))


def audio_windows(case: Case, _):
    waveform, config = case.inputs["waveform"].numpy().reshape(-1), case.config
    begin = config["start"]
    views = mels(waveform, [(begin, begin + bind.LENGTH)] * bind.CLIPS, LEGACY)
    case.check("one_window_first_view", views[0])
    case.check("views_max_diff", (views - views[0]).abs().amax((-2, -1)))
    windows = bind.counted_windows(config["frames"], config["fps"], len(waveform)).samples.tolist()
    bounds = [(start + a, start + b) for start, end in windows for a, b in bind.clip_bounds(end - start, legacy=LEGACY)]
    heard = mels(waveform, bounds, LEGACY).unflatten(0, (len(windows), -1))
    case.check("all_windows_mean", heard.mean((-2, -1)))
    case.check("all_windows_std", heard.std((-2, -1)))
    case.check("last_window_view", heard[-1, 0])


def scores(case: Case, _):
    frames, sounds = case.inputs["frame_embeddings"].numpy(), case.inputs["window_audio_embeddings"].numpy()
    for k, (count, fps, samples) in enumerate(case.config["lengths_frames_fps_samples"]):
        windows = bind.counted_windows(count, fps, samples)
        case.check(f"windows.{k}.video", torch.from_numpy(windows.frames))
        case.check(f"windows.{k}.audio", torch.from_numpy(windows.samples))
        if k == 0:
            used, sounds = windows.frames, sounds[: len(windows.frames)]
    found = np.stack([bind.cosines(frames[begin:end], sound) for (begin, end), sound in zip(used, sounds, strict=True)])
    case.check("frame_window_cosine", torch.from_numpy(found))
    case.check("window_scores", torch.tensor([bind.lowest_mean(row, 0.4) for row in found]))
    for name, lowest in (("default", 0.4), ("top5", 5), ("half", 0.5)):
        case.check(f"{name}.javis_score", torch.tensor(bind.javis_score(frames, sounds, used, lowest)).reshape(case.outputs[f"{name}.javis_score"].shape))
    item = {"frames": {"embedding": frames}, "sound": {"embedding": case.inputs["clip_audio_embedding"].numpy()}}
    case.check("avh_score", torch.tensor(bind.AvhScore().row(item)["avhscore"]).reshape(case.outputs["avh_score"].shape))


KINDS = {"imagebind_audio": audio, "javis_audio_windows": audio_windows, "javis_avh_score": scores}
