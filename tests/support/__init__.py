"""Helpers that several tests share: oracles, synthetic recordings, neurons."""
