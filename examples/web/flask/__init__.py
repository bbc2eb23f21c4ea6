"""The shop with Flask."""
