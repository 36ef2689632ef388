"""MAESTRO's data sets: a folder of frames and a sound for each clip (spec: MAESTRO, section 1.4)."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from fractions import Fraction

from avtools.errors import MediaError, RowError, UsageError
from avtools.exchange import Files, Item, Layout
from avtools.identity import identity, is_dead
from avtools.models.avsyncd.layout import check_column, class_of, default_prompt, folder_of, name_in, no_class, picture_of
from avtools.outputs import FOLDER, Want, digest, link_or_copy
from avtools.rows import shown
from avtools.rows.keys import path_of

MARKERS = os.path.join(FOLDER, "maestro")  # CLASS/VIDEO.json: what was written of a clip, and of what
SCRATCH = os.path.join(FOLDER, "maestro-scratch")  # IDENTITY.tmp: the folder that a process is filling
ORDER = os.path.join(FOLDER, "order-maestro.jsonl")
FRAME = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png)", re.I | re.S)


class Maestro(Layout):
    """`CLASS/VIDEO/VIDEO_0001.jpg ...` and `VIDEO.wav`, which MAESTRO's code reads; or `VIDEO/00001.jpg ...`, as its README has it.

    All frames that a decoder shows, upright, at the clip's own rate: JPEG of the least quantization (about libjpeg's
    quality 96), full range BT.601, with the video's own chroma subsampling.  The sound is `audio_path`, as it is where
    that is PCM in a WAV file, else the clip's own, its sample 0 at the first frame; `audio_path` then names it.  The label
    is the folder of the class with blanks for `_`.  A folder holds nothing else, and is put under its name whole.

    Reading makes a video of each folder's frames (H.264, CRF 18, without sound) at --fps, else the rate that they were
    written at, else as many frames as fill the sound; `audio_path` names the WAV where it lies.  Folders that were
    written here and are unchanged give their original video back, where that is unchanged too.  Frames may begin at 0 or 1
    and must be without gaps.  On the way through JPEG the pictures' last bits are lost, and the times of frames that do not
    follow one another evenly; not so where the original video comes back.  Reading keeps a number for each folder (about
    100 bytes), to find those that were added.
    """

    options = ("class_column", "form", "fps")
    needs = ("path",)
    holds = ("path", "audio_path")
    sets = ("audio_path",)
    makes_files = unpacks = True
    matters = ("form",)

    def __init__(self, settings):
        super().__init__(settings)
        self.spans = 0
        self.stale: list[str] = []
        self.found: dict[str, _Reading] = {}  # by source

    # --- writing

    def _place(self, row) -> tuple[str, str]:
        """(folder of the class, name of the clip); the folder is "" in the README's form."""
        if self.settings.get("form") == "readme":
            return "", os.path.basename(name_in("", row))
        column = self.settings.get("class_column")
        picture_of(row)
        folder = folder_of(class_of(row, column))
        if not folder:
            raise no_class(column)
        return folder, os.path.basename(name_in(folder, row))

    def wants(self, row):
        sound = (path_of(row, "audio_path"),) if row.get("audio_path") else ()
        return [Want("frames", (picture_of(row), *sound), (".json",), relpath=os.path.join(MARKERS, *self._place(row)))]

    def export(self, row, maker):
        class_, name = self._place(row)
        root = maker.policy.outdir
        folder, marker = os.path.join(root, class_, name), os.path.join(root, MARKERS, class_, name + ".json")
        sources = maker.slots["frames"].sources
        if os.path.realpath(folder) in (os.path.realpath(os.path.dirname(source)) for source in sources):
            raise RowError(f"{shown(folder)}: the frames would replace the folder that their source lies in; choose another -d DIR")
        known = _marker(marker)
        if known is not None and _content(folder, known) != known["content"]:
            os.unlink(marker)  # the frames were changed or are gone: the journal must not say that they are there
        form = ("", 5) if self.settings.get("form") == "readme" else (f"{name}_", 4)
        made = maker.make("frames", build=lambda out, suffix: _write_clip(sources, root, folder, name, form, out), measure=_measured)
        sound = {column: cell for column, cell in made.columns["sound"].items() if column in row}
        audio = os.path.join(folder, name + ".wav")
        cells = {**sound, "audio_path": os.path.abspath(audio) if maker.policy.absolute else audio}
        return cells, {"class": class_, "video": name, "content": made.columns["content"]}

    def sink(self, folder, columns, format_):
        check_column(self.settings.get("class_column"), columns, format_)
        return _Order(folder, self)

    # --- reading

    def read(self, source):
        if not os.path.isdir(source):
            raise UsageError(f"{shown(source)}: is no folder; give the one that holds CLASS/VIDEO/ or VIDEO/")
        return ["path", "audio_path", "id", "relpath", "class", "text", "num_frames", "fps"], self._items(source)

    def _items(self, root):
        reading = _Reading()
        seen, changed = set(), set()
        for class_, name in _ordered(root):
            key, folder = hash((class_, name)), os.path.join(root, class_, name)
            if key in changed:
                continue  # what was written for several rows is one folder again
            if not os.path.isdir(folder):
                reading.gone += 1
                continue
            item, same = self._item(root, class_, name, reading if key not in seen else _Reading())
            seen.add(key)
            if not same:
                changed.add(key)
            yield item
        for class_, name in _clips(root, reading):
            if hash((class_, name)) not in seen:
                yield self._item(root, class_, name, reading)[0]
        self.found[root] = reading  # notes are of what was read to its end

    def _item(self, root, class_, name, reading):
        """The item of a clip's folder, and whether it is as it was written here."""
        folder = os.path.join(root, class_, name)
        clip = _listed(folder)
        reading.others += clip.others
        known = _marker(os.path.join(root, MARKERS, class_, name + ".json"))
        content = None if known is None else _content(folder, known)
        same = known is not None and content == known["content"]
        fps = Fraction(self.settings["fps"]).limit_denominator(10**6) if self.settings.get("fps") else None
        if fps is None and same and known["fps"]:
            fps = Fraction(known["fps"])
        private = {
            "folder": folder, "place": [class_, name], "problem": clip.problem, "state": clip.state,
            "source": known["source"] if same and not self.settings.get("fps") else None, "fps": fps and str(fps),
        }  # fmt: skip
        cells = {
            "path": "", "audio_path": clip.sound or "", "id": name, "relpath": os.path.join(class_, name) + ".mp4",
            "class": class_, "text": default_prompt(class_) if class_ else "", "num_frames": len(clip.frames), "fps": fps and float(fps),
        }  # fmt: skip
        return Item({"class": class_, "video": name, "content": content}, cells, shown(folder), private), same

    def unpack_wants(self, row, private):
        if private["problem"]:
            raise RowError(private["problem"])
        if _original(row, private):
            return []
        detail = f"{private['state']} {private['fps']}"
        return [Want("path", (_listed(private["folder"]).sound,), (".mp4",), relpath=os.path.join(*private["place"]), detail=detail)]

    def unpack(self, row, private, maker):
        from avtools.media.columns import of_picture
        from avtools.media.probe import probe, video_columns

        if "path" not in maker.slots:
            return {"path": row.get("path") or private["source"][0]}
        made = maker.make("path", build=lambda out, suffix: _write_video(private, out, suffix), measure=lambda path: video_columns(probe(path)))
        return {"path": made.path, **of_picture(row, made.columns)}

    def notes(self):
        lines = []
        if self.spans:
            lines.append(f"{self.spans} rows have start or end, which the layout does not hold: their whole clips were written ('avtools trim' cuts)")
        if self.stale:
            lines.append(f"{len(self.stale)} folders of an earlier export are not of this table and still there, the first: {shown(self.stale[0])}")
        for reading in self.found.values():
            if reading.gone:
                lines.append(f"{reading.gone} rows that were exported have no folder any more")
            if reading.others:
                lines.append(f"{reading.others} files beside frames and sound were left out")
            if reading.hidden:
                lines.append(f"{len(reading.hidden)} hidden folders were left out, the first: {shown(reading.hidden[0])}")
        return lines


