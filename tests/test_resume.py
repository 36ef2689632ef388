"""Killed at any moment and run again: the same files, the same table, and nothing made twice."""

import os
import signal
import subprocess
import time

import pytest

from conftest import files
import fixtures as fx

WRITING = {
    "extract-audio": ["extract-audio", "--rate", "16000", "clips.csv"],
    "uni-fps": ["uni-fps", "--fps", "12", "clips.csv"],
    "trim": ["trim", "--start", "0.5", "--end", "1.5", "both.csv"],
    "trim --fast": ["trim", "--start", "0.5", "--end", "1.5", "--fast", "clips.csv"],
    "resample": ["resample", "--rate", "16000", "sounds.csv"],
    "mux": ["mux", "both.csv"],
}
COUNT = 12


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Clips and sounds, with tables that name them by absolute paths."""
    folder = tmp_path_factory.mktemp("sources")
    tables = {"clips": "path,id,relpath\n", "sounds": "audio_path,id,relpath\n", "both": "path,audio_path,id,relpath\n"}
    import soundfile

    for k in range(COUNT):
        clip, sound = folder / f"{k}.mp4", folder / f"{k}.wav"
        fx.make(clip, fx.even(50), size=(160, 120), noise=True, sound={"seconds": 2, "hz": 200 + 20 * k})
        samples = [s for f in fx.tone(seconds=20, rate=44100, hz=300 + k) for s in f.to_ndarray()[0]]
        soundfile.write(sound, samples, 44100)
        tables["clips"] += f"{clip},{k},{k}.mp4\n"
        tables["sounds"] += f"{sound},{k},sub/{k}.wav\n"
        tables["both"] += f"{clip},{sound},{k},{k}.mp4\n"
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def arguments(name, sources):
    return [sources / word if word.endswith(".csv") else word for word in WRITING[name]]


def finished(folder):
    return {name for name in files(folder)} if folder.exists() else set()


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("delay", [0.0, 0.15])
def test_killed_run_is_continued(name, delay, sources, avtools):
    whole = avtools(*arguments(name, sources), "-d", "out", "-j2").stdout
    expected = files(avtools.folder / "out")
    (avtools.folder / "out").rename(avtools.folder / "whole")

    process = avtools.start(*arguments(name, sources), "-d", "out", "-j2")
    deadline = time.monotonic() + 30
    while not [n for n in finished(avtools.folder / "out") if not n.endswith(".tmp")]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    there = {n for n in finished(avtools.folder / "out") if not n.endswith(".tmp")}
    assert all(files(avtools.folder / "out")[n] == expected[n] for n in there), "a file appeared before it was whole"

    again = avtools(*arguments(name, sources), "-d", "out", "-j2")
    assert files(avtools.folder / "out") == expected
    assert again.stdout == whole
    reused = int(again.stderr.rsplit(" reused", 1)[0].rsplit(" ", 1)[1])
    assert reused == len(there), "what was finished is not made again"


@pytest.mark.parametrize("name", WRITING)
def test_second_run_makes_nothing(name, sources, avtools):
    first = avtools(*arguments(name, sources), "-d", "out")
    times = {path: path.stat().st_mtime_ns for path in (avtools.folder / "out").rglob("*") if path.is_file()}
    second = avtools(*arguments(name, sources), "-d", "out")
    assert second.stdout == first.stdout
    assert "files: 0 made" in second.stderr
    assert {p: p.stat().st_mtime_ns for p in times if ".avtools" not in p.parts} == {p: t for p, t in times.items() if ".avtools" not in p.parts}


def test_run_redoes_exactly_what_failed(sources, avtools):
    """One item fails on purpose; the second run does exactly that item."""
    table = avtools.folder / "t.csv"
    bad = avtools.folder / "bad.wav"
    bad.write_text("no sound at all")
    table.write_text((sources / "sounds.csv").read_text() + f"{bad},bad,bad.wav\n")
    first = avtools("resample", "--rate", "8000", table, "-d", "out", status=1)
    assert first.stderr.count("bad.wav") == 1 and first.stdout.count("\n") == COUNT + 1
    bad.write_bytes((sources / "0.wav").read_bytes())
    second = avtools("resample", "--rate", "8000", table, "-d", "out")
    assert "files: 1 made, 0 without change, 12 reused" in second.stderr


def test_reuse_depends_on_source_options_and_output(sources, avtools):
    source = avtools.folder / "a.wav"
    source.write_bytes((sources / "0.wav").read_bytes())

    def run(*more):
        return avtools("resample", "--rate", "16000", "a.wav", "-d", "out", "--why", *more).stderr

    assert "made (not made before)" in run()
    assert "reused" in run()
    os.utime(source)  # the time alone: the content decides
    assert "reused" in run()
    os.utime(avtools.folder / "out/a.wav")
    assert "reused" in run()
    source.write_bytes((sources / "1.wav").read_bytes())
    assert "made (the source has changed)" in run()
    assert "made (made by another operation or other options)" in run("--channels", "2")
    (avtools.folder / "out/a.wav").write_bytes(b"x")
    assert "made (the output is missing or was changed)" in run("--channels", "2")
    assert "made (--overwrite)" in run("--channels", "2", "--overwrite")


def test_a_strangers_file_is_not_taken_for_ours(sources, avtools):
    (avtools.folder / "out").mkdir()
    (avtools.folder / "out/0.wav").write_bytes((sources / "1.wav").read_bytes())
    row = avtools("resample", "--rate", "16000", sources / "0.wav", "-d", "out").stdout
    assert row == "audio_path\nout/0.wav\n"
    import soundfile

    assert soundfile.info(str(avtools.folder / "out/0.wav")).samplerate == 16000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_quietly_with_nothing_half_done(number, sources, avtools):
    process = avtools.start(*arguments("uni-fps", sources), "-d", "out", "-j2")
    while not finished(avtools.folder / "out"):
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -number
    avtools.wait_for_workers()
    assert not list((avtools.folder / "out").rglob("*.tmp"))
    for line in out.decode().splitlines()[1:]:
        assert (avtools.folder / line.split(",")[0]).is_file()


def test_two_runs_at_once_in_one_folder(sources, avtools):
    whole = avtools(*arguments("extract-audio", sources), "-d", "whole").stdout.replace("whole/", "out/")
    runs = [avtools.start(*arguments("extract-audio", sources), "-d", "out", "-j2") for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert out.decode() == whole
    assert files(avtools.folder / "out") == files(avtools.folder / "whole")
    again = avtools(*arguments("extract-audio", sources), "-d", "out")
    assert "files: 0 made" in again.stderr and again.stdout == whole


def test_journals_of_many_runs_are_joined(sources, avtools):
    avtools(*arguments("resample", sources), "-d", "out", "-j1")
    folder = avtools.folder / "out/.avtools"
    (journal,) = folder.glob("journal-*")
    host, pid, start = journal.stem.removeprefix("journal-").rsplit("-", 2)
    for k in range(80):  # those of processes that are gone
        (folder / f"journal-{host}-{pid}-{int(start) + 1 + k}.jsonl").write_bytes(journal.read_bytes())
    for _ in range(2):
        again = avtools(*arguments("resample", sources), "-d", "out")
        assert f"files: 0 made, 0 without change, {COUNT} reused" in again.stderr
        assert len(list(folder.glob("journal-*"))) < 10


def test_torn_journal_line_is_passed_over(sources, avtools):
    avtools(*arguments("resample", sources), "-d", "out", "-j1")
    (journal,) = (avtools.folder / "out/.avtools").glob("journal-*")
    data = journal.read_bytes()
    journal.write_bytes(data[:-40])
    again = avtools(*arguments("resample", sources), "-d", "out")
    assert f"files: 1 made, 0 without change, {COUNT - 1} reused" in again.stderr


class TestInPlace:
    def test_twice_is_once(self, sources, avtools):
        import soundfile

        for k in range(3):
            (avtools.folder / f"{k}.wav").write_bytes((sources / f"{k}.wav").read_bytes())
        line = "avtools trim --start 1 --duration 5 --in-place ?.wav | avtools resample --rate 16000 --in-place"
        first = avtools.pipe(line)
        content = files(avtools.folder)
        assert soundfile.info(str(avtools.folder / "0.wav")).frames == 80000
        second = avtools.pipe(line)
        assert (first.stdout, content) == (second.stdout, files(avtools.folder))
        assert second.stdout == "audio_path\n0.wav\n1.wav\n2.wav\n"

    def test_five_rows_of_one_file_cut_it_once(self, sources, avtools):
        import soundfile

        (avtools.folder / "a.wav").write_bytes((sources / "0.wav").read_bytes())
        table = "audio_path,text\n" + "".join(f"a.wav,caption {k}\n" for k in range(5))
        done = avtools("trim", "--start", "1", "--in-place", "-j2", input=table)
        assert done.stdout == table
        assert soundfile.info(str(avtools.folder / "a.wav")).frames == 19 * 44100

    def test_killed_and_continued(self, sources, avtools):
        names = [f"{k}.wav" for k in range(COUNT)]
        for name in names:
            (avtools.folder / name).write_bytes((sources / name).read_bytes())
        before = files(avtools.folder)
        process = avtools.start("resample", "--rate", "22050", "--in-place", "-j2", *names)
        while files(avtools.folder).keys() <= before.keys() and all(files(avtools.folder)[n] == before[n] for n in names):
            time.sleep(0.005)
        process.kill()
        process.communicate()
        avtools.wait_for_workers()
        avtools("resample", "--rate", "22050", "--in-place", *names)
        avtools("resample", "--rate", "22050", *[sources / n for n in names], "-d", "whole")
        whole = files(avtools.folder / "whole")
        assert {n: c for n, c in files(avtools.folder).items() if "/" not in n} == whole

    def test_damaged_source_is_kept(self, avtools):
        (avtools.folder / "a.wav").write_bytes(b"RIFF....WAVEjunk")
        avtools("resample", "--rate", "16000", "--in-place", "a.wav", status=1)
        assert (avtools.folder / "a.wav").read_bytes() == b"RIFF....WAVEjunk"

    def test_a_name_that_would_change_is_refused(self, sources, avtools):
        fx.make(avtools.folder / "a.mp3", [], sound={"seconds": 3, "codec": "libmp3lame"}, container="mp3")
        done = avtools("trim", "--max-seconds", "1", "--in-place", "a.mp3", status=1)
        assert "a.mp3" in done.stderr and "-d DIR" in done.stderr


def test_one_output_for_two_sources(sources, avtools):
    (avtools.folder / "x").mkdir()
    (avtools.folder / "x/0.wav").write_bytes((sources / "1.wav").read_bytes())
    done = avtools("resample", "--rate", "16000", sources / "0.wav", "x/0.wav", "-d", "out", status=1)
    assert done.stdout == "audio_path\nout/0.wav\n"
    assert "x/0.wav" in done.stderr and "another row (row 1)" in done.stderr and "relpath" in done.stderr


def test_one_output_for_two_sources_in_different_shards(sources, avtools):
    (avtools.folder / "x").mkdir()
    (avtools.folder / "x/0.wav").write_bytes((sources / "1.wav").read_bytes())
    (avtools.folder / "t.csv").write_text(f"audio_path\n{sources}/0.wav\n{sources}/2.wav\nx/0.wav\n{sources}/2.wav\n")
    first = avtools("resample", "--rate", "16000", "t.csv", "--shard", "1/2", "-d", "out")
    second = avtools("resample", "--rate", "16000", "t.csv", "--shard", "2/2", "-d", "out", status=1)
    assert first.stdout == "audio_path\nout/0.wav\nout/2.wav\n" and second.stdout == "audio_path\nout/2.wav\n"
    assert "x/0.wav" in second.stderr and "row 1" in second.stderr


def test_five_rows_share_one_file(sources, avtools):
    table = "audio_path,text\n" + "".join(f"{sources}/0.wav,caption {k}\n" for k in range(5))
    done = avtools("resample", "--rate", "16000", "-d", "out", "-j2", "--overwrite", input=table)
    assert done.stdout == table.replace(str(sources), "out")
    assert "files: 1 made, 0 without change, 4 reused" in done.stderr


def test_one_source_under_two_relpaths_is_two_files(sources, avtools):
    table = f"audio_path,relpath\n{sources}/0.wav,a/x.wav\n{sources}/0.wav,b/x.wav\n"
    avtools("resample", "--rate", "16000", "-d", "out", input=table)
    assert set(files(avtools.folder / "out")) == {"a/x.wav", "b/x.wav"}


@pytest.mark.parametrize("relpath", ["../x.wav", "/tmp/x.wav", "a/../../x.wav", ".avtools/x.wav", "..", "a/\0b.wav"])
def test_paths_never_leave_the_folder(relpath, sources, avtools):
    import json

    row = json.dumps({"audio_path": f"{sources}/0.wav", "relpath": relpath})
    done = avtools("resample", "--rate", "16000", "-d", "out", input=row + "\n", status=1)
    assert "relpath" in done.stderr
    assert not files(avtools.folder / "out")


def test_output_is_never_its_own_source(sources, avtools):
    (avtools.folder / "a.wav").write_bytes((sources / "0.wav").read_bytes())
    done = avtools("resample", "--rate", "16000", "a.wav", "-d", ".", status=1)
    assert "--in-place" in done.stderr
    assert (avtools.folder / "a.wav").read_bytes() == (sources / "0.wav").read_bytes()


def test_what_conforms_is_linked(sources, avtools):
    done = avtools("resample", "--rate", "44100", sources / "0.wav", "-d", "out")
    assert os.path.samefile(avtools.folder / "out/0.wav", sources / "0.wav")
    assert "1 without change" in done.stderr
    again = avtools("resample", "--rate", "44100", sources / "0.wav", "-d", "out")
    assert "1 reused" in again.stderr
    left = avtools("resample", "--rate", "44100", sources / "0.wav", "-d", "out2", "--no-copy")
    assert left.stdout == f"audio_path\n{sources}/0.wav\n"


class TestDirectoriesThatCannotBeWritten:
    def test_below_a_file(self, sources, avtools):
        (avtools.folder / "f").write_text("")
        done = avtools("resample", "--rate", "8000", sources / "0.wav", "-d", "f/out", status=3)
        assert done.stderr.count("\n") == 1 and "f/out" in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    def test_read_only_mount(self, sources, avtools):
        with mounted(avtools.folder / "ro", "ro"):
            done = avtools("resample", "--rate", "8000", sources / "0.wav", "-d", "ro/out", status=3)
        assert "Read-only" in done.stderr and done.stderr.count("\n") == 1

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    @pytest.mark.parametrize("name", WRITING)
    def test_full_disk(self, name, sources, avtools):
        """Status 3; what was finished stays valid; with room again the run is continued."""
        whole = avtools(*arguments(name, sources), "-d", "whole").stdout
        expected = files(avtools.folder / "whole")
        size = sum(map(len, expected.values())) // 2 // 1024
        with mounted(avtools.folder / "small", f"size={size}k"):
            done = avtools(*arguments(name, sources), "-d", "small/out", "-o", "t.csv", status=3)
            assert "No space left" in done.stderr
            assert not (avtools.folder / "t.csv").exists()
            there = files(avtools.folder / "small/out")
            assert there and all(expected[n] == content for n, content in there.items())
            subprocess.run(["mount", "-o", "remount,size=100m", str(avtools.folder / "small")], check=True)
            again = avtools(*arguments(name, sources), "-d", "small/out")
            assert again.stdout == whole.replace("whole/", "small/out/")
            assert files(avtools.folder / "small/out") == expected


class mounted:
    """A small file system in memory."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options

    def __enter__(self):
        self.folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.folder)]).returncode:
            pytest.skip("no mount here")

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", str(self.folder)])


