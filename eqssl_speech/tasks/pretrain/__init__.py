"""Pre-training on many data sources, conventionally or under equilibrium constraints."""
