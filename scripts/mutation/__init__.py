"""Mutation testing of our own: each mutant is the code with one small change, and some test should fail with it.

``python_rules`` and ``lua_rules`` make mutants. Of Python ``chosen`` says which tests could notice and ``lines`` which
of them come by, and ``bench`` runs them side by side in copies of the tree. Of Lua ``lua_lines`` and ``lua_bench`` do
that. ``explained`` knows those that no test can notice.
"""
