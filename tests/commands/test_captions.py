"""Cleaning captions, and their languages."""

import re
import subprocess
import sys

import pytest
from ftfy import fix_encoding
from hypothesis import example, given, settings, strategies as st

from avtools.datasets.captions import Languages, clean
from avtools.errors import UsageError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A dog  barks\t\r\n loudly ", "A dog barks loudly"),
        ('"A dog barks"', "A dog barks"),
        ('""A dog barks""', "A dog barks"),
        ('"A dog barks', "A dog barks"),
        ('A dog barks"', "A dog barks"),
        ("'A dog's bark'", "A dog's bark"),
        ("“A dog barks”", "A dog barks"),
        ("«\xa0Un chien aboie\xa0»", "Un chien aboie"),
        ("„Ein Hund bellt“", "Ein Hund bellt"),
        ("cats &amp; dogs", "cats & dogs"),
        ("cats &amp;amp;amp; dogs", "cats & dogs"),
        ("a &lt;b&gt; c", "a <b> c"),
        ("&quot;A dog barks&quot;", "A dog barks"),
        ("it&#39;s < 3", "it's < 3"),
        ("MÃ¶we schreit", "Möwe schreit"),
        ("Ð¡Ð¾Ð±Ð°ÐºÐ° Ð»Ð°ÐµÑ‚", "Собака лает"),
        ("caf\udce9 noir", "café noir"),  # Latin-1 in a file that was read as UTF-8
        ("\ufeffA \u200bdog\u2060 b\xadarks\x00\x07", "A dog barks"),
        ("a\u200db\u200cc", "abc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("ﬁre", "fire"),
        ("e\u0301te\u0301", "été"),
        ("&nbsp;", ""),
        ('""', ""),
        ("\u3000犬が\u3000吠える\u3000", "犬が 吠える"),
    ],
)
def test_cleaned(text, expected):
    assert clean(text) == expected
    assert clean(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A man says \"hello\"",
        '"Hello" and "bye"',
        '"A dog" barks',
        "dogs' barks",
        "'Tis the dogs",
        'a monitor of 24"',
        "“A” and “B”",
        "It’s the dog’s",
        "R&D at AT&T, rock&region",
        "L’eau coule dans l’évier",
        "「犬」が、吠える。（遠くで）！",
        "一只狗在叫，然后——安静了。",
        "개가 크게 짖고 있다",
        "می‌خواهم صدای سگ را بشنوم",
        "क्‍षमा और पानी",
        "ความเงียบ แล้วหมาเห่า",
        "كلب ينبح؛ ثم صمت",
        "כלב נובח",
        "Chó sủa ầm ĩ",
        "👨‍👩‍👧 sing 🎵",
        "NA",
        "nan",
        "00123",
        "½ speed, 30 °C, 5 € — ok…",
        "",
    ],
)
def test_left_alone(text):
    assert clean(text) == text


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\"'&;#&amp;lt“”«»„‘’ \u200b\u200c\u200d\u3000\xa0Ã©â€\u0301\u0646x")))
@example("&amp;lt;amp;quot;x&quot;")
@example("\u0646\u200c\u200b\u200d\u0646")
@example("'\"“«x»”\"'")
@settings(max_examples=500, deadline=None)
def test_cleaning_twice_changes_nothing_and_letters_stay(text):
    once = clean(text)
    assert clean(once) == once
    assert once == once.strip() and "\n" not in once and "  " not in once
    letters = any(char.isalpha() for char in re.sub("&.*?;|\x1b.*", "", fix_encoding(text)))  # of entities, escapes, wrong decoding there are none
    assert once or not letters


