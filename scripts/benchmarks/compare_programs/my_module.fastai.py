from fastai.vision.all import *
from my_network import Network

data = ImageDataLoaders.from_folder("pictures", valid_pct=0.2, seed=0, item_tfms=Resize(64), bs=16)
learner = Learner(data, Network(data.c), metrics=accuracy)
learner.fit_one_cycle(3)
