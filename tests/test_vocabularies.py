"""Starting weights of a text network whose vocabulary is another: rows follow their tokens."""

import re
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, run_folder
from torch import nn

from lightning_transfer import Classifier, DemoTexts, LSTMClassifier, LSTMLanguageModel, load_starting_weights
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.networks.bigrams import BigramEmbedding
from lightning_transfer.transfer.sources import read_source
from lightning_transfer.transfer.vocabularies import move_rows, token_tensors


def arguments(task: str, experiment: str, *more: str) -> list[str]:
    network = {"embedding_size": 8, "hidden_size": 8, "pooling": "max"}
    return [
        "fit",
        *("--experiment", experiment, "--data", "DemoTexts", "--data.task", task, "--data.examples_per_class", "20"),
        *(
            "--model.network",
            "LSTMClassifier",
            "--trainer.accelerator",
            "cpu",
            "--trainer.enable_progress_bar",
            "false",
        ),
        *(word for name, value in network.items() for word in (f"--model.network.{name}", str(value))),
        *("--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false", *more),
    ]


@pytest.fixture
def checkpoint() -> Path:
    """A checkpoint of the source task of the embedded reviews, with its own vocabulary."""
    main(arguments("source", "source"))
    return run_folder("source") / "checkpoints" / "best.ckpt"


def small_classifier(vocabulary_size: int) -> Classifier:
    return Classifier(LSTMClassifier(vocabulary_size, embedding_size=8, hidden_size=8, pooling="max"), 2)


def test_shared_tokens_keep_their_row_and_new_ones_get_the_mean(checkpoint: Path) -> None:
    target = DemoTexts("target").vocabulary
    weights, source, *_ = read_source(str(checkpoint))
    assert source is not None
    assert source == DemoTexts("source").vocabulary
    assert source != target
    model = small_classifier(len(target))
    report = load_starting_weights(model, str(checkpoint), vocabulary=target)
    before, after = weights["network.embedding.weight"], model.network.embedding.weight
    for row, token in enumerate(target):
        expected = before[source.index(token)] if token in source else before.mean(0)
        assert torch.equal(after[row], expected), token
    shared = len(set(source) & set(target))
    assert 0 < shared < len(target)
    assert report.made_anew == {}
    line = (
        f"by token    network.embedding.weight ({shared} of {len(target)} tokens; {len(target) - shared} new ones start"
    )
    assert line in str(report)


def test_pairs_of_tokens_of_another_vocabulary_are_made_anew() -> None:
    main(arguments("source", "pairs", "--model.network.bigrams", "100"))
    checkpoint = str(run_folder("pairs") / "checkpoints" / "best.ckpt")
    bound = ["network.embedding.pair_weight", "network.embedding.pairs"]
    for task, expected in (("source", {}), ("target", dict.fromkeys(bound, "of another vocabulary"))):
        vocabulary = DemoTexts(task).vocabulary
        network = LSTMClassifier(len(vocabulary), embedding_size=8, hidden_size=8, pooling="max", bigrams=100)
        report = load_starting_weights(Classifier(network, 2), checkpoint, vocabulary=vocabulary)
        assert report.made_anew == expected
        assert isinstance(network.embedding, BigramEmbedding)
        assert network.embedding.is_fitted == network.embedding.pair_weight.any() == (task == "source")


def test_tokens_in_another_order_are_moved_though_every_shape_fits(checkpoint: Path) -> None:
    weights, source, *_ = read_source(str(checkpoint))
    assert source is not None
    model = small_classifier(len(source))
    load_starting_weights(model, str(checkpoint), vocabulary=source[::-1])
    assert torch.equal(model.network.embedding.weight, weights["network.embedding.weight"].flip(0))


def test_same_vocabulary_is_loaded_as_it_is(checkpoint: Path) -> None:
    weights, source, *_ = read_source(str(checkpoint))
    assert source is not None
    model = small_classifier(len(source))
    report = load_starting_weights(model, str(checkpoint), vocabulary=source)
    assert report.by_token == {}
    assert torch.equal(model.network.embedding.weight, weights["network.embedding.weight"])


def test_weights_without_a_vocabulary_of_another_size_are_refused() -> None:
    torch.save(small_classifier(30).state_dict(), "plain.pt")
    with pytest.raises(UserError, match=r"embedding\.weight is 20 x 8, 30 x 8 in the source"):
        load_starting_weights(small_classifier(20), "plain.pt", vocabulary=[str(n) for n in range(20)])


def test_command_line_moves_rows_by_token(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments("target", "target", "--init_from", str(checkpoint)))
    assert re.search(r"by token    network\.embedding\.weight \(\d+ of \d+ tokens", capsys.readouterr().out)


def test_bias_of_a_language_models_output_moves_with_its_tokens() -> None:
    source, target = [*"abcdef"], [*"fabcde"]  # as many, ranked otherwise by another text
    module = LSTMLanguageModel(6, embedding_size=4, hidden_size=4)
    assert token_tensors(module, 6) == {"embedding.weight", "head.bias"}
    assert move_rows(torch.arange(6.0), source, target).tolist() == [5, 0, 1, 2, 3, 4]


def test_output_layer_tied_to_an_embedding_moves_with_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm, self.decoder = nn.Embedding(5, 3), nn.LSTM(3, 5), nn.Linear(3, 5)
            self.decoder.weight = self.embedding.weight

    assert token_tensors(Tied(), 5) == {"embedding.weight", "decoder.weight", "decoder.bias"}
    assert torch.equal(move_rows(torch.tensor([1.0, 3.0]), ["a", "b"], ["b", "c"]), torch.tensor([3.0, 2.0]))


def test_documented_program_loads_a_checkpoint_without_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs" / "transfer.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    main(["fit", "--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1"])
    (run_folder("quickstart") / "checkpoints" / "best.ckpt").rename("best.ckpt")
    capsys.readouterr()
    exec(program, {})
    [report] = re.findall(r"```\n(starting weights.*?)```", text, re.DOTALL)
    assert capsys.readouterr().out == report
