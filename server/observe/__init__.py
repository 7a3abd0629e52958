"""Who watches: the last events, counts of nodes, logs, recordings, and what is masked in them."""
