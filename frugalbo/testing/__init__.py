"""Conformance suites for the contracts of frugalbo: subclass one to test your own implementation."""
