lightning-transfer fit --config my_images --data.path pictures --config strategies/gradual_discriminative \
    --init_from ResNet18_Weights.IMAGENET1K_V1 --data.test_fraction 0.2 --test_after_fit true \
    --data.batch_size 16 --trainer.max_epochs 3
