"""Language modelling as one of several tasks: what is predicted, whose weights move, and that nothing else changes."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from conftest import run_folder
from interruptions import assert_stop_changes_nothing
from language_task_toys import SCENARIOS, fit, module, tasks
from launching import assert_trained_as_one, run_ranks
from multitask_toys import trainer
from test_cli import error_line
from test_multitask import as_fit

from lightning_transfer import (
    CIFAR10,
    DemoTexts,
    DemoTextStreams,
    FastCNN,
    LSTMClassifier,
    LSTMLanguageModel,
    MultiTaskDataModule,
    MultiTaskModule,
    TransformersNetwork,
    UserError,
    load_starting_weights,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.token_streams import TokenBatch
from lightning_transfer.modules import multitask
from lightning_transfer.modules.language_task import token_losses
from lightning_transfer.modules.task_metrics import TokenMetrics
from lightning_transfer.networks.transformers_language_model import NOT_MASKED

GPT = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 50}
GPT |= {"bos_token_id": 0, "eos_token_id": 0}
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
BERT |= {"intermediate_size": 16, "max_position_embeddings": 64}


def segment(masked: bool = False) -> TokenBatch:
    ids = torch.randint(3, 50, (12, 4), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 0).flatten()
    return TokenBatch(ids, labels.where(torch.arange(48) % 5 == 0, NOT_MASKED) if masked else labels)


def experiment(*more: str, model: dict[str, Any] | None = None, **data: Any) -> list[str]:
    """The arguments of a run on reviews and streams."""
    streams = {"tasks": ["target"], "batch_size": 4, "segment_tokens": 20, "validation_fraction": 0.2}
    own = {
        "reviews": {"class_path": "DemoTexts", "init_args": {"task": "target", "validation_fraction": 0.2}},
        "reading": {"class_path": "DemoTextStreams", "init_args": streams},
    }
    network = {"class_path": "LSTMClassifier", "init_args": {"embedding_size": 8, "hidden_size": 12}}
    config = {
        "data": {"class_path": "MultiTaskDataModule", "init_args": {"tasks": own, "steps_per_epoch": 12, **data}},
        "model": {"class_path": "MultiTaskModule", "init_args": {"network": network, **(model or {})}},
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "log_every_n_steps": 5},
    }
    Path("tasks.yaml").write_text(yaml.safe_dump(config))
    return ["--config", "tasks.yaml", *more]


# ---- what is predicted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoffs", [None, [10, 25]])
def test_a_classifier_predicts_tokens_as_the_language_model_that_starts_it(tmp_path: Path, cutoffs: Any) -> None:
    torch.manual_seed(0)
    language_model = LSTMLanguageModel(50, cutoffs=cutoffs, embedding_size=8, hidden_size=12)
    torch.save(
        {"state_dict": {f"network.{k}": v for k, v in language_model.state_dict().items()}}, tmp_path / "lm.ckpt"
    )
    found = MultiTaskModule(
        LSTMClassifier(50, 2, embedding_size=8, hidden_size=12),
        {"reviews": 2},
        language_tasks=["reading"],
        cutoffs=cutoffs,
    )
    rename = [(r"network\.head\.", "network.head.of_task.reading.")]
    report = load_starting_weights(found, tmp_path / "lm.ckpt", rename=rename)
    assert set(report.made_anew) == {"network.head.of_task.reviews.weight", "network.head.of_task.reviews.bias"}
    batch = segment()
    expected, *_ = language_model.eval()(batch.token_ids, batch.labels)
    own = token_losses(found.eval().network, found.heads.of_task["reading"], batch)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)


def test_segment_without_a_masked_token_counts_for_nothing() -> None:
    metrics = TokenMetrics()
    for losses in (torch.full((10,), 2.0), torch.zeros(0)):
        metrics.update(losses)
    assert float(metrics.compute_and_reset()["loss"]) == pytest.approx(2.0)
    pytest.importorskip("transformers")
    network = TransformersNetwork(2, model_arguments=BERT)
    found = MultiTaskModule(network, {"reviews": 2}, language_tasks=["reading"])
    nothing = segment()._replace(labels=torch.full((48,), NOT_MASKED))
    losses = token_losses(network, found.heads.of_task["reading"], nothing)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert all(not p.grad.any() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("arguments", [GPT, BERT], ids=["next tokens", "masked tokens"])
def test_a_transformer_predicts_the_tokens_of_its_kind(arguments: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = TransformersNetwork(2, model_arguments=arguments)
    found = MultiTaskModule(network, {"reviews": 2}, language_tasks=["reading"]).eval()
    batch = segment(masked=arguments is BERT)
    own = token_losses(network, found.heads.of_task["reading"], batch)
    states = network.model(input_ids=batch.token_ids.t()).last_hidden_state.transpose(0, 1).flatten(0, 1)
    logits = states @ network.model.get_input_embeddings().weight.t()
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    torch.testing.assert_close(own, expected[batch.labels != NOT_MASKED], rtol=0, atol=1e-5)


def test_the_weights_of_the_tokens_are_the_embeddings() -> None:
    found = module(tasks())
    assert [name for name, _ in found.heads.of_task["reading"].named_parameters()] == ["bias"]
    states = dict(found.named_parameters())
    assert states["network.head.of_task.reading.bias"].shape == (found.network.embedding.num_embeddings,)


# ---- what a step changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_step_leaves_the_heads_of_other_tasks_as_they_are(weighting: Any) -> None:
    data = tasks(mixing="uniform")
    found, moved = module(data, weighting=weighting), dict[str, set[str]]()

    class Moves(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, out: Any, batch: Any, batch_idx: int) -> None:
            now = pl_module.state_dict().items()
            changed = {name for name, value in now if not torch.equal(value, self.before[name])}
            moved.setdefault(batch[0].task, set()).update(changed)

    trainer(Moves()).fit(found, datamodule=data)
    assert not [name for name in moved["reading"] if "of_task.reviews" in name or "log_variances.reviews" in name]
    assert not [name for name in moved["reviews"] if "of_task.reading" in name or "log_variances.reading" in name]
    assert "network.head.of_task.reading.bias" in moved["reading"]
    assert {"network.embedding.weight"} < moved["reading"] & moved["reviews"]


def test_a_weight_of_nothing_keeps_reading_out_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tasks(mixing="together")
    found = module(data, loss_weights={"reading": 0})
    before = found.network.embedding.weight.clone()
    monkeypatch.setattr(multitask, "token_losses", lambda *_: pytest.fail("the network was given texts to read"))
    trainer(limit_val_batches=0).fit(found, datamodule=data)
    assert not torch.equal(found.network.embedding.weight, before)


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_validates_reading_and_tests_the_reviews(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *experiment(mixing="together"), "--test_after_fit", "true"])
    record = json.loads((run_folder() / "results.json").read_text())
    validation = record["validation"]
    assert validation["val/reading/perplexity"] == pytest.approx(
        torch.tensor(validation["val/reading/loss"]).exp().item()
    )
    assert validation["val/accuracy"] == validation["val/reviews/accuracy"]
    assert validation["val/loss"] == validation["val/reviews/loss"]
    assert not [name for name in record["test"] if "reading" in name]
    assert record["data"]["steps_of_an_epoch"] == {"reviews": 12, "reading": 12}
    assert "reading/perplexity" in capsys.readouterr().out


def test_reading_teaches_the_network_to_predict() -> None:
    data = tasks(mixing="together", steps_per_epoch=60)
    found, used = module(data, cutoffs=[20]), trainer(max_epochs=4)
    used.validate(found, datamodule=data, verbose=False)
    before = used.callback_metrics["val/reading/perplexity"]
    used.fit(found, datamodule=data)
    assert used.callback_metrics["val/reading/perplexity"] < before / 4


def test_a_run_that_was_stopped_in_mid_epoch_ends_as_if_it_was_not() -> None:
    assert_stop_changes_nothing(experiment(mixing="uniform"), 17, run_folder)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    both = run_ranks("language_task_toys.py", tmp_path)
    for scenario in SCENARIOS:
        assert_trained_as_one(both, fit(scenario), scenario)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: FastCNN(num_classes=2), "model.network is FastCNN: expected LSTMClassifier or TransformersNetwork"),
        (lambda: LSTMClassifier(50, bidirectional=True), "network.bidirectional would let the language model see"),
        (lambda: LSTMClassifier(50, sparse_gradients=True), "network.sparse_gradients is true: expected false"),
    ],
)
def test_networks_that_cannot_predict_tokens_are_refused(network: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiTaskModule(network(), {"reviews": 2}, language_tasks=["reading"])


def test_streams_that_the_network_reads_otherwise_are_refused() -> None:
    data = tasks()
    own = LSTMClassifier(data.vocabulary_size or 0, 2, embedding_size=8, hidden_size=8, direction="backward")
    with pytest.raises(UserError, match=r"direction of the texts to predict is forward: expected backward"):
        trainer().fit(module(data, own), datamodule=data)
    pytest.importorskip("transformers")
    sizes = {"vocab_size": data.vocabulary_size}
    encoder = TransformersNetwork(2, model_arguments={**BERT, **sizes})
    with pytest.raises(UserError, match=r"BertModel reads 64 tokens at most, not 75: set data.max_tokens"):
        trainer().fit(module(data, encoder), datamodule=data)
    encoder = TransformersNetwork(2, model_arguments={**BERT, **sizes, "max_position_embeddings": 80})
    with pytest.raises(UserError, match=r"data.masked_fraction is 0.0: expected 0.15, as this TransformersNetwork"):
        trainer().fit(module(data, encoder), datamodule=data)


def test_streams_do_not_go_with_images_or_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"of texts and of images"):
        MultiTaskDataModule({"images": CIFAR10(), "reading": DemoTextStreams()})
    with pytest.raises(UserError, match=r"data.tasks are one, other, none of which has labels"):
        MultiTaskDataModule({"one": DemoTextStreams(), "other": DemoTextStreams()})
    with pytest.raises(UserError, match=r"data.predict_task is reading: expected one of reviews"):
        MultiTaskDataModule({"reviews": DemoTexts(), "reading": DemoTextStreams()}, predict_task="reading")
    with pytest.raises(UserError, match=r"data.same_examples has reading: reviews"):
        MultiTaskDataModule(
            {"reviews": DemoTexts(), "reading": DemoTextStreams()}, same_examples={"reading": "reviews"}
        )
    given = experiment(model={"language_tasks": ["other"]})
    assert "model.language_tasks is ['other'], and the data has ['reading']" in error_line(capsys, "fit", *given)


def test_data_goes_on_in_mid_epoch_with_the_segments_that_are_left() -> None:
    whole = as_fit(tasks(mixing="uniform"))
    loader = whole.train_dataloader()
    steps = iter(loader)
    for _ in range(5):
        next(steps)
    state = whole.state_dict()
    again = as_fit(tasks(mixing="uniform"))
    again.load_state_dict(state)
    for left, expected in zip(again.train_dataloader(), steps, strict=True):
        assert left[0].task == expected[0].task
        assert torch.equal(left[0].batch.token_ids, expected[0].batch.token_ids)
