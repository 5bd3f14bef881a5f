"""The training loop and its stages: U-Net, autoencoder, decoder; their data, state and published facts."""
