"""Scores of captions: against the field's own programs' values, and on texts that have little to score."""

import json
import pathlib

import numpy as np
import pytest

from avtools.errors import FatalError, RowError, UsageError
from avtools.hub import Weights
from avtools.metrics import Jackknife, Skip, configured
from avtools.metrics.bertscore import BertScore
from avtools.metrics.captioning import Bleu, Captions, Cider, Rouge, common_length
from avtools.metrics.media import Pair
from avtools.metrics.meteor import Meteor, read_wordnet, score
from avtools.metrics.words import words

# Made up; what coco-caption (pycocoevalcap 1.2, Stanford's tokenizer 3.4.1, its
# tokens of brackets dropped) says of them is below.
ROWS = [
    ("A dog barks loudly, and a man's talking.", ["A dog is barking while a man talks", "a man talks; a dog barks"]),
    ("Rain falls on a tin roof", ["Heavy rain falls onto the tin roof of a shed.", "It's raining on a roof", "Rain hitting a roof"]),
    ("birds", ["Several birds chirp and sing in the well-known forest"]),
    ("A car's engine doesn't start (twice)", ["An engine cranks and doesn't start", "A car cannot start"]),
    ("a a a a", ["a woman speaks"]),
    ("Two people laugh", ["two people laugh"]),
    ("Water runs, then a door slams shut twice", ["Water runs and then a door slams shut", "someone closes a door"]),
]
COCO = {
    "bleu": [0.654115757207, 0.536380422274, 0.387985045189, 0.267726613531],
    "rouge": [0.475633528265, 0.713450292398, 0.174785100287, 0.554545454545, 0.293269230769, 1, 0.875],
    "cider": [2.15671718536, 1.5244213586, 0.372715612417, 1.98221790724, 0.0748061690367, 7.5, 3.59953974453],
}  # fmt: skip


def pair(judged, references, **more):
    return Pair({"generated_text": judged, "captions": references, **more}, {})


def whole(metric, rows=ROWS):
    state = metric.start()
    for row in rows:
        state = metric.accumulate(state, metric.features(pair(*row)))
    return metric.finalize(state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # by Stanford's PTBTokenizer -lowerCase, without punctuation
        ('A man\'s dog doesn\'t bark; it\'s "quiet" -- isn\'t it?', "a man 's dog does n't bark it 's quiet is n't it"),
        ("Mr. Smith cannot go, he's gonna leave at 5 p.m.", "mr. smith can not go he 's gon na leave at 5 p.m."),
        ("on 3.5 streets for $10,000.50! dog—then 1–2 a – b", "on 3.5 streets for $ 10,000.50 dog then 1 2 a b"),
        ("The t-shirt and/or well-known black-and-white picture... wow…", "the t-shirt and/or well-known black-and-white picture wow"),
        ("They'll've done it; I'd say we're fine. can't won’t", "they 'll 've done it i 'd say we 're fine ca n't wo n't"),
        ("U.S. trains vs. cars, e.g. trucks, etc.", "u.s. trains vs. cars e.g. trucks etc."),
        ("email me@x.com or http://a.b/c?d=e #tag @you 50% & more", "email me@x.com or http://a.b/c?d=e #tag @you 50 % & more"),
        ("rock 'n' roll 'tis the 90's and the '80s dogs' owner's", "rock 'n' roll 't is the 90 's and the '80s dogs owner 's"),
        ("Été à la plage, naïve café; 犬が吠える", "été à la plage naïve café 犬が吠える"),
        ("under_score c++ a+b=c 3x4 x^2 ma'am o'clock", "under_score c++ a + b = c 3x4 x ^ 2 ma'am o'clock"),
        ("dogs,cats and birds;bees:wasps 2-3 -5 1/2 10:30 Jan. 1st", "dogs cats and birds bees wasps 2-3 -5 1/2 10:30 jan. 1st"),
        ("(it) [is] {so}, 2020", "it is so 2020"),
        ("!!! ?? — ... ' \" `` ''", ""),
        ("", ""),
    ],
)
def test_words_are_the_penn_treebanks(text, expected):
    assert " ".join(words(text)) == expected


