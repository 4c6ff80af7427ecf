"""The scripts and styles of pages, as text."""

from .link import asset, explorer_module, link, page_module
