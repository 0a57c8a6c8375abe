"""From files to batches: find, fetch, cache or simulate recordings, then augment and bin them."""