def test_the_later_of_two_rows_is_the_bad_one(sources, avtools):
    """A second choice of container must not let a conflict pass and hit an innocent row."""
    fx.make(avtools.folder / "c.mkv", fx.even(10))
    table = f"path,relpath\n{sources}/0.mp4,x/a.mp4\n{sources}/1.mp4,x/a.mp4\nc.mkv,x/a.mkv\n"
    done = avtools("uni-fps", "--fps", "5", "-d", "out", "--no-fsync", input=table, status=1)
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == ["out/x/a.mp4", "out/x/a.mkv"]
    assert "1.mp4" in done.stderr and "row 1" in done.stderr


def test_the_source_s_folder_as_output(sources, avtools):
    (avtools.folder / "a.mp4").write_bytes((sources / "0.mp4").read_bytes())
    done = avtools("uni-fps", "--fps", "5", "a.mp4", "-d", ".", status=1)
    assert "would replace" in done.stderr and not (avtools.folder / "a.mkv").exists()


def test_in_place_there_and_back(sources, avtools):
    import soundfile

    (avtools.folder / "a.wav").write_bytes((sources / "0.wav").read_bytes())
    for rate in (8000, 4000, 8000):
        avtools("resample", "--rate", rate, "--in-place", "a.wav")
        assert soundfile.info(str(avtools.folder / "a.wav")).samplerate == rate


def test_in_place_leaves_nothing_after_a_signal(sources, avtools):
    for k in range(4):
        (avtools.folder / f"{k}.mp4").write_bytes((sources / f"{k}.mp4").read_bytes())
    process = avtools.start("uni-fps", "--fps", "200", "--preset", "slower", "--in-place", *[f"{k}.mp4" for k in range(4)])
    while not list(avtools.folder.glob(".*.tmp")):
        time.sleep(0.01)
    process.terminate()
    process.communicate()
    assert not list(avtools.folder.glob(".*.tmp"))
