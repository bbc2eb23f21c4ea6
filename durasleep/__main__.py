"""``python -m durasleep`` is the ``durasleep`` command."""

from durasleep.cli.app import main

if __name__ == "__main__":
    main()
