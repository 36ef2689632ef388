"""Procedural audio-video clips whose truth is known: what is in them, its sound, its picture, its files."""
