"""Each file shows one idea, and a test runs it."""
