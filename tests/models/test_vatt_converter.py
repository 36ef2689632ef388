"""VATT's converter: prompts, features, language models, adapters, their files, training and captions."""

import json
import random
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("peft")
pytest.importorskip("timm")

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, MediaError, RowError, UsageError  # noqa: E402
from avtools.media.video import write_frames  # noqa: E402
from avtools.models.vatt import converter, features, language, prompts  # noqa: E402
from avtools.training import config as settings  # noqa: E402

SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DIM = 12  # of the stand-in features
WORDS = [*"# : Instruction Response What is heard a dog barks rain falls on roof the sea".split(), "\n", "<start_of_turn>", "<end_of_turn>", "user", "model"]


def language_model(folder, kind: str = "llama", **sizes):
    """A folder with a small random language model and its tokenizer, as transformers writes it."""
    torch.manual_seed(0)
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split("\n", "isolated"), tokenizers.pre_tokenizers.Split(" ", "removed"), tokenizers.pre_tokenizers.Punctuation()]
    )
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    common = {"vocab_size": len(names), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **SIZES, **sizes}
    if kind == "gemma":
        config = transformers.GemmaConfig(**common, num_key_value_heads=1, head_dim=12)
    else:
        config = transformers.LlamaConfig(**common)
    net = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gemma"])
def folder(request, tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("language") / request.param, request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("language") / "llama")


def made(folder, **options) -> converter.Converter:
    torch.manual_seed(1)
    return converter.Converter(language.load(folder), DIM, **options).eval()


def videos(count: int, frames: int = 20) -> torch.Tensor:
    return torch.randn(count, frames, DIM, generator=torch.Generator().manual_seed(2))


def asked(net, texts, answers=None, **options) -> prompts.Batch:
    ids = [prompts.encode(net.tokenizer, net.prompt, text, answer) for text, answer in zip(texts, answers or [""] * len(texts), strict=True)]
    return prompts.collate(ids, prompts.pad_id(net.tokenizer), **options)


# --- prompts ----------------------------------------------------------------------------------------------


def test_prompts_beyond_the_limit_are_told_and_answers_cut(llama):
    tokenizer, template = language.tokenizer_of(llama, 99), prompts.TEMPLATES["alpaca"]
    whole = prompts.encode(tokenizer, template, "What is heard", "a dog barks")
    assert whole.ids[0] == 1 and whole.ids[-1] == 2 and tokenizer.decode(whole.ids[whole.prompt :]) == "a dog barks </s>"
    assert whole.labels == [-100] * whole.prompt + whole.ids[whole.prompt :]
    cut = prompts.encode(tokenizer, template, "What is heard", "a dog barks", limit=whole.prompt + 2)
    assert cut.ids == whole.ids[: whole.prompt + 2]  # without an end
    with pytest.raises(RowError, match=rf"prompt of {whole.prompt} tokens, and the limit is 9; shorten it: 'What is heard'"):
        prompts.encode(tokenizer, template, "What is heard", limit=9)
    assert prompts.encode(tokenizer, template, "What is heard", limit=9, cut=True).ids == whole.ids[:9]


def test_answers_do_not_join_the_last_token_of_the_prompt(llama):
    """Gemma's template has nothing between them."""
    tokenizer, template = language.tokenizer_of(llama, 99), prompts.Template("<start_of_turn> ", " model")
    assert tokenizer.unk_token_id in tokenizer("modelrain")["input_ids"]
    whole = prompts.encode(tokenizer, template, "What", "rain falls")
    assert tokenizer.decode(whole.ids[whole.prompt :]) == "rain falls </s>"
    assert whole.ids[: whole.prompt] == prompts.encode(tokenizer, template, "What", end=False).ids


def test_a_tokenizer_that_ends_every_text_does_not_end_prompts(llama):
    tokenizer, template = language.tokenizer_of(llama, 99), prompts.TEMPLATES["alpaca"]
    plain = prompts.encode(tokenizer, template, "What", "rain")
    tokenizer._tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert tokenizer("rain")["input_ids"][-1] == 2
    assert prompts.encode(tokenizer, template, "What", "rain") == plain
    assert prompts.encode(tokenizer, template, "What", end=False).ids == plain.ids[: plain.prompt]


