from lightning_transfer import load

model = load("logs/my_images/version_0")
print(model.predict(["new/1.png", "new/2.png"]))
