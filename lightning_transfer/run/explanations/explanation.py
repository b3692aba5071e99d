"""Explains examples of a run by all methods, checks these, and finds the nearest training examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.splits import Split, evenly_spaced
from lightning_transfer.data.texts import TextDataModule
from lightning_transfer.data.word_pieces import PieceJoiner
from lightning_transfer.errors import UserError, did_you_mean
from lightning_transfer.run.explanations import methods
from lightning_transfer.run.explanations.chosen import (
    Chosen,
    batches_of_rows,
    choose_given,
    choose_worst,
    inputs_of_rows,
)
from lightning_transfer.run.explanations.neighbours import embeddings, nearest
from lightning_transfer.run.explanations.parts import Parts, Tiles, Words
from lightning_transfer.run.explanations.sanity import check, sample_of
from lightning_transfer.run.explanations.scores import Inputs, Scores, require_explainable, scores_of
from lightning_transfer.run.predictions import in_words
from lightning_transfer.run.predictor import Member

_NEAREST = 5  # training examples that are shown of each
_CANDIDATES = 10_000  # training examples that are looked through
_WORDS = 60  # that are shown of a training text


class Explanation(NamedTuple):
    """What was found.

    Attributes:
        facts: All of it in plain types; see docs/explain.md.
        pictures: The examples that are images, uint8 [height, width, 3]; None for a text.
        nearest: Of each example its nearest training examples, likewise.
    """

    facts: dict[str, Any]
    pictures: list[np.ndarray | None]
    nearest: list[list[np.ndarray | None]]


def explain(
    member: Member, examples: Sequence[object], worst: int, target: str | None, sanity_examples: int
) -> Explanation:
    """Explains examples.

    Args:
        member: The run, whose module is changed in place.
        examples: What to explain; the worst mistakes of the hold-out where there is none.
        worst: How many of these.
        target: Name of the class, or number, to explain; the one that is predicted if not given.
        sanity_examples: Held-out examples to make the sanity checks on.

    Raises:
        UserError: If the run cannot be explained, or an example cannot be read.
    """
    require_explainable(member)
    _check_target(member, target)
    missing = _read_data(member)
    if missing is not None and not examples:
        raise UserError(f"the hold-out of {member.name} cannot be read ({missing}): expected --examples")
    chosen = choose_given(member, examples) if examples else choose_worst(member, worst)
    work = _Work(member, scores_of(member), target)
    inputs = inputs_of_rows(member, chosen.split, chosen.rows)
    sampled, of_sample = _sample(work, chosen, inputs, sanity_examples if missing is None else 0)
    sample = sample_of(work.scores, work.parts(sampled), work.targets(work.outcomes(sampled)))
    used, notes = work.choose_methods(sampled, sample.targets)
    targets = work.targets(chosen.outcomes)
    facts: dict[str, Any] = {
        "run": member.name,
        "network": type(work.scores.classifier.network).__name__,
        "problem_type": member.data.problem_type,
        "classes": work.class_names,
        "chosen": "given" if examples else "the highest losses of the hold-out",
        "sanity_on": of_sample,
        "methods": [
            {"name": method.name, "title": method.title, **how, "sanity": check(method, sample, maps)}
            for method, how, maps in used
        ],
        "notes": notes,
        "examples": work.describe(chosen, targets),
    }
    for method, _, _ in used:
        for example, found in zip(facts["examples"], work.attribute(method, inputs, targets), strict=True):
            example["attributions"][method.name] = found
    neighbours = _nearest(work, inputs, missing, facts)
    return Explanation(facts, [work.picture(chosen.split, row) for row in chosen.rows], neighbours)


class _Work:
    """What explaining a run needs over and over."""

    def __init__(self, member: Member, scores: Scores, target: str | None) -> None:
        self.member, self.scores, self.target = member, scores, target
        self.data: Any = member.data
        self.class_names = [str(name) for name in self.data.class_names]
        self.join_pieces = PieceJoiner(self.data.tokenizer) if isinstance(self.data, TextDataModule) else None

    def outcomes(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.scores.classifier.predictions(self.scores.classifier(*inputs))
        return found.cpu()

    def targets(self, outcomes: Tensor) -> Tensor:
        if self.target is not None:
            number = self.class_names.index(self.target)
        elif self.data.problem_type == "regression":
            number = 0
        else:
            return outcomes.argmax(1).to(self.member.device)
        return torch.full((len(outcomes),), number, device=self.member.device)

    def words(self, inputs: Inputs) -> list[Any]:
        assert self.join_pieces is not None
        token_ids, lengths = (tensor.tolist() for tensor in inputs)
        return [self.join_pieces(row[:length]) for row, length in zip(token_ids, lengths, strict=True)]

    def parts(self, inputs: Inputs) -> Parts:
        if self.join_pieces is None:
            return Tiles(*inputs)
        token_ids, lengths = inputs
        return Words(token_ids, lengths, [words.numbers for words in self.words(inputs)], self.data.special_tokens)

    def choose_methods(
        self, inputs: Inputs, targets: Tensor
    ) -> tuple[list[tuple[methods.Method, dict[str, Any], Tensor | None]], list[str]]:
        """Gives each method, what is to be said of it, its attributions if known, and notes on those left out."""
        used: list[tuple[methods.Method, dict[str, Any], Tensor | None]] = []
        notes = []
        if isinstance(self.data, ImageDataModule):
            if (found := methods.grad_cam(self.scores, inputs)) is not None:
                used.append((found, {"layer": found.layer}, None))
            else:
                name = type(self.scores.classifier.network).__name__
                notes.append(
                    f"Grad-CAM is left out: {name} has no feature map of 3 x 3 or more behind its first layers."
                )

        def make(steps: int) -> methods.Method:
            if isinstance(self.data, ImageDataModule):
                return methods.integrated_gradients_of_pixels(steps)
            return methods.integrated_gradients_of_tokens(self.data.special_tokens, steps)

        method, steps, maps = methods.complete_enough(make, self.scores, inputs, targets)
        return [*used, (method, {"steps": steps}, maps)], notes

    def attribute(self, method: methods.Method, inputs: Inputs, targets: Tensor) -> list[dict[str, Any]]:
        """Attributes examples, in plain types: maps of images, words of texts."""
        maps = method.attribute(self.scores, inputs, targets)
        if self.join_pieces is None:
            found: list[dict[str, Any]] = [{"map": _rounded(each)} for each in maps]
        else:
            values = self.parts(inputs).values(maps)
            found = [
                {"words": words.texts, "scores": _rounded(scores)}
                for words, scores in zip(self.words(inputs), values, strict=True)
            ]
        if method.reference is not None:
            sums = methods.completeness(method, maps, self.scores, inputs, targets)
            for each, total, difference in zip(found, sums["sums"], sums["differences"], strict=True):
                each |= {"sum": total, "difference_of_scores": difference}
        return found

    def describe(self, chosen: Chosen, targets: Tensor) -> list[dict[str, Any]]:
        """Says what each example is, what is predicted, and what of it is explained."""
        found = []
        for name, label, row, target in zip(
            chosen.names, chosen.labels, chosen.outcomes.tolist(), targets.tolist(), strict=True
        ):
            outcome = in_words(dict(zip(self.class_names, row, strict=True)), self.data.problem_type)
            words = self.label_words(label)
            found.append(
                {"name": name, "label": words, **outcome, "explained": self.class_names[target], "attributions": {}}
            )
        return found

    def label_words(self, label: Tensor) -> Any:
        """Words a label; None where it is not known."""
        if label.ndim == 0:
            return self.class_names[int(label)] if label >= 0 else None
        named = dict(zip(self.class_names, label.tolist(), strict=True))
        return named if self.data.problem_type == "regression" else [name for name, share in named.items() if share]

    def picture(self, split: Split[Any], row: int) -> np.ndarray | None:
        if self.join_pieces is not None:
            return None
        pixels: np.ndarray = split.inputs[int(row)].permute(1, 2, 0).numpy()
        return pixels


def _check_target(member: Member, target: str | None) -> None:
    names = [str(name) for name in member.data.class_names]
    if target is not None and target not in names:
        meant = did_you_mean(target, names)
        raise UserError(f"--target is {target}: expected one of {', '.join(names)}{meant and f'; {meant}'}")


def _read_data(member: Member) -> str | None:
    """Reads the data set of the run as a validation does; where that fails it says why."""
    try:
        member.data.setup("validate")
    except (UserError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def _sample(work: _Work, chosen: Chosen, inputs: Inputs, count: int) -> tuple[Inputs, str]:
    """Chooses the examples of the sanity checks: held-out ones, or those explained where none can be read."""
    none = inputs, "the examples themselves, as no hold-out can be read"
    if not count:
        return none
    split, rows = work.data.validation_part
    if not len(rows):
        return none
    held_out = rows[evenly_spaced(len(rows), count)]
    return inputs_of_rows(work.member, split, held_out), f"{len(held_out)} examples of the hold-out"


def _nearest(work: _Work, inputs: Inputs, missing: str | None, facts: dict[str, Any]) -> list[list[np.ndarray | None]]:
    """Adds the nearest training examples to the examples, or a note why there are none; gives their pictures."""
    if missing is None and getattr(work.data, "private", False):
        missing = "data.private is true"
    if missing is None:
        split, rows = work.data.training_part
        rows = rows[evenly_spaced(len(rows), _CANDIDATES)]
        loader = work.data.eval_loader(split, rows)
        try:
            candidates = embeddings(work.scores, batches_of_rows(work.member, loader), loader.in_order)
            found, cosines = nearest(embeddings(work.scores, [inputs]), candidates, _NEAREST)
        except UserError as error:
            missing = str(error).partition(":")[0]
    if missing is not None:
        facts["notes"].append(f"The nearest training examples are left out: {missing}.")
        return [[] for _ in facts["examples"]]
    facts["training_examples_compared"] = len(rows)
    pictures = []
    for example, places, similarities in zip(facts["examples"], found.tolist(), cosines.tolist(), strict=True):
        chosen = rows[places]
        example["nearest"] = [
            {"name": str(split.names[row]), "label": work.label_words(split.labels[row]), "cosine": cosine}
            for row, cosine in zip(chosen, similarities, strict=True)
        ]
        if work.join_pieces is not None:
            for entry, words in zip(
                example["nearest"], work.words(inputs_of_rows(work.member, split, chosen)), strict=True
            ):
                more = " …" if len(words.texts) > _WORDS else ""
                entry["text"] = " ".join(words.texts[:_WORDS]) + more
        pictures.append([work.picture(split, row) for row in chosen])
    return pictures


def _rounded(values: Tensor) -> Any:
    """Turns numbers into lists, with four digits."""
    return [_rounded(row) if row.ndim else float(f"{row.item():.4g}") for row in values.cpu()]
