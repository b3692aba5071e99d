"""Shows the features of a sample of the hold-out in TensorBoard's Projector, before and after the training."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig
from torch import Tensor, nn

from lightning_transfer.dashboards.attribution import evaluating
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import boards_of, has_boards
from lightning_transfer.dashboards.samples import (
    first_batches,
    is_shown,
    join,
    label_words,
    shows_validation,
    take,
    to_pixels,
    to_tokens,
    trimmed,
)
from lightning_transfer.dashboards.starting_weights import StartingWeights
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing, write_text
from lightning_transfer.lightning_internals import divides_weights
from lightning_transfer.report.drawing import png
from lightning_transfer.transfer.shown_groups import first_of_head, own_groups

_COMPONENTS = 32  # principal components that are written for the Projector
_THUMBNAIL = 32  # height and width of a point's picture in pixels
_WORDS = 20  # tokens of a point's text
_POINT_SECONDS = 0.0005  # to write a point with its picture, before and after


class Embeddings(L.Callback):
    """Writes the input of the head for a sample of the hold-out to the Projector, before and after the training.

    The points are principal components, computed here; the Projector shows the first three at first. The features
    after the training are gathered in the last validation. Those before it are computed at the end, with the weights of
    the start, on as many of these examples as can be afforded. Under several processes, the sample comes from the
    first. Where the weights are divided over ranks, the features before are computed at the start, whatever that costs.

    Args:
        examples: Number of examples in the sample.
        start: Keeps the weights of the start.
        budget: Decides on how many examples are shown.

    Raises:
        UserError: For fewer than 2 examples.
    """

    def __init__(self, examples: int, start: StartingWeights, budget: Budget) -> None:
        if examples < 2:
            raise UserError(f"dashboards.embeddings is {examples}: expected 2 examples or more, or 0 for none")
        self._examples, self._start, self._budget = examples, start, budget
        self._features: list[Tensor] = []
        self._batches: list[Any] = []
        self._hook: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Computes the features before the training where they cannot be computed later, unless the run resumes."""
        self._features, self._batches = [], []
        if divides_weights(trainer) and has_boards(trainer) and trainer.global_step == 0:
            with self._budget.counted():
                self._write_start(trainer, pl_module)

    def _write_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batches = first_batches(trainer, self._examples)
        if not batches:
            return
        # Every rank makes as many passes as the first one needs.
        passes = trainer.strategy.broadcast(len(batches))
        # A user's module may have another forward, or none: a picture must never stop a training.
        with suppress(Exception), evaluating(trainer, pl_module), self._listening(pl_module):
            for index in range(passes):
                batch = batches[min(index, len(batches) - 1)]
                pl_module(*batch.inputs)
                self._batches.append(batch)
        if self._features and len(self._features) == len(self._batches):
            examples, features = self._kept()
            self._write(trainer, pl_module, examples, {"before": features})
        self._features, self._batches = [], []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins to keep the input of the head."""
        if shows_validation(trainer):
            self._features, self._batches = [], []
            self._hook = self._listening(pl_module)
            self._hook.__enter__()

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Forgets passes that were none of a batch, such as those over training examples before the first."""
        del self._features[len(self._batches) :]

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops keeping the input of the head once there are enough examples."""
        if self._hook is None:
            return
        if is_shown(batch) and len(self._features) == len(self._batches) + 1:
            self._batches.append(batch)
        if not is_shown(batch) or sum(len(one.labels) for one in self._batches) >= self._examples:
            self._stop()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops keeping the input of the head, before other callbacks run the network on their examples."""
        self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the features of the last validation, and those of the same examples at the start."""
        is_known = bool(self._batches) and len(self._features) == len(self._batches)
        with self._budget.drawing("embeddings", is_wanted=is_known) as is_drawn:
            if is_drawn and is_known and trainer.is_global_zero:
                examples, after = self._kept()
                count = self._budget.affordable(len(after), 0, _POINT_SECONDS)
                examples, after = take(examples, slice(count)), after[:count]
                before = self._at_start(trainer, pl_module, examples)
                self._write(trainer, pl_module, examples, {"before": before, "after": after})
                if self._start.are_known and len(before) < len(after):
                    self._budget.leave_out(f"{len(after) - len(before)} of {len(after)} embeddings of the start")
        self._features, self._batches = [], []

    def _kept(self) -> tuple[Any, Tensor]:
        """Returns the examples and their features, float [examples, features], and keeps them no longer."""
        examples, features = join(self._batches), torch.cat(self._features)
        self._features, self._batches = [], []
        return take(examples, slice(self._examples)), features[: self._examples]

    def _at_start(self, trainer: L.Trainer, pl_module: L.LightningModule, examples: Any) -> Tensor:
        """Computes the features of the start for as many examples as can be afforded, float [examples, features]."""
        # A user's module may have another forward, or none: a picture must never stop a training.
        with suppress(Exception), evaluating(trainer, pl_module), self._listening(pl_module):
            for rows in self._budget.pieces(len(examples.labels) * self._start.are_known):
                piece = trimmed(take(examples, rows))
                self._start.run(pl_module, tuple(tensor.clone() for tensor in piece.inputs))
                self._batches.append(piece)
        found, self._features, self._batches = self._features, [], []
        return torch.cat(found) if found else torch.empty(0, 0)

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.__exit__(None, None, None)
            self._hook = None

    @contextmanager
    def _listening(self, pl_module: L.LightningModule) -> Iterator[None]:
        """Keeps the input of the first module of the last layer group at each pass, if there is a layer group."""
        first = first_of_head(own_groups(pl_module))
        if first is None:
            yield
            return

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # A network with several views of a batch calls its head for each view. The first is the batch itself.
            if len(self._features) == len(self._batches):
                self._features.append(inputs[0].detach().flatten(1).float())

        hook = first.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def _write(
        self, trainer: L.Trainer, pl_module: L.LightningModule, examples: Any, features: dict[str, Tensor]
    ) -> None:
        """Writes features by name, float [examples, features] each, of the first of the examples."""
        writer = boards_of(trainer)
        if writer is None or not writer.folders or len(examples.labels) < 2:
            return
        sprite, texts = None, [""] * len(examples.labels)
        if isinstance(examples, ImageBatch):
            sprite = _sprite(to_pixels(trainer, examples.images))
        else:
            rows = zip(examples.token_ids.tolist(), examples.lengths.tolist(), strict=True)
            texts = [" ".join(to_tokens(trainer, ids[:length][:_WORDS])) for ids, length in rows]
        metadata = list(zip(label_words(trainer, pl_module, examples.labels), texts, strict=True))
        for name, found in features.items():
            if len(found) >= 2 and found.isfinite().all():
                points = principal_components(found.cpu())
                for folder in writer.folders:
                    write_embedding(folder, name, points, metadata[: len(points)], sprite)


def principal_components(features: Tensor) -> np.ndarray:
    """Projects features onto their principal components.

    Args:
        features: float [examples, features].

    Returns:
        float32 [examples, components] with 3 to 32 components, the one with the largest variance first.
    """
    centred = features - features.mean(0)
    components = min(_COMPONENTS, *centred.shape)
    # The smaller of two matrices has the components too, in a quarter of the time of singular values.
    is_wide = centred.shape[1] > centred.shape[0]
    values, vectors = torch.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    values, vectors = values[-components:].flip(0), vectors[:, -components:].flip(1)
    points = vectors * values.clamp(min=0).sqrt() if is_wide else centred @ vectors
    scores: np.ndarray = torch.nn.functional.pad(points, (0, max(0, 3 - components))).numpy()
    return scores


def write_embedding(
    folder: Path, name: str, points: np.ndarray, metadata: list[tuple[str, str]], sprite: bytes | None
) -> None:
    """Writes the files that the Projector reads, and enters them in the run's ``projector_config.pbtxt``.

    Args:
        folder: Folder of the run.
        name: Name of the embedding; an earlier one of this name is replaced.
        points: float32 [examples, components].
        metadata: Label and text of each example.
        sprite: The pictures of the examples as one PNG, if there are any; it may have more.
    """
    lines = ["label\ttext", *("\t".join(" ".join(value.split()) for value in entry) for entry in metadata)]
    with replacing(folder / "projector" / name) as place:
        place.mkdir()
        np.savetxt(place / "points.tsv", points, fmt="%.5g", delimiter="\t")
        (place / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if sprite is not None:
            (place / "sprite.png").write_bytes(sprite)
    info = EmbeddingInfo(
        tensor_name=name,
        tensor_path=f"projector/{name}/points.tsv",
        metadata_path=f"projector/{name}/metadata.tsv",
    )
    if sprite is not None:
        info.sprite.image_path = f"projector/{name}/sprite.png"
        info.sprite.single_image_dim.extend([_THUMBNAIL, _THUMBNAIL])
    file, config = folder / "projector_config.pbtxt", ProjectorConfig()
    if file.exists():
        text_format.Parse(file.read_text(), config)
    others = [entry for entry in config.embeddings if entry.tensor_name != name]
    write_text(file, text_format.MessageToString(ProjectorConfig(embeddings=[*others, info])))


def _sprite(pictures: np.ndarray) -> bytes:
    """Lays out thumbnails in a square grid, as the Projector expects; a PNG.

    Args:
        pictures: uint8 [examples, height, width, 3].
    """
    side = int(np.ceil(np.sqrt(len(pictures))))
    sprite = Image.new("RGB", (side * _THUMBNAIL,) * 2, "white")
    for index, picture in enumerate(pictures):
        place = (index % side * _THUMBNAIL, index // side * _THUMBNAIL)
        sprite.paste(Image.fromarray(picture).resize((_THUMBNAIL, _THUMBNAIL)), place)
    return png(np.asarray(sprite))
