lightning-transfer fit --config sst2_minilm --config strategies/linear_probe --data.path sentences \
    --data.tokenizer minilm --model.network.name minilm --model.network.dropout 0 --model.cache_features true \
    --model.optimizer.lr 0.01 --init_from minilm --trainer.max_epochs 5 --trainer.accelerator cpu \
    --test_after_fit false --json
