"""Weights: known models, fetching them by URL, proving their hash, and keeping them in a cache."""
