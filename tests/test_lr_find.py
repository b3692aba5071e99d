"""The learning rate range test: what it measures, what it suggests, and that it leaves no trace."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from unfreezing_toys import GROUPS, ToyModule, trainer

from lightning_transfer import Classifier, DemoImages, Muon, ProgressiveUnfreezing, SeedCNN, parameter_groups
from lightning_transfer.cli.entry import main
from lightning_transfer.cli.range_curves import write_curves
from lightning_transfer.errors import UserError
from lightning_transfer.report.run_files import find_runs
from lightning_transfer.transfer.range_test import Curve, range_test, valley


def test_valley_is_inside_the_fall_of_the_losses() -> None:
    losses = [5.0] * 20 + [5.0 - 0.1 * step for step in range(30)] + [2.1 + 0.5 * step for step in range(10)]
    assert 20 + 10 <= valley(losses) <= 20 + 20


def test_valley_goes_over_bumps() -> None:
    smooth = np.concatenate([np.full(20, 5.0), np.linspace(5, 2, 30), np.linspace(2.5, 9, 10)])
    bumps = 0.15 * np.sin(np.arange(len(smooth)) * 2.0)
    assert 25 <= valley((smooth + bumps).tolist()) <= 48


class Quadratic(L.LightningModule):
    """Gradient descent on x^2 / 2 times a curvature: converges below a learning rate of 2 / curvature, no further."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.curvature = curvature
        self.x = nn.Parameter(torch.tensor(3.0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.curvature * self.x**2 / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=123.0)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.zeros(1000, 1))


@pytest.mark.parametrize("curvature", [0.1, 1.0, 100.0])
def test_suggestion_on_a_quadratic_converges(curvature: float) -> None:
    [curve] = range_test(trainer(), Quadratic(curvature), None, 1e-3 / curvature, 1e3 / curvature, 100)
    assert 0.01 / curvature < curve.suggestion < 2 / curvature
    # The test ends soon after the learning rate from which the loss grows.
    assert 2 / curvature < curve.learning_rates[-1] < 100 / curvature


def test_loss_is_that_before_the_step_with_its_learning_rate() -> None:
    [curve] = range_test(trainer(), Quadratic(1.0), None, 1e-3, 1.0, 20)
    assert curve.learning_rates == pytest.approx(np.geomspace(1e-3, 1.0, 20))
    x, mean = 3.0, 0.0
    for step, rate in enumerate(curve.learning_rates):
        mean = 0.98 * mean + 0.02 * x**2 / 2
        assert curve.losses[step] == pytest.approx(mean / (1 - 0.98 ** (step + 1)), rel=1e-4)
        x -= rate * x


def test_accumulated_batches_are_one_step() -> None:
    run = trainer(accumulate_grad_batches=4)
    [curve] = range_test(run, Quadratic(1.0), None, 1e-3, 1.0, 20)
    [expected] = range_test(trainer(), Quadratic(1.0), None, 1e-3, 1.0, 20)
    assert curve.losses == pytest.approx(expected.losses, rel=1e-4)


def test_each_phase_is_tested_with_what_it_trains_from_the_same_weights() -> None:
    module = ToyModule()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    seen: list[dict[str, bool]] = []

    class Watched(ToyModule):
        def on_train_end(self) -> None:
            seen.append({name: torch.equal(value, before[name]) for name, value in self.state_dict().items()})

    watched = Watched()
    watched.load_state_dict(before)
    curves = range_test(trainer(ProgressiveUnfreezing(GROUPS)), watched, None, 1e-4, 1.0, 12)
    assert [curve.name for curve in curves] == [
        "phase 1: head",
        "phase 2: body.2, head",
        "phase 3: body.0, body.2, head",
    ]
    assert len({curve.losses[0] for curve in curves}) == 1
    for unchanged, trained in zip(seen, (["head"], ["body.2", "head"], ["body.0", "body.2", "head"]), strict=True):
        for name, same in unchanged.items():
            if name.endswith(("weight", "bias")):
                assert same != any(name.startswith(f"{group}.") for group in trained), name
    assert all(torch.equal(value, before[name]) for name, value in watched.state_dict().items())
    assert all(parameter.requires_grad for parameter in watched.parameters())


