from fastai.vision.all import *

learner = load_learner("pictures/my_model.pkl")
files = get_image_files("new")
probabilities, _, labels = learner.get_preds(dl=learner.dls.test_dl(files), with_decoded=True)
table = pd.DataFrame(probabilities, columns=learner.dls.vocab)
table.insert(0, "file", files)
table.insert(1, "class", [learner.dls.vocab[label] for label in labels])
table.to_csv("new.csv", index=False)
