"""Unfreezing beside what users combine it with: compile, precision, clipping, averaging, the command line."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from unfreezing_toys import GROUPS, Recorder, ToyModule, fit, trainer

from lightning_transfer import ProgressiveUnfreezing, parameter_groups
from lightning_transfer.cli.entry import main
from lightning_transfer.transfer.schedule import Phase, Plateau, Until


def moved_in_the_last_phase(recorder: Recorder, module: L.LightningModule) -> set[str]:
    begin = recorder.weights[12]
    return {name for name, value in module.state_dict().items() if not torch.equal(begin[name], value)}


def test_the_documented_call_works_as_written() -> None:
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))
            self.head = nn.Linear(8, 2)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(parameter_groups(self, groups, lr=0.1, lr_decay=2.6), lr=0.1, momentum=0.9)

    groups = ["backbone.0", "backbone.2", "head"]  # input to head
    module = Module()
    unfreezing = ProgressiveUnfreezing(layer_groups=groups, schedule="gradual", until={"epochs": 1})
    recorder = Recorder()
    trainer(unfreezing, recorder).fit(module, ToyModule().loader)
    assert [len(names) for names in recorder.trainable[::6]] == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_trains_as_one_that_is_not() -> None:
    expected, module = ToyModule(), ToyModule()
    fit(ProgressiveUnfreezing(GROUPS), expected)
    module.body = torch.compile(module.body)
    recorder = fit(ProgressiveUnfreezing(GROUPS), module)
    assert [len(names) for names in recorder.trainable[::6]] == [2, 4, 6]
    for ours, theirs in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"gradient_clip_val": 0.01}], ids=["bf16", "clipping"]
)
def test_every_phase_trains_its_groups_with(options: dict[str, Any]) -> None:
    module = ToyModule()
    recorder = fit(ProgressiveUnfreezing(GROUPS), module, **options)
    assert [len(names) for names in recorder.trainable[::6]] == [2, 4, 6]
    assert moved_in_the_last_phase(recorder, module) == set(module.state_dict())
    frozen = [name for name in recorder.weights[0] if name.startswith("body.0")]
    assert all(torch.equal(recorder.weights[0][name], recorder.weights[12][name]) for name in frozen)


def test_gradient_clipping_sees_the_norm_of_what_trains() -> None:
    class Norm(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            trained = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            counts.append(len(trained))

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    counts: list[int] = []
    norms: list[float] = []
    trainer(ProgressiveUnfreezing(GROUPS), Norm(), gradient_clip_val=0.01).fit(ToyModule())
    assert [counts[step] for step in (0, 6, 12)] == [2, 4, 6]
    assert norms == pytest.approx([0.01] * 18, rel=1e-3)


def test_weight_averaging_averages_what_trained() -> None:
    unfreezing, recorder, module = ProgressiveUnfreezing(GROUPS, until={"epochs": 1}), Recorder(), ToyModule()
    averaging = EMAWeightAveraging(decay=0.5)
    trainer(unfreezing, recorder, averaging).fit(module)
    plain = ToyModule()
    seen = fit(ProgressiveUnfreezing(GROUPS, until={"epochs": 1}), plain)
    # The weights that train are untouched by the averaging; what the fit leaves is their average.
    assert all(torch.equal(recorder.weights[17][name], value) for name, value in seen.weights[17].items())
    averages = {name: value.clone() for name, value in seen.weights[1].items()}
    for weights in [*seen.weights[2:], plain.state_dict()]:
        averages = {name: 0.5 * average + 0.5 * weights[name] for name, average in averages.items()}
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, averages[name])


class CommandLineModule(ToyModule):
    """The toy without arguments, as the command line makes it."""

    def __init__(self) -> None:
        super().__init__(optimizer=lambda module: torch.optim.Adam(module.parameters(), lr=0.01))


YAML = """
- class_path: lightning_transfer.ProgressiveUnfreezing
  init_args:
    layer_groups: [body.0, body.2, head]
    phases:
      - {groups: [head], until: {epochs: 1}}
      - {groups: [body.2], until: {plateau: {monitor: val/loss, patience: 1, min_delta: 10}}}
      - {groups: [body.0]}
