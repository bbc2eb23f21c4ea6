"""Chaos: workers, a server and the network are broken by a plan made from a seed; a checker looks at what came of it."""
