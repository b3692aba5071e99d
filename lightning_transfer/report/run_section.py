"""Writes the section of one run in a report: its timeline, curves, pictures, and how to repeat it."""

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.drawing import SvgCanvas, data_uri
from lightning_transfer.report.figures import ConfusionMatrix, Figure, Reliability, Timeline
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.tasks import is_share

# Title -> unit at the y axis, and tags. A tag that ends with / stands for the tags of all layer groups.
CHARTS = {
    "Loss": ("loss", ("train/loss", "val/loss")),
    "Accuracy": ("accuracy, %", ("train/accuracy", "val/accuracy")),
    "Learning rate, 0 while frozen": ("learning rate", ("lr/",)),
    "Evidence by which layer groups thaw": ("norm of the gradient / norm of the weights", ("evidence/",)),
    "Gradient norm, before clipping": ("norm", ("gradient_norm/",)),
    "Update of the weights / weights": ("ratio of the norms", ("update_ratio/",)),
    "Share of the parameters that train": ("share, %", ("phase/trainable_share",)),
    "Training examples per second": ("examples/s", ("speed/examples_per_second",)),
    "Privacy that is spent, ε": ("ε", ("privacy/epsilon",)),
    "Share of the time between steps": ("share, %", ("speed/data_wait_share",)),
}
TOP_LOSSES = "Top losses: the worst mistakes of the validation"
PICTURES = {
    "training/examples": "Training examples as the network sees them",
    "attribution/grad_cam": "Grad-CAM: where the evidence for the prediction lies",
    "validation/top_losses": TOP_LOSSES,
}
_PHONE = 500  # a wider figure scrolls on a phone, where its letters would be too small


def run_section(run: Run, name: str, is_open: bool) -> str:
    """Writes the section.

    Args:
        run: The run.
        name: The name that its heading shows.
        is_open: Whether the section is unfolded.
    """
    parts = [
        _figure(Timeline, run, "phase/timeline_data", "Unfreezing: what trained when, and how fast"),
        _phases(run),
        _changes(run),
        _missed_phases(run),
        f'<div class="charts">{"".join(_charts(run))}</div>',
        '<div class="charts">',
        _figure(ConfusionMatrix, run, "validation/confusion_matrix_data", "Confusion matrix of the validation"),
        _figure(Reliability, run, "validation/reliability_data", "Reliability of the confidences"),
        "</div>",
        _most_confused(run),
        _bins(run),
        *(_picture(_dated(title, run, tag), run.images[tag]) for tag, title in PICTURES.items() if tag in run.images),
        _worst_texts(run),
        _tokens(run),
        _card(run),
    ]
    heading = html.escape(name) + (f' <span class="muted">{html.escape(run.name)}</span>' if name != run.name else "")
    return f'<details class="run"{" open" if is_open else ""}><summary>{heading}</summary>{"".join(parts)}</details>'


def _changes(run: Run) -> str:
    # A run that goes on takes back the picture, but the data beside it stays: event files keep all data.
    if "change/layer_groups" not in run.images:
        return ""
    return _figure(LayerGroupChanges, run, "change/layer_groups_data", "What the training changed, from start to end")


def _phases(run: Run) -> str:
    if "phase/timeline_data" not in run.data:
        return ""
    phases = Timeline(**run.data["phase/timeline_data"]).phases
    rows = [
        (str(number), f"{step:,}", ", ".join(names) or "nothing")
        for number, (step, names) in enumerate(phases, start=1)
    ]
    return _folded("phases in numbers", _plain_table("", ("phase", "from step", "trains"), rows))


def _bins(run: Run) -> str:
    if "validation/reliability_data" not in run.data:
        return ""
    found = Reliability(**run.data["validation/reliability_data"])
    width = 100 / len(found.counts)
    rows = [
        (f"{width * place:.0f} to {width * (place + 1):.0f} %", f"{count:,.0f}", f"{100 * right / count:.0f} %")
        for place, (count, right) in enumerate(zip(found.counts, found.correct, strict=True))
        if count
    ]
    table = _plain_table("", ("confidence", "predictions", "right"), rows)
    return _folded("reliability in numbers", table)


def _folded(summary: str, content: str) -> str:
    return f'<details class="numbers"><summary>{summary}</summary>{content}</details>'


def _missed_phases(run: Run) -> str:
    unfreezing = run.results.get("unfreezing") or {}
    if not unfreezing.get("because"):
        return ""
    words = f"{unfreezing['because']}. Never trained: {', '.join(unfreezing['never_trained']) or 'none'}."
    return f"<p>{html.escape(words[0].upper() + words[1:])}</p>"


def _charts(run: Run) -> Iterable[str]:
    # The head comes first, as in the timeline. A layer group has the same colour in all charts.
    groups = list(reversed(run.data.get("phase/timeline_data", {}).get("groups", [])))
    for title, (unit, tags) in CHARTS.items():
        if tags[0].endswith("/"):
            series = {name: run.scalars[tags[0] + name] for name in groups if tags[0] + name in run.scalars}
            yield Curves(title, series, unit, numbers={name: number for number, name in enumerate(groups)}).html()
        else:
            yield _curves(run, title, unit, tags)
    known = {tag for _, tags in CHARTS.values() for tag in tags}
    for tag in sorted(tag for tag in run.scalars if tag.startswith("val/") and tag not in known):
        name = tag.removeprefix("val/").replace("_", " ")
        yield _curves(run, name[0].upper() + name[1:], name, (tag.replace("val/", "train/", 1), tag))


def _curves(run: Run, title: str, unit: str, tags: Sequence[str]) -> str:
    """Draws a chart of tags; those of a validation have the best epoch marked."""
    lines = {tag: run.scalars[tag] for tag in tags if tag in run.scalars}
    values = [value for points in lines.values() for _, value in points]
    percent = unit.endswith("%") and all(is_share("accuracy", [value]) for value in values)
    best_step, _ = run.best_validation()
    best = {tag: best_step for tag in lines if tag.startswith("val/")}
    return Curves(title, lines, unit if percent else unit.removesuffix(", %"), percent, best=best).html()


def _figure(kind: type[Any], run: Run, tag: str, title: str) -> str:
    if tag not in run.data:
        return ""
    title = _dated(title, run, tag)
    figure: Figure = kind(**run.data[tag])
    canvas = SvgCanvas(*figure.size, title)
    figure.draw(canvas)
    wide = ' class="wide"' if figure.size[0] > _PHONE else ""
    return f"<figure{wide}><figcaption>{html.escape(title)}</figcaption>{canvas.svg()}</figure>"


def _dated(title: str, run: Run, tag: str) -> str:
    """Adds the epoch of a picture, and that of the table if it shows another validation."""
    step, (best, _) = run.steps.get(tag), run.best_validation()
    if step is None or not tag.startswith(("validation/", "attribution/")):
        return title
    if best in (step, None):
        return f"{title} (epoch {run.epoch_of(step)}{', the best' if best is not None else ''})"
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
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    return f'<figure class="scroll">{caption}{table}</figure>'


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
