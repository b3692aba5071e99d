python pytorch-image-models/train.py --data-dir images --device-modules cnn --model my_network --num-classes 10 \
    --input-size 3 32 32 --mean 0.4914 0.4822 0.4465 --std 0.247 0.2435 0.2616 --batch-size 128 --epochs 5 \
    --scale 0.8 1.0 --crop-pct 1 --color-jitter 0 --smoothing 0 --opt adamw --lr 3e-3 --warmup-epochs 1 \
    --workers 1 --device cpu
