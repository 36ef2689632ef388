"""AVSync: how well sound and picture of a 2 s clip are in time, by a learned judge (Zhang et al. 2024, arXiv 2403.05659)."""
