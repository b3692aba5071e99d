"""Writes the section of one run in a report: its timeline, curves, pictures, and how to repeat it."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.drawing import SvgCanvas, data_uri
from lightning_transfer.report.evidence import marked_word
from lightning_transfer.report.figures import ConfusionMatrix, Figure, Reliability, Timeline
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.page import joined, table
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


def run_section(run: Run, name: str, is_open: bool) -> Markup:
    """Writes the section.

    Args:
        run: The run.
        name: The name that its heading shows.
        is_open: Whether the section is unfolded.
    """
    parts = [_unless_damaged(part, run) for part in _PARTS]
    full_name = Markup(' <span class="muted">{}</span>').format(run.name) if name != run.name else ""
    element = Markup('<details class="run"{}><summary>{}{}</summary>{}</details>')
    return element.format(" open" if is_open else "", name, full_name, joined(parts))


def _unless_damaged(part: Callable[[Run], Markup], run: Run) -> Markup:
    """Writes a part of a section. If the run's files hold what no run has written, it says so in its place."""
    try:
        return part(run)
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
        words = "Not shown: the files of this run hold what no run has written ({}: {})."
        return Markup("<p>{}</p>").format(words.format(type(error).__name__, error))


def _timeline(run: Run) -> Markup:
    return _figure(Timeline, run, "phase/timeline_data", "Unfreezing: what trained when, and how fast")


def _confusion(run: Run) -> Markup:
    figures = (
        _figure(ConfusionMatrix, run, "validation/confusion_matrix_data", "Confusion matrix of the validation"),
        _figure(Reliability, run, "validation/reliability_data", "Reliability of the confidences"),
    )
    return Markup('<div class="charts">{}</div>').format(joined(figures))


def _pictures(run: Run) -> Markup:
    shown = {tag: title for tag, title in PICTURES.items() if tag in run.images}
    return joined(_picture(_dated(title, run, tag), run.images[tag]) for tag, title in shown.items())


def _changes(run: Run) -> Markup:
    # A run that goes on takes back the picture, but the data beside it stays: event files keep all data.
    if "change/layer_groups" not in run.images:
        return Markup("")
    return _figure(LayerGroupChanges, run, "change/layer_groups_data", "What the training changed, from start to end")


def _phases(run: Run) -> Markup:
    if "phase/timeline_data" not in run.data:
        return Markup("")
    phases = Timeline(**run.data["phase/timeline_data"]).phases
    rows = [
        (str(number), f"{step:,}", ", ".join(names) or "nothing")
        for number, (step, names) in enumerate(phases, start=1)
    ]
    return _folded("phases in numbers", _plain_table("", ("phase", "from step", "trains"), rows))


def _bins(run: Run) -> Markup:
    if "validation/reliability_data" not in run.data:
        return Markup("")
    found = Reliability(**run.data["validation/reliability_data"])
    width = 100 / len(found.counts)
    rows = [
        (f"{width * place:.0f} to {width * (place + 1):.0f} %", f"{count:,.0f}", f"{100 * right / count:.0f} %")
        for place, (count, right) in enumerate(zip(found.counts, found.correct, strict=True))
        if count
    ]
    return _folded("reliability in numbers", _plain_table("", ("confidence", "predictions", "right"), rows))


def _folded(summary: str, content: Markup) -> Markup:
    return Markup('<details class="numbers"><summary>{}</summary>{}</details>').format(summary, content)


def _missed_phases(run: Run) -> Markup:
    unfreezing = run.results.get("unfreezing") or {}
    if not unfreezing.get("because"):
        return Markup("")
    words = f"{unfreezing['because']}. Never trained: {', '.join(unfreezing['never_trained']) or 'none'}."
    return Markup("<p>{}</p>").format(words[0].upper() + words[1:])


def _charts(run: Run) -> Markup:
    return Markup('<div class="charts">{}</div>').format(joined(_each_chart(run)))


def _each_chart(run: Run) -> Iterable[Markup]:
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


