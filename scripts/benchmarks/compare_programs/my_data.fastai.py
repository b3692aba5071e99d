from fastai.vision.all import *
from my_examples import training, validation
from my_network import Network
from torch.utils.data import DataLoader

data = DataLoaders(DataLoader(training, batch_size=16, shuffle=True), DataLoader(validation, batch_size=16))
learner = Learner(data, Network(2), loss_func=F.cross_entropy, metrics=accuracy)
learner.fit_one_cycle(3)
