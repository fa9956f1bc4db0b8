"""fairseq2 recipes: wiring of data, models, criteria and the method."""
