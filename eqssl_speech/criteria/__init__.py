"""What is minimised and measured. Criteria know nothing of data sources, inner loops or optimizers."""
