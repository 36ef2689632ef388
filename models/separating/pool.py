"""JavisDiT's pool of separated sounds on disk, as its augmentations read it.

    NAME.wav__sep__000_001_dog barking.wav    a stem of NAME.wav: chunk of four phrases, place in it, phrase
    NAME.wav.json                             {"dog barking_0_1": [[start, end], ...], ...}: samples at the stem's rate in which it sounds
    pool_list.txt                             a line for each stem that sounds at all, relative to the list's folder

A "/" in a phrase is written "_", in names and keys alike (the originals lose such stems), and a name has at most 100 bytes of
a phrase.  NAME.wav is the sound file's own name with its suffix.
"""

import json

CHUNK = 4  # phrases that the original separates at once
MARK = "__sep__"
BYTES = 100  # of a phrase in a name; file systems allow 255 for all of it


def phrase_in_name(phrase: str) -> str:
    plain = phrase.replace("/", "_").replace("\0", "_")
    return plain.encode("utf-8", "surrogateescape")[:BYTES].decode("utf-8", "ignore").strip() or "_"


def stem_name(file: str, number: int, phrase: str) -> str:
    """Name without suffix of the stem `number` (from 0) of `file`."""
    return f"{file}{MARK}{number // CHUNK:03d}_{number % CHUNK:03d}_{phrase_in_name(phrase)}"


def key(number: int, phrase: str) -> str:
    """What the stem `number` is called in the JSON."""
    return f"{phrase_in_name(phrase)}_{number // CHUNK}_{number % CHUNK}"


def write_intervals(out: str, stems: list[tuple[str, list[list[float]]]], rate: int) -> None:
    """Write the JSON of one file's stems: (phrase, [[start, end], ...] seconds), in order, to `out`."""
    found = {key(number, phrase): [[round(start * rate), round(end * rate)] for start, end in active] for number, (phrase, active) in enumerate(stems)}
    with open(out, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(found, file, ensure_ascii=False, indent=1)
        file.write("\n")
