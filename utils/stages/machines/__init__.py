"""Which denoiser in closed form a network resembles, over K and t."""
