from fastai.vision.all import *
from my_network import Network

data = ImageDataLoaders.from_folder(
    "images",
    valid="validation",
    bs=128,
    num_workers=0,
    batch_tfms=[RandomResizedCropGPU(32, min_scale=0.8), Flip(), Normalize.from_stats(*cifar_stats)],
)
learner = Learner(data, Network(num_classes=10), metrics=accuracy)
learner.fit_one_cycle(5, 1e-2)
