"""TensorBoard's event files: what the dashboards write there beyond Lightning's own metrics."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from torch.utils.tensorboard import SummaryWriter

from lightning_transfer.report.drawing import png
from lightning_transfer.report.run_files import PLUGIN


class EventFile(Protocol):
    """The part of ``torch.utils.tensorboard.FileWriter`` that is used here."""

    def add_event(self, event: Event) -> None:
        """Adds an event."""

    def add_summary(self, summary: Summary, global_step: int | None = None) -> None:
        """Adds values at a step."""


def has_tensorboard(trainer: L.Trainer) -> bool:
    """Whether the run writes event files; the same answer on all ranks."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def summary_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """The writer of the run's event file: on rank 0 only, and only if there is a TensorBoard logger."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def event_file(writer: SummaryWriter) -> EventFile:
    """The event file behind a writer."""
    file: EventFile = writer._get_file_writer()  # type: ignore[no-untyped-call]
    return file


def add_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Writes many scalars as one event, which costs a fraction of one event for each."""
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    event_file(writer).add_summary(summary, step)


def add_picture(writer: SummaryWriter, tag: str, pixels: np.ndarray, step: int) -> None:
    """Writes a picture, uint8 [height, width, 3]; encoded fast, for a fifth of the time of the writer's own method."""
    image = Summary.Image(height=pixels.shape[0], width=pixels.shape[1], colorspace=3, encoded_image_string=png(pixels))
    event_file(writer).add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def add_data(writer: SummaryWriter, tag: str, data: Any, step: int) -> None:
    """Writes plain types for the report to read; see :data:`PLUGIN`."""
    tensor = TensorProto(dtype=DT_STRING, string_val=[json.dumps(data).encode()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN))
    event_file(writer).add_summary(Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]), step)


class SessionStart(L.Callback):
    """Takes back what an earlier fit in the same folder wrote at the steps that are still to come.

    Without this, the curves after the checkpoint that a run goes on from would show twice, and those of a run that is
    started again from the beginning as well.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells readers of the event files to drop events at this step and later from files before.

        In every fit: TensorBoard takes the first such mark of a folder for its beginning, and drops nothing there.
        """
        writer = summary_writer(trainer)
        if writer is not None:
            log = SessionLog(status=SessionLog.START)
            # Not logged_step: in a checkpoint from mid-epoch it does not count the last step yet.
            event_file(writer).add_event(Event(step=trainer.global_step, session_log=log))
