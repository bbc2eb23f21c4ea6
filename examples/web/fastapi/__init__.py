"""The shop with FastAPI."""
