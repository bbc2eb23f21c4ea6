"""The same small shop in four web frameworks."""
