import lightning as L
import torch
from my_network import Network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchmetrics.functional import accuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

normalize = Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
augment = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip(), ToTensor(), normalize])
plain = Compose([ToTensor(), normalize])
images = ImageFolder("images/train", augment)
validation = DataLoader(ImageFolder("images/validation", plain), batch_size=32)
test = DataLoader(ImageFolder("images/test", plain), batch_size=32)


class Model(L.LightningModule):
    def __init__(self, strategy):
        super().__init__()
        self.network = Network(num_classes=10)
        if strategy != "scratch":
            self.network.load_state_dict(torch.load("weights.pt"))
        if strategy == "linear_probe":
            self.network.requires_grad_(False)
            self.network.head.requires_grad_(True)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def evaluate(self, batch, split):
        images, labels = batch
        logits = self.network(images)
        self.log(f"{split}_loss", cross_entropy(logits, labels))
        self.log(f"{split}_accuracy", accuracy(logits, labels, task="multiclass", num_classes=10))

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test")

    def configure_optimizers(self):
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)


for size in [50, 150, 500]:
    for strategy in ["scratch", "full", "linear_probe"]:
        for seed in range(3):
            L.seed_everything(seed)
            rows = torch.randperm(len(images))[:size].tolist()
            model = Model(strategy)
            trainer = L.Trainer(max_epochs=5, accelerator="cpu", num_sanity_val_steps=0)
            trainer.fit(model, DataLoader(Subset(images, rows), batch_size=32, shuffle=True), validation)
            print(strategy, size, seed, "test_accuracy", trainer.test(model, test)[0]["test_accuracy"])
