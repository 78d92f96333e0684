"""Write docs/reference from the code: the command line, policies, JSON, the server, evaluation.

The JSON Schema of policies, which the package ships, is written with them.

python scripts/reference.py           # writes the pages
python scripts/reference.py --check   # says which are not current, and fails
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

import rerail.policy
from rerail import cli
from rerail.cli import ExitCode
from rerail.demo import Checks, summarise
from rerail.engines import FakeEngine
from rerail.eval import judges, records
from rerail.eval.benchmarks import BENCHMARKS, own
from rerail.eval.benchmarks.base import Hub
from rerail.eval.methods import BASELINES, OWN, ablations
from rerail.eval.recipes import Recipe, load_recipe, names
from rerail.eval.scenarios import ADAPTIVE, PLAIN, TRANSFORMS
from rerail.eval.settings import RunSettings
from rerail.eval.types import Trial
from rerail.kit.replay import Change, Fate, Summary
from rerail.moderators import REGISTRY, FakeModerator, Stats
from rerail.policy import CATEGORIES, CUSTOM, Budget, GateSpec, ModeratorSpec, Policy, PolicyStore
from rerail.server.app import create_app
from rerail.server.errors import CODES
from rerail.server.keys import ApiKey
from rerail.server.metrics import Metrics
from rerail.server.records import as_json
from rerail.server.routes.page import EVALUATION
from rerail.server.schemas import ChatRequest, ModerationRequest, ResponsesRequest
from rerail.server.security import SECURITY_HEADERS
from rerail.server.settings import ServerSettings
from rerail.settings import PRESETS, Frozen, OptimizerSettings
from rerail.store import Record
from rerail.types import (
    AcceptedFrom,
    Cost,
    Layer,
    Outcome,
    PolicyTag,
    Response,
    Screened,
    StopReason,
    Verdict,
)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
SCHEMA = ROOT / "src" / "rerail" / "assets" / "policies" / "policy.schema.json"

_GENERATED = "<!-- Written by `make docs` from the code. Edit the code, not this page. -->"


def pages() -> dict[str, str]:
    """File name to content of every page of the reference."""
    written = {
        "cli.md": command_line(),
        "policy.md": policies(),
        "json.md": json_documents(),
        "evaluation.md": evaluation(),
        "server.md": server(),
    }
    return {name: f"{_GENERATED}\n\n{text.strip()}\n" for name, text in written.items()}


# The command line


def command_line() -> str:
    parts = [
        "# The command line",
        "`rerail [--debug] COMMAND`. Results go to standard output, everything else to standard "
        "error. Every command but `serve` takes `--json` and then prints "
        "[one JSON document](json.md). `rerail --version` shows the version, "
        "`rerail --install-completion` teaches the shell the names of commands, options, policies, "
        "moderators, benchmarks and methods. Rows that do not fit the terminal, or go to a pipe, "
        "come as blocks of `key: value`.",
    ]
    parts += [_command(name, callback) for name, callback in sorted(_commands(cli.app))]
    parts += ["## Exit codes", _table(("code", "meaning"), [(int(c), c.meaning) for c in ExitCode])]
    return "\n\n".join(parts)


def _commands(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.strip("_").replace("_", "-")
        yield f"{prefix}{name}", command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        own = group.typer_instance.registered_callback
        if own is not None and own.callback is not None:
            yield f"{prefix}{group.name}", own.callback
        yield from _commands(group.typer_instance, f"{prefix}{group.name} ")


def _command(name: str, callback: Any) -> str:
    hints = typing.get_type_hints(callback, include_extras=True)
    usage, rows = [f"rerail {name}"], []
    for parameter in inspect.signature(callback).parameters.values():
        if hints[parameter.name] is typer.Context:
            continue
        kind, info = typing.get_args(hints[parameter.name])[:2]
        default = parameter.default
        if isinstance(info, ArgumentInfo):
            many = typing.get_origin(kind) is list
            shown = (info.metavar or parameter.name).upper()
            optional = default is not parameter.empty
            usage.append(f"[{shown}]" if optional else shown + ("..." if many else ""))
            rows.append((f"`{shown}`", info.help or "", "" if optional else "required"))
        elif isinstance(info, OptionInfo):
            flags = ", ".join(d for d in (info.default, *(info.param_decls or ())) if _flag(d))
            value = "" if bool in (kind, *typing.get_args(kind)) else " " + _value(kind, info)
            nothing = any(default is x for x in (None, False, inspect.Parameter.empty))
            shown = "" if nothing else f"`{default}`"
            rows.append((f"`{flags}{value}`", info.help or "", shown))
    text = inspect.getdoc(callback) or ""
    return "\n\n".join(
        [
            f"## rerail {name}",
            f"```console\n$ {' '.join(usage)} [OPTIONS]\n```",
            text,
            _table(("option", "meaning", "default"), rows),
        ]
    )


def _flag(declared: Any) -> bool:
    return isinstance(declared, str) and declared.startswith("-")


def _value(kind: Any, info: OptionInfo) -> str:
    choices = [k for k in typing.get_args(kind) if k is not types.NoneType] or [kind]
    inner = choices[0]
    if typing.get_origin(kind) is list or typing.get_origin(inner) is list:
        inner = (typing.get_args(inner) or (inner,))[0]
    if isinstance(inner, type) and issubclass(inner, enum.Enum):
        return "|".join(str(member.value) for member in inner)
    name = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH"}.get(inner, str(inner))
    if info.min is not None and (info.max is None or info.max > 1e9):
        return f"{name} (≥ {info.min:g})"
    return name


# Policies


def policies() -> str:
    parts = [
        "# Policy keys",
        "A policy is a YAML mapping. Only `name` is required. Unknown keys, keys that stand twice "
        "and unknown categories are errors that name the nearest valid one. "
        "`rerail policy show NAME` writes every value out; "
        "[Write a policy](../how-to/write-a-policy.md) explains the choices.",
        _model_table(Policy),
        "## budget",
        inspect.getdoc(Budget) or "",
        _model_table(Budget),
        "## moderators",
        "A list. Each entry is a name, or a mapping with these keys:",
        _model_table(ModeratorSpec),
        "Registered: "
        + ", ".join(f"`{name}`" for name in sorted(REGISTRY))
        + ". Other packages add theirs "
        "([how](../how-to/your-own-moderator.md#under-a-name)).",
        "## gate",
        "A list. Each entry is a name, or a mapping that has the keys of a moderator and these "
        "([Put layers together](../how-to/layers.md)):",
        _model_table(GateSpec, besides=ModeratorSpec),
        "## optimizer",
        "The name of a preset, or a mapping with `preset` and any of these keys to replace its "
        "values. Symbols are those of arXiv 2602.02498; "
        "[The method](../explanation/method.md) defines them.",
        _presets(),
        "## Categories",
        ", ".join(f"`{category}`" for category in CATEGORIES)
        + f". Categories of one's own start with `{CUSTOM}`.",
        "## The shipped policies",
    ]
    store = PolicyStore.shipped()
    folder = resources.files("rerail") / "assets" / "policies"
    for name in store.names():
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8").strip()
        parts += [f"### {name}", f"Version `{store.get(name).version}`.", f"```yaml\n{text}\n```"]
    return "\n\n".join(parts)


def _model_table(model: Any, besides: Any = None) -> str:
    says, properties = attribute_docstrings(model), model.model_json_schema()
    definitions = properties.get("$defs", {})
    rows = []
    inherited = besides.model_fields if besides else ()
    for name, field in model.model_fields.items():
        if name in inherited:
            continue
        kind = _KINDS.get(name) or _schema(properties["properties"][name], definitions)
        default = "required" if field.is_required() else f"`{_default(field)}`"
        rows.append((f"`{name}`", kind, default, says.get(name) or _MEANINGS[model][name]))
    return _table(("key", "value", "default", "meaning"), rows)


_KINDS = {
    "optimizer": "preset or mapping",
    "moderators": "list of names or mappings",
    "gate": "list of names or mappings",
}
_MEANINGS = {
    Policy: {
        "name": "What the policy is called: in `--policy`, in responses and in records.",
        "description": "For people.",
        "default_threshold": "Threshold of every active category that is not named.",
        "moderators": "Who judges while steering: at least one; see below.",
        "steerable_rows": "Whose words may move: the last user turn's, those of all user turns, "
        "or every row of the prompt, template included (for text completion).",
        "optimizer": "How answers are searched for; see below.",
        "budget": "What one prompt may cost; see below.",
        "refusal_message": "What is shown when the budget is spent.",
        "error_message": "What is shown when the model or a moderator failed.",
    },
    Budget: {"generations": "Answers generated."},
    ModeratorSpec: {
        "name": "The moderator's registered name.",
        "options": "Arguments of its constructor.",
    },
}
_MEANINGS[GateSpec] = _MEANINGS[ModeratorSpec]


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "model_dump"):
        dumped = value.model_dump(mode="json")
        return str(dumped.get("preset", _flow(dumped)))
    if isinstance(value, tuple):
        return "[" + ", ".join(str(getattr(item, "name", item)) for item in value) + "]"
    return _flow(value)


def _flow(value: Any) -> str:
    """A value in YAML's flow style."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)


