"""What tests, benchmarks and the chaos share: servers to run on, a network to break, workers of another version.

It stands between the package and those who try it: it imports ``durasleep``, but neither ``tests`` nor ``scripts``,
and no user gets it. It is called a harness because everything here holds the product while somebody tests it.
"""
