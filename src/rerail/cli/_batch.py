"""Many prompts from a file to a file, so that the run may be killed at any moment and goes on.

To a pipe or a terminal, too: then it does not go on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rerail.cli._frame import notes
from rerail.cli._lines import Fault, Item, Output, OutputFile, key_of
from rerail.errors import StoreError
from rerail.types import Outcome, StopReason

if TYPE_CHECKING:
    from rerail.align import Aligner
    from rerail.cluster import AlignerPool
    from rerail.store import Store


_SAY_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""

_TELLING = 0.1
"""Share of the work after which its pace tells something of the rest."""


class HasOutcome(Protocol):
    """Anything that is counted by how it ended."""

    @property
    def outcome(self) -> Outcome: ...


_PASSING_FAULTS = {StopReason.MODERATOR_ERROR, StopReason.ENGINE_ERROR}


@dataclass(frozen=True)
class Run:
    """A run of many prompts.

    Attributes:
        name: of the run in the store.
        settings: what its answers depend on.
        store: where records go; None keeps none.
        output: where lines go.
        with_prompt: whether a line has its prompt, too.
    """

    name: str
    settings: Mapping[str, Any]
    store: Store | None
    output: Output
    with_prompt: bool = False

    def begin(self, fresh: bool = False) -> None:
        """Take up what is there, or throw it away and start over. A stream always starts.

        Raises:
            StoreError: it was begun under other settings, or its records are elsewhere.
        """
        store, output = self.store, self.output
        if not isinstance(output, OutputFile):
            if store is not None:
                store.begin(self.name, self.settings)
            return
        assert store is not None
        ours = output.empty or store.settings(self.name) is not None
        if fresh and (ours or output.lines):
            store.forget(self.name)
            output.clear()
        elif not ours:
            raise _foreign(output, store)
        store.begin(self.name, self.settings)
        output.mend()
        if not self.finished <= store.done(self.name):
            raise _foreign(output, store)

    @property
    def finished(self) -> set[str]:
        """Keys of the lines that need no answer any more."""
        return {key_of(line["id"], line["line"]) for line in self.output.lines}

    def answer(self, aligner: Aligner | AlignerPool, items: Sequence[Item]) -> list[Fault]:
        """Answer the items and keep each as soon as it is finished; those that failed.

        The record comes first, the line second. Killed between the two, the run answers the item
        again: the same seed and settings give the same answer, `Store.add` leaves the record that
        is there, and the line follows. So every line has its record, and neither comes twice.

        An item for which the model or the moderator failed is not finished: it gets neither, and
        the next run tries it again.
        """
        record_text = aligner.policy.record_text
        failed = []
        with progress("aligning", len(items)) as advance:
            for index, response in aligner.align_iter(item.prompt for item in items):
                item = items[index]
                advance(response)
                if response.stop_reason in _PASSING_FAULTS:
                    failed.append(Fault(item.line, response.error or str(response.stop_reason)))
                    continue
                if self.store is not None:
                    prompt = item.prompt if record_text else None
                    self.store.add(self.name, item.key, response, prompt)
                line: dict[str, Any] = {"id": item.id, "line": item.line}
                if self.with_prompt:
                    line["messages"] = [message.to_json() for message in item.prompt.messages]
                self.output.write({**line, **response.to_json()})
        return failed


def _foreign(output: OutputFile, store: Store) -> StoreError:
    return StoreError(
        f"{output.path} has lines that {store.name} has no records of: give the "
        "--store they are in, choose another --output, or start over with --fresh"
    )


def run_items(
    run: Run, aligner: Aligner | AlignerPool, items: Sequence[Item], faults: Sequence[Fault]
) -> dict[str, Any]:
    """Answer what is not finished; the summary of the whole run."""
    started = time.perf_counter()
    finished = run.finished
    open_items = [item for item in items if item.key not in finished]
    failed = [*faults, *run.answer(aligner, open_items)]
    lines = run.output.lines
    outcomes = Counter(line["outcome"] for line in lines)
    failed += [Fault(x["line"], x["error"]) for x in lines if x["outcome"] == Outcome.ERROR]
    return {
        "output": run.output.name,
        "store": run.store and run.store.name,
        "run": run.name,
        "records": len(lines),
        "resumed": len(finished),
        "answered": len(lines) - len(finished),
        "outcomes": {str(outcome): outcomes[str(outcome)] for outcome in Outcome},
        "failed": [fault._asdict() for fault in sorted(failed)],
        "cost": {
            key: sum(line["cost"][key] for line in lines)
            for key in ("generations", "generated_tokens", "prompt_tokens", "moderator_calls")
        },
        "settings": dict(run.settings),
        "audit": aligner.policy.audit,
        "seconds": time.perf_counter() - started,
    }


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[HasOutcome], None]]:
    """Outcomes so far, as `counting` tells them.

    Gives the function that takes each response or trial.
    """
    counts: Counter[str] = Counter()
    with counting(what, total) as advanced:

        def advance(ended: HasOutcome) -> None:
            counts[str(ended.outcome)] += 1
            advanced(" · ".join(f"{counts[str(o)]} {o}" for o in Outcome if counts[str(o)]), 1)

        yield advance


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """How many of ``total`` are done, and the time left, on standard error.

    A bar where somebody watches, else a line now and then. Gives the function that is called when
    more are done, with what else is to be said and how many they are.
    """
    console = notes()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    done = 0
    begun = said_at = time.monotonic()
    with bar:
        task = bar.add_task(what, total=total, said="")

        def advanced(said: str, count: int) -> None:
            nonlocal done, said_at
            done += count
            bar.update(task, advance=count, said=said)
            now = time.monotonic()
            if not console.is_terminal and now - said_at >= _SAY_EVERY:
                said_at = now
                tells = _TELLING * total <= done < total
                left = _left((now - begun) / done * (total - done)) if tells else ""
                told = ", ".join(filter(None, [said, left]))
                console.print(f"{what} {done}/{total}: {told}".rstrip(": "), soft_wrap=True)

        yield advanced


def _left(seconds: float) -> str:
    """A time for people; by tens of seconds where it is short."""
    if seconds < 100:
        return f"about {max(10, round(seconds, -1)):.0f} s left"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} min left"
    return f"about {minutes / 60:.1f} h left"


def default_store(output: Path) -> Path:
    """Records lie beside the output: ``y.jsonl`` has ``y.sqlite``."""
    return output.with_suffix(".sqlite")
