"""Train a recogniser of spoken commands on your own words, and run it on the device that listens."""

__version__ = "0.1.0"
