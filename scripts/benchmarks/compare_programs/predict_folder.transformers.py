from pathlib import Path

import pandas as pd
from transformers import pipeline

files = sorted(map(str, Path("new").iterdir()))
classify = pipeline("image-classification", model="my_model")
rows = []
for file, found in zip(files, classify(files, batch_size=16)):
    rows.append({"file": file, "class": found[0]["label"], **{one["label"]: one["score"] for one in found}})
pd.DataFrame(rows).to_csv("new.csv", index=False)
