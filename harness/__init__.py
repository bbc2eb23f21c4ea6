"""Code that tests, benchmarks and the chaos share: servers, a network that can be broken, workers of another version.

It imports ``durasleep``, but neither ``tests`` nor ``scripts``, and is not part of what users install. It is called a
harness because it holds the product while somebody tests it.
"""
