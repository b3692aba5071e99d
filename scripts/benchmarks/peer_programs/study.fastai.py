from fastai.vision.all import *
from my_network import Network

files = {split: get_image_files(f"images/{split}") for split in ["train", "validation", "test"]}
block = DataBlock(
    blocks=(ImageBlock, CategoryBlock),
    get_y=parent_label,
    splitter=GrandparentSplitter(valid_name="validation"),
    batch_tfms=[RandomResizedCropGPU(32, min_scale=0.8), Flip(), Normalize.from_stats(*cifar_stats)],
)


def split(model):
    return [params(model.convolutions) + params(model.hidden), params(model.head)]


for size in [50, 150, 500]:
    for strategy in ["scratch", "full", "linear_probe"]:
        for seed in range(3):
            set_seed(seed)
            chosen = random.sample(files["train"], size)
            data = block.dataloaders([*chosen, *files["validation"]], bs=32, num_workers=0)
            model = Network(num_classes=10)
            if strategy != "scratch":
                model.load_state_dict(torch.load("weights.pt"))
            learner = Learner(data, model, splitter=split, metrics=accuracy)
            if strategy == "linear_probe":
                learner.freeze()
            learner.fit_one_cycle(5, 1e-3)
            test = learner.dls.test_dl(files["test"], with_labels=True)
            print(strategy, size, seed, "test_accuracy", learner.validate(dl=test)[1])