SENTENCES = {
    "en": ["A dog barks loudly while a man speaks in the background", "Water flows into a basin as birds chirp in the distance", "The motor of a motorcycle roars and then slowly moves away"],
    "de": ["Ein Hund bellt laut, während ein Mann im Hintergrund spricht", "Wasser fließt in ein Becken und Vögel zwitschern in der Ferne"],
    "fr": ["Un chien aboie bruyamment pendant qu'un homme parle", "Le moteur d'une moto rugit puis s'éloigne lentement"],
    "es": ["Un perro ladra fuerte mientras un hombre habla al fondo", "La lluvia cae sobre un techo de chapa y luego truena"],
    "zh": ["一只狗大声吠叫，一个男人在背景中说话", "雨打在铁皮屋顶上，然后打雷"],
    "ru": ["Собака громко лает, пока на заднем плане говорит мужчина", "Вода течёт в бассейн, а вдалеке поют птицы"],
    "ja": ["犬が大きな声で吠え、背景で男性が話している", "猫が何度も続けて鳴いている"],
}
LABELS = ["dog", "playing cello", "foghorn", "hail", "thunder", "metronome", "pig oinking", "orchestra", "yodelling", "door slamming", "Glockenspiel", "Grunge", "Tabla", "airplane flyby"]


@pytest.fixture(scope="module")
def english():
    pytest.importorskip("lingua")
    return Languages("en")


@pytest.mark.parametrize("code", SENTENCES)
def test_sentences_are_told_apart(english, code):
    own = Languages([code])
    others = [text for other, texts in SENTENCES.items() if other != code for text in texts]
    assert all(own.holds(text) for text in SENTENCES[code])
    assert sum(own.holds(text) for text in others) <= (code != "en")  # what is not certain passes
    assert [english.holds(text) for text in SENTENCES[code]] == [code == "en"] * len(SENTENCES[code])


@pytest.mark.parametrize("label", LABELS)
def test_short_labels_are_in_doubt(english, label):
    assert english.holds(label)


@pytest.mark.parametrize("text", ["", " ", "123", "…", "🎵"])
def test_what_has_no_letters_is_of_no_language(english, text):
    assert english.holds(text) and Languages("zh").holds(text)


def test_several_languages(english):
    both = Languages(["de", " FR"])
    assert all(both.holds(text) for text in SENTENCES["de"] + SENTENCES["fr"])
    assert not any(both.holds(text) for text in SENTENCES["es"] + SENTENCES["ru"] + SENTENCES["en"])


@pytest.mark.parametrize("codes", ["english", "en,xx", "", []])
def test_unknown_codes(english, codes):
    with pytest.raises(UsageError, match="en, .*zh|ISO 639-1"):
        Languages(codes)


def test_without_lingua(avtools):
    (avtools.folder / "t.csv").write_text("text\na dog\n")
    line = "import sys\nsys.modules['lingua'] = None\nfrom avtools.cli import main\nmain(['mkmeta', 'captions', 't.csv', '--language', 'en', '-o', 'o.csv'])"
    done = subprocess.run([sys.executable, "-c", line], cwd=avtools.folder, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "pip install 'avtools[languages]'" in done.stderr
    assert not (avtools.folder / "o.csv").exists()


def test_a_table_of_all_languages(avtools, english):
    lines = [f'{code}_{i},"{text}",' for code, texts in SENTENCES.items() for i, text in enumerate(texts)]
    lines += [f"label_{i},{label}," for i, label in enumerate(LABELS)] + ["sound,,Ein Hund bellt laut und ein Mann spricht"]
    (avtools.folder / "t.csv").write_text("\n".join(["id,text,audio_text", *lines]) + "\n")
    done = avtools("mkmeta", "captions", "t.csv", "--language", "en,de")
    kept = [line.split(",")[0] for line in done.stdout.splitlines()[1:]]
    assert kept == [line.split(",")[0] for line in lines if line.startswith(("en", "de", "label", "sound"))]
    assert "10 rows filtered: text in another language than en, de" in done.stderr
    done = avtools("mkmeta", "captions", "t.csv", "--language", "en", "--column", "audio_text")
    assert "1 rows filtered: audio_text in another language than en" in done.stderr and "+ 1 filtered +" in done.stderr


def test_a_caption_column_that_turns_up_later(avtools):
    done = avtools("mkmeta", "captions", "--drop-empty", "--clean", input='{"id": 1, "text": "a  b"}\n{"id": 2, "audio_text": "c  d"}\n{"id": 3}\n')
    assert done.stdout == '{"id": 1, "text": "a b"}\n{"id": 2, "audio_text": "c d"}\n'
