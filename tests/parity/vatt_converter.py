"""VATT's converter against the numbers of the original: language models with adapters, prompts, names of whole releases."""

import json

import torch
from common import Seen

from avtools.models.vatt import converter, language, prompts

FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
SPECIAL = {"gemma": {"<bos>": 2, "<start_of_turn>": 3, "<end_of_turn>": 4}}
ENDS = {"llama": (1, 2), "gemma": (2, 1)}  # begin, end
SIZES = {
    "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
    },
}


def configuration(family: str, fields: dict, **others):
    import transformers

    return (transformers.LlamaConfig if family == "llama" else transformers.GemmaConfig)(**fields, **others)


def converter_lm(case, tmp_path):
    """Through the loader that users get, from a trainer's file with the whole language model in it."""
    config, given = case.config, case.inputs
    fields = {name: config[name] for name in FIELDS if name in config}
    family = config["family"]
    begin, end = ENDS[family]
    made = configuration(family, fields, rope_theta=config["rope_theta"], pad_token_id=0, bos_token_id=begin, eos_token_id=end)
    made.save_pretrained(tmp_path / "base")
    torch.save(case.weights(), tmp_path / "pytorch_model.bin")
    net = converter.load(
        tmp_path / "base",
        *converter.read(tmp_path / "pytorch_model.bin"),
        merge=False,
        alpha=config["lora_alpha"],
        tokenizer=False,
        features=config["video_feature_dim"],
        tokens_per_second=config["video_tokens"] / (config["video_frames"] / converter.RATE),
        own_positions=False,
    )
    assert len(language.adapters(net.net)) == len(config["lora_targets"]) * config["num_hidden_layers"]
    video, ids, mask = (given[name] for name in ("video", "input_ids", "text_mask"))
    factor = language.scale(net.net)
    with torch.no_grad(), Seen({"projected": net.video_proj}) as seen:
        inputs = net.inputs(video, ids, mask)
        states = language.body(net.net)(**inputs, output_hidden_states=True).hidden_states
        case.check("projected", seen["projected"])
        case.check("pooled", net.pool(video))
        case.check("joint_mask", inputs["attention_mask"])
        case.check("joint_embeds", inputs["inputs_embeds"] / factor)
        for k, found in enumerate(states):
            case.check(f"states.{k}", found)
        case.check("condition_states", net.states(video, ids, mask))
        case.check("logits", net.logits(video, ids, mask))
        for name in ("", "_prompt_masked"):
            case.check(f"loss{name}", net.loss(video, prompts.Batch(ids, mask, given[f"labels{name}"])))
    asked = given["caption_prompt_ids"]
    steps = case.outputs["caption_greedy_ids"].shape[1]
    greedy = language.Drawing(temperature=0, repetition=1, most=steps)
    scores = []
    net.own_positions = True
    case.check("caption_position_ids", net.inputs(video[:1], asked, torch.ones_like(asked))["position_ids"])
    made = net.generate(video[:1], asked, torch.ones_like(asked), greedy, scores=scores)
    case.check("caption_greedy_ids", made)
    case.check("caption_greedy_logits", torch.stack(scores, 1))
    assert net.merge() < 1e-3
    if not (mask == 0).any(1).all():  # a row without padding: its places are counted alike either way
        whole = (mask == 1).all(1)
        torch.testing.assert_close(net.states(video, ids, mask)[whole], case.outputs["condition_states"][whole], atol=1e-3, rtol=1e-3)


class Bytes:
    """The case's toy tokenizer."""

    def __init__(self, family: str):
        self.special = SPECIAL.get(family, {})
        self.bos_token_id, self.eos_token_id = ENDS[family]
        self.pad_token_id = 0

    def __call__(self, text: str) -> dict:
        ids = [self.bos_token_id]
        while text:
            mark = next((mark for mark in self.special if text.startswith(mark)), None)
            ids += [self.special[mark]] if mark else [10 + byte for byte in text[0].encode()]
            text = text[len(mark or text[0]) :]
        return {"input_ids": ids}


def prompt_layout(case, _):
    limits = dict(zip(("converter", "audio"), case.inputs["limits"].tolist(), strict=True))
    assert limits == case.config["limits"]
    for family in sorted({name.split(".")[0] for name in case.outputs}):
        tokenizer, template = Bytes(family), prompts.TEMPLATES[prompts.template_for(family)]
        texts = {"converter": [], "audio": []}
        for n, sample in enumerate(case.facts["samples"]):
            whole = prompts.encode(tokenizer, template, sample["instruction"], sample["answer"], limit=limits["converter"], cut=True)
            asked = prompts.encode(tokenizer, template, sample["instruction"], limit=limits["audio"], cut=True)
            texts["converter"].append(whole)
            texts["audio"].append(asked)
            case.check(f"{family}.converter_ids.{n}", torch.tensor(whole.ids))
            case.check(f"{family}.converter_labels_prompt_masked.{n}", torch.tensor(whole.labels))
            case.check(f"{family}.audio_ids.{n}", torch.tensor(asked.ids))
            case.check(f"{family}.caption_prompt_ids.{n}", torch.tensor(prompts.encode(tokenizer, template, sample["instruction"], end=False).ids))
        for kind, multiple in (("converter", prompts.MULTIPLE), ("audio", 1)):
            batch = prompts.collate(texts[kind], prompts.pad_id(tokenizer), mask_prompt=False, multiple=multiple)
            case.check(f"{family}.{kind}_batch_ids", batch.ids)
            case.check(f"{family}.{kind}_batch_mask", batch.joint_mask(case.config["video_positions"]))
            if f"{family}.{kind}_batch_labels" in case.outputs:
                case.check(f"{family}.{kind}_batch_labels", batch.labels)


def key_list(file):
    """The names and shapes of a whole converter, alone or in a whole release, load strictly on the meta device."""
    import transformers

    tensors = {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}
    family = next(family for family in SIZES if family in file.stem)
    with torch.device("meta"):
        net = transformers.AutoModelForCausalLM.from_config(configuration(family, SIZES[family]))
        made = converter.Converter(language.Language(net, None, prompts.template_for(family)))
        delta = converter.parse(tensors, file)
        converter.load_delta(made, delta, file)
    assert not delta.unknown and delta.rank == 16 and delta.targets == set(language.TARGETS)
    if delta.base:  # a whole release: the body of the language model, without its head
        body = {name for name in (name.replace(".base_layer.", ".") for name in net.state_dict()) if ".lora_" not in name and name != "lm_head.weight"}
        assert body == set(delta.base)
        shapes = {name.replace(".base_layer.", "."): tensor.shape for name, tensor in net.state_dict().items()}
        assert all(shapes[name] == tensor.shape for name, tensor in delta.base.items())


KINDS = {"converter": converter_lm, "prompt_layout": prompt_layout}
KEY_LISTS = {"full_keys_converter": key_list, "full_keys_ckpt": key_list}
