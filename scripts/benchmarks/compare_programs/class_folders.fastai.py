from fastai.vision.all import *

data = ImageDataLoaders.from_folder("pictures", valid_pct=0.2, seed=0, item_tfms=Resize(64), bs=16)
learner = vision_learner(data, resnet18, metrics=accuracy)
learner.fine_tune(2)
learner.export("my_model.pkl")
