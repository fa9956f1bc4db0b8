"""CTC fine-tuning of a pre-trained encoder, on one or many languages at once."""
