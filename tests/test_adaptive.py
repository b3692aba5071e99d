"""Adaptive unfreezing: it thaws as deep as its evidence says, and says why."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from strategy_toys import HEAD, Pretrained, fit, moved, state
from torch import nn
from torch.utils.data import DataLoader
from unfreezing_toys import Recorder, trainer

from lightning_transfer import AdaptiveUnfreezing, parameter_groups
from lightning_transfer.cli.entry import main
from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST
from lightning_transfer.transfer.gradient_evidence import relative_gradient_norms
from lightning_transfer.transfer.shown_groups import unfreezing_of

BODY = {"body.0": ("body.0.",), "body.2": ("body.2.", "body.3."), "head": ("head.",)}


def of_group(module: nn.Module, group: str) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if name.startswith(BODY[group])]


class Drawing(Pretrained):
    """Draws in its training step, as dropout does."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        torch.rand(1)
        return super().training_step(batch, batch_idx)


class Measured(L.Callback):
    """Measures before the second step, and what that leaves behind."""

    def __init__(self, groups: AdaptiveUnfreezing) -> None:
        self.groups = groups
        self.found: dict[str, float] = {}
        self.expected: dict[str, float] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != 1:
            return
        before, random = state(pl_module), torch.get_rng_state()
        grads = [None if p.grad is None else p.grad.clone() for p in pl_module.parameters()]
        self.found = relative_gradient_norms(trainer, self.groups.groups, batch)
        assert not moved(pl_module, before), "norm statistics included"
        assert torch.equal(torch.get_rng_state(), random)
        assert all(
            (old is None and p.grad is None) or torch.equal(old, p.grad)
            for old, p in zip(grads, pl_module.parameters(), strict=True)
        )
        twin = Pretrained()
        twin.load_state_dict(before)
        twin.body[3].eval()  # as it is frozen
        nn.functional.cross_entropy(twin(batch[0]), batch[1]).backward()
        for group in BODY:
            held = [(p.detach(), p.grad) for _, p in of_group(twin, group)]
            norms = [torch.cat([tensor.flatten() for tensor in tensors]).norm() for tensors in zip(*held, strict=True)]
            self.expected[group] = float(norms[1] / norms[0])


def test_evidence_is_the_relative_gradient_norm_and_leaves_no_trace() -> None:
    unfreezing = AdaptiveUnfreezing(until={"steps": 4})
    measured = Measured(unfreezing)
    trainer(unfreezing, measured, max_steps=2).fit(Drawing())
    assert measured.found == pytest.approx(measured.expected, rel=1e-4)


def test_group_thaws_only_if_it_pays() -> None:
    module, recorder = Pretrained(), Recorder()
    with torch.no_grad():
        module.body[2].weight.zero_()  # nothing reaches the layer below
    unfreezing = AdaptiveUnfreezing(until={"steps": 4}, threshold=0.01)
    run = trainer(unfreezing, recorder)
    run.fit(module)
    assert recorder.trainable[0] == HEAD
    first = unfreezing.decisions[0]
    assert (first.step, first.evidence["body.0"], first.thawed) == (4, 0.0, ["body.2"])
    below = {name for name, _ in of_group(module, "body.0")}
    assert not below & recorder.trainable[4]


@pytest.mark.parametrize("rest", ["frozen", "trainable"])
def test_what_is_in_no_layer_group_does_not_set_the_bar(monkeypatch: pytest.MonkeyPatch, rest: Any) -> None:
    evidence = {"body.2": 0.1, "head": 0.1, REST: 1e30}  # a parameter that begins at 0
    monkeypatch.setattr("lightning_transfer.transfer.adaptive.relative_gradient_norms", lambda *_: evidence)
    groups = {"body.2": ["body.2", "body.3"], "head": ["head"]}
    unfreezing = AdaptiveUnfreezing(layer_groups=groups, rest=rest, until={"steps": 4})
    trainer(unfreezing).fit(Pretrained())
    assert unfreezing.decisions[0].thawed == ["body.2"]


def test_group_that_never_pays_never_trains_and_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = {"body.0": 0.1, "body.2": 1.0, "head": 0.0}
    monkeypatch.setattr("lightning_transfer.transfer.adaptive.relative_gradient_norms", lambda *_: evidence)
    module = Pretrained()
    before = state(module)
    unfreezing = AdaptiveUnfreezing(until={"steps": 4}, threshold=0.3)
    trainer(unfreezing).fit(module)
    found = [(decision.step, decision.thawed) for decision in unfreezing.decisions]
    assert found == [(4, ["body.2"]), (8, []), (12, []), (16, [])]
    assert not moved(module, before) & {name for name, _ in of_group(module, "body.0")}
    assert unfreezing.outcome["because"] is None
    assert unfreezing.outcome["never_trained"] == ["body.0"]


def test_batch_without_a_finite_gradient_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []

    def evidence(*_: Any) -> dict[str, float]:
        seen.append(dict.fromkeys(BODY, torch.nan if len(seen) < 2 else 0.0))
        return seen[-1]

    monkeypatch.setattr("lightning_transfer.transfer.adaptive.relative_gradient_norms", evidence)
    module = Pretrained()
    before = state(module)
    run = trainer(AdaptiveUnfreezing(until={"steps": 6}))
    run.fit(module)
    assert len(seen) == 4, "two batches after the sixth step, then at the eighth and the fourteenth"
    assert moved(module, before) == HEAD, "where no gradient is, nothing pays"
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert [decision.step for decision in unfreezing_of(run).decisions] == [8, 14]  # type: ignore[union-attr]


