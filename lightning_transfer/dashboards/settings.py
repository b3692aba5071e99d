"""The settings that choose the dashboards of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.embeddings import Embeddings
from lightning_transfer.dashboards.examples import Attributions, TrainingExamples
from lightning_transfer.dashboards.layer_changes import LayerChanges
from lightning_transfer.dashboards.run_card import ModelGraph, RunCard, hyperparameters_of
from lightning_transfer.dashboards.starting_weights import StartingWeights
from lightning_transfer.dashboards.task_affinity import TaskAffinity
from lightning_transfer.dashboards.training_curves import TrainingScalars, UnfreezingTimeline
from lightning_transfer.dashboards.validation_predictions import ValidationPredictions


@dataclass
class Dashboards:
    """Chooses what TensorBoard shows beyond loss and metrics; ``--dashboards null`` switches all of it off.

    Args:
        share: Bound of the seconds of all dashboards over those of the training; null for none. Scalars, texts and the
            numbers of figures are always written. Pictures come in the order of what they tell, as far as the share
            allows. What does not is put off, at the latest to the end of the training, and then left out.
        scalars: Learning rate, gradient norm and update ratio of each layer group, speed and memory.
        every_n_steps: Number of steps from one sample of these scalars to the next.
        timeline: Figure of which layer groups were trainable when, and at which learning rate.
        training_examples: The first training batch as the network sees it.
        predictions: Confusion matrix, reliability diagram and top losses of the best checkpoint.
        attributions: Evidence for predictions, during the training: Grad-CAM for images, gradient x input for texts.
        embeddings: Number of examples of the hold-out in the Projector, before and after the training; 0 for none.
        changes: How far the weights of each layer group moved in the training, and how alike its outputs are.
        run_card: The run in the HParams tab, and a text with its command, versions, plan and configuration.
        graph: The graph of the model.
        task_affinity: Matrix of the cosines between the gradients of tasks that are learned together.
    """

    share: float | None = 0.03
    scalars: bool = True
    every_n_steps: int = 50
    timeline: bool = True
    training_examples: bool = True
    predictions: bool = True
    attributions: bool = True
    embeddings: int = 500
    changes: bool = True
    run_card: bool = True
    graph: bool = True
    task_affinity: bool = True

    def callbacks(
        self, config: Mapping[str, Any], configuration: str, command: str | None = None, anew: Sequence[str] = ()
    ) -> list[L.Callback]:
        """Builds the callbacks of the dashboards that are switched on.

        Args:
            config: The configuration of ``fit`` as plain types.
            configuration: The same configuration as YAML.
            command: The command that repeats the run, if there is one.
            anew: The flags that make the saved configuration repeat the run.
        """
        has_tasks = "tasks" in ((config.get("data") or {}).get("init_args") or {})
        budget = Budget(self.share)
        start = StartingWeights(budget)
        # Who comes first asks first: what tells most of a run, and what costs least of that.
        return [
            budget,
            *([start] if self.embeddings or self.changes else []),
            *([RunCard(hyperparameters_of(config), configuration, command, anew, budget)] if self.run_card else []),
            *([TrainingScalars(self.every_n_steps, budget)] if self.scalars else []),
            *([UnfreezingTimeline(budget)] if self.timeline else []),
            *([ValidationPredictions(budget)] if self.predictions else []),
            *([Attributions(budget)] if self.attributions else []),
            *([TaskAffinity(budget)] if self.task_affinity and has_tasks else []),
            *([TrainingExamples(budget)] if self.training_examples else []),
            *([Embeddings(self.embeddings, start, budget)] if self.embeddings else []),
            *([LayerChanges(start, budget)] if self.changes else []),
            *([ModelGraph(budget)] if self.graph else []),
        ]