"""


def command_line(folder: Path, *more: str, callbacks: str = YAML) -> LightningCLI:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    every = {"dirpath": str(folder), "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 5}
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": every}
    settings = {**quiet, "max_epochs": 5, "callbacks": [*yaml.safe_load(callbacks), saving]}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"trainer": settings}))
    return LightningCLI(
        CommandLineModule,
        args=["fit", "--config", str(config), *more],
        save_config_callback=None,
        auto_configure_optimizers=False,
    )


def test_phases_from_yaml_train_and_resume_by_ckpt_path(tmp_path: Path) -> None:
    expected = command_line(tmp_path)
    unfreezing = next(found for found in expected.trainer.callbacks if isinstance(found, ProgressiveUnfreezing))
    assert unfreezing.phase_index == 2
    steps = [5, 10, 15, 20, 25, 30]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == sorted(f"step={step}.ckpt" for step in steps)
    for step in steps:
        resumed = command_line(tmp_path, "--ckpt_path", str(tmp_path / f"step={step}.ckpt"))
        torch.testing.assert_close(resumed.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)


def test_a_wrong_key_in_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError)) as error:
        command_line(tmp_path, callbacks=YAML.replace("until: {epochs", "unitl: {epochs"))
    assert "phase 1: unknown key 'unitl': expected groups, until" in str(error.value) + capsys.readouterr().err


def test_transitions_are_logged_once_also_over_a_resume(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    def phases(version: str, checkpoint: Path | None = None) -> dict[int, float]:
        logger = CSVLogger(tmp_path, version=version)
        saving = ModelCheckpoint(dirpath=tmp_path / version, filename="{step}", every_n_train_steps=9, save_top_k=-1)
        trainer(ProgressiveUnfreezing(GROUPS), saving, logger=logger).fit(ToyModule(), ckpt_path=checkpoint)
        logger.save()
        rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        columns = rows[0].split(",")
        found = [dict(zip(columns, row.split(","), strict=True)) for row in rows[1:]]
        return {int(row["step"]): float(row["phase/index"]) for row in found if row.get("phase/index")}

    assert phases("whole") == {0: 1, 6: 2, 12: 3}
    assert phases("resumed", tmp_path / "whole" / "step=9.ckpt") == {12: 3}


@pytest.mark.parametrize(
    ("flags", "until"),
    [
        (["until.fraction", "null", "until.epochs", "1"], {"epochs": 1}),
        (["until.epochs", "1", "until.fraction", "null"], {"epochs": 1}),
        (["until.steps", "9"], {"steps": 9, "fraction": 0.25}),
        (["until", '{"epochs": 1}'], {"epochs": 1}),
        (["until.plateau", '{"monitor": "loss"}'], {"fraction": 0.25, "plateau": Plateau("loss")}),
        (["until.plateau.patience", "2"], {"fraction": 0.25, "plateau": Plateau("a", patience=2, mode="max")}),
    ],
)
def test_flags_change_or_replace_the_end_of_a_phase_that_a_file_gives(
    flags: list[str], until: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"fraction": 0.25}
    if "plateau" in until:
        given["plateau"] = {"monitor": "a", "mode": "max"}
    callback = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"until": given}}
    Path("file.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    options = [f"--trainer.callbacks.{word}" if position % 2 == 0 else word for position, word in enumerate(flags)]
    arguments = ["plan", "--data", "DemoImages", "--model.network", "SeedCNN", "--config", "file.yaml", *options]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    [printed] = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert Until(**printed["init_args"]["until"]) == Until(**until)


def test_phases_of_a_second_file_take_nothing_over_from_those_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    first = {"groups": ["head"], "until": {"fraction": 0.25}, "lr_multiplier": 0.5}
    arguments = ["plan", "--data", "DemoImages", "--model.network", "SeedCNN"]
    for name, phase in (("first.yaml", first), ("second.yaml", {"groups": ["head"], "until": {"epochs": 1}})):
        init_args = {"phases": [phase, {"groups": ["*"]}]}
        callback = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": init_args}
        Path(name).write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        arguments += ["--config", name]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    [printed] = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    phase = printed["init_args"]["phases"][0]
    assert Phase(**phase) == Phase(["head"], Until(epochs=1))
