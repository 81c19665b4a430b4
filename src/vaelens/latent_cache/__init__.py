"""Encoded datasets: moments of images in files, written once and read by training and evaluation."""
