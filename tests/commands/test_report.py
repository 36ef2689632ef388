"""The page of `report`: its making, and the page itself in a headless Chromium."""

import base64
import csv
import json
import os
import pathlib
import re
import shutil
import signal
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from chromium import Chromium
from conftest import Program, files

from avtools.media.video import write_frames

csv.field_size_limit(1 << 30)
PLAYER = "document.querySelectorAll('.sample')[%d].player"


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> pathlib.Path:
    """A folder with toys.csv: six clips of two seconds, with scores."""
    folder = tmp_path_factory.mktemp("toys")
    Program(folder)("synth", "-n", 6, "--seconds", 2, "-d", "toys", "-o", "made.csv", "-q")
    rows = read(folder / "made.csv")
    for i, row in enumerate(rows):
        row["score"] = [0.5, 0.25, "", 0.75, 0.125, 1][i]
    write(folder / "toys.csv", rows)
    return folder


def read(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path, rows: list[dict]):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def data(page: pathlib.Path, kind: str) -> list:
    """The JSON of the page's script elements of a kind."""
    found = re.findall(rf'<script type="application/json" class="{kind}"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"))
    return [json.loads(text) for text in found]


def samples(page: pathlib.Path) -> list[list[dict]]:
    return [told and told["samples"] for part in data(page, "heavy") for told in part]


def embedded(page: pathlib.Path, number: int) -> bytes:
    return base64.b64decode(re.search(rf'<script type="text/plain" id="m{number}">(.*?)</script>', page.read_text(encoding="utf-8"))[1])


@pytest.fixture
def chromium(tmp_path):
    opened = []

    def start(page: pathlib.Path, **settings) -> Chromium:
        opened.append(Chromium(tmp_path / f"profile{len(opened)}", **settings).__enter__())
        opened[-1].open(page)
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__()


def silent(page: Chromium):
    """Nothing was complained of, and nothing asked of a network."""
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def keys(page: Chromium) -> list[str]:
    """Of the rows in the document, in their order."""
    return page.js("[...document.querySelectorAll('article')].map(node => node.querySelector('.key').textContent)")


# --- the page in a browser ------------------------------------------------------------------------------


def test_a_page_opens_from_a_file_and_plays(toys, chromium):
    Program(toys)("report", "toys.csv", "-o", "page.html")
    page = chromium(toys / "page.html")
    assert page.js("document.title") == "toys.csv"
    assert keys(page)[0] == "clips/00000.mp4"
    assert page.js("document.querySelector('.caption bdi').textContent") == read(toys / "toys.csv")[0]["text"]
    assert page.js("[...document.querySelectorAll('video')].every(video => video.preload === 'none')")
    page.js("document.querySelector('article').scrollIntoView()")
    page.until("document.querySelectorAll('video').length >= 2")
    page.js("document.querySelector('.play').click()")
    page.until("document.querySelector('video').currentTime > 0.3")
    assert page.js("document.querySelector('video').videoWidth") == 128
    assert page.js("document.querySelector('.head-line').style.left") != "0%"
    page.js(f"{PLAYER % 1}.play()")
    page.until("document.querySelectorAll('video')[1].currentTime > 0.1")
    assert page.js("document.querySelectorAll('video')[0].paused"), "one plays at a time"
    page.until("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    silent(page)


def test_keys(toys, chromium):
    Program(toys)("report", "toys.csv", "-o", "keys.html", "-q")
    page = chromium(toys / "keys.html")
    for key, row in (("j", "00000"), ("j", "00001"), ("j", "00002"), ("k", "00001")):
        page.key(key)
        assert page.js("document.activeElement.querySelector('.key').textContent") == f"clips/{row}.mp4"
    page.key(" ")
    page.until("document.activeElement.querySelector('video').currentTime > 0.1")
    page.key(" ")
    page.until("document.activeElement.querySelector('video').paused")
    page.key("ArrowRight")
    page.until("document.activeElement.querySelector('video').currentTime > 0.3")
    page.key("1")
    page.until("!document.activeElement.querySelector('video').paused")
    page.key("l")
    assert page.js("document.getElementById('loop').getAttribute('aria-pressed')") == "true"
    page.until("document.activeElement.querySelector('video').currentTime > 1.5")
    page.until("document.activeElement.querySelector('video').currentTime < 1 && !document.activeElement.querySelector('video').paused")
    page.key("/")
    page.key("j", "j")
    assert page.js("document.activeElement.type + document.activeElement.value") == "searchj"
    silent(page)


def test_every_control_has_a_name(toys, chromium):
    Program(toys)("report", "toys.csv", "-o", "names.html", "-q")
    page = chromium(toys / "names.html")
    page.js("[...document.querySelectorAll('#bar button')].find(one => one.textContent === 'Filters').click()")
    nameless = page.js(
        "[...document.querySelectorAll('button, input, select, [role=slider], [role=img], article')].filter(one => "
        "!(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent.trim())).map(one => one.outerHTML)"
    )
    assert nameless == []
    page.js("document.querySelector('.time').focus()")
    page.key("ArrowRight")
    page.until("Number(document.querySelector('.time').getAttribute('aria-valuenow')) > 0.1")


def test_sorting_searching_and_filtering(toys, chromium):
    Program(toys)("report", "toys.csv", "-o", "sort.html", "-q")
    page = chromium(toys / "sort.html", size=(1280, 6000))

    def order():
        page.until("true")
        return [key[6:11] for key in keys(page)]

    page.js("{ const sort = document.querySelector('[aria-label=\"Sort by\"]'); sort.value = 'score'; sort.dispatchEvent(new Event('change')); }")
    assert order() == ["00004", "00001", "00000", "00003", "00005", "00002"], "the row without a score comes last"
    page.js("document.querySelector('[aria-label^=Ascending]').click()")
    assert order() == ["00005", "00003", "00000", "00001", "00004", "00002"]
    page.js("[...document.querySelectorAll('#bar button')].find(one => one.textContent === 'Filters').click()")
    page.js("{ const from = document.querySelector('[aria-label=\"score, from\"]'); from.value = '0.5'; from.dispatchEvent(new Event('input')); }")
    page.until("document.getElementById('count').textContent === '3 of 6 rows'")
    assert order() == ["00005", "00003", "00000"]
    mean = "[...document.querySelectorAll('tbody tr')].find(row => row.textContent.startsWith('score')).children[1].textContent"
    assert page.js(mean).startswith("0.75 "), "the numbers are those of the rows that are left"
    page.js("document.querySelector('#chips button').click()")
    page.until("document.getElementById('count').textContent === '6 rows'")
    first = read(toys / "toys.csv")[3]
    page.js(f"{{ const search = document.querySelector('[type=search]'); search.value = {json.dumps(first['text'].upper())}; search.dispatchEvent(new Event('input')); }}")
    page.until("document.getElementById('count').textContent === '1 of 6 rows'")
    assert order() == ["00003"]
    page.js("{ const search = document.querySelector('[type=search]'); search.value = 'no such thing'; search.dispatchEvent(new Event('input')); }")
    page.until("!document.getElementById('nothing').hidden")
    page.js("document.getElementById('all').click()")
    page.until("document.getElementById('count').textContent === '6 rows'")
    silent(page)


def test_categories_filter(toys, chromium):
    rows = [{**row, "kind": "even" if i % 2 == 0 else "odd"} for i, row in enumerate(read(toys / "toys.csv"))]
    write(toys / "kinds.csv", rows)
    Program(toys)("report", "kinds.csv", "-o", "kinds.html", "-q")
    page = chromium(toys / "kinds.html", size=(1280, 5000))
    page.js("[...document.querySelectorAll('#bar button')].find(one => one.textContent === 'Filters').click()")
    page.js("[...document.querySelectorAll('#filters label')].find(one => one.textContent.startsWith('odd')).querySelector('input').click()")
    page.until("document.getElementById('count').textContent === '3 of 6 rows'")
    assert [key[6:11] for key in keys(page)] == ["00001", "00003", "00005"]


EVIL = "<script>window.pwned=1</script><img src=x onerror=\"window.pwned=2\">'\"`</script><!--<script>--> & &lt; \u2028 \u202egnol\u202c שלום 犬 \\u003c ]]>"


def test_text_stays_text(toys, chromium):
    clip = read(toys / "toys.csv")[0]["path"]
    rows = [{"path": clip, "id": f"{EVIL}{i}", "text": EVIL, "audio_text": EVIL, "system": f"{EVIL}{i}", "event_times": EVIL, EVIL: i / 4, f"{EVIL} 2": EVIL, "clip": EVIL} for i in range(2)]
    rows.append({**rows[0], "path": f"{EVIL}.mp4", "clip": "other"})
    write(toys / "evil.csv", rows)
    summary = {"summary": 1, "metrics": {EVIL: {"metric": EVIL, "mean": 1, "std": 0, "count": 1, "skipped": {}, "interval": None, "direction": EVIL, "warnings": [EVIL]}}}
    run = toys / "<img src=x onerror=window.pwned=3>"
    run.mkdir()
    (run / "log.jsonl").write_text(json.dumps({"step": 1, EVIL: 2.5}) + "\n")
    from avtools.metrics import scoring

    (toys / "evil.json").write_text(json.dumps({**summary, "summary": scoring.FORMAT, "columns": {}, "definitions": {}, "media": {}}))
    Program(toys)("report", "evil.csv", "-o", "evil.html", "-q", "--group-by", "clip", "--label", "system", "--title", EVIL, "--summary", "evil.json", "--run", run.name, "--stats", status=1)
    page = chromium(toys / "evil.html", size=(1280, 4000))
    assert page.js("document.title.replace(/\\s+/g, ' ')") == " ".join(EVIL.split())
    assert page.js("document.querySelector('.caption bdi').textContent") == EVIL
    assert page.js("document.querySelector('.error bdi').textContent").count("<script>") >= 1
    page.js("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    page.js("[...document.querySelectorAll('#bar button')].find(one => one.textContent === 'Filters').click()")
    page.until("document.querySelector('.cells dl') !== null")
    assert page.js("window.pwned === undefined")
    assert page.js("document.querySelectorAll('img[src=x]').length") == 0
    assert page.js("[...document.scripts].filter(one => one.type === '').length") == 1
    silent(page)


@pytest.mark.long
def test_thousands_of_rows_stay_usable(tmp_path, chromium):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[2:, 8:20, 8:20] = 255
    write_frames(tmp_path / "clip.mp4", ".mp4", frames, Fraction(8))
    write(tmp_path / "many.csv", [{"path": "clip.mp4", "id": f"row{i:04}", "text": f"caption {i} " * (1 + i % 9), "score": (i * 7919 % 3000) / 3000} for i in range(3000)])
    Program(tmp_path)("report", "many.csv", "-o", "many.html")
    page = chromium(tmp_path / "many.html")
    assert page.js("document.getElementById('count').textContent") == "3,000 rows"
    most = 0
    for share in (0, 0.1, 0.33, 0.5, 0.77, 0.9, 1, 0.2):
        page.js(f"scrollTo(0, document.documentElement.scrollHeight * {share})")
        page.until("[...document.querySelectorAll('article')].some(node => { const {top, bottom} = node.getBoundingClientRect(); return bottom > 0 && top < innerHeight; })")
        most = max(most, page.js("document.querySelectorAll('*').length"))
        assert page.js("document.querySelectorAll('video').length") < 40
    assert most < 1500, "the document holds what is near the window alone"
    page.js("scrollTo(0, document.documentElement.scrollHeight)")
    page.until("[...document.querySelectorAll('article .key')].some(node => node.textContent === 'row2999')")
    page.js("{ const sort = document.querySelector('[aria-label=\"Sort by\"]'); sort.value = 'score'; sort.dispatchEvent(new Event('change')); }")
    page.js("document.getElementById('rows').scrollIntoView()")
    page.until("document.querySelector('article .key').textContent === 'row0000'")
    page.js("document.querySelectorAll('article')[1].scrollIntoView()")
    tops = page.js("[...document.querySelectorAll('article')].map(node => [node.offsetTop, node.offsetTop + node.offsetHeight])")
    assert all(above[1] <= below[0] for above, below in zip(tops, tops[1:], strict=False)), "rows of different heights do not lie on each other"
    assert (tmp_path / "many.html").stat().st_size < 3000 * 4000
    silent(page)


# --- media ----------------------------------------------------------------------------------------------

ODD = ["a#b?c=d&e.mp4", "per%41cent %.mp4", "-dash.mp4", "x:y.mp4", "sp ace é 犬.mp4", "quote'\"<b>.mp4", "back\\slash.mp4", "deep/er/..hidden.mp4"]


def test_links_to_odd_names(toys, chromium):
    folder = toys / "odd"
    for name in ODD:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(toys / "toys/clips/00000.mp4", folder / name)
    (toys / "pages").mkdir()
    write(folder / "t.csv", [{"path": name} for name in ODD])
    Program(folder)("report", "t.csv", "-o", "../pages/page.html", "-q")
    page = chromium(toys / "pages/page.html", size=(1200, 6000))
    assert page.js("document.querySelectorAll('video').length") == len(ODD)
    for k in range(len(ODD)):
        page.js(f"{PLAYER % k}.play()")
        page.until(f"{PLAYER % k}.video.currentTime > 0")
    silent(page)


def test_sound_beside_the_picture_is_in_step(toys, chromium):
    rows = read(toys / "toys.csv")
    write(toys / "beside.csv", [{"path": rows[0]["path"], "generated_audio_path": rows[0]["mixture_path"]}])
    Program(toys)("report", "beside.csv", "-o", "beside.html", "-q")
    page = chromium(toys / "beside.html")
    page.js(f"{PLAYER % 0}.play()")
    page.until(f"{PLAYER % 0}.video.currentTime > 1.2")
    assert page.js(f"{PLAYER % 0}.video.muted") and not page.js(f"{PLAYER % 0}.audio.paused")
    assert abs(page.js(f"{PLAYER % 0}.audio.currentTime - {PLAYER % 0}.video.currentTime")) < 0.1
    assert page.js("[...document.querySelectorAll('.tag')].map(tag => tag.textContent)") == ["generated", "true"]
    page.js(f"{PLAYER % 0}.seek(0.4)")
    page.until(f"Math.abs({PLAYER % 0}.audio.currentTime - {PLAYER % 0}.video.currentTime) < 0.1")
    silent(page)


def convert(source, out, codec: str, pixels: str, sound: str | None = None):
    """`source` again, with other codecs."""
    with av.open(str(source)) as seen, av.open(str(out), "w") as output:
        video = output.add_stream(codec, rate=24)
        video.width, video.height, video.pix_fmt = 128, 96, pixels
        audio = output.add_stream(sound, rate=16000, layout="stereo") if sound else None
        for frame in seen.decode(video=0):
            output.mux(video.encode(frame.reformat(format=pixels)))
        output.mux(video.encode(None))
        if audio:
            seen.seek(0)
            for frame in seen.decode(audio=0):
                output.mux(audio.encode(frame))
            output.mux(audio.encode(None))


def test_embedded_media_play_anywhere(toys, chromium):
    from avtools.metrics.media import read_sound
    from avtools.metrics.onsets import detect

    rows = read(toys / "toys.csv")
    clip = toys / rows[0]["path"]
    convert(clip, toys / "old.avi", "mpeg4", "yuv420p", "pcm_s16le")
    convert(clip, toys / "deep.mp4", "libx264", "yuv420p10le", "aac")
    convert(clip, toys / "full.mkv", "libx264", "yuv444p")
    sound, rate = soundfile.read(toys / rows[0]["mixture_path"])
    soundfile.write(toys / "sound.aiff", sound, rate)
    names = ["toys/clips/00000.mp4", "old.avi", "deep.mp4", "full.mkv"]
    table = [{"path": name} for name in names] + [{"path": "placeholder.mp4", "audio_path": "sound.aiff"}, {"path": "old.avi", "generated_audio_path": rows[0]["mixture_path"]}]
    table = [{"path": "", "audio_path": "", "generated_audio_path": "", **row} for row in table]
    write(toys / "embed.csv", table)
    before = set(files(toys))
    Program(toys)("report", "embed.csv", "--media", "embed", "-o", "embed.html")
    assert set(files(toys)) - before == {"embed.html"}
    alone = toys / "alone"
    alone.mkdir()
    shutil.move(toys / "embed.html", alone / "embed.html")
    found = samples(alone / "embed.html")
    want = detect(read_sound(str(clip)).mono, 16000)
    for row in (found[1], found[2], found[5][:1]):  # what was made again is in step
        (alone / "made.mp4").write_bytes(embedded(alone / "embed.html", row[0]["video"]["id"]))
        with av.open(str(alone / "made.mp4")) as made:
            assert made.streams.video[0].codec_context.pix_fmt == "yuv420p"
            assert sum(1 for _ in made.decode(video=0)) == 48
        made = read_sound(str(alone / "made.mp4"))
        onsets = detect(made.mono, made.rate)
        assert len(onsets) == len(want) and abs(onsets - want).max() < 0.012
    page = chromium(alone / "embed.html", size=(1280, 6000))
    count = page.js("document.querySelectorAll('.sample').length")
    assert count == 7
    for k in range(count):
        page.js(f"{PLAYER % k}.play()")
        page.until(f"{PLAYER % k}.time > 0.2")
        assert page.js(f"{PLAYER % k}.audio === undefined || {PLAYER % k}.video === undefined"), "picture and sound are one file"
    assert [url for url in page.requests if url.startswith("file:")] == [(alone / "embed.html").as_uri()]
    silent(page)


def test_links_that_browsers_may_not_play_are_said(toys, chromium):
    convert(toys / "toys/clips/00000.mp4", toys / "link.avi", "mpeg4", "yuv420p", "pcm_s16le")
    write(toys / "link.csv", [{"path": "link.avi"}])
    Program(toys)("report", "link.csv", "-o", "link.html", "-q")
    page = chromium(toys / "link.html")
    assert "mpeg4 video in avi" in page.js("document.querySelector('.note.warn').textContent")
    page.js("document.querySelector('.play').click()")
    page.until("document.querySelector('.sample .error')?.textContent.includes('link.avi')")


def test_what_browsers_may_not_play(toys, tmp_path):
    from avtools.reporting.embedding import obstacle, played

    clip = str(toys / "toys/clips/00000.mp4")
    assert obstacle(clip, True) == ("mp4", None)
    with av.open(clip) as seen, av.open(str(tmp_path / "two.mp4"), "w") as output:  # FFmpeg takes the larger, a browser the first
        streams = [output.add_stream("libx264", rate=24, options={"crf": "30"}) for _ in range(2)]
        for stream, size in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
        for frame in seen.decode(video=0):
            for stream in streams:
                output.mux(stream.encode(frame.reformat(width=stream.width, height=stream.height)))
        for stream in streams:
            output.mux(stream.encode(None))
    assert obstacle(str(tmp_path / "two.mp4"), True)[1] == "several video streams"
    soundfile.write(tmp_path / "many.wav", np.zeros((4000, 16)), 8000)
    assert obstacle(str(tmp_path / "many.wav"), False)[1] == "16 channels of sound"
    from avtools.media.probe import probe

    made = played(None, None, str(tmp_path / "many.wav"), probe(str(tmp_path / "many.wav")).sound, {"media": "embed", "spool": str(tmp_path / "spool")})
    assert made["audio"]["made"] and soundfile.info(made["audio"]["file"]).channels == 1


def test_no_more_is_embedded_than_allowed(toys, chromium):
    size = sum(os.stat(toys / row["path"]).st_size for row in read(toys / "toys.csv")[:2])
    done = Program(toys)("report", "toys.csv", "--media", "embed", "--max-embed", (size + 1) / 1e6, "-o", "some.html")
    found = [row[0] for row in samples(toys / "some.html")]
    assert ["video" in one for one in found] == [True, True, False, False, False, False]
    assert ["not in this page" in one.get("note", "") for one in found] == [False, False, True, True, True, True]
    assert "4 media files are not in it" in done.stderr
    page = chromium(toys / "some.html", size=(1280, 4000))
    assert page.js("document.querySelectorAll('.play').length") == 2
    silent(page)


def test_a_file_of_several_rows_is_embedded_once(toys):
    clip = read(toys / "toys.csv")[0]["path"]
    write(toys / "twice.csv", [{"path": clip, "id": "a"}, {"path": f"./{clip}", "id": "b"}])
    Program(toys)("report", "twice.csv", "--media", "embed", "-o", "twice.html", "-q")
    assert [row[0]["video"]["id"] for row in samples(toys / "twice.html")] == [0, 0]
    assert embedded(toys / "twice.html", 0) == (toys / clip).read_bytes()


# --- what is drawn --------------------------------------------------------------------------------------


def drawn(toys, row: dict) -> dict:
    from avtools.reporting.looking import look

    here = os.getcwd()
    os.chdir(toys)
    try:
        return look(row, {"cell": "c", "named": {}, "media": "link", "folder": ".", "spool": "none"})["c"]
    finally:
        os.chdir(here)


def test_spectrogram_motion_and_onsets(toys, tmp_path):
    rate = 16000
    time = np.arange(4 * rate) / rate
    sound = np.where(time < 2, np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 4000 * time)) * 0.5
    soundfile.write(tmp_path / "tones.wav", sound, rate)
    one = drawn(toys, {"audio_path": str(tmp_path / "tones.wav")})["samples"][0]
    assert one["seconds"] == 4 and one["heard"] == [0, 4]
    assert any(abs(onset - 2) < 0.02 for onset in one["onsets"])
    from PIL import Image

    (tmp_path / "s.png").write_bytes(base64.b64decode(one["spectrum"]))
    places = np.array(Image.open(tmp_path / "s.png"))
    from avtools.reporting import looking

    assert places.shape == (looking.BANDS, looking.POINTS)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (looking.LOWEST, looking.HIGHEST)), looking.BANDS + 2) / 2595) - 1)
    for column, frequency in ((40, 300), (120, 4000)):
        band = looking.BANDS - 1 - int(places[:, column].argmax())
        assert edges[band] < frequency < edges[band + 2]

    frames = np.zeros((40, 64, 96, 3), np.uint8)
    for k in range(40):  # a square moves by 3 pixels a frame in the second half
        x = 10 + 3 * max(0, k - 20) % 60
        frames[k, 20:44, x : x + 20] = np.random.default_rng(1).integers(0, 255, (24, 20, 3))
    write_frames(tmp_path / "move.mp4", ".mp4", frames, Fraction(10))
    told = drawn(toys, {"path": str(tmp_path / "move.mp4"), "event_times": "[0.5, 1.25]"})
    one = told["samples"][0]
    values = np.frombuffer(base64.b64decode(one["motion"][1]), np.uint8) / 255 * one["motion"][0]
    assert told["events"] == [0.5, 1.25] and one["seen"] == [0, 4] and "spectrum" not in one
    assert values[:70].max() < 0.1 * values[90:].mean()
    poster = Image.open(__import__("io").BytesIO(base64.b64decode(one["poster"])))
    assert poster.size == (96, 64)


