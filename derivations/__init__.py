"""Theories, one short declarative file each; discovered, never registered by hand."""
