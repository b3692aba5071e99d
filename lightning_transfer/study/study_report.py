"""Writes the report of a study: its findings, their uncertainty, and what they cost."""

import math
from collections.abc import Iterator
from pathlib import Path

from lightning_transfer.files import write_text
from lightning_transfer.report.conclusion import listed
from lightning_transfer.report.document import Block, Bullets, Figure, Heading, Paragraph, Table, to_html, to_markdown
from lightning_transfer.report.palette import with_own_colors
from lightning_transfer.study import plots
from lightning_transfer.study.config import Tuning
from lightning_transfer.study.halving import rungs, trained_share
from lightning_transfer.study.outcomes import Outcome, Outcomes
from lightning_transfer.study.protocol import protocol
from lightning_transfer.study.protocol_notes import size_name
from lightning_transfer.study.spreadsheets import cell_row, counts, summary_row, write_csv
from lightning_transfer.study.statistics import Comparison, Verdict, smallest_wilcoxon_p
from lightning_transfer.study.units import Unit, unit_of

_LOOKS = (
    " Seeds were added until each size was decided. The corrected p counts these looks too; the intervals and the other"
    " p values do not."
)
_CURVES = "Means over {}, with 95 % intervals as bars; the small dots are single seeds."
_SECONDS = "Means over the seconds of training, the small dots are single seeds; the steps are the Pareto front."


def write_report(outcomes: Outcomes, folder: Path, command: str) -> Path:
    """Writes the report as Markdown, as one HTML page and as two tables in CSV.

    Args:
        outcomes: Results of the study so far; at least one run has finished.
        folder: Folder of the files, whose names begin with the name of the study.
        command: The command line that repeats the study.

    Returns:
        The path of the HTML page.
    """
    name = outcomes.plan.study.name
    figures = [
        Figure(f"{name}_labels.svg", plots.learning_curve(outcomes), _CURVES.format(_axis(outcomes))),
        Figure(
            f"{name}_seconds.svg",
            plots.accuracy_over_seconds(outcomes),
            _SECONDS,
        ),
    ]
    blocks = [*_findings(outcomes), *figures, *_tables(outcomes), *protocol(outcomes, command)]
    for figure in figures:
        write_text(folder / figure.file, with_own_colors(figure.svg))
    write_text(folder / f"{name}.md", to_markdown(blocks))
    runs = [cell_row(cell, outcomes.choices) for cell in [*outcomes.tuning, *outcomes.cells]]
    write_csv(folder / f"{name}_cells.csv", runs)
    write_csv(folder / f"{name}_summary.csv", [summary_row(outcomes, outcome) for outcome in outcomes])
    html = folder / f"{name}.html"
    write_text(html, to_html(f"Study {name}", blocks))
    return html


def headline(outcomes: Outcomes) -> str:
    """Says in one sentence which arm wins at which size, and by how much."""
    unit = unit_of(outcomes.plan.study)
    parts: list[str] = []
    undecided: dict[tuple[str, ...], dict[str, Verdict]] = {}
    for size, verdict in outcomes.verdicts().items():
        if verdict.is_winner:
            parts.append(f"size {size_name(size)} **{verdict.best}** wins, {_lead(verdict, unit)}")
        else:
            undecided.setdefault(tuple(sorted((verdict.best, *verdict.undecided))), {})[size_name(size)] = verdict
    for names, found in undecided.items():
        between = listed(list(names)) if len(names) < len(outcomes.plan.arms) else "any of them"
        words = f"**no difference shown** between {between}" if names[1:] else f"{names[0]} has no rival"
        leads = [_interval(verdict.comparison, unit) for verdict in found.values() if verdict.comparison]
        lead = f" (lead of the best: {listed(leads)})" if leads else ""
        parts.append(f"size{'s' if len(found) > 1 else ''} {listed(list(found))} {words}{lead}")
    return f"At {'; at '.join(parts)}."


