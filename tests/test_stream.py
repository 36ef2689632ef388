"""What every command shares, as real processes: tables, statuses, bad rows, pipes that close, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

import fixtures as fx
from conftest import command


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for k in range(4):
        fx.make(folder / f"{k}.mp4", fx.even(20 + k), sound={"seconds": 1})
    (folder / "text.mp4").write_text("this is no film")
    return folder


class TestExitStatus:
    def test_all_done(self, clips, avtools):
        done = avtools("probe", clips / "0.mp4")
        assert done.stdout.splitlines()[1].split(",")[1] == "20"
        assert "1 rows in = 1 done + 0 filtered + 0 bad" in done.stderr

    def test_some_bad(self, clips, avtools):
        done = avtools("probe", clips / "0.mp4", clips / "text.mp4", clips / "1.mp4", "-o", "t.csv", status=1)
        assert len((avtools.folder / "t.csv").read_text().splitlines()) == 3
        (line,) = [line for line in done.stderr.splitlines() if "text.mp4" in line]
        assert line.startswith("avtools probe: argument")

    @pytest.mark.parametrize(
        "arguments, word",
        [
            (["probe", "nothere.csv"], "nothere.csv"),
            (["probe", "."], "mkmeta scan"),
            (["probe", "--fmin", "x", "t.csv"], "--fmin"),
            (["probe", "t.csv"], "'path' or 'audio_path'"),
            (["resample", "t.csv", "--rate", "8000"], "-d DIR"),
            (["resample", "t.csv", "--rate", "8000", "-d", "o", "--in-place"], "not both"),
            (["resample", "t.csv", "--rate", "8000", "-d", "o"], "'audio_path'"),
            (["resample", "t.csv", "--rate", "0", "-d", "o"], "--rate"),
            (["trim", "t.csv", "-d", "o"], "--max-seconds"),
            (["trim", "t.csv", "-d", "o", "--start", "3", "--end", "2"], "nothing is between"),
            (["uni-fps", "t.csv", "-d", "o", "--fps", "0"], "--fps"),
            (["probe", "--shard", "3/2", "t.csv"], "--shard"),
            (["probe", "--engine", "spark", "t.csv"], "spark"),
            (["proeb"], "did you mean 'probe'"),
            (["probe", "empty.csv"], "empty"),
            (["probe", "ragged.csv"], "ragged.csv:3"),
            (["probe", "t.jsonl"], "t.jsonl:2"),
            (["mkmeta", "merge", "t.csv", "--to", "parquet"], "arquet"),
            (["mkmeta", "split", "t.csv", "--ratio", "a=0.5,b=0.6"], "--ratio"),
            (["mkmeta", "scan", "video", "nothere"], "nothere"),
        ],
    )
    def test_wrong_usage(self, arguments, word, avtools):
        (avtools.folder / "t.csv").write_text("id,x\na,1\n")
        (avtools.folder / "empty.csv").write_text("")
        (avtools.folder / "ragged.csv").write_text("path,x\na,1\nb\n")
        (avtools.folder / "t.jsonl").write_text('{"path": "a"}\n{"path": \n')
        done = avtools(*arguments, status=2)
        assert word in done.stderr
        assert "Traceback" not in done.stderr

    def test_unwritable_output(self, clips, avtools):
        done = avtools("probe", clips / "0.mp4", "-o", "no/such/t.csv", status=None)
        assert done.returncode in (2, 3) and "no/such" in done.stderr and done.stderr.count("\n") == 1

    def test_full_disk_on_standard_output(self, clips, avtools):
        with open("/dev/full", "wb") as full:
            process = avtools.start("probe", clips / "0.mp4", stdout=full)
            _, err = process.communicate()
        assert process.returncode == 3 and b"No space left" in err

    def test_terminal_gets_usage_at_once(self, avtools):
        leader, follower = pty.openpty()
        process = avtools.start("probe", stdin=follower)
        _, err = process.communicate(timeout=20)
        os.close(leader), os.close(follower)
        assert process.returncode == 2 and b"Usage: avtools probe" in err


class TestBadRows:
    ARGUMENTS = ["0.mp4", "text.mp4", "1.mp4"]

    def table(self, clips):
        return "path,note\n" + "".join(f"{clips / name},n\n" for name in self.ARGUMENTS)

    def test_fail(self, clips, avtools):
        done = avtools("probe", "--errors", "bad.jsonl", input=self.table(clips), status=1)
        assert done.stdout.count("\n") == 3
        (bad,) = map(json.loads, (avtools.folder / "bad.jsonl").read_text().splitlines())
        assert bad["path"] == str(clips / "text.mp4") and bad["note"] == "n" and "readable" in bad["error"]
        assert "<stdin>:3: " in done.stderr

    @pytest.mark.parametrize("limit, status", [(None, 0), ("1", 0), ("0", 1), ("34%", 0), ("33%", 1)])
    def test_drop(self, limit, status, clips, avtools):
        more = ["--max-bad", limit] if limit else []
        done = avtools("probe", "--on-error", "drop", *more, input=self.table(clips), status=status)
        assert done.stdout.count("\n") == 3

    def test_keep_and_pass_through(self, clips, avtools):
        kept = avtools("probe", "--on-error", "keep", input=self.table(clips)).stdout
        rows = kept.splitlines()
        assert rows[0].endswith(",error") and len(rows) == 4 and rows[2].startswith(f"{clips}/text.mp4,n,,,")
        passed = avtools("extract-audio", "--rate", "8000", "-d", "out", input=kept)
        assert passed.stdout.splitlines()[2] == rows[2] + ","
        assert not (avtools.folder / "out/text.wav").exists()

    def test_kept_rows_can_be_filtered_out(self, clips, avtools):
        kept = avtools("probe", "--on-error", "keep", input=self.table(clips)).stdout
        assert avtools("mkmeta", "filter", "--where", "num_frames > 20", input=kept).stdout.count("\n") == 3
        assert avtools("mkmeta", "filter", "--where", "num_frames > 0 and error == ''", input=kept).stdout.count("\n") == 3
        assert avtools("mkmeta", "filter", "--where", "error != ''", input=kept).stdout.count("text.mp4") > 0

    def test_row_without_the_column(self, clips, avtools):
        done = avtools("probe", input='{"path": "%s"}\n{"id": "x"}\n' % (clips / "0.mp4"), status=1)
        assert done.stdout.count("\n") == 1 and "<stdin>:2" in done.stderr
        done = avtools("probe", input=f"path,id\n{clips / '0.mp4'},a\n,b\n", status=1)
        assert done.stdout.count("\n") == 2 and "<stdin>:3" in done.stderr

    def test_late_jsonl_key(self, clips, avtools):
        text = '{"path": "%s"}\n{"path": "%s", "new": 1}\n' % (clips / "0.mp4", clips / "1.mp4")
        done = avtools("probe", "--to", "csv", input=text, status=1)
        assert "--to jsonl" in done.stderr and done.stdout.count("\n") == 2
        assert '"new": 1' in avtools("probe", input=text).stdout


class TestTables:
    def test_cells_survive_a_chain(self, clips, avtools):
        cells = ["00123", "NA", "1e5", "-0Bp8c", "", 'say "hi"', "two\nlines", "naïve 🎈", "a,b", " x "]
        header = ",".join(f"c{k}" for k in range(len(cells)))
        quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        text = f"path,{header}\n{clips / '0.mp4'},{quoted}\n"
        out = avtools.pipe(f"printf %s '{text.replace(chr(39), '')}' | avtools probe | avtools mkmeta merge | avtools probe --to jsonl").stdout
        row = json.loads(out)
        assert [row[f"c{k}"] for k in range(len(cells))] == cells

    def test_own_output_is_a_fixed_point(self, clips, avtools):
        first = avtools("probe", *sorted(clips.glob("?.mp4"))).stdout
        assert avtools("probe", input=first).stdout == first
        assert avtools("mkmeta", "merge", input=first).stdout == first

    def test_columns_are_updated_in_their_place(self, clips, avtools):
        out = avtools("probe", input=f"num_frames,path,x\n9,{clips / '0.mp4'},1\n").stdout
        assert out.startswith("num_frames,path,x,height,") and out.splitlines()[1].startswith("20,")

    def test_empty_streams_pass_through_pipes(self, avtools):
        assert avtools("probe", input="path,id\n").stdout.startswith("path,id,num_frames")
        out = avtools.pipe("printf '{\"path\": \"x\"}\\n' | avtools mkmeta filter --where \"path == 'y'\" | avtools probe | avtools mkmeta merge").stdout
        assert out == "\n"
        avtools("probe", input="", status=2)

    def test_standard_input_among_files(self, clips, avtools):
        (avtools.folder / "a.csv").write_text(f"path,x\n{clips / '0.mp4'},1\n")
        (avtools.folder / "b.jsonl").write_text('{"path": "%s", "y": [1, 2]}\n' % (clips / "2.mp4"))
        out = avtools("mkmeta", "merge", "a.csv", "-", "b.jsonl", input=f"path,z\n{clips / '1.mp4'},3\n").stdout
        assert out.splitlines()[0] == "path,x,z,y" and out.splitlines()[3].endswith(',,,"[1,2]"')

    @pytest.mark.parametrize("name", ["-a.mp4", "a b.mp4", "new\nline.mp4", 'q"uo\'te.mp4', "ünï.MP4", "100%.mp4", "a#b?c.mp4", "http:x.mp4", "not UTF-8"])
    def test_odd_names(self, name, clips, avtools):
        name = os.fsdecode(b"\xff\xfe.mp4") if name == "not UTF-8" else name
        (avtools.folder / "in").mkdir()
        (avtools.folder / "in" / name).write_bytes((clips / "0.mp4").read_bytes())
        line = "avtools mkmeta scan video in | avtools probe --fmin 1 | avtools uni-fps --fps 5 -d f | avtools extract-audio --rate 8000 -d a --to jsonl"
        done = subprocess.run(["bash", "-c", f'avtools() {{ "{sys.executable}" -m avtools "$@"; }}; set -o pipefail; {line}'], cwd=avtools.folder, capture_output=True)
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout.decode("utf-8", "surrogateescape"))
        assert row["relpath"] == name and row["path"] == f"f/{name}" and row["num_frames"] == "4"
        assert os.path.isfile(avtools.folder / row["audio_path"])
        if not name.startswith("http"):
            direct = subprocess.run(command("probe", "--", name), cwd=avtools.folder / "in", capture_output=True)
            assert direct.returncode == 0, direct.stderr

    def test_folder_named_like_a_file(self, clips, avtools):
        (avtools.folder / "set.mp4s").mkdir()
        (avtools.folder / "set.mp4s/clip.mp4").write_bytes((clips / "0.mp4").read_bytes())
        done = avtools("extract-audio", "--rate", "8000", "-d", "set.mp4s", "set.mp4s/clip.mp4")
        assert done.stdout.splitlines()[1].startswith("set.mp4s/clip.mp4,set.mp4s/clip.wav,")

    def test_shards_make_the_whole(self, clips, avtools):
        avtools("mkmeta", "scan", "video", clips, "-o", "t.csv")
        whole = avtools("probe", "t.csv", "--on-error", "keep").stdout
        for k in (1, 2, 3):
            avtools("probe", "t.csv", "--shard", f"{k}/3", "--on-error", "keep", "-o", f"{k}.csv")
        assert avtools("mkmeta", "merge", "1.csv", "2.csv", "3.csv").stdout == whole
        assert avtools("probe", "--shard", "2/3", "--on-error", "keep", input=(avtools.folder / "t.csv").read_text()).stdout == (avtools.folder / "2.csv").read_text()

    def test_output_over_the_input(self, clips, avtools):
        (avtools.folder / "t.csv").write_text(f"path\n{clips / '0.mp4'}\n")
        avtools("probe", "t.csv", "-o", "t.csv")
        assert (avtools.folder / "t.csv").read_text().count("\n") == 2

    def test_formats(self, clips, avtools):
        for suffix in ("csv", "tsv", "jsonl", "parquet"):
            avtools("probe", clips / "0.mp4", clips / "1.mp4", "-o", f"t.{suffix}")
            assert avtools("mkmeta", "merge", f"t.{suffix}", "--to", "csv").stdout == avtools("probe", clips / "0.mp4", clips / "1.mp4").stdout


class TestPipes:
    def test_head_ends_all_quietly(self, clips, avtools):
        """A reader that goes away ends each stage by SIGPIPE, as coreutils end."""
        rows = "path,text\n" + "".join(f"{clips / '0.mp4'},{'x' * 2000} {k}\n" for k in range(500))
        (avtools.folder / "t.csv").write_text(rows)
        done = avtools.pipe("avtools probe t.csv -q | avtools extract-audio --rate 8000 -d a -q | head -n 2; echo ${PIPESTATUS[@]}")
        assert done.stdout.splitlines()[-1] in ("141 141 0", "0 141 0")
        assert done.stderr == ""
        assert not list((avtools.folder / "a").rglob("*.tmp"))

    @pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"]])
    def test_closed_before_the_first_word(self, arguments, avtools):
        reading, writing = os.pipe()
        os.close(reading)
        process = avtools.start(*arguments, stdout=writing)
        os.close(writing)
        _, err = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGPIPE and err == b""

    def test_a_slow_input_hides_no_reader_that_went_away(self, avtools):
        """Finished rows are flushed when more input is waited for: that may be where the pipe breaks."""
        slow = "(printf 'id\\n'; sleep 1; printf '1\\n2\\n'; sleep 1; printf '3\\n')"
        done = avtools.pipe(f"{slow} | avtools mkmeta merge | head -n 1; echo ${{PIPESTATUS[@]}}")
        assert done.stdout == "id\n141 141 0\n" and done.stderr == ""

    def test_rows_flow_while_the_input_is_open(self, clips, avtools):
        process = avtools.start("probe", "-q", stdin=subprocess.PIPE)
        process.stdin.write(f"path\n{clips / '0.mp4'}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"path,num_frames")
        assert process.stdout.readline().startswith(str(clips / "0.mp4").encode())
        process.stdin.close()
        assert process.wait(20) == 0

    def test_first_row_comes_before_the_last_is_read(self, clips, avtools):
        line = "avtools probe -q | avtools mkmeta filter -q --where 'num_frames > 0' | avtools probe -q"
        process = subprocess.Popen(["bash", "-c", f'avtools() {{ "{sys.executable}" -m avtools "$@"; }}; {line}'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(f"path\n{clips}/0.mp4\n".encode())
        process.stdin.flush()
        held = threading.Timer(120, process.kill)  # what it is held back for never comes
        held.start()
        process.stdout.readline()
        assert b"0.mp4" in process.stdout.readline(), "the first row was held back until the second came"
        held.cancel()
        process.communicate(f"{clips}/1.mp4\n".encode())

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_signals_flush_what_is_finished(self, name, clips, avtools):
        process = avtools.start("probe", "-q", stdin=subprocess.PIPE)
        process.stdin.write(f"path\n{clips / '0.mp4'}\n".encode())
        process.stdin.flush()
        process.stdout.readline(), process.stdout.readline()
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=20)
        assert process.returncode == -getattr(signal, name) and err == b""

    def test_quiet_says_nothing(self, clips, avtools):
        done = avtools("probe", clips / "0.mp4", "-q")
        assert done.stderr == ""


class TestRanks:
    def start(self, avtools, rank, size, job, *arguments, **settings):
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_PORT": job}
        return avtools.start(*arguments, env=env, **settings)

    @pytest.mark.parametrize("writes", [False, True])
    def test_ranks_share_the_rows(self, writes, clips, avtools):
        avtools("mkmeta", "scan", "video", clips, "-o", "t.csv")
        line = ["extract-audio", "--rate", "8000", "-d", "a"] if writes else ["probe"]
        alone = avtools(*line, "t.csv", "--on-error", "keep").stdout
        if writes:
            (avtools.folder / "a").rename(avtools.folder / "b")
        runs = [self.start(avtools, rank, 3, f"{os.getpid()}{writes}", *line, "t.csv", "--on-error", "keep") for rank in (2, 1, 0)]
        outs = [run.communicate(timeout=60) for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], outs
        assert outs[2][0].decode() == alone and outs[0][0] == outs[1][0] == b""

    def test_five_captions_of_a_clip_over_ranks(self, clips, avtools):
        table = "path,text\n" + "".join(f"{clips / '0.mp4'},{k}\n{clips / '1.mp4'},{k}\n" for k in range(5))
        (avtools.folder / "t.csv").write_text(table)
        runs = [self.start(avtools, rank, 2, f"{os.getpid()}c", "extract-audio", "--rate", "8000", "-d", "a", "t.csv") for rank in (0, 1)]
        out, err = runs[0].communicate(timeout=60)
        runs[1].communicate(timeout=60)
        assert out.decode().count("\n") == 11 and b"files: 2 made, 0 without change, 8 reused" in err

    def test_a_fatal_rank_ends_the_run(self, clips, avtools):
        (avtools.folder / "t.csv").write_text("path\n" + f"{clips / '0.mp4'}\n" * 4)
        (avtools.folder / "f").write_text("")
        runs = [self.start(avtools, rank, 2, f"{os.getpid()}f", "extract-audio", "--rate", "8000", "-d", "f/a", "t.csv") for rank in (0, 1)]
        assert [run.communicate(timeout=60) and run.returncode for run in runs] == [3, 3]


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}, "a\0b", "\ud800", True])
@pytest.mark.parametrize("line", [["probe"], ["trim", "--max-seconds", "1", "-d", "o"], ["extract-audio", "--rate", "8000", "-d", "o"], ["uni-fps", "--fps", "5", "-d", "o"]])
def test_a_cell_that_is_no_path(value, line, clips, avtools):
    rows = [{"path": value}, {"path": str(clips / "0.mp4"), "relpath": value}, {"path": str(clips / "1.mp4")}]
    done = avtools(*line, input="".join(json.dumps(row) + "\n" for row in rows), status=1)
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
    assert "<stdin>:1: " in done.stderr and done.stdout.splitlines()[-1].count("1.mp4")


class TestStreamsThatAreMissing:
    @pytest.mark.parametrize("line", ["probe {clip}", "--help"])
    @pytest.mark.parametrize("closed, status", [(">&-", 3), (">/dev/full", 3), ("2>&-", 0), ("2>/dev/full", 0)])
    def test_closed_or_full(self, line, closed, status, clips, avtools):
        done = avtools.pipe(f"avtools {line.format(clip=clips / '0.mp4')} {closed}", status=status)
        assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1

    def test_table_is_written_without_standard_error(self, clips, avtools):
        avtools.pipe(f"avtools probe {clips / '0.mp4'} -o t.csv 2>&- <&-")
        assert (avtools.folder / "t.csv").read_text().count("\n") == 2


class TestTwoOutputsInOne:
    @pytest.mark.parametrize("line", ["probe t.csv -o x.jsonl --errors x.jsonl", "mkmeta split t.csv --ratio a=0.5,b=0.5 --into s -o s/a.csv"])
    def test_refused(self, line, clips, avtools):
        (avtools.folder / "t.csv").write_text(f"path\n{clips / '0.mp4'}\n")
        (avtools.folder / "s").mkdir()
        done = avtools(*line.split(), status=2)
        assert "two outputs" in done.stderr
        assert not list(avtools.folder.rglob("*.tmp"))

    @pytest.mark.parametrize("name", ["-", "bad.csv"])
    def test_errors_are_jsonl_in_a_file(self, name, avtools):
        assert "--errors" in avtools("probe", "--errors", name, input="path\n", status=2).stderr


def test_no_leftovers_when_a_later_writer_fails(clips, avtools):
    (avtools.folder / "f").write_text("")
    (avtools.folder / "t.csv").write_text(f"path,id\n{clips / '0.mp4'},a\n")
    avtools("probe", "t.csv", "-o", "x.csv", "--errors", "no/e.jsonl", status=2)
    avtools("mkmeta", "split", "t.csv", "--ratio", "a=1", "--into", "f", "-o", "x.csv", status=2)
    avtools("mkmeta", "join", "table", "--with", "no.csv", "--on", "id", "--take", "x", "--unmatched", "u.csv", "t.csv", status=2)
    assert sorted(path.name for path in avtools.folder.iterdir()) == ["f", "t.csv"]


def test_a_cell_nested_too_deeply(clips, avtools):
    deep = '{"path":' + "[" * 900 + "]" * 900 + "}\n"
    done = avtools("probe", "--from", "jsonl", input=deep + '{"path": "%s"}\n' % (clips / "0.mp4"), status=1)
    assert done.stdout.count("\n") == 1 and len(done.stderr) < 500


def test_shuffled_shards_make_the_whole(avtools):
    (avtools.folder / "t.csv").write_text("id\n" + "".join(f"{k}\n" for k in range(100)))
    parts = [avtools("mkmeta", "shuffle", "t.csv", "--shard", f"{k}/3").stdout.splitlines()[1:] for k in (1, 2, 3)]
    assert sum(parts, []) == avtools("mkmeta", "shuffle", "t.csv").stdout.splitlines()[1:]
    assert sorted(sum(parts, []), key=int) == list(map(str, range(100)))


def test_keep_goes_on_where_a_row_cannot_even_be_kept(clips, avtools):
    rows = [{"path": "/no1"}, {"path": "/no2", "x": 1}, {"path": str(clips / "0.mp4")}]
    done = avtools("probe", "--to", "csv", "--on-error", "keep", input="".join(json.dumps(row) + "\n" for row in rows))
    assert "0.mp4" in done.stdout and "--to jsonl" in done.stderr and "3 rows in" in done.stderr


def test_parquet_holds_numbers_beside_text(clips, avtools):
    (avtools.folder / "t.csv").write_text(f"path,num_frames\nplaceholder.mp4,96\n{clips / '0.mp4'},1\n")
    avtools("probe", "t.csv", "-o", "t.parquet")
    assert avtools("mkmeta", "merge", "t.parquet", "--to", "csv").stdout == avtools("probe", "t.csv").stdout


@pytest.mark.parametrize("line", [["uni-fps", "--fps", "1e99999999"], ["mkmeta", "split", "--ratio", "a=1e99999999"], ["probe", "--shard", "²/²"], ["uni-fps", "--fps", "5", "--crop-resize", "²x²"], ["resample", "--rate", "8000", "--channels", "²"]])
def test_numbers_out_of_bounds(line, avtools):
    done = avtools(*line, *(["-d", "o"] if line[0] in ("uni-fps", "resample") else []), input="path\n", status=2)
    assert "Traceback" not in done.stderr


def test_a_signal_leaves_nothing_in_tmpdir(clips, avtools):
    (avtools.folder / "tmp").mkdir()
    process = avtools.start("probe", "-q", stdin=subprocess.PIPE, env={**os.environ, "TMPDIR": str(avtools.folder / "tmp")})
    process.stdin.write(f"path\n{clips / '0.mp4'}\n".encode())
    process.stdin.flush()
    process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    avtools.wait_for_workers()
    assert not list((avtools.folder / "tmp").iterdir())


def test_ranks_end_when_their_first_is_stopped(clips, avtools):
    (avtools.folder / "t.csv").write_text("path,relpath\n" + "".join(f"{clips / '0.mp4'},{k}.mp4\n" for k in range(3000)))
    line = ["uni-fps", "--fps", "7", "-d", "o", "t.csv", "-j1"]
    runs = [TestRanks().start(avtools, rank, 2, f"{os.getpid()}k", *line) for rank in (0, 1)]
    while not list((avtools.folder / "o").glob("*.mp4")):
        time.sleep(0.05)
    runs[0].send_signal(signal.SIGTERM)
    out, err = runs[1].communicate(timeout=60)
    assert runs[1].returncode == 3 and b"rank 0 has ended" in err and b"Traceback" not in err
    runs[0].communicate()
    assert runs[0].returncode == -signal.SIGTERM
