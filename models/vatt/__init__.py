"""VATT: sound for video, steered by text."""
