"""Runs a study, and adds seeds to it until each size has a winner."""

from collections.abc import Callable

from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.protocol import what_seeds_show


def run_until_decided(
    plan: Plan, run: Callable[[Plan], None], *, begin: Callable[[Plan], None] | None = None, only_begun: bool = False
) -> Outcomes:
    """Runs the cells of a plan, and those of one seed more as long as it is to grow.

    Args:
        plan: The plan with the seeds of the study.
        run: Function that runs the unfinished cells of a plan.
        begin: Function that does so the first time, where it is another.
        only_begun: Whether to add no seed that no cell has been run with.

    Returns:
        The results with all seeds.
    """
    print(what_seeds_show(Outcomes(plan)))
    while True:
        (begin or run)(plan)
        begin = None
        outcomes, grown = Outcomes(plan), plan.grown
        if grown is None or outcomes.is_decided:
            return outcomes
        seed = grown.seeds[-1]
        if only_begun and not any(cell.folder.exists() for cell in grown.final() if cell.seed == seed):
            return outcomes
        print(f"not each size has a winner with {len(plan.seeds)} seeds: seed {seed} is added")
        plan = grown
