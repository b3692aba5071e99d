"""The LSTM classifier: padding is invisible, and both directions equal the packed reference."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_transfer.errors import UserError
from lightning_transfer.networks.bigrams import BigramEmbedding
from lightning_transfer.networks.layer_groups import resolve_layer_groups
from lightning_transfer.networks.lstm import LSTMClassifier, Pooling
from lightning_transfer.networks.lstm_layer import LSTMLayer, reversed_within_length
from lightning_transfer.networks.processor import trains_lstm_in_bfloat16

LENGTHS = torch.tensor([7, 1, 4, 7, 2])


def token_ids(lengths: Tensor = LENGTHS, padding: int = 0) -> Tensor:
    ids = torch.randint(1, 50, (len(lengths), int(lengths.max())), generator=torch.Generator().manual_seed(0))
    return ids.masked_fill(torch.arange(ids.shape[1]) >= lengths.unsqueeze(1), padding)


def network(**arguments: object) -> LSTMClassifier:
    torch.manual_seed(0)
    return LSTMClassifier(50, embedding_size=6, hidden_size=5, **arguments).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "max", "mean", "all"])
def test_padding_never_changes_a_logit(pooling: Pooling, bidirectional: bool) -> None:
    net = network(num_layers=2, bidirectional=bidirectional, pooling=pooling)
    logits = net(token_ids(), LENGTHS)
    more_padding = torch.cat([token_ids(padding=9), torch.full((5, 20), 13)], 1)
    torch.testing.assert_close(net(more_padding, LENGTHS), logits, rtol=0, atol=1e-6)
    alone = torch.cat([net(token_ids()[[row], :length], LENGTHS[[row]]) for row, length in enumerate(LENGTHS)])
    torch.testing.assert_close(alone, logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "max", "mean", "all"])
def test_padding_gets_no_gradient(pooling: Pooling) -> None:
    net = network(bidirectional=True, pooling=pooling)
    net(token_ids(padding=49), LENGTHS).sum().backward()
    used = torch.zeros(50, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        used[token_ids(padding=49)[row, :length]] = True
    assert (net.embedding.weight.grad.abs().sum(1) > 0).equal(used)


def packed_reference(layer: LSTMLayer, inputs: Tensor) -> Tensor:
    """The same weights in torch's own bidirectional LSTM over a packed sequence."""
    assert layer.backward_direction is not None
    reference = nn.LSTM(layer.forward_direction.input_size, layer.forward_direction.hidden_size, bidirectional=True)
    weights = dict(layer.forward_direction.named_parameters())
    weights |= {f"{name}_reverse": weight for name, weight in layer.backward_direction.named_parameters()}
    reference.load_state_dict(weights)
    packed = pack_padded_sequence(inputs, LENGTHS, enforce_sorted=False)
    return pad_packed_sequence(reference(packed)[0])[0]


def test_both_directions_equal_the_packed_bidirectional_lstm() -> None:
    torch.manual_seed(0)
    layer, inputs = LSTMLayer(6, 5, bidirectional=True), torch.randn(7, 5, 6)
    is_token = (torch.arange(7).unsqueeze(1) < LENGTHS).unsqueeze(2)
    ours = layer(inputs, reversed_within_length(LENGTHS, 7))[0] * is_token
    torch.testing.assert_close(ours, packed_reference(layer, inputs), rtol=0, atol=1e-6)


def test_gradients_of_both_directions_equal_the_packed_ones() -> None:
    torch.manual_seed(0)
    layer, inputs = LSTMLayer(6, 5, bidirectional=True), torch.randn(7, 5, 6, requires_grad=True)
    is_token = (torch.arange(7).unsqueeze(1) < LENGTHS).unsqueeze(2)
    weighting = torch.randn(7, 5, 10)
    ours = layer(inputs, reversed_within_length(LENGTHS, 7))[0] * is_token
    [ours_gradient] = torch.autograd.grad((ours * weighting).sum(), inputs)
    [packed_gradient] = torch.autograd.grad((packed_reference(layer, inputs) * weighting).sum(), inputs)
    torch.testing.assert_close(ours_gradient, packed_gradient, rtol=0, atol=1e-6)


def test_last_pooling_takes_the_end_of_each_direction() -> None:
    net = network(bidirectional=True, pooling="last")
    states = torch.arange(7 * 5 * 10.0).view(7, 5, 10)
    pooled = net._pool(states, LENGTHS)
    assert torch.equal(pooled[2, :5], states[3, 2, :5])
    assert torch.equal(pooled[2, 5:], states[0, 2, 5:])


