"""Parts of the soak test: the runs, the kills, and what the runs leave."""
