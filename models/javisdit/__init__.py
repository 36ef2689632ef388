"""JavisDiT: sound and video together, from text."""
