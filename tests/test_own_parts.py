"""Modules and data of someone who knows Lightning and not this package, on the command line."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from conftest import fit_arguments
from lightning.pytorch.callbacks import BackboneFinetuning
from test_cli import error_line
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_transfer import ProgressiveUnfreezing, load_starting_weights
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.training_curves import TrainingScalars
from lightning_transfer.data.batches import are_shares
from lightning_transfer.report.run_files import read_run

HERE = "test_own_parts"
SMALL = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.enable_model_summary", "false"]
MONITOR = ["--checkpoint.monitor", "val_loss", "--checkpoint.mode", "min"]
RUN = Path("logs/default/run")


class Batch(NamedTuple):
    inputs: tuple[Tensor]
    labels: Tensor


class Own(L.LightningModule):
    """Metrics have names of their own, and dropout draws from the global generator."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 3)
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("test_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, self.lr)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def _loss(self, batch: Any) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self(inputs[0] if isinstance(batch, Batch) else inputs), labels)


class WithoutTypes(nn.Module):
    """A network whose arguments have neither a type nor a default."""

    def __init__(self, num_classes, width):  # type: ignore[no-untyped-def]
        super().__init__()
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(images.flatten(1)[:, : self.head.in_features])
        return found


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        rows = TensorDataset(torch.randn(24, 4, generator=generator), torch.arange(24) % 3)
        return DataLoader(rows, batch_size=4, shuffle=True)

    val_dataloader = train_dataloader


class TwoTests(Data):
    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self.train_dataloader(), self.train_dataloader()]


class NamedBatches(Data):
    """Batches with ``labels``, as the dashboards look for."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([Batch((torch.randn(4, 4),), torch.arange(4) % 3)] * 6, batch_size=None)

    val_dataloader = train_dataloader


class Odd(Own):
    """Returns from ``validation_step`` whatever a module might."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        logits = self(batch.inputs[0])
        return {"logits": logits, "column": logits[:, :1].sigmoid(), "integers": logits.argmax(1, keepdim=True)}[
            self.kind
        ]


class OnlyParameter(L.LightningModule):
    """Has no submodule, and means something else by ``layer_groups``."""

    layer_groups = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return ((batch[0] @ self.weight) - 1).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class OwnCallbacks(Own):
    """Brings its callbacks along, and no optimizer."""

    def configure_callbacks(self) -> L.Callback:
        return ProgressiveUnfreezing(["backbone", "head"])

    def configure_optimizers(self) -> None:  # type: ignore[override]
        return None


class Lazy(Own):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(3)


class Diverging(Own):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.tensor(float("nan")))


def fit(*arguments: str, model: str = "Own", data: str = "Data", version: str = "run") -> list[str]:
    classes = ["--model", f"{HERE}.{model}", "--data", f"{HERE}.{data}", "--version", version]
    return ["fit", *classes, *SMALL, *MONITOR, *arguments]


def weights(run: Path = RUN) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def test_argument_without_a_type_is_missed_by_name(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = fit_arguments(image_folder, "--model.network", f"{HERE}.WithoutTypes")
    line = "model.network.width is null: expected a value, as test_own_parts.WithoutTypes needs one; give it by --mod"
    assert error_line(capsys, *given).startswith(line)
    main([*given, "--model.network.width", "8"])


def test_dashboards_do_not_change_the_training_of_loaders_that_shuffle() -> None:
    main(fit(version="shown"))
    main(fit("--dashboards", "null"))
    shown = weights(Path("logs/default/shown"))
    assert all(torch.equal(weight, shown[name]) for name, weight in weights().items())


def test_shares_are_numbers_from_nothing_up_that_sum_to_one() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [1.5, -0.5, 0.0], [0.5, 0.6, 0.0], [math.nan, 0.5, 0.5]])
    assert are_shares(rows).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", ["logits", "column", "integers"])
def test_outputs_that_are_no_class_probabilities_are_not_drawn(kind: str) -> None:
    main(fit("--model.kind", kind, model="Odd", data="NamedBatches"))
    assert not [tag for tag in read_run(RUN, "run").images if tag.startswith("validation/")]


def test_module_without_what_dashboards_look_for_trains() -> None:
    main(fit(model="OnlyParameter"))
    assert (RUN / "results.json").exists()


def test_module_without_its_sizes_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Call `forward` with a dummy batch" in error_line(capsys, *fit(model="Lazy"))


def test_metric_of_any_name_is_recorded_where_it_is_monitored(capsys: pytest.CaptureFixture[str]) -> None:
    main(fit())
    record = json.loads((RUN / "results.json").read_text())
    assert record["validation"]["val_loss"] == min(entry["val_loss"] for entry in record["validations"])
    assert error_line(capsys, *fit(model="Diverging", version="nan")).startswith("val_loss is nan after step 6")


