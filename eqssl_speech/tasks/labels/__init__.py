"""Makes the labels of a corpus: features, clusters, and the nearest of them for each frame."""
