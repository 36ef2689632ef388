"""How `uni-fps` gets its default quality and preset: a sweep over clips that no benchmark reports.

`python -m benchmarks.tune_uni_fps` prints, for each setting, the size and the time relative to
`ffmpeg -r 24` (its defaults, its own threads) and the difference in mean SSIM.
"""

import os
import statistics
import time
from fractions import Fraction

from avtools.media.video import uniform_fps

from . import common
from .likeness import Source, likeness

FPS = Fraction(24)
# x264's `tune=ssim` was tried too: larger files, no better likeness at the same size.
SETTINGS = [(preset, crf) for preset in ("superfast", "veryfast", "faster") for crf in (19, 20, 21, 22, 23)]


def sources(where):
    """Pieces of 4 s at another rate than the asked one."""
    made = []
    for k, path in enumerate(common.media("odd/dj_video1.mp4", "odd/nasa_13013.mp4", "odd/testsrc2_vp8.webm") + common.synthetic(where, 2, 4)):
        cut = where / f"source{k}.mp4"
        common.run("ffmpeg", "-y", "-i", path, "-t", 4, "-an", "-vf", "fps=30", "-c:v", "libx264", "-crf", 12, "-pix_fmt", "yuv420p", cut)
        made.append(cut)
    return made


def main():
    with common.folder() as where:
        clips, rows = sources(where), []
        for number, clip in enumerate(clips):
            source = Source(clip)
            peer = where / "peer.mp4"
            spent = os.times()
            common.run("ffmpeg", "-y", "-i", clip, "-r", 24, peer)
            after = os.times()
            cpu = after.children_user + after.children_system - spent.children_user - spent.children_system
            like, size = likeness(peer, source, True), peer.stat().st_size
            for preset, crf in SETTINGS:
                out = where / "ours.mp4"
                begun = time.process_time()
                uniform_fps(clip, out, ".mp4", FPS, crf=crf, preset=preset)
                taken = time.process_time() - begun
                rows.append((preset, crf, number, cpu / taken, out.stat().st_size / size, likeness(out, source, False) - like))
        print("| preset | crf | CPU time, peer/ours | size, ours/peer | SSIM, ours - peer | worst |\n|---|---|---|---|---|---|")
        for setting in SETTINGS:
            found = [row[3:] for row in rows if row[:2] == setting]
            speed, size, gain = (statistics.mean(column) for column in zip(*found, strict=True))
            worst = min(row[2] for row in found)
            print("| {} | {} |".format(*setting), f"{speed:.2f} | {size:.2f} | {gain:+.4f} | {worst:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