def test_range_test_leaves_the_random_state_as_it_was() -> None:
    class Noisy(ToyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + 0 * torch.rand(())

    module, before = Noisy(), torch.get_rng_state()
    range_test(trainer(), module, None, 1e-4, 1e-2, 12)
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_rates_of_layer_groups_keep_their_ratios() -> None:
    rates: list[list[float]] = []

    class Noting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            done = super().step(closure)
            rates.append([group["lr"] for group in self.param_groups])
            return done

    def optimizer(module: L.LightningModule) -> torch.optim.Optimizer:
        return Noting(parameter_groups(module, GROUPS, lr=0.1, lr_decay=2.0), lr=0.1)

    [curve] = range_test(trainer(), ToyModule(optimizer=optimizer), None, 1e-4, 1e-2, 12)
    for step, rate in enumerate(curve.learning_rates):
        assert rates[step] == pytest.approx([rate / 4, rate / 2, rate])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 1.0, 100), "lowest is 0.0 and highest 1.0"),
        ((1.0, 0.1, 100), "expected 0 < lowest < highest"),
        ((1e-6, 1.0, 3), "steps is 3: expected 10 or more"),
        ((1e3, 1e6, 100), "explodes within . steps: set a lower lowest"),
    ],
)
def test_mistakes_are_named(values: tuple[float, float, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        range_test(trainer(), Quadratic(1.0), None, *values)


def test_loss_below_zero_is_tested_as_one_above() -> None:
    class Lowered(Quadratic):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) - 10

    [curve] = range_test(trainer(), Lowered(1.0), None, 1e-3, 1e3, 100)
    assert 0.01 < curve.suggestion < 2
    assert 2 < curve.learning_rates[-1] < 100


def test_loss_of_manual_optimization_is_tested_where_it_is_returned() -> None:
    class Manual(Quadratic):
        def __init__(self) -> None:
            super().__init__(1.0)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            return loss

    class Silent(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            super().training_step(batch, batch_idx)

    [curve] = range_test(trainer(), Manual(), None, 1e-3, 1.0, 20)
    [expected] = range_test(trainer(), Quadratic(1.0), None, 1e-3, 1.0, 20)
    assert curve.losses == pytest.approx(expected.losses)
    with pytest.raises(UserError, match="training_step of Silent returns no loss for batch 0: lr-find needs"):
        range_test(trainer(), Silent(), None, 1e-3, 1.0, 20)


def test_batch_without_a_loss_is_named() -> None:
    class Skipping(Quadratic):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    with pytest.raises(UserError, match="training_step of Skipping returns no loss for batch 3: lr-find needs"):
        range_test(trainer(), Skipping(1.0), None, 1e-3, 1.0, 20)


def test_suggestion_is_inside_the_curve() -> None:
    curve = Curve("x", tuple(np.geomspace(1e-6, 1, 50)), tuple(math.exp(-step) for step in range(50)))
    assert 1e-6 < curve.suggestion < 1


def test_both_learning_rates_of_muon_are_suggested_as_they_were_tested(tmp_path: Path) -> None:
    module = ToyModule(optimizer=lambda module: Muon(module.parameters(), lr=0.2, sgd_lr=0.1))
    [curve] = range_test(trainer(), module, None, 1e-4, 1.0, 12)
    lr, sgd_lr = f"lr {curve.suggestion:.3g}", f"sgd_lr {curve.suggestion / 2:.3g}"
    flag = "--model.init_args.optimizer.init_args"
    assert f"suggested: {flag}.{lr} {flag}.{sgd_lr}\n" in write_curves([curve], tmp_path, ["optimizer"])


@pytest.mark.parametrize(
    ("argument", "flag"), [("lr", "--model.lr "), ("learning_rate", "--model.learning_rate "), ("width", "")]
)
def test_suggestion_is_the_option_of_a_module_of_the_users(argument: str, flag: str, tmp_path: Path) -> None:
    curve = Curve("x", tuple(np.geomspace(1e-6, 1, 50)), tuple(math.exp(-step) for step in range(50)))
    assert f"suggested: {flag}{curve.suggestion:.3g}\n" in write_curves([curve], tmp_path, ["network", argument])


@pytest.mark.slow
def test_command_prints_suggestions_and_writes_plots(capsys: pytest.CaptureFixture[str]) -> None:
    configs = ["--config", "configs/quickstart_transfer.yaml", "--config", "configs/strategies/gradual.yaml"]
    small = ["--trainer.accelerator", "cpu", "--data.examples_per_class", "4", "--steps", "12", "--highest", "0.1"]
    main(["lr-find", *configs, *small])
    output = capsys.readouterr().out
    assert "phase 1: head " in output
    assert "phase 5: convolution1, convolution2, hidden1, hidden2, head" in output
    assert "suggested: --model.init_args.optimizer.init_args.lr " in output
    folder = Path("logs/quickstart_transfer/lr_find")
    assert (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"] == ["lr_find"]
    assert [path.name for path in Path("logs/quickstart_transfer").iterdir()] == ["lr_find"]
    with pytest.raises(UserError, match="no run in 'logs'"):  # a report has no line for it
        find_runs(Path("logs"))


def test_lightning_s_tuner_is_refused_where_the_module_has_no_learning_rate() -> None:
    data = DemoImages(task="target", batch_size=16, examples_per_class=4)
    module = Classifier(SeedCNN(data.num_classes), data.num_classes)
    tuner = Tuner(L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False))
    with pytest.raises(
        UserError, match=r"Classifier has its own in the optimizer: use the .* lightning-transfer lr-find"
    ):
        tuner.lr_find(module, datamodule=data)
