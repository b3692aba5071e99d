"""What the promise of private training stands on: one example more changes one summand, and the noise is unknown."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import TOKENS
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from lightning.pytorch.loggers import TensorBoardLogger
from private_toys import CLASSES, SmallImages, fit, private, trainer, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_transfer import Augmentation, LSTMClassifier, TextDataModule, TransformersNetwork
from lightning_transfer.dashboards.training_curves import TrainingScalars
from lightning_transfer.data.batches import TrainingImageBatch
from lightning_transfer.data.overlap import Rows
from lightning_transfer.data.private_examples import divide_by_content
from lightning_transfer.errors import UserError
from lightning_transfer.privacy.accounting import Mechanism
from lightning_transfer.privacy.conditions import check_padding
from lightning_transfer.privacy.per_example import PerExampleGradients
from lightning_transfer.privacy.secret import FILE, noise_generator, seed_of_draws
from lightning_transfer.run.training_steps import TrainingSteps

pytest.importorskip("opacus")


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))


# ---- one example more ----------------------------------------------------------------------------------------------


def test_an_example_more_moves_the_sum_by_its_norm_also_in_mixed_precision() -> None:
    module = private(linear())
    images, labels = torch.randn(1, 3, 4, 4).expand(512, -1, -1, -1), torch.zeros(512, dtype=torch.int64)
    sums = []
    with torch.autocast("cpu", torch.bfloat16):
        for count in (511, 512):
            total = PerExampleGradients(module).clipped_sum((images[:count], labels[:count]), 0.1, 512)
            sums.append(torch.cat([part.double().flatten() for part in total.values()]))
    assert (sums[1] - sums[0]).norm() <= 0.1 * (1 + 1e-3)


class Noting(nn.Module):
    """Notes what it sees where no buffer is."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head = nn.Linear(48, CLASSES)
        note = torch.zeros(48)
        if kind == "buffer":
            self.register_buffer("note", note)
        else:
            self.note = nn.Parameter(note, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        self.note += images.detach().flatten(1).sum(0)
        return self.head(images.flatten(1))


@pytest.mark.parametrize("kind", ["buffer", "frozen parameter"])
def test_what_a_layer_notes_of_examples_is_refused_and_forgotten(kind: str, tmp_path: Path) -> None:
    module = private(Noting(kind))
    with pytest.raises(UserError, match="network changes its note with training examples, which no noise would hide"):
        fit(tmp_path, module)
    assert not module.network.note.any()


def test_weights_that_a_module_keeps_in_a_list_have_their_gradients() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(48, CLASSES)
            self.listed = [self.head]

        def forward(self, images: Tensor) -> Tensor:
            return self.listed[0](images.flatten(1))

    gradients = PerExampleGradients(private(Listed()))((torch.randn(2, 3, 4, 4), torch.tensor([0, 1])))
    assert all(gradient.flatten(1).norm(dim=1).min() > 0 for gradient in gradients.values())


def test_longest_document_of_a_batch_decides_nothing_of_the_others(tmp_path: Path) -> None:
    module = private(LSTMClassifier(20, CLASSES, embedding_size=4, hidden_size=4, gradient_tokens=3))
    with pytest.raises(UserError, match="gradient_tokens of network is 3: expected null"):
        fit(tmp_path, module)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    fnet = TransformersNetwork(CLASSES, model_arguments={"model_type": "fnet", **TOKENS, **sizes})
    with pytest.raises(UserError, match="TransformersNetwork gives other logits for a document with padding"):
        check_padding(private(fnet), 20)
    module = private(LSTMClassifier(20, CLASSES, embedding_size=4, hidden_size=4, pooling="all"))
    check_padding(module, 20)
    assert module.network.training


def test_norm_layers_that_take_their_statistics_of_a_batch_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False), nn.Linear(48, CLASSES))
    with pytest.raises(UserError, match=r"network\.1 takes its statistics of a batch: expected group norm"):
        fit(tmp_path, private(network))


