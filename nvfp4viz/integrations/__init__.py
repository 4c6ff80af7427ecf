"""Hooks that inference engines load by name."""
