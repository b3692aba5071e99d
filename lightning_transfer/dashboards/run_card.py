"""Describes a run by its row in the HParams tab, a card of text, and the graph of the model."""

import contextlib
import io
import shlex
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.tensorboard.summary import hparams

from lightning_transfer.dashboards.attribution import evaluating
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import Boards, add_data, boards_of
from lightning_transfer.dashboards.samples import is_shown
from lightning_transfer.lightning_internals import logged_step, rest_hook, wake_hook
from lightning_transfer.run.record import source_commit, versions
from lightning_transfer.transfer.shown_groups import unfreezing_of

# All runs have the same columns in the HParams tab: TensorBoard takes the columns of any one run for all.
FIRST_COLUMNS = ("strategy", "seed", "training examples", "learning rate")
METRICS = ("test/accuracy", "test/loss", "val/accuracy", "val/loss", "train/loss", "speed/examples_per_second")
_GRAPH_SECONDS, _MODULE_SECONDS = 0.1, 0.0035  # to trace a model and write its graph, and for each of its modules


class RunCard(L.Callback):
    """Enters a run with its last metrics in the HParams tab, and writes a card in the Text tab.

    The card has the commands that repeat the run, versions, the plan of the unfreezing phases and the configuration.

    Args:
        hyperparameters: Settings that differ between runs; see :func:`hyperparameters_of`.
        configuration: The whole configuration as YAML.
        command: The command that repeats the run, if there is one.
        anew: The flags that make the saved configuration repeat the run, if that configuration names the run.
        budget: Counts the seconds of writing; None where nobody asks.
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, str | float | None] | None = None,
        configuration: str = "",
        command: str | None = None,
        anew: Sequence[str] = (),
        budget: Budget | None = None,
    ) -> None:
        self.hyperparameters = dict(hyperparameters or {})
        self.configuration = configuration
        self.command = command
        self.anew = list(anew)
        self._budget = budget or Budget()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enters the run in the HParams tab, so that a run that is killed later is there too."""
        wake_hook(self, "on_train_batch_end")
        writer = boards_of(trainer)
        if writer is not None:
            with self._budget.counted():
                self._enter(trainer, pl_module, writer)

    def _enter(self, trainer: L.Trainer, pl_module: L.LightningModule, writer: Boards) -> None:
        facts: Mapping[str, Any] = getattr(getattr(trainer, "datamodule", None), "facts", {})
        values = {"network": type(pl_module).__name__, **self.hyperparameters}
        values["training examples"] = facts.get("train_examples")
        values["parameters"] = sum(parameter.numel() for parameter in pl_module.parameters())
        shown = {name: "" if value is None else value for name, value in values.items()}
        columns, start, self._end = hparams(shown, dict.fromkeys(METRICS, 0.0))  # type: ignore[no-untyped-call]
        writer.add_summary(_show_first(columns))
        writer.add_summary(start)
        add_data(writer, "run/hyperparameters", shown, logged_step(trainer))
        add_data(writer, "run/facts", dict(facts), logged_step(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the card after the first step, when the plan of the phases is known."""
        rest_hook(self, "on_train_batch_end")
        writer = boards_of(trainer)
        if writer is not None:
            with self._budget.counted():
                unfreezing = unfreezing_of(trainer)
                card = {"commands": self._commands(trainer), "versions": versions(), "commit": source_commit()}
                card |= {"plan": unfreezing.plan_text if unfreezing else "", "configuration": self.configuration}
                writer.add_text("run/card", _markdown(card), logged_step(trainer))
                add_data(writer, "run/card_data", card, logged_step(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enters that the run has ended."""
        writer = boards_of(trainer)
        if writer is not None:
            writer.add_summary(self._end)

    def _commands(self, trainer: L.Trainer) -> list[str]:
        given = [self.command] if self.command else []
        if folder := getattr(trainer, "run_folder", None):  # not log_dir: all ranks would have to ask for it
            given.append(shlex.join(["lightning-transfer", "fit", "--config", f"{folder}/config.yaml", *self.anew]))
        return given


class ModelGraph(L.Callback):
    """Writes the graph of the model, traced with the first training example.

    There is no graph if the model cannot be traced. There is none either if its parameters are divided over the
    ranks, because only the first rank traces.

    Args:
        budget: Decides when the model is traced: at the first step, after an epoch or at the end.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._inputs: tuple[Tensor, ...] | None = None  # until it is traced

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits for the first batch."""
        self._inputs = None
        wake_hook(self, "on_train_batch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps an example of the first step."""
        rest_hook(self, "on_train_batch_start")
        is_first = logged_step(trainer) == 0 and batch_idx == 0
        is_whole = not any(isinstance(module, FSDPModule) for module in pl_module.modules())
        if is_first and is_shown(batch) and is_whole:
            self._inputs = tuple(tensor[:1].clone() for tensor in batch.inputs)
            self._trace(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Traces if that was put off."""
        self._trace(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Traces if that was put off until now."""
        self._trace(trainer, pl_module)
        self._inputs = None

    def _trace(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._inputs is None:
            return
        inputs, writer = self._inputs, boards_of(trainer)
        seconds = _GRAPH_SECONDS + _MODULE_SECONDS * sum(1 for _ in pl_module.modules())
        with self._budget.drawing("graph", 1, seconds) as is_drawn:
            if not is_drawn:
                return
            self._inputs = None
            if writer is not None:
                self._write(trainer, pl_module, writer, inputs)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, writer: Boards, inputs: Any) -> None:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), evaluating(trainer, pl_module):
            warnings.simplefilter("ignore")  # tracing warns that branches are not followed, and that it is deprecated
            with contextlib.suppress(Exception):  # a picture must never stop a training
                writer.add_graph(pl_module, inputs)


def hyperparameters_of(config: Mapping[str, Any]) -> dict[str, str | float | None]:
    """Picks the settings that differ between runs out of a configuration.

    Args:
        config: The configuration of ``fit`` as plain types.

    Returns:
        Plain types by name: strategy of fine-tuning, seed, data, network, optimizer and similar settings.
    """
    data, model, trainer = (config.get(name) or {} for name in ("data", "model", "trainer"))
    data_settings, model_settings = data.get("init_args") or {}, model.get("init_args") or {}
    optimizer = model_settings.get("optimizer") or {}
    return {
        "experiment": config.get("experiment"),
        "strategy": strategy_of(config),
        "seed": config.get("seed_everything"),
        "data": _last_part(data.get("class_path")),
        "network": _last_part((model_settings.get("network") or {}).get("class_path")),
        "optimizer": _last_part(optimizer.get("class_path")),
        "learning rate": (optimizer.get("init_args") or {}).get("lr"),
        "batch size": data_settings.get("batch_size"),
        "epochs": trainer.get("max_epochs"),
    }


def strategy_of(config: Mapping[str, Any]) -> str:
    """Names the strategy of fine-tuning as the files in ``configs/strategies`` do; see :func:`hyperparameters_of`."""
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    settings = [
        callback.get("init_args") or {}
        for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
        if str(callback.get("class_path")).endswith("ProgressiveUnfreezing")
    ]
    if not config.get("init_from") and not settings:
        return "scratch"
    schedule = "full"
    if settings:
        schedule = "phases" if settings[0].get("phases") else settings[0].get("schedule") or "gradual"
    model_settings = (config.get("model") or {}).get("init_args") or {}
    decays = (model_settings.get("lr_decay") or 1) != 1 or any(one.get("lr_decay") for one in settings)
    return f"{schedule}_discriminative" if decays else schedule


def _show_first(columns: Any) -> Any:
    """Marks some columns as differing between runs: TensorBoard shows only such columns at first."""
    [value] = columns.value
    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    for column in data.experiment.hparam_infos:
        column.differs = column.name in FIRST_COLUMNS
    value.metadata.plugin_data.content = data.SerializeToString()
    return columns


def _last_part(class_path: Any) -> str | None:
    return str(class_path).rpartition(".")[2] if class_path else None


def _markdown(card: Mapping[str, Any]) -> str:
    parts = ["### To repeat", *(f"    {command}" for command in card["commands"])]
    used = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    parts += ["", f"commit {card['commit'] or 'unknown'}; {used}", ""]
    for title in ("plan", "configuration"):
        if card[title]:
            parts += [f"### {title.capitalize()}", *(f"    {line}" for line in card[title].splitlines()), ""]
    return "\n".join(parts)
