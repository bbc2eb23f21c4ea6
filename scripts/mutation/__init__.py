"""Mutation testing of our own: each mutant is the code with one small change, and some test should fail by it.

``python_rules`` and ``lua_rules`` make mutants, ``chosen`` says which tests could notice and ``lines`` which of them
come by, ``bench`` runs them side by side in copies of the tree, and ``explained`` knows those no test can notice.
"""
