"""Captions, boxes and label maps from the files in which people keep them."""