def test_words_of_long_rubbish_take_no_longer_than_they_must():
    assert words("." * 200_000) == [] and len(words("a." * 100_000)) == 1 and len(words("-a_" * 50_000)) < 50_001


def test_bleu_rouge_and_cider_are_coco_captions():
    assert whole(Bleu()) == {f"bleu_{n}": pytest.approx(COCO["bleu"][n - 1], abs=1e-9) for n in (4, 1, 2, 3)}
    assert [Rouge().row(pair(*row))["rouge_l"] for row in ROWS] == pytest.approx(COCO["rouge"], abs=1e-9)
    assert whole(Cider())["cider"] == pytest.approx(np.mean(COCO["cider"]), abs=1e-9)


def test_cider_of_each_row_and_of_parts_merged():
    from avtools.metrics.captioning import Block, Rows, ciders

    metric = Cider()
    features = [metric.features(pair(*row)) for row in ROWS]
    one, other, alone = Rows((Block(features[:2]),)), Rows((Block(features[2:]),)), Rows((Block(features[:1]),))
    np.testing.assert_allclose(ciders(metric.merge(one, other)), COCO["cider"], atol=1e-9)
    assert metric.finalize(metric.merge(one, other)) == metric.finalize(Rows((Block(features),)))
    assert metric.finalize(alone) == {"cider": 0} and metric.remarks(alone) and not metric.remarks(metric.merge(one, other))
    jackknife = Jackknife(metric)
    for number, one in enumerate(features):
        jackknife.add(one, number, None)
    values, intervals = jackknife.results()
    assert values["cider"] == pytest.approx(np.mean(COCO["cider"])) and intervals["cider"][0] < values["cider"] < intervals["cider"][1]


def test_features_travel_as_arrays():
    from avtools.metrics.scoring import packed, unpacked

    for metric in (Bleu(), Cider()):
        features = [json.loads(json.dumps(packed(metric.features(pair(*row))))) for row in ROWS]
        state = metric.start()
        for one in features:
            state = metric.accumulate(state, unpacked(one))
        assert metric.finalize(state) == whole(metric)


def test_common_subsequences():
    assert common_length([], ["a"]) == 0 and common_length(list("abcbdab"), list("bdcaba")) == 4


def test_texts_without_words():
    assert Rouge().row(pair("...", ["a dog"])) == {"rouge_l": 0}
    assert whole(Bleu(), [("?!", ["a dog"])]) == dict.fromkeys(Bleu.columns, 0)
    assert whole(Cider(), [("?!", ["a dog"]), ("a", ["b"])]) == {"cider": 0}
    with pytest.raises(Skip, match="no reference has a word"):
        Rouge().row(pair("a dog", ["...", "-"]))
    assert Rouge().row(pair("a dog", ["...", "a dog"])) == {"rouge_l": 1}


def test_which_columns_are_compared():
    def of(row, **settings):
        return Rouge(**settings).texts(Pair(row, {}))

    assert of({"generated_text": "a", "text": "b", "captions": ["c", "", None, "d"]}) == ("a", ["c", "d"])
    assert of({"generated_text": "a", "captions": '["c, d", "e"]'}) == ("a", ["c, d", "e"])  # as CSV has lists
    assert of({"generated_text": "a", "captions": "[music] plays"}) == ("a", ["[music] plays"])
    assert of({"text": "a", "description": "b"}, column="text") == ("a", ["b"])
    assert of({"said": "a", "true": "b", "text": "c"}, column="said", references="true") == ("a", ["b"])
    for row, told in (
        ({"captions": "b"}, "generated_text"),
        ({"generated_text": " ", "text": "b"}, "no text to judge"),
        ({"generated_text": "a", "text": ""}, "to judge by"),
        ({"generated_text": ["a", "b"], "text": "c"}, "2 texts"),
        ({"generated_text": "a", "captions": [1]}, "neither a text"),
        ({"generated_text": 3, "text": "a"}, "neither a text"),
    ):
        with pytest.raises(RowError, match=told):
            of(row)
    with pytest.raises(UsageError, match="judged column itself"):
        configured([Rouge], None, ("column=text", "references=text"))
    assert issubclass(Rouge, Captions) and "text" not in Rouge(column="text").reference_texts


