"""Writes the report: one HTML page about one run or many, from the files that they left."""

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from lightning_transfer.report.charts import line_chart
from lightning_transfer.report.drawing import SvgCanvas, data_uri
from lightning_transfer.report.figures import ConfusionMatrix, Figure, Reliability, Timeline
from lightning_transfer.report.page import page
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.style import SCRIPT

# Title -> tags. A tag that ends with / stands for the tags of all layer groups.
CHARTS = {
    "loss": ("train/loss", "val/loss"),
    "accuracy": ("train/accuracy", "val/accuracy"),
    "learning rate, 0 while frozen": ("lr/",),
    "gradient norm, before clipping": ("gradient_norm/",),
    "update of the weights / weights": ("update_ratio/",),
    "share of the parameters that train": ("phase/trainable_share",),
    "training examples per second": ("speed/examples_per_second",),
    "share of the time between steps": ("speed/data_wait_share",),
}
TOP_LOSSES = "Top losses: the worst mistakes of the validation"
PICTURES = {
    "training/examples": "Training examples as the network sees them",
    "attribution/grad_cam": "Grad-CAM: where the evidence for the prediction lies",
    "validation/top_losses": TOP_LOSSES,
}
ACCURACIES = ("val/accuracy", "test/accuracy")  # the table shows the best of several runs in bold
_NAMED_LINES = 8  # with more runs, the strategy gives a line its colour


def report(runs: Sequence[Run], title: str) -> str:
    """Writes the page.

    Args:
        runs: The runs, at least one.
        title: Title of the page.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table(runs)]
    if len(runs) > 1:
        parts.append(_comparison(runs))
    parts += [_section(run, is_open=len(runs) == 1) for run in runs]
    return page(title, "\n".join([*parts, f"<script>{SCRIPT}</script>"]))


def _table(runs: Sequence[Run]) -> str:
    columns = (
        "run",
        "strategy",
        "seed",
        "training examples",
        "val/accuracy",
        "val/loss",
        "test/accuracy",
        "best epoch",
    )
    rows = [_row(run) for run in runs]
    others = dict.fromkeys(name for row in rows for name in row if name.startswith(("val/", "test/")))
    ordered = dict.fromkeys((*columns, "epochs", *others, "seconds"))
    shown = [name for name in ordered if any(row.get(name) is not None for row in rows)]
    best = {name: max((row[name] for row in rows if row.get(name) is not None), default=None) for name in ACCURACIES}
    lines = []
    for row in sorted(rows, key=lambda row: -(row.get("val/accuracy") or 0)):
        cells = []
        for name in shown:
            value = row.get(name)
            words = _words(value)
            if len(rows) > 1 and value is not None and value == best.get(name):
                words = f"<strong>{words}</strong>"
            kind = ' class="name"' if isinstance(value, str) else f' data-value="{value if value is not None else -1}"'
            cells.append(f"<td{kind}>{words}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kinds = ["name" if isinstance(rows[0].get(name), str) else "number" for name in shown]
    heads = "".join(
        f'<th scope="col" class="{kind}"><button>{html.escape(name)}</button></th>'
        for name, kind in zip(shown, kinds, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _row(run: Run) -> dict[str, Any]:
    """Collects a run's results, or its state so far if it has no ``results.json``."""
    settings, results = run.data.get("run/hyperparameters", {}), run.results
    tested = results.get("test") or {}
    best_step, validation = run.best_validation()
    return {
        **validation,
        **tested,
        "run": run.name,
        "strategy": settings.get("strategy"),
        "seed": results.get("seed", settings.get("seed")),
        "training examples": settings.get("training examples"),
        "val/accuracy": validation.get("val/accuracy"),
        "val/loss": validation.get("val/loss"),
        "test/accuracy": tested.get("test/accuracy", run.last("test/accuracy")),
        "best epoch": None if best_step is None else run.epoch_of(best_step),
        "epochs": results.get("epochs", len(run.scalars.get("val/loss", [])) or None),
        "seconds": results.get("fit_seconds"),
    }


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return html.escape(f"{value:,}" if isinstance(value, int) else str(value))


def _comparison(runs: Sequence[Run]) -> str:
    # Only the dashboards record the strategy.
    strategies = [run.data.get("run/hyperparameters", {}).get("strategy", "strategy not recorded") for run in runs]
    labels = strategies if len(runs) > _NAMED_LINES else [run.name for run in runs]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    colors = {run.name: numbers[label] for run, label in zip(runs, labels, strict=True)}
    keys = numbers if len(runs) > _NAMED_LINES else None
    charts = [
        line_chart(title, {run.name: run.scalars.get(tag, []) for run in runs}, colors, keys)
        for title, tag in (("validation accuracy", "val/accuracy"), ("validation loss", "val/loss"))
    ]
    return f'<h2>Comparison</h2><div class="charts">{"".join(charts)}</div>'


def _section(run: Run, is_open: bool) -> str:
    parts = [
        _figure(Timeline, run, "phase/timeline_data", "Unfreezing: what trained when, and how fast"),
        _missed_phases(run),
        f'<div class="charts">{"".join(_charts(run))}</div>',
        '<div class="charts">',
        _figure(ConfusionMatrix, run, "validation/confusion_matrix_data", "Confusion matrix of the validation"),
        _figure(Reliability, run, "validation/reliability_data", "Reliability of the confidences"),
        "</div>",
        _most_confused(run),
        *(_picture(_dated(title, run, tag), run.images[tag]) for tag, title in PICTURES.items() if tag in run.images),
        _worst_texts(run),
        _tokens(run),
        _card(run),
    ]
    name = html.escape(run.name)
    return f'<details class="run"{" open" if is_open else ""}><summary>{name}</summary>{"".join(parts)}</details>'


