"""The shop with Litestar."""
