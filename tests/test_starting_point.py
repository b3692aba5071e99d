"""What pulls a fine-tuning towards its start: L2-SP, and batch spectral shrinkage."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from strategy_toys import HEAD, Pretrained, callbacks, equal, fit, state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from unfreezing_toys import trainer

from lightning_transfer import ProgressiveUnfreezing, SpectralShrinkage, StartingPointPenalty, WeightInterpolation
from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.dashboards.training_curves import TrainingScalars
from lightning_transfer.errors import UserError


class Gradients(L.Callback):
    """Keeps weights and gradients as the optimizer is given them."""

    def __init__(self) -> None:
        self.seen: list[dict[str, tuple[Tensor, Tensor]]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        parameters = [(name, p) for name, p in pl_module.named_parameters() if p.grad is not None]
        self.seen.append({name: (p.detach().clone(), p.grad.clone()) for name, p in parameters if p.grad is not None})


def test_l2_sp_adds_the_gradient_of_its_penalty_below_the_head() -> None:
    before, after = Gradients(), Gradients()
    module = Pretrained()
    start = state(module)
    [penalty] = callbacks("l2_sp", strength=0.5)
    trainer(ProgressiveUnfreezing(until={"steps": 5}), before, penalty, after).fit(module)
    assert [len(seen) for seen in before.seen[::5]] == [2, 6, 8, 8]
    for plain, penalised in zip(before.seen, after.seen, strict=True):
        for name, (weight, gradient) in plain.items():
            distance = torch.zeros(()) if name in HEAD else weight - start[name]
            torch.testing.assert_close(penalised[name][1], gradient + 0.5 * distance)
    weight, _ = before.seen[-1]["body.0.weight"]
    assert float((weight - start["body.0.weight"]).abs().max()) > 1e-3, "there is a distance to be penalised"


def test_l2_sp_keeps_the_weights_nearer_to_the_start_the_stronger_it_is() -> None:
    distances = []
    for strength in (0.0, 1.0, 100.0):
        module = Pretrained()
        start = module.body[0].weight.detach().clone()
        fit("l2_sp", module, changes={"strength": strength})
        distances.append(float((module.body[0].weight - start).norm()))
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.5 * distances[0]


def test_l2_sp_and_gradient_norms_are_the_same_where_the_optimizer_undoes_the_scale_of_float16(tmp_path: Path) -> None:
    distances, norms = [], []
    for fused in (False, True):
        module, board = Pretrained(), TensorBoardLogger(tmp_path, name="", version=str(fused))
        start = module.body[0].weight.detach().clone()
        module.make_optimizer = lambda own, fused=fused: torch.optim.AdamW(own.parameters(), lr=0.01, fused=fused)
        float16 = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        penalty, scalars = StartingPointPenalty(strength=1000.0), TrainingScalars(every_n_steps=1)
        trainer(penalty, scalars, plugins=[float16], logger=board).fit(module)
        distances.append(float((module.body[0].weight - start).norm()))
        events = EventAccumulator(board.log_dir).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("gradient_norm/")]
        norms.append([event.value for tag in sorted(tags) for event in events.Scalars(tag)])
    assert distances[1] == pytest.approx(distances[0], rel=0.05)
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[0]


def test_bss_adds_the_gradient_of_its_penalty_on_the_features_below_the_head() -> None:
    [shrinkage], plain, penalised = callbacks("bss", strength=50.0, count=2), Gradients(), Gradients()
    module, same = Pretrained(), Pretrained()
    trainer(plain, max_steps=1).fit(module)
    trainer(shrinkage, penalised, max_steps=1).fit(same)
    twin = Pretrained()
    features = twin.body(next(iter(twin.loader))[0])
    (50.0 * torch.linalg.svdvals(features)[-2:].square().sum()).backward()
    for name, parameter in twin.named_parameters():
        added = penalised.seen[0][name][1] - plain.seen[0][name][1]
        torch.testing.assert_close(added, torch.zeros_like(added) if parameter.grad is None else parameter.grad)
    assert float(twin.body[0].weight.grad.abs().max()) > 1e-3
    assert "training_step" not in vars(same), "as before the fit"


def test_two_penalties_may_follow_a_step_that_takes_the_batch_alone() -> None:
    class Alone(Pretrained):
        def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
            return super().training_step(batch, 0)

    weights = []
    for strengths in ((), (5.0,), (2.0, 3.0)):
        module = Alone()
        trainer(*(SpectralShrinkage(strength) for strength in strengths)).fit(module)
        weights.append(module.body[0].weight.detach().clone())
    torch.testing.assert_close(weights[2], weights[1])
    assert not torch.equal(weights[1], weights[0])


def test_bss_of_a_head_that_is_not_called_is_refused() -> None:
    module = Pretrained()
    module.layer_groups = {"body": ["body"], "head": ["head"]}
    module.forward = lambda inputs: module.body(inputs) @ module.head.weight.T  # type: ignore[method-assign]
    with pytest.raises(UserError, match="has seen no features, as no module of the layer group head was called"):
        fit("bss", module)


def test_start_of_a_resumed_run_is_the_checkpoints(tmp_path: Path) -> None:
    module = Pretrained()
    fit("l2_sp", module, tmp_path)
    other = Pretrained()
    nn.init.ones_(other.body[0].weight)  # as if other weights had been read
    fit("l2_sp", other, resume=tmp_path / "step=4.ckpt")
    assert equal(state(other), state(module))


@pytest.mark.parametrize("callback", [StartingPointPenalty(), WeightInterpolation([0.5])])
def test_start_of_divided_weights_is_refused(callback: Any) -> None:
    divided = SimpleNamespace(strategy=FullyShardedStrategy())
    with pytest.raises(UserError, match=r"does not go with FullyShardedStrategy, which divides the weights: compose"):
        callback.setup(divided, Pretrained(), "fit")
