from datasets import load_dataset
from my_network import Network
from torch.nn.functional import cross_entropy
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor
from transformers import Trainer, TrainingArguments

data = load_dataset("imagefolder", data_dir="images")
normalize = Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
transforms = {
    "train": Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize]),
    "validation": Compose([ToTensor(), normalize]),
}


class Model(Network):
    def forward(self, images, labels):
        logits = super().forward(images)
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


arguments = TrainingArguments(
    "my_model",
    num_train_epochs=5,
    per_device_train_batch_size=128,
    per_device_eval_batch_size=128,
    learning_rate=3e-3,
    eval_strategy="epoch",
    remove_unused_columns=False,
    use_cpu=True,
)
trainer = Trainer(
    Model(num_classes=10),
    arguments,
    train_dataset=prepare("train"),
    eval_dataset=prepare("validation"),
    compute_metrics=compute_metrics,
)
trainer.train()
