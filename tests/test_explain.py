"""What predictions rest on: captum's own numbers, and checks that networks pass and a method blind to them fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import error_line
from test_load import image_run, pictures, text_run  # noqa: F401  # fixtures
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import Classifier, FastCNN, LSTMClassifier, SeedCNN, TorchvisionNetwork, TransformersNetwork
from lightning_transfer.cli.entry import main
from lightning_transfer.data.pretrained_tokenizer import SpecialTokens
from lightning_transfer.data.tokenizer import train_tokenizer
from lightning_transfer.data.word_pieces import PieceJoiner
from lightning_transfer.run.explanations import methods
from lightning_transfer.run.explanations.chosen import losses_of
from lightning_transfer.run.explanations.methods import Method
from lightning_transfer.run.explanations.neighbours import embeddings, nearest
from lightning_transfer.run.explanations.parts import Parts, Tiles, Words, edges
from lightning_transfer.run.explanations.sanity import Sample, check, sample_of
from lightning_transfer.run.explanations.scores import Embedded, Inputs, Scores

captum = pytest.importorskip("captum.attr", reason="the extra explain is not installed")
MARKS = SpecialTokens(padding=0, unknown=1, before=[], after=[], separator=0)
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 20}


def blobs(count: int, side: int, seed: int) -> tuple[Inputs, Tensor]:
    """Images with a soft blob in the colour of their class, and sharp stripes elsewhere that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.15 * torch.randn(count, 3, side, side, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(side // 5, side - side // 5, (2,), generator=generator).tolist()
        image[label] += 2.5 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) * 57 / side**2)
        top, left = torch.randint(0, side // 2, (2,), generator=generator).tolist()
        stripes = 2.0 * (columns // 3 % 2 * 2.0 - 1)
        area = slice(top, top + side // 2), slice(left, left + side // 2)
        image[:, area[0], area[1]] += stripes[area]
    return (images,), labels


def reviews(count: int, _: int, seed: int) -> tuple[Inputs, Tensor]:
    """Texts in which one word says the class: 2 to 4 the first, 5 to 7 the second, and all others nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    lengths = torch.randint(7, 13, (count,), generator=generator)
    token_ids = torch.randint(8, 30, (count, int(lengths.max())), generator=generator)
    for text, length, label in zip(token_ids, lengths.tolist(), labels.tolist(), strict=True):
        place, word = (int(torch.randint(0, high, (), generator=generator)) for high in (length, 3))
        text[place] = 2 + 3 * label + word
        text[length:] = 0
    return (token_ids, lengths), labels


class Case:
    """A network trained for some steps on examples that are generated, to be explained on others."""

    def __init__(self, network: Callable[[], nn.Module], steps: int, lr: float, side: int = 32, count: int = 9) -> None:
        torch.manual_seed(0)
        made = network()
        self.of_images = not isinstance(made, LSTMClassifier | TransformersNetwork)
        self.classifier = Classifier(made, 3 if self.of_images else 2)
        generate = blobs if self.of_images else reviews
        inputs, labels = generate(240, side, 0)
        optimizer = torch.optim.Adam(self.classifier.parameters(), lr)
        for step in range(steps):
            rows = torch.randint(0, 240, (16,), generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(self.classifier(*(each[rows] for each in inputs)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.scores = Scores(self.classifier.eval())
        self.inputs, labels = generate(count, side, 1)
        with torch.no_grad():
            self.targets = self.scores(*self.inputs).argmax(1)
        assert (self.targets == labels).float().mean() > 0.7

    def make(self, steps: int = methods.STEPS) -> Method:
        if self.of_images:
            return methods.integrated_gradients_of_pixels(steps)
        return methods.integrated_gradients_of_tokens(MARKS, steps)

    @property
    def parts(self) -> Parts:
        if self.of_images:
            return Tiles(*self.inputs)
        token_ids, lengths = self.inputs
        return Words(token_ids, lengths, [[*range(length)] for length in lengths.tolist()], MARKS)

    @property
    def sample(self) -> Sample:
        return sample_of(self.scores, self.parts, self.targets)


CASES: dict[str, Callable[[], Case]] = {
    "SeedCNN": lambda: Case(lambda: SeedCNN(3), 120, 3e-3),
    "FastCNN": lambda: Case(lambda: FastCNN(3, widths=(8, 16, 16)), 60, 1e-2, side=64),
    "ResNet-18": lambda: Case(lambda: TorchvisionNetwork(3, "resnet18", small_images=True), 24, 1e-3, side=16, count=4),
    "LSTM": lambda: Case(lambda: LSTMClassifier(30, hidden_size=16, embedding_size=16, pooling="max"), 80, 1e-2),
    "BERT": lambda: Case(
        lambda: TransformersNetwork(2, pooling="mean", vocabulary_size=30, model_arguments=BERT), 140, 2e-3
    ),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "ResNet-18" else name for name in CASES]


@pytest.fixture(scope="module", params=SLOW)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def test_sanity_checks_pass_on_a_trained_network_and_fail_for_an_edge_detector(case: Case) -> None:
    sample = case.sample
    used = [case.make(16 if case.of_images else methods.STEPS)]
    if case.of_images:
        found = methods.grad_cam(case.scores, case.inputs)
        assert found is not None
        used.append(found)
    for each in used:
        verdict = check(each, sample)
        assert verdict["passed"], (each.name, verdict)
    blind = Method("edges", "Edges", lambda scores, inputs, targets: edges(*inputs))
    if not case.of_images:  # a rule that looks at the text alone
        blind = Method("rule", "Rule", lambda scores, inputs, targets: inputs[0].float())
    verdict = check(blind, sample)
    assert not verdict["passed"]
    assert not verdict["randomisation"]["passed"]
    assert verdict["randomisation"]["stages"][-1]["rank_correlation"] == pytest.approx(1)
    if case.of_images:
        assert not verdict["curves"]["passed"]


def test_grad_cam_is_that_of_captum_on_the_same_layer() -> None:
    torch.manual_seed(0)
    network = SeedCNN(3).eval()
    scores, images, targets = Scores(Classifier(network, 3)), torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 2])
    method = methods.grad_cam(scores, (images,))
    assert method is not None
    assert method.layer == "convolution2"
    maps = captum.LayerGradCam(network, network.convolution2).attribute(images, targets, relu_attributions=True)
    expected = F.interpolate(maps, (32, 32), mode="bilinear")[:, 0].detach()
    torch.testing.assert_close(method.attribute(scores, (images,), targets), expected, atol=1e-5, rtol=0)
    assert expected.abs().max() > 1e-3


def test_integrated_gradients_of_pixels_are_those_of_captum() -> None:
    torch.manual_seed(0)
    network = FastCNN(3, widths=(8, 16, 16)).eval()
    scores, images, targets = Scores(Classifier(network, 3)), torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 2])
    found = methods.integrated_gradients_of_pixels(20).attribute(scores, (images,), targets)
    expected = captum.IntegratedGradients(network).attribute(images, torch.zeros_like(images), targets, n_steps=20)
    torch.testing.assert_close(found, expected.sum(1).float().detach(), atol=1e-5, rtol=0)
    assert found.abs().max() > 1e-3


TEXT_NETWORKS = {
    "forward": lambda: LSTMClassifier(30, 3, hidden_size=8, embedding_size=8, pooling="all"),
    "backward": lambda: LSTMClassifier(30, 3, hidden_size=8, embedding_size=8, direction="backward"),
    "BERT": lambda: TransformersNetwork(3, pooling="mean", vocabulary_size=30, model_arguments=BERT),
}


@pytest.mark.filterwarnings("ignore:Internal batch size")
@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_integrated_gradients_of_tokens_are_those_of_captum_on_the_embedding(name: str) -> None:
    torch.manual_seed(0)
    network = TEXT_NETWORKS[name]().eval()
    token_ids = torch.tensor([[9, 4, 7, 2, 11], [3, 28, 5, 0, 0]])
    lengths, targets = torch.tensor([5, 3]), torch.tensor([0, 2])
    method = methods.integrated_gradients_of_tokens(MARKS, 20)
    found = method.attribute(Scores(Classifier(network, 3)), (token_ids, lengths), targets)
    embedding = next(module for module in network.modules() if isinstance(module, nn.Embedding))
    for row, length in enumerate(lengths.tolist()):  # one at a time: captum needs the batch first
        expected = captum.LayerIntegratedGradients(network, embedding).attribute(
            token_ids[row : row + 1, :length],
            torch.zeros(1, length, dtype=torch.int64),
            int(targets[row]),
            (lengths[row : row + 1],),
            n_steps=20,
            internal_batch_size=1,
        )
        expected = expected.float().sum(-1).flatten().detach()
        order = expected.flip(0) if name == "backward" else expected
        torch.testing.assert_close(found[row, :length], order, atol=1e-5, rtol=0)
        assert order.abs().max() > 1e-4


def test_embedded_tokens_give_the_scores_of_the_text() -> None:
    network = TEXT_NETWORKS["backward"]().eval()
    scores = Scores(Classifier(network, 3))
    inputs = torch.tensor([[9, 4, 7], [0, 28, 5]]), torch.tensor([3, 2])
    embedded = Embedded(scores)
    torch.testing.assert_close(embedded(embedded.embed(*inputs), *inputs), scores(*inputs))


def test_attributions_that_do_not_add_up_are_found() -> None:
    case = CASES["SeedCNN"]()
    method, steps, maps = methods.complete_enough(case.make, case.scores, case.inputs, case.targets)
    torch.testing.assert_close(maps, method.attribute(case.scores, case.inputs, case.targets))
    found = methods.completeness(method, maps, case.scores, case.inputs, case.targets)
    assert found["passed"]
    assert found["sums"] == pytest.approx(found["differences"], rel=0.2, abs=0.2)
    assert steps == methods.STEPS
    half = methods.completeness(method, 0.5 * maps, case.scores, case.inputs, case.targets)
    assert half["missed_share"] == pytest.approx(0.5, abs=0.05)
    assert not half["passed"]


def test_words_taken_from_a_text_leave_the_others_in_order_and_what_marks_documents() -> None:
    special = SpecialTokens(padding=0, unknown=1, before=[2], after=[3], separator=3)
    token_ids = torch.tensor([[2, 9, 10, 11, 3], [2, 12, 3, 0, 0]])
    words = Words(token_ids, torch.tensor([5, 3]), [[None, 0, 0, 1, None], [None, 0, None]], special)
    assert words.counts == [2, 1]
    assert [each.tolist() for each in words.values(torch.arange(10.0).view(2, 5))] == [[3, 3], [6]]
    ids, lengths = words.keep([torch.tensor([False, True]), torch.tensor([False])])
    assert ids.tolist() == [[2, 11, 3], [2, 1, 3]]
    assert lengths.tolist() == [3, 3]
    ids, lengths = words.keep([torch.tensor([True, False]), torch.tensor([True])])
    assert ids.tolist() == [[2, 9, 10, 3], [2, 12, 3, 0]]
    assert lengths.tolist() == [4, 3]


def test_tiles_that_are_taken_away_get_the_mean_colour() -> None:
    images = torch.ones(1, 3, 16, 16)
    tiles = Tiles(images)
    assert tiles.counts == [64]
    maps = torch.zeros(1, 16, 16)
    maps[0, 2:4, 4:6] = 1  # the tile in the second row and the third column
    [values] = tiles.values(maps)
    assert values.nonzero().tolist() == [[8 + 2]]
    [kept] = tiles.keep([values == 0])
    assert torch.equal(kept[0, 0], 1 - maps[0])


def pretrained(kind: str) -> Tokenizer:
    """Tokenizers whose vocabularies mark where words begin or end."""
    pieces = {
        "WordPiece": ["[UNK]", "un", "##break", "##able", "glass", "."],
        "byte-level BPE": ["[UNK]", "Ġun", "break", "able", "Ġglass", "."],
        "SentencePiece": ["[UNK]", "▁un", "break", "able", "▁glass", "."],
        "BPE": ["[UNK]", "un", "break", "able</w>", "glass</w>", ".</w>"],
    }[kind]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if kind == "WordPiece":
        return Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    if kind == "BPE":
        return Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    if kind == "byte-level BPE":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "byte-level BPE", "SentencePiece", "BPE"])
def test_pieces_of_a_word_are_joined(kind: str) -> None:
    words = PieceJoiner(pretrained(kind))([1, 2, 3, 4])
    assert words.numbers == [0, 0, 0, 1]
    assert words.texts == ["unbreakable", "glass"]


def test_words_of_a_learned_vocabulary_are_its_tokens() -> None:
    tokenizer = train_tokenizer(["a good film"], "words", 100)
    ids = tokenizer.encode("good film").ids
    assert PieceJoiner(tokenizer)([ids[0], 0, ids[1], 1]) == ([0, None, 1, 2], ["good", "film", "<unk>"])


def test_nearest_are_the_most_similar_by_what_goes_into_the_head() -> None:
    network = SeedCNN(3).eval()
    images = torch.randn(3, 3, 32, 32)
    scores = Scores(Classifier(network, 3))
    found = embeddings(scores, [(images[:2],), (images[2:],)])
    torch.testing.assert_close(network.head(found), network(images))
    rows, cosines = nearest(torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 3], [2, 2], [5, 1], [-1, 0]]), 2)
    assert rows.tolist() == [[2, 1]]
    assert cosines.tolist() == [pytest.approx([5 / 26**0.5, 0.5**0.5])]


@pytest.fixture
def run_without_data(image_run: Path) -> Path:  # noqa: F811
    """A run whose data set was in a folder, not on the Hub, and is gone."""
    shutil.copytree(image_run, "run")
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("path: set", "path: ./set"))
    return Path("run")


def test_given_pictures_are_explained_where_the_data_set_is_gone(
    run_without_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures(2)
    main(["explain", str(run_without_data), "--examples", *files, "--target", "class1", "--output", "out"])
    assert "out/explanation.html: 2 examples explained. " in capsys.readouterr().out
    facts = json.loads(Path("out/explanation.json").read_text())
    assert [method["name"] for method in facts["methods"]] == ["grad_cam", "integrated_gradients"]
    assert facts["methods"][0]["layer"] == "convolution2"
    assert facts["sanity_on"] == "the examples themselves, as no hold-out can be read"
    assert facts["notes"][-1].startswith("The nearest training examples are left out: ")
    for example, file in zip(facts["examples"], files, strict=True):
        assert (example["name"], example["label"], example["explained"]) == (file, None, "class1")
        assert np.array(example["attributions"]["grad_cam"]["map"]).shape == (32, 32)
        found = example["attributions"]["integrated_gradients"]
        assert np.sum(found["map"]) == pytest.approx(found["sum"], rel=1e-2, abs=1e-4)
    for method in facts["methods"]:
        stages = method["sanity"]["randomisation"]["stages"]
        assert [len(stage["randomised"]) for stage in stages] == [1, 2, 3, 4, 5]
        assert stages[0]["randomised"] == ["head"]
        assert {*method["sanity"]["curves"]["deletion"]} == {"method", "edge detector", "random order"}
    assert Image.open("out/example_1.png").width > 300
    page = Path("out/explanation.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<img ") == 2 * 3


def test_worst_mistakes_of_texts_come_with_their_words_and_nearest_training_texts(
    text_run: Callable[..., Path],  # noqa: F811
) -> None:
    run = text_run("texts")
    Path("set").symlink_to(run.parents[1] / "set")
    main(["explain", str(run), "--worst", "3", "--sanity_examples", "4", "--output", "out"])
    facts = json.loads(Path("out/explanation.json").read_text())
    [method] = facts["methods"]
    assert method["name"] == "integrated_gradients"
    assert {*method["sanity"]["curves"]["insertion"]} == {"method", "random order"}
    assert facts["sanity_on"] == "4 examples of the hold-out"
    assert facts["notes"] == []
    of_label = [example["probabilities"][example["label"]] for example in facts["examples"]]
    assert of_label == sorted(of_label)
    assert len(of_label) == 3
    held_out = {example["name"] for example in facts["examples"]}
    for example in facts["examples"]:
        found = example["attributions"]["integrated_gradients"]
        assert len(found["words"]) == len(found["scores"]) > 2
        assert found["words"][-1] == "film"
        assert len(example["nearest"]) == 5
        assert held_out.isdisjoint(entry["name"] for entry in example["nearest"])
        cosines = [entry["cosine"] for entry in example["nearest"]]
        assert cosines == sorted(cosines, reverse=True)
        assert "film" in example["nearest"][0]["text"]
    assert Path("out/example_2.png").exists()
    assert "<script" not in Path("out/explanation.html").read_text()


MULTILABEL = ["--data.problem_type", "multilabel", "--data.label_column", "tags"]
REGRESSION = ["--data.problem_type", "regression", "--data.label_column", "size"]


@pytest.mark.parametrize(("name", "options"), [("several", MULTILABEL), ("number", REGRESSION)])
def test_texts_with_several_classes_or_numbers_are_explained(
    name: str,
    options: list[str],
    text_run: Callable[..., Path],  # noqa: F811
) -> None:
    run = text_run(name, *options)
    Path("set").symlink_to(run.parents[1] / "set")
    main(["explain", str(run), "--examples", "a good film", "--sanity_examples", "2", "--output", "out"])
    [example] = json.loads(Path("out/explanation.json").read_text())["examples"]
    assert example["explained"] in (("red", "round") if name == "several" else ("size",))
    assert example["attributions"]["integrated_gradients"]["words"] == ["a", "good", "film"]
    page = Path("out/explanation.html").read_text()
    assert ("size 0." if name == "number" else "explained is r") in page


def test_losses_grow_with_how_wrong_predictions_are() -> None:
    shares = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    assert losses_of(shares, torch.tensor([0, 0]), "classification").exp().tolist() == pytest.approx([1 / 0.7, 10])
    several = losses_of(shares, torch.tensor([[1.0, 0], [1, 1]]), "multilabel")
    assert several.exp().tolist() == pytest.approx([1 / 0.7**2, 1 / 0.09])
    assert losses_of(shares, torch.tensor([[1.0, 0], [0, 1]]), "regression").tolist() == pytest.approx([0.6, 0.2])


def test_what_cannot_be_explained_is_refused_before_any_work(
    run_without_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(run_without_data)
    assert error_line(capsys, "explain", "nowhere").startswith("nowhere has no config.yaml: expected")
    line = error_line(capsys, "explain", run, "--output", "out")
    assert line.startswith(f"the hold-out of {run} cannot be read (")
    assert line.endswith("): expected --examples")
    assert error_line(capsys, "explain", run, "--worst", "0") == "--worst is 0: expected 1 or more"
    line = error_line(capsys, "explain", run, "--examples", *pictures(1), "--target", "class4", "--output", "out")
    assert line.startswith("--target is class4: expected one of class0, class1, class2; did you mean class")
    assert "none.png" in error_line(capsys, "explain", run, "--examples", "none.png", "--output", "out")
    assert not Path("out").exists()
    Path("mine").mkdir()
    line = error_line(capsys, "explain", run, "--output", "mine")
    assert line == "mine is there and holds no explanation: choose another folder with --output"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error_line(capsys, "explain", run)
    assert line.startswith("explain needs captum, which is not installed: ")
    assert line.endswith("'lightning-transfer[explain]'")
