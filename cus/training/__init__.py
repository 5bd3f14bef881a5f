"""The training loop and its stages: U-Net, autoencoder, decoder; with their data, state and facts for the card."""
