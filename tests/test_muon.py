"""The optimizer: orthogonal steps for filters, SGD for the rest, one object for everything around it."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import Muon, parameter_groups
from lightning_transfer.errors import UserError
from lightning_transfer.modules.muon import orthogonalise


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 4))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(32, 3, 6, 6, generator=generator), torch.randint(4, (32,), generator=generator)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_parameters_that_begin_at_zero_stay_finite_and_only_filters_are_scaled() -> None:
    token, scale = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.full((4, 1, 1), 1e-6))
    filters = nn.Parameter(torch.zeros(2, 3, 3, 3))
    for parameter in (token, scale, filters):
        parameter.grad = torch.full_like(parameter, 1e-3)
    Muon([token, scale, filters], sgd_lr=0.1, sgd_momentum=0.5).step()
    assert filters.isfinite().all()
    # SGD with Nesterov momentum: the grad and half of it once more.
    torch.testing.assert_close(token, torch.full_like(token, -1.5e-4))
    torch.testing.assert_close(scale, torch.full_like(scale, 1e-6 - 1.5e-4))


@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (8, 8)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    [result, scaled] = orthogonalise(torch.stack([matrix, 9 * matrix]), iterations=6)
    torch.testing.assert_close(scaled, result)
    assert ((torch.linalg.svdvals(result) - 1).abs() < 0.4).all()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest = left @ right
    assert F.cosine_similarity(result.flatten(), nearest.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 1, 2, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_step_of_a_filter_has_the_length_of_the_learning_rate_in_every_direction(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
    weight.requires_grad_()
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(memory_format=memory_format)
    start = weight.detach() * (8**0.5 / weight.detach().norm())
    Muon([weight], lr=0.1).step()
    singular_values = torch.linalg.svdvals(((start - weight) / 0.1).detach().flatten(1))
    assert ((singular_values - 1).abs() < 0.4).all()


def test_filters_of_one_shape_move_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, gradients = torch.randn(2, 3, 8, 4, 3, 3, generator=generator)
    together, alone = ([nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    Muon(together).step()
    for parameter in alone:
        Muon([parameter]).step()
    torch.testing.assert_close(together, alone)


def test_groups_move_as_each_alone_whether_or_not_their_settings_agree() -> None:
    together, alone = small_network(), small_network()
    paths = ["0", "1", "3"]
    joined = Muon(parameter_groups(together, paths, lr=0.1, lr_decay=1))
    single = [Muon([group]) for group in parameter_groups(alone, paths, lr=0.1, lr_decay=1)]
    joined.param_groups[2]["lr"] = single[2].param_groups[0]["lr"] = 0.05
    for network, optimizers in ((together, [joined]), (alone, single)):
        F.cross_entropy(network(torch.ones(4, 3, 6, 6)), torch.arange(4)).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close([*together.parameters()], [*alone.parameters()])


def test_rest_moves_as_under_sgd_with_nesterov_momentum() -> None:
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer = Muon(ours.parameters(), lr=0.24, sgd_lr=0.05, sgd_momentum=0.8, weight_decay=0.01)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01)
    for step in range(5):
        for network, steps in ((ours, optimizer), (theirs, sgd)):
            steps.zero_grad()
            network(torch.arange(12.0).view(2, 6) - step).square().mean().backward()
            steps.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_training_brings_the_loss_down() -> None:
    network = small_network()
    losses = train(network, Muon(network.parameters(), lr=0.05), 40)
    assert losses[-1] < 0.2 * losses[0]


def test_parameter_without_grad_stays_and_has_no_state() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    optimizer = Muon(network.parameters(), weight_decay=0.1)
    train(network, optimizer, 2)
    assert torch.equal(network[0].weight, before)
    assert network[0].weight not in optimizer.state


def test_schedule_scales_filters_and_rest_alike() -> None:
    def moves(factor: float) -> tuple[Tensor, Tensor]:
        network = small_network()
        before = [network[0].weight.clone() * (8**0.5 / network[0].weight.norm()), network[3].weight.clone()]
        optimizer = Muon(network.parameters())
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor)
        train(network, optimizer, 1)
        return network[0].weight - before[0], network[3].weight - before[1]

    for whole, half in zip(moves(1.0), moves(0.5), strict=True):
        torch.testing.assert_close(half, whole / 2, rtol=1e-3, atol=1e-6)


def test_resumed_from_its_state_goes_on_as_if_uninterrupted() -> None:
    def build() -> tuple[nn.Module, Muon]:
        network = small_network()
        return network, Muon(network.parameters(), lr=0.05)

    network, optimizer = build()
    train(network, optimizer, 3)
    resumed, resumed_optimizer = build()
    resumed.load_state_dict(network.state_dict())
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((network, optimizer), (resumed, resumed_optimizer)):
        train(*pair, 3)
    for one, other in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_named_groups_keep_their_learning_rates() -> None:
    groups = parameter_groups(small_network(), ["0", "1", "3"], lr=0.2, lr_decay=2, decay_norm_and_bias=False)
    optimizer = Muon(groups, weight_decay=0.1)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        *(("0", 0.05, 0.1), ("0/no_decay", 0.05, 0.0)),
        *(("1/no_decay", 0.1, 0.0),),
        *(("3", 0.2, 0.1), ("3/no_decay", 0.2, 0.0)),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"sgd_lr": -1.0}, "sgd_lr is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"sgd_momentum": 0.0}, "sgd_momentum is 0.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Muon([nn.Parameter(torch.zeros(2))], **arguments)


def test_step_with_a_closure_returns_its_loss() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Muon([parameter])

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
