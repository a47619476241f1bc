"""Pieces that every output is written with: numbers, markup, pages of text, outlets."""