# --- METEOR -------------------------------------------------------------------------------------------------


def tiny_wordnet(folder: pathlib.Path) -> pathlib.Path:
    """dog = hound (noun), bark = woof (verb), and little else, as WordNet's files have it."""
    folder.mkdir(parents=True)
    head = "  1 WordNet 3.0 Copyright\n"
    for kind, letter, synset in (("noun", "n", ("dog", "hound")), ("verb", "v", ("bark", "woof")), ("adj", "a", ("loud",)), ("adv", "r", ("loudly",))):
        frames = " 01 + 02 00" if letter == "v" else ""
        words_of = " ".join(f"{word} 0" for word in synset)
        (folder / f"data.{kind}").write_text(f"{head}{len(head):08d} 05 {letter} {len(synset):02x} {words_of} 000{frames} | tests\n")
        (folder / f"index.{kind}").write_text(head + "".join(f"{word} {letter} 1 0 1 0 {len(head):08d}  \n" for word in sorted(synset)))
        (folder / f"{kind}.exc").write_text("")
    (folder / "lexnames").write_text("".join(f"{k:02d}\tname.{k}\t1\n" for k in range(45)))
    return folder


@pytest.fixture
def wordnet(tmp_path):
    pytest.importorskip("nltk")
    return tiny_wordnet(tmp_path / "data" / "corpora" / "wordnet")


def test_meteor_matches_forms_stems_and_synonyms(wordnet):
    reader = read_wordnet(wordnet)

    def of(judged, *references):
        return score(judged.split(), [one.split() for one in references], reader)

    same = 1 - 0.5 * (1 / 3) ** 3  # one chunk of three words
    assert of("a dog barks", "a dog barks") == of("a hound barks", "a dog barks") == of("a dog barked", "a dog barks") == pytest.approx(same)
    assert of("a cat barks", "a dog barks") == pytest.approx(2 / 3 * 0.5)  # two chunks of two words
    assert of("a cat barks", "a dog barks", "a cat barks") == pytest.approx(same) and score([], [["a"]], reader) == 0


def test_meteor_of_rows(wordnet, tmp_path):
    metric = Meteor()
    for given in (wordnet, wordnet.parent, tmp_path / "data"):
        weights = Weights.parse([f"wordnet={given}"])
        metric.load(None, weights)
        items = [metric.prepare(pair(*row)) for row in ROWS]
        found = [metric.row(one)["meteor"] for one in metric.run(items)]
        assert found == [metric.row(metric.run([item])[0])["meteor"] for item in items]
        assert found[5] == pytest.approx(1 - 0.5 / 27) and all(0 <= one <= 1 for one in found)
    digest = metric.weights_digest(weights)
    with open(wordnet / "data.noun", "a") as file:
        file.write("more\n")
    assert metric.weights_digest(weights) != digest


def test_meteor_without_wordnet(wordnet, tmp_path, monkeypatch):
    import nltk.data

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(FatalError, match=r"no weights of WordNet.*--weights wordnet="):
        Meteor().load(None, Weights.parse([]))
    with pytest.raises(FatalError, match="holds no WordNet"):
        Meteor().load(None, Weights.parse([f"wordnet={tmp_path}"]))
    (wordnet / "index.verb").unlink()
    with pytest.raises(FatalError, match="cannot be read"):
        Meteor().load(None, Weights.parse([f"wordnet={wordnet}"]))


