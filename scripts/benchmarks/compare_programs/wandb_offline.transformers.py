import os

from datasets import load_dataset
from my_network import Network
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2 import Compose, Resize, ToTensor
from transformers import Trainer, TrainingArguments

os.environ["WANDB_MODE"] = "offline"
data = load_dataset("imagefolder", data_dir="pictures", split="train").train_test_split(0.2)
transform = Compose([Resize((64, 64)), ToTensor()])


class Model(Network):
    def forward(self, images, labels):
        logits = super().forward(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def prepare(batch):
    return {"images": [transform(image.convert("RGB")) for image in batch["image"]], "label": batch["label"]}


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


arguments = TrainingArguments(
    "my_model",
    num_train_epochs=3,
    per_device_train_batch_size=16,
    learning_rate=1e-3,
    eval_strategy="epoch",
    remove_unused_columns=False,
    report_to="wandb",
)
trainer = Trainer(
    Model(num_classes=2),
    arguments,
    train_dataset=data["train"].with_transform(prepare),
    eval_dataset=data["test"].with_transform(prepare),
    compute_metrics=compute_metrics,
)
trainer.train()
