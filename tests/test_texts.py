"""Text data from raw files to predictions: vocabulary, cuts, batches, and what is refused."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import run_folder, write_parquet
from test_cli import error_line
from tokenizers import Tokenizer

from lightning_transfer import IMDB, DemoTexts, TextDataModule
from lightning_transfer.cli.entry import main
from lightning_transfer.data.hub import load_split
from lightning_transfer.data.reading.documents import read_documents
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.tokenizer import UNKNOWN_ID
from lightning_transfer.data.truncation import shares
from lightning_transfer.errors import UserError

WORDS = {0: "bad dull awful", 1: "good fine great"}


def text_dataset(rows: int, more: str = "", labels: list[int] | None = None) -> datasets.Dataset:
    """Reviews whose words tell the label, of 4 to 40 words."""
    labels = labels or [row % 2 for row in range(rows)]
    texts = [f"the film is {(WORDS[label % 2] + ' ') * (1 + row % 12)}{more}" for row, label in enumerate(labels)]
    names = datasets.ClassLabel(names=["neg", "pos"]) if min(labels) >= 0 else datasets.Value("int64")
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text data set: 80 training and 30 test reviews."""
    root = tmp_path_factory.mktemp("texts") / "set"
    return write_parquet(root, train=text_dataset(80), test=text_dataset(30, more="surprisingly"))


