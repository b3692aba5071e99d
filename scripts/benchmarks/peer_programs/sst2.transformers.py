from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
from transformers import Trainer, TrainingArguments

data = load_dataset("sentences")
tokenizer = AutoTokenizer.from_pretrained("minilm")
model = AutoModelForSequenceClassification.from_pretrained("minilm", num_labels=2)


def tokenize(batch):
    return tokenizer(batch["sentence"], truncation=True, max_length=96)


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


data = data.map(tokenize, batched=True)
arguments = TrainingArguments(
    "my_model",
    num_train_epochs=2,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=32,
    learning_rate=1e-4,
    weight_decay=0.01,
    train_sampling_strategy="group_by_length",
    eval_strategy="epoch",
    use_cpu=True,
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    compute_metrics=compute_metrics,
)
trainer.train()
