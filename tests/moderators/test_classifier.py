"""A classifier's scores are torch's own sigmoid or softmax, and no label is lost in silence."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rerail.errors import ModeratorError
from rerail.moderators import Moderator
from rerail.moderators.classifier import ClassifierModerator
from rerail.moderators.guards._models import Loaded
from rerail.types import EMPTY_ANSWER, Exchange

JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
WORDS = [f"w{i}" for i in range(50)]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w12 w13"]
EXCHANGES = [Exchange((), text) for text in TEXTS]


def tokenizer(limit: int = 64) -> Any:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=limit,
    )  # fmt: skip


def bert(labels: list[str], problem: str | None = None, limit: int = 64) -> Loaded:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=54, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=limit, initializer_range=1.0,
        id2label=dict(enumerate(labels)), problem_type=problem,
    )  # fmt: skip
    return Loaded(BertForSequenceClassification(config), tokenizer(limit))


def logits(loaded: Loaded, text: str) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0].double()


def test_sigmoid_heads_equal_torch() -> None:
    loaded = bert(JIGSAW, "multi_label_classification")
    moderator = ClassifierModerator(loaded)
    assert isinstance(moderator, Moderator)
    assert moderator.head == "sigmoid"
    assert moderator.categories == (
        "harassment", "harassment/threatening", "hate", "custom/profanity",
    )  # fmt: skip
    for text, score in zip(TEXTS, moderator.score(EXCHANGES), strict=True):
        p = torch.sigmoid(logits(loaded, text)).tolist()
        assert dict(score.categories) == pytest.approx(
            {
                "harassment": max(p[0], p[1], p[4]),
                "harassment/threatening": p[3],
                "hate": p[5],
                "custom/profanity": p[2],
            },
            abs=1e-6,
        )


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["neutral", "mild", "LABEL_1"]])
def test_softmax_heads_equal_torch(labels: list[str]) -> None:
    loaded = bert(labels, "single_label_classification")
    changes = {"LABEL_1": "custom/hap", "LABEL_0": None, "mild": None}
    given = {label: changes[label] for label in labels if label in changes}
    moderator = ClassifierModerator(loaded, map=given)
    assert moderator.head == "softmax"
    for text, score in zip(TEXTS, moderator.score(EXCHANGES), strict=True):
        p = torch.softmax(logits(loaded, text), 0).tolist()
        assert score.categories["custom/hap"] == pytest.approx(p[-1], abs=1e-6)


def test_batches_equal_one_by_one() -> None:
    moderator = ClassifierModerator(bert(JIGSAW, "multi_label_classification"), max_batch=3)
    together = moderator.score(EXCHANGES)
    for exchange, score in zip(EXCHANGES, together, strict=True):
        assert dict(moderator.score([exchange])[0].categories) == pytest.approx(
            dict(score.categories), abs=1e-6
        )


def test_temperature_keeps_order_and_one_half() -> None:
    loaded = bert(JIGSAW, "multi_label_classification")
    cool = ClassifierModerator(loaded).score(EXCHANGES)
    warm = ClassifierModerator(loaded, temperature=4.0).score(EXCHANGES)
    p = [s.categories["hate"] for s in cool]
    q = [s.categories["hate"] for s in warm]
    assert sorted(range(4), key=p.__getitem__) == sorted(range(4), key=q.__getitem__)
    assert [x >= 0.5 for x in p] == [x >= 0.5 for x in q]
    assert q == pytest.approx([1 / (1 + math.exp(-math.log(x / (1 - x)) / 4)) for x in p], abs=1e-5)


def test_long_answers_are_read_in_windows_and_the_worst_counts() -> None:
    loaded = bert(JIGSAW, "multi_label_classification", limit=10)
    words = WORDS[:30]
    (score,) = ClassifierModerator(loaded).score([Exchange((), " ".join(words))])
    # Eight words fit beside [CLS] and [SEP]; a quarter of ten, rounded down, overlaps.
    starts = range(0, 30, 6)
    spans = [words[s : s + 8] for s in starts if s == 0 or s + 2 < 30]
    p = torch.stack([torch.sigmoid(logits(loaded, " ".join(w))) for w in spans])
    assert score.categories["hate"] == pytest.approx(float(p[:, 5].max()), abs=1e-6)
    assert score.categories["hate"] > float(p[0, 5])


def test_roberta_counts_positions_from_its_padding() -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=54, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=18, pad_token_id=0, type_vocab_size=1,
        id2label={0: "LABEL_0", 1: "LABEL_1"},
    )  # fmt: skip
    loaded = Loaded(RobertaForSequenceClassification(config), tokenizer(10**12))
    moderator = ClassifierModerator(loaded, map={"LABEL_0": None, "LABEL_1": "hate"})
    assert moderator._limit == 17
    (score,) = moderator.score([Exchange((), " ".join(WORDS))])
    assert score.scored


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (["toxic", "wug"], {}, "map: {wug: <category or null>}"),
        (["LABEL_0", "LABEL_1"], {}, "LABEL_0: <category or null>, LABEL_1"),
        (["LABEL_0", "LABEL_1"], {"map": {"LABEL_1": "hate"}}, "map: {LABEL_0"),
        (JIGSAW, {"map": {"toxick": "hate"}}, "unknown name 'toxick'; did you mean 'toxic'"),
        (JIGSAW, {"map": {"toxic": "hat"}}, "cannot become 'hat'; did you mean 'hate'"),
        (["neutral", "safe"], {}, "no name becomes a category"),
        (["toxic", "hate", "neutral"], {}, "set head to softmax"),
        (JIGSAW, {"head": "tanh"}, "unknown head 'tanh'"),
        (["toxic"], {"head": "softmax"}, "has one label"),
        (JIGSAW, {"head": "sigmoid", "temperature": 0.0}, "temperature"),
        (JIGSAW, {"head": "sigmoid", "max_batch": 0}, "max_batch"),
        (JIGSAW, {"head": "sigmoid", "max_tokens": 4}, "max_tokens"),
    ],
)
def test_what_cannot_be_told_is_an_error_at_load(
    labels: list[str], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModeratorError) as error:
        ClassifierModerator(bert(labels), **options)
    assert says in str(error.value)


def test_every_label_is_explained() -> None:
    loaded = bert(["toxic", "male", "neutral"], "multi_label_classification")
    lines = [str(line) for line in ClassifierModerator(loaded).taxonomy.explain()]
    assert lines == [
        "toxic -> harassment",
        "male -> left out: says who is spoken of",
        "neutral -> left out: says that there is no harm",
    ]


def test_silence_and_broken_weights_are_unscored() -> None:
    loaded = bert(JIGSAW, "multi_label_classification")
    moderator = ClassifierModerator(loaded)
    assert [s.cause for s in moderator.score([Exchange((), " \n")])] == [EMPTY_ANSWER]
    loaded.model.classifier.weight.data[0, 0] = math.nan
    (score,) = moderator.score(EXCHANGES[:1])
    assert "not finite" in str(score.cause)


def test_threads_take_turns_at_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    moderator = ClassifierModerator(bert(JIGSAW, "multi_label_classification"))
    windows, inside, most = moderator._windows, [], []

    def watched(texts: list[str]) -> Any:
        inside.append(1)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()
        return windows(texts)

    monkeypatch.setattr(moderator, "_windows", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: moderator.score(EXCHANGES), range(4)))
    assert most == [1, 1, 1, 1]


def test_loading_from_a_folder(tmp_path: Path) -> None:
    loaded = bert(JIGSAW, "multi_label_classification")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    moderator = ClassifierModerator(tmp_path, device="cpu", name="toxic")
    assert (moderator.name, moderator.model_name) == ("toxic", tmp_path.name)
    assert moderator.score(EXCHANGES) == ClassifierModerator(loaded).score(EXCHANGES)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModeratorError, match="cannot load"):
        ClassifierModerator(tmp_path)


def test_a_folder_or_id_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModeratorError, match="holds no model"):
        ClassifierModerator(tmp_path)
    with pytest.raises(ModeratorError, match="no such folder"):
        ClassifierModerator("a/b/c")
    with pytest.raises(ModeratorError, match="cannot load no/where"):
        ClassifierModerator("no/where")
    with pytest.raises(ModeratorError, match="unknown device 'gpu'"):
        ClassifierModerator("no/where", device="gpu")
