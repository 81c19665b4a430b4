"""Metrics: pure functions of images [b,3,h,w] in [0,1]. Definitions first, one file each."""