def test_a_clip_takes_few_bytes(toys):
    for row in read(toys / "toys.csv"):
        assert len(json.dumps(drawn(toys, row))) < 10_000


def test_a_turned_clip_is_drawn_upright(toys, tmp_path, media):
    turned = next((path for path in sorted(media.rglob("*")) if "rot" in path.name.lower() and path.suffix in (".mp4", ".mov")), None)
    if turned is None:
        pytest.skip("no turned clip in AVTOOLS_MEDIA")
    from PIL import Image

    one = drawn(toys, {"path": str(turned)})["samples"][0]
    poster = Image.open(__import__("io").BytesIO(base64.b64decode(one["poster"])))
    assert (poster.width > poster.height) == (one["size"][0] > one["size"][1])


# --- groups and labels ----------------------------------------------------------------------------------


def systems(toys) -> list[dict]:
    rows = read(toys / "toys.csv")
    return [
        {"path": rows[i]["path"], "id": rows[i]["id"], "text": rows[i]["text"], "system": name, "generated_path": rows[(i + n) % 6]["path"], "onset_f1": 0.9 - n / 4 + i / 100}
        for i in range(3)
        for n, name in enumerate(("ours", "theirs"), 1)
    ]


def test_rows_side_by_side(toys, chromium):
    write(toys / "systems.csv", systems(toys))
    Program(toys)("report", "systems.csv", "--group-by", "id", "-o", "systems.html")
    page = chromium(toys / "systems.html")
    assert page.js("document.getElementById('lead').textContent") == "6 rows in 3 groups by id"
    cards = "[...document.querySelector('article').querySelectorAll('.sample h3')].map(one => [...one.children].map(part => part.textContent).join(' '))"
    assert page.js(cards) == ["ours generated", "theirs generated", "true"], "what is true of all is shown once"
    table = page.js("[...document.querySelectorAll('tbody tr')].map(row => [row.children[0].textContent, row.children[1].textContent, row.children[2].textContent])")
    assert [line[:2] for line in table] == [["ours", "3"], ["theirs", "3"]]
    assert table[0][2].startswith("0.66 ±") and page.js("document.querySelector('td.best').textContent") == table[0][2]
    assert page.js("[...document.querySelectorAll('article .best')].map(one => one.closest('.sample').querySelector('.name').textContent)") == ["ours"] * page.js("document.querySelectorAll('article').length")
    silent(page)