def test_one_callback_need_not_be_a_list() -> None:
    callback = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"layer_groups": ["head"]}}
    callback["init_args"]["rest"] = "trainable"  # type: ignore[index]
    main(fit("--trainer.callbacks", json.dumps(callback)))
    assert "phase/index" in read_run(RUN, "run").scalars


class OwnNetwork(nn.Module):
    """Keeps its settings under the name that networks of transformers have for theirs."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(width), nn.Flatten(), nn.Linear(3 * width**2, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_network_with_a_config_of_its_own_is_evaluated() -> None:
    steps = ["--trainer.limit_train_batches", "2", "--trainer.limit_test_batches", "1", "--dashboards", "null"]
    main(["fit", "--data", "DemoImages", "--model.network", f"{HERE}.OwnNetwork", *SMALL, *steps, "--version", "run"])
    main(["test", "--config", str(RUN / "config.yaml"), "--ckpt_path", str(RUN / "checkpoints/best.ckpt")])
    assert "network_config" not in torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)


@pytest.mark.parametrize("command", ["plan", "lr-find", "prepare"])
def test_config_of_a_run_serves_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    callback = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"layer_groups": ["head"]}}
    callback["init_args"]["rest"] = "trainable"  # type: ignore[index]
    main(fit("--trainer.callbacks+", json.dumps(callback)))
    capsys.readouterr()
    main([command, "--config", str(RUN / "config.yaml")])
    expected = {"plan": "phase", "lr-find": "suggested: --model.lr ", "prepare": "prepared"}[command]
    assert expected in capsys.readouterr().out


def test_callbacks_of_a_module_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    classes = ["--model", f"{HERE}.OwnCallbacks", "--data", f"{HERE}.Data", *SMALL]
    main(["plan", *classes])
    assert "backbone" in capsys.readouterr().out
    line = error_line(capsys, "lr-find", *classes)
    assert line == "configure_optimizers of OwnCallbacks gives no optimizer: lr-find needs one"


def test_test_is_looked_at_before_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *fit("--test_after_fit", "true"))
    assert line == "test_after_fit is on, and Data has no test data: leave it off"
    assert not RUN.exists()
    main(fit("--test_after_fit", "true", data="TwoTests"))
    test = json.loads((RUN / "results.json").read_text())["test"]
    assert set(test) == {"test_loss/dataloader_idx_0", "test_loss/dataloader_idx_1"}


def test_early_stopping_on_a_metric_that_is_not_logged_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *fit("--config", "configs/options/early_stopping.yaml"))
    assert "metric `val/loss` which is not available" in line


class Logits(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.predict_step(batch, batch_idx), batch.labels)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits: Tensor = self.head(batch.images.flatten(1))
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def test_logits_are_not_written_as_probabilities(capsys: pytest.CaptureFixture[str]) -> None:
    demo = ["--data", "DemoImages", "--data.validation_fraction", "0", "--data.examples_per_class", "2", *SMALL]
    main(["fit", "--model", f"{HERE}.Logits", "--version", "run", *demo])
    files = ["--config", str(RUN / "config.yaml"), "--ckpt_path", str(RUN / "checkpoints/last.ckpt")]
    line = error_line(capsys, "predict", *files)
    assert line.startswith("predict_step gives other numbers: expected class probabilities, [batch, 10]")
    assert not Path("predictions.jsonl").exists()


def test_learning_rate_of_a_group_that_joins_the_optimizer_late_is_shown(tmp_path: Path) -> None:
    module = Own()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=L.pytorch.loggers.TensorBoardLogger(tmp_path, "", ""),
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1), TrainingScalars(every_n_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=Data())
    rates = [rate for _, rate in read_run(tmp_path, "run").scalars["lr/backbone"]]
    assert rates[:6] == [0] * 6
    assert rates[6:] == pytest.approx([trainer.optimizers[0].param_groups[1]["lr"]] * 6)


def test_starting_weights_may_be_named_by_a_path(tmp_path: Path) -> None:
    source, module = Own(), Own()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    load_starting_weights(module, tmp_path / "weights.pt")
    assert torch.equal(module.head.weight, source.head.weight)


def test_unfreezing_of_a_module_that_means_something_else_by_layer_groups_is_refused() -> None:
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[ProgressiveUnfreezing()])
    with pytest.raises(ValueError, match="layer_groups is 4: expected a list of module paths"):
        trainer.fit(OnlyParameter(), datamodule=Data())
