"""Test-time safety alignment: steer a model's answers by moving its input embeddings.

    from rerail import Aligner, Panel, PolicyStore, load_engine

    policy = PolicyStore.shipped().get("default")
    aligner = Aligner(load_engine(), Panel.load(policy))
    response = aligner.align("How do I ...?")

Names are resolved when they are first used: importing rerail loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerail.align import Aligner as Aligner
    from rerail.engines import load_engine as load_engine
    from rerail.engines.base import Engine as Engine
    from rerail.engines.base import Sampling as Sampling
    from rerail.errors import EngineError as EngineError
    from rerail.errors import InputFileError as InputFileError
    from rerail.errors import MissingDependencyError as MissingDependencyError
    from rerail.errors import ModelNotThereError as ModelNotThereError
    from rerail.errors import ModeratorError as ModeratorError
    from rerail.errors import ModeratorSpecError as ModeratorSpecError
    from rerail.errors import PolicyError as PolicyError
    from rerail.errors import PromptError as PromptError
    from rerail.errors import PromptTooLongError as PromptTooLongError
    from rerail.errors import RerailError as RerailError
    from rerail.errors import StoreError as StoreError
    from rerail.errors import UnsteerableModelError as UnsteerableModelError
    from rerail.moderators import load_confirm as load_confirm
    from rerail.moderators import load_moderator as load_moderator
    from rerail.moderators.base import Moderator as Moderator
    from rerail.panel import Panel as Panel
    from rerail.policy import Budget as Budget
    from rerail.policy import Policy as Policy
    from rerail.policy import PolicyStore as PolicyStore
    from rerail.search import Search as Search
    from rerail.search import advance as advance
    from rerail.settings import OptimizerSettings as OptimizerSettings
    from rerail.types import AcceptedFrom as AcceptedFrom
    from rerail.types import Cost as Cost
    from rerail.types import Evaluation as Evaluation
    from rerail.types import Exchange as Exchange
    from rerail.types import Generation as Generation
    from rerail.types import Judged as Judged
    from rerail.types import Message as Message
    from rerail.types import Outcome as Outcome
    from rerail.types import PolicyTag as PolicyTag
    from rerail.types import Prompt as Prompt
    from rerail.types import Rejection as Rejection
    from rerail.types import Response as Response
    from rerail.types import Score as Score
    from rerail.types import StopReason as StopReason
    from rerail.types import Tool as Tool
    from rerail.types import ToolCall as ToolCall
    from rerail.types import Verdict as Verdict

__version__ = "0.1.0"

_HOME = {
    "rerail.align": ("Aligner",),
    "rerail.engines": ("load_engine",),
    "rerail.engines.base": ("Engine", "Sampling"),
    "rerail.errors": (
        "EngineError",
        "InputFileError",
        "MissingDependencyError",
        "ModelNotThereError",
        "ModeratorError",
        "ModeratorSpecError",
        "PolicyError",
        "PromptError",
        "PromptTooLongError",
        "RerailError",
        "StoreError",
        "UnsteerableModelError",
    ),
    "rerail.moderators": ("load_confirm", "load_moderator"),
    "rerail.moderators.base": ("Moderator",),
    "rerail.panel": ("Panel",),
    "rerail.policy": ("Budget", "Policy", "PolicyStore"),
    "rerail.search": ("Search", "advance"),
    "rerail.settings": ("OptimizerSettings",),
    "rerail.types": (
        "AcceptedFrom",
        "Cost",
        "Evaluation",
        "Exchange",
        "Generation",
        "Judged",
        "Message",
        "Outcome",
        "PolicyTag",
        "Prompt",
        "Rejection",
        "Response",
        "Score",
        "StopReason",
        "Tool",
        "ToolCall",
        "Verdict",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'rerail' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
