"""The layer groups of a module that names none: what acts below the head, or looks at it, finds it all the same."""

from typing import Any

import pytest
import torch
from strategy_toys import callbacks, state
from torch import Tensor, nn
from unfreezing_toys import ToyModule, trainer

from lightning_transfer import Classifier, SpectralShrinkage, StartingPointPenalty
from lightning_transfer.errors import UserError
from lightning_transfer.run.explanations.neighbours import embeddings, nearest
from lightning_transfer.run.explanations.scores import Scores
from lightning_transfer.transfer.shown_groups import own_groups


class Wrapped(ToyModule):
    """A network without layer groups, in one attribute of its module, as other people write it."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"model": network or nn.Sequential(nn.Sequential(*self.body), self.head)})
        del self.body, self.head

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network["model"](inputs)


def test_groups_of_a_wrapped_network_are_its_children_and_those_of_one_layer_that_layer() -> None:
    assert [*own_groups(Wrapped())] == ["network.model.0", "network.model.1"]
    assert [*own_groups(Classifier(nn.Sequential(nn.Flatten(), nn.Conv2d(3, 2, 1), nn.Linear(4, 2)), 2))] == [
        "network.1",
        "network.2",
    ]
    assert [*own_groups(Classifier(nn.Linear(4, 2), 2))] == ["network"]
    assert [*own_groups(ToyModule())] == ["body", "head"]


def test_penalty_acts_below_the_head_of_a_network_without_layer_groups() -> None:
    module = Wrapped()
    start = state(module)
    distances = []
    for strength in (0.0, 10.0):
        module.load_state_dict(start)
        trainer(StartingPointPenalty(strength)).fit(module)
        distances.append(
            float((module.state_dict()["network.model.0.0.weight"] - start["network.model.0.0.weight"]).norm())
        )
    assert distances[1] < 0.5 * distances[0]


def test_features_of_a_network_without_layer_groups_are_what_its_last_child_is_given() -> None:
    seen: list[torch.Size] = []

    class Seen(SpectralShrinkage):
        def penalty(self, features: Tensor) -> Tensor:
            seen.append(features.shape)
            return super().penalty(features)

    module = Wrapped()
    trainer(Seen()).fit(module)
    assert {*seen} == {torch.Size([8, 8])}  # and not the inputs, [8, 4]
    images = torch.randn(2, 3, 4, 4)
    network = nn.Sequential(nn.Conv2d(3, 5, 4), nn.Flatten(), nn.Linear(5, 2))
    assert embeddings(Scores(Classifier(network, 2)), [(images,)]).shape == (2, 5)


class TokenHead(nn.Linear):
    """A head that is given the features of each token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).mean(1)


def test_features_of_several_lengths_are_not_compared() -> None:
    network = nn.Sequential(nn.Embedding(9, 3), TokenHead(3, 2))
    texts = [(torch.ones(2, length, dtype=torch.long),) for length in (4, 6)]
    scores = Scores(Classifier(network, 2))
    with pytest.raises(UserError, match="the head is given 12 to 18 numbers: expected as many of each example"):
        embeddings(scores, texts)
    with pytest.raises(UserError, match="is given 12 to 18 numbers"):
        nearest(embeddings(scores, texts[:1]), embeddings(scores, texts[1:]), 2)


@pytest.mark.parametrize("strategy", ["l2_sp", "bss", "lwf", "wise_ft"])
def test_strategy_that_acts_below_the_head_refuses_a_network_that_is_a_head_alone(strategy: str) -> None:
    given: Any = trainer(*callbacks(strategy))
    with pytest.raises(
        UserError, match=r"layer groups of Wrapped are network\.model: expected a head and others below"
    ):
        given.fit(Wrapped(nn.Linear(4, 2)))
