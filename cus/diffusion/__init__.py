"""Noise schedule, objective, sampler and pipeline of the video diffusion model."""
