from fastai.vision.all import *

learner = load_learner("pictures/my_model.pkl")
print([learner.predict(file) for file in ["new/1.png", "new/2.png"]])