def test_labels(toys):
    rows = systems(toys)
    write(toys / "labels.csv", [{**row, "seed": i, "sample": 0} for i, row in enumerate(rows)])

    def labels(*options):
        Program(toys)("report", "labels.csv", "-o", "labels.html", "-q", *options)
        return data(toys / "labels.html", "meta")[0]["label"], [row[2] for row in data(toys / "labels.html", "light")[0]][:2]

    assert labels("--group-by", "id") == ("system", ["ours", "theirs"])
    assert labels("--group-by", "id", "--label", "seed") == ("seed", ["0", "1"])
    write(toys / "labels.csv", [{name: cell for name, cell in row.items() if name != "system"} for row in rows])
    assert labels("--group-by", "id") == (None, [None, None])
    assert labels() == (None, [None, None])


# --- what stands above the rows -------------------------------------------------------------------------


def test_summaries_runs_and_statistics(toys, chromium):
    Program(toys)("score", "onset-f1", "toys.csv", "--summary", "one.json", "-q", "-o", os.devnull, "--to", "csv")
    Program(toys)("score", "onset-f1", "toys.csv", "--summary", "two.json", "--exchange", "", "-q", "-o", os.devnull, "--to", "csv")
    for name, slope in (("first", 1), ("second", 2)):
        run = toys / "runs" / name
        run.mkdir(parents=True)
        lines = [{"step": 0, "rows": 6, "parameters": 1234, "steps": 100}]
        lines += [{"step": k, "loss": slope / k, "lr": 1e-4, "samples_per_s": 3.5} for k in range(1, 101)] + [{"step": 50, "valid_loss": 0.4}, {"step": 100, "valid_loss": 0.3}]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 101, "lo')
    Program(toys)("report", "toys.csv", "--summary", "one.json", "--summary", "two.json", "--run", "runs/first", "--run", "runs/second", "--stats", "-o", "parts.html")
    page = chromium(toys / "parts.html")
    assert page.js("[...document.querySelectorAll('details.part h2')].map(one => one.textContent)") == ["Scores", "Training", "Data set", "Numbers"]
    scores = page.js("[...document.querySelector('details.part tbody').rows].map(row => [...row.cells].map(cell => cell.textContent))")
    value = json.loads((toys / "one.json").read_text())["metrics"]["onset_f1"]["mean"]
    assert scores[0][0] == "onset_f1 ↑" and scores[0][1].startswith(f"{value:.4g} [")
    assert page.js("document.querySelector('details.part td.best').cellIndex") == 1
    charts = page.js("[...document.querySelectorAll('details.part')][1].querySelectorAll('path.curve').length")
    assert charts == 2 * 4  # loss, its validation, lr, samples/s of two runs
    assert "1234 parameters" in page.js("document.querySelector('.legend').textContent")
    assert "6 with a picture" in page.js("document.querySelectorAll('details.part')[2].textContent")
    assert page.js("document.querySelectorAll('details.part')[2].querySelectorAll('svg, .share').length") > 2
    silent(page)


