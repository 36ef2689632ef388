"""A language model without weights: a small Llama at random, and a tokenizer that knows the words of a few texts."""

import re
from collections.abc import Iterable


def tiny_llama(texts: Iterable[str], width: int = 64, layers: int = 2, seed: int = 0):
    """(a causal language model of transformers, its tokenizer); the same for the same arguments everywhere.

    Words that are not in `texts` are one and the same unknown token to it.
    """
    import tokenizers
    import torch
    import transformers

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)})
    names = ["<pad>", "<s>", "</s>", "<unk>", "\n", *words]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    split = tokenizers.pre_tokenizers
    made.pre_tokenizer = split.Sequence([split.Split("\n", "isolated"), split.Split(" ", "removed"), split.Punctuation()])
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    config = transformers.LlamaConfig(
        vocab_size=len(names), pad_token_id=0, bos_token_id=1, eos_token_id=2, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=4, max_position_embeddings=4096,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = transformers.LlamaForCausalLM(config)
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, parameter.shape[1] ** -0.5)
    net.generation_config = transformers.GenerationConfig()
    return net.eval().requires_grad_(False), tokenizer
