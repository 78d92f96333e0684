"""API keys: 256 random bits each, of which only the SHA-256 is kept.

A hash without salt or stretching is enough for keys that nobody chose: they cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import RerailError
from rerail.server._files import write_whole

PREFIX = "tsk-"
ANY = "*"
"""In `ApiKey.policies`: any policy may be chosen."""

_Most = Annotated[int, Field(ge=1, strict=True)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class KeysFileError(RerailError):
    """The file of keys cannot be read or written."""


class ApiKey(BaseModel):
    """Who may call, and under which policies."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Name
    """The tenant: in records, in the audit of policy changes, and for fairness."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    """Hash of the key."""
    admin: bool = False
    """Whether the key opens ``/admin``. Such a key answers prompts, too."""
    policy: str | None = None
    """Applies to this key's requests; null: the model's, else the server's."""
    policies: tuple[str, ...] = ()
    """Policies that a request with this key may choose by itself; ``*`` stands for all."""

    expires: AwareDatetime | None = None
    """When the key ends; null: never."""
    requests_per_minute: _Most | None = None
    """Requests that are answered, at most; null: any number."""
    tokens_per_minute: _Most | None = None
    """Tokens that are generated, at most, those of answers that do not leave included."""
    tokens_per_day: _Most | None = None
    """The same in a day."""

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)

    @property
    def counts_tokens(self) -> bool:
        return self.tokens_per_minute is not None or self.tokens_per_day is not None

    def may_choose(self, policy: str) -> bool:
        """Whether a request with this key may name the policy."""
        return policy == self.policy or policy in self.policies or ANY in self.policies


LOCAL = ApiKey(name="local", sha256=hashlib.sha256(b"").hexdigest(), admin=True, policies=(ANY,))
"""Stands for every caller of a server without keys, which listens on loopback only."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return self


class KeyRing:
    """The keys of a file. Reading never blocks; `reload` swaps all of them at once.

    Args:
        keys: who may call; none: nobody.
        path: the file that they were read from.

    Attributes:
        readable: whether the file could be read the last time. While it could not, there is no
            key.
    """

    def __init__(self, keys: Iterable[ApiKey] = (), path: Path | None = None) -> None:
        self._keys = tuple(keys)
        self.path = path
        self.readable = True
        self._used: dict[str, datetime] = {}

    def __repr__(self) -> str:
        return f"KeyRing({len(self._keys)} keys)"

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The keys of a YAML file.

        Raises:
            KeysFileError: it cannot be read, or is not a file of keys.
        """
        return cls(_read(path), path)

    def reload(self) -> None:
        """Read the file again.

        Raises:
            KeysFileError: it cannot be read; until it can, there is no key.
        """
        if self.path is None:
            return
        try:
            self._keys, self.readable = _read(self.path), True
        except KeysFileError:
            self._keys, self.readable = (), False
            raise

    @property
    def policies(self) -> frozenset[str]:
        """Policies that keys fall back to."""
        return frozenset(key.policy for key in self._keys if key.policy is not None)

    @property
    def has_admin(self) -> bool:
        return any(key.admin for key in self._keys)

    @property
    def all(self) -> tuple[ApiKey, ...]:
        """Every key, also those that are expired."""
        return self._keys

    def last_used(self, key: ApiKey) -> datetime | None:
        """When a key was last presented, since the server started."""
        return self._used.get(key.name)

    def find(self, presented: str) -> ApiKey | None:
        """The key that was presented, compared with every known one in constant time."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is not None:
            self._used[found.name] = datetime.now(UTC)
        return found


def new_key(
    path: Path,
    name: str,
    *,
    admin: bool = False,
    policy: str | None = None,
    policies: Iterable[str] = (),
    **limits: Any,
) -> str:
    """Make a key and add it to the file, readable by its owner only.

    Args:
        path: of the file; made if it is not there.
        name: of the tenant that the key stands for.
        admin: as in `ApiKey`, like the others.
        policy: see there.
        policies: see there.
        limits: ``expires`` and what may be asked for in a time; see there.

    Returns:
        The key. It is nowhere else: only its hash is kept.

    Raises:
        KeysFileError: the name is taken or not usable, or the file cannot be read or written.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = {"name": name, "sha256": digest, "admin": admin, "policy": policy}
    with _writing:
        keys = _read(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise KeysFileError(f"{path} has a key {name!r}: revoke it first, or choose a name")
        try:
            key = ApiKey.model_validate({**fields, **limits, "policies": tuple(policies)})
        except ValidationError as error:
            raise KeysFileError(f"the key cannot be made: {_faults(error)}") from None
        _write(path, (*keys, key))
    return secret


def revoke(path: Path, name: str) -> None:
    """Remove a key from the file.

    Raises:
        KeysFileError: there is no such key, or the file cannot be read or written.
    """
    with _writing:
        keys = _read(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeysFileError(f"{path} has no key {name!r}: it has {_listed(keys)}")
        _write(path, left)


def listed(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        KeysFileError: it cannot be read, or is not a file of keys.
    """
    return _read(path)


_writing = threading.Lock()


def _listed(keys: Iterable[ApiKey]) -> str:
    return ", ".join(key.name for key in keys) or "none"


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'keys'}: {fault['msg']}" for fault in error.errors()
    )


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except NotYamlError as error:
        # What is wrong there may quote the file: the place is enough.
        raise KeysFileError(
            f"{path}, {error.place}: not a file of keys, as it is no YAML"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise KeysFileError(
            f"cannot read the keys of {path}: {reason}; make one with `rerail serve keys new`"
        ) from None
    try:
        return _File.model_validate({} if data is None else data).keys
    except ValidationError as error:
        raise KeysFileError(f"{path} is not a file of keys: {_faults(error)}") from None


def _write(path: Path, keys: Iterable[ApiKey]) -> None:
    data = {"keys": [key.model_dump(mode="json", exclude_defaults=True) for key in keys]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, yaml.safe_dump(data, sort_keys=False).encode(), mode=0o600)
    except OSError as error:
        raise KeysFileError(f"cannot write the keys to {path}: {error.strerror}") from None
