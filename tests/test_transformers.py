"""Networks of transformers: layer groups, pooling, padding, weights in the library's own format, and whole runs."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from backbones import (
    QUIET,
    TOKENS,
    TRANSFORMERS,
    fit_phases,
    parameters_of_groups,
    texts,
    trained_by_resumption,
    transformer,
    word_pieces,
)
from conftest import run_folder
from safetensors.torch import save_file
from test_cli import error_line
from torch import Tensor

from lightning_transfer import (
    IMDB,
    Classifier,
    DemoTexts,
    LanguageModel,
    TransformersLanguageModel,
    TransformersNetwork,
    load,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.files import MIRROR_VARIABLE
from lightning_transfer.modules.feature_cache import FeatureCache
from lightning_transfer.transfer.weights import load_starting_weights

transformers = pytest.importorskip("transformers")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32}


def saved(name: str, folder: Path, kind: str = "AutoModel") -> Any:
    """A model with random weights, saved as the library does."""
    torch.manual_seed(5)
    config = transformers.CONFIG_MAPPING[name].from_dict(dict(TRANSFORMERS[name]))
    model = getattr(transformers, kind).from_config(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layer_groups_take_every_parameter_once_from_embeddings_to_head(name: str) -> None:
    network = transformer(name, num_classes=7)
    groups = parameters_of_groups(network)
    taken = [parameter for listed in groups.values() for parameter in listed]
    assert sorted(taken) == sorted(parameter for parameter, _ in network.named_parameters())
    assert list(groups) == ["embeddings", "layer.0", "layer.1", "layer.2", "head"]
    assert groups["head"] == ["head.weight", "head.bias"]

    order, executed = list(groups), []
    owners = {parameter: order.index(group) for group, listed in groups.items() for parameter in listed}
    for path, module in network.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            place = owners[f"{path}.{parameter}"]
            module.register_forward_pre_hook(lambda *_, place=place: executed.append(place))  # type: ignore[misc]
    network.eval()(*texts().inputs)
    assert executed == sorted(executed)
    assert set(executed) == set(range(len(order)))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_gradual_unfreezing_trains_the_head_and_then_the_last_layer(name: str) -> None:
    trained = fit_phases(transformer(name), texts())
    assert [list(groups) for groups in trained] == [["head"], ["layer.2", "head"]]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_run_resumed_in_mid_epoch_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    batches = [texts(seed) for seed in range(3)]
    resumed, expected = trained_by_resumption(lambda: transformer(name), batches, tmp_path)
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_padding_and_the_order_of_a_batch_never_change_the_logits(name: str) -> None:
    network = transformer(name).eval()
    token_ids, lengths = texts(rows=5).inputs
    whole = network(token_ids, lengths)
    alone = torch.cat(
        [network(token_ids[row : row + 1, :size], lengths[row : row + 1]) for row, size in enumerate(lengths)]
    )
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(network(token_ids.flip(0), lengths.flip(0)), whole.flip(0), atol=1e-6, rtol=0)
    is_padding = torch.arange(token_ids.shape[1]) >= lengths.unsqueeze(1)
    torch.testing.assert_close(network(token_ids.masked_fill(is_padding, 9), lengths), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("head", ["none", "language model"])
def test_folder_of_the_library_gives_every_tensor_as_its_own_loader_does(name: str, head: str, tmp_path: Path) -> None:
    language_model = "AutoModelForCausalLM" if name in ("gpt2", "llama") else "AutoModelForMaskedLM"
    saved(name, tmp_path, "AutoModel" if head == "none" else language_model)
    expected = transformers.AutoModel.from_pretrained(tmp_path).state_dict()
    network = TransformersNetwork(3, str(tmp_path))
    report = load_starting_weights(Classifier(network, 3), tmp_path)
    own = network.model.state_dict()
    assert own
    for parameter, value in own.items():
        assert torch.equal(value, expected[parameter]), parameter
    assert set(report.made_anew) == {"network.head.weight", "network.head.bias"}
    assert not [parameter for parameter in report.left_over if parameter.removeprefix("model.") in own]
    if name in ("bert", "roberta") and head == "none":
        assert report.left_over == ["pooler.dense.bias", "pooler.dense.weight"]


@pytest.mark.parametrize("kind", ["AutoModel", "the Hub's"])
def test_language_model_starts_from_files_of_its_bare_model_and_old_ones(kind: str, tmp_path: Path) -> None:
    bare = saved("gpt2", tmp_path)
    if kind == "the Hub's":  # with the masks of the attention, as openai-community/gpt2 has them
        masks = {f"h.{layer}.attn.{name}": torch.ones(1) for layer in range(3) for name in ("bias", "masked_bias")}
        save_file({**bare.state_dict(), **masks}, tmp_path / "model.safetensors", {"format": "pt"})
    network = TransformersLanguageModel(name=str(tmp_path))
    report = load_starting_weights(LanguageModel(network), tmp_path)
    assert report.made_anew == {}
    for parameter, value in bare.state_dict().items():
        assert torch.equal(network.model.transformer.state_dict()[parameter], value), parameter
    assert torch.equal(network.model.lm_head.weight, bare.wte.weight)
    assert len(report.left_over) == (0 if kind == "AutoModel" else 6)


def test_weights_without_all_their_parts_are_refused(tmp_path: Path) -> None:
    saved("bert", tmp_path / "whole").save_pretrained(tmp_path, max_shard_size="8KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    files[-1].unlink()
    with pytest.raises(UserError, match=f"has {len(files) - 1} of the {len(files)} parts of its weights: fetch or"):
        load_starting_weights(transformer("bert"), tmp_path)


def test_weights_in_parts_and_with_old_names_are_those_of_one_file(tmp_path: Path) -> None:
    model = saved("bert", tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 2
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in model.state_dict().items()}
    old |= {"embeddings.position_ids": torch.arange(40)}
    torch.save(
        {name.replace("LayerNorm.bias", "LayerNorm.beta"): value for name, value in old.items()}, tmp_path / "old.pt"
    )
    for source in ("whole", "parts", "old.pt"):
        network = transformer("bert", seed=3)
        load_starting_weights(network, tmp_path / source)
        for parameter, value in network.model.state_dict().items():
            assert torch.equal(value, model.state_dict()[parameter]), (source, parameter)


@pytest.mark.parametrize(
    ("name", "pooling"), [("bert", "first"), ("gpt2", "last"), ("llama", "last"), ("modernbert", "first")]
)
def test_usual_pooling_is_that_of_the_family(name: str, pooling: str) -> None:
    assert transformer(name).pooling == pooling


def test_model_that_reads_from_left_to_right_is_not_pooled_by_its_first_token() -> None:
    for name, entries in (("gpt2", {}), ("llama", {"pad_token_id": -1}), ("bert", {"is_decoder": True})):
        network = transformer(name, model_arguments=entries).eval()
        assert network.pooling == "last"
        assert network(*texts().inputs).std(0).min() > 0
        with pytest.raises(UserError, match=r"pooling is first: expected last or mean, as \w+ reads from left"):
            transformer(name, model_arguments=entries, pooling="first")


def test_head_is_as_wide_as_the_states_are() -> None:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 24, "num_attention_heads": 2}
    given = {"model_type": "opt", **sizes, "num_hidden_layers": 3, "vocab_size": 60, "max_position_embeddings": 40}
    assert TransformersNetwork(3, model_arguments=given).eval()(*texts().inputs).shape == (4, 3)


def test_model_that_reads_padding_says_so_and_keeps_no_features() -> None:
    given = {"model_type": "fnet", **TOKENS, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    with pytest.warns(UserWarning, match="FNetModel reads the padding too"):
        network = TransformersNetwork(3, model_arguments=given)
    data = DemoTexts()
    with pytest.raises(UserError, match="the features of TransformersNetwork depend on the padding of the batch"):
        FeatureCache(network, network.forward, data)
    with warnings.catch_warnings(action="error"):
        assert not transformer("bert").depends_on_batch


def test_pooling_takes_the_first_the_last_or_the_mean_of_the_true_tokens() -> None:
    token_ids, lengths = texts(rows=3).inputs
    states = transformer("bert").eval().hidden_states(token_ids, lengths)
    rows = [state[:size] for state, size in zip(states, lengths, strict=True)]
    expected = {
        "first": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
        "mean": [row.mean(0) for row in rows],
    }
    for pooling, documents in expected.items():
        network = transformer("bert", pooling=pooling).eval()
        torch.testing.assert_close(network.encode(token_ids, lengths), torch.stack(documents))


def test_attention_is_scaled_dot_product_attention_whatever_the_file_says() -> None:
    arguments = {"attn_implementation": "kernels-community/flash-attn", "_attn_implementation": "eager"}
    network = transformer("bert", model_arguments={**arguments, "dtype": "bfloat16", "auto_map": {"AutoModel": "a.B"}})
    assert network.model.config._attn_implementation == "sdpa_float32_backward"
    assert network.head.weight.dtype == network.model.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(TRANSFORMERS.keys() - {"deberta", "deberta-v2"}))
def test_attention_is_trained_in_float32_on_a_cpu_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = transformer(name, dropout=0.0)
    attend, calls = torch.nn.functional.scaled_dot_product_attention, []

    def noted(query: Tensor, *others: Any, **arguments: Any) -> Tensor:
        reduced = torch.is_autocast_enabled("cpu") or query.dtype == torch.bfloat16
        calls.append("bfloat16" if reduced else "float32")
        return attend(query, *others, **arguments)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    batch = texts().inputs
    expected = network.train()(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*batch)
        with torch.no_grad():
            network.eval()(*batch)
    network.bfloat16()(*batch).sum().backward()
    assert calls == 3 * ["float32"] + 3 * ["float32"] + 3 * ["bfloat16"] + 3 * ["float32"]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_gradient_checkpointing_trains_as_without_above_frozen_layers(name: str) -> None:
    gradients: list[dict[str, Tensor]] = []
    for is_on in (False, True):
        network = transformer(name, gradient_checkpointing=is_on)
        calls: list[str] = []
        for group in ("layer.1", "layer.2"):
            part = next(network.get_submodule(network.layer_groups[group][0]).children())
            part.register_forward_pre_hook(lambda *_, calls=calls, group=group: calls.append(group))  # type: ignore[misc]
        for parameter_name, parameter in network.named_parameters():
            groups = network.layer_groups
            trains = any(parameter_name.startswith(f"{path}.") for path in (*groups["layer.2"], *groups["head"]))
            parameter.requires_grad_(trains)
        torch.manual_seed(0)
        network.train()(*texts().inputs).square().sum().backward()
        gradients.append({key: value.grad for key, value in network.named_parameters() if value.grad is not None})
        assert calls == ["layer.1", "layer.2", *(["layer.2"] if is_on else [])]  # what is frozen is not computed again
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 4
    torch.testing.assert_close(gradients[0], gradients[1])


def test_dropout_of_nothing_makes_training_and_evaluation_the_same() -> None:
    for name in TRANSFORMERS:
        network = transformer(name, dropout=0.0)
        torch.testing.assert_close(network.train()(*texts().inputs), network.eval()(*texts().inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_arguments": {"model_type": "brt"}}, "transformers has no model_type 'brt': did you mean bert"),
        ({"model_arguments": {"model_type": "t5"}}, "t5 reads one text and writes another: expected an encoder"),
        (
            {"model_arguments": {"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}},
            "model_type bert does not take these values: The hidden size",
        ),
        ({"name": "."}, "model.network.name '.' has no config.json that can be read"),
        ({"name": "nowhere"}, "model.network.name 'nowhere' is no folder and in no mirror"),
        ({"vocabulary_size": 61}, "the data has 61 tokens, and the model embeddings for 60: set data.tokenizer"),
        ({"model_arguments": {}}, "model.network.name is null: expected a Hub id or a folder for Transformers"),
        (
            {"model_arguments": {"model_type": "vit", **VIT}},
            "ViTModel has no embeddings of tokens: expected a model of texts",
        ),
        (
            {"model_arguments": {**TRANSFORMERS["bert"], "model_type": "bert", "vocab_size": None}},
            "model_type bert does not take these values: Validation error for field 'vocab_size': ",
        ),
        ({"num_classes": 0}, "num_classes is 0: expected at least 1"),
        ({"dropout": 1.5}, "network.dropout is 1.5: expected at least 0 and below 1"),
        (
            {"model_arguments": {**TRANSFORMERS["bert"], "model_type": "albert"}, "gradient_checkpointing": True},
            "AlbertModel has no gradient checkpointing: leave it off",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_explained(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = {"model_arguments": {"model_type": "bert", **TRANSFORMERS["bert"]}} if "name" not in arguments else {}
    with pytest.raises(UserError) as refused:
        TransformersNetwork(**{"num_classes": 3, **given, **arguments})
    assert str(refused.value).startswith(message)


def test_documents_that_are_too_long_for_the_positions_are_refused() -> None:
    for name, most in (("bert", 40), ("roberta", 38), ("gpt2", 40)):
        network = transformer(name, model_arguments={"vocab_size": 40}).eval()  # as many tokens as positions
        network(torch.full((1, most), 3), torch.tensor([most]))
        with pytest.raises(UserError, match=rf"reads {most} tokens at most, not {most + 1}: set data\.max_tokens"):
            network(torch.full((1, most + 1), 3), torch.tensor([most + 1]))


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A small BERT with its tokenizer, in the folder of a mirror."""
    folder = word_pieces(tmp_path / "mirror" / "owner" / "bert")
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    config = transformers.CONFIG_MAPPING["bert"].from_dict(TRANSFORMERS["bert"] | {"vocab_size": size})
    torch.manual_seed(5)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def arguments(*more: str) -> list[str]:
    return [
        *("--data", "DemoTexts", "--data.tokenizer", "owner/bert", "--data.max_tokens", "40"),
        *("--model.network", "TransformersNetwork", "--model.network.name", "owner/bert", "--dashboards", "null"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", *more),
    ]


def test_run_starts_from_a_hub_id_and_predicts_from_its_checkpoint_alone(
    own_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, str(own_model.parents[1]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    strategy = ["--config", "configs/strategies/linear_probe.yaml"]
    main(["fit", *arguments("--init_from", "owner/bert", *strategy)])
    assert "made anew   network.head.weight" in capsys.readouterr().out
    checkpoint = run_folder() / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    source = transformers.AutoModel.from_pretrained(own_model).state_dict()
    assert torch.equal(
        state["network.model.embeddings.word_embeddings.weight"], source["embeddings.word_embeddings.weight"]
    )

    shutil.rmtree(own_model)
    Path("reviews.txt").write_text("a fine film\na dull film\n")
    config = ["--config", str(run_folder() / "config.yaml"), "--ckpt_path", str(checkpoint)]
    main(["predict", *config, "--data.predict_path", "reviews.txt"])
    assert len(Path("predictions.jsonl").read_text().splitlines()) == 2


def test_weights_of_other_tokens_than_the_datas_are_refused(own_model: Path) -> None:
    network = TransformersNetwork(2, str(own_model))
    data = DemoTexts(max_vocabulary_size=100)
    for source in (own_model, own_model / "model.safetensors"):
        with pytest.raises(UserError, match=r"reads other tokens than the data, .* set data\.tokenizer to "):
            load_starting_weights(Classifier(network, 2), source, vocabulary=data.vocabulary)
    (own_model / "tokenizer.json").unlink()
    report = load_starting_weights(Classifier(network, 2), own_model, vocabulary=data.vocabulary)
    assert report.unchecked == ["network.model.embeddings.word_embeddings.weight"]
    assert "unchecked   network.model.embeddings.word_embeddings.weight (the source does not say" in str(report)


def test_plan_refuses_starting_weights_that_do_not_fit(own_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(transformer("gpt2").state_dict(), "other.pt")
    given = arguments("--data.tokenizer", str(own_model), "--model.network.name", str(own_model))
    line = error_line(capsys, "plan", *given, "--init_from", "other.pt")
    assert line.startswith("the weights of other.pt do not fit Classifier: ")


def test_documents_that_are_too_long_are_refused_before_the_first_step() -> None:
    data = DemoTexts(max_vocabulary_size=60)
    network = transformer("bert", num_classes=2, model_arguments={"max_position_embeddings": 7})
    with pytest.raises(UserError, match=r"BertModel reads 7 tokens at most, not \d+: set data\.max_tokens"):
        L.Trainer(max_epochs=1, limit_train_batches=0, **QUIET).fit(Classifier(network, 2), datamodule=data)


def test_library_that_is_not_installed_is_named_before_any_data_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "transformers" else find(name, *more)
    )
    monkeypatch.setattr(DemoTexts, "vocabulary_size", property(lambda self: pytest.fail("data was read")))
    line = error_line(capsys, "fit", *arguments())
    expected = "TransformersNetwork needs transformers, which is not installed: "
    assert line == f"{expected}{sys.executable} -m pip install 'lightning-transfer[transformers]'"


@pytest.fixture
def minilm() -> Path:
    """The folder of a real model; without one the test is skipped."""
    folders = os.environ.get(MIRROR_VARIABLE, "").split(os.pathsep)
    found = [Path(folder) / MINILM for folder in folders if (Path(folder) / MINILM / "model.safetensors").exists()]
    if not found:
        pytest.skip(f"no folder that {MIRROR_VARIABLE} names has {MINILM}")
    return found[0]


def test_text_that_is_longer_than_the_network_reads_is_cut_in_a_program() -> None:
    bert = "{model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16,"
    network = ["--model.network", "TransformersNetwork", "--model.network.model_arguments"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]
    data = ["--data", "DemoTexts", "--dashboards", "null"]
    main(["fit", *data, *network, f"{bert} max_position_embeddings: 128}}", *short])
    predictor = load(run_folder())
    alone = predictor.predict(["a good film"]).probabilities
    beside = predictor.predict(["a good film", "good film " * 100]).probabilities
    torch.testing.assert_close(beside[:1], alone)
    assert beside.isfinite().all()


@pytest.mark.slow
def test_parameters_that_no_step_uses_are_one_line_on_two_processes(tmp_path: Path) -> None:
    xlnet = "{model_type: xlnet, d_model: 16, n_layer: 2, n_head: 2, d_inner: 24}"
    network = ["--model.network", "TransformersNetwork", "--model.network.model_arguments", xlnet]
    given = ["--data", "DemoTexts", *network, "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--dashboards", "null"]
    command = [sys.executable, "-m", "lightning_transfer", "fit", *given, *short, "--trainer.strategy"]
    ended = [
        subprocess.run([*command, strategy], capture_output=True, text=True, cwd=tmp_path, timeout=300)
        for strategy in ("ddp", "ddp_find_unused_parameters_true")
    ]
    assert [one.returncode for one in ended] == [2, 0]
    assert "has parameters that a step does not use, for whose gradients ddp waits: set --trainer" in ended[0].stderr
    assert "Traceback" not in ended[0].stderr


@pytest.mark.mirror
@pytest.mark.usefixtures("mirror")
def test_sentences_of_a_real_model_are_those_of_transformers(minilm: Path) -> None:
    data = IMDB(train_split="train[:100]", tokenizer=MINILM, max_tokens=64, validation_fraction=0)
    reviews = list(data.open_split(data.train_split)["text"])
    network = TransformersNetwork(2, MINILM, pooling="mean").eval()
    load_starting_weights(network, MINILM, vocabulary=data.vocabulary)
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(minilm),
        transformers.AutoModel.from_pretrained(minilm),
    )
    take, expected = data.batch_maker(data.read_split(data.train_split)), {}
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).numpy()
    with torch.no_grad():
        for row, review in enumerate(reviews):
            token_ids = take(np.array([row])).token_ids  # of a long review the start and the end
            whole = tokenizer(review)["input_ids"]
            assert token_ids[0].tolist() == (whole if len(whole) <= 64 else [*whole[:16], *whole[-48:]])
            states = model.eval()(input_ids=token_ids, attention_mask=torch.ones_like(token_ids)).last_hidden_state
            expected[row] = states.mean(1)
        for chosen in order.reshape(4, 25):
            sentences = network.encode(*take(chosen).inputs)
            torch.testing.assert_close(sentences, torch.cat([expected[row] for row in chosen]), atol=1e-5, rtol=0)
