"""Helpers that several tests share: oracles, made-up recordings, neurons."""
