import lightning as L
import torch
from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
augment = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize])
training = DataLoader(ImageFolder("images/train", augment), batch_size=64, shuffle=True)
validation = DataLoader(ImageFolder("images/validation", Compose([ToTensor(), normalize])), batch_size=64)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = resnet18()
        self.network.load_state_dict(torch.load("resnet18.pth"))
        self.network.fc = torch.nn.Linear(512, 10)

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
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)


schedule = {
    0: {"params": ["network.fc.*"], "max_transition_epoch": 1},
    1: {"params": ["network.layer4.*"], "max_transition_epoch": 2},
    2: {"params": ["network.(conv1|bn1|layer1|layer2|layer3).*"], "max_transition_epoch": 4},
}
callbacks = [FinetuningScheduler(ft_schedule=schedule, epoch_transitions_only=True), FTSCheckpoint(monitor="val_loss")]
trainer = L.Trainer(max_epochs=4, accelerator="cpu", num_sanity_val_steps=0, callbacks=callbacks)
trainer.fit(Model(), training, validation)
