"""The moving average of the weights: what is validated, chosen, tested and resumed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from unfreezing_toys import NORM_GROUPS, Recorder, ToyModule, fit, trainer

from lightning_transfer import ExponentialMovingAverage, ProgressiveUnfreezing
from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.errors import UserError


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def gradual() -> ProgressiveUnfreezing:
    return ProgressiveUnfreezing(NORM_GROUPS, until={"steps": 5})


def every_three_steps(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)


def best(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="best", monitor="val/loss")


class Validated(L.Callback):
    """Keeps the weights that each validation used."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.states.append(state(pl_module))


@pytest.mark.parametrize("norm", [False, True])
def test_average_is_what_the_formula_says_and_training_does_not_notice(norm: bool) -> None:
    plain, averaged, seen = ToyModule(norm), ToyModule(norm), Recorder()
    expected = [*fit(gradual(), plain).weights[1:], state(plain)]
    trainer(gradual(), seen, ExponentialMovingAverage(decay=0.5)).fit(averaged)
    assert all(equal(ours, theirs) for ours, theirs in zip(seen.weights[1:], expected[:-1], strict=True))
    averages = expected[0]
    for step, weights in enumerate(expected[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        averages = {name: decay * value + (1 - decay) * weights[name] for name, value in averages.items()}
    if norm:  # its statistics are averaged as its weights are, but for the counter of its batches
        averages["body.3.num_batches_tracked"] = plain.body[3].num_batches_tracked
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, averages[name])


def test_average_is_validated_chosen_and_tested(tmp_path: Path) -> None:
    module, validated, checkpoint = ToyModule(norm=True), Validated(), best(tmp_path)
    module.test_step = module.validation_step  # type: ignore[method-assign]
    run = trainer(ExponentialMovingAverage(decay=0.8), validated, checkpoint, num_sanity_val_steps=0)
    run.fit(module)
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert any(equal(saved["state_dict"], seen) for seen in validated.states)
    assert not equal(saved["state_dict"], saved["current_model_state"])
    assert equal(state(module), validated.states[-1])  # what fit leaves is what was validated last
    for command in (run.test, run.validate):
        [logged] = command(module, module.val_dataloader(), ckpt_path=checkpoint.best_model_path, verbose=False)
        assert equal(state(module), saved["state_dict"])
        assert logged["val/loss"] == pytest.approx(float(checkpoint.best_model_score or 0))


def test_weights_that_do_not_change_stay_what_they_are_to_the_last_bit() -> None:
    module = ToyModule(norm=True)
    before = state(module)
    probe = ProgressiveUnfreezing(NORM_GROUPS, schedule="linear_probe")
    trainer(probe, ExponentialMovingAverage(decay=0.9), max_epochs=5).fit(module)
    assert {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])} == {
        "head.weight",
        "head.bias",
    }


def test_resume_from_every_checkpoint_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    def run(folder: Path, checkpoint: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        module = ToyModule(norm=True)
        callbacks = gradual(), ExponentialMovingAverage(decay=0.9), every_three_steps(folder)
        trainer(*callbacks, num_sanity_val_steps=0, val_check_interval=3).fit(module, ckpt_path=checkpoint)
        return state(module), torch.load(folder / "step=18.ckpt", weights_only=True)["current_model_state"]

    averages, weights = run(tmp_path / "whole")
    for step in range(3, 18, 3):
        resumed = run(tmp_path / f"resumed{step}", tmp_path / "whole" / f"step={step}.ckpt")
        assert equal(resumed[0], averages), step
        assert equal(resumed[1], weights), step


class _SavesInValidation(L.Callback):
    """What a signal does at any moment: saves, here with a validation half done; or fails there."""

    def __init__(self, file: Path | None) -> None:
        self.file = file

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.file is None:
            raise RuntimeError("out of memory, say")
        trainer.save_checkpoint(self.file)


def test_checkpoint_of_mid_validation_tells_average_and_weights_apart(tmp_path: Path) -> None:
    callbacks = ExponentialMovingAverage(decay=0.9), _SavesInValidation(tmp_path / "middle.ckpt"), best(tmp_path)
    trainer(*callbacks, max_epochs=1, num_sanity_val_steps=0).fit(ToyModule())
    middle, after = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("middle", "best"))
    for key in ("state_dict", "current_model_state"):
        assert equal(middle[key], after[key])