def fit_arguments(folder: Path, *more: str) -> list[str]:
    """A run of one epoch on the small text data set."""
    return [
        "fit",
        *("--data", "IMDB", "--data.path", str(folder), "--data.batch_size", "8"),
        *("--model.network", "LSTMClassifier", "--model.network.embedding_size", "8"),
        *("--model.network.hidden_size", "8", "--model.network.pooling", "max"),
        *("--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", "0.03"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false"),
        *more,
    ]


def loaded(folder: Path, **arguments: Any) -> TextDataModule:
    data = IMDB(path=str(folder), **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_vocabulary_is_learned_from_the_training_split_alone(text_folder: Path) -> None:
    vocabulary = loaded(text_folder).tokenizer.get_vocab()
    assert "awful" in vocabulary
    assert "surprisingly" not in vocabulary
    batch = next(iter(loaded(text_folder).test_dataloader()))
    assert (batch.token_ids[0] == vocabulary["<unk>"]).sum() == 1


def test_batch_is_right_padded_with_lengths_and_labels(text_folder: Path) -> None:
    data = loaded(text_folder)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch.token_ids.dtype == batch.lengths.dtype == batch.labels.dtype == torch.int64
        assert batch.token_ids.shape == (len(batch.labels), batch.lengths.max())
        is_token = torch.arange(batch.token_ids.shape[1]) < batch.lengths.unsqueeze(1)
        assert torch.equal(batch.token_ids != 0, is_token)
        good = data.tokenizer.token_to_id("good")
        assert torch.equal((batch.token_ids == good).any(1), batch.labels == 1)


def test_document_start_is_a_token_more_before_the_whole_document() -> None:
    plain, started = (
        next(iter(DemoTexts(task="target", document_start=flag, eval_batch_tokens=10_000).test_dataloader()))
        for flag in (False, True)
    )
    rows = len(started.labels)
    assert torch.equal(started.lengths, plain.lengths[:rows] + 1)
    assert torch.equal(started.token_ids[:, 1:], plain.token_ids[:rows])
    assert not started.token_ids[:, 0].any()


def test_another_text_column_of_the_same_data_is_another_text(tmp_path: Path) -> None:
    dataset = text_dataset(30).add_column("title", ["one title"] * 30)
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    texts, titles = loaded(folder), loaded(folder, text_column="title")
    assert titles.read_split("train").inputs.lengths.tolist() == [2] * 30
    assert texts.read_split("train").inputs.lengths.min() > 2
    assert titles.tokenizer.token_to_id("title") is not None


def test_training_sample_is_of_the_training_documents_with_zeros_between_and_for_unknown_words() -> None:
    data = DemoTexts(examples_per_class=3, max_vocabulary_size=20)
    data.setup("fit")
    documents = data.read_split("train").inputs
    parts = np.split(documents.token_ids, documents.offsets[1:-1])
    expected = np.concatenate([np.append(parts[row], 0) for row in data._train_rows])
    assert (expected == 1).any()
    assert data.training_sample(100).tolist() == np.where(expected == 1, 0, expected).tolist()
    assert data.training_sample(2).eq(0).sum() < data.training_sample(100).eq(0).sum()


def test_long_document_keeps_its_first_quarter_and_its_end() -> None:
    data = DemoTexts(max_tokens=8)
    split = data.read_split("test")
    row = int(split.inputs.lengths.argmax())
    batch = data.batch_maker(split)(np.array([row]))
    whole = split.inputs.token_ids[split.inputs.offsets[row] : split.inputs.offsets[row + 1]]
    assert batch.lengths.tolist() == [8]
    assert batch.token_ids[0].tolist() == [*whole[:2], *whole[-6:]]


def pairs(folder: Path, rows: list[tuple[str, str]], **arguments: Any) -> TextDataModule:
    for split in ("train", "test"):
        lines = [json.dumps({"premise": a, "hypothesis": b, "label": row % 2}) for row, (a, b) in enumerate(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return TextDataModule(str(folder), text_column=["premise", "hypothesis"], **arguments)


def test_two_text_columns_are_one_document_with_a_separator_between_them(tmp_path: Path) -> None:
    data = pairs(tmp_path, [("a b c", "d"), ("e", ""), ("", "a a")] * 4)
    batch = data.batch_maker(data.read_split("test"))(np.arange(3))
    read = [data.read_tokens(row[:n].tolist()) for row, n in zip(batch.token_ids, batch.lengths, strict=True)]
    assert read == [["a", "b", "c", "<sep>", "d"], ["e", "<sep>", "<unk>"], ["<unk>", "<sep>", "a", "a"]]
    assert {"a", "d", "e"} <= set(data.vocabulary)  # words of both columns
    swapped = TextDataModule(str(tmp_path), text_column=["hypothesis", "premise"])
    assert swapped.read_split("test").inputs.token_ids.tolist() != data.read_split("test").inputs.token_ids.tolist()


@pytest.mark.parametrize(
    ("premise", "hypothesis", "expected"),
    [
        ("a b c d e f g h", "s t", "a d e f g h <sep> s t"),  # the short one whole, the other a quarter and the end
        ("a b", "s t u v w x y z", "a b <sep> s v w x y z"),
        ("a b c d e f g h", "s t u v w x y z", "a f g h <sep> s x y z"),
        ("a b c d", "s t u v", "a b c d <sep> s t u v"),
    ],
)
def test_two_texts_share_the_tokens_and_each_keeps_its_start_and_end(
    premise: str, hypothesis: str, expected: str, tmp_path: Path
) -> None:
    data = pairs(tmp_path, [(premise, hypothesis), ("a b c d e f g h", "s t u v w x y z")] * 5, max_tokens=9)
    batch = data.batch_maker(data.read_split("test"))(np.array([0, 1]))
    assert " ".join(data.read_tokens(batch.token_ids[0].tolist())) == expected
    assert batch.lengths.tolist() == [9, 9]


@pytest.mark.parametrize(
    "texts", [("a b c d e f g h", "s t"), ("a b", "s t u v w x y z"), ("a b c d e", "s t u v w x")]
)
def test_words_of_the_preprocessing_lead_to_the_same_tokens(texts: tuple[str, str], tmp_path: Path) -> None:
    data = pairs(tmp_path, [texts] * 10, max_tokens=9, document_start=True)
    batch = data.batch_maker(data.read_split("test"))(np.array([0]))
    how = data.preprocessing
    left, shares_of = how["tokens_to_share"], {}
    tokens = [data.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    for place, text in enumerate(sorted(tokens, key=len)):
        shares_of[tokens.index(text)] = share = min(len(text), left // (len(texts) - place))
        left -= share
    kept = []
    for place, text in enumerate(tokens):
        share = shares_of[place]
        kept.append([*text[: share // 4], *text[len(text) - (share - share // 4) :]] if share < len(text) else text)
    expected = [*how["before"], *kept[0], how["between_texts"], *kept[1], *how["after"]]
    assert batch.token_ids[0].tolist() == expected


def test_shares_of_three_texts_add_up_and_are_equal_where_all_are_long() -> None:
    whole = torch.tensor([[9, 9, 9], [1, 9, 9], [9, 2, 1], [1, 2, 3]])
    assert shares(whole, 10).tolist() == [[3, 3, 4], [1, 4, 5], [7, 2, 1], [1, 2, 3]]


@pytest.mark.parametrize(
    ("columns", "message"), [([], "expected one column"), (["text", "text"], "expected one column")]
)
def test_no_text_column_or_one_twice_is_refused(columns: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextDataModule("nowhere", text_column=columns)


def test_fewer_tokens_than_two_texts_and_their_separator_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.max_tokens is 2: expected 3 or more"):
        TextDataModule("nowhere", text_column=["a", "b"], max_tokens=2)


@pytest.mark.parametrize("document_start", [False, True])
def test_no_evaluation_batch_has_more_tokens_than_allowed(document_start: bool) -> None:
    data = DemoTexts(task="target", max_tokens=20, document_start=document_start, eval_batch_tokens=160)
    assert max(batch.token_ids.numel() for batch in data.test_dataloader()) <= 160


def test_document_of_50000_tokens_trains_and_predicts(tmp_path: Path) -> None:
    dataset = text_dataset(40)
    long = datasets.Dataset.from_dict({"text": ["good " * 50_000], "label": [1]}, features=dataset.features)
    folder = write_parquet(tmp_path / "set", train=datasets.concatenate_datasets([dataset, long]), test=dataset)
    main(fit_arguments(folder))
    assert (run_folder() / "results.json").exists()


def test_embedded_reviews_have_the_properties_of_any_text_data() -> None:
    data = DemoTexts(task="target")
    assert data.class_names == ["negative", "positive"]
    assert data.vocabulary_size == len(data.tokenizer.get_vocab())
    data.setup("fit")
    assert data.facts["train_examples"] == 180


def test_target_reads_in_the_vocabulary_of_the_source(tmp_path: Path) -> None:
    source = DemoTexts(task="source")
    (tmp_path / "tokenizer.json").write_text(source.tokenizer.to_str())
    target = DemoTexts(task="target", vocabulary_path=str(tmp_path / "tokenizer.json"))
    assert target.tokenizer.get_vocab() == source.tokenizer.get_vocab()


def test_state_brings_vocabulary_classes_and_place_into_another_instance(text_folder: Path) -> None:
    data = loaded(text_folder, max_vocabulary_size=7, batch_size=8)
    loader = data.train_dataloader()
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(data.state_dict()))  # plain types only
    other = IMDB(path="nowhere/at-all")
    other.load_state_dict(state)
    assert other.vocabulary_size == 7
    assert other.class_names == ["neg", "pos"]
    resumed = loaded(text_folder, batch_size=8)
    resumed.load_state_dict(state)
    rest = list(resumed.train_dataloader())
    assert len(rest) == len(loader) - 1
    assert resumed.vocabulary_size == 7
    assert max(int(batch.token_ids.max()) for batch in rest) == 6  # though it had read the texts in a larger one


@pytest.fixture(scope="module")
def finished_run(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(fit_arguments(text_folder, "--trainer.max_epochs", "5", "--test_after_fit", "true"))
        return folder / run_folder()


def predict(run: Path, *arguments: str) -> list[dict[str, Any]]:
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["predict", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint, *arguments])
    return [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]


def test_run_leaves_its_tokenizer_and_learns(finished_run: Path) -> None:
    assert Tokenizer.from_str((finished_run / "tokenizer.json").read_text()).token_to_id("awful") is not None
    assert json.loads((finished_run / "results.json").read_text())["test"]["test/accuracy"] == 1


def test_predict_needs_nothing_but_the_checkpoint_and_the_text(finished_run: Path) -> None:
    documents = ["a good film " * 30, "bad", "", "dull awful \N{GRINNING FACE} dull awful", "great"]
    Path("new.txt").write_bytes("\n".join(documents).encode() + b" \xff\xfe film\r\n")
    lines = predict(finished_run, "--data.predict_path", "new.txt", "--data.path", "nowhere/at-all")
    assert [line["name"] for line in lines] == [0, 1, 2, 3, 4]
    assert [lines[index]["class"] for index in (0, 1, 3, 4)] == ["pos", "neg", "neg", "pos"]
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1)


def test_predict_on_json_lines_equals_predict_on_lines(finished_run: Path) -> None:
    documents = ["good film", "an awful film, dull", "fine"]
    Path("new.txt").write_text("\n".join(documents))
    Path("new.jsonl").write_text("".join(json.dumps({"text": text, "id": 3}) + "\n" for text in documents))
    assert predict(finished_run, "--data.predict_path", "new.txt") == predict(
        finished_run, "--data.predict_path", "new.jsonl"
    )


FILMS = ["good film", "an awful film, dull", "fine"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.csv", 'id,text\n7,good film\n8,"an awful film, dull"\n9,fine\n'),
        ("new.csv", "text\ngood film\nan awful film, dull\nfine\n"),
        ("new.tsv", "label\ttext\n0\tgood film\n0\tan awful film, dull\n1\tfine\n"),
        ("new.txt", "label\ttext\n0\tgood film\n0\tan awful film, dull\n1\tfine\n"),
        ("new.txt", "good film\r\nan awful film, dull\r\nfine\r\n"),
        ("new.txt", "text\ngood film\nan awful film, dull\nfine\n"),
        ("new.txt", "\ufeffgood film\nan awful film, dull\nfine"),
        ("new.log", "good film\nan awful film, dull\nfine\n"),
        ("new", "good film\ran awful film, dull\rfine\r"),
        ("new.json", json.dumps([{"text": text} for text in FILMS])),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_texts_to_predict_are_read_from_any_table_or_lines(name: str, content: str, compress: Any) -> None:
    file = Path(name if compress is bytes else f"{name}.gz")
    file.write_bytes(compress(content.encode()))
    assert read_documents(str(file), ["text"]) == ([FILMS], None)


def test_texts_to_predict_are_read_from_parquet_and_by_the_reader_options() -> None:
    datasets.Dataset.from_dict({"text": FILMS}).to_parquet("new.parquet")
    assert read_documents("new.parquet", ["text"]).columns == [FILMS]
    Path("new.txt").write_text("".join(f"7;{text}\n" for text in FILMS))
    assert read_documents("new.txt", ["text"], ReaderOptions(header=["id", "text"])).columns == [FILMS]


def test_folder_of_texts_to_predict_names_its_files_in_natural_order() -> None:
    for name in ("10", "9", "deep/1"):
        Path("new", name).with_suffix(".txt").parent.mkdir(parents=True, exist_ok=True)
        Path("new", name).with_suffix(".txt").write_text(f"film {name}\nof two lines\n")
    for name in (".hidden.txt", "film.doc", "LICENSE"):
        Path("new", name).write_text("no")
    with pytest.warns(UserWarning, match="data.predict_path 'new': 1 file of other kinds left out: film.doc$"):
        found = read_documents("new", ["text"])
    assert found.names == ["9.txt", "10.txt", "deep/1.txt"]
    assert found.columns == [["film 9\nof two lines", "film 10\nof two lines", "film deep/1\nof two lines"]]


def test_two_columns_to_predict_need_a_table_with_both() -> None:
    Path("new.csv").write_text("a,b\n1,x y\n2,z\n")
    assert read_documents("new.csv", ["b", "a"]).columns == [["x y", "z"], ["1", "2"]]
    Path("new.txt").write_text("one line\n")
    with pytest.raises(UserError, match="expected a table with the columns a, b, not lines of text"):
        read_documents("new.txt", ["a", "b"])


def test_row_without_a_text_to_predict_is_an_empty_document_and_named() -> None:
    Path("new.csv").write_text("text,id\ngood,1\n,2\nbad,3\n")
    with pytest.warns(UserWarning, match=r"1 rows of new.csv have no text and count as empty texts: rows 1"):
        assert read_documents("new.csv", ["text"]).columns == [["good", "", "bad"]]


def test_predict_on_a_table_of_two_columns_equals_their_joined_rows(tmp_path: Path) -> None:
    data = pairs(tmp_path, [("a b c", "d"), ("e", "b")] * 6)
    Path("new.csv").write_text('hypothesis,premise\nd,a b c\nb,"e"\n')
    data.predict_path = "new.csv"
    [batch] = data.predict_dataloader()
    [expected] = [data.batch_maker(data.read_split("test"))(np.arange(2))]
    assert torch.equal(batch.token_ids, expected.token_ids)
    assert batch.labels.tolist() == [-1, -1]


def test_limited_predict_names_the_documents_it_read(finished_run: Path) -> None:
    Path("new.txt").write_text("a\na film of two hours, long and dull\nb\n")
    every = predict(finished_run, "--data.predict_path", "new.txt")
    short = predict(
        finished_run,
        *("--data.predict_path", "new.txt", "--data.eval_batch_tokens", "2", "--trainer.limit_predict_batches", "1"),
    )
    assert [line["name"] for line in short] == [1]  # the longest comes first
    assert short[0]["probabilities"] == pytest.approx(every[1]["probabilities"], abs=1e-6)


def test_predict_without_a_file_takes_the_test_split_in_its_order(finished_run: Path) -> None:
    lines = predict(finished_run)
    assert [line["class"] for line in lines] == ["neg", "pos"] * 15


def test_single_logit_with_binary_cross_entropy_learns(text_folder: Path) -> None:
    more = ["--model.loss", "binary_cross_entropy", "--model.network.single_logit", "true"]
    main(fit_arguments(text_folder, "--trainer.max_epochs", "5", *more))
    assert json.loads((run_folder() / "results.json").read_text())["validation"]["val/accuracy"] == 1
    assert predict(run_folder())[1]["class"] == "pos"


def test_resumed_fit_equals_the_uninterrupted_one(text_folder: Path) -> None:
    dropout = ("--model.network.dropout", "0.4")
    main(fit_arguments(text_folder, "--trainer.max_epochs", "2", *dropout))
    whole = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
    main(fit_arguments(text_folder, "--experiment", "parts", *dropout))
    last = str(run_folder("parts") / "checkpoints" / "last.ckpt")
    more = ("--trainer.max_epochs", "2", "--ckpt_path", last, *dropout)
    main(fit_arguments(text_folder, "--experiment", "parts", *more))
    parts = torch.load(run_folder("parts") / "checkpoints" / "last.ckpt", weights_only=True)
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name


@pytest.mark.parametrize("column", ["text", "label"])
def test_data_without_a_column_is_refused_with_those_it_has(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = text_dataset(30).rename_column(column, "other")
    line = error_line(capsys, *fit_arguments(write_parquet(tmp_path / "set", train=dataset, test=dataset)))
    assert f"has no column '{column}'" in line
    assert "other" in line


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"train.jsonl": b'{"text": "a", "label": 0}\n{"text": oops\n'},
            "train.jsonl, line 2 is not JSON: Expecting value",
        ),
        ({"train.csv": b"text,label\na,0\nb,c,d,0\n"}, "train.csv, line 3: 4 cells, expected 2 (text, label)"),
        ({"train.csv": "text,label\ncaf\xe9,0\n".encode("latin-1")}, "train.csv is not UTF-8 (byte 0xe9 in line 2)"),
        (
            {"train-0.csv": b"text,label\na,0\n", "train-1.csv": b"text,label,more\na,0,1\nb,1,1\n"},
            "train-1.csv has the columns text, label, more: expected those of train-0.csv, text, label",
        ),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_reason(
    files: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_split(str(tmp_path), "train", text_column="text")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_labels_are_refused_with_their_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = text_dataset(30, labels=[0, 1, -1] * 10)
    line = error_line(capsys, *fit_arguments(write_parquet(tmp_path / "set", train=dataset, test=dataset)))
    assert "label -1 in row 2 of split 'train' is out of range: expected 0 to 1" in line


def test_label_one_past_the_last_class_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "a film", "label": label} for label in (0, 1, 0, 1)]
    for name, more in (("train", []), ("test", [{"text": "a film", "label": 2}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, [*rows, *more])))
    with pytest.raises(UserError, match="label 2 in row 4 of split 'test' is out of range: expected 0 to 1"):
        TextDataModule(str(tmp_path)).read_split("test")


@pytest.mark.parametrize("labels", [[[0, 1], [1, 0]], [[0], [1, 0]]])
def test_labels_that_are_not_one_integer_in_each_row_are_refused(labels: list[Any], tmp_path: Path) -> None:
    rows = [{"text": "a film", "label": label} for label in labels]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        UserError, match=r"label column 'label' holds .*, not one integer or word in each row: name another"
    ):
        _ = TextDataModule(str(tmp_path)).class_names


@pytest.mark.parametrize(("bad", "good"), [("negative", "positive"), (False, True)])
def test_words_as_labels_are_classes_in_natural_order(bad: Any, good: Any, tmp_path: Path) -> None:
    rows = [{"text": "a fine film", "label": good}, {"text": "a dull film", "label": bad}]
    for split, count in (("train", 10), ("test", 2)):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows * count)))
    data = TextDataModule(str(tmp_path))
    assert data.class_names == [str(bad), str(good)]
    assert data.read_split("test").labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("split", "label", "message"),
    [
        (
            "test",
            "so so",
            "label 'so so' in row 4 of split 'test' is out of range: expected bad, good; correct the data",
        ),
        (
            "train",
            None,
            "label column 'label' holds nothing in row 4 of split 'train': expected bad, good; give the row a label",
        ),
    ],
)
def test_word_that_is_no_class_is_refused(split: str, label: str | None, message: str, tmp_path: Path) -> None:
    rows = [{"text": "a film", "label": word} for word in ["bad", "good"] * 2]
    for name in ("train", "test"):
        more = [{"text": "a film", "label": label}] * (name == split)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, [*rows, *more])))
    with pytest.raises(UserError, match=message):
        TextDataModule(str(tmp_path)).read_split(split)