def test_a_summary_that_is_still_being_written(toys):
    (toys / "late.json").write_text("of an earlier time")
    Program(toys).pipe("avtools score onset-f1 toys.csv --summary late.json -q | avtools report --summary late.json -o late.html -q")
    told = data(toys / "late.html", "meta")[0]["summaries"]
    assert told["names"] == ["late.json"] and told["rows"][0]["entries"][0]["count"] == 6


def test_a_histogram_filters(toys, chromium):
    Program(toys)("report", "toys.csv", "-o", "bins.html", "-q")
    page = chromium(toys / "bins.html")
    page.js("[...document.querySelectorAll('.charts .hit')].pop().dispatchEvent(new MouseEvent('click'))")
    page.until("document.getElementById('count').textContent === '1 of 6 rows'")


def test_a_resumed_run(tmp_path):
    from avtools.errors import UsageError
    from avtools.reporting import runs

    lines = [{"step": k, "loss": k} for k in (1, 2, 3, 4)] + [{"step": 2, "resumed": "x"}] + [{"step": k, "loss": -k} for k in (3, 4, 5)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnull\n[1]\n" + json.dumps({"step": 6, "loss": None, "ok": True}))
    assert runs.read(str(tmp_path))["curves"] == {"loss": [[1, 1], [2, 2], [3, -3], [4, -4], [5, -5]]}
    with pytest.raises(UsageError, match="give the folder that 'avtools train -d' wrote"):
        runs.read(str(tmp_path / "none"))
    points = [(k, 1000.0 if k == 7777 else k % 3) for k in range(100_000)]
    thin = runs.thinned(points)
    assert len(thin) <= runs.POINTS and [7777, 1000.0] in thin and thin[-1] == list(points[-1]) and thin == sorted(thin)


# --- rows that are bad, and runs that end early ---------------------------------------------------------


def test_bad_rows_have_a_place(toys, chromium):
    rows = read(toys / "toys.csv")[:3]
    rows[1]["path"] = "gone.mp4"
    (toys / "broken.mp4").write_bytes(b"\0" * 5000)
    rows[2]["path"] = "broken.mp4"
    write(toys / "bad.csv", rows)
    done = Program(toys)("report", "bad.csv", "-o", "bad.html", "--errors", "bad.jsonl", status=1)
    assert "gone.mp4: no such file" in done.stderr and "3 rows in = 1 done + 0 filtered + 2 bad" in done.stderr
    assert len((toys / "bad.jsonl").read_text().splitlines()) == 2
    page = chromium(toys / "bad.html", size=(1280, 3000))
    assert page.js("[...document.querySelectorAll('article')].map(one => one.querySelector('.error')?.textContent.slice(0, 10) ?? null)") == [None, "gone.mp4: ", "broken.mp4"]
    assert page.js("document.getElementById('lead').textContent") == "3 rows, 2 of them with an error"
    silent(page)
    page_bytes = (toys / "bad.html").read_bytes()
    for policy, status in (("drop", 0), ("keep", 0)):
        Program(toys)("report", "bad.csv", "-o", "bad2.html", "-q", "--on-error", policy, "--title", "bad.csv", status=status)
        assert (toys / "bad2.html").read_bytes() == page_bytes
    Program(toys)("report", "bad.csv", "-o", "bad2.html", "-q", "--on-error", "drop", "--max-bad", "1", status=1)


def test_rows_that_came_with_an_error(toys):
    rows = read(toys / "toys.csv")[:2]
    write(toys / "came.csv", [{**rows[0], "error": "was bad before"}, {**rows[1], "error": ""}])
    Program(toys)("report", "came.csv", "-o", "came.html")
    assert [row[3] for row in data(toys / "came.html", "light")[0]] == ["was bad before", None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "where to? give -o FILE.html"),
        (["-o", "page.csv"], "give a name that ends in .html"),
        (["-o", "page.html", "--to", "csv"], "--to is for tables"),
        (["-o", "page.html", "--group-by", "none"], "--group-by none: the table has no such column"),
        (["-o", "page.html", "--score", "none"], "--score none: the table has no such column"),
        (["-o", "page.html", "--run", "none"], "give the folder that 'avtools train -d' wrote"),
        (["-o", "page.html", "--summary", "toys.csv"], "is no summary"),
        (["-o", "none/page.html"], "there is no directory none"),
    ],
)
def test_wrong_usage(toys, arguments, said):
    before = files(toys)
    done = Program(toys)("report", "toys.csv", *arguments, status=2)
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert files(toys) == before


