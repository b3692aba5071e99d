"""Shows where a classifier fails on the hold-out: confusion matrix, reliability diagram and top losses."""

from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import Boards, add_data, add_picture, boards_of
from lightning_transfer.dashboards.samples import (
    class_names,
    is_best,
    is_shown,
    join,
    shows_validation,
    take,
    to_pixels,
    to_tokens,
)
from lightning_transfer.data.batches import ImageBatch, are_shares
from lightning_transfer.lightning_internals import logged_step
from lightning_transfer.report.document import escaped
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.report.figures import ConfusionMatrix, Figure, Reliability
from lightning_transfer.report.palette import Color
from lightning_transfer.report.picture_grid import picture_grid

_BINS = 15
_TOP = 24
_WORDS = 60  # tokens that are shown of a text
_MOST_CLASSES = 1000  # a matrix of more classes would take more memory than it is worth


class ValidationPredictions(L.Callback):
    """Gathers the predictions of each validation, and draws those of the best checkpoint when ``fit`` ends.

    Where none was kept, or it was saved before this ``fit`` resumed, those of the last validation are drawn.
    ``validation_step`` must return class probabilities, float [batch, classes], and the batch must have ``labels``.
    Otherwise nothing is drawn. Under several processes, the predictions of all of them count.

    Args:
        budget: Decides which of the pictures are drawn; their data is written in any case. None for no bound.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._tally: _Tally | None = None
        self._step = 0
        self._best: tuple[_Tally, int] | None = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets the previous validation."""
        if shows_validation(trainer):
            self._tally, self._step = None, logged_step(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the predictions for a batch."""
        if not shows_validation(trainer) or dataloader_idx:
            return
        if not _are_class_probabilities(outputs, getattr(batch, "labels", None)):
            return
        with self._budget.counted():
            if self._tally is None:
                self._tally = _Tally(outputs.shape[1], outputs.device)
            self._tally.update(outputs, batch)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the predictions of a validation whose weights are the best so far."""
        if self._tally is not None and is_best(trainer):
            self._best = (self._tally, self._step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the figures."""
        found, step = self._best or (self._tally, self._step)
        self._tally = self._best = None
        with self._budget.counted():
            tallies = _gather(trainer, found)
        tally = _Tally.sum(tallies) if len(tallies) > 1 else next(iter(tallies), None)
        if tally is None:  # on all ranks
            return
        names, writer = class_names(trainer, len(tally.confusion)), boards_of(trainer)
        figures: dict[str, Figure] = {
            "confusion_matrix": ConfusionMatrix(tally.confusion.tolist(), names),
            "reliability": Reliability(*tally.bins.tolist()),
        }
        for name, figure in figures.items():
            with self._budget.drawing(name.replace("_", " ")) as is_drawn:
                if writer is not None:
                    _write_figure(writer, name, figure, step, is_drawn)
        has_pictures = isinstance(tally.examples, ImageBatch)
        with self._budget.drawing("top losses", is_wanted=has_pictures) as is_drawn:
            if writer is not None and tally.examples is not None:
                _write_top_losses(trainer, writer, tally, names, step, is_drawn)


def _write_figure(writer: Boards, name: str, figure: Figure, step: int, is_drawn: bool) -> None:
    """Writes the data of a figure, and the figure itself where it is drawn."""
    add_data(writer, f"validation/{name}_data", asdict(figure), step)
    if is_drawn:
        canvas = PixelCanvas(*figure.size)
        figure.draw(canvas)
        add_picture(writer, f"validation/{name}", canvas.pixels(), step)


def _are_class_probabilities(outputs: Any, labels: Any) -> bool:
    """Says whether both are what their names say; a user's module may return, and call labels, anything."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not 2 <= outputs.shape[1] <= _MOST_CLASSES:
        return False
    if not isinstance(labels, Tensor) or labels.shape != outputs.shape[:1] or labels.dtype != torch.int64:
        return False
    # A diverged network returns nan, which is accepted: this callback does not stop the training.
    are_probabilities = (are_shares(outputs) | outputs.isnan().any(1)).all()
    return bool(are_probabilities & (labels >= 0).all() & (labels < outputs.shape[1]).all())


class _Tally:
    """Holds counts of predictions and the examples with the highest losses, on the device of the predictions."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        # For each bin of confidence: number of predictions, number of right ones, sum of confidences.
        self.bins = torch.zeros(3, _BINS, dtype=torch.float64, device=device)
        self.losses = torch.empty(0, device=device)
        self.probabilities = torch.empty(0, num_classes, device=device)
        self.examples: Any = None

    def update(self, probabilities: Tensor, batch: Any) -> None:
        labels, num_classes = batch.labels, len(self.confusion)
        confidence, predictions = probabilities.max(1)
        pairs = labels * num_classes + predictions
        self.confusion += torch.bincount(pairs, minlength=num_classes**2).view_as(self.confusion)
        places = (confidence.nan_to_num() * _BINS).long().clamp(max=_BINS - 1)
        sums = torch.stack([torch.ones_like(confidence), (predictions == labels).to(confidence), confidence]).double()
        self.bins.index_add_(1, places, sums)
        if is_shown(batch):
            losses = -probabilities.gather(1, labels[:, None])[:, 0].clamp(min=1e-12).log()
            self._keep_highest(losses, probabilities, batch)

    def _keep_highest(self, losses: Tensor, probabilities: Tensor, batch: Any) -> None:
        # The highest of the batch are taken first, so that only a few inputs are copied.
        rows = losses.topk(min(_TOP, len(losses))).indices
        losses = torch.cat([self.losses, losses[rows]])
        probabilities = torch.cat([self.probabilities, probabilities[rows]])
        examples = take(batch, rows) if self.examples is None else join([self.examples, take(batch, rows)])
        rows = losses.topk(min(_TOP, len(losses))).indices
        self.losses, self.probabilities, self.examples = losses[rows], probabilities[rows], take(examples, rows)

    @staticmethod
    def sum(tallies: "list[_Tally]") -> "_Tally":
        total = _Tally(len(tallies[0].confusion), torch.device("cpu"))
        for tally in tallies:
            total.confusion += tally.confusion
            total.bins += tally.bins
            if tally.examples is not None:
                total._keep_highest(tally.losses, tally.probabilities, tally.examples)
        return total

    def cpu(self) -> "_Tally":
        for name, value in vars(self).items():
            setattr(self, name, value.cpu() if isinstance(value, Tensor) else value)
        if self.examples is not None:
            self.examples = type(self.examples)(*(field.cpu() for field in self.examples))
        return self


def _gather(trainer: L.Trainer, tally: _Tally | None) -> list[_Tally]:
    tally = tally.cpu() if tally is not None else None
    gathered: list[_Tally | None] = [tally]
    if trainer.world_size > 1:
        gathered = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, tally)
    return [found for found in gathered if found is not None]


def _write_top_losses(
    trainer: L.Trainer, writer: Boards, tally: _Tally, names: list[str], step: int, is_drawn: bool
) -> None:
    confidences, predictions = (values.tolist() for values in tally.probabilities.max(1))
    entries = [
        {"label": names[label], "prediction": names[prediction], "confidence": confidence, "loss": loss}
        for label, prediction, confidence, loss in zip(
            tally.examples.labels.tolist(), predictions, confidences, tally.losses.tolist(), strict=True
        )
    ]
    if isinstance(tally.examples, ImageBatch):
        captions: list[list[tuple[str, Color]]] = [
            [
                (f"{entry['prediction']} {100 * entry['confidence']:.0f} %", "bad"),
                (f"is {entry['label']}", "ink"),
                (f"loss {entry['loss']:.2f}", "muted"),
            ]
            for entry in entries
        ]
        if is_drawn:
            grid = picture_grid(list(to_pixels(trainer, tally.examples.images)), captions)
            add_picture(writer, "validation/top_losses", grid, step)
    else:
        documents = zip(tally.examples.token_ids.tolist(), tally.examples.lengths.tolist(), strict=True)
        for entry, (token_ids, length) in zip(entries, documents, strict=True):
            words = to_tokens(trainer, token_ids[:length])
            entry["text"] = " ".join(words) if length <= _WORDS else f"{' '.join(words[:_WORDS])} …"
        writer.add_text("validation/top_losses", _markdown(entries), step)
    add_data(writer, "validation/top_losses_data", entries, step)
    writer.add_table("validation/top_losses_table", entries, step)


def _markdown(entries: list[dict[str, Any]]) -> str:
    head = "| label | prediction | confidence | loss | text |\n|---|---|---|---|---|\n"
    lines = [
        f"| {e['label']} | {e['prediction']} | {100 * e['confidence']:.0f} % | {e['loss']:.2f} | {escaped(e['text'])} |"
        for e in entries
    ]
    return head + "\n".join(lines)
