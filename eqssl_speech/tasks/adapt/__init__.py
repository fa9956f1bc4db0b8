"""Adaptation: what steps of gradient descent on a source do to a pre-trained model's loss on it."""