class _Order(Files):
    """Keeps the rows' order, which folders do not tell: a line for each row."""

    def __init__(self, folder, layout):
        super().__init__(folder, "maestro")
        self.layout, self.places = layout, set()
        _sweep(folder)

    def write(self, record, row):
        place = record["class"], record["video"]
        self.places.add(hash(place))
        self.layout.spans += any(row.get(column) not in (None, "") for column in ("start", "end"))
        self.file(ORDER).write(json.dumps(place).encode() + b"\n")

    def commit(self):
        self.file(ORDER)
        try:
            stale = dict.fromkeys(place for place in _ordered(self.folder) if hash(place) not in self.places)
        except UsageError:  # damaged: it is written anew
            stale = {}
        self.layout.stale = [folder for place in stale if os.path.isdir(folder := os.path.join(self.folder, *place))]
        super().commit()
        _sweep(self.folder)

    def discard(self):
        super().discard()
        _sweep(self.folder)


def _ordered(root: str):
    """(class, name) of each row that was exported here, in order."""
    try:
        with open(os.path.join(root, ORDER), "rb") as file:
            for line in file:
                yield tuple(json.loads(line))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(os.path.join(root, ORDER))}: cannot be read ({error}); remove it to read folders by their names") from None


# --- what lies in a folder