def test_example_more_changes_the_place_of_no_other_one() -> None:
    rows = [np.arange(number, 2 * number + 5, dtype=np.uint8) for number in range(120)]

    def divided(examples: list[np.ndarray]) -> list[set[bytes]]:
        content = Rows(np.concatenate(examples), np.cumsum([0, *map(len, examples)]))
        places = divide_by_content(content, validation_fraction=0.3, train_fraction=0.5, seed=1)
        assert not set(places[0]) & set(places[1])
        return [{examples[row].tobytes() for row in part} for part in places]

    train, validation = divided(rows)
    for left_out in (0, 60, 119):
        one = {rows[left_out].tobytes()}
        assert divided(rows[:left_out] + rows[left_out + 1 :]) == [train - one, validation - one]
    assert 20 < len(validation) < 55
    assert 25 < len(train) < 60
    with pytest.raises(UserError, match=r"data\.train_fraction is 1e-09: expected more, as none of 120"):
        divide_by_content(
            Rows(np.concatenate(rows), np.cumsum([0, *map(len, rows)])),
            validation_fraction=0.0,
            train_fraction=1e-9,
            seed=1,
        )


# ---- what nobody knows ---------------------------------------------------------------------------------------------


def test_noise_has_a_long_key_that_follows_from_each_bit_of_the_sums() -> None:
    generator = noise_generator(1, 1, [torch.ones(2, 3)], 1)
    assert generator.bit_generator.state["state"]["key"].nbytes == 16
    # Both are 0 in sum, as the sums of a head over its classes are.
    draws = [
        noise_generator(1, 1, [torch.tensor(values)], 1).standard_normal(4)
        for values in ([1.0, -1.0], [-1.0, 1.0], [1.0, -1.0])
    ]
    assert np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[1])


def test_dropout_follows_from_the_secret() -> None:
    module = private()
    module._secret = 5
    assert module.seed_of_draws(0, 1, 0) == seed_of_draws(5, 0, 1, 0) != seed_of_draws(6, 0, 1, 0)
    assert seed_of_draws(5, 0, 1, 0) != seed_of_draws(5, 1, 0, 0)


def test_run_goes_on_with_its_own_secret_alone_and_a_refused_one_leaves_it(tmp_path: Path) -> None:
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(private(), SmallImages())
    runner.save_checkpoint(tmp_path / "last.ckpt")
    secret = (tmp_path / FILE).read_text()
    with pytest.raises(UserError, match=r"model\.delta is 0\.5"):
        fit(tmp_path, private(delta=0.5))
    assert (tmp_path / FILE).read_text() == secret
    (tmp_path / FILE).write_text("1234")
    with pytest.raises(UserError, match="secret_seed is missing, damaged or of another run"):
        fit(tmp_path, checkpoint=tmp_path / "last.ckpt")


# ---- what is counted -----------------------------------------------------------------------------------------------