def _findings(outcomes: Outcomes) -> Iterator[Block]:
    study, unit = outcomes.plan.study, unit_of(outcomes.plan.study)
    yield Heading(f"Study `{study.name}`", 1)
    yield Paragraph(headline(outcomes))
    yield Bullets([_verdict(size, verdict, unit) for size, verdict in outcomes.verdicts().items()])
    if edges := outcomes.edges():
        yield Paragraph(f"**The list of candidates may have been too short**: {edges}")
    finished, failed, planned = counts(outcomes.cells)
    if finished < planned:
        missing = f"{failed} failed, {planned - finished - failed} not run"
        yield Paragraph(
            f"**{planned - finished} of {planned} runs are missing: {missing}.** None is replaced; until all have been "
            "run, the verdicts are provisional."
        )
    seeds = len(outcomes.plan.seeds)
    means = f"means with 95 % t intervals over {seeds} seeds" if seeds > 1 else "of one seed"
    labels = " (training labels)" if outcomes.are_sizes_of_data else ""
    columns = "" if study.size_key is None else f" Columns: `{study.size_key}`{labels}."
    yield Paragraph(f"Test {unit.name}: {means}.{unit.note}{columns} The best mean of each column is bold.")
    header = ["", *(f"{size_name(size)}{_labels(outcomes, size)}" for size in outcomes.sizes)]
    by_label: dict[str, list[str]] = {outcome.label: [] for outcome in outcomes}
    verdicts = outcomes.verdicts()
    for outcome in outcomes:
        if outcome.size in verdicts:
            by_label[outcome.label].append(_mean(outcome, unit, best=verdicts[outcome.size].best == outcome.label))
    yield Table(header, [[label, *cells] for label, cells in by_label.items()])


def _tables(outcomes: Outcomes) -> Iterator[Block]:
    study, unit = outcomes.plan.study, unit_of(outcomes.plan.study)
    yield Heading(f"Against {study.baseline}")
    n = len(outcomes.plan.seeds)
    yield Paragraph(
        f"Differences in {unit.of_differences.removeprefix('in ')} by pairs of the same seed.{unit.note} The t test "
        "assumes that they are roughly normal, and is "
        f"corrected for all {sum(o.difference is not None for o in outcomes)} comparisons (Holm). Wilcoxon's exact "
        f"test assumes less, and on {n} pairs can never give a p below {smallest_wilcoxon_p(n):.4f}; "
        f"it is not corrected.{_LOOKS if outcomes.plan.looks else ''}"
    )
    if outcomes.uncompared:
        yield Paragraph(
            f"{study.baseline} takes starting weights; not compared with it, because they take none: "
            f"{listed(outcomes.uncompared)}."
        )
    yield Table(
        ["", "size", "difference", "95 % interval", "p, t test", "p, corrected", "p, Wilcoxon"],
        [_difference_row(outcome, unit) for outcome in outcomes if outcome.difference is not None],
    )
    yield Heading("Cost and tuning")
    note = (
        f"`{study.tuning.key}` was chosen for each row{_of_tuned_sizes(study.tuning)} by the validation {study.metric} "
        f"of {len(study.tuning.values)} runs{_per_seeds(len(study.tuning.seeds))}, from "
        f"{listed([str(v) for v in study.tuning.values])}; an arrow marks the end of the list, beyond which a better "
        f"value may lie. {_halving(outcomes)}"
        if study.tuning
        else "Nothing was tuned: all share the learning rate of the config. "
    )
    yield Paragraph(
        f"{note}Seconds are of training, without validation and tuning. ● is on the Pareto front of its size."
    )
    yield Table(["", "size", "tuned value", "training seconds", f"test {unit.name}", "Pareto"],
                list(_cost_rows(outcomes, unit)))  # fmt: skip


def _halving(outcomes: Outcomes) -> str:
    study = outcomes.plan.study
    if study.tuning is None or study.tuning.halving is None:
        return ""
    parts = [f"{rung.candidates} until {rung.end:.0%} of their training" for rung in rungs(study)]
    halving = study.tuning.halving
    later = [f"until {share:.0%} at least for {strategy}" for strategy, share in halving.first_of.items()]
    exceptions = f" ({listed(later)})" if later else ""
    return (
        f"The candidates of each row were halved: {listed(parts)}{exceptions}, those with the best checkpoints so far"
        " each time. "
        f"They had {trained_share(outcomes.tuning):.1%} of the training of all candidates. "
    )


