lightning-transfer transfer --source ResNet18_Weights.IMAGENET1K_V1 --target my_images \
    --strategies scratch full gradual --overrides.data.path pictures --overrides.data.test_fraction 0.2 \
    --overrides.data.batch_size 16 --overrides.trainer.max_epochs 3