def test_an_empty_table_is_an_empty_page(tmp_path, chromium):
    (tmp_path / "none.csv").write_text("path,score\n")
    Program(tmp_path)("report", "none.csv", "-o", "none.html", "--stats")
    page = chromium(tmp_path / "none.html")
    assert page.js("document.getElementById('lead').textContent") == "0 rows"
    silent(page)


def test_media_files_and_pipes_are_input(toys, chromium):
    rows = read(toys / "toys.csv")
    Program(toys)("report", rows[0]["path"], rows[0]["mixture_path"], "-o", "media.html", "-q")
    assert [[sorted({"video", "audio"} & one.keys()) for one in row] for row in samples(toys / "media.html")] == [[["video"]], [["audio"]]]
    page = chromium(toys / "media.html")
    page.js(f"{PLAYER % 1}.play()")
    page.until(f"{PLAYER % 1}.time > 0.2")
    silent(page)
    Program(toys).pipe("avtools mkmeta scan video toys/clips | avtools probe | avtools report -o piped.html -q")
    assert len(samples(toys / "piped.html")) == 6


@pytest.mark.long
def test_the_page_does_not_depend_on_the_workers(toys):
    made = []
    for jobs in (1, 3):
        Program(toys)("report", "toys.csv", "-o", "same.html", "-q", "-j", jobs, "--stats")
        made.append((toys / "same.html").read_bytes())
    assert made[0] == made[1]
    parts = []
    for shard in ("1/2", "2/2"):
        Program(toys)("report", "toys.csv", "-o", "part.html", "-q", "--shard", shard)
        parts += samples(toys / "part.html")
    assert parts == samples(toys / "same.html")


