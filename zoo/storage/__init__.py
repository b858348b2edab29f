"""Bytes on disk: atomic files, safetensors, tables of entities."""
