"""MAESTRO: a video from several sounds."""
