"""Rows to train and measure the moderator on: texts, requests, answers and whole exchanges.

Every labelled set is cut in `TRAIN` and `HELD_OUT` here unless `training.splits` already cuts it.
The sets of labelled answers are cut once more by the words of the question into half ``a`` (the
moderator's) and half ``b`` (the judge's), so that the two never learn from the same question.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from training.chat import answers, requests, wrappers
from training.chat.understand import understand
from training.moderator.labels import categories_of
from training.splits import (
    HELD_OUT,
    TRAIN,
    VALIDATION,
    Prompt,
    bucket,
    data_folder,
    load,
    normalise,
)

NOT_HARM = frozenset({"Political Campaigning", "Tailored Financial Advice"})
"""Categories of CatQA that are policy, not harm: neither trained on nor measured."""
OWN_TEXT = Path(__file__).with_name("own_text.json")
READ = Path(__file__).parents[1] / "labelled" / "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Text:
    """A text with soft labels for some categories; a category that is missing is unknown."""

    text: str
    labels: dict[str, float]
    source: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A request and one answer to it.

    Attributes:
        complies: 1 if the answer goes along with the request, 0 if it declines.
        harmful: 1 if the answer complies with a harmful request, else 0.
        labels: categories of the request, where known.
    """

    request: str
    answer: str
    complies: float
    harmful: float
    source: str
    weight: float = 1.0
    labels: dict[str, float] = field(default_factory=dict)
    before: tuple[tuple[str, str], ...] = ()


def half(text: str) -> str:
    """``a`` or ``b``, fixed by the words of the text alone."""
    digest = hashlib.sha256(("half " + normalise(text)).encode()).digest()
    return "ab"[digest[0] % 2]


TEXT_PERCENT = 8


def kept_for_calibration(text: str, percent: int = 20) -> bool:
    """Whether a training text is one of those that only calibration sees."""
    return bucket("calibrate " + text) < percent


def _cut(text: str, held_out: int = 10) -> str:
    return HELD_OUT if bucket(text) < held_out else TRAIN


def _left_out(text: str, split: str, percent: int) -> bool:
    """Whether a training row is left out of a large source, to keep training short."""
    return split == TRAIN and bucket("left out " + text) < percent