def test_optimizer_that_uses_a_batch_several_times_is_refused(tmp_path: Path) -> None:
    module = private(linear(), optimizer=partial(torch.optim.LBFGS, max_iter=3))
    with pytest.raises(UserError, match="LBFGS uses a batch several times in a step, which epsilon does not count"):
        fit(tmp_path, module)


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (GradientAccumulationScheduler({1: 2}), "adds up gradients of several batches"),
        (StochasticWeightAveraging(0.1), "reads the examples once more for norm layers"),
        (ThroughputMonitor(len), "logs how many examples were drawn"),
        (LearningRateFinder(), "trains steps that no epsilon counts"),
    ],
)
def test_callbacks_that_add_gradients_up_or_read_examples_again_are_refused(
    callback: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{type(callback).__name__} in trainer.callbacks {reason}.*: expected none"):
        fit(tmp_path, callbacks=[callback])


def test_target_that_the_first_step_exceeds_is_refused(tmp_path: Path) -> None:
    module = private(noise_multiplier=0.3, target_epsilon=0.1)
    before = weights(module)
    with pytest.raises(UserError, match=r"model\.target_epsilon is 0\.1: expected \d+\.?\d* or more, which the first"):
        fit(tmp_path, module)
    assert all(torch.equal(value, before[name]) for name, value in weights(module).items())


def test_delta_below_what_the_tight_accountant_can_compute_has_the_other_one() -> None:
    mechanism = Mechanism(1.0, 0.1, 1e-15)
    assert mechanism.accountant(10) == "rdp"
    assert 0 < mechanism.epsilon(10) < np.inf


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples_per_class": 3}, "data.examples_per_class is 3: expected none with data.private true"),
        ({"on_error": "skip"}, "data.on_error is skip: expected raise with data.private true"),
        (
            {"test_split": "train"},
            r"data.test_split is train, the split to train on \(train\) or a part of it: expected",
        ),
        ({"test_split": "train[:50%]"}, r"data.test_split is train\[:50%\], the split to train on"),
        (
            {"test_fraction": 0.2},
            "data.test_fraction is 0.2: expected 0 with data.private true, as it divides examples",
        ),
        (
            {"train_split": "train[:80%]"},
            r"data.train_split is train\[:80%\]: expected a whole split with data.private",
        ),
    ],
)
def test_options_that_count_list_or_test_private_examples_are_refused(options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        SmallImages(**options)


@pytest.mark.parametrize("split", ["train[:10%]", "Train[90%:]", "validation+train[:5]"])
def test_validation_on_a_part_of_what_is_trained_on_is_refused(split: str) -> None:
    data = SmallImages(validation_split=split)
    data._is_opened = True
    with pytest.raises(
        UserError, match=r"data\.validation_split is .*, the split to train on \(train\) or a part of it"
    ):
        data.prepare_data()


def test_test_on_a_split_that_answers_to_the_name_of_the_one_to_train_on_is_refused() -> None:
    data = SmallImages(test_split="training")
    data.test_follows = True
    with pytest.raises(UserError, match=r"data\.test_split is training, the split to train on \(train\)"):
        data.prepare_data()


def test_augmentation_follows_from_the_secret_as_it_follows_from_the_numbers_of_rows(tmp_path: Path) -> None:
    data = SmallImages(augmentation=Augmentation(crop_padding=2, horizontal_flip=True))
    fit(tmp_path, data=data)
    images = torch.randint(0, 255, (64, 3, 4, 4), dtype=torch.uint8)
    batch = TrainingImageBatch(images, torch.zeros(64, dtype=torch.int64), torch.arange(64))

    def augmented(seed: int) -> Tensor:
        data.sampling_seed = seed
        return data._augment(batch).images

    secret = 3 << 96 | 5  # two secrets that differ in any of their 128 bits have other draws
    first = augmented(secret)
    assert torch.equal(first, augmented(secret))
    assert not any(torch.equal(first, augmented(secret ^ 1 << bit)) for bit in (0, 40, 70, 127))


def test_how_many_examples_were_drawn_and_the_memory_they_took_are_nowhere_said(tmp_path: Path) -> None:
    steps = TrainingSteps()
    boards = TensorBoardLogger(tmp_path, name="", version="")
    callbacks = [steps, TrainingScalars(every_n_steps=1)]
    module = fit(tmp_path, callbacks=callbacks, logger=boards, log_every_n_steps=1)
    assert steps.state_dict()["examples"] == 8 * module.privacy["steps"]
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    assert "speed/examples_per_second" in tags
    assert "speed/peak_memory_gib" not in tags
    for speed, seconds in zip(
        *(events.Scalars(f"speed/{name}") for name in ("examples_per_second", "step_seconds")), strict=True
    ):
        assert speed.value * seconds.value == pytest.approx(8, rel=1e-3)


def test_labels_that_are_written_in_several_ways_are_not_warned_of(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rows = [f"a film,{' dog ' if row == 2 else ('dog', 'cat')[row % 2]}" for row in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    found = {}
    for is_private in (False, True):
        recwarn.clear()
        TextDataModule(str(tmp_path), private=is_private, vocabulary_path="none.json").read_class_names()
        found[is_private] = [str(warning.message) for warning in recwarn if "in several ways" in str(warning.message)]
    assert found[False]
    assert not found[True]


def test_groups_are_refused_where_they_would_be_held_out() -> None:
    data = SmallImages(validation_split="train", group_column="person")
    with pytest.raises(UserError, match=r"data\.group_column is person: expected none with data\.private true"):
        data.setup("fit")