def _missed_phases(run: Run) -> str:
    unfreezing = run.results.get("unfreezing") or {}
    if not unfreezing.get("because"):
        return ""
    words = f"{unfreezing['because']}. Never trained: {', '.join(unfreezing['never_trained']) or 'none'}."
    return f"<p>{html.escape(words[0].upper() + words[1:])}</p>"


def _charts(run: Run) -> Iterable[str]:
    # The head comes first, as in the timeline. A layer group has the same colour in all charts.
    groups = list(reversed(run.data.get("phase/timeline_data", {}).get("groups", [])))
    for title, tags in CHARTS.items():
        if tags[0].endswith("/"):
            series = {name: run.scalars[tags[0] + name] for name in groups if tags[0] + name in run.scalars}
            yield line_chart(title, series, {name: number for number, name in enumerate(groups)})
        else:
            yield line_chart(title, {tag: run.scalars[tag] for tag in tags if tag in run.scalars})
    known = {tag for tags in CHARTS.values() for tag in tags}
    for tag in sorted(tag for tag in run.scalars if tag.startswith("val/") and tag not in known):
        tags = (tag.replace("val/", "train/", 1), tag)
        yield line_chart(tag, {name: run.scalars[name] for name in tags if name in run.scalars})


def _figure(kind: type[Any], run: Run, tag: str, title: str) -> str:
    if tag not in run.data:
        return ""
    title = _dated(title, run, tag)
    figure: Figure = kind(**run.data[tag])
    canvas = SvgCanvas(*figure.size, title)
    figure.draw(canvas)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{canvas.svg()}</figure>"


def _dated(title: str, run: Run, tag: str) -> str:
    """Adds the epoch of a picture, and that of the table if it shows another validation."""
    step, (best, _) = run.steps.get(tag), run.best_validation()
    if step is None or not tag.startswith(("validation/", "attribution/")):
        return title
    if best in (step, None):
        return f"{title} (epoch {run.epoch_of(step)})"
    epochs = [f"epoch {run.epoch_of(at)}" for at in (step, best)]
    places = [f"{epoch}, step {at + 1}" for epoch, at in zip(epochs, (step, best), strict=True)]
    shown, chosen = places if epochs[0] == epochs[1] else epochs
    return f"{title} ({shown}; the table is of {chosen}, the best)"


def _picture(title: str, png: bytes) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=80)  # a fifth of the size of the PNG
        size = f'width="{picture.width // 2}" height="{picture.height // 2}"'
    address = data_uri(buffer.getvalue(), "webp")
    caption = html.escape(title)
    return f'<figure><figcaption>{caption}</figcaption><img src="{address}" {size} alt="{caption}"></figure>'


def _most_confused(run: Run) -> str:
    if "validation/confusion_matrix_data" not in run.data:
        return ""
    pairs = ConfusionMatrix(**run.data["validation/confusion_matrix_data"]).most_confused(10)
    rows = [(label, prediction, str(count), f"{100 * share:.0f} %") for label, prediction, count, share in pairs]
    title = _dated("Confused most often", run, "validation/confusion_matrix_data")
    return _plain_table(title, ("label", "taken for", "times", "of the label's"), rows)


def _worst_texts(run: Run) -> str:
    entries = [entry for entry in run.data.get("validation/top_losses_data", []) if "text" in entry]
    rows = [
        (e["label"], e["prediction"], f"{100 * e['confidence']:.0f} %", f"{e['loss']:.2f}", e["text"]) for e in entries
    ]
    head = ("label", "prediction", "confidence", "loss", "text")
    return _plain_table(_dated(TOP_LOSSES, run, "validation/top_losses_data"), head, rows)


def _plain_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    kinds = ["text" if name == "text" else "name" for name in head]
    lines = (
        "".join(f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        for row in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<figure class="scroll"><figcaption>{html.escape(title)}</figcaption>{table}</figure>'


def _tokens(run: Run) -> str:
    lines = []
    for entry in run.data.get("attribution/tokens_data", []):
        words = [
            f'<span style="background: color-mix(in srgb, var(--{"accent" if score > 0 else "second"})'
            f' {70 * abs(score):.0f}%, transparent)" title="{score:+.2f}">{html.escape(token)}</span>'
            for token, score in zip(entry["tokens"], entry["scores"], strict=True)
        ]
        verdict = f"{html.escape(entry['prediction'])}, is {html.escape(entry['label'])}"
        lines.append(f'<p class="tokens"><strong>{verdict}:</strong> {" ".join(words)}</p>')
    if not lines:
        return ""
    title = "Gradient x input: what speaks for the prediction (blue) and against it (orange)"
    title = _dated(title, run, "attribution/tokens_data")
    return f"<figure><figcaption>{title}</figcaption>{''.join(lines)}</figure>"


def _card(run: Run) -> str:
    card = run.data.get("run/card_data")
    if card is None:
        return ""
    used = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    text = ["# the command, then the same from the saved configuration", *card["commands"]]
    parts = [
        f"<pre>{html.escape(chr(10).join(text))}</pre>",
        f'<p class="muted">commit {html.escape(str(card["commit"]))}; {html.escape(used)}</p>',
        f"<pre>{html.escape(card['plan'])}</pre>" if card["plan"] else "",
        f"<details><summary>Configuration</summary><pre>{html.escape(card['configuration'])}</pre></details>",
    ]
    return f"<h3>To repeat this run</h3>{''.join(parts)}"
