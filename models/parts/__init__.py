"""Networks and codecs that two or more systems share."""
