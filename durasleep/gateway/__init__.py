"""`durasleep serve`: workers and callers in other languages, by HTTP."""
