"""Adversarial training: where documents are moved to, what is trained on them, and what is refused."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_transfer import AdversarialClassifier, Classifier, DemoTexts, LSTMClassifier, SeedCNN
from lightning_transfer.errors import UserError
from lightning_transfer.modules.adversarial import MovableEmbedding

TOKEN_IDS = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9], [1, 2, 0, 0]])
LENGTHS = torch.tensor([3, 4, 2])


class BagOfWords(nn.Module):
    """Reads [batch, time] in this order, or with the time first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)
        self.batch_first = batch_first

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(token_ids.shape[1]) < lengths.unsqueeze(1)).unsqueeze(2)
        embedded = self.embedding(token_ids) if self.batch_first else self.embedding(token_ids.t()).transpose(0, 1)
        self.embedded = embedded.detach()
        return self.head((embedded * mask).sum(1))


def losses(network: nn.Module, norm: float, token_ids: Tensor = TOKEN_IDS) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.arange(len(token_ids)) % 2

    with MovableEmbedding(network.embedding) as embedding:
        logits = network(token_ids, LENGTHS)
        loss = nn.functional.cross_entropy(logits, labels)
        embedding.move(loss, token_ids, norm)
        return logits, loss, nn.functional.cross_entropy(network(token_ids, LENGTHS), labels)


@pytest.mark.parametrize("token_ids", [TOKEN_IDS, TOKEN_IDS[:, [0, 1, 3]]], ids=["oblong", "square"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_each_document_moves_by_the_norm_within_its_length(batch_first: bool, token_ids: Tensor) -> None:
    torch.manual_seed(0)
    network = BagOfWords(batch_first)
    network(token_ids, LENGTHS)
    before = network.embedded
    losses(network, 0.5, token_ids)
    step = network.embedded - before
    torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((3,), 0.5))
    assert step[2, 2:].eq(0).all()


def test_moved_batch_has_a_higher_loss_and_the_other_is_as_it_was() -> None:
    torch.manual_seed(0)
    network = BagOfWords(batch_first=False)
    logits, loss, moved = losses(network, 0.5)
    assert torch.equal(logits, network(TOKEN_IDS, LENGTHS))
    assert moved > loss
    assert losses(network, 0.0)[2] == loss


def test_gradients_are_those_of_both_losses_with_the_step_as_given() -> None:
    torch.manual_seed(0)
    network = BagOfWords(batch_first=True)
    _, loss, moved = losses(network, 0.5)
    (loss + moved).backward()
    pooled = network.embedded * (torch.arange(4) < LENGTHS.unsqueeze(1)).unsqueeze(2)
    probabilities = network.head(pooled.sum(1)).softmax(1) - nn.functional.one_hot(torch.arange(3) % 2, 2)
    by_hand = probabilities.mean(0)
    clean = (network(TOKEN_IDS, LENGTHS).softmax(1) - nn.functional.one_hot(torch.arange(3) % 2, 2)).mean(0)
    torch.testing.assert_close(network.head.bias.grad, by_hand + clean)


def test_frozen_embedding_is_moved_too_and_stays_frozen() -> None:
    network = BagOfWords(batch_first=True)
    network.embedding.requires_grad_(False)
    _, loss, moved = losses(network, 0.5)
    (loss + moved).backward()
    assert moved > loss
    assert network.embedding.weight.grad is None


def test_fit_trains_on_the_moved_batch_and_evaluates_as_it_is() -> None:
    weights = []
    for norm in (0.0, 1.0, 1.0):
        L.seed_everything(0)
        data = DemoTexts("target", batch_size=16)
        data.prepare_data()
        network = LSTMClassifier(data.vocabulary_size, embedding_size=8, hidden_size=8, bigrams=50)
        model = AdversarialClassifier(network, 2, adversarial_norm=norm) if norm else Classifier(network, 2)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_steps=5
        )
        trainer.fit(model, datamodule=data)
        assert not network.embedding._forward_hooks
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


# The third document has 2 tokens of 4.
@pytest.mark.parametrize(("steps", "norms"), [(2, [0.5, 0.5, 0.0]), (3, [0.5, 0.5, 0.5])])
def test_what_is_read_without_gradients_or_is_padding_is_not_moved(steps: int, norms: list[float]) -> None:
    torch.manual_seed(0)
    network = LSTMClassifier(10, embedding_size=4, hidden_size=4, gradient_tokens=steps)
    embedded: list[Tensor] = []
    network.embedding_dropout.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0].detach()))
    losses(network, 0.5)
    early, late, moved_early, moved_late = embedded
    assert torch.equal(moved_early, early)
    lengths = (moved_late - late).transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor(norms))


def test_network_in_bfloat16_stays_in_it() -> None:
    torch.manual_seed(0)
    network = BagOfWords(batch_first=True).bfloat16()
    _, loss, moved = losses(network, 0.5)
    assert network.embedded.dtype == torch.bfloat16
    assert moved > loss


def test_network_that_embeds_twice_is_refused_in_one_line() -> None:
    network = BagOfWords(batch_first=True)

    def embed_too(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        network.embedding(inputs[0])

    network.register_forward_pre_hook(embed_too)
    with pytest.raises(UserError, match="embeds the tokens of a batch 2 times"):
        losses(network, 0.5)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (LSTMClassifier(10), {"adversarial_norm": -1.0}, "model.adversarial_norm is -1.0: expected above 0"),
        (SeedCNN(2), {"adversarial_norm": 1.0}, "model.network is SeedCNN: expected a network with an nn.Embedding"),
        (LSTMClassifier(10), {"adversarial_norm": 1.0, "compile": True}, "model.compile is true: expected false"),
        (
            LSTMClassifier(10),
            {"adversarial_norm": 1.0, "cache_features": True},
            "cache_features is true: expected false",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(network: nn.Module, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdversarialClassifier(network, 2, **arguments)
