"""The benchmarks that are known by name: one row each, and what a few of them need besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import TEXT, Row, parsed, read_rows, read_text
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional
from rerail.eval.scorers import gsm8k, ifeval, xstest
from rerail.names import nearest

ATTACKS = ("aim", "autodan", "cipher", "gcg", "jailbroken", "pair", "renellm")
"""Of AlphaSteer's test data: names of its files."""

LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")
"""Of MultiJail."""


def _bold_rows(path: Path) -> list[Row]:
    files = sorted(path.glob("*_prompt.json")) if path.is_dir() else [path]
    if not files:
        raise InputFileError(f"{path} has no file *_prompt.json: give BOLD's folder 'prompts'")
    return [row for file in files for row in _bold_file(file)]


def _bold_file(path: Path) -> list[Row]:
    try:
        groups = parsed(read_text(path), str(path))
        return [
            {"domain": path.name.split("_")[0], "category": group, "name": name, "prompt": prompt}
            for group, names in groups.items()
            for name, prompts in names.items()
            for prompt in prompts
        ]
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}") from None
    except (AttributeError, TypeError):
        raise InputFileError(f"{path} is no BOLD file: subgroup -> name -> prompts") from None


def _attack_rows(path: Path) -> list[Row]:
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.json*")) if _attack(file) in ATTACKS]
        if not files:
            raise InputFileError(f"{path} has none of the files {', '.join(ATTACKS)} (.json)")
    if (unknown := _attack(files[0])) not in ATTACKS:
        raise InputFileError(
            f"{path} is no file of attacks{nearest(unknown, ATTACKS)}: keep their names"
        )
    return [
        {**row, "attack": _attack(file), "id": f"{_attack(file)}-{number}"}
        for file in files
        for number, row in enumerate(read_rows(file))
    ]


def _attack(file: Path) -> str:
    return file.name.partition(".")[0].removesuffix("_llama3")


def _one_prompt_each(rows: list[Row]) -> list[Row]:
    return [
        {**row, "prompt": prompt}
        for row in rows
        for prompt in (row["prompts"] if isinstance(row.get("prompts"), list) else [row["prompt"]])
    ]


def _one_language_each(rows: list[Row]) -> list[Row]:
    return [
        {"id": f"{number}-{language}", "en": row["en"], "language": language, "text": row[language]}
        for number, row in enumerate(rows)
        for language in LANGUAGES
        if row.get(language)
    ]


def _challenging(rows: list[Row]) -> list[Row]:
    challenging = [row for row in rows if row.get("challenging") in (True, "True", "true")]
    return [_plain_prompt(row) for row in challenging or rows]


def _plain_prompt(row: Row) -> Row:
    prompt = row.get("prompt")
    return {"prompt": prompt[TEXT]} if isinstance(prompt, Mapping) else row


def _first_turn(rows: list[Row]) -> list[Row]:
    return [{**row, "turns": _first(row["turns" if "turns" in row else "prompt"])} for row in rows]


def _first(turns: Any) -> Any:
    if not isinstance(turns, list) or not turns:
        raise InputFileError("'turns' is no list of texts: give the JSONL file")
    return turns[0]


def _in_context(row: Row, item: Item) -> Item:
    context = optional(row, "contextstring", "context")
    text = item.text if context is None else f"{context}\n\n---\n\n{item.text}"
    return replace(
        item, text=text, meta={"functional_category": optional(row, "functionalcategory")}
    )


def _with_input(row: Row, item: Item) -> Item:
    instruction, instances = (item.text or "").strip(), row["instances"]
    given = instances[0]["input"].strip() if instances else ""
    return replace(item, text=f"{instruction}\n\n{given}" if given else instruction)


def _by_type(row: Row, item: Item) -> Item:
    """Files before the column ``label`` mark the unsafe counterparts in the type."""
    kind = column(row, "type")
    unsafe = (optional(row, "label") or kind.partition("_")[0]) in {"unsafe", "contrast"}
    return replace(item, kind="harmful" if unsafe else "benign")


def _or_vanilla(rows: list[Row]) -> list[Row]:
    return [
        {**row, "adversarial": optional(row, "adversarial") or column(row, "vanilla")}
        for row in rows
    ]


def _by_data_type(row: Row, item: Item) -> Item:
    benign = column(row, "data_type").endswith("benign")
    return replace(item, kind="benign" if benign else "harmful")


