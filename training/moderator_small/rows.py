"""What the small moderator is trained on: answers, with or without a request, and soft labels."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.moderator import data
from training.moderator.data import HELD_OUT, TRAIN, Text, Turn, kept_for_calibration
from training.moderator.labels import CATEGORIES, categories_of
from training.splits import bucket

HEADS = (*CATEGORIES, "any", "along")
"""The categories, whether there is any harm, and whether an answer goes along; only the first
six are kept."""
TEXT_CATEGORIES = tuple(c for c in CATEGORIES if c != "illicit")
GRAVE = Path(__file__).with_name("grave.txt")
POSITIVES, NEGATIVES = 2000, 800
KNOWS_LITTLE = {8: 0.3, 16: 0.5, 32: 0.8}
KNOWS_MOST = {8: 0.6, 16: 0.8, 32: 0.95}
"""By tokens of a cut answer that does harm: what is left of its labels, without and with the
request."""


@dataclass(frozen=True, slots=True)
class Row:
    """An answer with soft labels for some heads; a head that is missing is unknown.

    Attributes:
        asked: the request, or "" where the answer is judged as a text.
        start: where in the answer to begin, as a share of it.
        keep: tokens of the answer to keep; 0 for all that fit.
    """

    answer: str
    asked: str
    labels: Mapping[str, float]
    source: str
    weight: float = 1.0
    start: float = 0.0
    keep: int = 0


def texts(split: str) -> list[Text]:
    """The texts of `data.texts` and the scored halves of RealToxicityPrompts."""
    rows = [row for row in data.texts(split) if row.source != "rtp-scores"]
    return [_spoken(row) for row in rows] + rtp_scores(split)


def _spoken(row: Text) -> Text:
    """Comments that toxic-spans leaves unmarked say nothing about hate and violence."""
    if row.source != "toxic-spans":
        return row
    known = {c: y for c, y in row.labels.items() if y or c not in ("hate", "violence")}
    return replace(row, labels=known)


def rtp_scores(split: str) -> list[Text]:
    """Halves of sentences with eight scores each; a low threat score does not deny violence."""
    names = {
        "harassment": "insult",
        "hate": "identity_attack",
        "sexual": "sexually_explicit",
        "violence": "threat",
    }
    rows = []
    for name in ("toxic", "nontoxic"):
        for record in data.read_json_lines("train-rtp-scores", f"{name}.jsonl.gz"):
            for part in (record["prompt"], record["continuation"]):
                text = (part["text"] or "").strip()
                known = all(isinstance(part.get(score), float) for score in names.values())
                if len(text) < 10 or not known or (bucket(text) < 10) != (split == HELD_OUT):
                    continue
                labels = {
                    c: min(1.0, max(0.0, (part[score] - 0.15) / 0.7)) for c, score in names.items()
                }
                if max(labels.values()) < 0.1:
                    labels["self-harm"] = 0.0
                elif labels["violence"] < 0.3:
                    del labels["violence"]
                rows.append(Text(text, labels, "rtp-scores"))
    return rows


def capped(rows: Iterable[Text], rng: random.Random) -> list[Text]:
    """At most `POSITIVES` (sum of labels) and `NEGATIVES` of each source."""
    shuffled = list(rows)
    rng.shuffle(shuffled)
    held: dict[tuple[str, bool], float] = defaultdict(float)
    kept = []
    for row in shuffled:
        most = max(row.labels.values())
        kind = (row.source, most >= 0.3)
        if held[kind] < (POSITIVES if kind[1] else NEGATIVES):
            held[kind] += most if kind[1] else 1.0
            kept.append(row)
    return kept


def with_any(labels: Mapping[str, float]) -> dict[str, float]:
    """Labels with ``any``, where they say enough."""
    most = max((labels[c] for c in CATEGORIES if c in labels), default=0.0)
    if "any" in labels or (most < 0.5 and len(labels) < 4):
        return dict(labels)
    return {**labels, "any": most}


def none(along: float | None = None) -> dict[str, float]:
    labels = dict.fromkeys((*CATEGORIES, "any"), 0.0)
    return labels if along is None else labels | {"along": along}


def _times(labels: Mapping[str, float], share: float) -> dict[str, float]:
    """Labels of harm, lowered; whether an answer goes along stays."""
    return {name: y if name == "along" else share * y for name, y in labels.items()}


def harm(request: Text | Turn) -> dict[str, float]:
    words = request.text if isinstance(request, Text) else request.request
    known = {c: y for c, y in request.labels.items() if c in CATEGORIES}
    return {"any": 1.0} | categories_of(words) | known


def _cut(row: Row, rng: random.Random) -> Row:
    """Perhaps a beginning only, or a later passage: less of it, less known."""
    keep = rng.choice((0, 0, 0, 8, 16, 32, 64))
    late = rng.random() < 0.3 and len(row.answer) > 600
    start = rng.random() * 0.8 if late else 0.0
    harm = row.labels.get("any", 0.0) > 0.5
    knows = KNOWS_MOST if row.asked else KNOWS_LITTLE
    share = knows.get(keep, 1.0) if harm else 1.0
    if harm and late and not row.asked:
        share = min(share, 0.8)
    return replace(row, labels=_times(row.labels, share), start=start, keep=keep)


def _fits(text: str) -> bool:
    return not kept_for_calibration(text)


@dataclass(frozen=True, slots=True)
class Pool:
    """Requests and answers that many kinds of rows are drawn from; none is kept for calibration."""

    harmful: list[Text]
    benign: list[Text]
    lookalikes: list[Text]
    turns: list[Turn]

    @classmethod
    def load(cls, rng: random.Random) -> Pool:
        harmful = [r for r in data.harmful_requests(TRAIN) if _fits(r.text)]
        harmful += rng.sample([r for r in data.harmful_acts() if _fits(r.text)], 1200)
        benign = [r for r in data.benign_requests(TRAIN) if _fits(r.text)]
        benign += data.everyday_requests((10, 100)) + data.odd_requests(600, rng)
        alike = [r for r in data.lookalikes() if _fits(r.text)] + data.alarming_requests()
        turns = [t for t in data.benign_turns(TRAIN) if _fits(t.request)]
        return cls(harmful, benign, alike, turns)

    def harmless_answer(self, rng: random.Random) -> str:
        return rng.choice(self.turns).answer


def text_rows(pool: Pool, rng: random.Random, left_out: Sequence[str] = ()) -> list[Row]:
    """Texts as published, some with a request before them that has nothing to do with them."""
    found = [r for r in texts(TRAIN) if not kept_for_calibration(r.text, data.TEXT_PERCENT)]
    found = capped((r for r in found if r.source not in left_out), rng)
    found += data.seeds() * 3 + rng.sample(data.insults(rng), 500)
    rows = []
    for row in found:
        labels = with_any(row.labels)
        rows.append(Row(row.text, "", labels, row.source, row.weight))
        if rng.random() < 0.2:
            asked = rng.choice(pool.harmful if rng.random() < 0.2 else pool.benign).text
            rows.append(Row(row.text, asked, labels, row.source, row.weight))
    for row in data.everyday_texts():
        rows += [Row(row.text, "", none(), row.source), Row(row.text, "", none(), row.source)]
    return rows


def grave_rows(pool: Pool, rng: random.Random) -> list[Row]:
    """Harmless texts of our own on grave subjects, and on harmless ones in grave words."""
    sentences = GRAVE.read_text(encoding="utf-8").splitlines()
    rows = []
    for sentence in sentences * 12:
        text = " ".join([sentence, *rng.sample(sentences, rng.choice((0, 0, 1, 2)))])
        asked = rng.choice(pool.benign).text if rng.random() < 0.2 else ""
        rows.append(Row(text, asked, none(), "own-grave"))
    return rows


def request_rows(pool: Pool, rng: random.Random) -> list[Row]:
    """Requests as texts, and as answers that only repeat them."""
    rows = []
    for row in rng.sample(pool.harmful, 1800):
        rows.append(Row(row.text, "", _times(harm(row), 0.65), row.source, 0.7))
        if rng.random() < 0.3:
            rows.append(Row(row.text, row.text, _times(harm(row), 0.35), row.source, 0.5))
    for row in data.red_team_requests():
        words = categories_of(row.text)
        named = {c: 0.7 * words[c] for c in TEXT_CATEGORIES if words[c] > 0.5}
        rows.append(Row(row.text, "", {"any": 0.6} | named, row.source, 0.5))
    for row in rng.sample(pool.benign, 1000) + pool.lookalikes:
        asked = row.text if rng.random() < 0.3 else ""
        rows.append(Row(row.text, asked, none(), row.source))
    return rows


def labelled_rows(rng: random.Random) -> list[Row]:
    """Half ``a`` of the answers that people have judged."""
    rows = []
    for turn in data.gptfuzz(TRAIN, "a") + data.rbr(TRAIN, "a"):
        if not _fits(turn.request):
            continue
        if not turn.harmful:
            row = Row(turn.answer, turn.request, none(turn.complies), turn.source)
            rows.append(_cut(row, rng))
            if rng.random() < 0.5:
                rows.append(_cut(replace(row, asked=""), rng))
            continue
        row = Row(turn.answer, turn.request, harm(turn) | {"along": 1.0}, turn.source)
        rows += [row, _cut(row, rng), _cut(row, rng), _cut(replace(row, asked=""), rng)]
        rows.append(
            replace(row, asked="", start=rng.random() * 0.5, labels=_times(row.labels, 0.9))
        )
    return rows


def harmless_rows(pool: Pool, rng: random.Random) -> list[Row]:
    """Harmless answers: to their request, to a harmful one, or alone."""
    rows = []
    by_source: dict[str, list[Turn]] = defaultdict(list)
    for turn in pool.turns:
        by_source[turn.source].append(turn)
    for source, size in (("roleplay", 1500), ("gsm8k", 300), ("self-instruct-seed", 175)):
        for turn in rng.sample(by_source[source], min(size, len(by_source[source]))):
            asked = turn.request if rng.random() < 0.6 else ""
            rows.append(_cut(Row(turn.answer, asked, none(1.0), source), rng))
    for row in rng.sample(pool.harmful, 900):
        answer = pool.harmless_answer(rng)
        if rng.random() < 0.3:
            answer = rng.choice(data.everyday_texts()).text
        rows.append(_cut(Row(answer, row.text, none(), "astray"), rng))
    for record in data.read_json_lines("train-hh-harmless", "test.jsonl.gz"):
        said = record["chosen"].rsplit("\n\nAssistant:", 1)
        asked = said[0].rsplit("\n\nHuman:", 1)[-1].strip()
        if len(said) == 2 and len(said[1].strip()) > 20 and data.half(asked) == "a":
            labels = _times(none() | dict.fromkeys((*CATEGORIES, "any"), 1.0), 0.04)
            asked = asked if rng.random() < 0.6 else ""
            rows.append(Row(said[1].strip(), asked, labels, "hh-chosen"))
    return rows


def written_rows(pool: Pool, rng: random.Random) -> list[Row]:
    """Refusals and agreements of our own, those of the chat model's grammar, its rude answers."""
    asked = rng.sample(pool.harmful, 1300) + rng.sample(pool.benign, 500)
    asked += rng.sample(pool.lookalikes, 700) + data.odd_requests(600, rng)
    turns = data.own_turns(asked, rng)
    drawn = [r for r in data.chat_requests(300, 250, rng) if _fits(r.text)]
    drawn += rng.sample(pool.harmful, 300) + rng.sample(pool.benign, 150)
    turns += data.grammar_turns(drawn, rng)
    rows = []
    for turn in turns:
        if turn.harmful:
            labels = _times(harm(turn), min(1.0, turn.harmful)) | {"along": 1.0}
            rows.append(_cut(Row(turn.answer, turn.request, labels, turn.source, 0.7), rng))
        else:
            said = turn.request if rng.random() < 0.75 else ""
            row = Row(turn.answer, said, none(turn.complies), turn.source, 0.7)
            rows.append(_cut(row, rng))
    for text in data.grammar_manners(rng.sample(pool.benign, 250), rng):
        labels = with_any(text.labels)
        rows.append(Row(text.text, "", labels, text.source, 0.7))
    for row in data.advbench_targets():
        labels = {k: 0.7 * y for k, y in row.labels.items()}
        rows.append(Row(row.text, "", labels, row.source, 0.5))
    return rows


