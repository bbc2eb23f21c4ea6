"""Chaos: workers, server and network are broken by a plan made from a seed; a checker looks at what came of it."""
