"""Writes what dashboards show beyond Lightning's own metrics, to TensorBoard's event files and to other loggers."""

import contextlib
import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_transfer.report.drawing import png
from lightning_transfer.report.run_files import PLUGIN


@contextlib.contextmanager
def _traces_forgotten() -> Iterator[None]:
    """Has torch drop the classes of the modules that are traced within, which it keeps until the process ends.

    They take 1.4 MiB for a SeedCNN. Where other traced or scripted code lives, nothing is dropped: it would lose its
    methods too. The members of torch are private, and a torch without them keeps the classes.
    """
    state, kept = (getattr(torch.jit, name, None) for name in ("_state", "_recursive"))
    store: Any = getattr(kept, "concrete_type_store", None)
    forget: Any = getattr(torch._C, "_jit_clear_class_registry", None)
    scripted = getattr(state, "_script_classes", True)
    is_alone = not (store is None or forget is None or scripted or store.type_store) and not any(
        issubclass(kind, torch.jit.ScriptModule) for kind in {*map(type, gc.get_objects())}
    )
    try:
        yield
    finally:
        if is_alone:
            forget()
            store.methods_compiled.clear()


class Boards:
    """All loggers of a run, each of which gets what it can show.

    TensorBoard takes everything, and any logger takes scalars. Loggers with the methods of :class:`Media`, such as that
    of Weights & Biases, also take pictures, texts and tables, and so does MLflow's.

    Args:
        loggers: Loggers of the run.

    Attributes:
        folders: Folders of TensorBoard's event files.
        others: The loggers that are not TensorBoard's.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.others = [logger for logger in loggers if not isinstance(logger, TensorBoardLogger)]
        self._media: list[Any] = [_MLflow(it) if isinstance(it, MLFlowLogger) else it for it in self.others]
        self._writers: list[SummaryWriter] = [log.experiment for log in loggers if isinstance(log, TensorBoardLogger)]
        self.folders = [Path(writer.log_dir) for writer in self._writers]

    def add_event(self, event: Event) -> None:
        """Adds an event to each event file."""
        for writer in self._writers:
            writer._get_file_writer().add_event(event)  # type: ignore[no-untyped-call]

    def add_summary(self, summary: Summary, step: int | None = None) -> None:
        """Adds the values of a step to each event file."""
        for writer in self._writers:
            writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]

    def add_custom_scalars(self, layout: dict[str, Any]) -> None:
        """Arranges TensorBoard's charts."""
        for writer in self._writers:
            writer.add_custom_scalars(layout)

    def add_graph(self, module: nn.Module, inputs: Any) -> None:
        """Traces the module once, without tracing it again as a check, and writes its graph for TensorBoard."""
        if not self._writers:
            return
        with _traces_forgotten():
            traced = torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            for writer in self._writers:
                writer.add_graph(traced, inputs)  # which traces no module that is traced
            del traced

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Writes a text in Markdown."""
        for writer in self._writers:
            writer.add_text(tag, text, step)
        for logger in self.taking("log_text"):
            logger.log_text(key=tag, columns=["text"], data=[[text]], step=step)

    def add_table(self, tag: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Writes a table, all of whose rows have the same columns, to the loggers that show tables."""
        for logger in self.taking("log_table") if rows else []:
            logger.log_table(key=tag, columns=list(rows[0]), data=[list(row.values()) for row in rows], step=step)

    def taking(self, method: str) -> "list[Media]":
        """Returns the loggers beside TensorBoard's that have one of the methods of :class:`Media`."""
        return [logger for logger in self._media if hasattr(logger, method)]


class Media(Protocol):
    """Methods that Lightning's logger for Weights & Biases has. Any logger may have some of them."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Logs pictures, uint8 [height, width, 3] each."""

    def log_text(self, key: str, columns: list[str], data: list[list[str]], step: int | None = None) -> None:
        """Logs texts in Markdown as rows."""

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """Logs a table by rows."""


class _MLflow:
    """Gives MLflow's logger the methods of :class:`Media`."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self._client, self._run = logger.experiment, logger.run_id

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        for image in images:
            self._client.log_image(self._run, image, key=key, step=step)

    def log_text(self, key: str, columns: list[str], data: list[list[str]], step: int | None = None) -> None:
        self._client.log_text(self._run, "\n".join(text for row in data for text in row), f"{key}/{step}.md")

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        rows = dict(zip(columns, map(list, zip(*data, strict=True)), strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow's own use of pandas
            self._client.log_table(self._run, rows, f"{key}/{step}.json")


def has_boards(trainer: L.Trainer) -> bool:
    """Says whether the run has a logger for dashboards, TensorBoard's or any other; all ranks agree."""
    return any(not isinstance(logger, DummyLogger) for logger in trainer.loggers)


def boards_of(trainer: L.Trainer) -> Boards | None:
    """Returns the loggers of the run, on rank 0 only; None on other ranks and without a logger."""
    return Boards(trainer.loggers) if trainer.is_global_zero and has_boards(trainer) else None


def add_scalars(writer: Boards, values: Mapping[str, float], step: int) -> None:
    """Writes many scalars. An event file gets them as one event, which costs a fraction of one event each."""
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()]), step)
    for logger in writer.others:
        logger.log_metrics(dict(values), step)


def add_picture(writer: Boards, tag: str, pixels: np.ndarray, step: int) -> None:
    """Writes a picture, uint8 [height, width, 3], in a fifth of the time of TensorBoard's own method."""
    if writer.folders:
        height, width, _ = pixels.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png(pixels))
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    for logger in writer.taking("log_image"):
        logger.log_image(key=tag, images=[pixels], step=step)


def add_data(writer: Boards, tag: str, data: Any, step: int) -> None:
    """Writes plain types into event files for the report to read; see :data:`PLUGIN`."""
    tensor = TensorProto(dtype=DT_STRING, string_val=[json.dumps(data).encode()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN))
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]), step)


class SessionStart(L.Callback):
    """Hides what an earlier fit in the same folder wrote at the steps that are still to come.

    Without this, a resumed run would show twice what follows its checkpoint. A run that starts again from the
    beginning would show all of its curves twice.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells readers of the event files to drop events of earlier files at this step and later.

        Every fit writes this mark: TensorBoard takes the first one in a folder as its beginning, and drops nothing.
        """
        writer = boards_of(trainer)
        if writer is not None:
            log = SessionLog(status=SessionLog.START)
            # logged_step would be wrong here: in a checkpoint from mid-epoch it does not count the last step yet.
            writer.add_event(Event(step=trainer.global_step, session_log=log))