def test_backward_reads_from_the_end_but_the_separator_first_as_its_language_model_did() -> None:
    net = network(direction="backward")
    read: list[Tensor] = []
    net.embedding.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].t()))
    net(torch.tensor([[0, 5, 6, 7], [0, 8, 0, 0], [5, 6, 7, 0]]), torch.tensor([4, 2, 3]))
    assert read[0].tolist() == [[0, 7, 6, 5], [0, 8, 0, 0], [7, 6, 5, 0]]


def test_layer_groups_run_from_input_to_head_and_hold_every_parameter() -> None:
    net = network(num_layers=2, bidirectional=True)
    assert list(net.layer_groups) == ["embedding", "lstm.0", "lstm.1", "head"]
    groups = resolve_layer_groups(net, net.layer_groups)
    assert sum(len(group.parameters) for group in groups.values()) == len(list(net.parameters()))


def with_bigrams(**arguments: object) -> LSTMClassifier:
    net = network(bigrams=1000, **arguments)
    net.fit_to_data(token_ids().flatten())
    assert isinstance(net.embedding, BigramEmbedding)
    nn.init.normal_(net.embedding.pair_weight)
    return net


def test_bigrams_are_the_most_frequent_pairs_that_no_zero_divides() -> None:
    bigrams = BigramEmbedding(torch.zeros(50, 6), 2)
    assert not bigrams.is_fitted
    bigrams.fit(torch.tensor([3, 5, 0, 5, 3, 7, 0, 7, 0, 7, 0, 7, 3, 5, 0, 5, 3]))
    assert bigrams.is_fitted
    assert bigrams.pairs.tolist() == [3 * 50 + 5, 5 * 50 + 3]  # each twice; 3 7 and 7 3 once, across zeros none


def test_bigrams_start_as_nothing_and_embed_a_pair_at_its_second_token() -> None:
    net = network(bigrams=9)
    net.fit_to_data(torch.tensor([3, 5]))
    assert torch.equal(net(token_ids(), LENGTHS), network()(token_ids(), LENGTHS))
    assert isinstance(net.embedding, BigramEmbedding)
    nn.init.ones_(net.embedding.pair_weight)
    ids = torch.tensor([[3, 5, 3], [5, 3, 3], [3, 5, 5]])
    embedded = net.embedding(ids) - nn.functional.embedding(ids, net.embedding.weight)
    torch.testing.assert_close(embedded.mean(2), torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 1]]))


def test_network_without_bigrams_or_with_known_ones_needs_no_data() -> None:
    assert network().sample_size == 0
    assert network(bigrams=9).sample_size > 0
    assert with_bigrams().sample_size == 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_padding_never_changes_a_logit_of_bigrams(direction: str) -> None:
    net = with_bigrams(pooling="all", direction=direction)
    more_padding = torch.cat([token_ids(padding=9), torch.full((5, 20), 13)], 1)
    torch.testing.assert_close(net(more_padding, LENGTHS), net(token_ids(), LENGTHS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_bigrams_of_a_document_are_found_in_it(direction: str) -> None:
    net = network(bigrams=9, direction=direction)
    net.fit_to_data(torch.tensor([3, 5, 7, 0, 5, 9]))
    without = net(torch.tensor([[3, 5, 7]]), torch.tensor([3]))
    assert isinstance(net.embedding, BigramEmbedding)
    nn.init.ones_(net.embedding.pair_weight)
    assert not torch.equal(net(torch.tensor([[3, 5, 7]]), torch.tensor([3])), without)


def test_bigrams_are_of_the_group_of_the_embedding() -> None:
    groups = resolve_layer_groups(net := with_bigrams(), net.layer_groups)
    assert list(groups) == ["embedding", "lstm.0", "head"]
    assert set(groups["embedding"].parameters) == {"embedding.weight", "embedding.pair_weight"}


def test_bigram_dropout_drops_whole_pairs_in_training_only() -> None:
    bigrams = BigramEmbedding(torch.zeros(50, 6), 10, dropout=0.25)
    bigrams.fit(torch.tensor([3, 3]))
    nn.init.ones_(bigrams.pair_weight)
    pairs = torch.full((400, 100), 3)
    dropped = bigrams(pairs)[1:]
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    assert torch.equal(bigrams.eval()(pairs)[1:], torch.ones(399, 100, 6))


def test_single_logit_and_one_logit_for_each_class() -> None:
    assert network(single_logit=True)(token_ids(), LENGTHS).shape == (5, 1)
    assert network(num_classes=3)(token_ids(), LENGTHS).shape == (5, 3)


def test_dropout_acts_in_training_only() -> None:
    net = network(num_layers=2, token_dropout=0.5, embedding_dropout=0.5, dropout=0.5)
    assert torch.equal(net(token_ids(), LENGTHS), net(token_ids(), LENGTHS))
    net.train()
    assert not torch.equal(net(token_ids(), LENGTHS), net(token_ids(), LENGTHS))


def test_token_dropout_drops_whole_tokens_and_keeps_the_mean() -> None:
    net = network(token_dropout=0.25).train()
    dropped = net._drop_tokens(torch.ones(400, 100, 6))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_document_of_50000_tokens_has_finite_logits() -> None:
    ids = token_ids(torch.tensor([50_000]))
    assert network(bidirectional=True, pooling="all")(ids, torch.tensor([50_000])).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 0}, "network.hidden_size is 0: expected 1 or more"),
        ({"dropout": 1.0}, "network.dropout is 1.0: expected at least 0 and below 1"),
        ({"vocabulary_size": None}, "network.vocabulary_size is None: give a text data set, or a number"),
        ({"num_classes": 3, "single_logit": True}, "network.single_logit needs 2 classes, and there are 3"),
        ({"bigrams": -1}, "network.bigrams is -1: expected 0 or more"),
        ({"bigram_dropout": 1.0}, "network.bigram_dropout is 1.0: expected at least 0 and below 1"),
        (
            {"bigrams": 9, "gradient_tokens": 9},
            "network.gradient_tokens and network.bigrams do not go together: leave one out",
        ),
    ],
)
def test_value_out_of_range_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        LSTMClassifier(**{"vocabulary_size": 50, **arguments})
    assert str(error.value) == message


