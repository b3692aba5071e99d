"""Writes the page of an explanation: verdict, examples with what they rest on, and the sanity checks behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lightning_transfer.report.drawing import data_uri, png
from lightning_transfer.report.evidence import enlarged, overlay, words_html
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.page import joined, page, table

_STYLE = Markup("""<style>
.example { border-top: 1px solid var(--grid); padding: 0.4rem 0 1rem; }
.row { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; } .row figure { margin: 0.4rem 0; max-width: 11rem; }
.row img { image-rendering: pixelated; width: 10rem; max-width: 100%; } .near img { width: 5rem; }
.near figure { max-width: 6rem; font-size: 0.85rem; } .good { color: var(--good); } .bad { color: var(--bad); }
</style>""")
_COLOURS = "Blue speaks for the class, orange against it. A stronger colour speaks more."


def explanation_page(
    facts: Mapping[str, Any], pictures: Sequence[np.ndarray | None], nearest: Sequence[Sequence[np.ndarray | None]]
) -> str:
    """Writes the page.

    Args:
        facts: What ``explanation.json`` says.
        pictures: The images that are explained, uint8 [height, width, 3]; None for a text.
        nearest: Of each example its nearest training images, likewise.
    """
    title = f"Explanation of {facts['run']}"
    examples = joined(
        _example(example, facts, picture, near)
        for example, picture, near in zip(facts["examples"], pictures, nearest, strict=True)
    )
    body = [
        _STYLE,
        Markup("<h1>{}</h1>").format(title),
        Markup('<p class="headline">{}</p>').format(headline(facts)),
        Markup("<p>{} {}</p>").format(_subject(facts), _COLOURS),
        *map(Markup("<p>{}</p>").format, facts["notes"]),
        Markup("<h2>Examples</h2>"),
        examples,
        Markup("<h2>Sanity checks</h2>"),
        _checks(facts),
        *(
            _curves(method, "number" if facts["problem_type"] == "regression" else "probability")
            for method in facts["methods"]
        ),
    ]
    return page(title, joined(body, Markup("\n")))


def headline(facts: Mapping[str, Any]) -> str:
    """Says in a sentence or two which methods pass the sanity checks."""
    passed = [method["title"] for method in facts["methods"] if method["sanity"]["passed"]]
    failed = [
        f"{method['title']} (by {' and by '.join(_failed(method))})"
        for method in facts["methods"]
        if not method["sanity"]["passed"]
    ]
    good = f"The sanity checks are passed by {' and '.join(passed)}." if passed else ""
    bad = f"They are failed by {' and '.join(failed)}: do not rely on it." if failed else ""
    return " ".join(filter(None, (good, bad if passed else bad.replace("They", "The sanity checks"))))


def _failed(method: Mapping[str, Any]) -> list[str]:
    names = {"randomisation": "random weights", "curves": "what is taken away", "completeness": "completeness"}
    return [name for key, name in names.items() if not method["sanity"].get(key, {"passed": True})["passed"]]


def _subject(facts: Mapping[str, Any]) -> str:
    count = len(facts["examples"])
    which = "given" if facts["chosen"] == "given" else "with the highest loss of the hold-out"
    return f"{facts['network']} on {count} example{'s' * (count != 1)} {which}."


def _example(
    example: Mapping[str, Any],
    facts: Mapping[str, Any],
    picture: np.ndarray | None,
    near: Sequence[np.ndarray | None],
) -> Markup:
    name = f"example {example['name']}" if example["name"].isdigit() else example["name"]
    parts = [Markup("<h3>{}</h3><p>{}</p>").format(name, _verdict(example))]
    found = [(method["title"], example["attributions"][method["name"]]) for method in facts["methods"]]
    if picture is not None:
        shown = [("the picture", picture)]
        shown += [(title, overlay(picture, np.array(attribution["map"]))) for title, attribution in found]
        row = joined(_picture(each, name) for name, each in shown)
        parts.append(Markup('<div class="row">{}</div>').format(row))
    else:
        parts += [words_html(attribution["words"], attribution["scores"]) for _, attribution in found]
    if example.get("nearest"):
        parts.append(_nearest(example["nearest"], near))
    return Markup('<section class="example">{}</section>').format(joined(parts))


def _verdict(example: Mapping[str, Any]) -> Markup:
    """Says what is predicted, what it is, and what is explained."""
    outcomes = example.get("probabilities") or example["values"]
    named = example.get("class", example.get("classes"))
    if named is None:
        said = ", ".join(f"{name} {value:.4g}" for name, value in outcomes.items())
    else:
        names = [named] if isinstance(named, str) else named
        said = ", ".join(f"{name}: {100 * outcomes[name]:.0f} %" for name in names) or "no class"
    label, is_right = example["label"], example["label"] == named
    parts = [Markup("<strong>{}</strong>").format(said)]
    if label is not None:
        mark = "" if named is None else Markup(' class="{}"').format("good" if is_right else "bad")
        parts.append(Markup(", <span{}>is {}</span>").format(mark, _label_words(label)))
    if example["explained"] != named:
        parts.append(Markup("; explained is {}").format(example["explained"]))
    return joined(parts)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _label_words(label: Any) -> str:
    """Words a label: a class, several, or numbers by name."""
    if isinstance(label, Mapping):
        return ", ".join(f"{name} {value:.4g}" for name, value in label.items())
    return label if isinstance(label, str) else ", ".join(label) or "no class"


def _picture(pixels: np.ndarray, caption: str) -> Markup:
    element = Markup('<figure><img src="{0}" alt="{1}"><figcaption>{1}</figcaption></figure>')
    return element.format(data_uri(png(enlarged(pixels))), caption)


def _nearest(entries: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray | None]) -> Markup:
    said = Markup("<p>The nearest training examples, by the cosine of what goes into the head:</p>")
    cells = []
    for entry, pixels in zip(entries, pictures, strict=True):
        caption = f"{_label_words(entry['label'])}, {entry['cosine']:.2f}"
        if pixels is not None:
            cells.append(_picture(pixels, caption))
        else:
            cells.append(Markup("<li><strong>{}:</strong> {}</li>").format(caption, entry["text"]))
    element = Markup("<ul>{}</ul>" if pictures[0] is None else '<div class="row near">{}</div>')
    return said + element.format(joined(cells))


def _checks(facts: Mapping[str, Any]) -> Markup:
    """Writes a table of all checks, and in words what they are."""
    rows = []
    for method in facts["methods"]:
        sanity = method["sanity"]
        random, curves = sanity["randomisation"], sanity["curves"]
        last, gains = random["stages"][-1], curves["insertion_minus_deletion"]
        rivals = "; ".join(f"{name} {gain:.2f}" for name, gain in gains.items() if name != "method")
        cells = [_cell(f"{round(last['rank_correlation'], 2) + 0:.2f} (bound {random['bound']:g})", random["passed"])]
        cells.append(_cell(f"{gains['method']:.2f} ({rivals})", curves["passed"]))
        if "completeness" in sanity:
            complete = sanity["completeness"]
            share = f"misses {100 * complete['missed_share']:.2g} % (bound {100 * complete['bound']:g} %)"
            cells.append(_cell(share, complete["passed"]))
        else:
            cells.append(Markup("<td>not promised</td>"))
        element = Markup('<tr><th scope="row">{}</th>{}</tr>')
        rows.append(element.format(_capital(method["title"]), joined(cells)))
    heads = ("method", "like that of a random network", "insertion minus deletion", "completeness")
    return _meaning(facts) + Markup('<div class="scroll">{}</div>').format(table(heads, rows))


def _cell(text: str, passed: bool) -> Markup:
    element = Markup('<td>{} <strong class="{}">{}</strong></td>')
    return element.format(text, *(("good", "passes") if passed else ("bad", "fails")))


def _meaning(facts: Mapping[str, Any]) -> Markup:
    networks = facts["methods"][0]["sanity"]["randomisation"]["random_networks"]
    return Markup("<p>{}</p>").format(
        f"On {facts['sanity_on']}. A picture that follows from the network changes when its weights are"
        f" put in random order: its rank correlation with that of {networks} random networks has to be small. The class"
        " has to fade early where what speaks for it is taken away, and appear early where it is put in: the area"
        " between both curves has to beat rules that look at no network. Integrated gradients promise to add up to the"
        " difference of the scores."
    )


def _curves(method: Mapping[str, Any], outcome: str) -> Markup:
    sanity, charts = method["sanity"], []
    stages = sanity["randomisation"]["stages"]
    names = {"rank_correlation": "rank correlation", "ssim": "SSIM"}
    similar = {
        said: [(0.0, 1.0), *((place + 1.0, stage[name]) for place, stage in enumerate(stages))]
        for name, said in names.items()
        if name in stages[0]
    }
    order = "; ".join(f"{place + 1}: down to {stage['randomised'][-1]}" for place, stage in enumerate(stages))
    charts.append(Curves("Random weights from the head on", similar, "similarity", x_label="step").html())
    for kind, said in (("deletion", "Taken away, strongest first"), ("insertion", "Put in, strongest first")):
        lines = {
            method["title"] if name == "method" else name: [
                (100 * share, value) for share, value in zip(sanity["curves"]["shares"], values, strict=True)
            ]
            for name, values in sanity["curves"][kind].items()
        }
        charts.append(Curves(said, lines, outcome, x_label="share of the parts, %").html())
    where = f" on {method['layer']}" if method.get("layer") else ""
    element = Markup('<h3>{}</h3><div class="charts">{}</div><p class="muted">Steps {}</p>')
    return element.format(_capital(method["title"]) + where, joined(charts), order)
