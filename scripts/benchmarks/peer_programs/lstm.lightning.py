import lightning as L
import torch
from datasets import load_dataset
from my_network import Network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy
from transformers import AutoTokenizer, DataCollatorWithPadding

tokenizer = AutoTokenizer.from_pretrained("minilm")


def tokenize(batch):
    return tokenizer(batch["text"], truncation=True, max_length=256)


data = load_dataset("reviews").map(tokenize, batched=True, remove_columns="text")
collate = DataCollatorWithPadding(tokenizer)
training = DataLoader(data["train"], batch_size=32, shuffle=True, collate_fn=collate)
validation = DataLoader(data["validation"], batch_size=32, collate_fn=collate)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network(len(tokenizer), 2)

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.network(batch["input_ids"], batch["attention_mask"].sum(1)), batch["labels"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.network(batch["input_ids"], batch["attention_mask"].sum(1))
        self.log("val_loss", cross_entropy(logits, batch["labels"]), prog_bar=True)
        self.log("val_accuracy", accuracy(logits, batch["labels"], task="multiclass", num_classes=2))

    def on_validation_epoch_end(self):
        print("val_accuracy", self.trainer.callback_metrics["val_accuracy"].item())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


trainer = L.Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, gradient_clip_val=1.0)
trainer.fit(Model(), training, validation)
