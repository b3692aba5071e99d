"""Ways of fine-tuning: what trains in each; each over a resume in mid-epoch and on two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from launching import run_ranks
from strategy_toys import HEAD, STRATEGIES, Pretrained, fit, moved, state
from torch import nn
from unfreezing_toys import Recorder, trainer

from lightning_transfer import ProgressiveUnfreezing, SeedCNN
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.resolution import ResolvedSchedule

NORM_AND_BIAS = {"body.0.bias", "body.2.bias", "body.3.weight", "body.3.bias"}
STATISTICS = {"body.3.running_mean", "body.3.running_var", "body.3.num_batches_tracked"}


def resolved(module: nn.Module, **options: Any) -> ResolvedSchedule:
    return ProgressiveUnfreezing(**options).resolve(module)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_in_mid_epoch_equals_the_uninterrupted_run(strategy: str, tmp_path: Path) -> None:
    module, resumed = Pretrained(), Pretrained()
    whole = fit(strategy, module, tmp_path)
    for step in (4, 16):
        run = fit(strategy, resumed, resume=tmp_path / f"step={step}.ckpt")
        torch.testing.assert_close(resumed.state_dict(), module.state_dict(), rtol=0, atol=0)
        states = [found.optimizers[0].state_dict()["state"] for found in (run, whole)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.slow
def test_replicas_of_every_strategy_are_equal_and_trained(tmp_path: Path) -> None:
    first, second = run_ranks("strategy_replicas.py", tmp_path)
    before = Pretrained().state_dict()
    for strategy in STRATEGIES:
        names = [name for name in first[strategy] if "running" not in name]  # each rank's are those of its batches
        assert all(torch.equal(first[strategy][name], second[strategy][name]) for name in names), strategy
        assert not torch.equal(first[strategy]["head.weight"], before["head.weight"]), strategy


def test_lp_ft_trains_the_head_for_half_of_the_training_and_then_everything() -> None:
    module, recorder = Pretrained(), Recorder()
    fit("lp_ft", module, more=[recorder])
    assert [names == HEAD for names in recorder.trainable] == [True] * 9 + [False] * 9
    assert recorder.trainable[9] == {name for name, _ in module.named_parameters()}
    assert moved(module, recorder.weights[9]) == {*module.state_dict()}
    assert {
        name for name in recorder.weights[0] if not torch.equal(*(w[name] for w in recorder.weights[:10:9]))
    } == HEAD


@pytest.mark.parametrize(("place", "group"), [(0, "body.0"), (1, "body.2"), (-2, "body.2")])
def test_surgical_trains_the_head_and_one_group(place: int, group: str) -> None:
    module = Pretrained()
    before = state(module)
    changes = {} if place == 0 else {"phases": [{"groups": [place, -1]}]}
    fit("surgical", module, changes=changes)
    names = [name for name in before if any(name.startswith(f"{path}.") for path in Pretrained.layer_groups[group])]
    assert moved(module, before) == {*names} | HEAD


def test_place_beyond_the_layer_groups_is_refused() -> None:
    with pytest.raises(UserError, match=r"phase 1: layer group 3 is not one of body\.0, body\.2, head"):
        resolved(Pretrained(), phases=[{"groups": [3]}])


def test_norm_and_bias_moves_norm_layers_and_biases_and_the_head_alone() -> None:
    module = Pretrained()
    before = state(module)
    run = fit("norm_and_bias", module)
    assert moved(module, before) == NORM_AND_BIAS | STATISTICS | HEAD
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    held = {names[id(parameter)] for parameter in run.optimizers[0].state}
    assert held == NORM_AND_BIAS | HEAD, "frozen weights have no state"
    assert all(parameter.requires_grad for parameter in module.parameters()), "as before the fit"


def test_a_filter_of_parameters_holds_in_every_phase_of_a_schedule() -> None:
    module, recorder = Pretrained(), Recorder()
    unfreezing = ProgressiveUnfreezing(until={"epochs": 1}, parameters=["bias"])
    trainer(unfreezing, recorder).fit(module)
    later = {"body.2.bias", "body.3.bias"} | HEAD
    assert recorder.trainable[::6] == [HEAD, later, later | {"body.0.bias"}]
    count = sum(module.get_parameter(name).numel() for name in later | {"body.0.bias"})
    total = sum(parameter.numel() for parameter in module.parameters())
    assert f"{count}          {100 * count / total:.1f} %" in unfreezing.plan_text


def test_norm_layer_of_which_nothing_trains_keeps_its_statistics_in_a_group_that_trains() -> None:
    module, recorder = Pretrained(), Recorder()
    trainer(ProgressiveUnfreezing(schedule="full", parameters=["body.?.weight", "body.2.bias"]), recorder).fit(module)
    assert STATISTICS & moved(module, recorder.weights[0]), "its weight trains"
    recorder = Recorder()
    trainer(ProgressiveUnfreezing(schedule="full", parameters=["body.[02].*"]), recorder).fit(module)
    assert moved(module, recorder.weights[0]) == {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"} | HEAD


class ScaleNorm(nn.Module):
    """A norm layer of no library."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


KINDS = {
    "attention and layer norm": (nn.TransformerEncoderLayer(4, 1, 4), 4, 6),
    "LSTM": (nn.LSTM(4, 4), 0, 2),
    "a norm layer of one's own": (nn.Sequential(ScaleNorm(), nn.Linear(4, 4)), 1, 1),
    "group norm of several dimensions": (nn.Sequential(nn.LayerNorm([2, 2]), nn.Linear(4, 4)), 2, 2),
}


@pytest.mark.parametrize("network", KINDS)
def test_kinds_of_parameters_are_found_in(network: str) -> None:
    body, norms, biases = KINDS[network]
    module = nn.ModuleDict({"body": body, "head": nn.Linear(4, 2)})
    for kind, count in (("norm", norms), ("bias", biases)):
        if count:
            groups = resolved(module, layer_groups=["body", "head"], schedule="full", parameters=[kind]).groups
            assert len(groups["body"].parameters) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ["*.bais"]}, r"parameters has '\*\.bais', which is the name of none: expected norm, bias or"),
        ({"parameters": ["norm"]}, "parameters is norm: below the head there is nothing of it to train"),
        ({"parameters": ["head.*"]}, r"parameters is head\.\*: below the head there is nothing"),
        (
            {
                "parameters": ["hidden1.bias"],
                "phases": [{"groups": ["hidden1"], "until": {"epochs": 1}}, {"groups": [0]}],
            },
            "phase 2: the weights of convolution1 have nothing of what may train, hidden1.bias; drop the phase",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(SeedCNN(3), **{"rest": "frozen", **options})
