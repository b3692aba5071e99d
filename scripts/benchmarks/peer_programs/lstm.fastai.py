from fastai.text.all import *
from my_network import Network
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("minilm")
training = pd.read_json("reviews/train.jsonl", lines=True)
validation = pd.read_json("reviews/validation.jsonl", lines=True)
reviews = pd.concat([training, validation], ignore_index=True)
token_ids = tokenizer(reviews.text.tolist(), truncation=True, max_length=256).input_ids
datasets = Datasets(
    list(zip(map(TensorText, token_ids), reviews.label)),
    [[ItemGetter(0)], [ItemGetter(1), Categorize()]],
    splits=IndexSplitter(range(len(training), len(reviews)))(reviews),
    dl_type=SortedDL,
)
data = datasets.dataloaders(bs=32, before_batch=partial(pad_input, pad_idx=0), num_workers=0)


class Model(Network):
    def forward(self, token_ids):
        return super().forward(token_ids, (token_ids != 0).sum(1))


learner = Learner(data, Model(len(tokenizer), 2), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
learner.fit_one_cycle(3, 3e-3)
