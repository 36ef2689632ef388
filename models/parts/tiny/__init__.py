"""Small codecs and encoders without weights, so that every preset `tiny` learns without downloads."""