def _instructed(row: Row, item: Item) -> Item:
    names, kwargs = row["instruction_id_list"], row["kwargs"]
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
        raise InputFileError("'instruction_id_list' and 'kwargs' are not lists of one length")
    # The hub's copy fills every possible argument with null.
    given = [{k: v for k, v in (args or {}).items() if v is not None} for args in kwargs]
    meta = {"instruction_id_list": names, "kwargs": given, "key": row.get("key")}
    return replace(item, meta=meta)


_JBB = Benchmark(
    "jailbreakbench", "harmful", "JBB-Behaviors", "Chao et al. 2024, arXiv 2404.01318",
    "100 harmful and 100 benign rows, MIT",
    text=("goal",), id=("index",), category=("category",), needs=("behavior",),
    hub=Hub("JailbreakBench/JBB-Behaviors", "harmful", "behaviors"),
)  # fmt: skip
_OR_BENCH = Benchmark(
    "or-bench", "benign", "OR-Bench", "Cui et al. 2024, arXiv 2405.20947", "CC BY 4.0",
    "Hard-1K and 80K seem harmful and are not; Toxic is. ``or-bench`` reads Hard-1K from the hub, "
    "and any of the two benign files from a path.",
    text=("prompt",), category=("category",), needs=("category",),
    hub=Hub("bench-llm/or-bench", "train", "or-bench-hard-1k"),
)  # fmt: skip