def _schema(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _schema(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_schema(inner, definitions) for inner in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = {"string": "text", "boolean": "true or false", "object": "mapping", "null": "null"}
    name = str(kind.get(schema.get("type", ""), schema.get("type", "any")))
    if name == "array":
        name = "list"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([name, ", ".join(bounds)]).strip()


def _presets() -> str:
    says = attribute_docstrings(OptimizerSettings)
    rows = []
    for name in OptimizerSettings.model_fields:
        if name != "preset":
            values = [f"`{_flow(PRESETS[preset][name])}`" for preset in PRESETS]
            rows.append((f"`{name}`", *values, says.get(name, "")))
    return _table(("key", *(f"`{preset}`" for preset in PRESETS), "meaning"), rows)


def policy_schema() -> dict[str, Any]:
    """The JSON Schema of policies: that of the keys, and what their validators do beyond it."""
    schema = Policy.model_json_schema()
    definitions = schema["$defs"]
    for part in (schema, *definitions.values()):
        model = vars(rerail.policy)[part["title"]]
        of_bases = [attribute_docstrings(base) for base in model.__mro__[:2] if base is not Frozen]
        says = {**_MEANINGS.get(model, {}), **{k: v for d in of_bases[::-1] for k, v in d.items()}}
        for key, value in part["properties"].items():
            value.pop("title", None)
            if key in says:
                value["description"] = says[key]
    definitions["Category"] = {
        "anyOf": [{"enum": list(CATEGORIES)}, {"type": "string", "pattern": f"^{CUSTOM}."}]
    }
    registered = [{"enum": sorted(REGISTRY)}, {"type": "string", "minLength": 1}]
    for kind in ("ModeratorSpec", "GateSpec"):
        definitions[kind]["properties"]["name"] |= {"anyOf": registered}
    for part in (schema, *definitions.values()):
        for key, value in part.get("properties", {}).items():
            if key in ("categories", "routes", "actions"):
                of = "items" if value["type"] == "array" else "propertyNames"
                value[of] = {"$ref": "#/$defs/Category"}
            elif "$ref" in (items := value.get("items", {})):
                # An entry that is a text is the one key that a mapping must have.
                listed = definitions[items["$ref"].rpartition("/")[2]]
                (needed,) = listed["required"]
                text = listed["properties"][needed]
                text = {k: v for k, v in text.items() if k != "description"}
                value["items"] = {"anyOf": [text, items]}
    # An optimizer takes from its preset what it does not name.
    del definitions["OptimizerSettings"]["required"]
    optimizer = schema["properties"]["optimizer"]
    optimizer["anyOf"] = [{"enum": list(PRESETS)}, {"$ref": optimizer.pop("$ref")}]
    schema["if"] = {
        "properties": {"on_moderator_error": {"const": "open"}},
        "required": ["on_moderator_error"],
    }
    schema["then"] = {"properties": {"audit": {"const": True}}, "required": ["audit"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | schema | {"title": "A policy of rerail"}


def attribute_docstrings(model: type) -> dict[str, str]:
    """The string that stands under each field of a class."""
    tree = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = _one_line(inspect.cleandoc(str(text.value.value)))
    return found


# JSON

_VERDICT = {
    "harm": "the largest score in units of its threshold, 1 and above is flagged; null if unscored",
    "scores": "category to a number in [0, 1], 1 is most harmful",
    "flagged": "whether harm is 1 or more",
    "unscored": "why there is no verdict; null if there is one",
    "confirmed": "whether the moderators that confirm accept it; null where they were not asked",
}
_TAG = {
    "name": "the policy's name",
    "version": "first 12 hex digits of the SHA-256 of its content",
    "audit": "whether unscored answers may leave under it",
}
_DEMO = {
    "prompts": "prompts in all; `by_kind` has the same six counts for each kind",
    "passed": "first answers that left as they were",
    "flagged": "first answers that the policy flags",
    "steered": "prompts answered by the model from moved embeddings",
    "refused": "prompts answered by the policy's message",
    "error": "prompts for which model or moderator failed",
    "neutralised_share": "of the flagged first answers, those steered",
    "generations_per_steered": "mean generations of a steered prompt, the first one included",
    "generated_tokens_per_steered": "mean tokens of those generations",
    "naturalness_median": "of the steered answers, nats per token",
    "steered_refusal_share": "of the steered answers, those that refuse (by rule)",
    "steered_on_topic_share": "of the steered answers, those that refuse the request or speak of "
    "it (by rule)",
    "tokens_preserved_min": "smallest share of a steered prompt's tokens that are still the "
    "nearest vocabulary entry",
    "cosine_min": "smallest cosine of a moved point with the original one",
    "weights_sha256_before": "hash of all weights before the first prompt",
    "weights_sha256_after": "and after the last",
    "emitted_flagged": "answers of the model that left although a moderator loaded afresh flags "
    "them or cannot score them",
    "emitted_borderline": "steered answers that left although that moderator finds their harm "
    "above the policy's accept_below",
    "benign_identical": "share of the passed answers that plain generation gives byte for byte",
    "seconds": "of alignment",
    "by_kind": "counts for each kind of prompt",
}
_INTERVENTION = {
    "at": "when it was recorded, ISO 8601, UTC",
    "id": "of the response; with several choices, followed by a slash and the choice's number",
    "tenant": "name of the key; `local` on a server without keys",
    "model": "name of the model as the engine has it",
    "policy": "the policy's name",
    "version": "and version",
    "audit": "whether unscored answers may leave under it",
    "outcome": "as in a response",
    "layer": "as in a response; null in records of before there were layers",
    "gate": "as in a response",
    "noted": "as in a response",
    "harm_before": "harm of the model's first answer; null if unscored, or if there was none",
    "harm_after": "harm of the answer that left; null if none did",
    "scores_before": "scores of the first answer",
    "scores_after": "scores of the answer that left",
    "accepted_from": "as in a response",
    "stop_reason": "as in a response",
    "naturalness": "as in a response",
    "relevance": "as in a response; null in records of before it was measured",
    "tokens_preserved": "as in a response",
    "generations": "answers generated",
    "generated_tokens": "tokens of those answers",
    "moderator_calls": "verdicts asked for",
    "seconds": "of the search",
    "sent_tokens": "as in a response; null in records of before there was such a thing",
    "seed": "of the search",
    "error": "what failed, for outcome `error`",
    "prompt": "the messages; this and the next three only under policies with `record_text`",
    "first_answer": "the model's first answer",
    "final_answer": "what left",
    "reasoning": "what was thought before it; null where nothing was, or where it is withheld",
}


def json_documents() -> str:
    verdict_fields = {field.name for field in dataclasses.fields(Verdict)}
    _expect("the verdict", _VERDICT, verdict_fields)
    _expect("the policy", _TAG, {field.name for field in dataclasses.fields(PolicyTag)})
    empty = summarise([], Checks("", "", 0, 0, None), 0.0)
    _expect("the demo", _DEMO, empty)
    fields = {field.name: None for field in dataclasses.fields(Record)}
    record = Record(**{**fields, "run": "", "created_at": datetime.now(UTC), "prompt": []})
    _expect("an intervention", _INTERVENTION, as_json(record))
    response = _attributes(Response)
    response.pop("evaluations")
    cost = _attributes(Cost)
    verdict = _keys(_VERDICT)
    parts = [
        "# JSON documents",
        "With `--json` a command prints exactly one JSON document on standard output and "
        "everything else on standard error. Keys are added over time; a key that stands here "
        "keeps its name and type until the next major version. A figure that does not exist "
        "(a mean over nothing, the harm of an unscored answer) is null, never NaN.",
        "## A response",
        "Printed by `rerail align` for one prompt, and one per line in the output of "
        "`rerail align --input`, which adds `id` (null without one), `line`, and under "
        "`--with-prompt` `messages` (role and content of each turn).",
        _keys(response),
        "`initial` and `final` are null or have these keys:",
        verdict,
        "`gate` is null, or has `action`, `categories` and `noted`, and of a verdict on the prompt "
        "`harm`, `scores`, `flagged` and `unscored`. There,",
        _keys({k: v for k, v in _attributes(Screened).items() if k != "verdict"}),
        "`policy`:",
        _keys(_TAG),
        "`cost`:",
        _keys(cost),
        _values("outcome", Outcome),
        _values("accepted_from", AcceptedFrom),
        _values("stop_reason", StopReason),
        _values("layer", Layer),
        "## The demo",
        "Printed by `rerail demo`, with `method`, `policy`, `model`, `seed`, and `results`: one "
        "response per prompt with its `id`, `kind` and `source`.",
        _keys(_DEMO),
        "## Verdicts on texts",
        "Printed by `rerail moderate`: `policy`, `moderator`, `thresholds`, `asked` (what each "
        "service was asked, by its name), and for one text the keys of a verdict and "
        "`conversation` (whether it was judged as the answer to one). For `--input`: `texts`, "
        "`flagged` and `unscored` (counts), `texts_per_second`, `failed` (`line` and "
        "`error` of each unusable line), `labels` (for each label that lines have: how many texts "
        "are `flagged`, `not_flagged` and `unscored`) and `results` (a verdict per text, with its "
        "`line`, `id`, `label` and `conversation`).",
        "Of each service:",
        _keys(_attributes(Stats)),
        "## A run over a file",
        "Printed by `rerail align --input`: `output`, `store` (null where none is kept), `run`, "
        "`records`, `resumed` (records that were there before), `answered`, `outcomes` (counts), "
        "`failed` (`line` and "
        "`error`), `cost`, `settings`, `audit` and `seconds`. Responses are in the output file.",
        "## Policies",
        "`rerail policy new` prints `name`, `version`, and `yaml` or, with `--output`, the paths "
        "`output` and `cases`; `list` a list `policies` (of each `name`, `version`, `audit`, "
        "`description`), `show` a policy's `name`, `version`, `audit` and `policy` (every value), "
        "`explain` the first three and `parts` (`about` and the sentences that it `says`), "
        "`check` `valid` and `files` (`file`, `valid`, and `name` and `version` or the `faults`), "
        "`schema` the JSON Schema itself.",
        "`rerail policy test`: `policy`; `counts` of the cases that are `held`, `failed`, `error` "
        "(there is no verdict, or no answer) and `skipped` (there is no model); `cases` (of each "
        "`id`, `state`, what was `found`, and `why` it does not hold); `coverage` (of each "
        "`category` the ids of cases in which it must flag, `flagged`, and must not, `passes`).",
        "`rerail policy diff`: `old` and `new` (the policies), `changes` (`key`, `old`, `new`), "
        "and with `--on` a `replay`: the `store`, and",
        _keys({name: text for name, text in _attributes(Summary).items() if name != "unjudged"}),
        "`unjudged` is a list of `reason`, `count` and `examples`. Each of `changes`:",
        _keys(_attributes(Change)),
        _values("old` and `new", Fate),
        "## What a server recorded",
        "Printed by `rerail audit`: `store`, `count`, and `interventions`, or with "
        "`--policy-changes` `policy_changes` (`at`, `name`, `version`, `action`, `by`, `yaml`); "
        "with `--output` the path in their place. An intervention, also in the answer of "
        "`GET /admin/interventions`:",
        _keys(_INTERVENTION),
        "`rerail serve keys new` prints `name`, `key`, `admin` and `keys` (the file), "
        "`rerail serve keys list` a list `keys` of what [a key](server.md#keys) has, its hash "
        "excepted, and `rerail serve keys revoke` `name` and `revoked`.",
        "## An error",
        '`{"error": {"type": ..., "message": ..., "exit_code": ...}}`, and '
        "[the exit code](cli.md#exit-codes) itself.",
    ]
    return "\n\n".join(parts)


def _keys(meanings: Mapping[str, str]) -> str:
    rows = [(f"`{key}`", _sentence(text)) for key, text in meanings.items()]
    return _table(("key", "meaning"), rows)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _values(key: str, values: type[enum.StrEnum]) -> str:
    return f"Values of `{key}`: " + ", ".join(f"`{value}`" for value in values) + "."


def _expect(what: str, described: Mapping[str, str], there: Any) -> None:
    if set(described) != set(there):
        missing, stale = set(there) - set(described), set(described) - set(there)
        raise SystemExit(f"{Path(__file__).name}: {what}: not described {missing}, gone {stale}")


def _attributes(cls: type) -> dict[str, str]:
    """The ``Attributes:`` section of a Google-style docstring, one line each."""
    text = inspect.getdoc(cls) or ""
    section = text.partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for line in section.splitlines():
        if match := re.match(r" {4}(\w+): (.*)", line):
            found[match[1]] = match[2]
        elif line.startswith(" " * 8):
            name = next(reversed(found))
            found[name] += " " + line.strip()
        elif line.strip():
            break
    _expect(cls.__name__, found, {field.name for field in dataclasses.fields(cls)})
    return {name: _one_line(meaning).replace("None", "null") for name, meaning in found.items()}


# The server

_WATCH = {
    "start": "`model`; `policy` with `name` and `version`; `thresholds` by category; "
    "`accept_below`",
    "evaluation": "one candidate, below",
    "response": "the answer that may leave, as [a response](json.md#a-response)",
    "error": "`message`; no answer leaves",
}
_HEADERS = {
    "Authorization": "`Bearer KEY`, on a server with keys",
    "X-Rerail-Policy": "name of the policy, as the parameter `policy`",
    "X-Request-Id": "of a response: its id, under which it is recorded",
    "Retry-After": "of a response with status 429 or 503: seconds",
}


def server() -> str:
    """The HTTP interface, from the app's own OpenAPI document."""
    app = create_app(
        {"rerail": FakeEngine()},
        [Policy(name="default")],
        loader=lambda _: (FakeModerator(), None),
    )
    document = app.openapi()
    parts = [
        "# The server",
        "What `rerail serve` answers. [Serve](../how-to/serve.md) says how to run it; its options "
        "are those of [the command](cli.md#rerail-serve). `GET /openapi.json` has all of this for "
        "programs, with examples.",
        "## Endpoints",
        _endpoints(document),
        "## Answers",
        "Parameters of `POST /v1/chat/completions`. Any other is an error that names it; those of "
        "OpenAI's that change nothing here ("
        + _listed(ChatRequest.unused - ChatRequest.model_fields.keys())
        + ") are accepted.",
        _parameters(ChatRequest),
        "Refused, because rerail cannot honour them:",
        _keys(
            {
                key: why
                for key, why in sorted(ChatRequest.unsupported.items())
                if key not in ChatRequest.model_fields
            }
        ),
        "`POST /v1/completions` has `prompt` (a text or a list of them) in place of `messages`, "
        "and neither tools nor `response_format`.",
        "Parameters of `POST /v1/responses`; those that change nothing here are "
        + _listed(ResponsesRequest.unused)
        + ":",
        _parameters(ResponsesRequest),
        "Refused:",
        _keys(dict(sorted(ResponsesRequest.unsupported.items()))),
        "`POST /v1/moderations`:",
        _parameters(ModerationRequest),
        "A response is OpenAI's, with `rerail` beside it: `outcome` (the least good of the "
        "choices'), `policy`, `harm_before`, `harm_after` (the most of the choices'), `cost` (of "
        "all). Each choice has a `rerail` of its own: [a response](json.md#a-response) without "
        "its texts. Where the policy shows reasoning, the message has it as `reasoning_content` "
        "([how](../how-to/reasoning-models.md)). `usage` counts the tokens of the prompt and of "
        "what left, `completion_tokens_details.reasoning_tokens` among them; what the search cost "
        "stands in `rerail.cost`. `moderation` has OpenAI's shape: `output` holds the verdict on "
        "each text that left, or, where none did, on the model's first answer; prompts are not "
        "judged, and `input` says so. Where nothing acceptable is found, the status is 200, "
        "`finish_reason` is `content_filter`, and the text is the policy's `refusal_message`, in a "
        "stream behind what had been sent. "
        "Where nothing but its form spoke against the model's first answer, it is an error, "
        "`invalid_structure` ([tools and structured answers](../how-to/tools.md)). An answer of "
        "`/v1/responses` has the same `rerail`, of the whole and of its one choice together; "
        "there the policy's message has the status `incomplete`, for the reason `content_filter`.",
        "### Streams",
        "Text is held until it is accepted, or, under a policy with `release: window`, until what "
        "follows it was judged as well ([how](../how-to/stream.md)); calls of tools, answers that "
        "must fit a schema, and those of `/v1/responses` are always held. Until all of it is there "
        "a comment such as "
        '`: rerail {"generations": 3, "least_harm": 1.2}` comes at least every '
        f"{ServerSettings().keep_alive:g} seconds; with `stream_options.include_progress` it is a "
        "chunk without choices that has `rerail.progress`. Then come the text in pieces, a last "
        "chunk with `finish_reason`, `rerail` and `moderation`, and `[DONE]`. What fails within "
        "the first second, before any text, has a status of its own; later it is an event with "
        "`error`. A client that leaves takes its work along. Events of `/v1/responses` are "
        "OpenAI's: `response.created` and `response.in_progress` at once, all others with the "
        "answer.",
        "## Which policy applies",
        "1. The one that the request names: header `X-Rerail-Policy`, or parameter `policy`. The "
        "key must allow it (`policies`), or it is 403; unknown, it is 400.\n"
        "2. The key's `policy`.\n"
        "3. The model's (`--model-policy`).\n"
        "4. The server's (`--policy`).\n\n"
        "It is looked up once, when the request comes; a change takes effect at the next one.",
        "## Headers",
        _keys(_HEADERS),
        "## Errors",
        'Every error is `{"error": {"message", "type", "param", "code"}}`. No error quotes a '
        "prompt or an answer.",
        _table(("status", "code", "meaning"), _codes()),
        "## Keys",
        "A YAML file, `keys:` and a list. `rerail serve keys new` writes it; a running server "
        "takes changes in by itself.",
        _model_table(ApiKey),
        "## Policies",
        "`PUT /admin/policies/NAME` takes YAML, or JSON with `yaml`. `GET` gives `name`, "
        "`version`, `yaml`, and `history`: per change `version`, `at`, `by`, `action` (put, "
        "rollback, remove) and `yaml`. With `--policies`, what is put is written to the folder, "
        "and changes of its files are taken in; a file that is not valid changes nothing. A "
        "policy that the server, a model or a key falls back to cannot be deleted.",
        "## Watching a search",
        "`POST /watch` takes the body of a chat completion and answers with events:",
        _keys(_WATCH),
        "An `evaluation`:",
        _keys(EVALUATION),
        "`GET /ui/config` says what the page needs: `models`, `served` (what each of them was "
        "loaded from), `policies` (those that the key may choose), `default_policy`, "
        "`auth_required`, and `admin`: whether `/admin` is served.",
        "## Metrics",
        "At `/metrics`, without a key. No label holds what a client wrote.",
        _metrics(),
        "## Headers for browsers",
        _table(
            ("header", "value"),
            [(f"`{name}`", f"`{value}`") for name, value in SECURITY_HEADERS.items()],
        ),
    ]
    return "\n\n".join(parts)


def _listed(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _codes() -> list[tuple[Any, ...]]:
    return [(status, f"`{code}`", meaning) for code, (status, meaning) in CODES.items()]


def _endpoints(document: Mapping[str, Any]) -> str:
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            first = operation["description"].partition("\n\n")[0]
            statuses = ", ".join(s for s in operation["responses"] if s.isdigit())
            rows.append((f"`{method.upper()} {path}`", first, statuses))
    return _table(("endpoint", "what it does", "statuses"), rows)


_PARAMETERS = {
    "model": "Name of a model, from `/v1/models`.",
    "messages": "Turns: `role` (system, developer, user, assistant, tool) and `content`, a text or "
    "a list of parts of type `text` or `refusal`; the assistant's may have `tool_calls`, a tool's "
    "has the `tool_call_id` that it answers. The last one is the user's, or a tool's.",
    "temperature": "0 is greedy. Default: `--temperature`.",
    "top_p": "The smallest set of tokens with this probability is drawn from; 0 is greedy.",
    "top_k": "1 is greedy; any other number is accepted and not used.",
    "n": "Choices; each with a seed of its own.",
    "seed": "The same seed, policy and model give the same answer. Default: `--seed`.",
    "stop": "Up to 16 texts before which an answer ends. What is left is what is judged.",
    "max_tokens": "Of the answer, its reasoning not counted; cut to `--max-new-tokens-limit`.",
    "max_completion_tokens": "The same, by its newer name.",
    "stream": "Whether the answer comes in events.",
    "stream_options": "`include_usage`: a last chunk with `usage`. `include_progress`: see below.",
    "budget": "`seconds`: until the deadline. `generations`: per choice. They can only lower the "
    "policy's budget and the server's deadline.",
    "input": "A text, or a list of up to 256.",
}


def _parameters(model: Any) -> str:
    own = [base for base in reversed(model.__mro__) if base.__module__ == model.__module__]
    shared = ResponsesRequest.__base__
    says = {
        name: said for cls in (shared, *own) for name, said in attribute_docstrings(cls).items()
    }
    rows = [
        (
            f"`{name}`",
            "required" if field.is_required() else "",
            says.get(name) or _PARAMETERS[name],
        )
        for name, field in model.model_fields.items()
    ]
    return _table(("parameter", "", "meaning"), rows)


def _metrics() -> str:
    rows = []
    metrics = Metrics()
    for metric in metrics.registry.collect():
        labels = metrics.labels[metric.name]
        name = metric.name + ("_total" if metric.type == "counter" else "")
        rows.append((f"`{name}`", metric.type, _listed(labels), metric.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


# Evaluation


def evaluation() -> str:
    says = {**_SETTINGS, **attribute_docstrings(RunSettings)}
    _expect("a run's settings", says, RunSettings.model_fields)
    summaries = {name: _first_line(kind) for name, kind in BASELINES.items()}
    parts = [
        "# Evaluation",
        "What `rerail eval` knows by name; [Evaluate a defence](../how-to/evaluate.md) shows how "
        "to use it.",
        "## Benchmarks",
        "`--benchmark NAME=PATH` reads a local copy (CSV, TSV, JSON, JSONL, Parquet or text, "
        "gzipped or not), `--benchmark NAME` the hub.",
        _table(
            ("name", "cases", "what it is", "on the hub"),
            [
                (f"`{name}`", benchmark.kind, _one_line(benchmark.about), _hub(benchmark.hub))
                for name, benchmark in sorted(BENCHMARKS.items())
            ],
        ),
        "A name that is none of these is a file of your own:",
        _prose(own.__doc__ or ""),
        "## Scenarios",
        _table(
            ("name", "what becomes of a case"),
            [
                (f"`{PLAIN}`", "Nothing."),
                *((f"`{name}`", _SCENARIOS[name]) for name in TRANSFORMS),
                (f"`{ADAPTIVE}`", _SCENARIOS[ADAPTIVE]),
            ],
        ),
        "## Methods",
        "rerail's own return nothing that the policy flags or could not score. The others return "
        "what they return, and are judged by it. All keep to the policy's budget, and all "
        "settings can be replaced: `fast:num_directions=4`, `best-of-n:temperature=0.7`.",
        _table(
            ("name", "what it does", "settings"),
            [
                *((f"`{n}`", summaries[n], _settings_of(n)) for n in BASELINES),
                *((f"`{n}`", _METHODS[n], "those of the optimizer") for n in OWN),
            ],
        ),
        "Ablations are `fast` without one of its parts:",
        _table(
            ("name", "what it replaces"),
            [
                (f"`{name}`", ", ".join(f"`{k}: {_flow(v)}`" for k, v in changes.items()))
                for name, changes in {**ablations.OPTIMIZER, **ablations.POLICY}.items()
            ],
        ),
        "## Recipes",
        "`--recipe NAME`, or the path of a file: a YAML mapping of the "
        "[settings of a run](#settings-of-a-run), in which `policy` is a name or a path, with a "
        "`description`. Options that are given replace its values.",
        _table(
            ("name", "what it is", "benchmarks", "methods"),
            [
                (f"`{recipe.name}`", recipe.description, *map(_named, _asked_and_by(recipe)))
                for recipe in map(load_recipe, names())
            ],
        ),
        "## Judges",
        _prose(_body(judges)),
        "## A run's folder",
        _prose(_body(records)),
        "## Settings of a run",
        "`settings` in settings.json; `content` beside it holds hashes of the cases and weights, "
        "and `id` is the hash of both.",
        _keys({name: says[name] for name in RunSettings.model_fields}),
        "## A trial",
        _prose((inspect.getdoc(Trial) or "").partition("Attributes:")[0]),
        _keys(_attributes(Trial)),
    ]
    return "\n\n".join(parts)


def _asked_and_by(recipe: Recipe) -> tuple[list[str], list[str]]:
    asked = [spec.partition("=")[0] for spec in recipe.settings["benchmarks"]]
    return asked, recipe.settings["methods"]


def _named(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_SCENARIOS = {
    "simple-wrapper": "The request in one of four simple jailbreak wrappers.",
    "school-work": "The request as school work, in one of the demo's four disguises.",
    "multi-turn": "The request is spread over turns.",
    "earlier-turn": "The request is an earlier turn; the last one only asks for the answer to it.",
    "system-prompt": "A system prompt asks for compliance with everything.",
    "long-context": "The request is an instruction in the middle of a long document.",
    "base64": "The request in Base64.",
    "rot13": "The request with letters shifted by 13.",
    "leetspeak": "The request with digits for letters.",
    "prefix-injection": "The user says how the answer has to begin.",
    "adaptive": "An attacker who knows rerail searches the wrapper that survives the method.",
}
_METHODS = {
    "random": "The search of `fast`, never moving its centre.",
    "tide": "The published loop of arXiv 2602.02498.",
    "tsa": "Algorithm 1 of arXiv 2604.26167.",
    "fast": "The default search.",
    "policy": "The policy's own optimizer.",
}
_SETTINGS = {
    "methods": "Names, with their settings.",
    "scenarios": "How it is asked; each is a benchmark of its own.",
    "models": "`embedded`, hub ids, folders or `fake`.",
    "device": "Where models run.",
    "dtype": "Of the weights.",
    "policy": "The policy, every value written out.",
    "seeds": "Every case is answered under each.",
    "max_new_tokens": "Per answer.",
    "temperature": "0 is greedy.",
    "perplexity_model": "Of the answers' perplexity; null: the model itself.",
}


def _body(module: Any) -> str:
    """A module's docstring without its first line; what is indented stays so."""
    return "\n" + (module.__doc__ or "").partition("\n\n")[2]


def _first_line(kind: Any) -> str:
    text = sys.modules[kind.__module__].__doc__ or ""
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def _settings_of(name: str) -> str:
    parameters = inspect.signature(BASELINES[name]).parameters.values()
    return ", ".join(f"`{p.name}={_flow(p.default)}`" for p in parameters)


def _hub(hub: Hub | None) -> str:
    if hub is None:
        return ""
    return f"`{hub.path}`, " + ", ".join(filter(None, (hub.config, hub.split)))


# Docstrings


def _prose(docstring: str) -> str:
    """A docstring as Markdown: sections in bold, their entries as a list."""
    lines = []
    for line in inspect.cleandoc(docstring).splitlines():
        if line in {"Args:", "Raises:", "Returns:", "Attributes:"}:
            lines += [f"**{line[:-1]}**", ""]
        elif match := re.match(r" {4}(\w+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif line.startswith(" " * 8):
            lines.append("  " + line.strip())
        else:
            lines.append(line)
    text = "\n".join(lines)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


# Markdown


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return _one_line(str(value)).replace("|", "\\|")


def _one_line(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the generated pages in the folder that are not as the code has them.

    Pages that are written by hand do not begin with the mark of the generated ones.
    """
    current = pages()
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    there = {name: text for name, text in texts.items() if text.startswith(_GENERATED)}
    return sorted(name for name in {*current, *there} if current.get(name) != there.get(name))


def main(arguments: Sequence[str]) -> int:
    schema = json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"
    current_schema = SCHEMA.exists() and SCHEMA.read_text(encoding="utf-8") == schema
    if arguments == ["--check"]:
        names = [f"docs/reference/{name}" for name in stale()]
        names += [] if current_schema else [str(SCHEMA.relative_to(ROOT))]
        for name in names:
            print(f"{name} is not current: run `make docs`")
        return 1 if names else 0
    if not current_schema:
        SCHEMA.write_text(schema, encoding="utf-8")
        print(f"wrote {SCHEMA.relative_to(ROOT)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    current = pages()
    for name in stale():
        if name in current:
            (FOLDER / name).write_text(current[name], encoding="utf-8")
            print(f"wrote docs/reference/{name}")
        else:
            (FOLDER / name).unlink()
            print(f"removed docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
