lightning-transfer predict --config logs/my_images/version_0/config.yaml --data.predict_path new \
    --ckpt_path logs/my_images/version_0/checkpoints/best.ckpt --output new.csv