def test_pools(tmp_path):
    for pool in (prompts.SOUND_POOL, prompts.PICTURE_POOL):
        assert len(set(pool)) == 10
    file = tmp_path / "pool.txt"
    file.write_bytes("\ufeffWhat is heard?\r\n\r\n  Name it. \n".encode())
    assert settings.lines(file, "--prompt-pool") == ["What is heard?", "Name it."]
    for content, what in ((b"\n \n", "holds no instruction"), (b"\xff\xfe", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=what):
            settings.lines(file, "--prompt-pool")
    with pytest.raises(UsageError, match="No such file"):
        settings.lines(tmp_path / "none.txt", "--prompt-pool")
    rng = random.Random(0)
    drawn = [prompts.instruction_of("rain", ("x", "y"), rng) for _ in range(2000)]
    assert 0.26 < sum(dummy for _, dummy in drawn) / 2000 < 0.34
    assert {text for text, dummy in drawn if dummy} == {"x", "y"} and {text for text, dummy in drawn if not dummy} == {"rain"}
    assert prompts.instruction_of(None, ("x",), rng, 0) == ("x", True)
    assert prompts.bare(" Audio caption: a dog") == "a dog" == prompts.bare("a dog")


# --- the language model -------------------------------------------------------------------------------------


def test_video_has_the_scale_of_words(folder):
    """A video whose projection is the table's rows is read as these words are, whatever the model does to its lookup."""
    net = made(folder)
    table = net.net.get_input_embeddings().weight
    words = torch.tensor([[5, 9, 7, 4, 11, 6]])
    net.video_proj = torch.nn.Linear(48, 48)
    torch.nn.init.eye_(net.video_proj.weight)
    torch.nn.init.zeros_(net.video_proj.bias)
    video = table[words[:, :2]].repeat_interleave(5, 1)  # two seconds
    with torch.no_grad():
        found = net.logits(video, words[:, 2:], torch.ones(1, 4, dtype=torch.long))
        torch.testing.assert_close(found, net.net(input_ids=words).logits[:, 2:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "rate", "count"), [(50, 1, 10), (20, 1, 4), (2, 1, 1), (50, 5, 50), (50, 25, 50), (50, 2.5, 25)])
def test_video_tokens(llama, frames, rate, count):
    net = made(llama, tokens_per_second=rate)
    found = net.pool(torch.arange(frames).view(1, -1, 1).expand(1, frames, DIM).float())
    assert found.shape == (1, count, DIM)
    assert found[0, :, 0].mean() == pytest.approx((frames - 1) / 2) and (count < 2 or (found[0, :, 0].diff() > 0).all())


def test_features_of_another_width(llama):
    with pytest.raises(ValueError, match=r"\(1, 50, 8\), not \(B, F, 12\)"):
        made(llama).pool(torch.zeros(1, 50, 8))


def test_rows_do_not_depend_on_their_batch(folder):
    net = made(folder)
    texts = ["What is heard", "a dog barks on the roof the sea", "rain"]
    video, batch = videos(3), asked(net, texts)
    with torch.no_grad():
        together = net.states(video, batch.ids, batch.mask)
        counted = made(folder, own_positions=False).states(video, batch.ids, batch.mask)
        for n, text in enumerate(texts):
            one = asked(net, [text])
            alone = net.states(video[n : n + 1], one.ids, one.mask)
            kept = torch.cat([torch.ones(4, dtype=torch.bool), batch.mask[n].bool()])
            torch.testing.assert_close(together[n, kept], alone[0], atol=1e-4, rtol=1e-4)
            far = (counted[n, kept] - alone[0]).abs().max()
            assert (far > 1e-2) == bool((batch.mask[n] == 0).any())  # with pads counted, they do


def test_folders_that_are_no_language_model(llama, tmp_path):
    with pytest.raises(FatalError, match="has no config.json"):
        language.load(tmp_path)
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FatalError, match="no causal language model of transformers"):
        language.load(tmp_path)
    tensors = hub.tensors(llama / "model.safetensors")
    lost = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj" not in name}
    hub.save_tensors(tmp_path / "model.safetensors", {**lost, "model.layers.0.odd.weight": torch.zeros(1)}, {"format": "pt"})
    with pytest.raises(FatalError, match=r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight; 1 unexpected: model\.layers\.0\.odd\.weight"):
        language.load(tmp_path)
    odd = {**tensors, "model.norm.weight": torch.ones(7)}
    hub.save_tensors(tmp_path / "model.safetensors", odd, {"format": "pt"})
    with pytest.raises(FatalError, match=r"1 of another shape: model\.norm\.weight \(7,\), not \(48,\)"):
        language.load(tmp_path)
    hub.save_tensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(FatalError, match="no tokenizer of transformers|its tokenizer has"):
        language.load(tmp_path)
    assert language.load(tmp_path, tokenizer=False).tokenizer is None
    with pytest.raises(FatalError, match="tokenizer has .* ids, and the language model knows 7"):
        language.tokenizer_of(llama, 7)


def test_a_tokenizer_of_sentencepiece_without_it(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(FatalError, match=r"sentencepiece is not installed.*pip install 'avtools\[models\]'"):
        language.tokenizer_of(tmp_path, 9)


# --- drawing ------------------------------------------------------------------------------------------------


def test_draws_have_the_probabilities_of_transformers():
    torch.manual_seed(3)
    how = language.Drawing(temperature=0.7, top_p=0.8, top_k=9, repetition=1.3)
    count, words = 20000, 30
    scores, prompt, ids = torch.randn(1, words) * 2, torch.tensor([[3, 4, 5]]), torch.tensor([[6, 3]])
    wanted = scores
    for one in (
        transformers.RepetitionPenaltyLogitsProcessor(how.repetition),
        transformers.TemperatureLogitsWarper(how.temperature),
        transformers.TopKLogitsWarper(how.top_k),
        transformers.TopPLogitsWarper(how.top_p),
    ):
        wanted = one(torch.cat([prompt, ids], 1), wanted)
    wanted = wanted.softmax(1)[0]
    assert 2 < (wanted > 0).sum() <= 9
    draws = language.Draws(how, prompt.expand(count, -1), None)(ids.expand(count, -1), scores.expand(count, -1)).argmax(1)
    found = torch.bincount(draws, minlength=words) / count
    assert ((found > 0) <= (wanted > 0)).all() and (found - wanted).abs().max() < 0.015


def test_captions_do_not_depend_on_their_batch(folder):
    net = made(folder)
    texts, video = ["What is heard", "a dog barks on the roof", "rain"], videos(3)
    how = language.Drawing(temperature=1.0, repetition=1.1, most=8)

    def seeds(chosen):
        return [torch.Generator().manual_seed(10 + n) for n in chosen]

    together = net.captions(video, texts, how, seeds(range(3)))
    assert together == [net.captions(video[n : n + 1], [texts[n]], how, seeds([n]))[0] for n in range(3)]
    assert net.captions(video, texts, how, seeds(range(3))) == together
    assert net.captions(video, texts, how, seeds(range(5, 8))) != together


# --- adapters and files ---------------------------------------------------------------------------------------


def trained(folder, stage: str = "lora", **options) -> converter.Converter:
    """A converter whose trained parts are random."""
    net = made(folder, **options)
    torch.manual_seed(4)
    for parameter in net.train_stage(stage, rank=4):
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def outcome(net) -> torch.Tensor:
    batch = asked(net, ["What is heard", "rain falls"])
    with torch.no_grad():
        return net.states(videos(2), batch.ids, batch.mask)


@pytest.mark.parametrize("dotted", [False, True])
def test_files_with_and_without_default(folder, tmp_path, dotted):
    net = trained(folder)
    tensors = converter.delta_of(net)
    assert len(tensors) == 2 + 2 * 2 * 2 and not any(".default" in name for name in tensors)
    if dotted:
        tensors = {name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): tensor for name, tensor in tensors.items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    wanted = outcome(net)
    assert (wanted - outcome(made(folder))).abs().max() > 0.1
    unmerged = converter.load(folder, *converter.read(tmp_path), merge=False, features=DIM)
    torch.testing.assert_close(outcome(unmerged), wanted)
    merged = converter.load(folder, *converter.read(tmp_path), features=DIM)
    assert not language.adapters(merged.net) and not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    torch.testing.assert_close(outcome(merged), wanted, atol=1e-3, rtol=1e-3)
    assert not any(parameter.requires_grad for one in (merged, unmerged) for parameter in one.parameters())
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}')  # half of what the file alone means
    assert (outcome(converter.load(folder, *converter.read(tmp_path), features=DIM)) - wanted).abs().max() > 1e-2


def test_a_whole_release(folder, tmp_path):
    """The body of the language model with everything inside; its own weights in the folder do not count."""
    net = trained(folder)
    body = {name.replace(".base_layer.", ".") if ".lora_" not in name else name: tensor for name, tensor in net.net.base_model.state_dict().items()}
    table = body.pop("embed_tokens.weight")
    body |= {f"video_proj.{name}": tensor for name, tensor in net.video_proj.state_dict().items()}
    body["layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    tensors = {f"encoder.base_model.model.{name}": tensor for name, tensor in body.items()}
    tensors |= {"embed_tokens.weight": table, "audio_token_decoder.modality_v": torch.zeros(1)}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "vatt.ckpt")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    found = converter.load(bare, *converter.read(tmp_path / "vatt.ckpt"), features=DIM)
    torch.testing.assert_close(outcome(found), outcome(net), atol=1e-3, rtol=1e-3)
    if json.loads((folder / "config.json").read_text())["model_type"] == "llama":
        with pytest.raises(FatalError, match=r"has no head \(lm_head\)"):
            found.captions(videos(1), ["What is heard"], language.Drawing(most=2))
        tensors = hub.tensors(folder / "model.safetensors")
        last = {"lm_head.weight": tensors.pop("lm_head.weight")}
        for name, part in (("1.safetensors", {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}), ("2.safetensors", last)):
            hub.save_tensors(bare / name, part, {"format": "pt"})
        places = {**dict.fromkeys(tensors, "1.safetensors"), "lm_head.weight": "2.safetensors"}
        (bare / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        found = converter.load(bare, *converter.read(tmp_path / "vatt.ckpt"), features=DIM)  # its head, and nothing else
        torch.testing.assert_close(outcome(found), outcome(net), atol=1e-3, rtol=1e-3)
        greedy = language.Drawing(temperature=0, most=6)
        assert found.captions(videos(1), ["What is heard"], greedy) == net.captions(videos(1), ["What is heard"], greedy)


def test_what_files_lack_is_listed(llama, tmp_path):
    tensors = converter.delta_of(trained(llama))
    file = tmp_path / "pytorch_model.bin"
    one = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    cases = (
        ({one: None}, r"1 missing: net\.model\.layers\.1\.self_attn\.v_proj\.lora_B\.default\.weight"),
        ({one: torch.zeros(48, 3)}, r"of another shape: .*v_proj\.lora_B\.default\.weight \(48, 3\), not \(48, 4\)"),
        ({"base_model.model.model.video_proj.bias": None}, r"1 missing: video_proj\.bias"),
        ({"base_model.model.model.layers.7.mlp.up_proj.weight": torch.zeros(1)}, r"1 unexpected: model\.layers\.7\.mlp\.up_proj\.weight"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.other.weight": torch.zeros(1)}, r"1 unexpected: .*lora_A\.other\.weight"),
        ({"odd": torch.zeros(1)}, "1 unexpected: odd"),
        ({one.replace(".lora_B.", ".lora_B.default."): torch.zeros(48, 4)}, r"with and without '\.default'"),
    )
    for changes, message in cases:
        torch.save({name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}, file)
        with pytest.raises(FatalError, match=message):
            converter.load(llama, *converter.read(file), features=DIM)
    torch.save({**tensors, "base_model.model.model.norm.weight": torch.full((48,), 9.0)}, file)  # the language model's own are left alone
    torch.testing.assert_close(outcome(converter.load(llama, *converter.read(file), merge=False, features=DIM)), outcome(trained(llama)))
    with pytest.raises(FatalError, match="has none of adapter_model.safetensors"):
        converter.read(llama.parent)


def test_half_precision(folder, tmp_path):
    net = trained(folder)
    torch.save(converter.delta_of(net), tmp_path / "pytorch_model.bin")
    half = converter.load(folder, *converter.read(tmp_path), dtype=torch.bfloat16, features=DIM)
    assert half.net.dtype == torch.bfloat16
    wanted, found = outcome(net), outcome(half)
    assert found.dtype == torch.float32 and (found - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert len(half.captions(videos(2), ["What is heard"] * 2, language.Drawing(most=3))) == 2


def test_a_merge_that_changes_states_is_refused(llama, monkeypatch):
    net = trained(llama)
    monkeypatch.setattr(language, "merge", lambda net: next(iter(language.adapters(net).values())).get_base_layer().weight.data.mul_(1.1))
    with pytest.raises(FatalError, match="merging the adapter of .* moved its output by"):
        net.merge()


# --- training ---------------------------------------------------------------------------------------------------


def test_stages_train_what_they_say(folder, tmp_path):
    net = made(folder)
    before = {name: tensor.clone() for name, tensor in net.net.state_dict().items()}
    texts, answers = ["What is heard"] * 2, ["a dog barks", "rain falls on the roof"]
    batch, video = asked(net, texts, answers, multiple=prompts.MULTIPLE), videos(2)
    assert batch.ids.shape[1] % 8 == 0
    assert [p.shape for p in net.train_stage("proj")] == [(48, DIM), (48,)]
    losses = fitted(net, video, batch, 60)
    assert losses[-1] < 0.5 * losses[0]  # the video alone tells which answer is due
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.net.state_dict().items())
    hub.save_tensors(tmp_path / "model.safetensors", converter.delta_of(net))
    begun = made(folder)
    converter.load_delta(begun, *converter.read(tmp_path))
    torch.testing.assert_close(begun.video_proj.weight, net.video_proj.weight)
    chosen = begun.train_stage("lora", rank=4, dropout=0)
    assert len(chosen) == 2 + 2 * 2 * 2
    batch = asked(begun, texts, answers)
    assert fitted(begun, video, batch, 60)[-1] < losses[-1]
    after = {name.replace(".base_layer.", "."): tensor for name, tensor in begun.net.state_dict().items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert begun.eval().captions(video, texts, language.Drawing(temperature=0, repetition=1, most=8)) == answers


def fitted(net, video, batch, steps: int) -> list[float]:
    net.train()
    optimiser = torch.optim.Adam([parameter for parameter in net.parameters() if parameter.requires_grad], 0.02)
    losses = []
    for _ in range(steps):
        loss = net.loss(video, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_targets(llama):
    net = made(llama)
    texts, answers = ["What is heard", "rain"], ["a dog barks", ""]
    masked, whole = asked(net, texts, answers), asked(net, texts, answers, mask_prompt=False)
    video = videos(2)
    with torch.no_grad():
        scores, targets = net(video, masked)
        assert net.tokenizer.decode(targets) == "a dog barks </s> </s>"
        assert len(net(video, whole)[1]) == int(whole.mask.sum()) - int((whole.mask[:, 0] == 1).sum())  # but for a first one
        logits = net.logits(video, whole.ids, whole.mask)[:, :-1]
        plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole.labels[:, 1:].flatten())
        torch.testing.assert_close(net.loss(video, whole), plain)
        assert net.loss(video, prompts.Batch(masked.ids, masked.mask, torch.full_like(masked.ids, -100))) == 0


# --- features ---------------------------------------------------------------------------------------------------

TOWER = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2, "ref_feat_shape": (2, 2)}


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(5)
    made = features.EvaClip(16, **TOWER).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """2.4 s of pictures that become brighter, wide."""
    path = tmp_path_factory.mktemp("clips") / "ramp.mp4"
    write_frames(path, ".mp4", np.repeat(np.arange(60, dtype=np.uint8) * 4, 48 * 96 * 3).reshape(60, 48, 96, 3), Fraction(25))
    return path


@pytest.mark.parametrize("kind", ["open_clip", "eva_clip", "timm"])
def test_towers_of_all_releases(tower, tmp_path, kind):
    from timm.models.eva import checkpoint_filter_fn

    ours = tower.trunk.state_dict()
    back = (("attn.norm.", "attn.inner_attn_ln."), ("mlp.norm.", "mlp.ffn_ln."), ("mlp.fc1_g.", "mlp.w1."), ("mlp.fc1_x.", "mlp.w2."), ("mlp.fc2.", "mlp.w3."))
    back += (("q_proj.bias", "q_bias"), ("v_proj.bias", "v_bias"))
    tensors = {}
    for name, tensor in ours.items():
        for ours_, theirs in back if kind == "eva_clip" else ():
            name = name.replace(ours_, theirs)
        tensors[{"open_clip": "visual.trunk.", "eva_clip": "visual.", "timm": ""}[kind] + name] = tensor
    if kind != "timm":
        tensors |= {"text.token_embedding.weight": torch.zeros(3, 2), "logit_scale": torch.zeros(())}
    if kind == "eva_clip":
        tensors |= {"visual.rope.freqs_cos": torch.zeros(4, 2), "visual.rope.freqs_sin": torch.zeros(4, 2)}
    theirs = checkpoint_filter_fn(dict(tensors), tower.trunk)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in features.tower(tensors, "x").items() if "rope" not in name)
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    pictures = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        torch.testing.assert_close(features.load(tmp_path, **TOWER)(pictures), tower(pictures))
    lost = next(name for name in tensors if name.endswith("blocks.1.norm2.bias"))
    del tensors[lost]
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(FatalError, match=r"1 missing: blocks\.1\.norm2\.bias"):
        features.load(tmp_path, **TOWER)


def test_files_that_hold_no_tower(tmp_path):
    torch.save({"text.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(FatalError, match="no EVA02-CLIP picture tower"):
        features.load(tmp_path / "x.pt")
    with pytest.raises(FatalError, match="has none of open_clip_model.safetensors"):
        features.load(tmp_path)


def test_features_of_a_video(tower, clip):
    from avtools.models.vta_ldm.frames import read_frames

    found = features.encode(tower, clip, batch=5)
    assert found.shape == (12, 16) and found.dtype == np.float32
    pictures = torch.from_numpy(read_frames(clip, 5, 28)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(found, tower(pictures).numpy(), atol=1e-4)
    for start, seconds in ((0.5, 1.0), (1.9, None), (0.0, 0.3)):
        part = np.stack(list(features.pictures(clip, 5, 28, start, seconds)))
        assert np.array_equal(part, read_frames(clip, 5, 28, start=start, seconds=seconds))
    short = features.encode(tower, clip, normalise=True)
    np.testing.assert_allclose(short, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-5)
    assert features.unit_length(short) and not features.unit_length(found)
    with pytest.raises(MediaError, match="no picture from 9 s on"):
        features.encode(tower, clip, start=9)


def test_videos_without_picture(tower, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    with pytest.raises(MediaError, match="has no picture"):
        features.encode(tower, tmp_path / "a.wav")


def test_published_features(tmp_path):
    rng = np.random.default_rng(0)
    good = rng.normal(size=(50, 768)).astype(np.float16)
    np.save(tmp_path / "a.npy", good)
    found = features.read(tmp_path / "a.npy", 50)
    assert found.dtype == np.float32 and np.array_equal(found, good)
    odd = {
        "short": (good[:40], r"features \(40, 768\), not \(50, 768\); make them anew"),
        "narrow": (good[:, :512], r"\(50, 512\), not \(50, 768\)"),
        "empty": (good[:0], r"\(0, 768\)"),
        "words": (np.array(["x"]), "not numbers"),
        "nan": (np.where(good > 3, np.nan, good), "not finite"),
    }
    for name, (array, message) in odd.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(MediaError, match=message):
            features.read(tmp_path / f"{name}.npy", 50)
    np.save(tmp_path / "pickle.npy", np.array([{}], object))
    np.savez(tmp_path / "several.npy.npz", good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    (tmp_path / "text.npy").write_text("no")
    (tmp_path / "several.npy").write_bytes((tmp_path / "several.npy.npz").read_bytes())
    for name in ("pickle", "cut", "text", "several", "none"):
        with pytest.raises(MediaError, match=name):
            features.read(tmp_path / f"{name}.npy", 50)


def test_published_tokens(tmp_path):
    tokens = np.arange(40).reshape(4, 10)
    for name, array in (("generated", tokens), ("trained", tokens.T)):
        np.save(tmp_path / f"{name}.npy", array)
        assert np.array_equal(features.read_tokens(tmp_path / f"{name}.npy"), tokens)
    for array, message in ((tokens[:3], r"\(3, 10\), not whole numbers \(4, T\)"), (tokens / 2, "float64"), (tokens - 1, "below 0")):
        np.save(tmp_path / "odd.npy", array)
        with pytest.raises(MediaError, match=message):
            features.read_tokens(tmp_path / "odd.npy")


def test_published_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    seconds, tokens = np.random.default_rng(0).normal(size=(10, 768)).astype(np.float32), np.arange(2000).reshape(4, 500)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["clip"], file["audio_tokens"] = seconds, tokens
    found, sound = features.read_hdf5(tmp_path / "a.h5", 50)
    assert np.array_equal(found, seconds.repeat(5, 0)) and np.array_equal(sound, tokens)
    assert np.array_equal(features.read(tmp_path / "a.h5"), found) and np.array_equal(features.read_tokens(tmp_path / "a.h5"), tokens)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["clip"] = seconds
    with pytest.raises(MediaError, match="lacks 'clip' or 'audio_tokens'"):
        features.read(tmp_path / "b.h5")
    (tmp_path / "c.h5").write_text("no")
    with pytest.raises(MediaError, match="no HDF5 file"):
        features.read(tmp_path / "c.h5")


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(FatalError, match=r"h5py is not installed.*pip install 'avtools\[hdf5\]'"):
        features.read(tmp_path / "a.h5")
