"""Bridges to other tools, each importable alone and each with an extra of its own."""
