"""Lets `python -m ingot` do what the `ingot` command does."""

from .pipeline.cli import main

if __name__ == "__main__":
    main()
