"""Shows what the network is trained on, and what its predictions rest on during the training."""

from contextlib import suppress
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.dashboards.attribution import evaluating, grad_cam, gradient_times_input
from lightning_transfer.dashboards.events import add_data, add_picture, boards_of
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
from lightning_transfer.dashboards.validation_predictions import escaped
from lightning_transfer.data.batches import ImageBatch, TextBatch, TwoViewBatch
from lightning_transfer.lightning_internals import logged_step, rest_hook, wake_hook
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
    """Shows the first training batch as the network sees it: augmented images, two views of each, or tokens."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits for the first batch."""
        wake_hook(self, "on_train_batch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Shows the batch once, at the first step of a run."""
        rest_hook(self, "on_train_batch_start")
        writer = boards_of(trainer) if logged_step(trainer) == 0 and batch_idx == 0 else None
        if writer is not None and isinstance(batch, TwoViewBatch):
            pictures = list(to_pixels(trainer, batch.images[: _TRAINING_PICTURES // 2].flatten(0, 1)))
            captions: list[list[tuple[str, Color]]] = [[], []] * (len(pictures) // 2)
            add_picture(writer, "training/examples", picture_grid(pictures, captions), 0)
        if writer is None or not is_shown(batch):
            return
        words = label_words(trainer, pl_module, batch.labels)
        if isinstance(batch, ImageBatch):
            pictures = list(to_pixels(trainer, batch.images[:_TRAINING_PICTURES]))
            grid = picture_grid(pictures, [[(word, "ink")] for word in words[: len(pictures)]])
            add_picture(writer, "training/examples", grid, 0)
            return
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
    """

    def __init__(self) -> None:
        self._sample: Any = None
        self._step = self._last_step = -1  # of the last validation, and of the last one that was shown
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
        """Shows the sample if a snapshot is due."""
        if self._sample is None or not shows_validation(trainer):
            return
        self._step = logged_step(trainer)
        every = -(-(trainer.max_epochs or 1) // _SNAPSHOTS) if (trainer.max_epochs or -1) > 0 else 1
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.current_epoch % every == 0 or is_last) and self._step != self._last_step:
            self._last_step = self._step
            self._write(trainer, pl_module, self._evidence(trainer, pl_module))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps what the predictions of the best weights so far rest on."""
        is_known = self._best is not None and self._best.step == self._step
        if self._sample is not None and is_best(trainer) and not is_known:
            self._best = self._evidence(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the sample as the best checkpoint sees it, and drops it."""
        if self._best is not None:
            self._write(trainer, pl_module, self._best)
        self._sample, self._last_step, self._best = None, -1, None

    def _evidence(self, trainer: L.Trainer, pl_module: L.LightningModule) -> "_Evidence":
        attribute = grad_cam if isinstance(self._sample, ImageBatch) else gradient_times_input
        scores = logits = torch.empty(0)
        # A user's module may have another forward, or none: a picture must never stop a training.
        with suppress(Exception), evaluating(trainer, pl_module, with_gradients=True):
            inputs = [tensor.clone() for tensor in self._sample.inputs]  # the sample was made in inference mode
            scores, logits = attribute(pl_module, own_groups(pl_module), *inputs)
        return _Evidence(scores.float().cpu(), logits, self._step)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, found: "_Evidence") -> None:
        writer = boards_of(trainer)
        if writer is None or not len(found.scores):
            return
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