def test_column_that_is_not_there_is_named_with_the_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = text_dataset(30).rename_column("label", "sentiment")
    line = error_line(capsys, *fit_arguments(write_parquet(tmp_path / "set", train=dataset, test=dataset)))
    assert line.endswith("has no column 'label': its columns are text, sentiment; name one by data.label_column")


def test_split_that_is_unlabelled_throughout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = text_dataset(30, labels=[-1] * 30)
    line = error_line(capsys, *fit_arguments(write_parquet(tmp_path / "set", train=dataset, test=dataset)))
    assert "split 'train'" in line
    assert "-1" in line


def test_column_of_numbers_is_refused_as_text(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *fit_arguments(text_folder, "--data.text_column", "label"))
    assert "column 'label' holds" in line
    assert "name another text_column" in line


def test_image_network_on_text_and_text_network_on_images_are_refused(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "--data", "CIFAR10", "--data.path", str(image_folder), "--model.network", "LSTMClassifier"]
    assert "the data has no vocabulary_size: choose other data, or" in error_line(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.max_tokens", "0"], "data.max_tokens is 0: expected 1 or more"),
        (["--data.max_vocabulary_size", "2"], "data.max_vocabulary_size is 2: expected 3 or more"),
        (["--data.vocabulary_path", "no.json"], "data.vocabulary_path 'no.json' is not the tokenizer.json of a run"),
    ],
)
def test_value_out_of_range_is_refused_by_name(
    arguments: list[str], expected: str, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in error_line(capsys, *fit_arguments(text_folder, *arguments))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "data.predict_path 'a.txt' is empty: expected documents"),
        ("a.csv", b"", "data.predict_path 'a.csv' cannot be read: it is empty"),
        ("a.txt", b" \n\n", "data.predict_path 'a.txt' is empty: expected documents"),
        (
            "a.jsonl",
            b'{"text": "x"}\nx',
            "data.predict_path 'a.jsonl' cannot be read: a.jsonl, line 2 is not JSON: Expecting value",
        ),
        (
            "a.jsonl",
            b'{"body": "x"}',
            "data.predict_path 'a.jsonl' cannot be read: the table has no column 'text': its columns are body",
        ),
        (
            "a.jsonl",
            b'["x"]',
            "data.predict_path 'a.jsonl' cannot be read: a.jsonl: row 0 is \"x\", expected an object",
        ),
        (
            "a.csv",
            b"good,1\nbad,0\n",
            "data.predict_path 'a.csv' cannot be read: the table has no column 'text': its columns are good",
        ),
        (
            "a.parquet",
            b"PAR1 and no more PAR1",
            "data.predict_path 'a.parquet' cannot be read: a.parquet cannot be read: ",
        ),
        ("a.csv.gz", b"\x1f\x8b and no more", "data.predict_path 'a.csv.gz' cannot be read: a.csv.gz cannot be read: "),
    ],
)
def test_file_that_cannot_be_predicted_is_refused(name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_documents(name, ["text"])
    assert str(error.value).startswith(message)


def test_folder_of_one_split_is_predicted_and_of_several_refused() -> None:
    texts = datasets.Dataset.from_dict({"text": ["good", "bad"]})
    texts.save_to_disk("saved")
    datasets.DatasetDict(test=texts).save_to_disk("one")
    Path("parts/test").mkdir(parents=True)
    for part, text in enumerate(["good", "bad"]):
        Path(f"parts/test/{part}.csv").write_text(f"text\n{text}\n")
    for folder in ("saved", "one", "parts"):
        assert read_documents(folder, ["text"]).columns == [["good", "bad"]]
    datasets.DatasetDict(train=texts, test=texts).save_to_disk("two")
    with pytest.raises(
        UserError, match=r"the folder has the splits train, test: expected one, name the file or folder"
    ):
        read_documents("two", ["text"])


def test_lines_to_predict_may_be_compressed() -> None:
    for name, compress in (("a.txt.gz", gzip.compress), ("a.txt.bz2", bz2.compress), ("a.txt.xz", lzma.compress)):
        Path(name).write_bytes(compress(b"good film\nbad film\n"))
        assert read_documents(name, ["text"]).columns == [["good film", "bad film"]]
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("new.txt", "good film\nbad film\n")
    assert read_documents("a.zip", ["text"]).columns == [["good film", "bad film"]]


def test_missing_file_to_predict_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.predict_path 'no.txt' cannot be read: No such file"):
        read_documents("no.txt", ["text"])


def test_lines_are_split_at_line_feeds_alone() -> None:
    Path("a.txt").write_bytes(b"\xef\xbb\xbfone\x0b\xe2\x80\xa8still one\r\n\ntwo \xe9\n")
    with pytest.warns(UserWarning, match=r"a.txt: 1 times what is not UTF-8 is replaced; data.reader.encoding"):
        found = read_documents("a.txt", ["text"])
    assert found.columns == [["one\x0b\u2028still one", "", "two \ufffd"]]


def write_reviews(folder: Path, words: list[str], **options: Any) -> TextDataModule:
    """Sentences without spaces: three words in another order in each, and its number in letters of the script."""
    generator = np.random.default_rng(0)
    for split, rows in (("train", 200), ("test", 40)):
        texts = ["".join(generator.permutation(words)[:6]) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": row % 2}) for row, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return loaded(folder, **options)


@pytest.mark.parametrize(
    "words",
    [
        ["酒店", "很好", "房间", "干净", "服务", "太差", "不会", "再来"],
        ["ホテル", "とても", "きれい", "残念", "部屋", "でした", "また", "来たい"],
        ["โรงแรม", "ดีมาก", "ห้อง", "สะอาด", "บริการ", "แย่", "ไม่", "กลับมา"],
    ],
)
def test_texts_without_spaces_are_known_to_the_vocabulary_and_said_to_be_read_by_characters(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data = write_reviews(tmp_path, words)
    assert not (data.read_split("test").inputs.token_ids == UNKNOWN_ID).any()
    assert (
        "of them single characters of scripts without spaces; 0 % of the validation tokens are in no training text"
        in caplog.text
    )


def test_many_unknown_validation_tokens_are_a_warning_with_the_way_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"\d\d % of the validation tokens are in no training text: .* byte_level_bpe"):
        write_reviews(tmp_path, ["abc", "def", "ghi", "jkl", "mno", "pqr", "stu", "vwx"])


def test_advice_for_unknown_tokens_leaves_out_what_is_done_already(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["abc", "def", "ghi", "jkl", "mno", "pqr", "stu", "vwx"]
    learned = write_reviews(tmp_path, words, tokenizer="byte_level_bpe")
    [warning] = [str(warning.message) for warning in recwarn if "no training text" in str(warning.message)]
    assert warning.endswith(" % of the validation tokens are in no training text: expected few; train on more texts")
    recwarn.clear()
    (tmp_path / "tokenizer.json").write_text(learned.tokenizer.to_str())
    with caplog.at_level("INFO"):
        write_reviews(tmp_path, words, vocabulary_path=str(tmp_path / "tokenizer.json"))
    assert not [warning for warning in recwarn if "no training text" in str(warning.message)]
    assert "% of the validation tokens are in no training text" in caplog.text


def test_rows_without_a_text_are_named(tmp_path: Path) -> None:
    lines = [f"{'' if row in (3, 7) else 'a film'},{row % 2}" for row in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    with pytest.warns(UserWarning, match=r"2 rows of split 'train' have no text and count as empty texts: rows 3, 7"):
        loaded(tmp_path)


@pytest.mark.mirror
@pytest.mark.slow
def test_reviews_of_imdb_are_read_with_little_padding(mirror: Path) -> None:
    data = loaded(mirror / "stanfordnlp" / "imdb")
    assert data.vocabulary_size == 25_000
    assert data.class_names == ["neg", "pos"]
    tokens = cells = 0
    for batch in data.train_dataloader():
        tokens, cells = tokens + int(batch.lengths.sum()), cells + batch.token_ids.numel()
    assert 1 - tokens / cells < 0.05