def _verdict(size: float | None, verdict: Verdict, unit: Unit) -> str:
    where = f"Size {size_name(size)}: "
    if verdict.rival is None:
        return f"{where}{verdict.best} has no rival."
    if verdict.is_winner:
        return f"{where}**{verdict.best}** wins, {_lead(verdict, unit)}."
    if verdict.comparison is None:
        shared = f"shares no finished seed with {verdict.rival}"
        return f"{where}no difference shown. {verdict.best} has the best mean, but {shared}."
    return (
        f"{where}no difference shown. {verdict.best} has the best mean, not told apart from "
        f"{listed(list(verdict.undecided))} (its lead over {verdict.rival}: {_interval(verdict.comparison, unit)})."
    )


def _lead(verdict: Verdict, unit: Unit) -> str:
    assert verdict.comparison is not None
    difference = _interval(verdict.comparison, unit)
    return f"{difference} over {verdict.rival}, its closest rival (p {_p(verdict.p)})"


def _interval(comparison: Comparison, unit: Unit) -> str:
    difference, signed = comparison.difference, f"+.{unit.decimals}f"
    if difference.n < 2:
        return f"{difference.mean:{signed}} {unit.of_differences} (from one pair)"
    interval = f"{difference.low:{signed}} to {difference.high:{signed}}"
    return f"{difference.mean:{signed}} ({interval}, n={difference.n}) {unit.of_differences}"


def _mean(outcome: Outcome, unit: Unit, best: bool) -> str:
    if not outcome.scores:
        return "-"
    summary, planned = outcome.summary, len(outcome.cells)
    half = f" ± {summary.high - summary.mean:.{unit.decimals}f}" if math.isfinite(summary.high) else ""
    text = f"{summary.mean:.{unit.decimals}f}{half}"
    missing = f" (n={summary.n} of {planned})" if summary.n < planned else ""
    return f"**{text}**{missing}" if best else f"{text}{missing}"


def _difference_row(outcome: Outcome, unit: Unit) -> list[str]:
    assert outcome.difference is not None
    assert outcome.corrected_p is not None
    difference, signed = outcome.difference.difference, f"+.{unit.decimals}f"
    interval = f"{difference.low:{signed}} to {difference.high:{signed}}" if difference.n > 1 else "-"
    p_values = (outcome.difference.p, outcome.corrected_p, outcome.difference.wilcoxon_p)
    row = [outcome.label, size_name(outcome.size), f"{difference.mean:{signed}}", interval]
    return [*row, *(_p(p).lstrip("= ") for p in p_values)]


def _cost_rows(outcomes: Outcomes, unit: Unit) -> Iterator[list[str]]:
    arrows = {"lowest": " ↓", "highest": " ↑", None: ""}
    for size in outcomes.sizes:
        front = outcomes.pareto_front(size)
        for outcome in outcomes.at(size):
            value = "-" if outcome.value is None else f"{outcome.value}{arrows[outcome.edge]}"
            row = [value, f"{outcome.seconds:.1f}", f"{outcome.summary.mean:.{unit.decimals}f}"]
            yield [outcome.label, size_name(size), *row, "●" if outcome.label in front else ""]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _axis(outcomes: Outcomes) -> str:
    return "labels" if outcomes.are_sizes_of_data else f"`{outcomes.plan.study.size_key}`"


def _labels(outcomes: Outcomes, size: float | None) -> str:
    count = outcomes.train_examples(size)
    return f" ({count:,})" if count is not None and outcomes.are_sizes_of_data else ""


def _of_tuned_sizes(tuning: Tuning) -> str:
    if tuning.sizes is None:
        return ""
    sizes = listed([size_name(size) for size in tuning.sizes])
    return f" of size {sizes}, of which the nearest counts for each other size,"


def _per_seeds(seeds: int) -> str:
    return f" with each of {seeds} seeds" if seeds > 1 else " with a seed of their own"