def test_other_columns_and_types(toys):
    rows = read(toys / "toys.csv")[:3]
    table = [
        {"clip": row["path"], "id": i, "score": value, "flag": i > 0, "nested": {"a": [1] * 100}, "short": [1, 2], "big": 10**400, "code": f"00{i}"}
        for i, (row, value) in enumerate(zip(rows, (0.5, float("nan"), None), strict=True))
    ]
    (toys / "types.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    Program(toys)("report", "types.jsonl", "-o", "types.html", "-q", "--video-column", "clip")
    meta = data(toys / "types.html", "meta")[0]
    assert {column["name"]: column["kind"] for column in meta["columns"]} == {"clip": "text", "id": "text", "score": "number", "flag": "text", "short": "text", "big": "number", "code": "text"}
    assert meta["left"] == ["nested"]
    at = {column["name"]: 4 + k for k, column in enumerate(meta["columns"])}
    light = data(toys / "types.html", "light")[0]
    assert [row[at["score"]] for row in light] == [0.5, None, None] and light[0][at["big"]] is None and light[1][at["code"]] == "001"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing(toys, how):
    import time

    convert(toys / "toys/clips/00000.mp4", toys / "slow.avi", "mpeg4", "yuv420p", "pcm_s16le")
    write(toys / "slow.csv", [{"path": "slow.avi", "id": i} for i in range(400)])
    before = set(files(toys))
    program = Program(toys)
    process = program.start("report", "slow.csv", "-o", "slow.html", "--media", "embed", "-j", 2)
    end = time.monotonic() + 60
    while not any(".media." in name for name in files(toys)) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(60)
    process.stdout.close()
    process.stderr.close()
    program.wait_for_workers()
    assert process.returncode == -how
    assert set(files(toys)) == before
