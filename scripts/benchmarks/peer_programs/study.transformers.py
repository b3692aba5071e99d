import torch
from datasets import load_dataset
from my_network import Network
from torch.nn.functional import cross_entropy
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor
from transformers import Trainer, TrainingArguments, set_seed

data = load_dataset("imagefolder", data_dir="images")
normalize = Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
augment = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize])
plain = Compose([ToTensor(), normalize])


class Model(Network):
    def forward(self, images, labels):
        logits = super().forward(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def prepare(rows, transform):
    def apply(batch):
        return {"images": [transform(image.convert("RGB")) for image in batch["image"]], "labels": batch["label"]}

    return rows.with_transform(apply)


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


for size in [50, 150, 500]:
    for strategy in ["scratch", "full", "linear_probe"]:
        for seed in range(3):
            set_seed(seed)
            model = Model(num_classes=10)
            if strategy != "scratch":
                model.load_state_dict(torch.load("weights.pt"))
            if strategy == "linear_probe":
                model.requires_grad_(False)
                model.head.requires_grad_(True)
            arguments = TrainingArguments(
                "my_model",
                num_train_epochs=5,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=32,
                learning_rate=1e-3,
                weight_decay=0.05,
                eval_strategy="epoch",
                remove_unused_columns=False,
                use_cpu=True,
            )
            trainer = Trainer(
                model,
                arguments,
                train_dataset=prepare(data["train"].shuffle(seed=seed).select(range(size)), augment),
                eval_dataset=prepare(data["validation"], plain),
                compute_metrics=compute_metrics,
            )
            trainer.train()
            found = trainer.evaluate(prepare(data["test"], plain), metric_key_prefix="test")
            print(strategy, size, seed, "test_accuracy", found["test_accuracy"])
