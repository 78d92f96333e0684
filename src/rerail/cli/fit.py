"""``rerail fit``: offsets that a policy tries first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import Report, notes
from rerail.cli._options import Setup
from rerail.errors import StoreError

if TYPE_CHECKING:
    from rerail.fit import Fitted


def fit(
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            help="JSONL with 'prompt' or 'messages' that the model goes along "
            "with: not the ones that you evaluate on.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", help="The policy with its offsets, as YAML; - is standard output."
        ),
    ],
    keep: Annotated[int, typer.Option("--keep", min=1, help="Offsets at most.")] = 4,
    rank: Annotated[
        int, typer.Option("--rank", min=1, help="Principal directions of the table to look in.")
    ] = 8,
    draws: Annotated[
        int, typer.Option("--draws", min=2, help="Offsets tried per prompt and round.")
    ] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds.")] = 4,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    model: options.ModelOption = "embedded",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = 256,
    seed: options.SeedOption = 0,
    as_json: options.JsonOption = False,
) -> Report:
    """Find offsets that solve many prompts, for a policy to try first on others.

    What makes a model decline is largely the same for all prompts, so offsets that led to
    acceptable answers on some save most of the search on others. They hold for the policy and the
    model that they were found with, and are part of the policy's version.
    """
    from rerail.cli._lines import is_standard_output, read_prompts, refuse_json
    from rerail.fit import fit as find

    setup = Setup(
        model=model,
        policy=options.read_policy(policy, policies),
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    if as_json:
        refuse_json(output)
    standard = is_standard_output(output)
    prompts = read_prompts(input_)
    if not output.parent.is_dir():
        # Said before anything is spent on what could not be kept.
        raise StoreError(f"cannot write {output}: there is no folder {output.parent}; make it")
    aligner = setup.aligner()
    with options.steps() as said:
        found = find(
            aligner,
            prompts,
            rank=rank,
            keep=keep,
            draws=draws,
            rounds=rounds,
            seed=seed,
            said=said,
        )
    offsets = {**setup.policy.offsets, aligner.engine.name: found.offsets}
    fitted = type(setup.policy).model_validate({**setup.policy.model_dump(), "offsets": offsets})
    try:
        if not standard:
            output.write_text(fitted.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write {output}: {error.strerror}; choose another --output"
        ) from None
    document = {
        "policy": fitted.name,
        "policy_version": fitted.version,
        "model": aligner.engine.name,
        "prompts": len(prompts),
        "flagged": found.flagged,
        "accepted": found.accepted,
        "offsets": found.offsets,
        "generations": found.cost.generations,
        "generated_tokens": found.cost.generated_tokens,
        "output": str(output),
    }

    def show(console: Console) -> None:
        if standard:
            console.file.write(fitted.to_yaml())
        _print(notes() if standard else console, found, output)

    return Report(document, show, as_json)


def _print(console: Console, found: Fitted, output: Path) -> None:
    solved = sum(found.accepted)
    steps = ", ".join(f"+{number}" for number in found.accepted)
    console.print(
        f"{len(found.offsets)} offsets solve {solved} of {found.flagged} flagged prompts "
        f"({steps}), after {found.cost.generations} answers"
    )
    console.print(f"written: {output}", soft_wrap=True)
