"""What a browser is given to play: a link to the file, or bytes for the page itself, made playable where need be."""

import os
import uuid
from fractions import Fraction

from avtools.errors import MediaError, SuffixRefused

#: Container (FFmpeg's name) -> its video and sound codecs that Chromium, Firefox and Safari all play
VIDEOS = {
    "mp4": ({"h264", "av1", "vp9"}, {"aac", "mp3", "opus", "flac"}),
    "webm": ({"vp8", "vp9", "av1"}, {"vorbis", "opus"}),
}
SOUNDS = {
    "wav": {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"},
    "mp3": {"mp3"},
    "flac": {"flac"},
    "ogg": {"vorbis", "opus", "flac"},
    "aac": {"aac"},
    "mp4": {"aac", "mp3", "flac", "opus"},
    "webm": {"vorbis", "opus"},
}
IMAGES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "bmp": "image/bmp"}
TYPES = {
    "video": {"mp4": "video/mp4", "webm": "video/webm"},
    "audio": {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac", "mp4": "audio/mp4", "webm": "audio/webm"},
}
CHANNELS = 8  # that browsers play, at most
DEPTHS = {"h264": {"yuv420p", "yuvj420p"}}  # pixel formats that decoders of browsers have


def played(picture_file, picture, sound_file, sound, options: dict) -> dict:
    """`video` or `image`, `audio` (only where it is no part of the video), and `note` of a sample.

    A medium is `{"href": URL}` or, to be embedded, `{"file": path, "type": MIME type, "bytes": size, "made": whether the
    file is a temporary one below options["spool"]}`.
    """
    from avtools.reporting.looking import link

    moving = picture is not None and not picture.is_image
    if options["media"] == "link":
        made, notes = {}, []
        if picture_file:
            made["video" if moving else "image"] = {"href": link(picture_file, options["folder"])}
            notes.append(obstacle(picture_file, moving)[1] if moving else _image_obstacle(picture_file))
        if sound_file:
            made["audio"] = {"href": link(sound_file, options["folder"])}
            notes.append(obstacle(sound_file, False)[1])
        told = [note for note in notes if note]
        return {**made, **({"note": "; ".join(told) + ": browsers may not play that; 'avtools report --media embed' makes it playable"} if told else {})}
    made = {}
    if moving:
        video, separate = _embedded_video(picture_file, picture, sound_file, sound, options)
        made["video"] = video
        if separate:
            made["audio"] = _embedded_sound(sound_file, options)
        return made
    if picture_file:
        if obstacle_ := _image_obstacle(picture_file):
            raise MediaError(f"{picture_file}: {obstacle_}, which browsers do not show; convert it to PNG")
        made["image"] = _file(picture_file, IMAGES[_suffix(picture_file)])
    if sound_file:
        made["audio"] = _embedded_sound(sound_file, options)
    return made


def obstacle(path: str, moving: bool) -> tuple[str, str | None]:
    """The container of a file by our name, and why browsers may not play it (None: they do)."""
    from av.stream import Disposition

    from avtools.media.container import best_audio, best_video, open_input

    with open_input(path) as container:
        video, audio = best_video(container) if moving else None, best_audio(container)
        several = [name for name, found in (("video", container.streams.video if moving else ()), ("sound", container.streams.audio)) if sum(not stream.disposition & Disposition.attached_pic for stream in found) > 1]
        kind = _container(container.format.name, video, audio)
        if moving:
            codec = video.codec_context.codec.canonical_name
            pixels = video.codec_context.pix_fmt
            videos, sounds = VIDEOS.get(kind, ((), ()))
            if kind not in VIDEOS or codec not in videos:
                return kind, f"{codec} video in {container.format.name.split(',')[0]}"
            if codec in DEPTHS and pixels not in DEPTHS[codec]:
                return kind, f"{codec} video of the pixel format {pixels}"
        else:
            sounds = SOUNDS.get(kind, ())
        if audio is not None and (heard := audio.codec_context.codec.canonical_name) not in sounds:
            return kind, f"{heard} sound in {container.format.name.split(',')[0]}"
        if several:  # a browser takes the first, FFmpeg the best
            return kind, f"several {' and '.join(several)} streams"
        if audio is not None and audio.codec_context.layout.nb_channels > CHANNELS:
            return kind, f"{audio.codec_context.layout.nb_channels} channels of sound"
    return kind, None


def _container(name: str, video, audio) -> str:
    if name.startswith("mov,"):
        return "mp4"
    if name.startswith("matroska"):  # WebM is Matroska with few codecs, and no browser refuses such a file
        codecs = {stream.codec_context.codec.canonical_name for stream in (video, audio) if stream is not None}
        return "webm" if codecs <= {"vp8", "vp9", "av1", "vorbis", "opus"} else "matroska"
    return name


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def _image_obstacle(path: str) -> str | None:
    return None if _suffix(path) in IMAGES else f"a .{_suffix(path)} picture"


def _file(path: str, type_: str, made: bool = False) -> dict:
    return {"file": path, "type": type_, "bytes": os.stat(path).st_size, "made": made}


def _embedded_video(picture_file, picture, sound_file, sound, options: dict) -> tuple[dict, bool]:
    """The picture with its sound in one file where that can be, and whether the sound is still to be given apart."""
    from avtools.media.sound import extract_sound
    from avtools.media.video import mux

    kind, why = obstacle(picture_file, True)
    if why is None and sound_file is None:
        return _file(picture_file, TYPES["video"][kind]), False
    parts = []

    def part(suffix: str) -> str:
        parts.append(temporary(options, suffix))
        return parts[-1]

    try:
        if why is not None:
            seen = part(".mp4")
            transcode_picture(picture_file, picture.rotation, seen)
        else:
            seen = picture_file
        heard = sound_file
        if sound_file is None and sound is not None and sound.duration:
            heard = part(".wav")
            extract_sound(picture_file, heard, _aac_rate(sound.rate), min(sound.channels, 2))
        if heard is None:
            return _file(parts.pop(), "video/mp4", True), False
        try:
            whole = part(".mp4")
            mux(seen, heard, whole, ".mp4")
            parts.remove(whole)
            return _file(whole, "video/mp4", True), False
        except SuffixRefused:  # a rate or channels that AAC has not; it is played beside the picture
            if seen in parts:
                parts.remove(seen)
                return _file(seen, "video/mp4", True), True
            return _file(seen, TYPES["video"][kind]), True
    finally:
        for path in parts:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def _aac_rate(rate: int) -> int:
    rates = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
    return next((one for one in rates if one >= rate), 48000)


def _embedded_sound(path: str, options: dict) -> dict:
    kind, why = obstacle(path, False)
    if why is None and kind in TYPES["audio"]:
        return _file(path, TYPES["audio"][kind])
    from avtools.media.sound import resample_file
    from avtools.media.soundfiles import sound_format

    form = sound_format(path)
    out = temporary(options, ".flac")
    resample_file(path, out, _aac_rate(form.rate) if form.rate > 48000 else form.rate, channels="keep" if form.channels <= CHANNELS else 1, sample_format="s16", suffix=".flac")
    return _file(out, "audio/flac", True)


def temporary(options: dict, suffix: str) -> str:
    os.makedirs(options["spool"], exist_ok=True)
    return os.path.join(options["spool"], uuid.uuid4().hex + suffix)


def transcode_picture(path: str, rotation: int, out: str) -> None:
    """Write the shown frames of `path`, upright, at their times, as H.264 of 8 bits 4:2:0 (even sizes) in MP4."""
    import av
    import av.filter

    from avtools.media.container import best_video, media_errors, open_input, open_output, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames, turning

    base = Fraction(1, 90000)
    with media_errors(path, out), open_input(path, output=out) as container:
        source = best_video(container)
        skip_others(container, [source])
        stream = graph = key = last = None
        with open_output(out, ".mp4") as output:
            for time, frame in shown_frames(container, source):
                if (frame.width, frame.height, frame.format.name) != key:
                    key = (frame.width, frame.height, frame.format.name)
                    steps = turning(frame, rotation)
                    width, height = (frame.height, frame.width) if "transpose" in steps else (frame.width, frame.height)
                    sar = source.sample_aspect_ratio or Fraction(1)
                    width = width if "transpose" in steps else round(width * sar)  # square pixels
                    height = round(height * sar) if "transpose" in steps else height
                    if stream is None:
                        size = max(2, width // 2 * 2), max(2, height // 2 * 2)
                        stream = output.add_stream("libx264", rate=source.average_rate or source.guessed_rate or 25, options={"crf": "20", "preset": "veryfast"})
                        context = stream.codec_context
                        context.width, context.height, context.pix_fmt, context.time_base, context.thread_count = *size, "yuv420p", base, 1
                    graph = av.filter.Graph()
                    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or base)]
                    nodes += [graph.add(step, "dir=cclock_flip" if step == "transpose" else None) for step in steps]
                    nodes += [graph.add("scale", f"{size[0]}:{size[1]}:flags=bicubic+accurate_rnd"), graph.add("format", "yuv420p"), graph.add("buffersink")]
                    graph.link_nodes(*nodes).configure()
                graph.push(frame)
                frame = graph.pull()
                pts = round(time / base)
                if last is not None and pts <= last:
                    pts = last + 1
                frame.pts, frame.time_base, frame.pict_type, last = pts, base, 0, pts
                output.mux(stream.encode(frame))
            if stream is None:
                raise MediaError(f"{show(path)}: no frame can be decoded; fetch it again")
            output.mux(stream.encode(None))
