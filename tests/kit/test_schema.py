"""The JSON Schema takes every policy that is one, and what it refuses is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from rerail.errors import PolicyError
from rerail.kit.schema import policy_schema
from rerail.kit.templates import template, template_names
from rerail.policy import Policy, shipped_texts

ROOT = Path(__file__).resolve().parent.parent.parent
VALID = jsonschema_rs.validator_for(policy_schema())
TEXTS = {**shipped_texts(), **{name: template(name).policy for name in template_names()}}


def test_it_is_what_the_keys_say() -> None:
    path = ROOT / "scripts" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert policy_schema() == module.policy_schema(), "run `make docs`"


def test_every_key_says_what_it_is() -> None:
    schema = policy_schema()
    assert list(schema["properties"]) == list(Policy.model_fields)
    for part in (schema, *schema["$defs"].values()):
        for key, value in part.get("properties", {}).items():
            assert value.get("description"), key


@pytest.mark.parametrize("name", TEXTS)
def test_it_takes_what_is_shipped(name: str) -> None:
    data = yaml.safe_load(TEXTS[name])
    assert VALID.is_valid(data), [str(e) for e in VALID.iter_errors(data)]
    full = Policy.from_yaml(TEXTS[name]).model_dump(mode="json")
    assert VALID.is_valid(full), [str(e) for e in VALID.iter_errors(full)]


GOOD: list[dict[str, Any]] = [
    {},
    {"moderators": ["of-another-package", {"name": "two", "kind": "fake"}]},
    {"optimizer": "tsa"},
    {"optimizer": "resample", "naturalness_floor": None},
    {"optimizer": {"num_directions": 4}},
    {"optimizer": {"preset": "tide", "max_iterations": 0}},
    {"categories": {"hate": 0.2, "custom/brand": None}},
    {"budget": {"generations": None, "seconds": 20}},
    {"audit": True, "on_moderator_error": "open"},
    {"offsets": {"m": [[0.1, -0.2]]}},
    {"confirm": ["fake"], "routes": {"hate": "embedded"}},
    {"actions": {"hate": "refuse", "custom/brand": "note"}},
    {"gate": ["fake", {"name": "two", "kind": "fake", "action": "refuse"}]},
    {"gate": [{"name": "fake", "categories": {"hate": 0.2, "sexual": None}}]},
]
BAD: list[dict[str, Any]] = [
    {"name": "Not A Name"},
    {"budjet": {}},
    {"default_threshold": 0},
    {"default_threshold": 1.1},
    {"default_threshold": "0.5"},
    {"categories": {"hat": 0.5}},
    {"categories": {"custom/": 0.5}},
    {"categories": {"hate": 7}},
    {"routes": {"hat": "embedded"}},
    {"moderators": []},
    {"moderators": "embedded"},
    {"moderators": [{"nam": "embedded"}]},
    {"moderators": [""]},
    {"combine": "median"},
    {"confirm": [3]},
    {"steerable_rows": "first"},
    {"optimizer": "fasst"},
    {"optimizer": {"step_sise": 1}},
    {"optimizer": {"num_directions": 0}},
    {"budget": {"generations": 0}},
    {"budget": {"generation": 3}},
    {"budget": {"seconds": 0}},
    {"naturalness_floor": 0.1},
    {"on_exhausted": "give up"},
    {"on_moderator_error": "open"},
    {"on_moderator_error": "open", "audit": False},
    {"moderator_timeout": 0},
    {"refusal_message": ""},
    {"offsets": {"m": [[]]}},
    {"record_text": "perhaps"},
    {"actions": {"hat": "refuse"}},
    {"actions": {"hate": "block"}},
    {"gate": [{"name": "fake", "action": "block"}]},
    {"gate": [{"name": "fake", "categories": {"hat": 0.5}}]},
    {"gate": [{"action": "refuse"}]},
]


@pytest.mark.parametrize("keys", GOOD, ids=str)
def test_it_takes_a_policy(keys: dict[str, Any]) -> None:
    data = {"name": "p", **keys}
    Policy.parse(data)
    assert VALID.is_valid(data), [str(e) for e in VALID.iter_errors(data)]


@pytest.mark.parametrize("keys", BAD, ids=str)
def test_it_refuses_what_is_none(keys: dict[str, Any]) -> None:
    data = {"name": "p", **keys}
    with pytest.raises(PolicyError):
        Policy.parse(data)
    assert not VALID.is_valid(data)


def test_a_policy_without_a_name_is_none() -> None:
    assert not VALID.is_valid({})
    assert not VALID.is_valid([])
