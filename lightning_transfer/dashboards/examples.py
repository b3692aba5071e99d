"""Shows what the network is trained on, and what its predictions rest on during the training."""

from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.dashboards.attribution import evaluating, grad_cam, gradient_times_input
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import Boards, add_data, add_picture, boards_of
from lightning_transfer.dashboards.samples import (
    class_names,
    is_best,
    is_shown,
    label_words,
    shows_validation,
    take,
    to_pixels,
    to_tokens,
)
from lightning_transfer.data.batches import ImageBatch, TextBatch, TwoViewBatch
from lightning_transfer.lightning_internals import logged_step, rest_hook, wake_hook
from lightning_transfer.report.document import escaped
from lightning_transfer.report.palette import Color
from lightning_transfer.report.picture_grid import picture_grid
from lightning_transfer.transfer.shown_groups import own_groups

_TRAINING_PICTURES = 32
_TRAINING_TEXTS = 8
_TOKENS = 80  # tokens that are shown of a text
_PICTURES = 8  # pictures with Grad-CAM: one row of pictures, one row of overlays
_TEXTS = 6
_ATTENDED = 8  # number of tokens that are named as most and as least attended
_SNAPSHOTS = 10  # snapshots of a training: TensorBoard keeps as many


class TrainingExamples(L.Callback):
    """Shows the first training batch as the network sees it: augmented images, two views of each, or tokens.

    Args:
        budget: Decides when images are drawn: at the first step, after an epoch or at the end.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._images: Tensor | None = None  # [pictures, channels, height, width], until they are drawn
        self._captions: list[list[tuple[str, Color]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits for the first batch."""
        self._images = None
        wake_hook(self, "on_train_batch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first examples of a run."""
        rest_hook(self, "on_train_batch_start")
        if logged_step(trainer) > 0 or batch_idx > 0:
            return
        with self._budget.counted():
            if isinstance(batch, TwoViewBatch):
                self._images = batch.images[: _TRAINING_PICTURES // 2].flatten(0, 1).clone()
                self._captions = [[]] * len(self._images)
            elif isinstance(batch, ImageBatch):
                self._images = batch.images[:_TRAINING_PICTURES].clone()
                words = label_words(trainer, pl_module, batch.labels)
                self._captions = [[(word, "ink")] for word in words[: len(self._images)]]
            elif isinstance(batch, TextBatch):
                self._write_texts(trainer, pl_module, batch)
        self._draw(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the images if that was put off."""
        self._draw(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the images if that was put off until now."""
        self._draw(trainer)
        self._images = None

    def _draw(self, trainer: L.Trainer) -> None:
        if self._images is None:
            return
        writer = boards_of(trainer)
        with self._budget.drawing("training examples") as is_drawn:
            if is_drawn and writer is not None:
                grid = picture_grid(list(to_pixels(trainer, self._images)), self._captions)
                add_picture(writer, "training/examples", grid, 0)
        if is_drawn:
            self._images = None

    def _write_texts(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: TextBatch) -> None:
        writer = boards_of(trainer)
        if writer is None:
            return
        words = label_words(trainer, pl_module, batch.labels)
        lines = ["| label | tokens | text, one · between tokens |", "|---|---|---|"]
        for row in range(min(_TRAINING_TEXTS, len(words))):
            length = int(batch.lengths[row])
            tokens = " · ".join(map(escaped, to_tokens(trainer, batch.token_ids[row, : min(length, _TOKENS)].tolist())))
            lines.append(f"| {escaped(words[row])} | {length} | {tokens}{' …' if length > _TOKENS else ''} |")
        writer.add_text("training/examples", "\n".join(lines), 0)


class Attributions(L.Callback):
    """Shows, ten times in a training and of the best checkpoint, what predictions for a fixed sample rest on.

    The sample is of the hold-out, and the best checkpoint comes last.
    Images get Grad-CAM overlays if the network has feature maps. Texts get their most and least attended tokens by
    gradient x input. Examples are left out unless each has exactly one class.

    Args:
        budget: Puts what cannot be afforded off to a later validation, at the latest to the end.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._sample: Any = None
        self._step = self._last_step = -1  # of the last validation, and of the last one that was shown
        self._validated = -1  # optimizer steps at the last validation
        self._is_due = False
        self._recent: _Evidence | None = None
        self._best: _Evidence | None = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first examples of the hold-out."""
        if not is_shown(batch) or batch.labels.ndim != 1:
            return
        if self._sample is None and shows_validation(trainer):
            count = min(len(batch.labels), _PICTURES if isinstance(batch, ImageBatch) else _TEXTS)
            # The rows are spread evenly over the batch, because it may be sorted by length.
            rows = torch.linspace(0, len(batch.labels) - 1, count, device=batch.labels.device).long()
            self._sample = take(batch, rows)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the sample if a snapshot is due, or was put off."""
        if not shows_validation(trainer):
            return
        self._step, self._validated = logged_step(trainer), trainer.global_step
        every = -(-(trainer.max_epochs or 1) // _SNAPSHOTS) if (trainer.max_epochs or -1) > 0 else 1
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        self._is_due |= trainer.current_epoch % every == 0 or is_last
        if self._is_due and self._step != self._last_step:
            with self._drawing() as is_drawn:
                if is_drawn:
                    self._is_due = False
                    self._show(trainer, pl_module, self._evidence(trainer, pl_module))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps what the predictions of the best weights so far rest on, or nothing where that is not afforded."""
        is_known = self._best is not None and self._best.step == self._step
        if not shows_validation(trainer) or not is_best(trainer) or is_known:
            return
        self._best = self._recent if self._recent is not None and self._recent.step == self._step else None
        if self._best is None:
            with self._drawing() as is_drawn:
                self._best = self._evidence(trainer, pl_module) if is_drawn else None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the sample as the best checkpoint sees it, else the last weights if that was put off; and drops it."""
        is_of_last = self._best is None and self._validated == trainer.global_step
        step = self._step if is_of_last else self._best.step if self._best is not None else self._last_step
        if step != self._last_step:
            with self._drawing(is_known=not is_of_last) as is_drawn:
                if is_drawn:
                    self._show(trainer, pl_module, self._best or self._evidence(trainer, pl_module))
        self._sample = self._recent = self._best = None
        self._step = self._last_step = self._validated = -1
        self._is_due = False

    def _drawing(self, is_known: bool = False) -> AbstractContextManager[bool]:
        """Asks to draw what is known, or has to be computed."""
        examples = 0 if is_known or self._sample is None else len(self._sample.labels)
        kind = "Grad-CAM" if isinstance(self._sample, ImageBatch) else "tokens that predictions rest on"
        return self._budget.drawing(kind, examples, is_wanted=self._sample is not None)

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule, found: "_Evidence") -> None:
        self._last_step = found.step
        writer = boards_of(trainer)
        if writer is not None and len(found.scores):
            self._write(trainer, pl_module, writer, found)

    def _evidence(self, trainer: L.Trainer, pl_module: L.LightningModule) -> "_Evidence":
        scores = logits = torch.empty(0)
        if self._sample is not None:
            attribute = grad_cam if isinstance(self._sample, ImageBatch) else gradient_times_input
            # A user's module may have another forward, or none: a picture must never stop a training.
            with (
                self._budget.passing(len(self._sample.labels)),
                suppress(Exception),
                evaluating(trainer, pl_module, with_gradients=True),
            ):
                inputs = [tensor.clone() for tensor in self._sample.inputs]  # the sample was made in inference mode
                scores, logits = attribute(pl_module, own_groups(pl_module), *inputs)
        self._recent = _Evidence(scores.float().cpu(), logits, self._step)
        return self._recent

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, writer: Boards, found: "_Evidence") -> None:
        logits = found.logits
        names = class_names(trainer, getattr(pl_module, "num_classes", logits.shape[1]))
        if logits.shape[1] not in (1, len(names)):  # the features of a network that learns without labels
            return
        predictions = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        captions: list[list[tuple[str, Color]]] = [
            [(names[prediction], "good" if prediction == label else "bad"), (f"is {names[label]}", "muted")]
            for prediction, label in zip(predictions.tolist(), self._sample.labels.tolist(), strict=True)
        ]
        if isinstance(self._sample, ImageBatch):
            pictures = to_pixels(trainer, self._sample.images)
            overlays = _overlay(torch.from_numpy(pictures.copy()), found.scores).numpy()
            both: list[list[tuple[str, Color]]] = [*([] for _ in pictures), *captions]
            grid = picture_grid([*pictures, *overlays], both)
            add_picture(writer, "attribution/grad_cam", grid, found.step)
        else:
            entries = _attended(trainer, self._sample, found.scores, [c[0][0] for c in captions], names)
            writer.add_text("attribution/tokens", _markdown(entries), found.step)
            add_data(writer, "attribution/tokens_data", entries, found.step)


class _Evidence(NamedTuple):
    """What predictions rest on: scores [batch, ...] on the CPU, the logits, float [batch, classes], and the step."""

    scores: Tensor
    logits: Tensor
    step: int


def _overlay(pictures: Tensor, maps: Tensor) -> Tensor:
    """Colours pictures, uint8 [batch, height, width, 3], by maps, float [batch, height, width], from blue to red."""
    gray = pictures.float().mean(3, keepdim=True)
    value = maps[..., None]
    # Three triangles make the colour map "jet", which readers of Grad-CAM know.
    heat = torch.cat([1.5 - (4 * value - peak).abs() for peak in (3, 2, 1)], 3).clamp(0, 1) * 255
    return (0.55 * gray + 0.45 * heat).byte()


def _attended(
    trainer: L.Trainer, sample: TextBatch, scores: Tensor, predictions: list[str], names: list[str]
) -> list[dict[str, Any]]:
    entries = []
    for row, prediction in enumerate(predictions):
        length = int(sample.lengths[row])
        values = (scores[row, :length] / scores[row, :length].abs().max().clamp(min=1e-12)).tolist()
        tokens = to_tokens(trainer, sample.token_ids[row, :length].tolist())
        entries.append(
            {
                "label": names[int(sample.labels[row])],
                "prediction": prediction,
                "tokens": tokens,
                "scores": [round(v, 3) for v in values],
            }
        )
    return entries


def _markdown(entries: list[dict[str, Any]]) -> str:
    lines = [
        "| label | prediction | most for the prediction | most against it | least attended | text |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        order = sorted(range(len(entry["tokens"])), key=lambda place: -entry["scores"][place])
        words, values = [escaped(token) for token in entry["tokens"]], entry["scores"]
        least = sorted(order, key=lambda place: abs(values[place]))[:_ATTENDED]
        top, bottom = order[:_ATTENDED], [place for place in reversed(order) if values[place] < 0][:_ATTENDED]
        marked = {place for place in (*top, *bottom) if abs(values[place]) > 0.2}
        text = " ".join(f"**{word}**" if place in marked else word for place, word in enumerate(words[:_TOKENS]))
        columns = [", ".join(f"{words[p]} {values[p]:+.2f}" for p in places) for places in (top, bottom, least)]
        lines.append(f"| {entry['label']} | {entry['prediction']} | {' | '.join(columns)} | {text} |")
    return "\n".join(lines)
