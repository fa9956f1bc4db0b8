"""How models are stored elsewhere: names of tensors, configurations, and what shapes tell."""
