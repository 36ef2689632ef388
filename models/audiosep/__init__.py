"""AudioSep: the sound that a text describes, taken out of a mixture (Liu et al. 2023, arXiv:2308.05037)."""
