"""Everything that decides what a run finds, as one frozen value that its folder keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerail.engines import DEFAULT_MODEL
from rerail.errors import InputFileError
from rerail.eval.scenarios import PLAIN
from rerail.policy import Policy

_ELSEWHERE = {"benchmarks", "wrappers", "device"}
"""Settings that are not hashed: the cases themselves are, wherever they came from, and on which
device a model runs is not what it is."""


class RunSettings(BaseModel):
    """A run, as it can be given again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmarks: tuple[str, ...] = Field(min_length=1)
    """``NAME=PATH`` or ``NAME``; ``NAME+SCENARIO=PATH`` says how this one is put."""
    wrappers: str | None = None
    """``NAME=PATH``: each case gets one of these jailbreak wrappers; where benchmarks say
    ``+NAME``, only theirs."""
    scenarios: tuple[str, ...] = Field((PLAIN,), min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field((DEFAULT_MODEL,), min_length=1)
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    policy: Policy
    limit: int | None = Field(None, ge=1)
    """Cases per benchmark."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)
    max_open: int = Field(64, ge=1)
    """Prompts answered in lock-step; a group of them is what a resumed run begins anew."""
    template: bool = True
    """Whether the chat template is applied; False is the setting of base models."""
    judges: tuple[str, ...] = ()
    """Judges besides the embedded one."""
    perplexity_model: str | None = None
    attempts: int = Field(16, ge=1)
    """Prompts per case of the adaptive attacker."""
    generations: int | None = Field(None, ge=1, strict=True)
    """Answers that a case may cost, in the place of the policy's own budget: the published methods
    take up to 90."""

    @model_validator(mode="before")
    @classmethod
    def _with_budget(cls, values: Any) -> Any:
        given, policy = values.get("generations"), values.get("policy")
        if given is None or not isinstance(policy, Policy):
            return values
        budget = policy.budget.model_copy(update={"generations": given})
        return {**values, "policy": policy.model_copy(update={"budget": budget})}

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from values.

        Raises:
            InputFileError: a value is not valid.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputFileError(f"the run is not valid: {_fault(error)}") from None

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """The same with some values replaced.

        Raises:
            InputFileError: a value is not valid.
        """
        return self.of(**{**dict(self), **changes})

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The settings of a run's settings.json.

        Raises:
            InputFileError: it cannot be read, or is not one.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate(document["settings"])
        except OSError as error:
            raise InputFileError(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            raise InputFileError(f"{path} is no settings file: {_fault(error)}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputFileError(
                f"{path} is no settings file: give the settings.json of a run's folder"
            ) from None

    def document(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What settings.json holds.

        Args:
            content: what the settings only name: hashes of cases and weights, the methods'
                settings, the version of rerail.
        """
        settings = self.model_dump(mode="json")
        decisive = {key: value for key, value in settings.items() if key not in _ELSEWHERE}
        hashed = json.dumps([decisive, content], sort_keys=True, ensure_ascii=True)
        name = hashlib.sha256(hashed.encode()).hexdigest()[:16]
        return {"id": name, "settings": settings, "content": dict(content)}


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
