"""Objectives in; a front, a verified front and its bundle out."""
