"""Frames in, results out: cameras and files, preprocessing, decoding of outputs, drawing."""
