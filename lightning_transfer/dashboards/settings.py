"""Which dashboards a run has: all of them unless switched off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from lightning_transfer.dashboards.embeddings import Embeddings
from lightning_transfer.dashboards.examples import Attributions, TrainingExamples
from lightning_transfer.dashboards.run_card import ModelGraph, RunCard, hyperparameters_of
from lightning_transfer.dashboards.scalars import TrainingScalars
from lightning_transfer.dashboards.timeline import UnfreezingTimeline
from lightning_transfer.dashboards.validation_predictions import ValidationPredictions


@dataclass
class Dashboards:
    """What TensorBoard shows of a fit beyond its loss and metrics; ``--dashboards null`` switches all of it off.

    Args:
        scalars: Learning rate, gradient norm and update ratio of each layer group, speed and memory.
        every_n_steps: Steps between two samples of these scalars.
        timeline: What was trainable when, and at which learning rate.
        training_examples: The first training batch as the network sees it.
        predictions: Confusion matrix, reliability diagram and top losses of the last validation.
        attributions: What predictions rest on, during the training: Grad-CAM for images, gradient x input for texts.
        embeddings: Examples of the hold-out in the Projector, before and after the training; 0 for none.
        run_card: The run in the HParams tab, and a text with its command, versions, plan and configuration.
        graph: The graph of the model.
    """

    scalars: bool = True
    every_n_steps: int = 50
    timeline: bool = True
    training_examples: bool = True
    predictions: bool = True
    attributions: bool = True
    embeddings: int = 500
    run_card: bool = True
    graph: bool = True

    def callbacks(
        self, config: Mapping[str, Any], configuration: str, command: str | None = None, anew: Sequence[str] = ()
    ) -> list[L.Callback]:
        """Builds what is switched on.

        Args:
            config: The configuration of ``fit`` as plain types.
            configuration: The same as YAML.
            command: The command that does the run again, if there is one.
            anew: The flags by which the saved configuration does so.
        """
        return [
            *([RunCard(hyperparameters_of(config), configuration, command, anew)] if self.run_card else []),
            *([TrainingScalars(self.every_n_steps)] if self.scalars else []),
            *([UnfreezingTimeline()] if self.timeline else []),
            *([TrainingExamples()] if self.training_examples else []),
            *([ModelGraph()] if self.graph else []),
            *([ValidationPredictions()] if self.predictions else []),
            *([Attributions()] if self.attributions else []),
            *([Embeddings(self.embeddings)] if self.embeddings else []),
        ]