def _curves(run: Run, title: str, unit: str, tags: Sequence[str]) -> Markup:
    """Draws a chart of tags; those of a validation have the best epoch marked."""
    lines = {tag: run.scalars[tag] for tag in tags if tag in run.scalars}
    values = [value for points in lines.values() for _, value in points]
    percent = unit.endswith("%") and all(is_share("accuracy", [value]) for value in values)
    best_step, _ = run.best_validation()
    best = {tag: best_step for tag in lines if tag.startswith("val/")}
    return Curves(title, lines, unit if percent else unit.removesuffix(", %"), percent, best=best).html()


def _figure(kind: type[Any], run: Run, tag: str, title: str) -> Markup:
    if tag not in run.data:
        return Markup("")
    title = _dated(title, run, tag)
    figure: Figure = kind(**run.data[tag])
    canvas = SvgCanvas(*figure.size, title)
    figure.draw(canvas)
    wide = Markup(' class="wide"') if figure.size[0] > _PHONE else ""
    return Markup("<figure{}><figcaption>{}</figcaption>{}</figure>").format(wide, title, canvas.svg())


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


def _picture(title: str, png: bytes) -> Markup:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=80)  # a fifth of the size of the PNG
        width, height = picture.width // 2, picture.height // 2
    element = Markup('<figure><figcaption>{0}</figcaption><img src="{1}" width="{2}" height="{3}" alt="{0}"></figure>')
    return element.format(title, data_uri(buffer.getvalue(), "webp"), width, height)


def _most_confused(run: Run) -> Markup:
    if "validation/confusion_matrix_data" not in run.data:
        return Markup("")
    pairs = ConfusionMatrix(**run.data["validation/confusion_matrix_data"]).most_confused(10)
    rows = [(label, prediction, str(count), f"{100 * share:.0f} %") for label, prediction, count, share in pairs]
    title = _dated("Confused most often", run, "validation/confusion_matrix_data")
    return _plain_table(title, ("label", "taken for", "times", "of the label's"), rows)


def _worst_texts(run: Run) -> Markup:
    entries = [entry for entry in run.data.get("validation/top_losses_data", []) if "text" in entry]
    rows = [
        (e["label"], e["prediction"], f"{100 * e['confidence']:.0f} %", f"{e['loss']:.2f}", e["text"]) for e in entries
    ]
    head = ("label", "prediction", "confidence", "loss", "text")
    return _plain_table(_dated(TOP_LOSSES, run, "validation/top_losses_data"), head, rows)


def _plain_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    if not rows:
        return Markup("")
    kinds = ["text" if name == "text" else "name" for name in head]
    cell = Markup('<td class="{}">{}</td>').format
    lines = [Markup("<tr>{}</tr>").format(joined(map(cell, kinds, row))) for row in rows]
    caption = Markup("<figcaption>{}</figcaption>").format(title) if title else ""
    return Markup('<figure class="scroll">{}{}</figure>').format(caption, table(head, lines))


def _tokens(run: Run) -> Markup:
    lines = []
    for entry in run.data.get("attribution/tokens_data", []):
        words = joined(map(marked_word, entry["tokens"], entry["scores"], entry["scores"]), Markup(" "))
        element = Markup('<p class="tokens"><strong>{}, is {}:</strong> {}</p>')
        lines.append(element.format(entry["prediction"], entry["label"], words))
    if not lines:
        return Markup("")
    title = "Gradient x input: what speaks for the prediction (blue) and against it (orange)"
    title = _dated(title, run, "attribution/tokens_data")
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(title, joined(lines))


def _card(run: Run) -> Markup:
    card = run.data.get("run/card_data")
    if card is None:
        return Markup("")
    used = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    text = ["# the command, then the same from the saved configuration", *card["commands"]]
    plan = Markup("<pre>{}</pre>").format(card["plan"]) if card["plan"] else ""
    element = Markup(
        '<h3>To repeat this run</h3><pre>{}</pre><p class="muted">commit {}; {}</p>{}'
        "<details><summary>Configuration</summary><pre>{}</pre></details>"
    )
    return element.format("\n".join(text), card["commit"], used, plan, card["configuration"])


_PARTS = (
    *(_timeline, _phases, _changes, _missed_phases, _charts, _confusion, _most_confused, _bins, _pictures),
    *(_worst_texts, _tokens, _card),
)
