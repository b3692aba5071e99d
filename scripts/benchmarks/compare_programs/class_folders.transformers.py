from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

data = load_dataset("imagefolder", data_dir="pictures", split="train").train_test_split(0.2)
names = data["train"].features["label"].names
processor = AutoImageProcessor.from_pretrained("resnet-18")
model = AutoModelForImageClassification.from_pretrained(
    "resnet-18", num_labels=len(names), id2label=dict(enumerate(names)), ignore_mismatched_sizes=True
)


def prepare(batch):
    images = [image.convert("RGB") for image in batch["image"]]
    return {**processor(images, return_tensors="pt"), "label": batch["label"]}


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


arguments = TrainingArguments(
    "my_model",
    num_train_epochs=3,
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
    processing_class=processor,
    compute_metrics=compute_metrics,
)
trainer.train()
trainer.save_model()
