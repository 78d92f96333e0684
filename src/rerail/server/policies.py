"""Policies that change while requests run: validated, versioned, swapped whole.

A request asks once, with `LivePolicies.get`, and keeps what it was given. Changes come through
the API or from a watched folder; each is logged with who made it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rerail.align import Aligner, lacks
from rerail.engines.base import Engine
from rerail.errors import (
    MissingDependencyError,
    ModeratorError,
    PolicyError,
    RerailError,
    StoreError,
)
from rerail.moderators import Moderator, load_confirm, load_gate, load_moderator
from rerail.names import nearest
from rerail.panel import Panel
from rerail.policy import MODERATED_BY, Policy
from rerail.server._files import write_whole
from rerail.server.errors import place
from rerail.store import PolicyChange, Store

log = logging.getLogger("rerail.server")

START = "start"
"""Who made a change that a server found when it started."""


@dataclass(frozen=True, eq=False)
class Served:
    """One version of a policy with what it needs to be applied.

    Attributes:
        policy: the policy.
        yaml: its text, as it was written.
        panel: judges; never raises.
        aligners: by model; of those that can do what the policy needs.
        source: what its moderators were loaded from.
    """

    policy: Policy
    yaml: str
    panel: Panel
    aligners: Mapping[str, Aligner] = field(repr=False)
    source: str


@dataclass(frozen=True)
class _PolicyFile:
    """A file of the folder as it was read or written last."""

    path: Path
    text: str
    policy: Policy


Moderators = tuple[Moderator, Moderator | None, Sequence[Moderator]]
"""Which steers, which confirms, and those of the gate."""

Loader = Callable[[Policy], Moderators]


def load_moderators(policy: Policy) -> Moderators:
    """The moderators that the policy names.

    Raises:
        ModeratorError: one is unknown, or rejects its options.
    """
    return load_moderator(policy), load_confirm(policy), load_gate(policy)


class LivePolicies:
    """The policies of a server.

    Args:
        engines: by model name.
        policies: what there is at the start, as values or as YAML.
        folder: YAML files that are policies, too; changes through the API are written there.
        store: keeps the log of changes beyond this process.
        loader: makes a policy's moderators.
        on_change: told the action of every change, ``rejected`` for one that is not valid.

    Raises:
        PolicyError: a policy is not valid, or two files have one name.
        ModeratorError: a moderator of one cannot be had.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        policies: Iterable[Policy | str],
        *,
        folder: Path | None = None,
        store: Store | None = None,
        loader: Loader = load_moderators,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._engines = dict(engines)
        self._loader = loader
        self._store = store
        self._on_change = on_change or (lambda action: None)
        self.folder = folder
        self._changing = threading.RLock()
        self._moderators: dict[str, Moderators] = {}
        self._log: list[PolicyChange] = []
        self._base = {policy.name: (policy, text) for policy, text in map(_with_text, policies)}
        files, faults = _read(self.files())
        if faults:
            raise PolicyError("\n".join(faults))
        self._files = files
        found = {**self._base, **{name: (f.policy, f.text) for name, f in files.items()}}
        self._current = {name: self._prepare(*found[name]) for name in sorted(found)}
        self._forget_moderators()
        for served in self._current.values():
            changes = self.history(served.policy.name)
            if not changes or changes[-1].version != served.policy.version:
                self._note("put", served, START)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._current))

    def all(self) -> list[Served]:
        """Every current policy, by name."""
        return list(self._current.values())

    def get(self, name: str) -> Served:
        """The current version of a policy.

        Raises:
            PolicyError: there is none of that name; the message names the nearest.
        """
        current = self._current
        if name not in current:
            raise PolicyError(f"unknown policy {name!r}{nearest(name, current)}")
        return current[name]

    def history(self, name: str) -> list[PolicyChange]:
        """Every change of the policy, oldest first."""
        if self._store is not None:
            return self._store.policy_changes(name)
        return [change for change in self._log if change.name == name]

    def check(self, name: str, text: str) -> Policy:
        """Read a policy and everything that it needs, and change nothing.

        Raises:
            PolicyError: it is not valid, has another name, or a moderator of it cannot be had;
                the message names every fault.
        """
        with self._changing:
            try:
                return self._prepared(name, text).policy
            finally:
                self._forget_moderators()

    def put(self, name: str, text: str, by: str) -> Policy:
        """Make the policy current.

        Args:
            name: of the policy; the text must have the same.
            text: its YAML form.
            by: who wants it.

        Raises:
            PolicyError: it is not valid; nothing has changed.
            StoreError: the change could not be logged; nothing has changed.
        """
        with self._changing:
            try:
                served = self._prepared(name, text)
            except PolicyError:
                self._on_change("rejected")
                raise
            self._change("put", served, by)
            return served.policy

    def rollback(self, name: str, version: str, by: str) -> Policy:
        """Make an earlier version current again.

        Raises:
            PolicyError: there was no such version; nothing has changed.
            StoreError: the change could not be logged; nothing has changed.
        """
        with self._changing:
            texts = {change.version: change.yaml for change in self.history(name)}
            text = texts.get(version)
            if text is None:
                known = ", ".join(list(texts)[-5:]) or "none"
                raise PolicyError(f"policy {name!r} had no version {version!r}; latest: {known}")
            served = self._prepared(name, text)
            self._change("rollback", served, by)
            return served.policy

    def remove(self, name: str, by: str) -> None:
        """Forget the current policy of that name; its history stays.

        Raises:
            PolicyError: there is none.
            StoreError: its file could not be deleted, or the change could not be logged; nothing
                has changed.
        """
        with self._changing:
            self._change("remove", self.get(name), by)
            self._base.pop(name, None)

    def rescan(self) -> list[str]:
        """Bring in what changed in the folder; a file that is not valid changes nothing.

        Returns:
            The faults that were found.

        Raises:
            PolicyError: the folder cannot be read; nothing has changed.
        """
        with self._changing:
            there = self.files()
            files, faults = _read(there)
            for name, file in files.items():
                known = self._files.get(name)
                if known is None or known.text != file.text:
                    faults += self._take(file)
            read = {file.path for file in files.values()}
            for name, file in list(self._files.items()):
                # A file that is there and could not be read keeps its policy.
                if name not in files and (file.path in read or file.path not in there):
                    faults += self._drop(name, file)
            for fault in faults:
                log.warning("policy not taken from the folder: %s", fault)
                self._on_change("rejected")
            return faults

    def files(self) -> list[Path]:
        """The folder's YAML files.

        Raises:
            PolicyError: the folder is not there, or cannot be read.
        """
        if self.folder is None:
            return []
        try:
            found = sorted(self.folder.iterdir())
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            reason = "there is no such folder" if gone else error.strerror
            raise PolicyError(f"--policies {self.folder}: {reason}") from None
        return [p for p in found if p.suffix in {".yaml", ".yml"} and not p.name.startswith(".")]

    def _take(self, file: _PolicyFile) -> list[str]:
        """A file's policy becomes current."""
        name = file.policy.name
        current = self._current.get(name)
        try:
            served = self._prepare(file.policy, file.text)
            if current is None or current.policy.version != file.policy.version:
                self._note("put", served, f"file {file.path.name}")
        except Exception as error:
            return [_fault(file.path, error)]
        self._swap(name, served)
        self._files[name] = file
        return []

    def _drop(self, name: str, file: _PolicyFile) -> list[str]:
        """A file is gone: the policy is what it was without it, or is no more."""
        base = self._base.get(name)
        by = f"file {file.path.name} removed"
        try:
            served = self._prepare(*base) if base else None
            self._note("put" if served else "remove", served or self._current[name], by)
            self._swap(name, served)
        except Exception as error:
            return [_fault(file.path, error)]
        del self._files[name]
        return []

    def _prepared(self, name: str, text: str) -> Served:
        policy = Policy.from_yaml(text, name)
        if policy.name != name:
            raise PolicyError(f"the policy is named {policy.name!r}, and was sent as {name!r}")
        try:
            return self._prepare(policy, text)
        except (ModeratorError, MissingDependencyError) as error:
            raise PolicyError(f"{name} is not usable: {error}") from None

    def _prepare(self, policy: Policy, text: str) -> Served:
        """Load what a policy needs. Moderators that did not change are kept."""
        parts = policy.model_dump(mode="json", include=set(MODERATED_BY))
        source = json.dumps(parts, sort_keys=True)
        if source not in self._moderators:
            self._moderators[source] = self._loader(policy)
        panel = Panel(policy, *self._moderators[source])
        lacking = {model: lacks(engine, policy) for model, engine in self._engines.items()}
        if all(lacking.values()) and policy.name not in self._base:
            raise PolicyError("; ".join(filter(None, lacking.values())))
        aligners = {
            model: Aligner(engine, panel)
            for model, engine in self._engines.items()
            if not lacking[model]
        }
        return Served(policy, text, panel, aligners, source)

    def _change(self, action: str, served: Served, by: str) -> None:
        """Put or remove a policy: in the folder, in the log, here; all of it, or nothing."""
        left = None if action == "remove" else served
        restore = self._write(served.policy.name, left)
        try:
            self._note(action, served, by)
        except Exception:
            restore()
            raise
        self._swap(served.policy.name, left)

    def _swap(self, name: str, served: Served | None) -> None:
        others = {n: s for n, s in self._current.items() if n != name}
        self._current = dict(sorted((others | ({name: served} if served else {})).items()))
        self._forget_moderators()

    def _forget_moderators(self) -> None:
        """Keep the moderators of current policies; running requests hold their own."""
        used = {served.source for served in self._current.values()}
        self._moderators = {k: m for k, m in self._moderators.items() if k in used}

    def _note(self, action: str, served: Served, by: str) -> None:
        policy = served.policy
        change = PolicyChange(
            policy.name, policy.version, action, datetime.now(UTC), by, served.yaml
        )
        if self._store is None:
            self._log.append(change)
        else:
            self._store.note_policy_change(change)
        self._on_change(action)
        log.info("policy %s %s: %s by %s", policy.name, policy.version, action, by)

    def _write(self, name: str, served: Served | None) -> Callable[[], None]:
        """Write a policy's file, or delete it; gives what brings the old one back."""
        known = self._files.get(name)
        if self.folder is None or (known is None and served is None):
            return lambda: None
        path = known.path if known else self.folder / f"{name}.yaml"
        if known is None and path.exists():
            raise StoreError(f"{path} is there and is not policy {name!r}: move it away")
        try:
            before = path.read_bytes() if path.exists() else None
            if served is None:
                path.unlink(missing_ok=True)
                del self._files[name]
            else:
                write_whole(path, served.yaml.encode())
                self._files[name] = _PolicyFile(path, served.yaml, served.policy)
        except OSError as error:
            does = "write" if served else "delete"
            raise StoreError(f"cannot {does} {path}: {error.strerror}") from None

        def restore() -> None:
            if known is None:
                del self._files[name]
            else:
                self._files[name] = known
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, before)

        return restore


def _read(paths: Iterable[Path]) -> tuple[dict[str, _PolicyFile], list[str]]:
    """The policies of files by name, and what is wrong with the other files."""
    files: dict[str, _PolicyFile] = {}
    faults: list[str] = []
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8")  # with the line ends that it has
            policy = Policy.from_yaml(text, str(path))
        except Exception as error:  # one file must not keep the others from being read
            faults.append(_fault(path, error))
            continue
        if policy.name in files:
            faults.append(f"{files[policy.name].path} and {path} both name {policy.name!r}")
        else:
            files[policy.name] = _PolicyFile(path, text, policy)
    return files, faults


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a file, in words that name it."""
    if isinstance(error, RerailError):
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    said = (
        error if isinstance(error, (OSError, UnicodeDecodeError)) else f"unexpected {place(error)}"
    )
    return f"cannot read policy {path}: {said}"


def _with_text(policy: Policy | str) -> tuple[Policy, str]:
    if isinstance(policy, str):
        return Policy.from_yaml(policy), policy
    return policy, policy.to_yaml()