@pytest.mark.parametrize("weight_dropout", [0.0, 1e-9])
@pytest.mark.parametrize("hidden_size", [64, 1024])
@pytest.mark.filterwarnings("ignore:this CPU computes wrong gradients")
def test_gradients_in_bfloat16_are_those_in_float32_but_for_rounding(hidden_size: int, weight_dropout: float) -> None:
    # With AMX, torch 2.14's LSTM of 1,024 units has others, and says nothing.
    torch.manual_seed(0)
    layer = LSTMLayer(32, hidden_size, weight_dropout=weight_dropout)
    inputs, weights = torch.randn(5, 16, 32, requires_grad=True), torch.randn(5, 16, hidden_size)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            states, _ = layer(inputs)
        parameters = [inputs, *layer.parameters()]
        gradients.append(torch.autograd.grad((states.float() * weights).sum(), parameters))
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("weight_dropout", [0.0, 0.3])
def test_autocast_in_bfloat16_on_a_gpu_is_not_one_in_float16(
    weight_dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch has cuDNN compute in float16 there, and gradients of a loss that is not scaled overflow.
    monkeypatch.setattr("lightning_transfer.networks.lstm_layer.has_bfloat16_lstm", lambda device: True)
    with FakeTensorMode(), torch.device("cuda"):  # shapes and dtypes of a GPU, without one
        first, second = LSTMLayer(8, 16, weight_dropout=weight_dropout), LSTMLayer(16, 4)
        inputs = torch.randn(5, 3, 8)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            states, last = first(inputs)
            states, last = first(inputs, state=last)
            assert (states.dtype, last[0].dtype, last[1].dtype) == (torch.bfloat16,) * 3
            assert second(states)[0].dtype == torch.bfloat16
        finally:
            torch.set_autocast_enabled("cuda", False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bfloat16", [True, False])
def test_gradients_on_a_gpu_are_those_in_float32_but_for_rounding(
    bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bfloat16:
        monkeypatch.setattr("lightning_transfer.networks.lstm_layer.has_bfloat16_lstm", lambda device: False)
    torch.manual_seed(0)
    layer = LSTMLayer(32, 64).cuda()
    inputs = torch.randn(5, 16, 32, device="cuda", requires_grad=True)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            states, _ = layer(inputs)
        # Far beyond what float16 holds.
        gradients.append(torch.autograd.grad(1e6 * states.float().sum(), [inputs, *layer.parameters()]))
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_trial_of_bfloat16_draws_nothing_that_a_run_would_draw() -> None:
    trains_lstm_in_bfloat16.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.inference_mode():
        trains_lstm_in_bfloat16(8, 16)
    assert torch.equal(torch.rand(3), expected)
