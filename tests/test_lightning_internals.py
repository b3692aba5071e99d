"""A Lightning that lacks what is reached for trains the same weights in its own way, and one line says so."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import fit_arguments

from lightning_transfer import lightning_internals
from lightning_transfer.cli.entry import main

PACKAGE = Path(lightning_internals.__file__).parent
MEMBERS = (
    "_call_callback_hooks",
    "_every_n_train_steps",
    "_call_batch_hook",
    "_build_kwargs",
    "output_result_cls",
    "_results",
    "on_batch_end",
    "batch_size",
    "register_signal_handlers",
    "_broadcast_sigterm_tensor",
    "on_run_end",
)


def lacks(missing: str, owner: object, name: str) -> bool:
    return name != missing and hasattr(owner, name)


def weights_of(folder: Path, version: str) -> dict[str, torch.Tensor]:
    main(fit_arguments(folder, "--version", version))
    saved: dict[str, torch.Tensor] = torch.load(f"logs/default/{version}/checkpoints/last.ckpt", weights_only=True)
    return saved["state_dict"]  # type: ignore[return-value]


def test_fit_without_any_of_the_members_ends_with_the_same_weights_and_says_what_is_missing(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = weights_of(image_folder, "whole")
    for missing in MEMBERS:
        with monkeypatch.context() as patch:
            # As in a release of Lightning that calls it otherwise: what is looked for is not there.
            patch.setattr(lightning_internals, "hasattr", partial(lacks, missing), raising=False)
            lightning_internals._skips_what_is_not_callable.cache_clear()
            caplog.clear()
            found = weights_of(image_folder, missing)
        lightning_internals._skips_what_is_not_callable.cache_clear()
        assert all(torch.equal(found[name], expected[name]) for name in expected), missing
        assert f"has no {missing}: Lightning's own way is taken" in caplog.text


def test_step_that_is_logged_is_that_of_the_optimizer_where_lightning_does_not_tell() -> None:
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit_loop.epoch_loop._batches_that_stepped = 7
    assert lightning_internals.logged_step(trainer) == 7
    del trainer.fit_loop.epoch_loop._batches_that_stepped
    assert lightning_internals.logged_step(trainer) == trainer.global_step == 0