# --- BERTScore ----------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def language_model(folder: pathlib.Path, kind: str, layers: int) -> pathlib.Path:
    """A small random one, with its tokenizer."""
    torch, transformers, tokenizers = (pytest.importorskip(name) for name in ("torch", "transformers", "tokenizers"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 80}
    folder.mkdir()
    if kind == "bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "a", *".,", *LETTERS[1:], *(f"##{letter}" for letter in LETTERS)]
        tokenizer = tokenizers.BertWordPieceTokenizer({token: number for number, token in enumerate(vocabulary)})
        special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        net = transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), **sizes))
    else:
        tokenizer = tokenizers.ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(["a dog barks", "a man talks"] * 3, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"])
        tokenizer._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
        net = transformers.RobertaModel(transformers.RobertaConfig(vocab_size=300, pad_token_id=1, **sizes))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **special).save_pretrained(folder)
    net.save_pretrained(folder)
    return folder


def scored(folder, rows, at_once=None, **settings):
    import torch

    metric = BertScore(**settings)
    metric.load("cpu", Weights.parse([f"bertscore={folder}"]))
    items = [metric.prepare(pair(*row)) for row in rows]
    with torch.inference_mode():
        outputs = metric.run(items) if at_once is None else [one for item in items for one in metric.run([item])]
    return [metric.row(one) for one in outputs]


def by_formula(folder, layer, judged, reference, blank):
    """BERTScore written out: all layers, one text at a time, loops."""
    import torch
    import transformers

    tokenizer, net = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder).eval()

    def features(text):
        with torch.no_grad():
            return net(**tokenizer(blank + text, return_tensors="pt", return_token_type_ids=False), output_hidden_states=True).hidden_states[layer][0]

    one, other = features(judged), features(reference)

    def side(ours, theirs):
        return float(np.mean([max(float(torch.cosine_similarity(a, b, dim=0)) for b in theirs) for a in ours[1:-1]]))

    precision, recall = side(one, other), side(other, one)
    return {"bertscore_f1": 2 * precision * recall / (precision + recall), "bertscore_precision": precision, "bertscore_recall": recall}


@pytest.mark.parametrize(("kind", "layers", "layer", "blank"), [("bert", 12, 9, ""), ("roberta", 6, 5, " ")])
def test_bertscore_by_its_formula(tmp_path, kind, layers, layer, blank):
    folder = language_model(tmp_path / "m", kind, layers)
    (found,) = scored(folder, [("A dog barks, twice.", ["a dog barked"])])
    expected = by_formula(folder, layer, "A dog barks, twice.", "a dog barked", blank)
    assert found == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    assert scored(folder, [("A dog barks, twice.", ["a dog barked"])], layer=2)[0] != found


def test_bertscore_takes_the_best_reference_and_no_notice_of_the_batch(tmp_path):
    folder = language_model(tmp_path / "m", "bert", 12)
    whole, alone = scored(folder, ROWS), scored(folder, ROWS, at_once=1)
    for one, other in zip(whole, alone, strict=True):
        assert one == {name: pytest.approx(value, abs=1e-5) for name, value in other.items()}
    judged, references = ROWS[0]
    each = scored(folder, [(judged, [reference]) for reference in references])
    assert whole[0] == {name: pytest.approx(max(one[name] for one in each), abs=1e-5) for name in whole[0]}
    assert scored(folder, [("a " * 500, ["a " * 500])])[0]["bertscore_f1"] == pytest.approx(1, abs=1e-5)  # cut where the model ends


def test_bertscore_says_what_is_wrong_with_a_model(tmp_path):
    folder = language_model(tmp_path / "m", "bert", 2)
    with pytest.raises(UsageError, match=r"no layer is known.*bertscore.layer=N, 1 to 2"):
        scored(folder, [])
    with pytest.raises(UsageError, match="has 2 layers"):
        scored(folder, [], layer=3)
    assert scored(folder, ROWS[:1], layer=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FatalError, match="empty: no language model of transformers"):
        scored(tmp_path / "empty", [])
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "layer.0.attention" not in name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FatalError, match="lacks .* weights of BertModel"):
        scored(folder, [], layer=1)
