"""Learning without forgetting: what the head of the source said of the target's examples is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_toys import Pretrained, callbacks, fit
from test_starting_point import Gradients
from torch import Tensor, nn
from unfreezing_toys import trainer

from lightning_transfer import (
    Classifier,
    LearningWithoutForgetting,
    ProgressiveUnfreezing,
    SeedCNN,
    SpectralShrinkage,
    load_starting_weights,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError

OLD_HEAD = {"head.weight": torch.arange(24.0).reshape(3, 8).sin(), "head.bias": torch.tensor([0.1, -0.2, 0.3])}


def old_outputs(module: Pretrained, inputs: Tensor) -> Tensor:
    """What the old head says, with the features of a module."""
    return module.body(inputs) @ OLD_HEAD["head.weight"].T + OLD_HEAD["head.bias"]


def kept(**options: Any) -> LearningWithoutForgetting:
    [callback] = callbacks("lwf", **options)
    assert isinstance(callback, LearningWithoutForgetting)
    callback.old_head = OLD_HEAD
    return callback


@pytest.mark.parametrize("probe_steps", [0, 2])
def test_lwf_adds_the_gradient_of_the_divergence_from_the_old_network(probe_steps: int) -> None:
    phases = [{"groups": ["head"], "until": {"steps": 2}}, {"groups": ["*"]}]
    schedule = {"phases": phases} if probe_steps else {"schedule": "full"}
    plain, penalised = Gradients(), Gradients()
    module, same = Pretrained(), Pretrained()
    trainer(ProgressiveUnfreezing(**schedule), plain, max_steps=3).fit(module)  # type: ignore[arg-type]
    callback = kept(strength=5.0, temperature=3.0)
    trainer(ProgressiveUnfreezing(**schedule), callback, penalised, max_steps=3).fit(same)  # type: ignore[arg-type]
    twin, old = Pretrained(), Pretrained().eval()
    inputs = [*twin.loader][probe_steps][0]
    now, before = (old_outputs(network, inputs) / 3.0 for network in (twin, old))
    divergence = (before.softmax(1) * (before.log_softmax(1) - now.log_softmax(1))).sum(1).mean()
    (5.0 * divergence).backward()
    for name, parameter in twin.named_parameters():
        added = penalised.seen[probe_steps][name][1] - plain.seen[probe_steps][name][1]
        expected = torch.zeros_like(added) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)
    gradient = twin.body[0].weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 1e-3
    assert "training_step" not in vars(same), "as before the fit"
    assert not any(part._forward_pre_hooks for part in same.modules())


def test_lwf_keeps_what_the_old_head_says_the_nearer_the_stronger_it_is() -> None:
    inputs, distances = torch.randn(64, 4, generator=torch.Generator().manual_seed(5)), []
    with torch.no_grad():
        before = old_outputs(Pretrained().eval(), inputs).softmax(1)
        for strength in (0.0, 1.0, 100.0):
            module = Pretrained()
            trainer(kept(strength=strength)).fit(module)
            distances.append(float((old_outputs(module.eval(), inputs).softmax(1) - before).abs().mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.5 * distances[0]


def test_old_network_of_a_resumed_run_is_the_checkpoints(tmp_path: Path) -> None:
    module = Pretrained()
    fit("lwf", module, tmp_path, changes={"strength": 5.0})
    other = Pretrained()
    nn.init.ones_(other.body[0].weight)  # as if other weights had been read
    fit("lwf", other, resume=tmp_path / "step=4.ckpt", changes={"strength": 5.0})
    torch.testing.assert_close(other.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_head_of_another_number_of_classes_is_the_sources(tmp_path: Path) -> None:
    source, module = (Classifier(SeedCNN(classes), num_classes=classes) for classes in (5, 3))
    torch.save(source.state_dict(), tmp_path / "source.pt")
    report = load_starting_weights(module, tmp_path / "source.pt")
    expected = {name: value for name, value in source.state_dict().items() if name in report.head}
    torch.testing.assert_close(report.head, expected, rtol=0, atol=0)
    assert [*report.head] == [name for name in module.state_dict() if name in report.made_anew]
    images = torch.rand(4, 3, 32, 32)
    callback = LearningWithoutForgetting()
    callback.old_head, callback._start = report.head, {}
    callback.on_train_start(trainer(), module)
    step: Any = module.training_step
    module.trainer = trainer()
    loss = step((images, torch.zeros(4, dtype=torch.long)), 0)
    assert loss.requires_grad
    with torch.no_grad():
        source.eval()
        assert callback._old_network is not None
        torch.testing.assert_close(callback._old_network.network(images), source.network(images))


@pytest.mark.parametrize(
    ("old_head", "message"),
    [
        ({"head.weight": torch.ones(3, 8)}, r"the source's head has no head\.bias: LearningWithoutForgetting needs"),
        ({"head.weight": torch.ones(1, 8), "head.bias": torch.ones(1)}, r"the old head gives \[8, 1\]: .* two or more"),
    ],
)
def test_old_head_that_does_not_fit_is_refused(old_head: dict[str, Tensor], message: str) -> None:
    callback = kept()
    callback.old_head = old_head
    with pytest.raises(UserError, match=message):
        trainer(callback).fit(Pretrained())


def test_numbers_and_several_classes_are_refused() -> None:
    module = Pretrained()
    module.problem_type = "regression"
    with pytest.raises(UserError, match=r"data\.problem_type is regression: expected classification"):
        trainer(kept()).fit(module)


def test_two_penalties_leave_the_module_as_it_was() -> None:
    module = Pretrained()
    trainer(kept(), SpectralShrinkage()).fit(module)
    assert "training_step" not in vars(module)


def test_features_that_are_not_finite_have_no_shrinkage() -> None:
    features = torch.tensor([[1.0, torch.inf], [2.0, 3.0]], requires_grad=True)
    assert not SpectralShrinkage().penalty(features).isfinite()  # so that the step is skipped


def test_network_that_is_not_called_as_a_module_is_refused() -> None:
    module = Pretrained()
    module.training_step = lambda batch, batch_idx: module.head(module.body(batch[0])).sum()  # type: ignore[method-assign]
    with pytest.raises(UserError, match="has not seen the network called: call it as a module in training_step"):
        trainer(kept()).fit(module)


@pytest.mark.parametrize(
    ("options", "message"), [({"strength": -1.0}, "0 or more"), ({"temperature": 0.0}, "more than 0")]
)
def test_values_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"expected a finite number, {message}"):
        LearningWithoutForgetting(**options)


FILES = ("quickstart_transfer.yaml", "strategies/lwf.yaml", "hardware/cpu.yaml", "options/light_dashboards.yaml")
FIT = ["fit", *(word for file in FILES for word in ("--config", f"configs/{file}")), "--trainer.max_epochs", "1"]


def test_command_line_takes_the_old_head_from_the_starting_weights() -> None:
    source = Classifier(SeedCNN(4), num_classes=4)
    torch.save(source.state_dict(), "source.pt")
    main([*FIT, "--data.examples_per_class", "2", "--init_from", "source.pt", "--version", "run"])
    checkpoint = torch.load("logs/quickstart_transfer/run/checkpoints/last.ckpt", weights_only=True)
    [kept] = [saved for name, saved in checkpoint["callbacks"].items() if name.startswith("LearningWithoutForgetting")]
    expected = {name: value for name, value in source.state_dict().items() if name.startswith("network.")}
    assert expected["network.head.weight"].shape[0] == 4
    torch.testing.assert_close({name: kept["start"][name] for name in expected}, expected, rtol=0, atol=0)


def test_fit_without_an_old_head_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(FIT)
    assert (
        "keeps what an old head says, and a fit from fresh weights has none: set init_from" in capsys.readouterr().err
    )
    torch.manual_seed(0)
    body = {name: value for name, value in SeedCNN(6).state_dict().items() if not name.startswith("head")}
    torch.save(body, "body.pt")
    with pytest.raises(SystemExit):
        main([*FIT, "--init_from", "body.pt"])
    assert "and body.pt has none: set init_from to the checkpoint of a classifier" in capsys.readouterr().err