@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-12), ("bf16-true", 0.01)])
def test_average_is_as_precise_as_the_weights_and_resumes(precision: str, tolerance: float, tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": precision, "num_sanity_val_steps": 0}
    # Lightning gives a module its precision only once a checkpoint is loaded, by which one of 64 bits would be rounded.
    make = (lambda: ToyModule().double()) if precision == "64-true" else ToyModule
    plain, averaged, resumed = make(), make(), make()
    seen = fit(None, plain, **options)
    trainer(ExponentialMovingAverage(decay=0.9), every_three_steps(tmp_path), **options).fit(averaged)
    averages, *others = [
        {name: value.double() for name, value in weights.items()} for weights in [*seen.weights[1:], state(plain)]
    ]
    for step, weights in enumerate(others, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        averages = {name: decay * value + (1 - decay) * weights[name] for name, value in averages.items()}
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value.double(), averages[name], rtol=0, atol=tolerance)
    trainer(ExponentialMovingAverage(decay=0.9), **options).fit(resumed, ckpt_path=tmp_path / "step=3.ckpt")
    assert equal(state(resumed), state(averaged))


def test_second_fit_is_averaged_as_the_first_was() -> None:
    averaging = ExponentialMovingAverage(decay=0.9)
    first, second = ToyModule(), ToyModule()
    for module in (first, second):
        trainer(averaging).fit(module)
    assert equal(state(first), state(second))
    assert not equal(state(second), state(ToyModule()))


def test_average_of_divided_weights_is_refused() -> None:
    divided = SimpleNamespace(strategy=FullyShardedStrategy())
    with pytest.raises(UserError, match="does not go with FullyShardedStrategy, which divides the weights"):
        ExponentialMovingAverage().setup(divided, ToyModule(), "fit")  # type: ignore[arg-type]


def test_checkpoint_of_weights_that_were_not_averaged_is_tested_as_it_is(tmp_path: Path) -> None:
    plain, checkpoint = ToyModule(), best(tmp_path)
    trainer(checkpoint, max_epochs=1).fit(plain)
    averaged = ToyModule()
    averaged.test_step = averaged.validation_step  # type: ignore[method-assign]
    run = trainer(ExponentialMovingAverage())
    run.test(averaged, averaged.val_dataloader(), ckpt_path=checkpoint.best_model_path, verbose=False)
    assert equal(state(averaged), state(plain))


def test_failed_validation_leaves_what_trains() -> None:
    plain, averaged = ToyModule(), ToyModule()
    trainer(max_epochs=1, num_sanity_val_steps=0).fit(plain)
    run = trainer(ExponentialMovingAverage(decay=0.9), _SavesInValidation(None), max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.fit(averaged)
    assert equal(state(averaged), state(plain))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=rf"decay is {decay}: expected at least 0 and below 1"):
        ExponentialMovingAverage(decay)


def test_checkpoint_of_weights_alone_is_refused_as_it_would_not_have_the_average(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(UserError, match="save_weights_only is true: expected false with ExponentialMovingAverage"):
        trainer(ExponentialMovingAverage(), saving).fit(ToyModule())


def test_average_moves_without_reading_anything_back_from_the_device() -> None:
    callback, module = ExponentialMovingAverage(), ToyModule()
    run = SimpleNamespace(global_step=0, strategy=None, checkpoint_callbacks=[])
    callback.setup(run, module, "fit")
    module.to("meta")  # whose values cannot be read
    callback.on_fit_start(run, module)
    for run.global_step in (1, 2, 3):
        callback.on_train_batch_end(run, module, None, None, run.global_step)
    assert callback._average_model is not None
    assert int(callback._average_model.n_averaged) == 3
