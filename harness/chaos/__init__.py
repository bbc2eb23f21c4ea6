"""Chaos: a plan made from a seed breaks workers, server and network; a checker looks at the results."""
