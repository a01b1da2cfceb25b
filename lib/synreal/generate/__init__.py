"""Text-conditional diffusion: training, sampling, prompts."""
