lightning-transfer fit --config imdb_lstm --data TextDataModule --data.path reviews --data.max_tokens 256 \
    --data.tokenizer minilm --model Classifier --model.network.pooling max --model.network.bigrams 0 \
    --model.network.token_dropout 0 --model.network.embedding_dropout 0 --model.network.dropout 0 \
    --model.network.embedding_scale 1 --trainer.max_epochs 3 --trainer.accelerator cpu --test_after_fit false \
    --json
