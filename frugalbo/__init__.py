"""frugalbo: the best configuration that a budget can buy."""

__version__ = "0.1.0"
