import lightning as L
import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

tokenizer = AutoTokenizer.from_pretrained("minilm")


def tokenize(batch):
    return tokenizer(batch["sentence"], truncation=True, max_length=96)


data = load_dataset("sentences").map(tokenize, batched=True, remove_columns="sentence")
collate = DataCollatorWithPadding(tokenizer)
training = DataLoader(data["train"], batch_size=32, shuffle=True, collate_fn=collate)
validation = DataLoader(data["validation"], batch_size=32, collate_fn=collate)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = AutoModelForSequenceClassification.from_pretrained("minilm", num_labels=2)

    def training_step(self, batch, batch_idx):
        loss = self.network(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        found = self.network(**batch)
        self.log("val_loss", found.loss, prog_bar=True)
        self.log("val_accuracy", accuracy(found.logits, batch["labels"], task="multiclass", num_classes=2))

    def on_validation_epoch_end(self):
        print("val_accuracy", self.trainer.callback_metrics["val_accuracy"].item())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


trainer = L.Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, gradient_clip_val=1.0)
trainer.fit(Model(), training, validation)
