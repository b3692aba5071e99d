from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

data = load_dataset("imagefolder", data_dir="pictures", split="train").train_test_split(0.2)
names = data["train"].features["label"].names
processor = AutoImageProcessor.from_pretrained("resnet-18")


def prepare(batch):
    images = [image.convert("RGB") for image in batch["image"]]
    return {**processor(images, return_tensors="pt"), "label": batch["label"]}


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


def train(model, epochs):
    arguments = TrainingArguments(
        "my_model",
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        eval_strategy="epoch",
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data["train"].with_transform(prepare),
        eval_dataset=data["test"].with_transform(prepare),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    return trainer.evaluate()["eval_accuracy"]


for strategy in ["scratch", "full", "gradual"]:
    set_seed(0)
    config = AutoConfig.from_pretrained("resnet-18", num_labels=len(names))
    if strategy == "scratch":
        model = AutoModelForImageClassification.from_config(config)
    else:
        model = AutoModelForImageClassification.from_pretrained(
            "resnet-18", config=config, ignore_mismatched_sizes=True
        )
    if strategy == "gradual":
        model.base_model.requires_grad_(False)
        train(model, 1)
        model.base_model.encoder.stages[-1].requires_grad_(True)
        train(model, 1)
        model.requires_grad_(True)
        print(strategy, train(model, 1))
    else:
        print(strategy, train(model, 3))
