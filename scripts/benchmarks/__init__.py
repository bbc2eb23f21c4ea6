"""Measures durasleep, each figure on a server of its own: to compare within one run, never a test.

One module a benchmark, each with ``add_arguments`` and ``measure``; what they share is in ``bench`` (the server and
the processes), ``workflows`` (what the worker serves), ``work`` (how much of it, by whom), ``stopwatch``, ``filling``,
``floor``, ``report`` and ``plot``; ``alone`` is the process that ``cpu`` starts.
"""
