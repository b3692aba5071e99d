from transformers import pipeline

classify = pipeline("image-classification", model="my_model")
print(classify(["new/1.png", "new/2.png"]))
