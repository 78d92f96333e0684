"""Errors that rerail raises. Every message says what to do about it.

RerailError
├── PromptError            the prompt cannot be answered as it is
│   ├── PromptTooLongError   it does not fit the model's context
│   └── InputFileError       a line of an input file cannot be read
├── PolicyError            a policy is unknown or not valid
├── EngineError            the model cannot be loaded or cannot generate
│   ├── ModelNotThereError   a model that rerail knows by name is not to be had
│   └── UnsteerableModelError  its answers do not depend on the embeddings alone
├── ModeratorError         a moderator failed or cannot be used
│   └── ModeratorSpecError   its name is unknown, or its options are not valid
├── StoreError             records cannot be kept or read
└── MissingDependencyError an optional package is needed
"""


class RerailError(Exception):
    """Base of all errors raised on purpose by rerail."""


class PromptError(RerailError):
    """The prompt cannot be answered as it is."""


class PromptTooLongError(PromptError):
    """The prompt does not fit the model's context."""


class InputFileError(PromptError):
    """A line of an input file cannot be read."""


class PolicyError(RerailError):
    """A policy is unknown or not valid."""


class EngineError(RerailError):
    """The model cannot be loaded or cannot generate."""


class ModelNotThereError(EngineError):
    """A model that rerail knows by name is in no installed package, and the hub cannot be asked."""


class UnsteerableModelError(EngineError):
    """The model's answers depend on more than the input embeddings."""


class ModeratorError(RerailError):
    """A moderator failed or cannot be used."""


class ModeratorSpecError(ModeratorError):
    """A moderator's name is unknown, or its options are not valid."""


class StoreError(RerailError):
    """Records cannot be kept or read."""


class MissingDependencyError(RerailError):
    """An optional package is needed.

    Args:
        package: what could not be imported.
        extra: the extra of rerail that installs it; None for a package to install by itself.
    """

    def __init__(self, package: str, extra: str | None = None) -> None:
        wanted = f"'rerail[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed: pip install {wanted}")
