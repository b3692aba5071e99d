lightning-transfer study --config study.yaml --workers 0 --json
