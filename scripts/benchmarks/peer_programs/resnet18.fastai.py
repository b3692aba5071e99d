from fastai.vision.all import *
from torchvision.models import resnet18

data = ImageDataLoaders.from_folder(
    "images",
    valid="validation",
    bs=64,
    num_workers=0,
    batch_tfms=[RandomResizedCropGPU(32, min_scale=0.8), Flip(), Normalize.from_stats(*imagenet_stats)],
)
model = resnet18()
model.load_state_dict(torch.load("resnet18.pth"))
model.fc = nn.Linear(512, 10)


def split(model):
    body = nn.Sequential(model.conv1, model.bn1, model.layer1, model.layer2, model.layer3)
    return [params(body), params(model.layer4), params(model.fc)]


learner = Learner(data, model, splitter=split, metrics=accuracy)
learner.freeze()
learner.fit_one_cycle(1, 1e-3)
learner.freeze_to(-2)
learner.fit_one_cycle(1, 1e-3)
learner.unfreeze()
learner.fit_one_cycle(2, 1e-3)