_ROWS = (
    Benchmark(
        "advbench", "harmful", "AdvBench, harmful behaviours",
        "Zou et al. 2023, arXiv 2307.15043", "520 rows, MIT",
        text=("goal", "prompt"), needs=("target",), hub=Hub("walledai/AdvBench", "train"),
    ),
    Benchmark(
        "ailuminate", "harmful", "AILuminate 1.0, demo prompts",
        "Ghosh et al. 2025, arXiv 2503.05731", "1,200 rows, CC BY 4.0",
        text=("prompt_text",), id=("release_prompt_id",), category=("hazard",),
        needs=("release_prompt_id", "hazard"), meta=("persona", "locale"),
    ),
    Benchmark(
        "attacks", "harmful", "Attacks on AdvBench", "Sheng et al. 2025, arXiv 2506.07022",
        "1,100 rows, Apache-2.0: evaluation only",
        "Test data of AlphaSteer: AIM, AutoDAN, ciphers, GCG, Jailbroken, PAIR and ReNeLLM, made "
        "for Llama 3.1. A local copy is one of the files, or the folder of them. Of ciphers and "
        "GCG the bare request is known; the others are judged as they are. Five of six requests "
        "are among AdvBench's rows 0 to 419.",
        text=("query",), request=("original_query", "prompt"), id=("id",), category=("attack",),
        rows=_attack_rows,
    ),
    Benchmark(
        "attaq", "completion", "AttaQ", "Kour et al. 2023, arXiv 2311.04124", "1,402 rows, MIT",
        "Continued as plain text, as in TIDE (arXiv 2602.02498).",
        text=("input",), category=("label",), needs=("label",), template=False,
        hub=Hub("ibm-research/AttaQ", "train"),
    ),
    Benchmark(
        "bold", "completion", "BOLD", "Dhamala et al. 2021, arXiv 2101.11718",
        "23,679 beginnings of sentences, CC BY-SA 4.0",
        "A local copy is one of the repository's JSON files (subgroup -> name -> prompts), or the "
        "folder of them; the hub has a row per name.",
        text=("prompt", "prompts"), category=("category",), needs=("category",), template=False,
        hub=Hub("AmazonScience/bold", "train"), rows=_bold_rows, arrange=_one_prompt_each,
    ),
    Benchmark(
        "borderline", "benign", "Harmless requests that sound harmful",
        "Sheng et al. 2025, arXiv 2506.07022", "291 rows, Apache-2.0: evaluation only",
        "Validation data of AlphaSteer.",
        text=("query",),
    ),
    Benchmark(
        "do-not-answer", "harmful", "Do-Not-Answer", "Wang et al. 2023, arXiv 2308.13387",
        "939 rows, CC BY-NC-SA 4.0: evaluation only",
        text=("question",), id=("id",), category=("risk_area",), needs=("risk_area",),
        hub=Hub("LibrAI/do-not-answer", "train"),
    ),
    Benchmark(
        "gsm8k", "utility", "GSM8K, test part", "Cobbe et al. 2021, arXiv 2110.14168",
        "1,319 rows, MIT",
        text=("question",), needs=("answer",), meta=("answer",), scorer=gsm8k.score,
        hub=Hub("openai/gsm8k", "test", "main"),
    ),
    Benchmark(
        "harmbench", "harmful", "HarmBench, text behaviours",
        "Mazeika et al. 2024, arXiv 2402.04249", "400 rows, MIT",
        "Contextual behaviours are put as HarmBench puts them: the context, a rule, the behaviour.",
        text=("behavior", "prompt"), request=("behavior", "prompt"), id=("behaviorid",),
        category=("semanticcategory", "category"), needs=(("semanticcategory", "category"),),
        item=_in_context, hub=Hub("walledai/HarmBench", "train", "standard"),
    ),
    Benchmark(
        "ifeval", "utility", "IFEval", "Zhou et al. 2023, arXiv 2311.07911",
        "541 rows, Apache-2.0",
        "Prompts with instructions that a program can check. Scored as by the authors' script, but "
        "that 3 of 1,000 texts have fewer sentences, and that letters are never drawn at random.",
        text=("prompt",), id=("key",), needs=("instruction_id_list", "kwargs"), item=_instructed,
        scorer=ifeval.score, hub=Hub("google/IFEval", "train"),
    ),
    _JBB,
    replace(_JBB, name="jailbreakbench-benign", kind="benign",
            hub=Hub("JailbreakBench/JBB-Behaviors", "benign", "behaviors")),
    Benchmark(
        "mt-bench", "benign", "MT-Bench, first turns", "Zheng et al. 2023, arXiv 2306.05685",
        "80 open questions, Apache-2.0",
        text=("turns", "prompt"), id=("question_id", "prompt_id"), category=("category",),
        needs=("category",), arrange=_first_turn,
        hub=Hub("HuggingFaceH4/mt_bench_prompts", "train"),
    ),
    Benchmark(
        "multijail", "harmful", "MultiJail", "Deng et al. 2023, arXiv 2310.06474",
        "315 harmful requests in ten languages, MIT",
        "Every language of a row is a case of its own; its category is the language, and by the "
        "English text it is judged.",
        text=("text", "en"), request=("en",), id=("id",), category=("language",),
        needs=("en",), arrange=_one_language_each, hub=Hub("DAMO-NLP-SG/MultiJail", "train"),
    ),
    _OR_BENCH,
    replace(_OR_BENCH, name="or-bench-toxic", kind="harmful",
            hub=Hub("bench-llm/or-bench", "train", "or-bench-toxic")),
    Benchmark(
        "realtoxicityprompts", "completion", "RealToxicityPrompts",
        "Gehman et al. 2020, arXiv 2009.11462", "Apache-2.0",
        "Beginnings of sentences, continued as plain text. Of a file that marks its challenging "
        "prompts (1,199 in the whole set) only those are taken, as TIDE (arXiv 2602.02498) does.",
        text=("prompt", TEXT), template=False, arrange=_challenging,
        hub=Hub("allenai/real-toxicity-prompts", "train"),
    ),
    Benchmark(
        "self-instruct", "benign", "Self-Instruct, user-oriented part",
        "Wang et al. 2023, arXiv 2212.10560", "252 rows, Apache-2.0",
        text=("instruction",), id=("id",), category=("motivation_app",), needs=("instances",),
        item=_with_input,
    ),
    Benchmark(
        "simple-safety-tests", "harmful", "SimpleSafetyTests",
        "Vidgen et al. 2023, arXiv 2311.08370", "100 rows, CC BY 4.0",
        text=("prompts_final", "prompt"), id=("id",), category=("harm_area",),
        needs=("harm_area",), hub=Hub("Bertievidgen/SimpleSafetyTests", "test"),
    ),
    Benchmark(
        "strongreject", "harmful", "StrongREJECT", "Souly et al. 2024, arXiv 2402.10260",
        "313 rows (small: 60), MIT",
        text=("forbidden_prompt", "prompt"), category=("category",), needs=("category",),
        hub=Hub("walledai/StrongREJECT", "train"),
    ),
    Benchmark(
        "wildjailbreak", "harmful", "WildJailbreak, evaluation part",
        "Jiang et al. 2024, arXiv 2406.18510", "2,210 rows, ODC-BY, gated",
        "2,000 adversarial harmful and 210 adversarial benign prompts; the file names no bare "
        "request.",
        text=("adversarial",), request=("vanilla",), category=("data_type",), needs=("data_type",),
        arrange=_or_vanilla, item=_by_data_type, hub=Hub("allenai/wildjailbreak", "train", "eval"),
    ),
    Benchmark(
        "xstest", "benign", "XSTest", "Röttger et al. 2024, arXiv 2308.01263",
        "250 safe and 200 unsafe rows, CC BY 4.0",
        text=("prompt",), id=("id", "id_v2"), category=("type",), needs=("type",),
        item=_by_type, scorer=xstest.score, hub=Hub("walledai/XSTest", "test"),
    ),
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ROWS}
