"""Attributions against cases whose answer is known."""

from typing import Literal

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_transfer import Classifier, LSTMClassifier
from lightning_transfer.dashboards.attribution import evaluating, grad_cam, gradient_times_input
from lightning_transfer.networks.bigrams import BigramEmbedding
from lightning_transfer.transfer.shown_groups import own_groups


class Corners(L.LightningModule):
    """Class 0 sees what is bright in the left half, class 1 in the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.second = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(inplace=True))
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.first.weight.fill_(1)
            self.second[0].weight.zero_()
            self.second[0].weight[:, :, 1, 1] = 1
            self.head.weight.copy_(torch.eye(2))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.first(images))
        half = maps.shape[3] // 2
        return self.head(torch.stack([maps[:, 0, :, :half].mean((1, 2)), maps[:, 1, :, half:].mean((1, 2))], 1))


class BagOfWords(L.LightningModule):
    """Sums what each token says for the single logit; time comes first, as in recurrent networks."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(3, 1, bias=False)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.embedding(token_ids.t())
        kept = torch.arange(len(embedded))[:, None] < lengths
        return self.head((embedded * kept[:, :, None]).sum(0))


@pytest.fixture
def trainer() -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.parametrize("frozen", [False, True])
def test_grad_cam_is_bright_where_the_evidence_is(frozen: bool, trainer: L.Trainer) -> None:
    module = Corners().requires_grad_(not frozen)
    images = torch.zeros(2, 1, 8, 8)
    images[0, :, 1:3, 1:3] = 1
    images[1, :, 5:7, 5:7] = 1
    with evaluating(trainer, module, with_gradients=True):
        maps, logits = grad_cam(module, own_groups(module), images)
    assert logits.argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(maps, images[:, 0])
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("with_pairs", [False, True])
def test_gradient_times_input_adds_up_to_a_linear_logit(with_pairs: bool, trainer: L.Trainer) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(5, 3)
    if with_pairs:
        embedding = BigramEmbedding(embedding.weight, 2)
        embedding.fit(torch.tensor([1, 2, 2, 0]))
        nn.init.normal_(embedding.pair_weight)
    module = BagOfWords(embedding)
    token_ids, lengths = torch.tensor([[1, 2, 3], [4, 1, 0], [2, 2, 2]]), torch.tensor([3, 2, 3])
    with evaluating(trainer, module, with_gradients=True):
        scores, logits = gradient_times_input(module, own_groups(module), token_ids, lengths)
    # For the predicted class: of a negative logit that is the other one.
    torch.testing.assert_close(scores.sum(1), logits[:, 0].abs())
    assert scores[1, 2] == 0


@pytest.mark.parametrize("first_token", [0, 3])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_scores_stand_at_the_tokens_that_the_network_rests_on(
    direction: Literal["forward", "backward"], first_token: int, trainer: L.Trainer
) -> None:
    torch.manual_seed(0)
    network = LSTMClassifier(20, direction=direction, pooling="mean", embedding_size=4, hidden_size=5)
    with torch.no_grad():
        network.embedding.weight[:7] *= 0.01
        network.embedding.weight[8:] *= 0.01
    module = Classifier(network, 2)
    token_ids, lengths = torch.randint(8, 20, (2, 9)), torch.tensor([9, 6])
    token_ids[:, 0] = first_token
    token_ids[0, 2] = token_ids[1, 4] = 7
    with evaluating(trainer, module, with_gradients=True):
        scores, _ = gradient_times_input(module, own_groups(module), token_ids, lengths)
    assert scores.abs().argmax(1).tolist() == [2, 4]
    assert scores[1, 6:].tolist() == [0, 0, 0]


def test_evaluating_leaves_modes_as_they_were_also_after_an_error(trainer: L.Trainer) -> None:
    module = Corners()
    module.first.eval()
    modes: list[bool] = []

    def fail() -> None:
        with evaluating(trainer, module):
            modes.extend(part.training for part in module.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(modes)
    assert module.training
    assert not module.first.training
    assert torch.is_grad_enabled()
