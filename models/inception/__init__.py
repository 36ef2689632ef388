"""Inception v3 as FID has it."""
