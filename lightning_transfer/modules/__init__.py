"""LightningModules: a loss, metrics and an optimizer around any network."""
