"""Comparisons that give the figures of docs/log.md."""
