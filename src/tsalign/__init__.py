"""Test-time safety alignment: steer a model's answers by moving its input embeddings.

    from tsalign import Aligner, PolicyStore, load_engine, load_moderator

    policy = PolicyStore.shipped().get("default")
    aligner = Aligner(load_engine("embedded"), load_moderator(policy), policy)
    response = aligner.align("How do I ...?")

Names are resolved when they are first used: importing tsalign loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsalign.align import Aligner as Aligner
    from tsalign.align import Search as Search
    from tsalign.align import advance as advance
    from tsalign.engines import load_engine as load_engine
    from tsalign.engines.base import Engine as Engine
    from tsalign.engines.base import Sampling as Sampling
    from tsalign.errors import EngineError as EngineError
    from tsalign.errors import InputFileError as InputFileError
    from tsalign.errors import MissingDependencyError as MissingDependencyError
    from tsalign.errors import ModeratorError as ModeratorError
    from tsalign.errors import PolicyError as PolicyError
    from tsalign.errors import PromptError as PromptError
    from tsalign.errors import PromptTooLongError as PromptTooLongError
    from tsalign.errors import StoreError as StoreError
    from tsalign.errors import TsalignError as TsalignError
    from tsalign.errors import UnsteerableModelError as UnsteerableModelError
    from tsalign.moderators import load_confirm as load_confirm
    from tsalign.moderators import load_moderator as load_moderator
    from tsalign.moderators.base import Moderator as Moderator
    from tsalign.policy import Budget as Budget
    from tsalign.policy import OptimizerSettings as OptimizerSettings
    from tsalign.policy import Policy as Policy
    from tsalign.policy import PolicyStore as PolicyStore
    from tsalign.types import AcceptedFrom as AcceptedFrom
    from tsalign.types import Cost as Cost
    from tsalign.types import Evaluation as Evaluation
    from tsalign.types import Exchange as Exchange
    from tsalign.types import Generation as Generation
    from tsalign.types import Message as Message
    from tsalign.types import Outcome as Outcome
    from tsalign.types import PolicyTag as PolicyTag
    from tsalign.types import Prompt as Prompt
    from tsalign.types import Response as Response
    from tsalign.types import Score as Score
    from tsalign.types import StopReason as StopReason
    from tsalign.types import Verdict as Verdict

__version__ = "0.1.0"

_HOME = {
    "tsalign.align": ("Aligner", "Search", "advance"),
    "tsalign.engines": ("load_engine",),
    "tsalign.engines.base": ("Engine", "Sampling"),
    "tsalign.errors": (
        "EngineError",
        "InputFileError",
        "MissingDependencyError",
        "ModeratorError",
        "PolicyError",
        "PromptError",
        "PromptTooLongError",
        "StoreError",
        "TsalignError",
        "UnsteerableModelError",
    ),
    "tsalign.moderators": ("load_confirm", "load_moderator"),
    "tsalign.moderators.base": ("Moderator",),
    "tsalign.policy": ("Budget", "OptimizerSettings", "Policy", "PolicyStore"),
    "tsalign.types": (
        "AcceptedFrom",
        "Cost",
        "Evaluation",
        "Exchange",
        "Generation",
        "Message",
        "Outcome",
        "PolicyTag",
        "Prompt",
        "Response",
        "Score",
        "StopReason",
        "Verdict",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'tsalign' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