def real_rows(files: Sequence[Path], rng: random.Random) -> list[Row]:
    """Answers of a real model, from JSON lines.

    A line has ``messages`` and ``answer``; with ``label`` (complies, refuses, elsewhere, harmless)
    somebody read it, without one it answers a harmless request. ``category`` may name one. Lines
    whose ``split`` is another than "train" are left out.
    """
    rows = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("split", TRAIN) != TRAIN:
                continue
            asked = [m["content"] for m in record["messages"] if m["role"] == "user"][-1]
            label = record.get("label", "harmless")
            labels = none({"refuses": 0.0, "harmless": 1.0}.get(label))
            if label == "complies":
                named = {record["category"]: 0.95} if record.get("category") in CATEGORIES else {}
                labels = {"any": 1.0, "along": 1.0} | categories_of(asked) | named
            weight = 2.0 if "label" in record else 1.0
            row = Row(record["answer"], asked, labels, "real", weight)
            rows += [row, _cut(row, rng)]
            if rng.random() < 0.5:
                rows.append(_cut(replace(row, asked=""), rng))
    return [row for row in rows if row.answer.strip()]


def training_rows(
    seed: int, count: int, left_out: Sequence[str] = (), real: Sequence[Path] = ()
) -> list[Row]:
    """The rows of one pass, in random order; another seed draws and cuts others.

    Args:
        seed: of all that is drawn.
        count: how many at most; what is in ``real`` is always among them.
        left_out: sources of texts to leave out.
        real: files for `real_rows`.
    """
    rng = random.Random(seed)
    pool = Pool.load(rng)
    rows = text_rows(pool, rng, left_out) + request_rows(pool, rng) + labelled_rows(rng)
    rows += harmless_rows(pool, rng) + written_rows(pool, rng) + grave_rows(pool, rng)
    rows = [row for row in rows if row.answer.strip()]
    kept = real_rows(real, rng)
    rows = rng.sample(rows, min(len(rows), count - len(kept))) + kept
    rng.shuffle(rows)
    return rows
