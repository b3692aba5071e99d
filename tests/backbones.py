"""What the tests of pretrained networks share: short fits by hand, and what they have trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import processors
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn

from lightning_transfer import Classifier, DemoTexts, ProgressiveUnfreezing, TimmNetwork, TransformersNetwork
from lightning_transfer.data.batches import ImageBatch, TextBatch
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.networks.layer_groups import resolve_layer_groups
from lightning_transfer.transfer.plan_table import plan

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"},
    **{"num_sanity_val_steps": 0},
}


_SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TOKENS = {"vocab_size": 60, "max_position_embeddings": 40}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
# Eight families, and the second kind of DeBERTa, in tiny configs: model_type -> entries of its config.json.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZES, **TOKENS},
    "roberta": {**_SIZES, **TOKENS},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, **TOKENS},
    "electra": {"embedding_size": 8, **_SIZES, **TOKENS},
    "deberta": {**_SIZES, **TOKENS, **_RELATIVE},
    "deberta-v2": {**_SIZES, **TOKENS, **_RELATIVE, "norm_rel_ebd": "layer_norm", "position_buckets": 8}
    | {"conv_kernel_size": 3, "conv_act": "gelu"},
    "modernbert": {**_SIZES, **TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    | {"cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 60, "n_positions": 40}
    | {"bos_token_id": 0, "eos_token_id": 0},
    "llama": {**_SIZES, **TOKENS, "num_key_value_heads": 1},
}


def transformer(name: str, num_classes: int = 3, seed: int = 0, **arguments: Any) -> TransformersNetwork:
    torch.manual_seed(seed)
    given = {"model_type": name, **TRANSFORMERS[name], **arguments.pop("model_arguments", {})}
    return TransformersNetwork(num_classes, model_arguments=given, **arguments)


def texts(seed: int = 0, rows: int = 4) -> TextBatch:
    """Documents of 2 to 9 tokens without special ones."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 4, 7, 2, 5])[:rows]
    token_ids = torch.randint(4, 60, (rows, 9), generator=generator)
    return TextBatch(token_ids, lengths, torch.arange(rows) % 3, torch.arange(rows))


# Ten families, in timm's smallest networks or cut down. All take images of 64 x 64 pixels.
TIMM: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {},
    "test_vit": {"img_size": 64},
    "test_efficientnet": {},
    "test_byobnet": {},
    "test_nfnet": {},
    "test_mambaout": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": (1, 1, 1, 1)},
    "test_coatnet": {"img_size": 64},
    "pit_ti_224": {"img_size": 64},  # timm has no layer groups for it
}


def timm_network(name: str, num_classes: int = 3, seed: int = 0, **arguments: Any) -> TimmNetwork:
    torch.manual_seed(seed)
    return TimmNetwork(num_classes, name, {**TIMM[name], **arguments})


def images(seed: int = 0, rows: int = 4) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    return ImageBatch(torch.randn(rows, 3, 64, 64, generator=generator), torch.arange(rows) % 3, torch.arange(rows))


def parameters_of_groups(network: nn.Module) -> dict[str, list[str]]:
    groups = resolve_layer_groups(network, network.layer_groups)  # type: ignore[arg-type]
    return {group.name: list(group.parameters) for group in groups.values()}


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, 3, optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))


def fit_phases(network: nn.Module, batch: Any) -> list[dict[str, list[str]]]:
    """Fits two phases of one step each, and says which groups each trained; the plan must have said how much.

    Every tensor of a trained group must have a gradient, and none of another group may change.
    """
    groups = parameters_of_groups(network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    trained: list[set[str]] = []

    class Recorder(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            trained.append({name for name, parameter in network.named_parameters() if parameter.grad is not None})

    loader = loader_of([batch])

    def trainer() -> L.Trainer:
        callbacks = [ProgressiveUnfreezing(until={"epochs": 1}), Recorder()]
        return L.Trainer(max_epochs=2, enable_checkpointing=False, callbacks=callbacks, **QUIET)

    model = classifier(network)
    trainer().fit(model, loader)
    found = []
    for names in trained:
        found.append({group: listed for group, listed in groups.items() if names & set(listed)})
        assert names == {name for listed in found[-1].values() for name in listed}
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= trained[-1]
    model.train_dataloader = lambda: loader  # type: ignore[method-assign]
    table = plan(trainer(), model)
    for groups_of_phase in found:
        count = sum(network.get_parameter(name).numel() for listed in groups_of_phase.values() for name in listed)
        assert f"{count:,}" in table, table
    return found


def trained_by_resumption(
    build: Callable[[], nn.Module], batches: Sequence[Any], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fits two epochs, in which a group is thawed in mid-epoch, and again from a checkpoint after the fourth batch.

    Returns:
        The weights of the resumed fit and of the whole one.
    """
    ends: list[dict[str, Tensor]] = []
    for ckpt_path in (None, folder / "step=4.ckpt"):
        keep = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", every_n_train_steps=4)
        unfreezing = ProgressiveUnfreezing(until={"steps": 2})
        trainer = L.Trainer(max_epochs=2, callbacks=[unfreezing, *([] if ckpt_path else [keep])], **QUIET)
        model = classifier(build())
        trainer.fit(model, loader_of(batches), ckpt_path=ckpt_path)
        assert trainer.global_step == 2 * len(batches)
        ends.insert(0, model.state_dict())
    return ends[0], ends[1]


def loader_of(batches: Sequence[Any]) -> BatchLoader:
    """Gives these batches in each epoch, and goes on in mid-epoch from a checkpoint."""
    return BatchLoader(lambda rows: batches[int(rows[0])], lambda epoch: list(np.arange(len(batches)).reshape(-1, 1)))


def word_pieces(folder: Path) -> Path:
    """Learns a small tokenizer as BERT's of the generated reviews, and saves it as transformers does."""
    pieces = BertWordPieceTokenizer()
    texts = DemoTexts().open_split("train")["text"]
    pieces.train_from_iterator(texts, vocab_size=200, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [(token, pieces.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer = pieces._tokenizer
    tokenizer.post_processor = processors.BertProcessing(*ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
