"""VTA-LDM: sound for silent video by latent diffusion (Xu et al. 2024, arXiv 2407.07464)."""
