"""Encoded datasets: the posteriors of images in files, written once, read by training and evaluation."""
