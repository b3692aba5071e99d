import lightning as L
from my_examples import training, validation
from torch.utils.data import DataLoader


class Data(L.LightningDataModule):
    num_classes = 2

    def train_dataloader(self):
        return DataLoader(training, batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(validation, batch_size=16)
