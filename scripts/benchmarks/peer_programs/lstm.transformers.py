from datasets import load_dataset
from my_network import Network
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

data = load_dataset("reviews")
tokenizer = AutoTokenizer.from_pretrained("minilm")


class Model(Network):
    def forward(self, input_ids, attention_mask, labels):
        logits = super().forward(input_ids, attention_mask.sum(1))
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def tokenize(batch):
    return tokenizer(batch["text"], truncation=True, max_length=256)


def compute_metrics(found):
    return {"accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()}


data = data.map(tokenize, batched=True)
arguments = TrainingArguments(
    "my_model",
    num_train_epochs=3,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=32,
    learning_rate=3e-3,
    train_sampling_strategy="group_by_length",
    eval_strategy="epoch",
    use_cpu=True,
)
trainer = Trainer(
    Model(len(tokenizer), 2),
    arguments,
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    compute_metrics=compute_metrics,
)
trainer.train()
