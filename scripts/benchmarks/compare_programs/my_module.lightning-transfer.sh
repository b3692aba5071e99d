lightning-transfer fit --config my_images --data.path pictures --data.batch_size 16 \
    --model.network my_network.Network --trainer.max_epochs 3
