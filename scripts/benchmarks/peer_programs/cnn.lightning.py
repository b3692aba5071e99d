import lightning as L
import torch
from my_network import Network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

normalize = Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
augment = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize])
training = DataLoader(ImageFolder("images/train", augment), batch_size=128, shuffle=True)
validation = DataLoader(ImageFolder("images/validation", Compose([ToTensor(), normalize])), batch_size=128)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network(num_classes=10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", cross_entropy(logits, labels), prog_bar=True)
        self.log("val_accuracy", accuracy(logits, labels, task="multiclass", num_classes=10), prog_bar=True)

    def on_validation_epoch_end(self):
        print("val_accuracy", self.trainer.callback_metrics["val_accuracy"].item())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


L.Trainer(max_epochs=5, accelerator="cpu", num_sanity_val_steps=0).fit(Model(), training, validation)
