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
from lightning_transfer.dashboards.events import boards_of, has_boards
from lightning_transfer.dashboards.samples import (
    first_batches,
    is_shown,
    label_words,
    shows_validation,
    to_pixels,
    to_tokens,
)
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing, write_text
from lightning_transfer.transfer.shown_groups import first_of_head, own_groups

_COMPONENTS = 32  # principal components that are written for the Projector
_THUMBNAIL = 32  # height and width of a point's picture in pixels
_WORDS = 20  # tokens of a point's text


class Embeddings(L.Callback):
    """Writes the input of the head for a sample of the hold-out to the Projector, before and after the training.

    The points are principal components, computed here; the Projector shows the first three at first. The features
    after the training are gathered in the last validation. Under several processes, the sample comes from the first.

    Args:
        examples: Number of examples in the sample.

    Raises:
        UserError: For fewer than 2 examples.
    """

    def __init__(self, examples: int = 500) -> None:
        if examples < 2:
            raise UserError(f"dashboards.embeddings is {examples}: expected 2 examples or more, or 0 for none")
        self._examples = examples
        self._features: list[Tensor] = []
        self._batches: list[Any] = []
        self._hook: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Computes the features before the training, unless the run resumes."""
        if not has_boards(trainer) or not trainer.enable_validation or trainer.global_step > 0:
            return
        self._features, self._batches = [], []
        batches = first_batches(trainer, self._examples)
        if not batches:
            return
        # Every rank makes as many passes as the first one needs: parameters may be divided over the ranks.
        passes = trainer.strategy.broadcast(len(batches))
        # A user's module may have another forward, or none: a picture must never stop a training.
        with suppress(Exception), evaluating(trainer, pl_module), self._listening(pl_module):
            for index in range(passes):
                batch = batches[min(index, len(batches) - 1)]
                pl_module(*batch.inputs)
                self._batches.append(batch)
        self._write(trainer, pl_module, "before")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins to keep the input of the head."""
        if shows_validation(trainer):
            self._features, self._batches = [], []
            self._hook = self._listening(pl_module)
            self._hook.__enter__()

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
        """Writes the features of the last validation."""
        self._write(trainer, pl_module, "after")

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

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        features, batches = self._features, self._batches
        self._features, self._batches = [], []
        writer = boards_of(trainer)
        if writer is None or not writer.folders or not batches or len(features) != len(batches):
            return
        points = torch.cat(features)[: self._examples].cpu()
        if len(points) < 2 or not points.isfinite().all():
            return
        labels = torch.cat([batch.labels for batch in batches])[: len(points)]
        pictures, texts = None, [""] * len(points)
        if isinstance(batches[0], ImageBatch):
            pictures = to_pixels(trainer, torch.cat([batch.images for batch in batches])[: len(points)])
        else:
            rows = [
                ids[:length]
                for batch in batches
                for ids, length in zip(batch.token_ids.tolist(), batch.lengths.tolist(), strict=True)
            ]
            texts = [" ".join(to_tokens(trainer, ids[:_WORDS])) for ids in rows[: len(points)]]
        metadata = list(zip(label_words(trainer, pl_module, labels), texts, strict=True))
        for folder in writer.folders:
            write_embedding(folder, name, principal_components(points), metadata, pictures)


def principal_components(features: Tensor) -> np.ndarray:
    """Projects features onto their principal components.

    Args:
        features: float [examples, features].

    Returns:
        float32 [examples, components] with 3 to 32 components, the one with the largest variance first.
    """
    centred = features - features.mean(0)
    components = min(_COMPONENTS, *centred.shape)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    points = left[:, :components] * values[:components]
    scores: np.ndarray = torch.nn.functional.pad(points, (0, max(0, 3 - components))).numpy()
    return scores


def write_embedding(
    folder: Path, name: str, points: np.ndarray, metadata: list[tuple[str, str]], pictures: np.ndarray | None
) -> None:
    """Writes the files that the Projector reads, and enters them in the run's ``projector_config.pbtxt``.

    Args:
        folder: Folder of the run.
        name: Name of the embedding; an earlier one of this name is replaced.
        points: float32 [examples, components].
        metadata: Label and text of each example.
        pictures: uint8 [examples, height, width, 3], if there are any.
    """
    lines = ["label\ttext", *("\t".join(" ".join(value.split()) for value in entry) for entry in metadata)]
    with replacing(folder / "projector" / name) as place:
        place.mkdir()
        np.savetxt(place / "points.tsv", points, fmt="%.5g", delimiter="\t")
        (place / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if pictures is not None:
            _sprite(pictures).save(place / "sprite.png", compress_level=1)
    info = EmbeddingInfo(
        tensor_name=name,
        tensor_path=f"projector/{name}/points.tsv",
        metadata_path=f"projector/{name}/metadata.tsv",
    )
    if pictures is not None:
        info.sprite.image_path = f"projector/{name}/sprite.png"
        info.sprite.single_image_dim.extend([_THUMBNAIL, _THUMBNAIL])
    file, config = folder / "projector_config.pbtxt", ProjectorConfig()
    if file.exists():
        text_format.Parse(file.read_text(), config)
    others = [entry for entry in config.embeddings if entry.tensor_name != name]
    write_text(file, text_format.MessageToString(ProjectorConfig(embeddings=[*others, info])))


def _sprite(pictures: np.ndarray) -> Image.Image:
    """Lays out thumbnails in a square grid, as the Projector expects."""
    side = int(np.ceil(np.sqrt(len(pictures))))
    sprite = Image.new("RGB", (side * _THUMBNAIL,) * 2, "white")
    for index, picture in enumerate(pictures):
        place = (index % side * _THUMBNAIL, index // side * _THUMBNAIL)
        sprite.paste(Image.fromarray(picture).resize((_THUMBNAIL, _THUMBNAIL)), place)
    return sprite
