"""`python -m benchmarks [--quick] [--json FILE] [NAME...]`: run them, print one table."""

import argparse
import importlib
import json
import os
import shlex
import shutil
import signal
import sys

from .common import ROUNDS, versions

NAMES = ("startup", "probe", "extract_audio", "resample", "trim", "uni_fps", "join", "memory", "vta_ldm", "avsyncd", "score", "separate", "masklets", "vatt", "mosaic", "javisdit")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure avtools and its peers in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {' '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few small files, to see that the scripts work; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    given = parser.parse_args()
    names = [name.replace("-", "_") for name in given.names] or NAMES
    for name in names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name}; there are: {' '.join(NAMES)}")
    missing = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} must be installed to measure against")
    about = versions()
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    source = "real clips" if os.environ.get("AVTOOLS_MEDIA") and not given.quick else "synthetic clips"
    rounds = 1 if given.quick else ROUNDS
    print(f"`{command}`, {source}; {about}. Medians of {rounds} rounds in turn, whole command lines (vta_ldm: pieces of work in two processes), each file its own copy.\n")
    print("| what; peer | ours | peer | ratio | asked | holds |\n|---|---|---|---|---|---|", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no files are left
    results = []
    for name in names:
        print(f"benchmarks: {name} ...", file=sys.stderr, flush=True)
        for row in importlib.import_module(f"benchmarks.{name}").measure(given.quick):
            ratio = "" if row.ratio is None else f"{row.ratio:.1f}x" if row.ratio >= 3 else f"{row.ratio:.2f}x"
            print(f"| {row.what} | {row.ours} | {row.peer} | {ratio} | {row.asked} | {'' if row.holds is None else 'yes' if row.holds else 'NO'} |", flush=True)
            results.append(row)
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"command": command, "about": about, "results": [vars(row) for row in results]}, file, indent=1)
    return 0


sys.exit(main())
