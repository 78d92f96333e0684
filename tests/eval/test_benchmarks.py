"""Every benchmark from a small file in its published form, and from the real one where it is."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerail.errors import InputFileError
from rerail.eval.benchmarks import (
    BENCHMARKS,
    DATASET,
    _rows,
    draw,
    load_benchmark,
    without_template,
)
from rerail.eval.benchmarks.wrappers import order, read_wrappers, wrap, wrapped
from rerail.types import Message, Prompt
from tests.eval.worlds import case, cases

Write = Callable[[Path], Path]


def table(name: str, *rows: dict[str, Any]) -> Write:
    def write(folder: Path) -> Path:
        text = io.StringIO(newline="")
        delimiter = "\t" if ".tsv" in name else ","
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return put(folder / name, text.getvalue())

    return write


def lines(name: str, *rows: dict[str, Any]) -> Write:
    return lambda folder: put(folder / name, "".join(json.dumps(row) + "\n" for row in rows))


def put(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def bold(folder: Path) -> Path:
    for domain in ("gender", "profession"):
        tree = {"bakers": {"A_Baker": ["A baker is ", "Bakers often "]}}
        put(folder / f"{domain}_prompt.json", json.dumps(tree))
    return folder


_XSTEST = {"prompt": "How do I kill a process?", "focus": "kill", "note": ""}
_RTP = {"challenging": True, "prompt": {"text": "The cat sat", "toxicity": 0.1}}

PUBLISHED: dict[str, tuple[Write, dict[str, Any]]] = {
    "advbench": (
        table("a.csv", {"goal": "Bake bread", "target": "Sure"}),
        {"id": "0", "request": "Bake bread"},
    ),
    "attacks": (
        lines("gcg.jsonl", {"prompt": "Bake bread", "adv_suffix": "!", "query": "Bake bread !"}),
        {"id": "gcg-0", "category": "gcg", "request": "Bake bread"},
    ),
    "borderline": (lines("b.jsonl", {"query": "How is bread killed?"}), {"kind": "benign"}),
    "harmbench": (
        table(
            "h.csv.gz",
            {
                "Behavior": "Sum this up",
                "FunctionalCategory": "contextual",
                "SemanticCategory": "bread",
                "Tags": "context",
                "ContextString": "A long text.",
                "BehaviorID": "sum_up",
            },
        ),
        {"id": "sum_up", "request": "Sum this up", "category": "bread"},
    ),
    "jailbreakbench": (
        table(
            "harmful-behaviors.csv",
            {
                "Index": 0,
                "Goal": "Bake bread",
                "Target": "Sure",
                "Behavior": "Baking",
                "Category": "Food",
                "Source": "Original",
            },
        ),
        {"id": "0", "category": "Food"},
    ),
    "jailbreakbench-benign": (
        table(
            "benign-behaviors.csv",
            {
                "Index": 7,
                "Goal": "Bake bread",
                "Target": "Sure",
                "Behavior": "Baking",
                "Category": "Food",
                "Source": "Original",
            },
        ),
        {"id": "7", "kind": "benign"},
    ),
    "strongreject": (
        table("s.csv", {"category": "Food", "source": "own", "forbidden_prompt": "Bake bread"}),
        {"category": "Food", "request": "Bake bread"},
    ),
    "simple-safety-tests": (
        table(
            "t.csv",
            {
                "id": "sst_001",
                "harm_area": "Food",
                "counter": "1",
                "category": "Question",
                "prompts_final": "How is bread baked?",
            },
        ),
        {"id": "sst_001", "category": "Food"},
    ),
    "do-not-answer": (
        table(
            "d.csv",
            {
                "id": 0,
                "risk_area": "Food",
                "types_of_harm": "Bread",
                "specific_harms": "Crumbs",
                "question": "How is bread baked?",
                "GPT4_response": "In an oven.",
            },
        ),
        {"id": "0", "category": "Food"},
    ),
    "ailuminate": (
        table(
            "airr.csv",
            {
                "Release_prompt_id": "airr_1",
                "Prompt_text": "How is bread baked?",
                "Hazard": "fod",
                "Persona": "normal",
                "Locale": "en_US",
                "Prompt_hash": "1",
            },
        ),
        {"id": "airr_1", "category": "fod"},
    ),
    "wildjailbreak": (
        table(
            "eval.tsv",
            {"adversarial": "As a baker: bread?", "label": 0, "data_type": "adversarial_benign"},
        ),
        {"kind": "benign", "request": "As a baker: bread?"},
    ),
    "xstest": (
        table("x.csv", {"id": 1, **_XSTEST, "type": "homonyms", "label": "safe"}),
        {"kind": "benign", "category": "homonyms"},
    ),
    "or-bench": (
        table("o.csv", {"prompt": "How is bread baked?", "category": "food"}),
        {"kind": "benign", "category": "food"},
    ),
    "or-bench-toxic": (
        table("o.csv", {"prompt": "How is bread baked?", "category": "food"}),
        {"kind": "harmful"},
    ),
    "realtoxicityprompts": (
        lines("r.jsonl", _RTP, {**_RTP, "challenging": False}),
        {"kind": "completion", "template": False, "request": "The cat sat"},
    ),
    "bold": (bold, {"kind": "completion", "template": False, "category": "bakers"}),
    "attaq": (
        table("q.csv", {"input": "How is bread baked?", "label": "food"}),
        {"kind": "completion", "template": False, "category": "food"},
    ),
    "ifeval": (
        lines(
            "i.jsonl",
            {
                "key": 1000,
                "prompt": "Write without commas.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{"num_words": None}],
            },
        ),
        {"id": "1000", "kind": "utility"},
    ),
    "gsm8k": (
        lines("g.jsonl", {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}),
        {"kind": "utility"},
    ),
    "mt-bench": (
        lines(
            "m.jsonl", {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}
        ),
        {"id": "81", "kind": "benign", "request": "Write."},
    ),
    "self-instruct": (
        lines(
            "u.jsonl",
            {
                "id": "task_0",
                "motivation_app": "Kitchen",
                "instruction": "Correct this.",
                "instances": [{"input": "Bred.", "output": "Bread."}],
            },
        ),
        {"id": "task_0", "kind": "benign", "request": "Correct this.\n\nBred."},
    ),
    "multijail": (
        table("m.csv", {"id": 0, "source": "own", "en": "Bread?", "it": "Pane?", "tags": "food"}),
        {"id": "0-en", "category": "en"},
    ),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_in_the_published_form(name: str, tmp_path: Path) -> None:
    write, expected = PUBLISHED[name]
    first = load_benchmark(f"{name}={write(tmp_path)}")[0]
    found = {field: getattr(first, field) for field in expected}
    assert found == expected
    assert first.benchmark == first.meta[DATASET] == name
    assert first.prompt.messages[-1].role == "user"
    assert json.dumps(dict(first.meta))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_of_another_benchmark_is_told_by_its_columns(name: str, tmp_path: Path) -> None:
    path = lines("other.jsonl", {"fruit": "apple", "colour": "red"})(tmp_path)
    with pytest.raises(InputFileError, match=r"colour, fruit|subgroup|no file of attacks"):
        load_benchmark(f"{name}={path}")


def test_details_of_single_benchmarks(tmp_path: Path) -> None:
    write, _ = PUBLISHED["harmbench"]
    (contextual,) = load_benchmark(f"harmbench={write(tmp_path)}")
    assert contextual.messages[-1].content == "A long text.\n\n---\n\nSum this up"
    write, _ = PUBLISHED["realtoxicityprompts"]
    assert len(load_benchmark(f"realtoxicityprompts={write(tmp_path)}")) == 1
    write, _ = PUBLISHED["ifeval"]
    (checked,) = load_benchmark(f"ifeval={write(tmp_path)}")
    assert checked.meta["kwargs"] == [{}]
    write, _ = PUBLISHED["multijail"]
    italian = load_benchmark(f"multijail={write(tmp_path)}")[1]
    assert (italian.category, italian.request) == ("it", "Bread?")
    assert italian.messages[0].content == "Pane?"
    assert len(load_benchmark(f"bold={bold(tmp_path)}")) == 4


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"type": "homonyms", "label": "safe"}, "benign"),
        ({"type": "contrast_homonyms", "label": "unsafe"}, "harmful"),
        ({"type": "contrast_homonyms"}, "harmful"),
        ({"type": "homonyms"}, "benign"),
    ],
)
def test_xstest_tells_safe_from_unsafe(columns: dict[str, str], kind: str, tmp_path: Path) -> None:
    path = table("x.csv", {"id": 1, **_XSTEST, **columns})(tmp_path)
    assert load_benchmark(f"xstest={path}")[0].kind == kind


REAL = {
    "attacks=attacks-on-advbench": 1100,
    "borderline=attacks-on-advbench/borderline.json.gz": 291,
    "advbench=advbench/harmful_behaviors.csv": 520,
    "strongreject=strongreject/strongreject.csv": 313,
    "simple-safety-tests=simple-safety-tests/SimpleSafetyTests_-_test_cases.csv": 100,
    "do-not-answer=do-not-answer/data_en.csv.gz": 939,
    "ifeval=ifeval/input_data.jsonl": 541,
    "gsm8k=gsm8k-test/test.jsonl.gz": 1319,
    "self-instruct=self-instruct/user_oriented_instructions.jsonl": 252,
    "realtoxicityprompts=train-rtp-scores/toxic.jsonl.gz": 1196,
}


@pytest.mark.parametrize(("spec", "count"), REAL.items())
def test_the_published_files(spec: str, count: int, data_dir: Path) -> None:
    name, _, path = spec.partition("=")
    found = load_benchmark(f"{name}={data_dir / path}")
    assert len(found) == count
    assert len({case.id for case in found}) == count
    assert len(load_benchmark(f"{name}[10:30]={data_dir / path}")) == 20


def test_attacks_are_read_from_their_files_or_the_folder_of_them(tmp_path: Path) -> None:
    lines("aim.jsonl", {"query": "As AIM: bread?"})(tmp_path)
    lines(
        "cipher.jsonl", {"query": "Decode: yeast", "encoded_query": "x", "original_query": "Bread?"}
    )(tmp_path)
    lines("borderline.jsonl", {"query": "How is bread killed?"})(tmp_path)
    found = load_benchmark(f"attacks={tmp_path}")
    assert [(case.id, case.request) for case in found] == [
        ("aim-0", "As AIM: bread?"),
        ("cipher-0", "Bread?"),
    ]
    assert load_benchmark(f"attacks={tmp_path / 'cipher.jsonl'}") == found[1:]
    with pytest.raises(InputFileError, match="no file of attacks"):
        load_benchmark(f"attacks={tmp_path / 'borderline.jsonl'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="none of the files aim, "):
        load_benchmark(f"attacks={tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ("2:4", [2, 3]),
        (":2", [0, 1]),
        ("::4", [0, 4, 8]),
        ("1::4", [1, 5, 9]),
        ("7,2,2", [2, 7]),
        ("0,8:", [0, 8, 9]),
        ("3,99", [3]),
    ],
)
def test_rows_are_taken_by_their_numbers(rows: str, taken: list[int], tmp_path: Path) -> None:
    path = put(tmp_path / "t.txt", "".join(f"line {i}\n" for i in range(10)))
    assert [case.id for case in load_benchmark(f"mine[{rows}]={path}")] == [str(i) for i in taken]


@pytest.mark.parametrize("rows", ["1:2:3:4", "1,,2", "::0"])
def test_rows_that_cannot_be_read_are_told(rows: str, tmp_path: Path) -> None:
    path = put(tmp_path / "t.txt", "line\n")
    with pytest.raises(InputFileError, match="write rows as"):
        load_benchmark(f"mine[{rows}]={path}")


def test_a_path_may_name_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "t.txt", "line\n")
    with pytest.raises(InputFileError, match="MY_DATA is not set"):
        load_benchmark("mine=$MY_DATA/t.txt")
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert load_benchmark("mine=$MY_DATA/t.txt") == load_benchmark(f"mine={tmp_path}/t.txt")


def test_a_file_of_ones_own_in_every_format(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "Bread?", "category": "food", "kind": "benign"},
        {"id": "b", "prompt": "Cake?\u2028Or pie?", "category": "food", "kind": "utility"},
    ]
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    written = [
        table("p.csv", *rows)(tmp_path),
        table("p.tsv.gz", *rows)(tmp_path),
        lines("p.jsonl", *rows)(tmp_path),
        put(tmp_path / "p2.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)),
        put(tmp_path / "p.json", json.dumps(rows)),
        put(tmp_path / "columns.json", json.dumps({k: [r[k] for r in rows] for k in rows[0]})),
        tmp_path / "p.parquet",
    ]
    read = [load_benchmark(f"mine={path}") for path in written]
    assert all(cases == read[0] for cases in read)
    assert [(c.id, c.kind, c.request) for c in read[0]] == [
        (r["id"], r["kind"], r["prompt"]) for r in rows
    ]


def test_conversations_and_texts_of_ones_own(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bread?"}]
    jsonl = lines("c.jsonl", {"messages": turns, "request": "bread"})(tmp_path)
    as_csv = table("c.csv", {"messages": json.dumps(turns), "request": "bread"})(tmp_path)
    (one,) = load_benchmark(f"mine:benign={jsonl}")
    assert one == load_benchmark(f"mine:benign={as_csv}")[0]
    assert (one.kind, one.request, len(one.messages)) == ("benign", "bread", 2)
    texts = put(tmp_path / "t.txt", "The cat\n\nThe dog\n")
    found = load_benchmark(f"mine:completion={texts}")
    assert [(c.request, c.template) for c in found] == [("The cat", False), ("The dog", False)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "prompt,id\nBread?,1\nCake?,1\n", "id '1' stands twice"),
        ("p.csv", "prompt,kind\nBread?,bening\n", "did you mean 'benign'"),
        ("p.csv", "prompt\nBread?,and more\n", "more fields than columns"),
        ("p.csv", 'prompt,id\nBread?,1\n\n"Cake?,2\nPie?,3\n', "line 4: a quotation mark"),
        ("p.tsv", 'prompt\tid\n"Cake" or pie?\t1\n', "line 2: a quotation mark"),
        ("p.csv", 'prompt\n"Say \\"Bread\\", please"\n', 'line 2: .* write "" for one'),
        ("p.csv", "Prompt,id, prompt\nBread?,1,Cake?\n", "line 1: 'prompt' stands twice"),
        ("p.jsonl", '{"prompt": "Bread?", "Prompt": "Cake?"}\n', "line 1: 'prompt' stands twice"),
        ("p.jsonl", '{"prompt": "Bread?", "prompt": "Cake?"}\n', "line 1: 'prompt' stands twice"),
        ("p.json", '{"prompt": ["Bread?"], "prompt ": ["x"]}', "p.json: 'prompt' stands twice"),
        ("p.jsonl", '{"prompt": "Bread?"}\n{"id": ' + "7" * 5000 + "}\n", "line 2: .*digits"),
        ("p.jsonl", '{"prompt": "Bread?"}\n' + "[" * 100_000, "line 2: nested too deep"),
        (
            "p.json",
            '[{"prompt": "Bread?"},\n{"prompt": }]',
            "p.json: not JSON: .* at line 2, column",
        ),
        ("p.json", "[" * 100_000, "p.json: nested too deep"),
        ("p.jsonl", '{"messages": "' + "[" * 100_000 + '"}', "row 0: 'messages': nested too deep"),
        ("p.jsonl", '{"prompt": "Bread?"}\n{"prompt": "\\ud800"}\n', "row 1: .*surrogate"),
        ("p.jsonl", '{"prompt": "Bread?", "id": "\\ud800"}\n', "row 0: .*surrogate"),
        ("p.csv", "prompt\n", "no rows"),
        ("p.csv", "prompt,id\n  ,1\n", "holds no prompt"),
        ("p.jsonl", '{"prompt": "Bread?"}\n{"prompt": 3}\n', "row 1: column 'prompt' is no text"),
        ("p.jsonl", '{"prompt": "Bread?"}\nnot\n', "line 2: not JSON"),
        ("p.jsonl", '{"messages": [{"role": "user"}]}\n', "row 0: a message needs"),
        ("p.json", '{"prompt": "x"}', "no list of objects"),
        ("p.json", '{"prompt": ["x"], "id": []}', "not of one length"),
        ("p.doc", "x", "cannot tell the format"),
        ("p.csv.gz", "not packed", "not gzipped"),
        ("p.parquet", "x", "no Parquet file"),
    ],
)
def test_a_broken_file_is_told_where(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputFileError, match=said):
        load_benchmark(f"mine={tmp_path / name}")


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("gsm8k", [{"question": "1 + 1?", "answer": "two"}], "row 0: .*number"),
        (
            "ifeval",
            [{"prompt": "Go.", "instruction_id_list": ["punctuation:no_colon"], "kwargs": [{}]}],
            "row 0: .*unknown instruction",
        ),
        ("mt-bench", [{"turns": '["Write."]', "category": "writing"}], "no list of texts"),
        ("mt-bench", [{"turns": [], "category": "writing"}], "no list of texts"),
        ("multijail", [{"en": "Bread?"}, {"it": "Pane?"}], "no usable value"),
        (
            "self-instruct",
            [{"instruction": "Correct this.", "instances": [{"input": None}]}],
            "row 0: has no usable value",
        ),
    ],
)
def test_a_row_that_cannot_be_asked_or_scored_is_told_before_anything_is_asked(
    name: str, rows: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputFileError, match=said):
        load_benchmark(f"{name}={lines('r.jsonl', *rows)(tmp_path)}")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "7" * 5000 + "}", '{"a": ["x"]}'])
def test_a_broken_file_of_bold_is_told(content: str, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"gender_prompt\.json"):
        load_benchmark(f"bold={put(tmp_path / 'gender_prompt.json', content)}")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(end: str, tmp_path: Path) -> None:
    texts = put(tmp_path / "t.txt", end.join(["The cat", "", "The dog", ""]))
    table = put(tmp_path / "t.csv", end.join(["prompt,id", '"The cat",0', "The dog,1", ""]))
    for path in (texts, table):
        found = load_benchmark(f"mine={path}")
        assert [case.request for case in found] == ["The cat", "The dog"]


def test_a_cell_may_be_long_and_hold_lines_and_quotation_marks(tmp_path: Path) -> None:
    long = 'Bread "of\nrye" ' * 20_000
    limit = csv.field_size_limit()
    for name in ("p.csv", "p.tsv"):
        path = table(name, {"prompt": long, "id": "a"}, {"prompt": "Cake?", "id": "b"})(tmp_path)
        assert [case.request for case in load_benchmark(f"mine={path}")] == [long, "Cake?"]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:20] + b"x" * 20 + b[40:]])
def test_a_packed_file_that_is_damaged_is_told(damage: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "p.csv.gz", "prompt\n" + "".join(f"Bread {i}?\n" for i in range(99)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputFileError, match="damaged"):
        load_benchmark(f"mine={path}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("advbnch", "did you mean 'advbench'"),
        ("ailuminate", "not on the hub"),
        ("advbench:benign=x.csv", "knows its own kind"),
        ("mine:bening=x.csv", "did you mean 'benign'"),
        ("=x.csv", "NAME=PATH"),
        ("mine=nowhere.csv", "cannot read"),
        ("mine=nowhere.parquet", "cannot read"),
    ],
)
def test_a_specification_that_cannot_be_used(spec: str, said: str) -> None:
    with pytest.raises(InputFileError, match=said):
        load_benchmark(spec)


def test_rows_outside_the_file(tmp_path: Path) -> None:
    path = lines("p.jsonl", {"prompt": "Bread?"})(tmp_path)
    with pytest.raises(InputFileError, match="it has 1 rows"):
        load_benchmark(f"mine[5:9]={path}")


def test_the_hub_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path: str, config: str | None, *, split: str) -> Any:
        asked.append((path, config, split))
        return datasets.Dataset.from_list([{"question": "1 + 1?", "answer": "#### 2"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (found,) = load_benchmark("gsm8k")
    assert found.meta["answer"] == "#### 2"
    assert asked == [("openai/gsm8k", "main", "test")]

    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(InputFileError, match=r"gsm8k from the hub.*--benchmark gsm8k=FILE"):
        load_benchmark("gsm8k")


def test_a_limit_draws_the_same_and_each_within_the_larger() -> None:
    everything = cases(50)
    ten, twenty = draw(everything, 10), draw(everything, 20)
    assert len(ten) == 10
    assert {c.id for c in ten} <= {c.id for c in twenty}
    assert draw(list(reversed(everything)), 10) == list(reversed(ten))
    assert ten != everything[:10]
    assert draw(everything, 99) == draw(everything, None) == everything


def test_base_models_continue_single_turns_only() -> None:
    (plain,) = without_template([case("Bread?")])
    assert not plain.prompt.template
    conversation = (Message("system", "Be brief."), Message("user", "Bread?"))
    with pytest.raises(InputFileError, match="conversation"):
        without_template([replace(case("Bread?"), messages=conversation)])


@pytest.mark.parametrize(
    "slot",
    [
        "[INSERT PROMPT HERE]", "[insert prompt]", "[PROMPT]", "{prompt}", "(query)",
        "[your prompt here]", "<user_request>", "[Insert Prompt Here\\]", "[insert question here]",
    ],
)  # fmt: skip
def test_the_request_goes_into_the_wrappers_slot(slot: str) -> None:
    assert wrap(f"Play a baker. {slot} Go.", r"Bake \1 {bread}") == (
        r"Play a baker. Bake \1 {bread} Go."
    )


@pytest.mark.parametrize("wrapper", ["Play a baker.\n", "Play a (prompt and kind) baker."])
def test_or_after_a_wrapper_without_one(wrapper: str) -> None:
    assert wrap(wrapper, "Bake bread") == f"{wrapper.rstrip()}\n\nBake bread"


def test_each_harmful_case_gets_its_own_wrapper_in_every_run() -> None:
    wrappers = [f"Play number {i}. [PROMPT]" for i in range(20)]
    everything = [*cases(30), *cases(3, "benign", benchmark="other")]
    found = wrapped(everything, "itw", wrappers, lambda prompt: True)
    assert found == wrapped(everything, "itw", wrappers, lambda prompt: True)
    assert found[30:] == everything[30:]
    assert len({c.meta["wrapper"] for c in found[:30]}) > 10
    for before, after in zip(everything[:30], found[:30], strict=True):
        assert before.request in after.messages[-1].content != before.messages[-1].content
        assert (after.request, after.id) == (before.request, before.id)
        assert after.benchmark == "made-up+itw"
    # Whatever else is asked, the draw of a case is its own.
    assert wrapped(everything[7:8], "itw", wrappers, lambda prompt: True)[0] == found[7]


def test_wrappers_that_leave_no_room_are_passed_over() -> None:
    wrappers = [f"Play number {i}. [PROMPT]" for i in range(20)]

    def fits(prompt: Prompt) -> bool:
        return "number 7." in prompt.messages[-1].content

    assert {c.meta["wrapper"] for c in wrapped(cases(9), "itw", wrappers, fits)} == {"itw:7"}
    with pytest.raises(InputFileError, match="no wrapper of itw leaves the model room"):
        wrapped(cases(1), "itw", wrappers, lambda prompt: False)


def test_an_order_is_a_permutation_drawn_by_its_key() -> None:
    assert sorted(order("a", 50)) == list(range(50))
    assert order("a", 50) == order("a", 50) != order("b", 50)


def test_wrappers_are_read_from_a_list_or_a_table(tmp_path: Path) -> None:
    texts = ["Play a baker.", "Play a cook."]
    listed = put(tmp_path / "w.json.gz", json.dumps(texts))
    tabled = table("w.csv", *({"platform": "x", "prompt": t} for t in texts))(tmp_path)
    assert read_wrappers(listed) == read_wrappers(tabled) == texts
    with pytest.raises(InputFileError, match="holds no wrappers"):
        read_wrappers(put(tmp_path / "n.json", json.dumps([{"colour": "red"}])))


def test_the_published_wrappers(data_dir: Path) -> None:
    path = data_dir / "jailbreak-prompts-in-the-wild" / "inthewild_jailbreak_llms.json.gz"
    wrappers = read_wrappers(path)
    assert len(wrappers) == 666
    with_slot = sum(not wrap(w, "Bake bread").endswith("\n\nBake bread") for w in wrappers)
    assert 130 <= with_slot <= 160


def test_every_format_that_is_named_can_be_told() -> None:
    for kind in _rows.FORMATS:
        assert _rows.format_of(Path(f"x.{kind}")) == kind
        assert _rows.format_of(Path(f"X.{kind.upper()}.gz")) == kind
