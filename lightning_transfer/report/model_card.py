"""Writes the model card of an export: what it is for, what it takes, where it comes from and how good it is."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from lightning_transfer.report.conclusion import share_interval
from lightning_transfer.report.document import escaped

_SHARES = ("accuracy", "subset_accuracy")  # counts of right examples, whose interval follows from their number
_NO_LICENCE = "not stated: who publishes the model states it, with regard to its data and weights"


def model_card(name: str, licence: str | None, export: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Writes a card in Markdown, with the fields of the Hub at its head.

    Args:
        name: What the model is called.
        licence: Identifier of the licence, as apache-2.0; the field is left open if not given.
        export: What ``export.json`` says.
        record: What ``results.json`` of the run says; empty if there is none.
    """
    kind = "text" if "token_ids" in export["inputs"] else "image"
    task = "regression" if export["problem_type"] == "regression" else "classification"
    head = {"license": licence} if licence else {}
    head |= {"library_name": "lightning-transfer", "pipeline_tag": f"{kind}-classification"}
    data = record.get("data") or {}
    facts = {
        "Network": f"{export['network']}, {record.get('parameters', 'an unknown number of')} parameters",
        "Task": f"{export['problem_type']} of {kind}s" if task == "classification" else f"numbers of {kind}s",
        "Classes" if task == "classification" else "Numbers": ", ".join(map(escaped, export["classes"])),
        "Licence": escaped(licence) if licence else _NO_LICENCE,
        "Started from": record.get("init_from") or "random weights",
        "Trained by": f"`{record['command']}`" if record.get("command") else "an unknown command",
        "Exported by": f"`{export['command']}`",
        "Commit": record.get("commit") or "unknown",
    }
    if privacy := record.get("privacy"):
        facts["Privacy"] = (
            f"differentially private training, ε {privacy['epsilon']:.2f} at δ {privacy['delta']:g}; not in it:"
            f" {'; '.join(privacy['not_in_epsilon'])}"
        )
    examples = {key: data[key] for key in ("train_examples", "validation_examples", "test_examples") if key in data}
    figures = [*_figures(record.get("test"), "test", data), *_figures(record.get("validation"), "validation", data)]
    lines = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", "", f"# {name}", ""]
    lines += [f"- **{key}:** {value}" for key, value in facts.items()]
    lines += ["", "## Data", "", f"`{export['data']}`: " + (json.dumps(examples) if examples else "not recorded")]
    lines += ["", "## Metrics", "", *(figures or ["None were recorded."])]
    lines += ["", "## Inputs and outputs", "", f"`{export['file']}` takes and gives:", ""]
    lines += [f"- `{key}`: {value}" for key, value in {**export["inputs"], **export["outputs"]}.items()]
    check = export["check"]
    lines += [
        "",
        f"`{export['preprocessing']}` says how inputs are prepared. On {len(check['batches'])} generated batches the"
        f" file differs from the module by {check['max_difference']:.2g} at most.",
    ]
    if "int8" in export:
        lines += ["", "## In int8", "", *_of_int8(export["int8"])]
    return "\n".join(lines) + "\n"


def _of_int8(figures: Mapping[str, Any]) -> list[str]:
    sizes = " and ".join(f"`{name}` {size:,}" for name, size in figures["bytes"].items())
    how = f"calibrated on {figures['calibration_examples']} training examples"
    changes = [f"- {name}: {value:.4f}, {figures['int8'][name]:.4f}" for name, value in figures["float32"].items()]
    return [
        f"`{figures['file']}` has weights of 8 bits ({figures['method']}"
        f"{', ' + how if figures['calibration_examples'] else ''}). In bytes {sizes}. On the {figures['examples']}"
        f" examples of the {figures['split']}, in float32 and in int8:",
        "",
        *changes,
        f"- largest difference of a probability or number: {figures['max_difference']:.4f}",
    ]


def _figures(metrics: Mapping[str, float] | None, split: str, data: Mapping[str, Any]) -> list[str]:
    count = data.get(f"{split}_examples")
    lines = []
    numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
    for name, value in numbers.items():
        words = f"- {name}: {value:.4f}"
        if name.rpartition("/")[2] in _SHARES and count:
            low, high = share_interval(value, count)
            words += f" (95 % interval {low:.4f} to {high:.4f}, Wilson, n = {count})"
        lines.append(words)
    return lines
