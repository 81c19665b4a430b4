"""Archive containers read in bounded pieces, since what an archive says of itself is never believed.

tar_headers.py and zip_directory.py find the members and where their bytes lie, unpacking.py unpacks a zip's; none knows
images. The parent's shards.py and zips.py make datasets of them.
"""
