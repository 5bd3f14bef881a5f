"""Networks: denoising U-Net, autoencoder, image projector and CLIP image tower."""