@dataclasses.dataclass
class _Reading:
    """What one reading of a data set found beside the clips."""

    others: int = 0
    gone: int = 0
    hidden: list[str] = dataclasses.field(default_factory=list)


def _clips(root: str, reading: _Reading):
    """(class, name) of all folders of clips, sorted; the class is "" in the README's form."""
    for one in _folders(root, reading):
        within = os.path.join(root, one)
        below = [] if _is_clip(within) else _folders(within, reading)
        for name in below:
            yield one, name
        if not below:
            yield "", one


def _folders(folder: str, reading: _Reading) -> list[str]:
    names = sorted(entry.name for entry in _scan(folder) if entry.is_dir() and entry.name != FOLDER)
    reading.hidden += [name for name in names if name.startswith(".")]
    return [name for name in names if not name.startswith(".")]


@dataclasses.dataclass
class _Clip:
    """`frames` in their order, `sound`: paths; `others`: how many files are neither; `state` changes when a frame does."""

    frames: list[str]
    sound: str | None
    others: int
    problem: str | None
    state: str


def _listed(folder: str) -> _Clip:
    frames, sounds, others, prefixes, states = [], [], 0, set(), []
    try:
        entries = _scan(folder)
    except UsageError as error:  # one clip's folder is one bad row
        return _Clip([], None, 0, str(error), "")
    for entry in entries:
        if not entry.is_file():
            others += 1
        elif found := FRAME.fullmatch(entry.name):
            status = entry.stat()
            frames.append((int(found[2]), entry.path))
            prefixes.add(found[1])
            states.append((entry.name, status.st_size, status.st_mtime_ns))
        elif entry.name.lower().endswith(".wav"):
            sounds.append(entry.path)
        else:
            others += 1
    frames.sort()
    problem = None
    numbers = [number for number, _ in frames]
    gap = next((number + 1 for number, after in zip(numbers, numbers[1:]) if after > number + 1), None)
    if not frames:
        problem = "holds no frames (00001.jpg or VIDEO_0001.jpg and so on); is it a clip's folder?"
    elif numbers[0] > 1:
        problem = f"its frames begin with {numbers[0]}; those before are missing"
    elif len(prefixes) > 1 or len(set(numbers)) < len(numbers):
        problem = "holds the frames of several videos; give each its folder"
    elif gap is not None:
        problem = f"frame {gap} is missing; write all frames of the clip"
    elif not sounds:
        problem = "holds no .wav; put the clip's sound there"
    elif len(sounds) > 1:
        problem = f"holds {len(sounds)} .wav files; leave the one that is the clip's sound"
    problem = problem and f"{shown(folder)}: {problem}"
    return _Clip([path for _, path in frames], sounds[0] if len(sounds) == 1 else None, others, problem, _hash(sorted(states)))


def _is_clip(folder: str) -> bool:
    return any(FRAME.fullmatch(entry.name) or entry.name.lower().endswith(".wav") for entry in _scan(folder) if not entry.is_dir())


def _scan(folder: str) -> list:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"{shown(folder)}: cannot be read ({error.strerror})") from None


def _marker(path: str) -> dict | None:
    """What was noted of a clip's folder when it was written."""
    try:
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
        return known if {"source", "fps", "state", "content"} <= known.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _content(folder: str, known: dict) -> str | None:
    """What stands for all that lies in a folder; it is read only where sizes or times are not those that are `known`."""
    try:
        state = _state(folder)
        if state == known["state"]:
            return known["content"]
        return _hash(sorted((entry.name, digest(entry.path) if entry.is_file() else "") for entry in os.scandir(folder)))
    except OSError:
        return None


def _state(folder: str) -> str:
    return _hash(sorted((entry.name, (status := entry.stat()).st_size, status.st_mtime_ns) for entry in os.scandir(folder)))


