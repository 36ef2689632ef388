"""BERTScore: generated captions against references, token by token in the features of a language model."""

import json
import math

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.metrics.captioning import COLUMNS_TOLD, Captions

PART = hub.Part(
    "bertscore", "RoBERTa large, the model of English BERTScores", "hf:FacebookAI/roberta-large",
    ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"), 1_430_000_000, "MIT",
)  # fmt: skip
#: (kind of model, its layers) -> the layer that agrees best with people, as bert-score's table has it.
LAYERS = {
    ("bert", 12): 9, ("bert", 24): 18, ("roberta", 6): 5, ("roberta", 12): 10, ("roberta", 24): 17, ("distilbert", 6): 5,
    ("xlm-roberta", 12): 9, ("xlm-roberta", 24): 17, ("deberta", 12): 9,
}  # fmt: skip
SPACED = ("roberta", "deberta")  # whose words begin with a blank, the first one too
AT_ONCE = 64  # texts


class BertScore(Captions):
    __doc__ = f"""BERTScore without rescaling and without weights of rarity.

    Each token is matched with the one of the other text whose feature is nearest by cosine; precision is the mean over the judged text's
    tokens, recall over the reference's, F1 their harmonic mean; of several references the largest of each.  Tokens that begin and
    end a text can be matched but are not counted.  Texts are judged as they are, with case and punctuation.

    The model: --weights bertscore=DIR, a BERT, RoBERTa or DeBERTa of transformers; `layer` 0: the one that fits the model by
    bert-score's table (RoBERTa large: 17).  Scores of different models or layers cannot be compared.

    {COLUMNS_TOLD}"""

    name = "bertscore"
    title = "BERTScore of captions, F1, precision and recall"
    source = "Zhang et al. 2020 (arXiv:1904.09675)"
    columns = {"bertscore_f1": "F1; -1 to 1", "bertscore_precision": "precision; -1 to 1", "bertscore_recall": "recall; -1 to 1"}
    ranges = dict.fromkeys(columns, (-1.0, 1.0))
    settings = {**Captions.settings, "layer": 0}
    protocols = {"vatt": {"layer": 17}}
    network = True
    released_run = False
    parts = (PART,)
    requires = (("torch", "torch"), ("transformers", "transformers"))

    def prepare(self, pair):
        import numpy as np

        return {"texts": np.frombuffer(json.dumps(self.texts(pair)).encode(), np.uint8)}

    def locate(self, weights):
        """The model's folder."""
        source = next((given for name in (PART.name, "") if (given := weights.get(name)) is not None), None)
        folder = hub.locate(source, PART, self.name)
        return folder if folder.is_dir() else folder.parent

    def weights_digest(self, weights):
        return hub.digest(self.locate(weights))

    def load(self, device, weights):
        from transformers import AutoConfig, AutoModel, AutoTokenizer, logging

        folder = self.locate(weights)
        logging.set_verbosity_error()  # of heads that are not needed
        logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            net, told = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except Exception as error:  # of transformers: what is missing, damaged, of no known kind
            raise FatalError(f"{folder}: no language model of transformers ({' '.join(str(error).split())[:160]}); give --weights bertscore=DIR") from None
        if missing := sorted(key for key in told["missing_keys"] if not key.startswith("pooler.")):
            raise FatalError(f"{folder}: lacks {len(missing)} weights of {type(net).__name__}: {', '.join(missing[:4])}; get the model anew")
        layers = getattr(getattr(net, "encoder", None) or getattr(net, "transformer", None), "layer", None)
        if layers is None or self.tokenizer.cls_token_id is None or self.tokenizer.sep_token_id is None:
            raise FatalError(f"{folder}: a {config.model_type}, which is no encoder like BERT, RoBERTa or DeBERTa; give --weights bertscore=DIR")
        layer = self.set["layer"] or LAYERS.get((config.model_type, len(layers)))
        if layer is None or layer > len(layers):
            told = f"has {len(layers)} layers" if layer else f"no layer is known to fit a {config.model_type} of {len(layers)}"
            raise UsageError(f"{folder}: {told}; give --set bertscore.layer=N, 1 to {len(layers)}")
        del layers[layer:]
        self.net, self.device, self.kind = net.float().eval().to(device), device, config.model_type
        longest = getattr(config, "max_position_embeddings", 0) or 512
        self.longest = min(self.tokenizer.model_max_length, longest - (2 if "roberta" in self.kind else 0))

    def __getstate__(self):
        return {"set": self.set}

    def run(self, items):
        import numpy as np

        texts = [json.loads(bytes(item["texts"])) for item in items]
        each = list(dict.fromkeys(text.strip() for judged, references in texts for text in (judged, *references)))
        each.sort(key=len)  # texts of one length together: little is padded
        features = {}
        for at in range(0, len(each), AT_ONCE):
            some = each[at : at + AT_ONCE]
            features |= dict(zip(some, self.features_of(some), strict=True))
        scores = [[self.score(features[judged.strip()], features[text.strip()]) for text in references] for judged, references in texts]
        return [{"scores": np.array(one).max(axis=0)} for one in scores]

    def features_of(self, texts: list[str]) -> list[tuple]:
        """Of each text: unit features (tokens, D) and which tokens count (tokens,) bool."""
        import torch

        tokenizer = self.tokenizer
        blank = " " if self.kind in SPACED else ""
        ids = [tokenizer(blank + text, truncation=True, max_length=self.longest)["input_ids"] for text in texts]
        most = max(map(len, ids))
        padded = torch.tensor([one + [tokenizer.pad_token_id or 0] * (most - len(one)) for one in ids], device=self.device)
        mask = torch.tensor([[1] * len(one) + [0] * (most - len(one)) for one in ids], device=self.device)
        found = torch.nn.functional.normalize(self.net(input_ids=padded, attention_mask=mask).last_hidden_state, dim=-1)
        ends = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        return [(feature[: len(one)], torch.tensor([token not in ends for token in one])) for feature, one in zip(found, ids, strict=True)]

    @staticmethod
    def score(judged, true) -> tuple[float, float, float]:
        """F1, precision, recall."""
        cosines = (judged[0] @ true[0].T).double().cpu()
        if not (judged[1].any() and true[1].any()):
            return 0.0, 0.0, 0.0
        precision, recall = float(cosines.amax(1)[judged[1]].mean()), float(cosines.amax(0)[true[1]].mean())
        total = precision + recall
        return (2 * precision * recall / total if total > 0 else 0.0), precision, recall

    def row(self, item):
        return dict(zip(self.columns, (max(-1.0, min(1.0, float(value))) if math.isfinite(value) else float("nan") for value in item["scores"]), strict=True))
