"""`synreal plan`: which mix of real labels and synthetic images a budget should buy."""

from pathlib import Path
from typing import Annotated

import typer

Measured = Annotated[
    Path,
    typer.Argument(
        help="CSV or parquet: n_real, n_syn, accuracy; a row for each training.", show_default=False
    ),
]


def plan(
    measured: Measured,
    price_real: Annotated[float, typer.Option(help="Of one real label, in any currency.")],
    price_synthetic: Annotated[float, typer.Option(help="Of one synthetic image.")],
    budget: Annotated[float | None, typer.Option(help="Money to spend: the most accurate mix.")] = None,
    target: Annotated[float | None, typer.Option(help="Accuracy to reach: the cheapest mix.")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws behind the intervals.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Recommend how many real labels and synthetic images to buy, from accuracies measured on some mixes.

    Train on a few mixes first (real only, synthetic only, both), each with three seeds. Plans stay within the
    numbers of images that were measured.
    Exit status: 0 planned, 1 no mix reaches the target, 2 bad input.
    """
    from synreal.book.interventions_views import plan_table
    from synreal.errors import InputError
    from synreal.evaluate.mix_table import read_mixes
    from synreal.evaluate.planner import (
        Plan,
        Prices,
        check_target,
        fit_mixes,
        plan_for_budget,
        plan_for_target,
    )

    if draws < 100 or seed < 0:
        raise InputError(f"draws {draws}, seed {seed}: expected 100 draws or more and a seed of 0 or more")
    prices = Prices(price_real, price_synthetic)
    if (budget is None) == (target is None):
        raise InputError("plan: give either --budget or --target, not both and not neither")
    if target is not None:
        check_target(target)
    law = fit_mixes(read_mixes(measured), draws, seed)
    if budget is not None:
        found: Plan | None = plan_for_budget(law, prices, budget)
    elif target is not None:
        found = plan_for_target(law, prices, target)
    if found is None:
        most = f"{law.most_real:,} real and {law.most_synthetic:,} synthetic images"
        print(f"No mix of up to {most} reaches an accuracy of {target}.")
        raise typer.Exit(1)
    print(plan_table(found).to_string(header=False))
    print("95 % intervals over trainings; that the test images are a sample, too, is not in them.")
    print(f"The law misses the mean accuracy of a mix by {law.miss:.3f} at most.")
    if target is not None:
        print(f"The target is reached in {found.reached:.0%} of the bootstrap draws.")
