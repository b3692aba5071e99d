import torch
from my_examples import training, validation
from my_network import Network
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments


class Model(Network):
    def forward(self, images, labels):
        logits = super().forward(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def collate(examples):
    images, labels = zip(*examples)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


arguments = TrainingArguments(
    "my_model", num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-3, eval_strategy="epoch"
)
trainer = Trainer(
    Model(num_classes=2),
    arguments,
    data_collator=collate,
    train_dataset=training,
    eval_dataset=validation,
    compute_metrics=compute_metrics,
)
trainer.train()
