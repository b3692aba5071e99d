from fastai.vision.all import *

data = ImageDataLoaders.from_folder("pictures", valid_pct=0.2, seed=0, item_tfms=Resize(64), bs=16)
for strategy in ["scratch", "full", "gradual"]:
    set_seed(0)
    learner = vision_learner(data, resnet18, pretrained=strategy != "scratch", metrics=accuracy)
    if strategy == "gradual":
        learner.fit_one_cycle(1)
        learner.freeze_to(-2)
        learner.fit_one_cycle(1)
        learner.unfreeze()
        learner.fit_one_cycle(1)
    else:
        learner.unfreeze()
        learner.fit_one_cycle(3)
    print(strategy, learner.validate()[1])
