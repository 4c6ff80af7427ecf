"""The scripts and styles of pages, as text."""

from .link import asset, explorer_module, inflating, link, page_module