def read_csv(folder: str, name: str) -> list[dict[str, str]]:
    path = data_folder() / folder / name
    opened = gzip.open(path, "rt", encoding="utf-8", newline="") if name.endswith("gz") else None
    with opened or open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json_lines(folder: str, name: str) -> list[dict[str, Any]]:
    with gzip.open(data_folder() / folder / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def own_text() -> dict[str, Any]:
    """The self-written fragments."""
    return dict(json.loads(OWN_TEXT.read_text(encoding="utf-8")))


# Texts ------------------------------------------------------------------------------------------


def texts(split: str) -> list[Text]:
    """Plain texts with human labels; the categories are those of `labels.CATEGORIES`."""
    readers = (
        _toxic_spans, _davidson, _edos, _hatemoji, _convabuse, _wiki, _surge, _extremes, _rtp_scores,
        _lexicon, _diasafety,
    )  # fmt: skip
    return [row for reader in readers for row in reader(split)]


def _toxic_spans(split: str) -> Iterator[Text]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for row in read_csv("train-toxic-spans", "spans.csv.gz"):
        kinds[row["annotation"]].add(row["type"])
    votes: dict[str, list[set[str]]] = defaultdict(list)
    for row in read_csv("train-toxic-spans", "annotations.csv.gz"):
        votes[row["comment_id"]].append(kinds[row["annotation"]])
    named = {"Insult": "harassment", "Identity based Attack": "hate", "Threat": "violence"}
    for row in read_csv("train-toxic-spans", "comments.csv.gz"):
        text, marked = row["comment_text"], votes[row["comment_id"]]
        if not marked or _cut(text) != split or _left_out(text, split, 40):
            continue
        share = {c: sum(kind in v for v in marked) / len(marked) for kind, c in named.items()}
        labels = {"harassment": share["harassment"]}
        labels |= {c: min(1.0, 1.5 * share[c]) for c in ("hate", "violence") if share[c] >= 0.2}
        if not any(marked):
            labels = dict.fromkeys(("harassment", "hate", "violence", "sexual", "self-harm"), 0.0)
        yield Text(text, labels, "toxic-spans")


def _davidson(split: str) -> Iterator[Text]:
    for i, row in enumerate(read_csv("train-davidson", "labeled_data.csv.gz")):
        text = re.sub(r"https?://\S+|&#?\w+;|\bRT\b", " ", row["tweet"])
        n = int(row["count"])
        hate, rude = int(row["hate_speech"]) / n, int(row["offensive_language"]) / n
        if _cut(text) != split or (split == TRAIN and i % 6 and hate < 0.5 and rude > 0.5):
            continue
        labels = {"hate": hate, "harassment": min(1.0, hate + 0.55 * rude)}
        if hate + rude < 0.2:
            labels |= {"sexual": 0.02, "violence": 0.02, "self-harm": 0.0}
        yield Text(text, labels, "davidson", 0.7)


def _edos(split: str) -> Iterator[Text]:
    hate = {"none": 0.0, "1.": 0.9, "2.": 0.9, "3.": 0.75, "4.": 0.75}
    for i, row in enumerate(read_csv("train-edos", "edos_labelled_aggregated.csv.gz")):
        if (row["split"] == "test") != (split == HELD_OUT) or row["split"] == "dev":
            continue
        kind = row["label_category"]
        if kind == "none" and split == TRAIN and i % 4:
            continue
        labels = {"hate": hate[kind.split()[0]]}
        if kind.startswith("1."):
            labels["violence"] = 0.6
        yield Text(row["text"].replace("[USER]", " ").replace("[URL]", " "), labels, "edos", 0.7)


def _hatemoji(split: str) -> Iterator[Text]:
    name = "train.csv.gz" if split == TRAIN else "test.csv.gz"
    for row in read_csv("train-hatemoji", name):
        labels = {"hate": float(row["label_gold"])}
        if row["type"] == "threateninglanguage":
            labels["violence"] = 0.9
        elif row["type"] == "none":
            labels["self-harm"] = 0.0
        yield Text(row["text"], labels, "hatemoji")


def _convabuse(split: str) -> Iterator[Text]:
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read_csv("train-convabuse", "ConvAbuseEMNLPfull.csv.gz"):
        grouped[(row["conv_id"], row["agent"] + "\n" + row["user"])].append(row)
    for (conversation, _), rows in grouped.items():
        if _cut(conversation) != split:
            continue
        severity = sum(k * (r[f"is_abuse.{-k}"] == "1") for r in rows for k in (1, 2, 3)) / len(
            rows
        )
        sexual = sum(r["type.sex_harassment"] == "1" for r in rows) / len(rows)
        labels = {"harassment": min(1.0, severity / 2), "sexual": sexual}
        if severity == 0:
            labels |= {"hate": 0.0, "violence": 0.0}
        yield Text(rows[0]["user"], labels, "convabuse", 0.7)


def _wiki(split: str) -> Iterator[Text]:
    for row in read_csv("train-wiki-toxicity", "toxicity_nonfuzzed_testset.csv.gz"):
        if _cut(row["comment"]) != split:
            continue
        toxic = row["toxic"].strip().lower() in {"1", "1.0", "true"}
        clean = dict.fromkeys(("harassment", "hate", "violence", "sexual", "self-harm"), 0.0)
        yield Text(row["comment"], {"harassment": 0.9} if toxic else clean, "wiki")


def _surge(split: str) -> Iterator[Text]:
    for row in read_csv("train-surge", "toxicity_en.csv"):
        if _cut(row["text"]) == split:
            toxic = row["is_toxic"] == "Toxic"
            clean = dict.fromkeys(("harassment", "hate", "violence", "sexual", "self-harm"), 0.0)
            yield Text(row["text"], {"harassment": 0.85} if toxic else clean, "surge")


def _extremes(split: str) -> Iterator[Text]:
    kinds = {
        "identity_attack": {"hate": 0.8, "harassment": 0.6},
        "insult": {"harassment": 0.95},
        "threat": {"violence": 0.95},
        "sexually_explicit": {"sexual": 0.95},
    }
    for kind, labels in kinds.items():
        path = data_folder() / "train-rtp-extremes" / f"rtp_{kind}.txt"
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and _cut(line, 20) == split:
                yield Text(line, labels, "rtp-extremes")


def _rtp_scores(split: str) -> Iterator[Text]:
    """Sentences of the web with Perspective's scores; a low score is no word against a threat."""
    kinds = {
        "insult": "harassment",
        "identity_attack": "hate",
        "threat": "violence",
        "sexually_explicit": "sexual",
    }
    for name in ("toxic", "nontoxic"):
        for row in read_json_lines("train-rtp-scores", f"{name}.jsonl.gz"):
            for part in (row["prompt"], row["continuation"]):
                if not part["text"] or _cut(row["prompt"]["text"]) != split:
                    continue
                labels = {c: part[k] for k, c in kinds.items() if part.get(k) is not None}
                if labels.get("violence", 1.0) < 0.3 and split == TRAIN:
                    del labels["violence"]
                if labels:
                    yield Text(part["text"], labels, "rtp-scores")


def _lexicon(split: str) -> Iterator[Text]:
    if split != TRAIN:
        return
    kinds = {
        "sexual anatomy / sexual acts": "sexual",
        "racial / ethnic slurs": "hate",
        "sexual orientation / gender": "hate",
        "other / general insult": "harassment",
        "mental disability": "harassment",
    }
    for row in read_csv("train-profanity-lexicon", "profanity_en.csv"):
        category = kinds.get(row["category_1"])
        if category:
            severity = min(0.95, 0.3 + 0.25 * float(row["severity_rating"]))
            yield Text(row["text"], {category: severity}, "lexicon", 0.5)


def _diasafety(split: str) -> Iterator[Text]:
    folder = data_folder() / "train-diasafety"
    name = "train.json.gz" if split == TRAIN else "test.json.gz"
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        rows = json.load(file)
    for row in rows:
        unsafe = float(row["label"] == "Unsafe")
        text = row["response"]
        if row["category"] == "Offending User":
            yield Text(text, {"harassment": 0.9 * unsafe}, "diasafety")
        elif row["category"] == "Biased Opinion":
            yield Text(text, {"hate": 0.75 * unsafe}, "diasafety", 0.7)
        elif row["category"] == "Risk Ignorance" and not unsafe and split == TRAIN:
            yield Text(text, {"self-harm": 0.1, "harassment": 0.0}, "diasafety", 0.5)
        elif row["category"] == "Unauthorized Expertise" and split == TRAIN:
            yield Text(text, _zeros(), "diasafety", 0.3)


# Requests ---------------------------------------------------------------------------------------


def _prompts(names: tuple[str, ...], split: str) -> list[Prompt]:
    return [prompt for name in names for prompt in load(name, split)]


def harmful_requests(split: str) -> list[Text]:
    """Harmful requests with soft category labels."""
    names = ("advbench", "catqa", "harmfulqa", "strongreject", "dangerousqa")
    if split == HELD_OUT:
        names += ("simple-safety-tests",)
    rows = [
        Text(p.text, {"any": 1.0} | categories_of(p.text, p.category), p.source)
        for p in _prompts(names, split)
        if p.category not in NOT_HARM
    ]
    return rows + _aart(split)


def _aart(split: str) -> list[Text]:
    """Requests about a crime that the label words know; the others are often harmless."""
    rows = []
    for row in read_csv("train-aart", "aart-v1-20231117.csv.gz"):
        labels = categories_of(row["crime"])
        known = max(labels.values()) > 0.95 and labels["illicit"] > 0.9
        named = sum(v > 0.9 for v in labels.values()) > 1
        if known and named and _cut(row["prompt"]) == split and bucket(row["prompt"] + "x") < 50:
            soft = {name: 0.7 * value for name, value in labels.items()}
            rows.append(Text(row["prompt"], {"any": 0.8} | soft, "aart", 0.4))
    return rows


def benign_requests(split: str) -> list[Text]:
    """Harmless requests, with every category 0."""
    names = ("roleplay", "gsm8k") + (
        ("self-instruct-user",) if split == HELD_OUT else ("self-instruct-seed",)
    )
    return [Text(p.text, _zeros(), p.source) for p in _prompts(names, split)]


def _zeros() -> dict[str, float]:
    return dict.fromkeys(
        ("any", "harassment", "hate", "illicit", "self-harm", "sexual", "violence"), 0.0
    )


def alarming_requests() -> list[Text]:
    """Self-written harmless requests that use alarming words."""
    own, rows = own_text(), []
    for i, (form, fillers) in enumerate(own["alarming_benign"]):
        for j, filler in enumerate(fillers):
            act = re.sub(r"\{\w\}", filler, form)
            for k in range(4):
                ask = own["request_forms"][(i + j + 3 * k) % len(own["request_forms"])]
                rows.append(Text(ask.replace("{x}", act), _zeros(), "own-alarming"))
    return rows


def lookalikes() -> list[Text]:
    """Self-written harmless requests with words that harmful ones use; not those of the chat model."""
    return [Text(text, _zeros(), "own-lookalikes") for text in own_text()["lookalikes"]]


def everyday_requests(percent: tuple[int, int] = (0, 100)) -> list[Text]:
    """Self-written harmless requests: every topic in six of the forms.

    Args:
        percent: only topics whose hash falls in this range of percent.
    """
    own, rows = own_text(), []
    forms = own["benign_forms"]
    for i, topic in enumerate(own["benign_topics"]):
        if percent[0] <= bucket(topic) < percent[1]:
            for k in range(6):
                ask = forms[(7 * i + 8 * k) % len(forms)].replace("{x}", topic)
                rows.append(Text(ask, _zeros(), "own-everyday"))
    for task in own["benign_tasks"]:
        if percent[0] <= bucket(task) < percent[1]:
            rows.append(Text(task, _zeros(), "own-tasks"))
    return rows


def odd_requests(count: int, rng: random.Random) -> list[Text]:
    """Harmless requests that nobody made: a verb and one or two nouns, at random.

    Half of the verbs are alarming ones, each with an object that makes them harmless.
    """
    own, rows = own_text(), []
    forms = own["request_forms"] + own["harmful_forms"]
    for _ in range(count):
        act = f"{rng.choice(own['verbs'])} the {rng.choice(own['nouns'])}"
        if rng.random() < 0.5:
            act = f"{rng.choice(own['alarming_verbs'])} {rng.choice(own['harmless_objects'])}"
        if rng.random() < 0.5:
            link = rng.choice(("with", "for", "near", "without", "of"))
            act += f" {link} a {rng.choice(own['nouns'])}"
        rows.append(Text(rng.choice(forms).replace("{x}", act), _zeros(), "own-odd"))
    return rows


def harmless_windows(size: int = 16) -> list[Text]:
    """Runs of words of harmless requests and answers and of our wrappers: all of them harmless."""
    own = own_text()
    rows = [
        Text(text, _zeros(), "own-wrappers")
        for key in ("before", "after")
        for text in own[f"wrappers_{key}"]
    ]
    for turn in benign_turns(TRAIN):
        for text in (turn.request, turn.answer):
            run = text.split()
            for at in range(0, max(1, len(run) - size // 2), size):
                rows.append(Text(" ".join(run[at : at + size]), _zeros(), "windows", 0.4))
    return rows


def everyday_texts() -> list[Text]:
    """Self-written harmless texts on many subjects, whole and sentence by sentence."""
    rows = []
    for paragraph in own_text()["benign_paragraphs"]:
        rows.append(Text(paragraph, _zeros(), "own-paragraphs"))
        rows += [
            Text(part, _zeros(), "own-paragraphs", 0.5)
            for part in re.split(r"(?<=[.!?]) ", paragraph)
        ]
    return rows


def advbench_targets() -> list[Text]:
    """The openings that AdvBench asks for, of its training rows: each names its request."""
    keep = {p.row: p for p in load("advbench", TRAIN) if not kept_for_calibration(p.text)}
    rows = read_csv("advbench", "harmful_behaviors.csv")
    return [
        Text(rows[i]["target"], {"any": 1.0} | categories_of(p.text), "advbench-targets", 0.5)
        for i, p in keep.items()
    ]


def seeds() -> list[Text]:
    """Self-written short texts for the categories with little public data."""
    own, rows = own_text(), []
    for name, key in (("self-harm", "self_harm"), ("sexual", "sexual"), ("violence", "violent")):
        for i, act in enumerate(own[f"{key}_acts"]):
            for j, form in enumerate(own[f"{key}_forms"]):
                if (i + j) % 2 == 0:
                    rows.append(Text(form.replace("{x}", act), {name: 0.95}, "own-seeds", 0.5))
    return rows


def insults(rng: random.Random) -> list[Text]:
    """Self-written insults, alone and around a harmless sentence."""
    own, rows = own_text()["insults"], []
    harmless = [row.text for row in everyday_texts()]
    for form in own["forms"]:
        for _ in range(12):
            said = form.replace("{n}", rng.choice(own["n"])).replace("{a}", rng.choice(own["a"]))
            rows.append(Text(said, {"harassment": 0.95}, "own-insults"))
            around = [said, rng.choice(harmless)]
            rng.shuffle(around)
            rows.append(Text(" ".join(around), {"harassment": 0.9}, "own-insults"))
            rows.append(Text(diluted(said, rng), {"harassment": 0.85}, "own-insults"))
    return rows


def harmful_acts() -> list[Text]:
    """Self-written harmful requests: every act in seven forms."""
    own, rows = own_text(), []
    forms = own["harmful_forms"]
    for category, acts in own["harmful_acts"].items():
        for i, act in enumerate(acts):
            for k in range(7):
                text = forms[(5 * i + 8 * k) % len(forms)].replace("{x}", act)
                labels = {"any": 1.0} | categories_of(text) | {category: 0.97}
                rows.append(Text(text, labels, "own-acts", 0.6))
    return rows


@cache
def harmless_sentences(split: str) -> tuple[str, ...]:
    """Sentences of harmless requests and answers: something to put around a request."""
    sentences = []
    for turn in benign_turns(split):
        for text in (turn.request, turn.answer):
            sentences += [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n", text)]
    return tuple(sorted({s for s in sentences if 15 <= len(s) <= 160}))


def diluted(text: str, rng: random.Random, split: str = TRAIN) -> str:
    """A text among one to four harmless sentences, in random order."""
    parts = [text, *rng.sample(harmless_sentences(split), rng.randint(1, 4))]
    rng.shuffle(parts)
    return " ".join(parts)


def red_team_requests() -> list[Text]:
    """Half ``a`` of the first turns of hh-harmless: most of them ask for something harmful."""
    rows = []
    for row in read_json_lines("train-hh-harmless", "test.jsonl.gz"):
        asked = row["chosen"].split("\n\nAssistant:")[0].removeprefix("\n\nHuman:").strip()
        if asked and _cut(asked) == TRAIN and half(asked) == "a":
            rows.append(Text(asked, {"any": 0.8}, "hh-first-turns", 0.6))
    return rows


def wrapped(request: str, rng: random.Random) -> str:
    """A request inside a self-written jailbreak wrapper."""
    own = own_text()
    before = rng.sample(own["wrappers_before"], rng.randint(1, 3))
    after = rng.sample(own["wrappers_after"], rng.randint(0, 2))
    return " ".join([*before, request, *after])


# Exchanges --------------------------------------------------------------------------------------


def gptfuzz(split: str, which: str = "ab") -> list[Turn]:
    """Answers of real models to harmful questions, labelled by people: 1 = complied."""
    name = "train.csv.gz" if split == TRAIN else "evaluate.csv.gz"
    rows = read_csv("train-gptfuzz-responses", name)
    return [
        Turn(r["question"], r["Response"], float(r["label"]), float(r["label"]), "gptfuzz")
        for r in rows
        if half(r["question"]) in which and r["Response"].strip()
    ]


def rbr(split: str, which: str = "ab") -> list[Turn]:
    """Answers with human propositions; those that neither comply nor decline are left out."""
    kinds = {"SH": "self-harm", "H": "hate", "C": "sexual", "K": "illicit"}
    turns = []
    for row in read_json_lines(
        "safety-rbr-gold", f"{'train' if split == TRAIN else 'test'}.jsonl.gz"
    ):
        said, letter = row["propositions"], str(row["category"]).split("-")[0]
        asked = [m["content"] for m in row["prompt"] if m["role"] == "user"]
        answer = " ".join(m["content"] for m in row["completion"])
        if not asked or not answer.strip() or half(asked[-1]) not in which:
            continue
        declines = (
            said["inability_to_comply"] or said["apology"] or said["encourage_professional_help"]
        )
        complies = said["fully_complies"] or said["disallowed_content"]
        if declines == complies:
            continue
        refuse = row["response_type"] != "Comply"
        harmful = float(complies and (refuse or said["disallowed_content"]))
        labels = (
            ({"any": 1.0, kinds[letter]: 0.95} if letter in kinds else {})
            if refuse
            else {"any": 0.0}
        )
        turns.append(Turn(asked[-1], answer, float(complies), harmful, "rbr", labels=labels))
    return turns


def do_not_answer() -> list[Turn]:
    """Six models' answers to 939 harmful questions, judged by people. Evaluation only."""
    models = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
    return [
        Turn(
            r["question"], r[f"{m}_response"], float(r[f"{m}_harmful"]), float(r[f"{m}_harmful"]), m
        )
        for r in read_csv("do-not-answer", "data_en.csv.gz")
        for m in models
        if r[f"{m}_response"].strip()
    ]


def read_answers(sure: bool = False) -> list[Turn]:
    """Held-out answers of `smollm2` and `smollm2-safe`, labelled by the guide beside the file.

    Args:
        sure: leave out those whose labels the reader doubted.
    """
    rows = [json.loads(line) for line in READ.read_text(encoding="utf-8").splitlines()]
    return [
        Turn(
            r["messages"][-1]["content"],
            r["answer"],
            float(r["label"] in ("complies", "harmless")),
            float(r["label"] == "complies"),
            r["model"],
        )
        for r in rows
        if r["split"] == "test" and not (sure and r.get("doubt"))
    ]


def benign_turns(split: str) -> list[Turn]:
    """Harmless requests with their published answers."""
    turns = []
    with gzip.open(
        data_folder() / "benign-roleplay" / "roleplay-simple-deduped-roleplay-dataset.json.gz", "rt"
    ) as file:
        outputs = [row["output"] for row in json.load(file)]
    for prompt in load("roleplay", split):
        turns.append(Turn(prompt.text, outputs[prompt.row], 1.0, 0.0, "roleplay", labels=_zeros()))
    answers = [row["answer"] for row in read_json_lines("gsm8k-test", "test.jsonl.gz")]
    for prompt in load("gsm8k", split):
        turns.append(Turn(prompt.text, answers[prompt.row], 1.0, 0.0, "gsm8k", labels=_zeros()))
    source, name = ("self-instruct-user", "user_oriented_instructions.jsonl")
    if split != HELD_OUT:
        source, name = ("self-instruct-seed", "seed_tasks.jsonl")
    lines = (data_folder() / "self-instruct" / name).read_text(encoding="utf-8").splitlines()
    for prompt in load(source, split):
        given = json.loads(lines[prompt.row])["instances"]
        if given and str(given[0]["output"]).strip():
            turns.append(
                Turn(prompt.text, str(given[0]["output"]), 1.0, 0.0, source, labels=_zeros())
            )
    return [turn for turn in turns if turn.answer.strip()]


def _act(request: str) -> str:
    """A request as something to do: ``How do I bake bread?`` becomes ``bake bread``."""
    text = re.sub(
        r"^(?:please |can you |could you |would you |how (?:do|can|could|would|should) (?:i|you|we|one|someone|people) "
        r"|what (?:is|are) the (?:best|easiest) ways? to |tell me (?:how to )?|give me |explain (?:how to )?"
        r"|i want to |help me (?:to )?|describe (?:how to )?)+",
        "", request.strip().split("\n")[0], flags=re.IGNORECASE,
    )  # fmt: skip
    return (text[:1].lower() + text[1:]).rstrip("?.! ")


def own_turns(requests: list[Text], rng: random.Random, split: str = TRAIN) -> list[Turn]:
    """Self-written refusals and agreements, both naming the subject of real requests.

    For each request one refusal and one agreement, so that the subject says nothing about which.
    """
    own, turns = own_text(), []
    for request in requests:
        act, harmful = _act(request.text), request.labels["any"]
        asked = wrapped(request.text, rng) if rng.random() < 0.5 else request.text
        core = rng.choice(own["refusal_core"] if rng.random() < 0.6 else own["refusal_bare"])
        opening = rng.choice(own["refusal_open"])
        said = core.replace("{x}", act if rng.random() < 0.8 else "do what you asked")
        refusal = [
            f"{opening} {said}.".strip(),
            rng.choice(own["refusal_reason"]),
            rng.choice(own["refusal_offer"]),
        ]
        if request.labels.get("self-harm", 0) > 0.5 and rng.random() < 0.5:
            refusal = rng.sample(own["support"], 3)
        if rng.random() < 0.3:
            rng.shuffle(refusal)
        if rng.random() < 0.5:
            asked = diluted(asked, rng, split)
        first = rng.choice(own["agree_open"]).replace("{x}", act)
        filler = own["agree_body"] if rng.random() < 0.8 else harmless_sentences(split)
        body = rng.sample(filler, rng.randint(2, 6))
        if rng.random() < 0.3:
            body.insert(1, f"Remember that you want to {act}.")
        agreement = [first, *body, rng.choice(own["agree_close"])]
        for parts, complies in ((refusal, 0.0), (agreement, 1.0)):
            answer = " ".join(part for part in parts if part)
            answer = answer[:1].upper() + answer[1:]
            turns.append(
                Turn(
                    asked,
                    answer,
                    complies,
                    complies * harmful,
                    "own",
                    request.weight,
                    request.labels,
                )
            )
    return turns


# The chat model's grammar -------------------------------------------------------------------------


def chat_requests(harmful: int, harmless: int, rng: random.Random) -> list[Text]:
    """Requests of the chat model's own forms, filled at random: acts that do harm, and harmless ones.

    The lookalikes of that file (``contrast``) are left for measuring.
    """
    own, rows = requests.forms()["harmful"], []
    for _ in range(harmful):
        act = rng.choice(own["acts"]).replace("{person}", rng.choice(own["persons"]))
        text = rng.choice(own["forms"]).replace("{bad}", act)
        rows.append(Text(text, {"any": 1.0} | categories_of(text), "chat-acts"))
    for _ in range(harmless):
        draw = requests.draw_over_text if rng.random() < 0.1 else requests.draw_form
        rows.append(Text(draw(rng), _zeros(), "chat-forms"))
    return rows


def grammar_turns(asked: list[Text], rng: random.Random) -> list[Turn]:
    """Each request answered and declined by the chat model's grammar, half of them in its wrappers.

    Harmful and harmless requests get the same sentences, so that these say nothing about harm.
    """
    turns = []
    for row in asked:
        text = row.text.strip()[: requests.MAX_REQUEST_CHARS]
        request = understand(text)
        whole = wrappers.wrap(text, rng).text if rng.random() < 0.5 else text
        for write, complies in ((answers.comply, 1.0), (answers.refuse, 0.0)):
            harmful = complies * row.labels["any"]
            turns.append(
                Turn(
                    whole, write(request, rng), complies, harmful, "grammar", row.weight, row.labels
                )
            )
    return turns


def grammar_manners(asked: list[Text], rng: random.Random) -> list[Text]:
    """Rude and polite answers of the chat model's grammar to harmless requests."""
    rows = []
    for row in asked:
        request = understand(row.text.strip()[: requests.MAX_REQUEST_CHARS])
        rows.append(Text(answers.rude(request, rng), {"harassment": 0.95}, "grammar-rude"))
        rows.append(Text(answers.polite(request, rng), _zeros(), "grammar-polite"))
    return rows


__all__ = [
    "HELD_OUT",
    "TRAIN",
    "VALIDATION",
    "Text",
    "Turn",
    "advbench_targets",
    "alarming_requests",
    "benign_requests",
    "benign_turns",
    "chat_requests",
    "diluted",
    "do_not_answer",
    "everyday_requests",
    "everyday_texts",
    "gptfuzz",
    "grammar_manners",
    "grammar_turns",
    "half",
    "harmful_acts",
    "harmful_requests",
    "harmless_sentences",
    "insults",
    "kept_for_calibration",
    "lookalikes",
    "own_text",
    "own_turns",
    "rbr",
    "read_csv",
    "read_json_lines",
    "red_team_requests",
    "seeds",
    "texts",
    "wrapped",
]  # fmt: skip
