"""Transcripts: how they are written before a model sees them, the labels they become, and what is wrong with them."""
