"""Images: reading and writing files, value ranges, datasets, and synthetic images with exact labels.

Everywhere outside the networks an image is a float tensor [b,3,h,w] with values in [0,1].
"""
