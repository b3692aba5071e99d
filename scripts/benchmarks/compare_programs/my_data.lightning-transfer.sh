lightning-transfer fit --data my_data.Data --model.network my_network.Network --trainer.max_epochs 3
