"""Preparation of public corpora and of anyone's own recordings."""
