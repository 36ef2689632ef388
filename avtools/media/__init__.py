"""Files in and out: probe, decode, encode, resample, cut."""
