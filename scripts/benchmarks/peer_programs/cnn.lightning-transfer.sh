lightning-transfer fit --config cifar10_cnn --data ImageDataModule --data.path images --data.image_size 32 \
    --model.network my_network.Network --trainer.max_epochs 5 --trainer.accelerator cpu --test_after_fit false \
    --json
