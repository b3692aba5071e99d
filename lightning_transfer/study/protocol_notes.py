"""Says in the report of a study what only some studies have: shared features, soups, private runs."""

from collections.abc import Iterator

from lightning_transfer.report.conclusion import listed
from lightning_transfer.study.outcomes import Outcomes


def size_name(size: float | None) -> str:
    """Names a size of the training set."""
    return "all" if size is None else f"{size:,}"


def shared_features(outcomes: Outcomes) -> Iterator[str]:
    """Says how many features of frozen layers the runs have computed, and how many they have taken from others."""
    results = (cell.result for cell in [*outcomes.tuning, *outcomes.cells])
    told = [found for result in results if result and (found := result.get("shared_features"))]
    computed, taken, seconds, saved = (
        sum(found[name] for found in told) for name in ("computed", "taken", "computed_seconds", "saved_seconds")
    )
    if computed or taken:
        yield (
            f"Features of frozen layers were shared between runs: those of {computed:,.0f} examples were computed, in"
            f" {seconds:.1f} s, and those of {taken:,.0f} taken from the cache, which saved {saved:.1f} s."
        )


def soups(outcomes: Outcomes) -> Iterator[str]:
    """Says what soups are made of, and what their rows mean."""
    went_in = [len(found) for result in outcomes.results.values() if (found := result.get("soup"))]
    if not went_in:
        return
    tuning = outcomes.plan.study.tuning
    assert tuning is not None
    number = f"{min(went_in)} to {max(went_in)}" if min(went_in) < max(went_in) else f"{went_in[0]}"
    yield (
        f"A soup is the mean of tuning runs of one seed, taken in from the best on while the validation gets no worse:"
        f" of {len(tuning.values)} runs {number} went in. Its seconds are theirs. The seeds of the tuning stand in the"
        " place of those of the study, in their order, so a soup shares no draw with the run that it is compared with."
    )


def privacy(outcomes: Outcomes) -> Iterator[str]:
    """Says what private runs cost, and what that leaves out."""
    told = {cell: found for cell, result in outcomes.results.items() if (found := result.get("privacy"))}
    if not told:
        return
    largest = {
        f"{outcome.label} at size {size_name(outcome.size)}": max(costs)
        for outcome in outcomes
        if (costs := [told[cell]["epsilon"] for cell in outcome.cells if cell in told])
    }
    deltas = listed(sorted({f"{found['delta']:g}" for found in told.values()}))
    runs = len(outcomes.tuning) + len(outcomes.cells)
    yield (
        f"**Private runs**, the largest ε of each row at δ {deltas}: "
        f"{'; '.join(f'{name} {epsilon:.2f}' for name, epsilon in largest.items())}. Each ε is that of one run. Not in "
        f"it: the validation examples, and that this study has {runs} runs on the same training examples"
        f"{f', {len(outcomes.tuning)} of them to tune' if outcomes.tuning else ''}."
    )
