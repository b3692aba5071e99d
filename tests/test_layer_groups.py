"""Layer groups and optimizer groups: what a path takes, which learning rate it gets, what is said when it fails."""

import pytest
import torch
from torch import nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup, resolve_layer_groups
from lightning_transfer.transfer.param_groups import build_optimizer, parameter_groups


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)])
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 2)


class TiedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.embedding.weight


def names(groups: dict[str, LayerGroup], group: str) -> list[str]:
    return list(groups[group].parameters)


def test_groups_keep_the_order_from_input_to_head() -> None:
    groups = resolve_layer_groups(Network(), ["backbone", "norm", "head"])
    assert list(groups) == ["backbone", "norm", "head"]
    assert names(groups, "head") == ["head.weight", "head.bias"]
    assert len(names(groups, "backbone")) == 22


def test_a_path_is_exact_on_components() -> None:
    groups = resolve_layer_groups(Network(), ["backbone.1", "head"], rest="frozen")
    assert names(groups, "backbone.1") == ["backbone.1.weight", "backbone.1.bias"]


def test_a_glob_stays_within_its_component() -> None:
    patterns = {"low": ["backbone.[0-4]"], "high": ["backbone.[5-9]", "backbone.10"], "head": "head"}
    groups = resolve_layer_groups(Network(), patterns, rest="frozen")
    assert [len(names(groups, name)) for name in ("low", "high", "head")] == [10, 12, 2]
    assert len(names(resolve_layer_groups(nn.Sequential(Network()), ["*.head"], rest="frozen"), "*.head")) == 2


def test_a_parameter_path_is_a_group_too() -> None:
    groups = resolve_layer_groups(Network(), ["norm.weight", "head"], rest="frozen")
    assert names(groups, "norm.weight") == ["norm.weight"]


def test_paths_are_found_through_torch_compile() -> None:
    network = Network()
    network.backbone = torch.compile(network.backbone)  # type: ignore[assignment]
    groups = resolve_layer_groups(network, ["backbone.0", "head"], rest="frozen")
    assert names(groups, "backbone.0") == ["backbone._orig_mod.0.weight", "backbone._orig_mod.0.bias"]


def test_tied_weights_are_in_the_group_that_thaws_first() -> None:
    layers = ["embedding", "body", "decoder"]
    assert names(resolve_layer_groups(TiedNetwork(), layers), "embedding") == []
    assert names(resolve_layer_groups(TiedNetwork(), layers), "decoder") == ["embedding.weight", "decoder.bias"]
    bottom_up = resolve_layer_groups(TiedNetwork(), layers, thaw_order=layers)
    assert names(bottom_up, "embedding") == ["embedding.weight"]


def test_equal_values_are_not_tied_weights() -> None:
    network = nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))
    groups = resolve_layer_groups(network, ["0", "1"])
    assert [names(groups, group) for group in groups] == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]


def test_what_is_outside_all_groups_is_an_error_unless_rest_says_so() -> None:
    with pytest.raises(UserError, match=r"in no layer group: norm.weight, norm.bias; add a group, or set rest"):
        resolve_layer_groups(Network(), ["backbone", "head"])
    assert names(resolve_layer_groups(Network(), ["backbone", "head"], rest="trainable"), "rest") == [
        "norm.weight",
        "norm.bias",
    ]


def test_a_parameter_the_user_froze_need_not_be_covered() -> None:
    network = Network()
    network.norm.requires_grad_(False)
    assert list(resolve_layer_groups(network, ["backbone", "head"])) == ["backbone", "head"]


@pytest.mark.parametrize(
    ("layer_groups", "message"),
    [
        (["backbone", "hed"], r"layer group 'hed': 'hed' matches nothing; there are backbone, norm, head"),
        (["backbone.11", "head"], r"'backbone.11' matches nothing; 'backbone' has 0, 1, .*, 10"),
        ({"all": ["*"], "head": ["head"]}, r"layer groups 'all' and 'head' overlap: both take 'head.weight'"),
        (["head", "head"], "layer group 'head' is listed twice"),
        ([], "layer_groups is empty"),
        ({"head": []}, "layer group 'head' is empty"),
        ("head", "layer_groups is the text 'head'"),
    ],
)
def test_layer_groups_that_do_not_fit_are_explained(layer_groups, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        resolve_layer_groups(Network(), layer_groups)


def test_a_group_without_parameters_is_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(UserError, match=r"layer group '1' \(1\) has no parameters"):
        resolve_layer_groups(network, ["0", "1"])


def test_learning_rates_decay_from_head_to_input() -> None:
    groups = parameter_groups(Network(), ["backbone", "norm", "head"], lr=0.1, lr_decay=2.0)
    assert [(group["name"], group["lr"]) for group in groups] == [("backbone", 0.025), ("norm", 0.05), ("head", 0.1)]


def test_learning_rates_decay_as_in_ulmfit_unless_told_otherwise() -> None:
    groups = parameter_groups(Network(), ["backbone", "norm", "head"], lr=0.1)
    assert [group["lr"] for group in groups] == pytest.approx([0.1 / 2.6**2, 0.1 / 2.6, 0.1])


def test_the_optimizer_holds_each_parameter_once_by_identity() -> None:
    network = TiedNetwork()
    groups = parameter_groups(network, ["embedding", "body", "decoder"], lr=0.1)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())
    torch.optim.SGD(groups, lr=0.1)


def test_norms_and_biases_can_be_exempt_from_weight_decay() -> None:
    network = Network()
    groups = parameter_groups(network, ["backbone", "norm", "head"], lr=0.1, lr_decay=1.0, decay_norm_and_bias=False)
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {
        "backbone": 0.5,
        "backbone/no_decay": 0.0,
        "norm/no_decay": 0.0,
        "head": 0.5,
        "head/no_decay": 0.0,
    }
    exempt = {id(p) for group in groups if group["name"].endswith("no_decay") for p in group["params"]}
    assert exempt == {id(p) for p in network.parameters() if p.ndim == 1}


def test_build_optimizer_decays_the_factorys_own_learning_rate_before_a_scheduler_sees_it() -> None:
    optimizer = build_optimizer(
        Network(),
        lambda params: torch.optim.SGD(params, lr=0.4, momentum=0.9),
        ["backbone", "norm", "head"],
        lr_decay=2.0,
    )
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    assert scheduler.base_lrs == [0.1, 0.2, 0.4]
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "norm", "head"]


def test_rest_is_left_out_or_gets_the_heads_learning_rate() -> None:
    frozen = parameter_groups(Network(), ["backbone", "head"], lr=0.1, rest="frozen")
    trainable = parameter_groups(Network(), ["backbone", "head"], lr=0.1, rest="trainable")
    assert [group["name"] for group in frozen] == ["backbone", "head"]
    assert trainable[-1]["name"] == "rest"
    assert trainable[-1]["lr"] == 0.1


def test_a_module_without_layer_groups_is_told_what_to_give() -> None:
    with pytest.raises(UserError, match=r"Network names no layer_groups: .* \['backbone', 'norm', 'head'\]"):
        parameter_groups(Network(), lr=0.1)


def test_a_decay_below_one_is_an_error() -> None:
    with pytest.raises(UserError, match=r"lr_decay is 0.5: expected 1 to 1000"):
        parameter_groups(Network(), ["backbone", "norm", "head"], lr=0.1, lr_decay=0.5)
