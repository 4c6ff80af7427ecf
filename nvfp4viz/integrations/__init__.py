"""Hooks that inference engines load by name, and language models of transformers."""

from .huggingface import add_arguments, batches, load_model, run
