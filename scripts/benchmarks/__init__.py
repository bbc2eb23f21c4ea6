"""Measures durasleep, each figure on a server of its own. Compare figures of one run only; this is no test.

Each benchmark is one module with ``add_arguments`` and ``measure``. They share ``bench`` (the server and the
processes), ``workflows`` (the functions of the worker), ``work`` (how much of them, by which worker), ``stopwatch``,
``filling``, ``floor``, ``report`` and ``plot``. ``alone`` is the process that ``cpu`` starts.
"""
