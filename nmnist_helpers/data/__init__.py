"""From files to batches: recordings found, fetched, cached or simulated, augmented and binned."""