def _hash(value) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _original(row: dict, private: dict) -> str | None:
    """The video that a folder's frames were written from, where it is as it was then; as the row names it."""
    if private["source"] is None:
        return None
    path, *state = private["source"]
    path = row.get("path") or path
    try:
        return path if _of_file(path) == state else None
    except (OSError, ValueError, TypeError):
        return None


def _of_file(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


# --- frames and sound


def _measured(path: str) -> dict:
    with open(path, encoding="utf-8") as file:
        known = json.load(file)
    return {"content": known["content"], "sound": known["sound"]}


def _write_clip(sources, root: str, folder: str, name: str, form: tuple[str, int], out: str) -> None:
    """Fill a folder in a place of its own and put it where `folder` is; `out` gets what is to be known of it.

    `form`: what frames' names begin with, and the digits of their numbers.

    The folder comes before the note of it: a process that dies in between leaves one that is made anew.  Nothing is
    synced: what a power cut takes of the frames does not fit the note.
    """
    from avtools.media.container import open_input, show
    from avtools.media.probe import probe_sound, scan, sound_columns

    if os.path.lexists(folder):
        other = os.path.basename(folder) if os.path.islink(folder) or not os.path.isdir(folder) else None
        for entry in os.scandir(folder) if other is None else ():
            if entry.is_dir() or not (FRAME.fullmatch(entry.name) or entry.name.lower().endswith(".wav")):
                other = entry.name
        if other is not None:
            raise RowError(f"{shown(folder)}: something else is there ({shown(other)}), which the frames would replace; choose another -d DIR")
    video = sources[0]
    states = [_of_file(source) for source in sources]
    with open_input(video, demux_only=True) as container:
        info, _ = scan(container, sound=len(sources) == 1)
    if info.picture is None or info.picture.is_image:
        raise MediaError(f"{show(video)}: has no moving picture; give a video file")
    if len(sources) == 1 and not (info.sound and info.sound.duration):
        raise MediaError(f"{show(video)}: has no sound, which MAESTRO needs; give it an audio_path, or filter with 'probe --require audio'")
    own = os.path.join(root, SCRATCH, f"{identity()}.tmp")
    new, old = os.path.join(own, "new"), os.path.join(own, "old")
    try:
        shutil.rmtree(own, ignore_errors=True)
        os.makedirs(new)
        hashes = _write_frames(video, info.picture.rotation, new, *form)
        sound = os.path.join(new, name + ".wav")
        _write_sound(sources, info.sound, sound)
        hashes.append((name + ".wav", digest(sound)))
        known = {
            "source": [os.path.abspath(video), *states[0]],
            "fps": info.picture.fps and str(info.picture.fps),
            "state": _state(new), "content": _hash(sorted(hashes)), "sound": sound_columns(probe_sound(sound)),
        }  # fmt: skip
        with open(out, "w", encoding="utf-8") as file:
            json.dump(known, file)
        if states != [_of_file(source) for source in sources]:
            raise MediaError(f"{show(video)}: was changed while it was read; run again when it is at rest")
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        if os.path.lexists(folder):
            os.rename(folder, old)
        os.rename(new, folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _sweep(root: str) -> None:
    """Remove the folders that dead processes were filling."""
    scratch = os.path.join(root, SCRATCH)
    for name in os.listdir(scratch) if os.path.isdir(scratch) else ():
        path = os.path.join(scratch, name)
        try:
            if is_dead(name.removesuffix(".tmp"), path):
                shutil.rmtree(path, ignore_errors=True)
        except ValueError:  # not a process's
            continue


class _Unwritten(Exception):
    """Carries an OSError of the output through the reading of the input, which would take it for its own."""


def _write_frames(video: str, rotation: int, folder: str, prefix: str, digits: int) -> list[tuple[str, str]]:
    """Write every shown frame; (name, digest as outputs.digest) of each."""
    from avtools.media.container import best_video, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    jpeg, hashes = _Jpeg(rotation), []
    try:
        with open_input(video) as container:
            stream = best_video(container)
            skip_others(container, [stream])
            for number, (_, frame) in enumerate(shown_frames(container, stream), 1):
                data, name = jpeg(frame), f"{prefix}{number:0{digits}d}.jpg"
                try:
                    with open(os.path.join(folder, name), "xb") as file:
                        file.write(data)
                except OSError as error:
                    raise _Unwritten(error) from None
                hashes.append((name, hashlib.sha256(data).hexdigest()[:32]))
    except _Unwritten as unwritten:
        raise unwritten.args[0] from None
    if not hashes:
        raise MediaError(f"{show(video)}: no frame can be decoded; fetch it again")
    return hashes


class _Jpeg:
    """Encodes frames, upright, as JPEG files."""

    def __init__(self, rotation: int):
        self.rotation = rotation
        self.kind = self.context = self.graph = None

    def __call__(self, frame) -> bytes:
        from avtools.media.video import turning

        turn = turning(frame, self.rotation)
        kind = frame.width, frame.height, frame.format.name, *turn
        if kind != self.kind:
            self.kind, self.context, self.graph = kind, None, _graph(frame, turn) if turn else None
        if self.graph is not None:
            self.graph.push(frame)
            frame = self.graph.pull()
        fmt = frame.format
        across, down = (not fmt.is_rgb and size < 64 for size in (fmt.chroma_width(64), fmt.chroma_height(64)))
        # JFIF: full range, BT.601
        frame = frame.reformat(format=f"yuvj{'420' if down else '422' if across else '444'}p", dst_colorspace="ITU601", dst_color_range="JPEG")
        if self.context is None:
            self.context = _encoder(frame)
        frame.pict_type, frame.pts, frame.time_base = 0, None, self.context.time_base
        (packet,) = self.context.encode(frame)
        return bytes(packet)


def _graph(frame, turn):
    import av.filter

    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes += [graph.add(step, "dir=cclock_flip" if step == "transpose" else None) for step in turn]
    nodes.append(graph.add("buffersink"))
    for one, other in zip(nodes, nodes[1:]):
        one.link_to(other)
    graph.configure()
    return graph


def _encoder(frame):
    import av

    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base, context.thread_count = Fraction(1, 25), 1
    context.color_range = 2
    context.options = {"qmin": "1", "qmax": "1", "flags": "+bitexact"}  # bitexact: no version of the encoder in the files
    return context


def _write_sound(sources, own, out: str) -> None:
    """Write a clip's sound as WAV; `own`: of the video itself, where that is the only source."""
    from avtools.media.sound import cut_file, extract_sound, sound_format

    if len(sources) == 1:
        form = sound_format(sources[0])
        extract_sound(sources[0], out, own.rate, "keep", ".wav", form.sample_format or "s16")
        return
    form = sound_format(sources[1])
    if form.container == ".wav" and form.lossless:
        link_or_copy(sources[1], out)
    else:
        cut_file(sources[1], out, suffix=".wav")


# --- videos made of frames


class _Pictures:
    """Frames as `write_frames` takes them, read one after another."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        self.shape = (len(paths), *_picture(paths[0]).shape)

    def __iter__(self):
        for path in self.paths:
            array = _picture(path)
            if array.shape != self.shape[1:]:
                height, width, _ = self.shape[1:]
                raise MediaError(f"{shown(path)}: has {array.shape[1]}x{array.shape[0]} pixels, the first frame {width}x{height}; make them alike")
            yield array


def _picture(path: str):
    """(height, width, 3) uint8 RGB."""
    from avtools.media.container import open_input, show
    from avtools.media.probe import decoded

    with open_input(path) as container:
        stream = container.streams.best("video")
        for frame in decoded(container, stream) if stream is not None else ():
            return frame.to_ndarray(format="rgb24")
    raise MediaError(f"{show(path)}: cannot be decoded; write the frame again")


def _write_video(private: dict, out: str, suffix: str) -> None:
    from avtools.media.probe import probe_sound
    from avtools.media.video import write_frames

    clip = _listed(private["folder"])
    fps = Fraction(private["fps"]) if private["fps"] else _rate(len(clip.frames), probe_sound(clip.sound))
    write_frames(out, suffix, _Pictures(clip.frames), fps)


def _rate(frames: int, sound) -> Fraction:
    """The rate (Hz) at which `frames` fill the sound: of those within half a sample, the simplest that is usual."""
    if not sound.duration:
        raise RowError("its .wav has no samples, which would tell the frames' rate; give --fps")
    exact = Fraction(frames) / sound.duration
    simple = exact.limit_denominator(1001)
    return simple if abs(frames / simple - sound.duration) * sound.rate <= Fraction(1, 2) else exact.limit_denominator(10**6)
