lightning-transfer fit --config sst2_minilm --data.path sentences --data.tokenizer minilm --model.network.name minilm \
    --init_from minilm --trainer.max_epochs 2 --trainer.accelerator cpu --test_after_fit false --json
