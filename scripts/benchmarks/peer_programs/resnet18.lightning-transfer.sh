lightning-transfer fit --config my_images --config resnet18.yaml --data.path images --data.image_size 32 \
    --data.augmentation.crop_padding 2 --data.batch_size 64 --data.normalise_as ResNet18_Weights.IMAGENET1K_V1 \
    --init_from resnet18.pth --trainer.max_epochs 4 --trainer.accelerator cpu --json