def test_evidence_is_that_of_the_weights_which_the_next_phase_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    validated: dict[int, dict[str, Any]] = {}
    measured: list[dict[str, Any]] = []

    class Worse(Pretrained):
        """Whose first epoch is its best."""

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            validated[self.trainer.global_step] = state(self)
            self.log("val/worse", float(self.trainer.global_step))

        def val_dataloader(self) -> Any:
            return DataLoader(range(2))

    def evidence(trainer: L.Trainer, groups: dict[str, Any], _: Any) -> dict[str, float]:
        measured.append(state(trainer.lightning_module))
        return dict.fromkeys(groups, 1.0)

    monkeypatch.setattr("lightning_transfer.transfer.adaptive.relative_gradient_norms", evidence)
    plateau = {"monitor": "val/worse", "mode": "min", "patience": 1, "restore_best": True}
    trainer(AdaptiveUnfreezing(until={"plateau": plateau}), num_sanity_val_steps=0).fit(Worse())
    for name in HEAD:
        torch.testing.assert_close(measured[0][name], validated[6][name], rtol=0, atol=0)


def test_all_that_pays_thaws_at_once() -> None:
    recorder = Recorder()
    unfreezing = AdaptiveUnfreezing(until={"steps": 4}, threshold=0.0)
    trainer(unfreezing, recorder).fit(Pretrained())
    assert unfreezing.decisions[0].thawed == ["body.0", "body.2"]
    assert recorder.trainable[3] == HEAD
    assert recorder.trainable[4] == {name for name, _ in Pretrained().named_parameters()}
    assert len(unfreezing.decisions) == 1, "nothing is left to be decided"
    assert unfreezing.outcome["phases_begun"] == unfreezing.outcome["phases"] == 2


def test_deepest_group_that_pays_thaws_with_all_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = {"head": 9.0}  # which is no measure of the others
    monkeypatch.setattr("lightning_transfer.transfer.adaptive.relative_gradient_norms", lambda *_: evidence)
    both = ["body.0", "body.2"]
    for lower, upper, threshold, thawed in ((0.5, 0.1, 0.3, both), (0.1, 0.2, 0.3, both), (0.1, 0.2, 0.6, both[1:])):
        evidence |= {"body.0": lower, "body.2": upper}
        unfreezing = AdaptiveUnfreezing(until={"steps": 4}, threshold=threshold)
        trainer(unfreezing).fit(Pretrained())
        assert unfreezing.decisions[0].thawed == thawed


def test_learning_rates_are_those_of_the_optimizer() -> None:
    seen = []

    class Rates(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    module = Pretrained()
    module.make_optimizer = lambda module: torch.optim.SGD(parameter_groups(module, lr=0.1, lr_decay=2.0))
    trainer(AdaptiveUnfreezing(until={"steps": 4}, threshold=0.0), Rates()).fit(module)
    assert {rate for rates in seen for rate in rates} == {0.1, 0.05, 0.025}
    assert all(rates == seen[0] for rates in seen)


def test_plateau_ends_a_phase_and_the_evidence_is_logged(tmp_path: Path) -> None:
    module = Pretrained()
    module.validation_step = lambda *_: module.log("val/loss", torch.tensor(1.0))  # type: ignore[method-assign]
    unfreezing = AdaptiveUnfreezing(until={"plateau": {"monitor": "val/loss", "patience": 1}}, threshold=0.0)
    logger = CSVLogger(tmp_path, name="", version="run")
    trainer(unfreezing, logger=logger, log_every_n_steps=1).fit(module)
    [decision] = unfreezing.decisions
    assert decision.step == 12
    text = (tmp_path / "run" / "metrics.csv").read_text()
    assert all(f"evidence/{group}" in text.splitlines()[0] for group in BODY)
    assert str(decision.evidence["body.2"])[:8] in text


@pytest.mark.parametrize("step", [4, 8])
def test_decisions_of_a_resumed_run_are_the_checkpoints(step: int, tmp_path: Path) -> None:
    module, other = Pretrained(), Pretrained()
    with torch.no_grad():
        for each in (module, other):
            each.body[0].weight.mul_(10)  # finds little at first, and decides again later
    changes = {"until": {"steps": 4}, "threshold": 0.6}
    whole = fit("adaptive", module, tmp_path, changes=changes)
    run = fit("adaptive", other, resume=tmp_path / f"step={step}.ckpt", changes=changes)
    torch.testing.assert_close(other.state_dict(), module.state_dict(), rtol=0, atol=0)
    decisions = [
        found.decisions for fitted in (whole, run) if isinstance(found := unfreezing_of(fitted), AdaptiveUnfreezing)
    ]
    assert decisions[0] == decisions[1]
    assert len(decisions[0]) >= 2


def test_module_that_steps_by_hand_and_divided_weights_are_refused() -> None:
    module = Pretrained()
    module.automatic_optimization = False
    with pytest.raises(UserError, match="steps its optimizers by hand: use ProgressiveUnfreezing"):
        trainer(AdaptiveUnfreezing()).fit(module)
    divided: Any = type("Divided", (), {"strategy": FullyShardedStrategy()})()
    with pytest.raises(UserError, match="AdaptiveUnfreezing does not go with FullyShardedStrategy"):
        AdaptiveUnfreezing().setup(divided, Pretrained(), "fit")
    with pytest.raises(UserError, match=r"threshold is 2: expected a share from 0 to 1"):
        AdaptiveUnfreezing(threshold=2)


def test_plan_says_that_the_evidence_decides(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["quickstart_transfer.yaml", "strategies/adaptive.yaml", "hardware/cpu.yaml"]
    main(["plan", *(word for file in files for word in ("--config", f"configs/{file}"))])
    text = capsys.readouterr().out
    assert "at least 0.3 of the largest below the head; above is the deepest course" in text
    assert "plateau of val/loss" in text
