import torch
from datasets import load_dataset
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor
from transformers import Trainer, TrainingArguments

data = load_dataset("imagefolder", data_dir="images")
normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
transforms = {
    "train": Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize]),
    "validation": Compose([ToTensor(), normalize]),
}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = resnet18()
        self.network.load_state_dict(torch.load("resnet18.pth"))
        self.network.fc = torch.nn.Linear(512, 10)

    def forward(self, images, labels):
        logits = self.network(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def prepare(split):
    def transform(batch):
        return {
            "images": [transforms[split](image.convert("RGB")) for image in batch["image"]],
            "labels": batch["label"],
        }

    return data[split].with_transform(transform)


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


def train(epochs):
    arguments = TrainingArguments(
        "my_model",
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.05,
        eval_strategy="epoch",
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=prepare("train"),
        eval_dataset=prepare("validation"),
        compute_metrics=compute_metrics,
    )
    trainer.train()


model = Model()
model.requires_grad_(False)
model.network.fc.requires_grad_(True)
train(1)
model.network.layer4.requires_grad_(True)
train(1)
model.requires_grad_(True)
train(2)
