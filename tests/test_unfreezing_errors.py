"""What is wrong with a schedule is said in one line, before the first optimizer step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from unfreezing_toys import GROUPS, Recorder, ToyModule, fit, trainer

from lightning_transfer import ExponentialMovingAverage, ProgressiveUnfreezing
from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.plateau import check_can_restore
from lightning_transfer.transfer.schedule import Phase, Plateau, Until


def refuse(message: str, module: ToyModule | None = None, **arguments: Any) -> None:
    """Fit, expect a one-line error that matches, and that no weight has moved."""
    module = module or ToyModule()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        fit(ProgressiveUnfreezing(**{"layer_groups": GROUPS, **arguments}), module)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer_groups": ["body.0", "body.2", "hed"]},
            r"layer group 'hed': 'hed' matches nothing; there are body, head",
        ),
        ({"layer_groups": {"low": ["body.*"], "first": ["body.0"], "head": ["head"]}}, "'low' and 'first' overlap"),
        (
            {"layer_groups": ["body.0", "head"]},
            "in no layer group: body.2.weight, body.2.bias; add a group, or set rest",
        ),
        ({"phases": [{"groups": ["hed"]}]}, "phase 1: layer group 'hed' is not one of body.0, body.2, head"),
        (
            {"phases": [{"groups": ["head"]}]},
            "no phase trains layer group body.0, body.2; add it to a phase, or set rest",
        ),
        ({"phases": [{"groups": []}]}, "phase 1: groups is empty"),
        ({"phases": [{"groups": ["head"]}], "schedule": "gradual"}, "phases are given as well as schedule"),
        ({"schedule": "gradul"}, "schedule 'gradul' is not one of linear_probe, full, gradual, chain"),
        ({"rest": "frozn"}, "rest 'frozn' is not one of frozen, trainable"),
        ({"frozen_norm_layers": "off"}, "frozen_norm_layers 'off' is not one of eval, tracking"),
        ({"lr_decay": 0.5}, "lr_decay is 0.5: expected 1 to 1000"),
        ({"until": {"epoch": 1}}, "until: unknown key 'epoch': expected epochs, steps, fraction, plateau"),
        ({"until": 3}, "until is 3: expected a mapping with epochs, steps, fraction, plateau"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    refuse(message, **arguments)


def test_a_module_without_layer_groups_is_told_what_to_give() -> None:
    refuse(r"ToyModule names no layer_groups: expected a list of .* \['body', 'head'\]", layer_groups=None)


def test_an_optimizer_that_lacks_a_scheduled_parameter_is_refused() -> None:
    module = ToyModule(optimizer=lambda module: torch.optim.SGD(module.head.parameters(), lr=0.1))
    refuse(r"the optimizer does not hold body.0.weight, .*: expected all parameters from the start", module)


def test_a_parameter_that_two_optimizers_hold_is_refused() -> None:
    class Twice(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self, self.head)]

    refuse("the optimizers hold head.weight, head.bias more than once: expected each parameter once", Twice())


def test_an_optimizer_may_lack_what_no_phase_trains() -> None:
    module = ToyModule(optimizer=lambda module: torch.optim.SGD(module.head.parameters(), lr=0.1))
    assert len(fit(ProgressiveUnfreezing(GROUPS, "linear_probe"), module, max_epochs=1).steps) == 6


def test_an_optimizer_over_what_requires_grad_holds_everything() -> None:
    module = ToyModule(optimizer=lambda m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1))
    assert len(fit(ProgressiveUnfreezing(GROUPS), module).trainable[-1]) == 6


@pytest.mark.parametrize("num_sanity_val_steps", [0, 2])
def test_a_plateau_metric_that_is_never_logged_is_refused_before_the_first_step(num_sanity_val_steps: int) -> None:
    module, recorder = ToyModule(), Recorder()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": "val/los", "mode": "min"}})
    run = trainer(unfreezing, recorder, num_sanity_val_steps=num_sanity_val_steps)
    with pytest.raises(
        UserError, match=r"phase 1 ends by a plateau of 'val/los', which neither .* train/loss, val/loss"
    ):
        run.fit(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_best_weights_are_not_restored_where_they_are_averaged_or_divided() -> None:
    unfreezing = ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": "val/loss", "restore_best": True}})
    with pytest.raises(UserError, match="restore_best does not go with an average of the weights"):
        trainer(unfreezing, ExponentialMovingAverage()).fit(ToyModule())
    divided: Any = SimpleNamespace(strategy=FullyShardedStrategy())
    with pytest.raises(UserError, match="restore_best does not go with FullyShardedStrategy"):
        check_can_restore(divided, [Phase(["head"], Until(plateau=Plateau("val/loss", restore_best=True)))])


def test_without_validation_only_what_training_logs_counts() -> None:
    module = ToyModule()
    with pytest.raises(UserError, match=r"a plateau of 'val/loss', .* logged are train/loss$"):
        fit(ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": "val/loss"}}), module, limit_val_batches=0)


def test_a_training_metric_logged_at_an_interval_is_awaited_until_the_epochs_end() -> None:
    class Interval(ToyModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            if batch_idx == 3:
                self.log("train/late", 1.0)
            return loss

    unfreezing = ProgressiveUnfreezing(
        GROUPS, until={"plateau": {"monitor": "train/late", "mode": "min", "patience": 1}}
    )
    fit(unfreezing, Interval(), max_epochs=5)
    assert unfreezing.phase_index == 2
    with pytest.raises(UserError, match="plateau of 'train/never'"):
        fit(ProgressiveUnfreezing(GROUPS, until={"plateau": {"monitor": "train/never", "mode": "min"}}), Interval())


def test_a_fraction_of_a_training_without_end_is_refused() -> None:
    with pytest.raises(
        UserError, match="phase 1 ends by a fraction of the training, whose length is not known: expected steps"
    ):
        fit(ProgressiveUnfreezing(GROUPS, until={"fraction": 0.5}), max_epochs=-1)


def test_a_strategy_that_shards_parameters_is_refused() -> None:
    class Wrapped(torch.nn.Module):
        pass

    run = trainer(ProgressiveUnfreezing(GROUPS))
    module = ToyModule()
    run.strategy.connect(module)
    run.strategy.model = Wrapped()
    with pytest.raises(UserError, match=r"FSDP2.*, not with SingleDeviceStrategy"):
        run.callbacks[0].on_fit_start(run, module)


def test_lbfgs_is_refused_where_a_phase_freezes_a_group_again() -> None:
    module = ToyModule(optimizer=lambda module: torch.optim.LBFGS(module.parameters(), lr=0.1))
    refuse(
        r"phase 2 freezes head again, which LBFGS goes on to move .*: use another optimizer", module, schedule="chain"
    )


def test_lbfgs_leaves_what_is_not_yet_thawed() -> None:
    module, recorder = ToyModule(optimizer=lambda module: torch.optim.LBFGS(module.parameters(), lr=0.1)), Recorder()
    trainer(ProgressiveUnfreezing(GROUPS), recorder).fit(module)
    first, last = recorder.weights[0], recorder.weights[12]
    assert {name for name in first if torch.equal(first[name], last[name])} == {"body.0.weight", "body.0.bias"}
