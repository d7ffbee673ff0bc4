"""Searches a supernet: from objectives to a front, a verified front and its bundle."""
