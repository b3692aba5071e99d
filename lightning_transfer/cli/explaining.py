"""Implements ``lightning-transfer explain``: it shows what predictions of a run rest on, and whether that can be so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_transfer.cli.loading import files_of, load
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.files import check_folder, replacing, write_json, write_text
from lightning_transfer.report.drawing import png
from lightning_transfer.report.evidence import overlay, words_picture
from lightning_transfer.report.explanation_page import explanation_page, headline
from lightning_transfer.report.picture_grid import picture_grid
from lightning_transfer.run.explanations.explanation import Explanation, explain
from lightning_transfer.run.verbosity import print_result


def explain_run(
    run: Path,
    examples: Sequence[str] = (),
    worst: int = 8,
    target: str | None = None,
    sanity_examples: int = 16,
    output: Path | None = None,
) -> Path:
    """Shows what the predictions of a run rest on, and checks that this follows from the network.

    Images get Grad-CAM and integrated gradients, and texts integrated gradients by word. Each example also gets the
    nearest training examples. The folder has a page, explanation.html, the same as explanation.json, and pictures. It
    needs the extra explain.

    Args:
        run: Folder of the run, such as logs/EXPERIMENT/VERSION.
        examples: Pictures or texts to explain. If not given, the examples of the hold-out with the highest loss.
        worst: How many of these.
        target: Name of the class, or number, to explain. If not given, the class that is predicted, or the first
            number.
        sanity_examples: Held-out examples that the checks are made on.
        output: The folder, which is replaced; explain in the folder of the run if not given.

    Returns:
        The page.

    Raises:
        UserError: If captum is not installed, or the run or an example cannot be read or explained.
    """
    run = Path(run)
    folder = Path(output) if output is not None else run / "explain"
    _check(run, folder, worst, sanity_examples)
    found = explain(load(run).members[0], examples, worst, target, sanity_examples)
    with replacing(folder) as partial:
        partial.mkdir()
        write_json(partial / "explanation.json", found.facts)
        write_text(partial / "explanation.html", explanation_page(found.facts, found.pictures, found.nearest))
        _write_pictures(found, partial)
    page = folder / "explanation.html"
    count = len(found.facts["examples"])
    verdicts = {method["name"]: method["sanity"]["passed"] for method in found.facts["methods"]}
    print_result(
        f"{page}: {count} example{'s' * (count != 1)} explained. {headline(found.facts)}",
        {"event": "explain", "page": str(page), "examples": count, "sanity": verdicts},
    )
    return page


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("explain", explain_run)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    explain_run(**parser().parse_args(arguments).as_dict())


def _check(run: Path, folder: Path, worst: int, sanity_examples: int) -> None:
    """Checks the library, the run, the numbers and the folder before any work."""
    require_library("captum", "explain", "explain")
    files_of(run)
    for name, value in {"worst": worst, "sanity_examples": sanity_examples}.items():
        if value < 1:
            raise UserError(f"--{name} is {value}: expected 1 or more")
    check_folder(folder.parent, "--output")
    if folder.exists() and not (folder / "explanation.json").exists():
        raise UserError(f"{folder} is there and holds no explanation: choose another folder with --output")


def _write_pictures(found: Explanation, folder: Path) -> None:
    """Writes a PNG for each example: the picture beside its maps, or the words by the first method."""
    for number, (example, picture) in enumerate(zip(found.facts["examples"], found.pictures, strict=True)):
        attributions = [(it["title"], example["attributions"][it["name"]]) for it in found.facts["methods"]]
        if picture is not None:
            maps = [overlay(picture, np.array(attribution["map"])) for _, attribution in attributions]
            captions = [[example["explained"]], *(title.split() for title, _ in attributions)]
            pixels = picture_grid([picture, *maps], [[(line, "ink") for line in lines] for lines in captions])
        else:
            [(_, attribution)] = attributions
            pixels = words_picture(attribution["words"], attribution["scores"])
        (folder / f"example_{number}.png").write_bytes(png(pixels))
